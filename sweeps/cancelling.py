"""How a person ends a sweep or one of its trials, from any machine that sees its files; what they have done is kept.

A file `cancel` in a trial's folder ends that trial for good; the sweep's file `stop` (`sweeps.interrupt.StopFile`) ends all
for now. Whoever trains looks at both, saves, and leaves.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import slurm_queue
from cluster.api import JobState
from cluster.jobfolder import write_atomically
from cluster.localjobs import ProcessJob
from cluster.records import JobRecord
from sr.holder import Holder, this_process

if TYPE_CHECKING:
    from sr.ledger import Ledger
    from sweeps.overview import JobView

REASON = "srloss cancel"
"""What trials and drivers are told asks them to stop."""
STOP = "stop"
"""The file of `sweeps.interrupt.StopFile`."""
_CANCEL = "cancel"
_POLL_S = 1.0


def ask_trial(folder: Path) -> None:
    """Asks the trial in a folder to save and end for good."""
    (folder / _CANCEL).touch()


def is_asked(folder: Path) -> bool:
    """Whether the trial in a folder was asked to end for good."""
    return (folder / _CANCEL).exists()


def or_cancelled(folder: Path, stop: Callable[[], str]) -> Callable[[], str]:
    """A trial's `stop` that also heeds whoever cancels this trial. Looks at most once a second."""
    place = folder.absolute()
    looked = -_POLL_S
    asked = ""

    def reason() -> str:
        nonlocal looked, asked
        now = time.monotonic()
        if not asked and now - looked >= _POLL_S:
            looked = now
            asked = REASON if is_asked(place) else ""
        return stop() or asked

    return reason


def settle(ledger: Ledger) -> None:
    """Writes down that a trial was cancelled, if it was and has not come to its end before. For whoever holds the trial."""
    from sr.ledger import State

    status = ledger.status()
    if not status.has_ended and is_asked(ledger.folder):
        when = f"at step {status.step}" if status.attempt else "before it began"
        ledger.set_status(replace(status, state=State.CANCELLED, reason=f"cancelled {when}"))


def ask_all(folder: Path) -> None:
    """Asks the driver of the sweep in a folder, and all its trials, to save and end for now."""
    # As StopFile does, without waiting for torch to be imported.
    write_atomically(folder / STOP, REASON.encode())


def settle_if_free(folder: Path) -> bool:
    """Settles a cancelled trial that nobody trains; False where somebody does, who will settle it."""
    from sr.ledger import Ledger
    from sr.lock import exclusive, is_held

    if is_held(folder):
        return False
    try:
        with exclusive(folder, timeout_s=0, what="this trial is being trained"):
            settle(Ledger(folder))
    except ValueError:
        return False
    return True


def end_job(record: JobRecord, *, wait_s: float) -> None:
    """Asks for the end of a job of Ray's or of a detached process of this machine, which saves first.

    Raises:
        ValueError: It runs on another machine, or the cluster wants another token.
        ConnectionError: The cluster does not answer.
    """
    if record.launcher == "ray":
        from cluster import ray_jobs

        ray_jobs.stop(record, wait_s=wait_s)
        return
    job = ProcessJob.open(Path(record.job_id))
    job.cancel()
    job.wait(wait_s)


def end_slurm_jobs(jobs: Sequence[JobView]) -> None:
    """Asks for the end of SLURM's jobs: SIGTERM, at which they save, and after the site's KillWait SIGKILL.

    Raises:
        ConnectionError: SLURM does not answer.
        PermissionError: SLURM refuses.
    """
    # What waits for an array's end must not begin when that ends.
    ordered = sorted(jobs, key=lambda job: job.record.kind != "finish")
    slurm_queue.cancel([job.record.job_id for job in ordered])


def end_element(jobs: Sequence[JobView], trial_id: str) -> str:
    """Asks for the end of the element of an array that trains a trial; its id, empty where there is none."""
    for job in reversed(jobs):
        status = job.elements.get(trial_id)
        if status is not None and status.state in (JobState.PENDING, JobState.RUNNING):
            index = job.record.trials.index(trial_id)
            # A single trial is submitted as a job like any other.
            element = index if len(job.record.trials) > 1 else None
            slurm_queue.cancel([job.record.job_id], element)
            return job.record.job_id + ("" if element is None else f"_{element}")
    return ""


def end_driver(holder: Holder) -> bool:
    """Sends SIGTERM to a sweep's driver that somebody has started by hand; False where it is not of this machine."""
    if not holder.is_alive(this_process()):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder.pid, signal.SIGTERM)
    return True


def delete_checkpoints(folder: Path) -> int:
    """Frees the disk of a trial's checkpoints; it starts over when it is tried again. Returns how many bytes.

    Raises:
        ValueError: It is being trained.
    """
    from sr.ladder.records import STAGES
    from sr.lock import exclusive

    freed = 0
    with exclusive(folder, timeout_s=1, what="this trial is being trained"):
        for place in (folder / "checkpoints", folder / STAGES):
            freed += sum(path.lstat().st_size for path in place.rglob("*") if not place.is_symlink())
            if place.is_symlink():
                place.unlink()
            else:
                shutil.rmtree(place, ignore_errors=True)
    return freed
