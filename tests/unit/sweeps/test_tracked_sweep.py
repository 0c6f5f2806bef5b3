"""What W&B shows of a sweep, and which runs belong to a folder."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sr.config import parse_trial
from sr.ledger import Ledger, State
from sweeps.spec import expand, parse_sweep
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep
from sweeps.tracked_sweep import RunsOf, TrackedSweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    data = {
        "name": "test",
        "trial": {"data": {"path": "nowhere"}},
        "parameters": {"loss": ["l1", "mse"], "optimizer.learning_rate": [0.1, 0.2]},
    }
    config = parse_sweep(data, where="test")
    sweep = Sweep(
        config, list(expand(config)), SweepFolder(tmp_path / "sweeps" / "test-1"), "srloss sweep test.yaml"
    )
    for trial in sweep.trials:
        sweep.ledger(trial).create(trial.config, command="test")
    write_plan(sweep, len(sweep.trials) - 1)
    return sweep


def write_plan(sweep: Sweep, count: int, *, created: str = "now") -> None:
    trials = [[trial.trial_id, trial.candidate, trial.variant] for trial in sweep.trials[:count]]
    path = sweep.folder.path / "plan.json"
    before = path.stat().st_mtime_ns if path.exists() else 0
    plan = {"sweep": sweep.config.model_dump(mode="json"), "trials": trials}
    plan |= {"command": sweep.command, "created": created}
    sweep.folder.write_plan(plan)
    os.utime(path, ns=(before + 1, before + 1))


def ranked(loss: str, psnr: float) -> dict[str, Any]:
    over = {"mean": psnr - 28, "low": 0.5, "high": 2.5, "p_adjusted": 0.01, "num": 3}
    return {
        "loss": loss,
        "trials": ["a", "b"],
        "scores": {"psnr_y": psnr, "lpips": 0.25},
        "over_bicubic": {"psnr_y": over},
        "to_best": {},
    }


def verdict(*ranking: dict[str, Any], sentence: str = "l1 is best") -> dict[str, Any]:
    return {
        "verdict": sentence,
        "caveats": ["one", "two"],
        "clips": 3,
        "ranking": list(ranking),
        "bicubic": None,
    }


def set_states(sweep: Sweep, *states: State) -> None:
    for trial, state in zip(sweep.trials, states, strict=False):
        ledger = sweep.ledger(trial)
        ledger.set_status(replace(ledger.status(), state=state))


def test_a_verdict_is_a_row_with_its_table_report_and_references(sweep: Sweep) -> None:
    tracked = TrackedSweep(sweep.folder)
    assert list(tracked.new_rows()) == []
    sweep.folder.report.write_text("<html>")
    for kind in ("hr", "lr", "crops"):
        (sweep.folder.path / "baseline" / "bicubic" / kind).mkdir(parents=True)
        (sweep.folder.path / "baseline" / "bicubic" / kind / "clip.png").touch()
    sweep.folder.add_verdict(verdict(ranked("l1", 30.0), ranked("mse", 29.0)))
    (row,) = tracked.new_rows()
    assert row.scalars == {"verdict/number": 0, "verdict/losses": 2, "verdict/clips": 3}
    table = row.tables["verdict/table"]
    assert table.columns == (
        "loss", "seeds",
        "psnr_y", "psnr_y over bicubic", "psnr_y low", "psnr_y high", "psnr_y p (Holm)",
        "lpips", "lpips over bicubic", "lpips low", "lpips high", "lpips p (Holm)",
    )  # fmt: skip
    assert table.rows[0] == ("l1", 2, 30.0, 2.0, 0.5, 2.5, 0.01, 0.25, None, None, None, None)
    assert [values[0] for values in table.rows] == ["l1", "mse"]
    assert row.pages == {"verdict/report": sweep.folder.report}
    assert {name: [one.path.parent.name for one in shown] for name, shown in row.pictures.items()} == {
        "reference/hr": ["hr"],
        "reference/lr": ["lr"],
        "reference/bicubic": ["crops"],
    }
    assert list(tracked.new_rows()) == []


def test_a_sweep_that_is_resumed_gets_a_row_for_its_second_verdict(sweep: Sweep) -> None:
    tracked = TrackedSweep(sweep.folder)
    sweep.folder.add_verdict(verdict(ranked("l1", 30.0)))
    assert len(list(tracked.new_rows())) == 1
    # The same again is none; also where a score is not defined.
    sweep.folder.add_verdict(verdict(ranked("l1", 30.0)))
    assert list(tracked.new_rows()) == []
    for _ in range(2):
        sweep.folder.add_verdict(verdict(ranked("l1", math.nan), sentence="nobody knows"))
    (row,) = tracked.new_rows()
    assert row.scalars["verdict/number"] == 1
    assert [len(each) for each in tracked.versions()] == [1, 1]
    assert tracked.versions()[1][0].scalars["verdict/number"] == 1
    assert tracked.summary()["verdict/sentence"] == "nobody knows"


def test_a_verdict_without_any_loss_is_a_row_too(sweep: Sweep) -> None:
    sweep.folder.add_verdict(verdict(sentence="nothing was measured"))
    tracked = TrackedSweep(sweep.folder)
    (row,) = tracked.new_rows()
    assert (row.tables["verdict/table"].rows, row.pages) == ((), {})
    assert "verdict/best" not in tracked.summary()


def test_the_summary_counts_trials_and_gives_the_answer(sweep: Sweep) -> None:
    set_states(sweep, State.FINISHED, State.FAILED)
    tracked = TrackedSweep(sweep.folder)
    assert tracked.summary() == {"trials/finished": 1, "trials/failed": 1, "trials/pending": 1}
    sweep.folder.add_verdict(verdict(ranked("l1", 30.0)))
    assert tracked.summary() == {
        "trials/finished": 1,
        "trials/failed": 1,
        "trials/pending": 1,
        "verdict/sentence": "l1 is best",
        "verdict/caveats": "one\ntwo",
        "verdict/best": "l1",
    }
    config = tracked.config()
    assert (config["name"], config["sweep_id"], config["command"]) == (
        "test",
        "test-1",
        "srloss sweep test.yaml",
    )


@pytest.mark.parametrize(
    ("states", "has_verdict", "code"),
    [
        ([State.FINISHED, State.FINISHED, State.RUNNING], True, None),
        ([State.FINISHED, State.FINISHED, State.STOPPED_EARLY], False, None),
        ([State.FINISHED, State.FAILED, State.CANCELLED], True, 0),
        ([State.FAILED, State.FAILED, State.CANCELLED], True, 1),
    ],
)
def test_the_sweep_is_over_with_its_trials_and_a_verdict(
    sweep: Sweep, states: list[State], *, has_verdict: bool, code: int | None
) -> None:
    set_states(sweep, *states)
    if has_verdict:
        sweep.folder.add_verdict(verdict())
    assert TrackedSweep(sweep.folder).exit_code() == code


def test_the_runs_of_a_sweep_are_its_trials_and_its_own(sweep: Sweep) -> None:
    runs = RunsOf(sweep.folder.path)
    found = runs()
    planned = sweep.trials[:-1]
    assert [one.key for one in found] == [*(trial.trial_id for trial in planned), "test-1"]
    # The same trial in another sweep, or in this one made anew, is another run.
    (salt,) = {one.run_id.removeprefix(f"{one.key}-") for one in found}
    write_plan(sweep, 3, created="later")
    assert not {one.run_id for one in found} & {one.run_id for one in RunsOf(sweep.folder.path)()}
    assert len(salt) == 4
    assert [one.job_type for one in found] == ["train"] * 3 + ["sweep"]
    assert {one.group for one in found} == {"test-1"}
    assert found[0].config()["candidate"] == planned[0].candidate
    assert found[0].config()["settings"] == f"{planned[0].variant}, seed=0"
    assert found[0].name == f"{planned[0].candidate} {planned[0].variant}, seed=0"
    assert runs.first_config() == sweep.ledger(planned[0]).folder / "config.yaml"
    assert runs.root == sweep.folder.path
    # They remember what they have given.
    assert runs()[0] is found[0]


def test_trials_that_a_search_adds_appear(sweep: Sweep) -> None:
    runs = RunsOf(sweep.folder.path)
    before = runs()
    write_plan(sweep, len(sweep.trials))
    assert {one.key for one in runs()} - {one.key for one in before} == {sweep.trials[-1].trial_id}
    assert set(map(id, before)) < set(map(id, runs()))


def test_a_trial_of_a_sweep_is_its_only_run_with_what_the_sweep_calls_it(sweep: Sweep) -> None:
    trial = sweep.trials[1]
    folder = sweep.ledger(trial).folder
    runs = RunsOf(folder)
    (one,) = runs()
    assert (one.key, one.group, runs.root) == (trial.trial_id, "test-1", sweep.folder.path)
    assert one.name == f"{trial.candidate} {trial.variant}, seed=0"
    assert runs.first_config() == folder / "config.yaml"


@pytest.mark.parametrize("is_relative", [False, True])
def test_a_trial_without_a_sweep_is_its_own_only_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_relative: bool
) -> None:
    folder = tmp_path / "trials" / "0123456789"
    Ledger(folder).create(parse_trial({"data": {"path": "x"}, "loss": "l1"}), command="test")
    monkeypatch.chdir(folder)
    runs = RunsOf(Path(".") if is_relative else folder)
    (one,) = runs()
    assert (one.key, one.name, one.group) == ("0123456789", "l1 seed=0", "")
    assert (runs.root, runs.sweep) == (folder, None)
    assert runs()[0] is one


def test_a_verdict_is_kept_as_text_that_can_be_read(sweep: Sweep) -> None:
    sweep.folder.add_verdict(verdict(sentence="損失\nä"))
    (line,) = (sweep.folder.path / "verdicts.jsonl").read_text().splitlines()
    assert json.loads(line) == sweep.folder.verdicts()[0] == verdict(sentence="損失\nä")
