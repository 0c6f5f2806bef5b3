"""The trial's folder: the source of truth about it. Reports, dashboards and W&B are views of what stands here.

config.yaml         the complete configuration that it began with
command.txt         the command that repeats the trial
environment.json    versions and hardware
metrics.jsonl       append-only rows of training and validation; attempts told apart
                    (`perturbation`: it went on from another trial's checkpoint, with the settings in `changes`)
evaluation.jsonl    one row per held-out clip
summary.json        the held-out clips as a whole: see below
crops/              PNG of each held-out clip; those of several frames also as in sr.over_time
checkpoints/        see sr.checkpoint
state.json          where the trial stands, and why it ended
log.txt             what it logged; log-rank1.txt and so on: what the other ranks did
heartbeat           where the trial is right now; touched while it moves on
damaged_clips.jsonl training clips that others took the place of

summary.json holds what single clips do not show; what is undefined is null. `metrics`: by name `n` clips, `mean`, `median`,
`p5`, `p95`, `of_the_mean` (PSNR of the mean error; null for what is no PSNR), `num_capped`, `num_undefined`, with `unit`,
`convention` and `protocol`. `rmse` and `region`: distortion as in PIRM 2018. `separability`: how well a classifier tells
patches of SR from HR on pictures it has not seen (`auc`, 0.5: not at all; 95 % interval `low` to `high`; `num_sources`,
`num_patches` of the test), or null and the reason in `why_not_separated`. `facts` and `warnings`: what the linter of
evaluations knew, PSNR by the profile `rgb`, and what it found (`rule`, `message`). `num_clips`, `num_sources`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from sr.config import TrialConfig, fingerprint, parse_trial, to_plain
from sr.configfile import read_yaml, set_path
from sr.files import write_atomically
from sr.lock import exclusive

if TYPE_CHECKING:
    from sr.summary import Summary


class State(StrEnum):
    """Where a trial stands."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED_EARLY = "stopped_early"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """A person has ended it."""


@dataclass(frozen=True, slots=True)
class Status:
    """The content of state.json."""

    state: State
    reason: str = ""
    """Why it ended, in words."""
    step: int = 0
    seconds: float = 0.0
    """Wall seconds of training, over all attempts, time lost in killed ones not counted."""
    attempt: int = 0
    stream_hash: str = ""
    met_wall_time_cap: bool = False
    damaged_clips: int = 0
    """Training clips that others took the place of; damaged_clips.jsonl names them."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do for this trial."""
        return self.state in (State.FINISHED, State.STOPPED_EARLY)

    @property
    def has_ended(self) -> bool:
        """Whether it came to an end of its own, good or bad, rather than being interrupted."""
        return self.is_over or self.state in (State.FAILED, State.CANCELLED)


_BEAT_S = 1.0


class Ledger:
    """Reads and writes one trial's folder. Writing is for the trial itself; anybody may read at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.log_path = folder / "log.txt"
        self.attempt = 0
        self._last_beat = 0.0

    # --- writing ---

    def create(self, config: TrialConfig, *, command: str) -> None:
        """Writes the files that do not change; does nothing where the trial's folder exists."""
        if (self.folder / "state.json").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
        write_atomically(self.folder / "config.yaml", text.encode())
        write_atomically(self.folder / "command.txt", f"{command}\n".encode())
        self.set_status(Status(State.PENDING))

    def begin_attempt(self) -> int:
        """Starts the next attempt and records the environment; returns its number, from 1."""
        self.attempt = self.status().attempt + 1
        self.repair_tail()
        environment = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            **{name: _version(name) for name in ("srloss", "torch", "ray", "piq", "numpy")},
        }
        write_atomically(self.folder / "environment.json", json.dumps(environment, indent=1).encode())
        return self.attempt

    def repair_tail(self) -> None:
        """Cuts off a last row that a kill or a full disk left unfinished, so that the next one starts on a line of its own."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)

    def append(self, row: Mapping[str, Any], *, sync: bool = False) -> None:
        """Appends a row to metrics.jsonl; with `sync` it is on the disk when this returns."""
        line = json.dumps({"attempt": self.attempt, **row}, allow_nan=True)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            if sync:
                file.flush()
                os.fsync(file.fileno())

    def note(self, row: Mapping[str, Any]) -> None:
        """Appends a row from outside, between attempts.

        Raises:
            ValueError: The trial is being trained.
        """
        with exclusive(self.folder, timeout_s=60, what="this trial is being trained"):
            self.attempt = self.status().attempt
            self.repair_tail()
            self.append(row, sync=True)

    def beat(self, where: str) -> None:
        """Shows that the trial moves on: whoever watches sees the file's time, and reads where and in which process."""
        now = time.monotonic()
        if now - self._last_beat < _BEAT_S:
            return
        self._last_beat = now
        line = json.dumps({"where": where, "pid": os.getpid(), "host": os.uname().nodename})
        # Not worth a trial's life: a full disk is told by what must be written.
        with contextlib.suppress(OSError):
            (self.folder / "heartbeat").write_text(line)

    def set_status(self, status: Status) -> None:
        """Replaces state.json."""
        write_atomically(self.folder / "state.json", json.dumps(asdict(status)).encode())

    def write_evaluation(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces the table of per-clip results."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.folder / "evaluation.jsonl", text.encode())

    def write_summary(self, summary: Summary) -> None:
        """Replaces what is known of the held-out clips as a whole."""
        # Imported late, with torch behind it: most readers of ledgers do without.
        from sr.summary import to_plain as summary_to_plain

        text = json.dumps(summary_to_plain(summary), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(self.folder / "summary.json", text.encode())

    def write_previews(
        self, kind: Literal["hr", "lr", "sr"], step: int, pictures: Mapping[str, bytes]
    ) -> None:
        """Keeps PNG files of validation clips: those of a step, or what they are compared with, once for all steps."""
        folder = self.folder / "previews" / (f"{step:08d}" if kind == "sr" else kind)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in pictures.items():
            if kind == "sr" or not (folder / name).exists():
                temporary = folder / f".{name}.tmp"
                temporary.write_bytes(content)
                temporary.replace(folder / name)

    # --- reading ---

    def exists(self) -> bool:
        """Whether there is a trial in this folder."""
        return (self.folder / "state.json").exists()

    def config(self) -> TrialConfig:
        """The trial's configuration as it is now: what it began with, and what a population has changed since."""
        plain = read_yaml(self.folder / "config.yaml")
        for row in self.rows("perturbation")[-1:]:
            for name, value in row["changes"].items():
                set_path(plain, name, value, where=f"perturbation of step {row['step']}")
        return parse_trial(plain)

    def command(self) -> str:
        """The command that repeats the trial."""
        return (self.folder / "command.txt").read_text().strip()

    def status(self) -> Status:
        """Where the trial stands.

        Raises:
            ValueError: There is no trial in this folder.
        """
        try:
            data = json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            raise ValueError(f"{self.folder}: no trial here (state.json is missing)") from None
        return Status(**data | {"state": State(data["state"])})

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Rows of one kind (`train` or `validation`) by step; where an attempt repeated a step, the last one's."""
        by_step = {
            row["step"]: row for row in read_rows(self.folder / "metrics.jsonl") if row["kind"] == kind
        }
        return [by_step[step] for step in sorted(by_step)]

    def previews(self, step: int | None = None) -> list[Path]:
        """Pictures of the fixed validation clips at a step; None: at the latest that has some."""
        steps = sorted((path.name for path in (self.folder / "previews").glob("[0-9]*")), reverse=True)
        for name in steps if step is None else [f"{step:08d}"]:
            if found := sorted((self.folder / "previews" / name).glob("*.png")):
                return found
        return []

    def evaluation(self) -> list[dict[str, Any]]:
        """Per-clip results; empty where the trial has not been evaluated."""
        return read_rows(self.folder / "evaluation.jsonl")

    def summary(self) -> Summary | None:
        """The held-out clips as a whole; None where the trial has not been evaluated, or by a version that wrote none."""
        from sr.summary import from_plain

        path = self.folder / "summary.json"
        return from_plain(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


class Onlooker(Ledger):
    """The ledger as the other ranks of a trial have it: they read, and leave writing to the first."""

    def begin_attempt(self) -> int:
        """The first rank counts."""
        return self.attempt

    def append(self, row: Mapping[str, Any], *, sync: bool = False) -> None:
        """Writes nothing."""

    def beat(self, where: str) -> None:
        """Writes nothing."""

    def set_status(self, status: Status) -> None:
        """Writes nothing."""


def open_trial(folder: Path) -> tuple[Ledger, TrialConfig]:
    """Opens an existing trial folder.

    Raises:
        ValueError: There is no trial in it.
    """
    ledger = Ledger(folder)
    ledger.status()
    return ledger, ledger.config()


def trial_id(config: TrialConfig) -> str:
    """Name of a trial's folder."""
    return fingerprint(config)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line that is still being written, or was cut off by a kill, is left out.

    Raises:
        ValueError: A line is damaged; which one.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            rows += [json.loads(line)] if line else []
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: damaged ({error}); restore the file, or delete the line"
            ) from None
    return rows


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
