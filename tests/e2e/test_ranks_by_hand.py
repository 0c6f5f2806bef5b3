"""`srloss train` on one and two ranks, started by itself or by torchrun, disturbed in every way: it ends as undisturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
import torch
import yaml

from sr import checkpoint
from sr.ledger import Ledger, read_rows
from sr.ranks import free_port
from tests.conftest import OF_THE_MACHINE, tiny_trial

BIN = Path(sys.executable).parent
STEPS = 240
pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def trial_file(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    training = {
        "steps": STEPS,
        "global_batch_size": 4,
        "validate_every": 100,
        "checkpoint_every": 20,
        "log_every": 10,
    }
    plain = tiny_trial(photos, training=training, engine={"device": "cpu", "timeout_s": 20})
    path = tmp_path_factory.mktemp("trial") / "trial.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


@dataclass
class Run:
    """A `srloss train` in a store of its own."""

    file: Path
    store: Path
    ranks: int = 2
    launcher: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    env: dict[str, str] | None = None

    def __post_init__(self) -> None:
        self.output = self.store / "output.txt"
        self.store.mkdir(parents=True, exist_ok=True)
        self.family: dict[int, psutil.Process] = {}

    def command(self) -> list[str]:
        ranks = [] if self.launcher else [f"engine.ranks={self.ranks}"]
        command = [str(BIN / "srloss"), "train", str(self.file), "--store", str(self.store)]
        return [*self.launcher, *command, *ranks]

    def start(self) -> Self:
        command = self.command()
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [*command, *self.options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | (self.env or {}),
                start_new_session=True,
            )
        return self

    def end(self, *, timeout_s: float = 120) -> int:
        code = self.process.wait(timeout_s)
        _, alive = psutil.wait_procs(self.family.values(), timeout=10)
        assert not alive, f"left behind: {alive}"
        return code

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def ledger(self) -> Ledger:
        return Ledger(next((self.store / "trials").iterdir()))

    def step(self) -> int:
        """How far it is, as its rows tell."""
        try:
            rows = self.ledger.rows("train")
        except (FileNotFoundError, StopIteration):
            return 0
        return rows[-1]["step"] if rows else 0

    def until(self, step: int) -> Self:
        """Waits until it is past this step, and learns who takes part."""
        wait_for(
            lambda: self.step() >= step or self.process.poll() is not None, what=f"step {step}", run=self
        )
        assert self.process.poll() is None, self.text
        me = psutil.Process(self.process.pid)
        self.family |= {process.pid: process for process in [me, *me.children(recursive=True)]}
        return self

    def rank(self, number: int) -> int:
        """The process of a rank."""
        for process in self.family.values():
            if process.is_running() and f'"rank": {number}' in " ".join(process.cmdline()):
                return process.pid
        raise AssertionError(f"no rank {number} in {self.family}")


class SweepRun(Run):
    """A `srloss sweep` of one trial; started again, it is resumed."""

    def command(self) -> list[str]:
        begun = list((self.store / "sweeps").glob("*"))
        what = ["--resume", begun[0].name] if begun else [str(self.file)]
        return [str(BIN / "srloss"), "sweep", *what, "--store", str(self.store)]

    @property
    def ledger(self) -> Ledger:
        return Ledger(next((self.store / "sweeps").glob("*/trials/*")))


def wait_for(what_is: Callable[[], Any], *, what: str, run: Run, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not what_is():
        assert time.monotonic() < deadline, f"{what} not seen within {seconds} s:\n{run.text}"
        time.sleep(0.02)


def result(ledger: Ledger) -> dict[str, Any]:
    """All that must be equal, bit by bit."""
    state = checkpoint.latest(ledger.checkpoints, on_damaged=pytest.fail)
    assert state is not None
    noise = set(OF_THE_MACHINE)
    rows = [
        {key: value for key, value in row.items() if key not in noise}
        for kind in ("train", "validation")
        for row in ledger.rows(kind)
    ]
    return {
        "step": state["step"],
        "tensors": tensors(state["engine"]) | tensors(state["ema"], "ema"),
        "rows": rows,
    }


def tensors(state: Any, name: str = "") -> dict[str, bytes]:
    if isinstance(state, torch.Tensor):
        return {name: state.numpy().tobytes()}
    items = (
        state.items()
        if isinstance(state, dict)
        else enumerate(state)
        if isinstance(state, list | tuple)
        else ()
    )
    return {key: value for part, item in items for key, value in tensors(item, f"{name}/{part}").items()}


def assert_as_undisturbed(run: Run, undisturbed: Run) -> None:
    ours, theirs = result(run.ledger), result(undisturbed.ledger)
    assert ours["step"] == theirs["step"] == STEPS
    assert len(theirs["tensors"]) > 10
    assert ours["tensors"] == theirs["tensors"]
    assert ours["rows"] == theirs["rows"]
    assert len(run.ledger.evaluation()) == 6


@pytest.fixture(scope="module", autouse=True)
def _no_shared_memory_left() -> Iterator[None]:
    before = {path.name for path in Path("/dev/shm").iterdir()}
    yield
    mine = {p.name for p in Path("/dev/shm").iterdir() if p.name not in before and "torch" in p.name}
    assert not mine


@pytest.fixture(scope="module")
def on_two_ranks(trial_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(trial_file, tmp_path_factory.mktemp("undisturbed") / "two").start()
    assert run.end() == 0, run.text
    return run


@pytest.fixture(scope="module")
def on_one_rank(trial_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(trial_file, tmp_path_factory.mktemp("undisturbed") / "one", ranks=1).start()
    assert run.end() == 0, run.text
    return run


def test_torchrun_gives_bit_for_bit_what_own_ranks_give(
    trial_file: Path, tmp_path: Path, on_two_ranks: Run
) -> None:
    run = under_torchrun(trial_file, tmp_path / "store").start()
    assert run.end() == 0, run.text
    assert_as_undisturbed(run, on_two_ranks)
    assert run.ledger.rows("attempt")[0]["ranks"] == 2
    assert run.ledger.config().engine.ranks == 2
    # Only the first rank talks.
    assert run.text.count("finished: all") == 1
    assert run.text.count("trial ") == on_two_ranks.text.count("trial ")
    assert (run.ledger.folder / "log-rank1.txt").exists()


def under_torchrun(file: Path, store: Path, *options: str) -> Run:
    launcher = (str(BIN / "torchrun"), "--nproc-per-node=2", f"--master-port={free_port()}", *options)
    return Run(file, store, launcher=launcher)


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_kill_9_of_a_rank_restarts_all(
    victim: int, trial_file: Path, tmp_path: Path, on_two_ranks: Run
) -> None:
    run = Run(trial_file, tmp_path / "store").start().until(STEPS // 4)
    process = run.rank(victim)
    os.kill(process, signal.SIGKILL)
    assert run.end() == 0, run.text
    assert f"rank {victim} (process {process}) was killed by SIGKILL" in run.text
    assert "started again from the last checkpoint (1 of 3)" in run.text
    log = "log-rank1.txt" if victim else "log.txt"
    assert f"{run.ledger.folder / log} ends with:" in run.text
    assert run.ledger.status().attempt == 2
    assert_as_undisturbed(run, on_two_ranks)


@pytest.mark.slow
def test_kill_9_under_torchrun_which_restarts_all(
    trial_file: Path, tmp_path: Path, on_two_ranks: Run
) -> None:
    run = under_torchrun(trial_file, tmp_path / "store", "--max-restarts=1").start().until(STEPS // 4)
    rank = next(
        p for p in run.family.values() if p.pid != run.process.pid and "srloss" in " ".join(p.cmdline())
    )
    rank.kill()
    assert run.end() == 0, run.text
    assert run.ledger.status().attempt == 2
    assert_as_undisturbed(run, on_two_ranks)


@pytest.mark.slow
def test_kill_9_of_the_supervisor_ends_all_and_the_same_command_goes_on(
    trial_file: Path, tmp_path: Path, on_two_ranks: Run
) -> None:
    run = Run(trial_file, tmp_path / "store").start().until(STEPS // 4)
    os.kill(run.process.pid, signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    # This time there are more failures than allowed.
    run.options = ("--max-failures=0",)
    run.start().until(STEPS // 2)
    os.kill(run.rank(1), signal.SIGKILL)
    assert run.end() == 1
    assert "given up after 1 failure" in run.text
    assert "to go on from the last checkpoint: srloss train" in run.text
    run.options = ()
    assert run.start().end() == 0, run.text
    assert_as_undisturbed(run, on_two_ranks)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment inside a SLURM job, whose scontrol notes what it is asked and has no SLURM behind it."""
    program = tmp_path / "bin" / "stand_in_scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n')
    program.chmod(0o755)
    (program.parent / "scontrol").symlink_to(program)
    return {"SLURM_JOB_ID": "4711", "PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("ranks", "number"),
    [
        pytest.param(1, signal.SIGUSR1, marks=pytest.mark.slow),
        (2, signal.SIGUSR1),
        pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_request_to_stop_leaves_a_checkpoint(
    ranks: int,
    number: signal.Signals,
    trial_file: Path,
    tmp_path: Path,
    slurm: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:
    undisturbed = request.getfixturevalue("on_one_rank" if ranks == 1 else "on_two_ranks")
    run = Run(trial_file, tmp_path / "store", ranks=ranks, env=slurm).start().until(STEPS // 4)
    # As a terminal does it, and SLURM, which signals all processes of a job.
    os.killpg(run.process.pid, number)
    assert run.end(timeout_s=30) == (130 if number == signal.SIGINT else 143), run.text
    status = run.ledger.status()
    assert status.state == "pending"
    assert status.reason == f"interrupted by {number.name} at step {status.step}"
    state = checkpoint.latest(run.ledger.checkpoints, on_damaged=pytest.fail)
    assert state is not None
    assert state["step"] == status.step
    assert run.ledger.command() in run.text
    asked = tmp_path / "scontrol.txt"
    if number == signal.SIGUSR1:
        assert asked.read_text() == "requeue 4711\n"
        assert "requeued as SLURM job 4711" in run.text
    else:
        assert not asked.exists()
    assert run.start().end() == 0, run.text
    assert_as_undisturbed(run, undisturbed)


@pytest.mark.slow
def test_a_request_to_stop_under_torchrun(trial_file: Path, tmp_path: Path, on_two_ranks: Run) -> None:
    run = under_torchrun(trial_file, tmp_path / "store").start().until(STEPS // 4)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.end(timeout_s=60) != 0
    assert run.ledger.status().reason.startswith("interrupted by SIGTERM")
    run.launcher = under_torchrun(trial_file, run.store).launcher
    assert run.start().end() == 0, run.text
    assert_as_undisturbed(run, on_two_ranks)


@pytest.mark.slow
def test_a_request_to_stop_while_ranks_are_starting(
    trial_file: Path, tmp_path: Path, on_two_ranks: Run
) -> None:
    run = Run(trial_file, tmp_path / "store").start()
    wait_for(lambda: "trial " in run.text, what="the start", run=run)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.end(timeout_s=40) == 143, run.text
    assert run.start().end() == 0, run.text
    assert_as_undisturbed(run, on_two_ranks)


@pytest.mark.slow
def test_a_stopped_rank_is_named_and_all_are_restarted(
    trial_file: Path, tmp_path: Path, on_two_ranks: Run
) -> None:
    run = Run(trial_file, tmp_path / "store", options=("engine.timeout_s=8",)).start().until(STEPS // 4)
    process, seen = run.rank(1), time.monotonic()
    os.kill(process, signal.SIGSTOP)
    wait_for(lambda: "started again" in run.text, what="the restart", run=run)
    # The timeout, the roll call's time to hear the others, and the supervisor's.
    assert time.monotonic() - seen < 8 + 12
    assert f"rank 1 (process {process} on {os.uname().nodename}) does not answer" in run.text
    assert "last seen at: step " in run.text
    assert run.end() == 0, run.text
    assert_as_undisturbed(run, on_two_ranks)


@pytest.mark.slow
def test_ranks_that_all_stand_still_are_restarted(
    trial_file: Path, tmp_path: Path, on_two_ranks: Run
) -> None:
    run = Run(trial_file, tmp_path / "store", options=("engine.timeout_s=8",)).start().until(STEPS // 4)
    for rank in (0, 1):
        os.kill(run.rank(rank), signal.SIGSTOP)
    assert run.end() == 0, run.text
    assert "the trial has not moved for 1" in run.text
    assert "rank 0 was last seen at: step " in run.text
    assert_as_undisturbed(run, on_two_ranks)


@pytest.mark.slow
def test_a_fault_on_one_rank_ends_all_within_seconds(trial_file: Path, photos: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(photos, damaged)
    shard = damaged / "train-000000.tar"
    with tarfile.open(shard) as tar:
        member = tar.getmember("train_0.im1.png")
    with shard.open("r+b") as file:
        file.seek(member.offset_data + member.size // 2)
        file.write(b"damage")
    run = Run(trial_file, tmp_path / "store", options=(f"data.path={damaged}",)).start()
    assert run.end(timeout_s=60) == 1, run.text
    cause = "rank 1: train-000000.tar: train_0.im1.png: damaged: "
    assert run.text.count(f"error: {cause}") == 1, run.text
    assert "Traceback" not in run.text
    assert "started again" not in run.text
    status = run.ledger.status()
    assert status.state == "failed"
    assert status.reason.startswith(cause)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of some megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root; CI runs as root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_truncated_checkpoint_and_a_full_disk(trial_file: Path, small_disk: Path, on_one_rank: Run) -> None:
    run = Run(trial_file, small_disk / "store", ranks=1).start().until(STEPS // 4)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.end(timeout_s=60) == 143, run.text
    newest = checkpoint.newest_path(run.ledger.checkpoints)
    assert newest is not None
    os.truncate(newest, newest.stat().st_size // 2)

    run.start().until(STEPS // 2)
    free = os.statvfs(small_disk)
    filler = small_disk / "filler"
    # What is left is enough for rows, but for no checkpoint.
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 16384))
    wait_for(lambda: len(problems(run)) > 1, what="the full disk", run=run)
    filler.unlink()
    assert run.end() == 0, run.text
    fallback, full = problems(run)
    assert f"checkpoint {newest}: damaged" in fallback
    assert "falling back to the one before" in fallback
    assert "No space left on device; trying again" in full
    for problem in problems(run):
        assert f"warning: {problem}\n" in run.text
    assert_as_undisturbed(run, on_one_rank)


def problems(run: Run) -> list[str]:
    return [
        row["problem"] for row in read_rows(run.ledger.folder / "metrics.jsonl") if row["kind"] == "problem"
    ]


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGUSR1, signal.SIGTERM)],
    ids=lambda number: number.name,
)
def test_a_request_to_stop_a_sweep(
    number: signal.Signals, trial_file: Path, tmp_path: Path, slurm: dict[str, str], on_two_ranks: Run
) -> None:
    plain = yaml.safe_load(trial_file.read_text())
    plain["engine"]["ranks"] = 2
    del plain["loss"]
    parameters = {"loss": ["l1"], "seed": [0]}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"parameters": parameters, "trial": plain, "memory_gb_per_rank": 0.5}))
    run = SweepRun(file, tmp_path / "store", env=slurm).start().until(STEPS // 4)
    # SLURM signals all processes of a job; SIGTERM may only be sent to the driver, since Ray's own obey it at once.
    for process in run.family.values() if number == signal.SIGUSR1 else [psutil.Process(run.process.pid)]:
        process.send_signal(number)
    assert run.end(timeout_s=45) == 143, run.text
    status = run.ledger.status()
    assert status.reason == f"interrupted by {number.name} at step {status.step}"
    assert f"step {status.step} of {STEPS}" in run.text
    assert "1 of 1 trials are unfinished" in run.text
    assert "continue with: srloss sweep --resume" in run.text
    assert "evaluate " not in run.text
    assert (tmp_path / "scontrol.txt").exists() == (number == signal.SIGUSR1)
    assert run.start().end() == 0, run.text
    # What the sweep trains is what is trained by hand.
    assert_as_undisturbed(run, on_two_ranks)
