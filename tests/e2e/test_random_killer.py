"""A killer among the processes of a sweep of trials of two ranks: any of them, at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from sr.ledger import Ledger, State, read_rows
from sweeps.store import SweepFolder, sweeps_in
from sweeps.sweep import Sweep, reopen
from tests.conftest import tiny_trial
from tests.integration.test_ranks_under_ray import equal, problems, result

SRLOSS = str(Path(sys.executable).with_name("srloss"))
DRIVER = "driver"
MARKS = {
    "rank 0": "ray::ImplicitFunc",
    "rank 1": "ray::Peer",
    "raylet": "/raylet",
    "gcs_server": "/gcs_server",
}
"""What the first word of the command line of each kind of process begins or ends with."""
KINDS = (DRIVER, *MARKS)
ANOTHER = "another"
"""Of Ray's: monitors, which nobody misses, agents, which its raylet dies with, and processes that wait for work."""
LOG_EVERY = 5
PATIENCE_S = 240
"""How long nothing may happen."""


@dataclass(frozen=True)
class Kill:
    """One of the killer's deeds."""

    kind: str
    trial: str
    """The trial that ran; empty before the first one did."""
    step: int
    """The last one it had logged."""


class Killer:
    """Runs a sweep, kills its processes at given points of its progress, and resumes it whenever its driver ends.

    Args:
        file: The sweep's.
        store: Where it goes; its output goes beside it.
        steps: Of all trials together.
        kinds: Of the processes to kill, each as often as the others where they exist.
        kills: How many.
        seed: Of the choice of moments and victims.
    """

    def __init__(
        self, file: Path, store: Path, *, steps: int, kinds: Sequence[str], kills: int, seed: int
    ) -> None:
        self.store = store
        self._kinds = kinds
        self.random = random.Random(seed)
        # Not evenly: some hit before what the one before has ended is up again.
        share = 0.9 * steps / kills
        self.points = [int(share * (number + self.random.uniform(0.1, 1))) for number in range(kills)]
        self.kills: list[Kill] = []
        self.sessions: set[int] = set()
        self._deck: list[str] = []
        self._may_end = False
        self.output = store.parent / "output.txt"
        self._start([str(file)])

    def _start(self, arguments: list[str]) -> None:
        command = [SRLOSS, "sweep", *arguments, "--store", str(self.store)]
        with self.output.open("a") as log:
            self.driver = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.sessions.add(self.driver.pid)

    def run(self) -> int:
        """Kills, then lets the sweep come to its end; its exit code."""
        for point in self.points:
            self._wait_for(point)
            while not self._kill_one():
                time.sleep(0.05)
            kind = self.kills[-1].kind
            self._may_end = self._may_end or kind == ANOTHER
            if kind in (DRIVER, "raylet", "gcs_server"):
                self._resume(self.driver.wait(timeout=60))
        while (code := self.driver.wait(timeout=PATIENCE_S)) != 0 and self._may_end:
            self._resume(code)
        return code

    def _wait_for(self, point: int) -> None:
        seen, since = -1, time.monotonic()
        while (progress := sum(step_of(ledger) for ledger in self._ledgers())) < point:
            code = self.driver.poll()
            if code is not None and self._may_end:
                self._resume(code)
                continue
            assert code is None, f"over after {self.kills}, exit code {code}:\n{self.output.read_text()}"
            if progress != seen:
                seen, since = progress, time.monotonic()
            waited = time.monotonic() - since
            assert waited < PATIENCE_S, f"stuck after {self.kills}:\n{self.output.read_text()}"
            time.sleep(0.02)

    def _ledgers(self) -> list[Ledger]:
        return [Ledger(path) for path in sorted(self.store.glob("sweeps/*/trials/*"))]

    def _kill_one(self) -> bool:
        victims = {DRIVER: [psutil.Process(self.driver.pid)], **self._family()}
        if not self._deck:
            self._deck = self.random.sample(self._kinds, len(self._kinds))
        kind = next((kind for kind in self._deck if victims[kind]), None)
        if kind is None:
            return False
        ledgers = [ledger for ledger in self._ledgers() if (ledger.folder / "heartbeat").exists()]
        current = max(ledgers, key=lambda ledger: (ledger.folder / "heartbeat").stat().st_mtime, default=None)
        try:
            self.random.choice(victims[kind]).kill()
        except psutil.NoSuchProcess:
            return False
        self._deck.remove(kind)
        self.kills.append(Kill(kind, current.folder.name, step_of(current)) if current else Kill(kind, "", 0))
        with self.output.open("a") as log:
            log.write(f"--- kill {len(self.kills)}: {self.kills[-1]}\n")
        return True

    def _family(self) -> dict[str, list[psutil.Process]]:
        found: dict[str, list[psutil.Process]] = {kind: [] for kind in (*MARKS, ANOTHER)}
        for process in psutil.Process(self.driver.pid).children(recursive=True):
            if word := name_of(process).partition(" ")[0]:
                is_of = [kind for kind, mark in MARKS.items() if word.startswith(mark) or word.endswith(mark)]
                found[is_of[0] if is_of else ANOTHER].append(process)
        return found

    def _resume(self, code: int) -> None:
        kind = self.kills[-1].kind
        if kind != DRIVER:
            # Of one of Ray's that was killed shortly before, the raylet may have died first.
            lost = {kind if kind == "gcs_server" else "raylet", *(["raylet"] if self._may_end else [])}
            last = self.output.read_text().splitlines()[-1]
            assert code == 1, last
            assert last.startswith(tuple(f"error: Ray's {name} (process " for name in lost)), last
            assert "continue with: srloss sweep --resume" in last
        self._may_end = False
        self._start(["--resume", sweeps_in(self.store)[0].sweep_id])

    def remaining(self, *, within_s: float) -> list[str]:
        """The processes that the sweep has left behind: those of its sessions, or with its folder in their command."""
        deadline = time.monotonic() + within_s
        while (
            left := list(filter(None, map(self._own, psutil.process_iter())))
        ) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def _own(self, process: psutil.Process) -> str:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return ""
            is_ours = os.getsid(process.pid) in self.sessions or str(self.store) in name_of(process)
        except (psutil.Error, OSError):
            return ""
        return f"{process.pid} {name_of(process)}" if is_ours else ""


def shared_memory() -> set[str]:
    """Names of shared memory that no process uses: what is left of the dead."""
    used = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            used.update(line.split()[5] for line in maps.read_text().splitlines() if "/dev/shm/" in line)
    return {str(path) for path in Path("/dev/shm").iterdir()} - used


def step_of(ledger: Ledger) -> int:
    """The last step that a trial has logged."""
    rows = [row for row in read_rows(ledger.folder / "metrics.jsonl") if row["kind"] == "train"]
    return max((row["step"] for row in rows), default=0)


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def sweep_file(photos: Path, folder: Path, *, steps: int, seeds: int) -> Path:
    training = {
        "steps": steps,
        "global_batch_size": 2,
        "validate_every": steps // 2,
        "checkpoint_every": 10,
        "log_every": LOG_EVERY,
    }
    plain = {
        "ranks": 2,
        "parameters": {"loss": ["l1", "mse"], "seed": list(range(seeds))},
        "trial": {**tiny_trial(photos), "training": training, "tracking": {"wandb": "disabled"}},
        "memory_gb_per_rank": 0.5,
        "max_failures": 1000,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def tables(store: Path) -> dict[str, Any]:
    done = subprocess.run(
        [SRLOSS, "report", "--store", str(store), "--json"], capture_output=True, text=True, check=True
    )
    plain = json.loads(done.stdout)
    return {key: plain[key] for key in ("verdict", "ranking", "bicubic")}


def the_sweep(store: Path) -> Sweep:
    return reopen(SweepFolder(sweeps_in(store)[0].path))


def attempts(ledger: Ledger, *, steps: int) -> int:
    """How often a trial was begun; they must be told apart, and its final reading hold each step once."""
    begun = [row["attempt"] for row in read_rows(ledger.folder / "metrics.jsonl") if row["kind"] == "attempt"]
    assert begun == sorted(set(begun))
    rows = ledger.rows("train")
    assert [row["step"] for row in rows] == list(range(LOG_EVERY, steps + 1, LOG_EVERY))
    assert {row["attempt"] for row in rows} <= set(begun)
    return len(begun)


def survives(
    photos: Path, tmp_path: Path, *, kinds: Sequence[str], kills: int, steps: int, seeds: int, seed: int
) -> list[Kill]:
    file = sweep_file(photos, tmp_path, steps=steps, seeds=seeds)
    in_memory = {str(path) for path in Path("/dev/shm").iterdir()}
    undisturbed, store = tmp_path / "undisturbed", tmp_path / "killed"
    # Beside the other: a sweep's start keeps one core busy only.
    alone = subprocess.Popen(
        [SRLOSS, "sweep", str(file), "--store", str(undisturbed)], stdout=subprocess.DEVNULL
    )
    killer = Killer(file, store, steps=2 * seeds * steps, kinds=kinds, kills=kills, seed=seed)
    try:
        code = killer.run()
        assert alone.wait(timeout=PATIENCE_S) == 0
    finally:
        killer.driver.kill()
        alone.kill()
    output = killer.output.read_text()
    assert code == 0, output
    assert "Traceback" not in output
    assert "(raylet)" not in output
    sweep = the_sweep(store)
    assert {sweep.ledger(t).status().state for t in sweep.trials} == {State.FINISHED}
    assert problems(sweep)
    begun = [attempts(sweep.ledger(trial), steps=steps) for trial in sweep.trials]
    print(f"kills {Counter(kill.kind for kill in killer.kills)}, attempts {begun}")
    assert len(begun) < sum(begun) <= len(begun) + kills
    assert equal(result(sweep), result(the_sweep(undisturbed)))
    assert tables(store) == tables(undisturbed)
    assert killer.remaining(within_s=60) == []
    assert shared_memory() <= in_memory
    return killer.kills


@pytest.mark.slow
def test_one_kill_of_each_kind_changes_nothing(photos: Path, tmp_path: Path) -> None:
    # The GCS is left to the longer proof: each time Ray is started again takes seconds.
    kinds = [kind for kind in KINDS if kind != "gcs_server"]
    kills = survives(photos, tmp_path, kinds=kinds, kills=len(kinds), steps=150, seeds=1, seed=1)
    assert {kill.kind for kill in kills} == set(kinds)
    assert len({kill.trial for kill in kills if kill.step > 0}) == 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_kills_change_nothing(photos: Path, tmp_path: Path) -> None:
    kinds = (*KINDS, ANOTHER)
    kills = survives(photos, tmp_path, kinds=kinds, kills=50, steps=800, seeds=2, seed=1)
    count = Counter(kill.kind for kill in kills)
    assert all(count[kind] >= 5 for kind in kinds), count
    assert len({kill.trial for kill in kills if kill.step > 0}) == 4
