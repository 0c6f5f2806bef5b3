"""The work behind the commands, as functions that any launcher can start: they take paths and return an exit code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from cluster.requeue import requeued
from sr.config import EngineConfig
from sr.ledger import Ledger, State
from sr.lock import is_held
from sr.ranks import Place, in_words, place_from_environment
from sr.rollcall import OtherRankFailedError, RankLostError
from sr.scores import mean_scores
from sr.train import Stop
from sweeps import driver
from sweeps.cli.follow import Follow
from sweeps.cli.show import say
from sweeps.cli.table import as_plain, print_verdict
from sweeps.deaths import record_failure, survived, write_death
from sweeps.evaluation import evaluate_trial
from sweeps.interrupt import GRACE_S, Interruption, exit_code_for, listening
from sweeps.rank import Attempt, train_and_tell
from sweeps.report.build import write_report
from sweeps.store import SweepFolder
from sweeps.supervisor import MAX_FAILURES, supervise
from sweeps.sweep import Sweep, reopen
from sweeps.tracking import Feed, fed

OK, FAILED, USAGE, SOME_TRIALS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

_REQUEUE_S = 5.0
"""Of the grace period, kept for asking SLURM to start the job again."""
RayCluster = Callable[[], AbstractContextManager[str | None]]
"""Brings up a Ray cluster for the block and gives its address; None: one of the driver's own, on its machine."""


def run_sweep(folder: Path, *, grace_s: float = GRACE_S, ray: RayCluster = nullcontext) -> int:
    """Runs what is unfinished of a sweep, evaluates, reports; returns the exit code.

    Args:
        folder: The sweep's.
        grace_s: How long after a signal the process ends anyway.
        ray: Where its trials run; gone when the report is written, and before a SLURM job is requeued.
    """
    with listening(grace_s=grace_s) as interruption:
        sweep = reopen(SweepFolder(folder))
        with fed(folder, sweep.trials[0].config.tracking, say=say) as feed:
            with ray() as address, Follow(sweep) as follow:
                driver.run(sweep, progress=follow, ray_address=address)
            say()
            return ended(sweep, interruption, feed)


def ended(sweep: Sweep, interruption: Interruption, feed: Feed | None) -> int:
    """What comes when a sweep has ended or was interrupted: the verdict, or how to go on; returns the exit code."""
    if interruption.reason():
        if feed is not None:
            # To requeue a job is to end this process, and that takes a moment itself.
            feed.end(at_most_s=interruption.seconds_left - _REQUEUE_S)
        return sweep_interrupted(sweep, interruption.reason())
    with interruption.at_once(f"the report is not written; write it with: srloss report {sweep.folder.path}"):
        return conclude(sweep)


def sweep_interrupted(sweep: Sweep, reason: str) -> int:
    """Says what is left to do, and has SLURM start the job again if that asked for its end; returns the exit code."""
    unfinished = sweep.with_state(State.PENDING, State.RUNNING)
    for trial in unfinished:
        status = sweep.ledger(trial).status()
        if status.attempt:
            steps = trial.config.training.steps
            say(f"unfinished: {trial.candidate} {trial.settings}: step {status.step} of {steps}")
    say(
        f"interrupted by {reason}: {len(unfinished)} of {len(sweep.trials)} trials are unfinished, "
        f"{len(sweep.unevaluated())} wait to be evaluated; continue with: {sweep.folder.resume_command}"
    )
    if told := requeued(reason, folder=sweep.folder.path, progress=progress_of(sweep)):
        say(told)
    return exit_code_for(reason)


def progress_of(sweep: Sweep) -> int:
    """How far a sweep has come: steps of all trials, and models evaluated."""
    ledgers = [sweep.ledger(trial) for trial in sweep.trials]
    return sum(ledger.status().step + bool(ledger.evaluation()) for ledger in ledgers)


def conclude(sweep: Sweep) -> int:
    """Writes the report, prints the verdict and where things are; returns the exit code."""
    verdict = write_report(sweep, sweep.folder.report)
    sweep.folder.add_verdict(as_plain(verdict))
    print_verdict(verdict)
    say()
    failed = sweep.with_state(State.FAILED)
    for trial in failed:
        ledger = sweep.ledger(trial)
        say(f"failed: {trial.candidate} {trial.settings}: {ledger.status().reason}")
        say(f"        log: {ledger.log_path}")
    cancelled = sweep.with_state(State.CANCELLED)
    for trial in cancelled:
        say(f"cancelled: {trial.candidate} {trial.settings}: {sweep.ledger(trial).status().reason}")
    say(f"report: {sweep.folder.report}")
    unfinished = sweep.with_state(State.PENDING, State.RUNNING)
    for trial in sweep.unevaluated():
        say(
            f"not evaluated: {trial.candidate} {trial.settings}; try again with: {sweep.folder.resume_command}"
        )
    if unfinished:
        say(
            f"{len(unfinished)} of {len(sweep.trials)} trials are unfinished; continue with: {sweep.folder.resume_command}"
        )
        return INTERRUPTED
    if failed or cancelled:
        total = len(sweep.trials)
        told = [f"{len(failed)} of {total} trials failed"] * bool(failed)
        told += [f"{len(cancelled)} of {total} trials were cancelled"] * bool(cancelled)
        say(f"{', '.join(told)}; try them again with: {sweep.folder.resume_command}")
        return FAILED if len(failed + cancelled) == len(sweep.trials) else SOME_TRIALS_FAILED
    return SOME_TRIALS_FAILED if sweep.unevaluated() else OK


def run_train(
    folder: Path, *, engine: EngineConfig, grace_s: float = GRACE_S, max_failures: int = MAX_FAILURES
) -> int:
    """Trains the trial in a folder to its end and evaluates it; returns the exit code.

    Under `torchrun` or `srun` this process is one rank of it, and all but the first are quiet.

    Args:
        folder: The trial's; made by the first rank, before.
        engine: How it is computed, whatever the folder says.
        grace_s: How long after a signal the process ends anyway.
        max_failures: How often ranks that this process has started itself are started again.
    """
    place = place_from_environment()
    is_quiet = place is not None and place.rank > 0
    with (
        listening(grace_s=grace_s) as interruption,
        nullcontext() if is_quiet else fed(folder, Ledger(folder).config().tracking, say=say) as feed,
    ):
        try:
            if place is None and engine.ranks > 1:
                attempt = supervise(
                    folder,
                    engine=engine,
                    max_failures=max_failures,
                    grace_s=grace_s,
                    interruption=interruption,
                    say=say,
                )
            else:
                attempt = _train_unwatched(folder, engine, place, interruption.reason)
        except OtherRankFailedError as error:
            if is_quiet:
                return FAILED
            raise ValueError(str(error)) from None
        except RankLostError as error:
            raise OSError(f"{error}\nto go on from the last checkpoint: {_how_to_go_on(folder)}") from None
        if is_quiet:
            return exit_code_for(attempt.interrupted_by) if attempt.interrupted_by else OK
        if attempt.interrupted_by:
            if feed is not None:
                feed.end(at_most_s=interruption.seconds_left - _REQUEUE_S)
            return _interrupted(folder, attempt)
        with interruption.at_once(f"trained in full but not evaluated; to go on: {_how_to_go_on(folder)}"):
            return _evaluate(folder)


def _train_unwatched(folder: Path, engine: EngineConfig, place: Place | None, stop: Stop) -> Attempt:
    """Trains as a process that no supervisor watches: what ends the trial is written down by the first rank itself."""
    try:
        return train_and_tell(folder, engine=engine, place=place, stop=stop)
    except Exception as error:
        # Where somebody else trains it, that alone was the error.
        if (place is None or place.rank == 0) and not is_held(folder):
            is_own_fault = not isinstance(error, OSError | MemoryError | RankLostError)
            (record_failure if is_own_fault else write_death)(Ledger(folder), in_words(error))
        raise


def _interrupted(folder: Path, attempt: Attempt) -> int:
    status = attempt.status
    say(
        f"interrupted by {attempt.interrupted_by} after step {status.step}; to go on: {_how_to_go_on(folder)}"
    )
    if told := requeued(attempt.interrupted_by, folder=folder, progress=status.step):
        say(told)
    return exit_code_for(attempt.interrupted_by)


def _how_to_go_on(folder: Path) -> str:
    """The command that continues the trial in a folder."""
    sweep = SweepFolder(folder.parent.parent)
    # An element of an array is started by the sweep's own job again, or by whoever resumes it.
    return f"srloss resume {sweep.sweep_id}" if sweep.exists() else Ledger(folder).command()


def _evaluate(folder: Path) -> int:
    ledger = Ledger(folder)
    status = ledger.status()
    say(f"finished: {status.reason}, {status.seconds:.0f} s")
    known = len(survived(ledger))
    num_clips = evaluate_trial(folder)
    for problem in survived(ledger)[known:]:
        say(f"  warning: {problem}")
    scores = ", ".join(f"{name} {mean:.4f}" for name, mean in mean_scores(ledger.evaluation()).items())
    say(f"evaluated on {num_clips} held-out clips: {scores}")
    say(f"trial: {folder}")
    return OK
