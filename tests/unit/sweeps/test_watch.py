"""What whoever follows a sweep or a trial is told about its problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sr import checkpoint
from sr.config import parse_trial
from sr.ledger import Ledger, State, Status
from sweeps import jobs
from sweeps.cli.follow import Follow
from sweeps.deaths import survived, write_death
from sweeps.interrupt import Interruption
from sweeps.spec import expand, parse_sweep
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep
from sweeps.watch import SweepWatch


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    data = {"name": "test", "trial": {"data": {"path": "nowhere"}}, "parameters": {"loss": ["l1", "mse"]}}
    config = parse_sweep(data, where="test")
    sweep = Sweep(config, list(expand(config)), SweepFolder(tmp_path / "sweeps" / "test-1"), "test")
    for trial in sweep.trials:
        sweep.ledger(trial).create(trial.config, command="test")
    return sweep


def test_each_problem_that_a_trial_survives_is_told_once_with_its_name(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = sweep.trials[1]
    ledger = sweep.ledger(trial)
    ledger.append({"kind": "problem", "step": 0, "problem": "told by an earlier run"})
    watch = SweepWatch(sweep, Follow(sweep), sweep.trials, Interruption(30))

    def told() -> list[str]:
        return [line for line in capsys.readouterr().out.splitlines() if "warning" in line]

    name = f"  {trial.candidate} {trial.settings}: warning: "
    metrics = {"step": 4, sweep.config.metric.name: 30.0}
    for problem in ("the disk is full", "the disk is full still"):
        ledger.append({"kind": "problem", "step": 4, "problem": problem})
    watch.validated(trial.trial_id, metrics)
    assert told() == [f"{name}the disk is full", f"{name}the disk is full still"]
    watch.validated(trial.trial_id, metrics)
    assert told() == []
    ledger.append({"kind": "problem", "step": 8, "problem": "damaged"})
    write_death(ledger, "its process died")
    watch.died(trial.trial_id, is_final=False, hint="")
    assert told() == [f"{name}damaged"]
    ledger.append({"kind": "problem", "step": 8, "problem": "damaged again"})
    ledger.set_status(Status(State.FINISHED, "all 8 steps", step=8))
    watch.ended(trial.trial_id)
    assert told() == [f"{name}damaged again"]


def test_an_evaluation_that_passes_over_a_damaged_checkpoint_says_so(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse_trial(tiny)
    ledger = Ledger(tmp_path / "trial")
    ledger.create(config, command="test")
    assert jobs.run_train(ledger.folder, engine=config.engine) == jobs.OK
    assert "warning" not in capsys.readouterr().out
    newest = checkpoint.newest_path(ledger.checkpoints)
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[:-100])
    assert jobs.run_train(ledger.folder, engine=config.engine) == jobs.OK
    (problem,) = survived(ledger)
    assert f"evaluation: checkpoint {newest}: damaged" in problem
    assert f"  warning: {problem}\n" in capsys.readouterr().out
