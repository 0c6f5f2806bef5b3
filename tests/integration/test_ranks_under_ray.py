"""Trials of two ranks on a real Ray: whatever is killed, the sweep ends as the undisturbed one."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from shards import manifest
from sr import checkpoint
from sr.ledger import Ledger, State
from sweeps import driver, tune
from sweeps.cli.follow import Follow
from sweeps.deaths import deaths
from sweeps.spec import parse_sweep
from sweeps.sweep import Sweep, create
from tests.conftest import OF_THE_MACHINE, tiny_trial

pytestmark = pytest.mark.timeout(240)

TRAINING = {
    "steps": 240,
    "global_batch_size": 2,
    "validate_every": 80,
    "checkpoint_every": 20,
    "log_every": 5,
}
SHORT = {"steps": 12, "global_batch_size": 2, "validate_every": 6, "checkpoint_every": 6, "log_every": 2}
ONE = {"loss": ["l1"], "seed": [0]}


MACHINES = tune.Machines(cpus=4, gpus=0, memory_bytes=8e9)
"""Room for two trials of two ranks, whatever this machine has."""


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray for all tests, for which `driver.run` leaves out starting its own, and the evaluation."""
    with pytest.MonkeyPatch.context() as patch, tune.embedded_ray(cpus=int(MACHINES.cpus), gpus=0):
        patch.setattr(tune, "embedded_ray", lambda **_: nullcontext(MACHINES))
        patch.setattr(driver, "this_machine", lambda: MACHINES)
        patch.setattr(driver, "_evaluate", lambda *_: None)
        yield


def make(photos: Path, store: Path, *, timeout_s: float = 60, **changes: Any) -> Sweep:
    trial = {
        **tiny_trial(photos),
        "training": TRAINING,
        "engine": {"timeout_s": timeout_s},
        "tracking": {"wandb": "disabled"},
        **changes.pop("trial", {}),
    }
    data = {
        "name": "test",
        "ranks": 2,
        "parameters": ONE,
        "trial": trial,
        "memory_gb_per_rank": 0.5,
        **changes,
    }
    return create(parse_sweep(data, where="test"), store=store, command="test")


def train(sweep: Sweep, **options: Any) -> Sweep:
    with Follow(sweep) as follow:
        driver.run(sweep, progress=follow, **options)
    return sweep


def processes(name: str) -> list[psutil.Process]:
    """Ray's worker processes of this name below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[0].startswith(f"ray::{name}"):
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


PEER, FIRST = "Peer", "ImplicitFunc"


def steps_done(ledger: Ledger) -> int:
    rows = ledger.rows("train")
    return rows[-1]["step"] if rows else 0


class Trouble(threading.Thread):
    """Does something to the sweep's processes once one of its trials has come to a step."""

    def __init__(self, sweep: Sweep, what: Callable[[], None], *, at_step: int = 60, number: int = 0) -> None:
        super().__init__(daemon=True)
        self._ledger = sweep.ledger(sweep.trials[number])
        self._what = what
        self._at_step = at_step
        self.is_done = False
        self.start()

    def run(self) -> None:
        while steps_done(self._ledger) < self._at_step:
            time.sleep(0.02)
        self._what()
        self.is_done = True


def send(name: str, number: signal.Signals, victims: list[psutil.Process]) -> Callable[[], None]:
    def act() -> None:
        victims.extend(processes(name))
        for victim in victims:
            victim.send_signal(number)

    return act


def result(sweep: Sweep) -> dict[str, Any]:
    """What must be equal, bit by bit: final weights, and the ledger's final reading."""
    found = {}
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        newest = checkpoint.newest_path(ledger.checkpoints)
        assert newest is not None
        state = checkpoint.load(newest)
        rows = {
            kind: [
                {key: value for key, value in row.items() if key not in OF_THE_MACHINE}
                for row in ledger.rows(kind)
            ]
            for kind in ("train", "validation")
        }
        found[trial.trial_id] = {
            "step": state["step"],
            "engine": state["engine"],
            "ema": state["ema"],
            "rows": rows,
        }
    return found


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def problems(sweep: Sweep) -> list[str]:
    return [text for trial in sweep.trials for text in deaths(sweep.ledger(trial))]


@pytest.fixture(scope="module")
def undisturbed(ray_here: None, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    sweep = train(make(photos, tmp_path_factory.mktemp("undisturbed")))
    assert [sweep.ledger(t).status().attempt for t in sweep.trials] == [1]
    assert problems(sweep) == []
    return result(sweep)


def finished_alike(sweep: Sweep, undisturbed: dict[str, Any]) -> None:
    assert {sweep.ledger(t).status().state for t in sweep.trials} == {State.FINISHED}
    assert equal(result(sweep), undisturbed)


def test_a_killed_rank_is_named_and_the_trial_ends_as_if_undisturbed(
    photos: Path, tmp_path: Path, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make(photos, tmp_path)
    victims: list[psutil.Process] = []
    Trouble(sweep, send(PEER, signal.SIGKILL, victims))
    train(sweep)
    assert len(victims) == 1
    finished_alike(sweep, undisturbed)
    (problem,) = problems(sweep)
    assert "rank 1 (process" in problem
    assert f"process {victims[0].pid} on" in problem
    # Its last word may be a second old, and the trial is fast.
    assert "last seen at: " in problem
    assert "its process died" in problem
    assert re.search(r"end of log-rank1.txt:\n.*rank 1 of 2 on cpu, from step 0", problem)
    assert sweep.ledger(sweep.trials[0]).status().attempt == 2
    said = capsys.readouterr().out
    assert "rank 1" in said
    assert "started again from its checkpoint" in said


@pytest.mark.slow
def test_a_killed_trial_takes_its_ranks_with_it_and_ends_as_if_undisturbed(
    photos: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    sweep = make(photos, tmp_path)
    victims: list[psutil.Process] = []
    orphans: list[psutil.Process] = []
    kill = send(FIRST, signal.SIGKILL, victims)

    def act() -> None:
        orphans.extend(processes(PEER))
        kill()

    Trouble(sweep, act)
    train(sweep)
    assert (len(victims), len(orphans)) == (1, 1)
    assert psutil.wait_procs(orphans, timeout=10)[1] == []
    finished_alike(sweep, undisturbed)
    assert "its process died after step" in problems(sweep)[0]


@pytest.mark.slow
def test_a_rank_that_stands_still_is_named_after_the_timeout_and_ended(
    photos: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    sweep = make(photos, tmp_path, timeout_s=4)
    victims: list[psutil.Process] = []
    Trouble(sweep, send(PEER, signal.SIGSTOP, victims))
    train(sweep)
    finished_alike(sweep, undisturbed)
    assert "rank 1 (process" in problems(sweep)[0]
    # What is known of it after so short a timeout: that it is silent, or only that it does not move on.
    assert re.search("does not answer|has been at 'step", problems(sweep)[0])
    assert psutil.wait_procs(victims, timeout=10)[1] == []


@pytest.mark.slow
def test_a_trial_that_stands_still_is_ended_by_the_watchdog(
    photos: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    sweep = make(photos, tmp_path, timeout_s=4)
    victims: list[psutil.Process] = []
    Trouble(sweep, send(FIRST, signal.SIGSTOP, victims))
    train(sweep)
    finished_alike(sweep, undisturbed)
    assert f"rank 0 (process {victims[0].pid} on" in problems(sweep)[0]
    assert "has stood at 'step" in problems(sweep)[0]


def test_more_trials_than_fit_reuse_the_ranks_processes(ray_here: None, photos: Path, tmp_path: Path) -> None:
    parameters = {"loss": ["l1", "mse"], "seed": [0, 1, 2]}
    trial = {"training": SHORT}
    seen: set[int] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.1):
            seen.update(process.pid for process in processes(f"{PEER}.train"))

    looking = threading.Thread(target=look)
    looking.start()
    # Three would not fit: Tune keeps them waiting without any of their ranks.
    sweep = train(make(photos, tmp_path, parameters=parameters, trial=trial))
    is_over.set()
    looking.join()
    assert len(sweep.with_state(State.FINISHED)) == 6
    assert 1 <= len(seen) <= 2


@pytest.mark.slow
def test_early_stopping_frees_all_ranks(ray_here: None, photos: Path, tmp_path: Path) -> None:
    training = {
        "steps": 32,
        "global_batch_size": 2,
        "validate_every": 4,
        "checkpoint_every": 100,
        "log_every": 4,
    }
    sweep = train(
        make(
            photos,
            tmp_path,
            parameters={"loss": ["l1"], "seed": [0], "optimizer.learning_rate": [3e-3, 1e-3, 2.0, 3.0]},
            trial={"training": training},
            early_terminate={"type": "asha", "min_steps": 4, "reduction_factor": 2},
            max_concurrent_trials=1,
        )
    )
    stopped = sweep.with_state(State.STOPPED_EARLY)
    assert {t.config.optimizer.learning_rate for t in stopped} >= {2.0, 3.0}
    assert len(stopped) + len(sweep.with_state(State.FINISHED)) == 4
    assert problems(sweep) == []
    logs = [(sweep.ledger(t).folder / "log-rank1.txt").read_text() for t in stopped]
    assert all("the trial was stopped" in text for text in logs)


def test_a_failure_that_only_another_rank_meets_is_the_trials_own(
    ray_here: None, photos: Path, tmp_path: Path
) -> None:
    """Its second rank reads a damaged shard; the trial fails with that cause, once, and the other one finishes."""
    broken = tmp_path / "broken"
    shutil.copytree(photos, broken)
    damage(broken)
    sweep = make(
        photos, tmp_path / "store", parameters={"loss": ["l1"], "seed": [0, 1]}, trial={"training": SHORT}
    )
    first = sweep.ledger(sweep.trials[0])
    text = (first.folder / "config.yaml").read_text().replace(str(photos), str(broken))
    (first.folder / "config.yaml").write_text(text)
    train(sweep)
    one, other = (sweep.ledger(t).status() for t in sweep.trials)
    assert other.state is State.FINISHED
    assert one.state is State.FAILED
    assert one.attempt == 1
    assert "damaged" in one.reason or "differs" in one.reason


def damage(folder: Path) -> None:
    """Spoils the pixels of one training picture, which is met while training only."""
    sample = list(manifest.load(str(folder)).of_split("train"))[-1]
    frame = sample.frames[0]
    with (folder / sample.shard).open("r+b") as file:
        file.seek(frame.offset + frame.size // 2)
        file.write(b"\0" * 64)
