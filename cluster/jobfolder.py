"""The folder of a detached job: which files it holds, and how they and the process behind them are read.

It is written by three parties, each its own files: the submitter (JOB, ARGUMENTS, PROCESS), the function's process
(RESULT or ERROR) and the process that watches it (END). So the job can be read later by anybody, without any of them.
"""

import json
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOB = "job.json"
ARGUMENTS = "arguments.pickle"
PROCESS = "process.json"
LOG = "log.txt"
RESULT = "result.pickle"
ERROR = "error.json"
CANCEL = "cancel"
"""Exists once somebody asked to cancel."""
END = "end.json"
"""Exists once everything is over; written last."""


@dataclass(frozen=True)
class End:
    """How the function's process ended."""

    exit_code: int | None
    signal_name: str | None
    stopped_because: str | None
    """"cancelled" or "timeout" where the watcher stopped it."""


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    started: str
    """Boot of the machine and clock ticks since then."""
    host: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Describe a process of this machine; `started` is empty if there is none."""
        return cls(pid, _started(pid), socket.gethostname())

    def is_alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return self.started != "" and _started(self.pid) == self.started


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none, even after a crash."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Write a JSON object, atomically."""
    write_atomically(path, json.dumps(record, indent=1).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def signal_name(number: int) -> str:
    """Name such as SIGKILL; real-time signals have only numbers."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _started(pid: int) -> str:
    """Boot id and start tick of a running process; empty if it is gone or a zombie."""
    try:
        # The command name, in parentheses, may hold spaces and parentheses itself: fields count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, start_ticks = fields[0], fields[19]
    return "" if state in "ZX" else f"{boot}:{start_ticks}"
