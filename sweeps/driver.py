"""A sweep from its file to its verdict: what the command line and the demo both call."""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cluster.machine import available_cpus, available_memory_bytes, num_gpus
from shards import manifest
from sr.config import TrialConfig
from sr.configfile import ConfigError
from sr.data import held_out
from sr.ledger import Ledger, State
from sr.lock import exclusive, is_held
from sr.parts import build_criterion
from sr.track import TrackedTrial, VerifiedRun, WandbFeed, verify_offline_run
from sweeps import tune
from sweeps.evaluation import BASELINE, evaluate_baseline, evaluate_trial, mark_stopped_early, stop_reason
from sweeps.spec import PlannedTrial, SweepConfig, expand, parse_sweep, sweep_id
from sweeps.store import SweepFolder


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

    def trial_died(self, trial: PlannedTrial, ledger: Ledger) -> None:
        """A trial's process died and is started again."""
        ...

    def evaluation_begins(self, total: int) -> None:
        """So many models will be evaluated."""
        ...

    def evaluated(self, name: str, problem: str) -> None:
        """A model was evaluated, or could not be."""
        ...

    def tracking_lost(self, problem: str) -> None:
        """W&B was given up during the sweep; the ledgers are complete all the same."""
        ...


@dataclass(frozen=True)
class Sweep:
    """A sweep on disk, ready to run or to be looked at."""

    config: SweepConfig
    trials: tuple[PlannedTrial, ...]
    folder: SweepFolder
    command: str

    def ledger(self, trial: PlannedTrial) -> Ledger:
        """The ledger of one of its trials."""
        return self.folder.trial(trial.trial_id)

    def is_running(self) -> bool:
        """Whether some process is running this sweep now."""
        return is_held(self.folder.path)

    def unevaluated(self) -> list[PlannedTrial]:
        """Its trials that were trained in full but could not be evaluated."""
        return [trial for trial in self.with_state(State.FINISHED) if not self.ledger(trial).evaluation()]

    def with_state(self, *states: State) -> list[PlannedTrial]:
        """Its trials that stand in one of these states."""
        return [trial for trial in self.trials if self.ledger(trial).status().state in states]


def plan(config: SweepConfig) -> tuple[PlannedTrial, ...]:
    """Expands a sweep against its data set, so that each trial is bound to the very data.

    Raises:
        ValueError: A data set is missing or damaged, or a combination is not a valid trial.
    """
    section = config.trial.get("data")
    if not isinstance(section, dict) or not isinstance(section.get("path"), str):
        raise ConfigError(
            ["trial.data.path: missing; give the folder of a packed data set (srloss shard pack makes one)"]
        )
    place = section["path"]
    absolute = place if "://" in place else str(Path(place).resolve())
    bound = config.model_copy(update={"trial": config.trial | {"data": section | {"path": absolute}}})
    dataset = manifest.load(absolute)
    trials = tuple(expand(bound, dataset_fingerprint=dataset.fingerprint))
    # Now, rather than once per trial after minutes of training.
    held_out(dataset, trials[0].config)
    return trials


def create(config: SweepConfig, *, store: Path, command: str) -> Sweep:
    """Makes the sweep's folder, with a folder for each trial.

    Raises:
        ValueError: This very sweep exists already, and how to continue it; or a loss or a metric cannot be built here.
    """
    trials = plan(config)
    _check_parts(trials)
    folder = SweepFolder(store / "sweeps" / sweep_id(config, trials))
    if (folder.path / "plan.json").exists():
        over = sum(folder.trial(trial.trial_id).status().is_over for trial in trials)
        raise ValueError(
            f"{folder.path}: this very sweep exists, {over} of {len(trials)} trials finished. Continue it with: "
            f"{folder.resume_command} (or delete that folder to start over)"
        )
    for trial in trials:
        ledger = folder.trial(trial.trial_id)
        ledger.create(
            trial.config, command=shlex.join(["srloss", "train", str(ledger.folder / "config.yaml")])
        )
    folder.write_plan(
        {
            "sweep": config.model_dump(mode="json"),
            "trials": [[trial.trial_id, trial.candidate, trial.variant] for trial in trials],
            "command": command,
            "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
    )
    return Sweep(config, trials, folder, command)


def _check_parts(trials: Sequence[PlannedTrial]) -> None:
    """Builds each different loss once: missing weights are told before anything runs, not by every trial."""
    losses = {loss.model_dump_json(): loss for trial in trials for loss in trial.config.losses}
    faults: list[str] = []
    for loss in losses.values():
        try:
            build_criterion(loss)
        except ValueError as error:
            if str(error) not in faults:
                faults.append(str(error))
    if faults:
        raise ValueError("\n".join(faults))


def reopen(folder: SweepFolder) -> Sweep:
    """Opens a sweep that exists.

    Raises:
        ValueError: Its folder is incomplete.
    """
    try:
        stored = folder.read_plan()
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder.path}: not a sweep that can be continued ({error}); start it anew"
        ) from None
    config = parse_sweep(stored["sweep"], where=str(folder.path / "plan.json"))
    trials = tuple(
        PlannedTrial(name, folder.trial(name).config(), candidate, variant)
        for name, candidate, variant in stored["trials"]
    )
    return Sweep(config, trials, folder, stored["command"])


def concurrency(config: SweepConfig, trials: Sequence[PlannedTrial]) -> int:
    """How many trials run at once: what the CPUs, the memory and the GPUs carry, and the file allows."""
    threads = max(trial.config.engine.threads for trial in trials)
    limits = [
        int(available_cpus() // threads),
        int(available_memory_bytes() // (config.memory_gb_per_trial * 1e9)),
        len(trials),
    ]
    if config.gpus_per_trial:
        limits.append(int(num_gpus() / config.gpus_per_trial))
    if config.max_concurrent_trials is not None:
        limits.append(config.max_concurrent_trials)
    return max(1, min(limits))


def run(sweep: Sweep, *, progress: Progress) -> None:
    """Trains what is unfinished, evaluates what is not yet evaluated; a trial that failed before is tried again.

    Afterwards the ledgers hold everything; `sweeps.verdict` and the report read them.

    Raises:
        ValueError: The machine cannot run it (no GPU where one is asked for).
    """
    if sweep.config.gpus_per_trial and not num_gpus():
        raise ValueError(
            f"gpus_per_trial: {sweep.config.gpus_per_trial:g} asked for, but this machine shows no GPU; set it to 0, or see: srloss doctor"
        )
    # Ray counts whole CPUs; a machine with a fractional quota still has one.
    cpus = max(1, int(available_cpus()))
    feed = _feed(sweep)
    # The feed is left last, since evaluation is the last thing it sends.
    with (
        exclusive(sweep.folder.path, timeout_s=2, what="this sweep is being run"),
        feed or nullcontext(),
        tune.embedded_ray(cpus=cpus, gpus=num_gpus()),
    ):
        _train(sweep, progress)
        _evaluate(sweep, progress)
    if feed and feed.problem:
        progress.tracking_lost(feed.problem)


def _train(sweep: Sweep, progress: Progress) -> None:
    over = [trial for trial in sweep.trials if sweep.ledger(trial).status().is_over]
    todo = [trial for trial in sweep.trials if trial not in over]
    steps = sum(trial.config.training.steps for trial in todo)
    progress.trials_begin(len(sweep.trials), len(over), steps)
    if not todo:
        return
    # A scheduler that stops trials must see the finished ones again to judge the others by them.
    running = sweep.trials if sweep.config.early_terminate else todo
    storage = sweep.folder.path / "ray"
    shutil.rmtree(storage, ignore_errors=True)

    ended = tune.run_trials(
        sweep.config,
        running,
        sweep.folder.path / "trials",
        storage=storage,
        max_concurrent=concurrency(sweep.config, sweep.trials),
        watch=_Watch(sweep, progress, todo),
    )
    for trial in todo:
        ledger = sweep.ledger(trial)
        if trial.trial_id in ended and not ledger.status().has_ended:
            mark_stopped_early(ledger)
    shutil.rmtree(storage, ignore_errors=True)


class _Watch:
    """Turns what Ray Tune sees into what the ledgers say, for whoever follows."""

    def __init__(self, sweep: Sweep, progress: Progress, todo: Sequence[PlannedTrial]) -> None:
        self._sweep = sweep
        self._progress = progress
        # Of trials that only run again to be told to the scheduler, nothing is passed on.
        self._todo = {trial.trial_id: trial for trial in todo}

    def validated(self, trial_id: str, metrics: dict[str, Any]) -> None:
        if trial_id in self._todo:
            self._progress.validated(self._todo[trial_id], metrics)

    def ended(self, trial_id: str) -> None:
        if trial := self._todo.get(trial_id):
            status = self._sweep.ledger(trial).status()
            # One that the scheduler has stopped is still writing its last words.
            reason = status.reason if status.has_ended else stop_reason(status)
            self._progress.trial_ended(trial, self._sweep.ledger(trial), reason)

    def died(self, trial_id: str, *, is_final: bool) -> None:
        trial = self._todo.get(trial_id)
        if trial is None:
            return
        ledger = self._sweep.ledger(trial)
        if not is_final:
            self._progress.trial_died(trial, ledger)
            return
        status = ledger.status()
        if not status.has_ended:
            times = self._sweep.config.max_failures + 1
            cause = (
                f"its process died {times} time{'s' * (times > 1)}, the last time after step {status.step}: "
                "killed from outside or out of memory; raise memory_gb_per_trial so that fewer trials run at once"
            )
            status = dataclasses.replace(status, state=State.FAILED, reason=cause)
            ledger.set_status(status)
        self._progress.trial_ended(trial, ledger, status.reason)


def _evaluate(sweep: Sweep, progress: Progress) -> None:
    folders: dict[Path, str] = {}
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        if ledger.status().is_over and not ledger.evaluation():
            folders[ledger.folder.resolve()] = f"{trial.candidate} {trial.settings}"
    baseline = sweep.folder.baseline(BASELINE)
    if not baseline.evaluation():
        folders[baseline.folder.resolve()] = BASELINE
    progress.evaluation_begins(len(folders))
    first = sweep.trials[0].config
    task = functools.partial(evaluate_folder, config=first, command=sweep.command)
    tune.run_tasks(
        task,
        list(folders),
        cpus=first.engine.threads,
        gpus=sweep.config.gpus_per_trial,
        on_done=lambda folder, problem: progress.evaluated(folders[folder], problem),
    )


def evaluate_folder(folder: Path, *, config: TrialConfig, command: str) -> int:
    """Evaluates the trial in a folder, or the baseline where the folder is that one."""
    if folder.parent.name == "baseline":
        return evaluate_baseline(Ledger(folder), config, command=command)
    return evaluate_trial(folder)


def tracked_trials(sweep: Sweep) -> list[TrackedTrial]:
    """The sweep's trials as W&B shows them."""
    return [
        TrackedTrial(
            sweep.ledger(trial),
            run_id=trial.trial_id,
            name=f"{trial.candidate} {trial.settings}",
            tags=(f"loss:{trial.candidate}"[:64], f"scale:x{trial.config.scale}"),
        )
        for trial in sweep.trials
    ]


def _feed(sweep: Sweep) -> WandbFeed | None:
    tracking = sweep.trials[0].config.tracking
    if tracking.wandb == "disabled":
        return None
    return WandbFeed(
        sweep.folder.path, tracked_trials(sweep), project=tracking.project, group=sweep.folder.sweep_id
    )


def verify_wandb(sweep: Sweep, *, on_done: Callable[[VerifiedRun], None]) -> list[VerifiedRun]:
    """Reads every trial's offline W&B run back with W&B's own reader."""
    verified = []
    for trial in tracked_trials(sweep):
        verified.append(verify_offline_run(sweep.folder.path, trial))
        on_done(verified[-1])
    return verified
