"""What a sweep's jobs and trials have logged, and what they go on to log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster.api import JobState
from sweeps.cli.overview_shown import job_line
from sweeps.cli.watched import find_trial
from sweeps.joblogs import Follower, files_of, ranks_in, trial_files
from sweeps.overview import JobView, Overview, overview
from sweeps.store import SweepFolder
from sweeps.trial_view import Memory, TrialView

_READ_EVERY_S = 0.5
_ASK_EVERY_S = 5.0
"""How often it is asked whether it is over; the scheduler has others to answer."""


def show_logs(folder: SweepFolder, *, trial: str | None, rank: int, lines: int, follow: bool) -> int:
    """Prints the last lines, and with `follow` what comes after them until it is over.

    Raises:
        ValueError: There is nothing to print yet, and why; or no such trial.
    """
    view = overview(folder)
    chosen = None if trial is None else find_trial(view, trial)
    try:
        job = None if chosen is not None else _job(view)
        if job is not None and job.record.launcher == "ray":
            _show_ray(job, lines=lines, follow=follow)
            return 0
        files = _files(folder, chosen, job, rank)
        if not files() and not (follow and _may_come(view, chosen)):
            raise ValueError(_why_none(view, chosen, job, rank))
        if not follow:
            _print([(path, Follower().begin(path, lines)) for path in files()], None)
            return 0
        return _follow(folder, files, chosen, lines, why_none=_why_none(view, chosen, job, rank))
    except BrokenPipeError:
        # Whoever reads it, such as `head`, has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _job(view: Overview) -> JobView | None:
    """The submission whose output is the sweep's: the latest that runs, else the latest that is no array."""
    drivers = [job for job in view.jobs if job.record.kind != "array"]
    active = [job for job in drivers if job.is_active]
    if drivers:
        return (active or drivers)[-1]
    return view.jobs[-1] if view.jobs else None


def _files(
    folder: SweepFolder, trial: TrialView | None, job: JobView | None, rank: int
) -> Callable[[], list[Path]]:
    """Finds the files there are now."""
    if trial is not None:
        place = folder.path / "trials" / trial.trial_id
        return lambda: trial_files(place, rank=rank)
    if job is None:
        return list
    return lambda: files_of(job.record, rank=rank)


def _may_come(view: Overview, trial: TrialView | None) -> bool:
    return view.is_active and not (trial is not None and trial.has_ended)


def _why_none(view: Overview, trial: TrialView | None, job: JobView | None, rank: int) -> str:
    """Why there is no log."""
    if trial is not None:
        place = view.folder / "trials" / trial.trial_id
        if ranks := ranks_in(place):
            known = ", ".join(map(str, ranks))
            return f"trial {trial.name} has no log of rank {rank} yet; there are those of: {known}"
        why = f" ({trial.reason})" if trial.reason else ""
        return f"trial {trial.name} has no log yet: it is {trial.state}{why}"
    if job is not None:
        if rank:
            return f"{job_line(job)}; task {rank} has printed nothing, or there is no such task"
        if job.record.kind == "array" or job.elements:
            return f"{job_line(job)}; the trials' logs are with --trial"
        if job.status is not None and job.status.state is JobState.FAILED:
            return (
                f"{job_line(job)}; it has printed nothing: do the nodes see {job.record.log_folder}? srloss doctor --on "
                f"{job.record.launcher} shows what they have"
            )
        return f"{job_line(job)}; it has printed nothing yet, see {job.record.log_folder}"
    if view.driver:
        told = f"is run by {view.driver}, which prints to its own terminal"
    else:
        told = "was never submitted, and nothing runs it"
    return f"sweep {view.sweep_id} {told}; for a trial's log add --trial NUMBER"


def _follow(
    folder: SweepFolder,
    files: Callable[[], list[Path]],
    trial: TrialView | None,
    lines: int,
    *,
    why_none: str,
) -> int:
    """Through requeues and new jobs, until it is over."""
    memory, follower = Memory(), Follower()
    started = files()
    last = _print([(path, follower.begin(path, lines)) for path in started], None)
    if not started:
        sys.stderr.write(f"{why_none}; waiting\n")
    asked = time.monotonic()
    quiet = 0
    while quiet < 2:
        time.sleep(_READ_EVERY_S)
        last = _print(list(follower.more(files())), last)
        if time.monotonic() - asked < _ASK_EVERY_S:
            continue
        view = overview(folder, memory)
        if trial is None:
            # A job that was submitted since goes on with the sweep.
            files = _files(folder, None, _job(view), 0) if len(view.jobs) else files
        else:
            trial = next(found for found in view.trials if found.trial_id == trial.trial_id)
        asked = time.monotonic()
        quiet = 0 if _may_come(view, trial) else quiet + 1
    _print(list(follower.more(files())), last)
    return 0


def _print(pieces: list[tuple[Path, bytes]], last: Path | None) -> Path | None:
    """Prints pieces of files, with the file's name where it is another one than before; the last one's name."""
    for path, text in pieces:
        if (last is not None and path != last) or (last is None and len(pieces) > 1):
            sys.stdout.write(f"==> {path} <==\n")
        sys.stdout.write(text.decode(errors="replace"))
        last = path
    sys.stdout.flush()
    return last


def _show_ray(job: JobView, *, lines: int, follow: bool) -> None:
    from cluster import ray_jobs

    if follow:
        for piece in ray_jobs.follow(job.record):
            sys.stdout.write(piece)
            sys.stdout.flush()
        return
    text = ray_jobs.logs(job.record).splitlines(keepends=True)
    sys.stdout.write("".join(text[-lines:] if lines else []))
