"""Runs a sweep: all its trials, then their evaluation; what the command line and the demo both call."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from sr.config import TrialConfig
from sr.ledger import Ledger, State
from sr.lock import exclusive
from sweeps import agendas, tune
from sweeps.deaths import deaths, record_failure, survived
from sweeps.evaluation import BASELINE, evaluate_baseline, evaluate_trial, mark_stopped_early
from sweeps.interrupt import Interruption, StopFile, hear_again, listening
from sweeps.resources import concurrency, this_machine
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep
from sweeps.watch import SweepWatch

_SAVE_S = 10.0
"""How long trials may take to leave a checkpoint when Ray is gone already."""


class Progress(Protocol):
    """What a sweep tells whoever watches it."""

    def trials_begin(self, total: int, done: int, steps: int) -> None:
        """The sweep has `total` trials of `steps` steps in all, `done` of which need not run any more."""
        ...

    def validated(self, trial: PlannedTrial, metrics: dict[str, Any]) -> None:
        """A trial was validated."""
        ...

    def trial_ended(self, trial: PlannedTrial, ledger: Ledger, reason: str) -> None:
        """A trial has ended, in whatever way, for this reason."""
        ...

    def trial_died(self, trial: PlannedTrial, ledger: Ledger, cause: str) -> None:
        """A trial was ended from outside, for this cause, and is started again."""
        ...

    def trial_had_problem(self, trial: PlannedTrial, problem: str) -> None:
        """A trial met a problem that it survived."""
        ...

    def stage_ended(self, trial: PlannedTrial, message: str) -> None:
        """A stage of a trial's ladder has ended, and how, in a sentence."""
        ...

    def evaluation_begins(self, total: int) -> None:
        """So many models will be evaluated."""
        ...

    def evaluated(self, name: str, problem: str) -> None:
        """A model was evaluated, or could not be."""
        ...


def run(sweep: Sweep, *, progress: Progress, ray_address: str | None = None) -> None:
    """Trains what is unfinished, evaluates what is not yet evaluated; what failed waits for `Sweep.try_again`.

    Afterwards the ledgers hold everything; `sweeps.verdict` and the report read them. Asked to stop by a signal, it returns
    early, when all trials that ran have left a checkpoint.

    Args:
        sweep: What to run.
        progress: Told how it goes.
        ray_address: Of a Ray cluster to run on, which sees the same folders; None: one of its own, on this machine.

    Raises:
        ValueError: Not even one trial fits the machine, or there is no such cluster.
    """
    here = this_machine()
    if ray_address is None:
        concurrency(sweep.config, sweep.trials, here)
    with (
        exclusive(sweep.folder.path, timeout_s=2, what="this sweep is being run"),
        listening() as interruption,
        _ray(ray_address, here, functools.partial(_ray_is_lost, sweep, interruption)) as machines,
    ):
        # Ray has put its own handlers in their place.
        hear_again()
        if interruption.reason():
            # Asked while machines were joining: those that have not yet would be missed in what follows.
            return
        at_once = concurrency(sweep.config, sweep.trials, machines if ray_address else here)
        stop = StopFile(sweep.folder.path)
        # What an earlier run was asked does not count.
        stop.clear()
        interruption.heed(stop.reason)
        _train(sweep, progress, at_once, interruption, stop)
        if not interruption.reason():
            _evaluate(sweep, progress, interruption)


def _ray(
    address: str | None, here: tune.Machines, on_lost: tune.OnLost
) -> AbstractContextManager[tune.Machines]:
    if address:
        return tune.existing_ray(address, on_lost=on_lost)
    return tune.embedded_ray(cpus=int(here.cpus), gpus=int(here.gpus), on_lost=on_lost)


def _ray_is_lost(sweep: Sweep, interruption: Interruption, what: str) -> tuple[str, int]:
    """Last words and exit code where Ray has died; trials that were asked to stop may do so first."""
    advice = f"continue with: {sweep.folder.resume_command}"
    if not interruption.reason():
        return f"error: {what}, and no trial can go on without it; {advice}", 1
    # Whoever asked all processes of a job has asked Ray's as well, which leave at once.
    deadline = time.monotonic() + min(_SAVE_S, interruption.seconds_left)
    while sweep.with_state(State.RUNNING) and time.monotonic() < deadline:
        time.sleep(0.2)
    return f"interrupted by {interruption.reason()}; {advice}", interruption.exit_code


def _train(
    sweep: Sweep,
    progress: Progress,
    at_once: int,
    interruption: Interruption,
    stop: StopFile,
) -> None:
    over = [trial for trial in sweep.trials if sweep.ledger(trial).status().has_ended]
    todo = [trial for trial in sweep.trials if trial not in over]
    total = agendas.num_trials(sweep.config, sweep.trials)
    steps = sum(trial.config.training.steps for trial in todo)
    steps += (total - len(sweep.trials)) * sweep.trials[0].config.training.steps
    progress.trials_begin(total, len(over), steps)
    if not todo and total == len(sweep.trials):
        return
    interruption.tell(stop.write)
    # A scheduler that stops trials must see the finished ones again to judge the others by them.
    running = [*sweep.trials] if sweep.config.early_terminate else todo
    storage = sweep.folder.path / "ray"
    shutil.rmtree(storage, ignore_errors=True)

    watch = SweepWatch(sweep, progress, todo, interruption)
    tune.run_trials(
        sweep.config,
        running or sweep.trials,
        sweep.folder.path / "trials",
        storage=storage,
        max_concurrent=at_once,
        watch=watch,
        stop=stop,
        agenda=agendas.agenda_of(sweep, running, at_once=at_once, on_new=watch.add),
    )
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        if trial.trial_id in watch.seen_to_an_end and not ledger.status().has_ended:
            mark_stopped_early(ledger)
    shutil.rmtree(storage, ignore_errors=True)


def _evaluate(
    sweep: Sweep,
    progress: Progress,
    interruption: Interruption,
    *,
    run_tasks: Callable[..., None] = tune.run_tasks,
) -> None:
    folders: dict[Path, str] = {}
    trials: dict[Path, tuple[PlannedTrial, int]] = {}
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        if ledger.status().is_over and not ledger.evaluation():
            folders[ledger.folder.resolve()] = f"{trial.candidate} {trial.settings}"
            trials[ledger.folder.resolve()] = trial, len(survived(ledger))
    baseline = sweep.folder.baseline(BASELINE)
    if not baseline.evaluation():
        folders[baseline.folder.resolve()] = BASELINE
    progress.evaluation_begins(len(folders))

    def on_done(folder: Path, problem: str) -> None:
        progress.evaluated(folders[folder], problem)
        if folder in trials:
            trial, known = trials[folder]
            for found in survived(sweep.ledger(trial))[known:]:
                progress.trial_had_problem(trial, found)

    first = sweep.trials[0].config
    task = functools.partial(evaluate_folder, config=first, command=sweep.command)
    run_tasks(
        task,
        list(folders),
        cpus=first.engine.threads,
        gpus=sweep.config.gpus_per_rank,
        on_done=on_done,
        stop=interruption.reason,
    )


def finish(sweep: Sweep, *, progress: Progress) -> None:
    """Does what is left when all trials have ended that were trained without a driver: evaluation, without Ray.

    Trials that are unfinished still count as failed.

    Raises:
        ValueError: Some other process runs the sweep.
    """
    with (
        exclusive(sweep.folder.path, timeout_s=2, what="this sweep is being run"),
        listening() as interruption,
    ):
        for trial in sweep.with_state(State.PENDING, State.RUNNING):
            ledger = sweep.ledger(trial)
            causes = "".join(f"; the last time: {cause}" for cause in deaths(ledger)[-1:])
            record_failure(ledger, f"ended from outside more than {sweep.config.max_failures} times{causes}")
        _evaluate(sweep, progress, interruption, run_tasks=_one_by_one)


def _one_by_one(
    task: Callable[[Path], int],
    folders: Sequence[Path],
    *,
    on_done: Callable[[Path, str], None],
    stop: Callable[[], str],
    **_: float,
) -> None:
    """As `tune.run_tasks`, in this process."""
    for folder in folders:
        if stop():
            return
        try:
            task(folder.resolve())
        except (ValueError, OSError) as error:
            on_done(folder.resolve(), str(error))
        else:
            on_done(folder.resolve(), "")


def evaluate_folder(folder: Path, *, config: TrialConfig, command: str) -> int:
    """Evaluates the trial in a folder, or the baseline where the folder is that one."""
    if folder.parent.name == "baseline":
        return evaluate_baseline(Ledger(folder), config, command=command)
    return evaluate_trial(folder)
