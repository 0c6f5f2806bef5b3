"""The work behind the commands, as functions that any launcher can start: they take paths and return an exit code."""

from __future__ import annotations

from pathlib import Path

from sr.evaluate import mean_scores
from sr.ledger import State, open_trial
from sr.train import train
from sr.world import single_process
from sweeps import driver
from sweeps.cli.follow import Follow
from sweeps.cli.show import say
from sweeps.cli.table import print_verdict
from sweeps.evaluation import evaluate_trial
from sweeps.report.build import write_report
from sweeps.store import SweepFolder

OK, FAILED, USAGE, SOME_TRIALS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def run_sweep(folder: Path) -> int:
    """Runs what is unfinished of a sweep, evaluates, reports; returns the exit code."""
    sweep = driver.reopen(SweepFolder(folder))
    with Follow(sweep) as follow:
        driver.run(sweep, progress=follow)
    say()
    return conclude(sweep)


def conclude(sweep: driver.Sweep) -> int:
    """Writes the report, prints the verdict and where things are; returns the exit code."""
    verdict = write_report(sweep, sweep.folder.report)
    print_verdict(verdict)
    say()
    failed = sweep.with_state(State.FAILED)
    for trial in failed:
        ledger = sweep.ledger(trial)
        say(f"failed: {trial.candidate} {trial.settings}: {ledger.status().reason}")
        say(f"        log: {ledger.log_path}")
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
    if failed:
        say(
            f"{len(failed)} of {len(sweep.trials)} trials failed; try them again with: {sweep.folder.resume_command}"
        )
        return FAILED if len(failed) == len(sweep.trials) else SOME_TRIALS_FAILED
    return SOME_TRIALS_FAILED if sweep.unevaluated() else OK


def run_train(folder: Path) -> int:
    """Trains the trial in a folder to its end and evaluates it; returns the exit code."""
    ledger, config = open_trial(folder)
    if not ledger.status().is_over:

        def report(metrics: dict[str, float]) -> None:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "step")
            say(f"  step {metrics['step']} of {config.training.steps}: {scores}")

        train(config, world=single_process(config.engine.device), ledger=ledger, report=report)
    status = ledger.status()
    say(f"finished: {status.reason}, {status.seconds:.0f} s")
    num_clips = evaluate_trial(folder)
    scores = ", ".join(f"{name} {mean:.4f}" for name, mean in mean_scores(ledger.evaluation()).items())
    say(f"evaluated on {num_clips} held-out clips: {scores}")
    say(f"trial: {folder}")
    return OK
