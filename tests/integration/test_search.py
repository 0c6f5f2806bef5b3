"""Searches that learn, and populations, on a real, embedded Ray."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from sr import checkpoint
from sr.ledger import Ledger, State
from sr.train import train
from sr.world import single_process
from sweeps import driver
from sweeps.cli.follow import Follow
from sweeps.cli.show import say
from sweeps.spec import parse_sweep
from sweeps.sweep import Sweep, create, reopen
from sweeps.syncing import verify_offline
from sweeps.tracking import fed
from sweeps.verdict import draw
from tests.conftest import tiny_trial
from tests.one_ray import one_ray

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    """One Ray for all sweeps of this process, which evaluates by itself."""
    with one_ray():
        yield


def make(photos: Path, store: Path, **changes: Any) -> Sweep:
    data = {"name": "test", "trial": tiny_trial(photos), "memory_gb_per_rank": 0.5, **changes}
    return create(parse_sweep(data, where="test"), store=store, command="srloss sweep test.yaml")


def run(sweep: Sweep) -> Sweep:
    with Follow(sweep) as follow:
        driver.run(sweep, progress=follow)
    return sweep


def value(sweep: Sweep, trial: Any) -> float:
    return sweep.ledger(trial).rows("validation")[-1]["val/psnr_y"]


def newest(ledger: Ledger) -> dict[str, Any]:
    path = checkpoint.newest_path(ledger.checkpoints)
    assert path is not None
    return checkpoint.load(path)


BAYES: dict[str, Any] = {
    "method": "bayes",
    "run_cap": 8,
    "parameters": {
        "loss": ["l1", "mse"],
        "optimizer.learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 3.0},
    },
}


@pytest.fixture(scope="module")
def searched(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two losses, each with three learning rates drawn at random and one chosen."""
    trial = tiny_trial(photos, tracking={"wandb": "offline"})
    sweep = make(photos, tmp_path_factory.mktemp("store"), **BAYES, trial=trial)
    with fed(sweep.folder.path, sweep.trials[0].config.tracking, say=say):
        return run(sweep)


def test_every_loss_gets_an_equal_share(searched: Sweep) -> None:
    assert Counter(trial.candidate for trial in searched.with_state(State.FINISHED)) == {"l1": 4, "mse": 4}
    assert reopen(searched.folder).trials == searched.trials
    assert [len(searched.folder.read_plan()[key]) for key in ("trials", "suggestions")] == [8, 2]
    drawn = [trial.config.optimizer.learning_rate for trial in searched.trials[:6]]
    assert drawn[0::2] == drawn[1::2]


def test_trials_that_came_later_are_judged_shown_and_tracked_too(searched: Sweep) -> None:
    assert not searched.unevaluated()
    runs = [run for run in verify_offline(searched.folder.path) if not run.name.startswith("sweep")]
    assert [run for run in runs if not run.is_sound] == []
    assert len(runs) == 8
    verdict = draw(searched)
    for candidate in verdict.ranking:
        own = [trial for trial in searched.trials if trial.candidate == candidate.name]
        assert candidate.trials[0] == max(own, key=lambda trial: value(searched, trial))


POPULATION: dict[str, Any] = {
    "parameters": {"loss": ["l1", "mse"], "optimizer.learning_rate": [1e-6, 1e-5, 1e-3, 2e-3]},
    "population": {"perturb_every": 4, "parameters": {"optimizer.learning_rate": {}}},
}


def with_all_checkpoints(photos: Path) -> dict[str, Any]:
    trial: dict[str, Any] = tiny_trial(photos)
    return trial | {"training": trial["training"] | {"keep_checkpoints": 10}}


@pytest.fixture(scope="module")
def population(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two losses with four trials each, and two rounds."""
    return run(
        make(photos, tmp_path_factory.mktemp("store"), **POPULATION, trial=with_all_checkpoints(photos))
    )


def test_the_worst_goes_on_from_the_best_of_its_own_loss(population: Sweep) -> None:
    assert len(population.with_state(State.FINISHED)) == 8
    by_id = {trial.trial_id: trial for trial in population.trials}
    rounds: Counter[tuple[str, int]] = Counter()
    for trial in population.trials:
        ledger = population.ledger(trial)
        assert [row["step"] for row in ledger.rows("judged")] == [4, 8]
        for row in ledger.rows("perturbation"):
            donor = by_id[row["from_trial"]]
            rounds[trial.candidate, row["step"]] += 1
            assert donor.candidate == trial.candidate
            judged = {r["step"]: r["place"] for r in population.ledger(donor).rows("judged")}
            assert judged[row["step"]] == 1
            assert ledger.config().optimizer.learning_rate != trial.config.optimizer.learning_rate
            mine, theirs = (
                population.ledger(t).checkpoints / f"step-{row['step']:08d}.pt" for t in (trial, donor)
            )
            assert mine.read_bytes() == theirs.read_bytes()
    assert rounds == {(loss, step): 1 for loss in ("l1", "mse") for step in (4, 8)}


def test_a_perturbed_trial_is_exactly_its_donor_with_another_rate(population: Sweep, tmp_path: Path) -> None:
    trial = next(t for t in population.trials if population.ledger(t).rows("perturbation"))
    ledger = population.ledger(trial)
    row = ledger.rows("perturbation")[-1]
    assert ledger.config().optimizer.learning_rate == row["changes"]["optimizer.learning_rate"]
    repeated = Ledger(tmp_path / "repeated")
    repeated.create(ledger.config(), command="none")
    repeated.checkpoints.mkdir()
    checkpoint.copy(
        population.folder.trial(row["from_trial"]).checkpoints, repeated.checkpoints, step=row["step"]
    )
    train(repeated.config(), world=single_process("cpu"), ledger=repeated)
    ends = [newest(one) for one in (ledger, repeated)]
    assert ends[0]["step"] == ends[1]["step"] == 12
    for name, tensor in ends[0]["ema"].items():
        assert torch.equal(tensor, ends[1]["ema"][name])
    assert ends[0]["stream"] == ends[1]["stream"]


def test_a_perturbed_trial_never_falls_back_to_before(population: Sweep, tmp_path: Path) -> None:
    trial = next(t for t in population.trials if population.ledger(t).rows("perturbation"))
    copy = Ledger(tmp_path / "copy")
    shutil.copytree(population.ledger(trial).folder, copy.folder)
    step = copy.rows("perturbation")[-1]["step"]
    for path in copy.checkpoints.glob("step-*.pt"):
        if int(path.stem.removeprefix("step-")) >= step:
            path.unlink()
    with pytest.raises(ValueError, match=f"no sound checkpoint since .* at step {step}"):
        train(copy.config(), world=single_process("cpu"), ledger=copy)


def test_one_trial_stands_for_a_population(population: Sweep) -> None:
    verdict = draw(population)
    for candidate in verdict.ranking:
        own = [trial for trial in population.trials if trial.candidate == candidate.name]
        assert candidate.trials == (max(own, key=lambda trial: value(population, trial)),)
    assert any("population" in caveat for caveat in verdict.caveats)


@pytest.mark.slow
def test_trials_of_two_ranks_can_be_a_population(photos: Path, tmp_path: Path) -> None:
    parameters = {"loss": ["l1"], "optimizer.learning_rate": [1e-5, 2e-3]}
    trial = with_all_checkpoints(photos)
    sweep = run(
        make(photos, tmp_path, **{**POPULATION, "parameters": parameters, "trial": trial, "ranks": 2})
    )
    assert len(sweep.with_state(State.FINISHED)) == 2
    rows = [(t, row) for t in sweep.trials for row in sweep.ledger(t).rows("perturbation")]
    assert [row["step"] for _, row in sorted(rows, key=lambda pair: pair[1]["step"])] == [4, 8]
    for trial_, row in rows:
        file = f"step-{row['step']:08d}.pt"
        donor = sweep.folder.trial(row["from_trial"])
        assert (sweep.ledger(trial_).checkpoints / file).read_bytes() == (
            donor.checkpoints / file
        ).read_bytes()
    attempts = [row for t in sweep.trials for row in sweep.ledger(t).rows("attempt")]
    assert {row["ranks"] for row in attempts} == {2}


def test_hopeless_suggestions_of_two_ranks_end_early_and_are_learnt_from(
    photos: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        **BAYES,
        "run_cap": 6,
        "ranks": 2,
        "parameters": BAYES["parameters"] | {"loss": ["l1"]},
        "early_terminate": {"type": "asha", "min_steps": 4, "reduction_factor": 2},
    }
    sweep = run(make(photos, tmp_path, **changes))
    states = Counter(sweep.ledger(trial).status().state for trial in sweep.trials)
    assert states[State.STOPPED_EARLY] >= 1
    assert states[State.FINISHED] >= 1
    assert states.total() == 6
    for trial in sweep.with_state(State.STOPPED_EARLY):
        assert "the trial was stopped" in (sweep.ledger(trial).folder / "log-rank1.txt").read_text()
    deadline = time.monotonic() + 30
    while trial_processes(os.getpid()):
        assert time.monotonic() < deadline, "a rank outlived its sweep"
        time.sleep(0.2)


def trial_processes(driver_pid: int) -> list[psutil.Process]:
    """Ray's processes below a driver that train."""
    found = []
    for process in psutil.Process(driver_pid).children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith(("ray::ImplicitFunc", "ray::Peer")):
                found.append(process)
    return found


CONTINUE = """
import sys
from pathlib import Path
from sweeps import driver
from sweeps.cli.follow import Follow
from sweeps.store import SweepFolder
from sweeps.sweep import reopen

driver.this_machine = lambda: tune.Machines(cpus=2, gpus=0, memory_bytes=8e9)
driver._evaluate = lambda *_: None
sweep = reopen(SweepFolder(Path(sys.argv[1])))
with Follow(sweep) as follow:
    driver.run(sweep, progress=follow)
"""
"""A driver that leaves the evaluation out."""


def fate(sweep: Sweep) -> dict[str, Any]:
    """What must not depend on interruptions: weights, and what the ledgers say without times and attempts."""
    fates = {}
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        state = newest(ledger)
        digest = hashlib.sha256()
        for name, tensor in state["ema"].items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        rows = {
            kind: [
                {k: v for k, v in row.items() if k not in ("attempt", "seconds")} for row in ledger.rows(kind)
            ]
            for kind in ("validation", "perturbation", "judged")
        }
        fates[trial.trial_id] = (digest.hexdigest(), json.dumps(rows))
    return fates


def continued(sweep: Sweep, kill_at: int | None) -> int:
    """Runs a sweep in a process of its own, killed once its trials have so many validations; its exit code."""
    command = [sys.executable, "-c", CONTINUE, str(sweep.folder.path)]
    with (sweep.folder.path.parents[1] / "output.txt").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        while process.poll() is None:
            ledgers = sweep.folder.path.glob("trials/*/metrics.jsonl")
            rows = sum(path.read_text().count('"kind": "validation"') for path in ledgers)
            if kill_at is not None and rows >= kill_at:
                for child in trial_processes(process.pid):
                    with contextlib.suppress(psutil.Error):
                        child.kill()
                break
            time.sleep(0.05)
    finally:
        # Also where this test is at its end before the sweep.
        process.kill()
    return process.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
# The last kill is in a later round, or when a suggestion has been made.
@pytest.mark.parametrize(("kind", "kill_at"), [("population", (2, 11)), ("search", (2, 19))])
def test_a_killed_and_continued_sweep_comes_to_the_same(
    kind: str, kill_at: tuple[int, int], request: pytest.FixtureRequest, photos: Path, tmp_path: Path
) -> None:
    undisturbed = request.getfixturevalue({"population": "population", "search": "searched"}[kind])
    changes = BAYES if kind == "search" else {**POPULATION, "trial": with_all_checkpoints(photos)}
    sweep = make(photos, tmp_path, **changes)
    assert [continued(sweep, rows) for rows in kill_at] == [-signal.SIGKILL] * 2
    if kind == "search":
        assert sweep.folder.read_plan()["suggestions"]
    assert continued(sweep, None) == 0, (tmp_path / "output.txt").read_text()
    assert fate(reopen(sweep.folder)) == fate(undisturbed)
