"""Sweeps on a real, embedded Ray: failures beside successes, early stopping, and what is left on disk."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sr.ledger import Ledger, State, Status
from sr.lock import exclusive
from sweeps import driver, jobs
from sweeps.cli.follow import Follow
from sweeps.cli.show import say
from sweeps.evaluation import mark_stopped_early
from sweeps.report.build import write_report
from sweeps.spec import PlannedTrial, parse_sweep
from sweeps.sweep import Sweep, create
from sweeps.syncing import verify_offline
from sweeps.tracking import fed
from sweeps.verdict import draw
from tests.conftest import tiny_trial
from tests.one_ray import one_ray

pytestmark = pytest.mark.timeout(240)


def make(photos: Path, store: Path, **changes: Any) -> Sweep:
    data = {
        "name": "test",
        "parameters": {"loss": ["l1", "mse"], "seed": [0, 1]},
        "trial": tiny_trial(photos),
    }
    return create(
        parse_sweep({**data, "memory_gb_per_rank": 0.5, **changes}, where="test"),
        store=store,
        command="test",
    )


def run(sweep: Sweep) -> Sweep:
    with Follow(sweep) as follow:
        driver.run(sweep, progress=follow)
    return sweep


@pytest.fixture(scope="module")
def ray_here(half_failing: Sweep) -> Iterator[None]:
    """One Ray for the sweeps that need none of their own; one sweep before has shown that and how they start one."""
    assert half_failing.folder.path.exists()
    with one_ray():
        yield


@pytest.fixture(scope="module")
def half_failing(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two losses, two seeds; the larger of the two learning rates cannot but diverge."""
    parameters = {"loss": ["l1", "mse"], "seed": [0, 1], "optimizer.learning_rate": [1e-3, 1e30]}
    trial = tiny_trial(photos, tracking={"wandb": "offline"})
    sweep = make(photos, tmp_path_factory.mktemp("store"), parameters=parameters, trial=trial)
    with fed(sweep.folder.path, sweep.trials[0].config.tracking, say=say):
        return run(sweep)


def test_failures_hide_no_other_trial_and_name_their_cause(half_failing: Sweep) -> None:
    failed = half_failing.with_state(State.FAILED)
    finished = half_failing.with_state(State.FINISHED)
    assert {trial.config.optimizer.learning_rate for trial in failed} == {1e30}
    assert {trial.config.optimizer.learning_rate for trial in finished} == {1e-3}
    assert (len(failed), len(finished)) == (4, 4)
    for trial in failed:
        ledger = half_failing.ledger(trial)
        assert f"({trial.candidate}=" in ledger.status().reason or "gradient" in ledger.status().reason
        assert "TrialDivergedError" in ledger.log_path.read_text()


def test_a_failure_of_the_trial_itself_is_not_tried_again(half_failing: Sweep) -> None:
    assert {half_failing.ledger(trial).status().attempt for trial in half_failing.trials} == {1}


def test_conclusion_names_the_failures_and_returns_3(
    half_failing: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs.conclude(half_failing) == jobs.SOME_TRIALS_FAILED
    text = capsys.readouterr().out
    assert text.count("failed: ") == 4
    assert "log.txt" in text
    assert "srloss sweep --resume" in text
    assert "4 of 8 trials failed" in text


def test_the_verdict_ranks_what_finished_and_says_what_did_not(half_failing: Sweep) -> None:
    verdict = draw(half_failing)
    assert {candidate.name for candidate in verdict.ranking} == {"l1", "mse"}
    assert all(len(candidate.trials) == 2 for candidate in verdict.ranking)
    assert any("4 of 8 trials failed" in caveat for caveat in verdict.caveats)
    assert verdict.num_sources == 3


def test_compared_trials_of_one_seed_saw_one_stream(half_failing: Sweep) -> None:
    hashes: dict[int, set[str]] = {}
    for trial in half_failing.with_state(State.FINISHED):
        hashes.setdefault(trial.config.seed, set()).add(half_failing.ledger(trial).status().stream_hash)
    assert [len(values) for values in hashes.values()] == [1, 1]
    assert hashes[0] != hashes[1]


def test_every_trial_is_a_wandb_run_with_every_row_once(half_failing: Sweep) -> None:
    runs = {run.name: run for run in verify_offline(half_failing.folder.path)}
    finished = half_failing.with_state(State.FINISHED)
    for trial in finished:
        verified = runs[f"{trial.candidate} {trial.settings}"]
        assert verified.is_sound, verified
        # 6 rows of training, 3 of validation, 1 of evaluation
        assert verified.rows == 10
    assert len(finished) == 4


def test_a_row_that_wandb_lacks_is_noticed(half_failing: Sweep, tmp_path: Path) -> None:
    copy = tmp_path / half_failing.folder.sweep_id
    shutil.copytree(half_failing.folder.path, copy, symlinks=True)
    trial = half_failing.with_state(State.FINISHED)[0]
    row = {"kind": "train", "step": 999, "samples": 0, "seconds": 0.0, "loss": 0.0}
    Ledger(copy / "trials" / trial.trial_id).append(row)
    name = f"{trial.candidate} {trial.settings}"
    (verified,) = [run for run in verify_offline(copy) if run.name == name]
    assert (verified.expected_rows, verified.is_sound) == (11, False)


def test_the_report_shows_every_trial_and_the_failures(half_failing: Sweep) -> None:
    write_report(half_failing, half_failing.folder.report)
    page = half_failing.folder.report.read_text()
    for trial in half_failing.trials:
        assert trial.trial_id in page
    assert page.count("before the optimizer update") >= 4
    assert len(page) < 5e6


def test_the_same_sweep_again_is_refused_with_the_way_on(half_failing: Sweep, photos: Path) -> None:
    parameters = {"loss": ["l1", "mse"], "seed": [0, 1], "optimizer.learning_rate": [1e-3, 1e30]}
    store = half_failing.folder.path.parent.parent
    with pytest.raises(ValueError, match=r"4 of 8 trials finished. Continue it with: srloss sweep --resume"):
        make(photos, store, parameters=parameters)


@pytest.mark.usefixtures("ray_here")
def test_asha_ends_the_worse_early_and_the_rest_in_full(photos: Path, tmp_path: Path) -> None:
    training = {
        "steps": 32,
        "global_batch_size": 2,
        "validate_every": 4,
        "checkpoint_every": 100,
        "log_every": 4,
    }
    # One after the other, the useful first: what the later ones are measured against does not depend on timing.
    parameters = {"loss": ["l1"], "seed": [0], "optimizer.learning_rate": [3e-3, 1e-3, 2.0, 3.0]}
    trial = {**tiny_trial(photos), "training": training}
    asha = {"type": "asha", "min_steps": 4, "reduction_factor": 2}
    sweep = run(
        make(
            photos,
            tmp_path,
            parameters=parameters,
            trial=trial,
            early_terminate=asha,
            max_concurrent_trials=1,
        )
    )
    stopped = sweep.with_state(State.STOPPED_EARLY)
    finished = sweep.with_state(State.FINISHED)
    assert {t.config.optimizer.learning_rate for t in stopped} >= {2.0, 3.0}
    assert finished
    assert len(stopped) + len(finished) == 4
    assert all(sweep.ledger(t).status().step < 32 for t in stopped)
    assert all("stopped early by ASHA at step" in sweep.ledger(t).status().reason for t in stopped)
    assert all(sweep.ledger(t).status().step == 32 for t in finished)
    verdict = draw(sweep)
    assert all(t in finished for candidate in verdict.ranking for t in candidate.trials)


def test_the_last_words_of_a_stopped_trial_do_not_undo_its_end(half_failing: Sweep, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "stopping")
    shutil.copytree(half_failing.ledger(half_failing.trials[0]).folder, ledger.folder)
    held = threading.Event()

    def save_slowly() -> None:
        with exclusive(ledger.folder, timeout_s=1, what="this trial is being trained"):
            held.set()
            time.sleep(0.5)
            ledger.set_status(Status(State.PENDING, "stopped at step 4", step=4))

    saving = threading.Thread(target=save_slowly)
    saving.start()
    held.wait()
    mark_stopped_early(ledger)
    saving.join()
    assert ledger.status().state is State.STOPPED_EARLY
    assert ledger.status().reason == "stopped early by ASHA at step 4"


@pytest.mark.usefixtures("ray_here")
def test_a_trial_whose_process_dies_too_often_fails_and_the_others_go_on(
    photos: Path, tmp_path: Path
) -> None:
    training = {
        "steps": 60,
        "global_batch_size": 2,
        "validate_every": 10,
        "checkpoint_every": 10,
        "log_every": 10,
    }
    trial = {**tiny_trial(photos), "training": training}
    parameters = {"loss": ["l1", "mse"], "seed": [0]}
    sweep = make(
        photos, tmp_path, parameters=parameters, trial=trial, max_failures=0, max_concurrent_trials=1
    )
    victims: list[int] = []

    class KillFirst(Follow):
        def validated(self, trial: PlannedTrial, metrics: dict[str, Any]) -> None:
            if not victims:
                processes = psutil.Process().children(recursive=True)
                victims.extend(p.pid for p in processes if "ImplicitFunc" in " ".join(p.cmdline()))
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
            super().validated(trial, metrics)

    with KillFirst(sweep) as follow:
        driver.run(sweep, progress=follow)
    first, second = (sweep.ledger(trial).status() for trial in sweep.trials)
    assert victims
    assert first.state is State.FAILED
    assert "ended from outside 1 time, the last time: its process died after step" in first.reason
    assert "memory_gb_per_rank" in first.reason
    assert second.state is State.FINISHED
