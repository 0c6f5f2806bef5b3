"""Has SLURM start this process's job again, once everything is saved: after a time limit or a preemption, not after a cancel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from cluster.jobfolder import read_json, write_json

MOST_FRUITLESS = 3
"""Starts in a row without any progress after which a job is not requeued any more."""
_TIMEOUT_S = 20
_ASKS = ("SIGUSR1", "SIGUSR2")
"""What `sbatch --signal` sends before the time limit."""


def requeued(reason: str, *, folder: Path | None = None, progress: int = 0) -> str:
    """Requeues this process's SLURM job if that is what the request to stop calls for; what came of it, in words.

    It ends the job, so it comes last. SIGUSR1 and SIGUSR2 call for it; so does the SIGTERM of a preemption, after which
    a job that ends by itself would count as over, and that of a time limit of which no other signal told.

    Args:
        reason: Name of the signal that was heard; empty: none.
        folder: Where to keep count of starts without progress; None: they are not counted.
        progress: How much has been done in all; any number that grows.

    Returns:
        Empty where there is nothing to requeue.
    """
    job = _job()
    scontrol = shutil.which("scontrol")
    if not reason or not job or scontrol is None:
        return ""
    if reason not in _ASKS and not (reason == "SIGTERM" and is_ended_by_slurm(job)):
        return ""
    if folder is not None and _fruitless_starts(folder, job, progress) >= MOST_FRUITLESS:
        return (
            f"SLURM job {job} is not requeued: {MOST_FRUITLESS} starts in a row came no further; give it more time "
            "(cluster.timeout_min) or look for the cause in its log"
        )
    try:
        done = subprocess.run(
            [scontrol, "requeue", job], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"SLURM job {job} could not be requeued: {error}"
    if done.returncode != 0:
        why = done.stderr.strip() or f"exit code {done.returncode}"
        return f"SLURM job {job} could not be requeued: {why}"
    return f"requeued as SLURM job {job}"


def _job() -> str:
    """This process's job, an element of an array as people name it; empty outside of SLURM."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "")


def is_ended_by_slurm(job: str) -> bool:
    """Whether SLURM ends this job of its own accord: for a more important one, or because its time is over."""
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", job], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    # Other keys end in the same word.
    preempted = re.search(r"\bPreemptTime=(\S+)", shown)
    is_preempted = preempted is not None and preempted[1] not in ("None", "N/A", "Unknown")
    return is_preempted or re.search(r"\bJobState=(TIMEOUT|PREEMPTED)\b", shown) is not None


def _fruitless_starts(folder: Path, job: str, progress: int) -> int:
    """How many starts of this job in a row, this one included, have come no further than the one before."""
    path = folder / "requeued.json"
    last = {"job": job, "progress": 0, "fruitless": 0}
    if path.exists():
        stored = read_json(path)
        # A person who submits it again starts the count anew.
        last = stored if stored["job"] == job else last | {"progress": stored["progress"]}
    fruitless = last["fruitless"] + 1 if progress <= last["progress"] else 0
    write_json(path, {"job": job, "progress": progress, "fruitless": fruitless})
    return fruitless
