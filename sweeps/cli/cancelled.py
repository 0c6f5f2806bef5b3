"""Ends a sweep or one of its trials, and says what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from sr.lock import holder
from sweeps import cancelling
from sweeps.cli.overview_shown import job_line, resume_command
from sweeps.cli.show import say, warn
from sweeps.cli.watched import find_trial
from sweeps.overview import Overview, look_at_jobs, overview
from sweeps.store import SweepFolder
from sweeps.trial_view import TrialView

_SAVE_S = 30.0
"""How long trials may take to save before their job is ended all the same; SLURM's KillWait comes on top."""
_END_S = 20.0
"""How long to wait for what was asked to end."""
_POLL_S = 0.5


def cancel_sweep(folder: SweepFolder, *, keep: bool) -> int:
    """Ends a sweep; the exit code, 1 where something of it could not be ended."""
    view = overview(folder)
    is_ended = True
    if view.is_active:
        _let_save(folder, view)
        is_ended = _end_jobs(folder, view)
        view = overview(folder)
    elif not view.problems:
        say(f"sweep {view.sweep_id}: nothing of it runs or waits")
    for problem in view.problems:
        warn(problem)
    if not keep:
        _delete(view, [trial for trial in view.trials if trial.state not in ("finished", "stopped_early")])
    if view.problems:
        warn("so it may still run or wait; cancel it again when that is settled")
        return 1
    _say_left(view)
    return 0 if is_ended else 1


def _let_save(folder: SweepFolder, view: Overview) -> None:
    """Asks a driver's trials to save, and waits until they have; an array's are asked by SLURM."""
    if not view.driver:
        return
    running = [trial for trial in view.trials if trial.state == "running"]
    cancelling.ask_all(folder.path)
    if running:
        say(f"asking {_count(running)} to save and end ...")
        _wait(lambda: not any(t.state == "running" for t in overview(folder).trials), _SAVE_S)


def _end_jobs(folder: SweepFolder, view: Overview) -> bool:
    """Ends what is submitted, and a driver that was not; a line for each. Whether all did."""
    active = [job for job in view.jobs if job.is_active]
    slurm = [job for job in active if job.record.launcher == "slurm"]
    is_ended = True
    try:
        if slurm:
            cancelling.end_slurm_jobs(slurm)
    except OSError as error:
        warn(str(error))
        is_ended = False
    for job in active:
        try:
            if job.record.launcher != "slurm":
                cancelling.end_job(job.record, wait_s=_END_S)
        except (ValueError, OSError) as error:
            warn(str(error))
            is_ended = False
    records = [job.record for job in active]
    _wait(lambda: not any(job.is_active for job in look_at_jobs(records, [])), _END_S)
    left = look_at_jobs(records, [])
    for job in left:
        say(job_line(job))
    return _end_driver(folder) and is_ended and not any(job.is_active for job in left)


def _end_driver(folder: SweepFolder) -> bool:
    """Ends a driver that somebody has started by hand, if there is one."""
    driver = holder(folder.path)
    if driver is None:
        return True
    is_here = cancelling.end_driver(driver)
    if _wait(lambda: holder(folder.path) is None, _END_S):
        say(f"{driver}: has ended")
        return True
    if is_here:
        warn(f"{driver}: was asked to end and still runs; to end it at once: kill -9 {driver.pid}")
    else:
        warn(f"{driver}: was asked to end by way of {folder.path / cancelling.STOP}, and still runs")
    return False


def cancel_trial(folder: SweepFolder, name: str, *, keep: bool) -> int:
    """Ends one trial; the exit code.

    Raises:
        ValueError: There is no such trial, or it is over.
    """
    view = overview(folder)
    trial = find_trial(view, name)
    if trial.state in ("finished", "stopped_early", "failed"):
        raise ValueError(f"trial {trial.name} is {trial.state.replace('_', ' ')} already: {trial.reason}")
    place = folder.path / "trials" / trial.trial_id
    if trial.state != "cancelled":
        cancelling.ask_trial(place)
        _end_trial(folder, view, trial, place)
    after = _again(folder, trial)
    if after.has_ended:
        say(f"trial {after.name}: {after.reason or after.state}")
    else:
        say(f"trial {after.name}: asked to end; it does so at its next safe point, see: srloss status")
    if not keep:
        _delete(view, [after])
    if after.state == "cancelled":
        say(f"to go on with it: {resume_command(view)}")
    return 0


def _end_trial(folder: SweepFolder, view: Overview, trial: TrialView, place: Path) -> None:
    """Waits until a trial that runs has saved; one that does not run is cancelled here and now."""
    if trial.state == "running":
        say(f"asking {trial.name} to save and end ...")
        _wait(lambda: _again(folder, trial).has_ended, _SAVE_S)
    else:
        cancelling.settle_if_free(place)
    element = cancelling.end_element(view.jobs, trial.trial_id)
    if element:
        say(f"SLURM job {element}: cancelled")
        # Killed before it has seen the file, it could not settle this itself.
        _wait(lambda: _again(folder, trial).has_ended or cancelling.settle_if_free(place), _END_S)


def _again(folder: SweepFolder, trial: TrialView) -> TrialView:
    return next(found for found in overview(folder).trials if found.trial_id == trial.trial_id)


def _delete(view: Overview, trials: list[TrialView]) -> None:
    freed: list[int] = []
    for trial in trials:
        try:
            freed.append(cancelling.delete_checkpoints(view.folder / "trials" / trial.trial_id))
        except (ValueError, OSError) as error:
            warn(str(error))
    say(f"checkpoints of {len(freed)} of {_count(trials)} deleted: {sum(freed) / 1e6:.1f} MB")


def _say_left(view: Overview) -> None:
    left = [trial for trial in view.trials if not trial.has_ended]
    begun = [trial for trial in left if trial.attempt]
    if left:
        say(
            f"{_count(left)} of {len(view.trials)} unfinished, {len(begun)} of them begun; go on with: "
            f"{resume_command(view)}"
        )


def _wait(is_so: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (so := is_so()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return so


def _count(trials: list[TrialView]) -> str:
    return f"{len(trials)} trial{'s' * (len(trials) != 1)}"
