"""Which process holds something, told so that others, on this machine or elsewhere, can say whether it still runs."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that cannot be mistaken for another of any machine."""

    host: str
    pid: int
    boot: str
    """The machine's, since it was last switched on: hosts may share a name. Empty where the system has no /proc."""
    pid_namespace: str
    """In which `pid` counts: containers share a machine, and sometimes its name, but not the numbers of processes."""
    started: str
    """Clock ticks since the boot: numbers of processes are given again."""
    job: str
    """SLURM's cluster and number of the job; empty outside of one. A requeued job keeps it."""
    job_shown: str
    """The job as its user knows it, elements of an array as 77_3."""
    restarts: int
    """How often SLURM has requeued the job."""
    nonce: str
    """Another one each time that the process begins to hold something."""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        job = f" (SLURM job {self.job_shown})" if self.job_shown else ""
        return f"process {self.pid} on {self.host}{job}"

    def is_alive(self, asking: Holder) -> bool | None:
        """Whether the process still runs, as seen from the process `asking`; None where that cannot be known from there.

        A stopped process is alive, a zombie is not.
        """
        if not asking.boot or (self.boot, self.pid_namespace) != (asking.boot, asking.pid_namespace):
            if self.job and self.job == asking.job and self.restarts != asking.restarts:
                # SLURM ends all of a job's processes before it starts the job again.
                return self.restarts > asking.restarts
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # Another user's.
            pass
        started = _start_tick(self.pid)
        return None if started is None else started == self.started

    def to_bytes(self) -> bytes:
        """What `parse_holder` reads."""
        return (json.dumps(asdict(self)) + "\n").encode()


UNKNOWN = Holder("", 0, "", "", "", "", "", 0, "")
"""Somebody whose record cannot be read."""


def parse_holder(content: bytes) -> Holder:
    """Reads what `Holder.to_bytes` gave; UNKNOWN where it is something else."""
    try:
        plain = json.loads(content)
        if isinstance(plain["pid"], int) and isinstance(plain["restarts"], int):
            return Holder(**plain)
    except (ValueError, TypeError, KeyError):
        pass
    return UNKNOWN


def this_process() -> Holder:
    """The one that asks, with a new nonce."""
    pid = os.getpid()
    number, array, element, restarts = (
        os.environ.get(f"SLURM_{name}", "")
        for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT")
    )
    return Holder(
        host=os.uname().nodename,
        pid=pid,
        boot=_text("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_namespace(),
        started=_start_tick(pid) or "",
        # Each element of an array has a number of its own here.
        job=f"{os.environ.get('SLURM_CLUSTER_NAME', '')}:{number}" if number else "",
        job_shown=f"{array}_{element}" if array and element else number,
        restarts=int(restarts) if restarts.isdecimal() else 0,
        nonce=uuid.uuid4().hex,
    )


def _start_tick(pid: int) -> str | None:
    """When a process was started; empty for a zombie, None where that cannot be read: it is gone, or /proc hides it."""
    text = _text(f"/proc/{pid}/stat")
    # The command name, in parentheses, may hold spaces and parentheses itself: fields count from the last one.
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return "" if fields[0] in "ZX" else fields[19]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
