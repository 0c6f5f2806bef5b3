"""A sweep on disk: made from its file, or opened again. `sweeps.driver` runs it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards import manifest
from sr.configfile import ConfigError
from sr.data import held_out
from sr.ladder.remedies import problems
from sr.ledger import Ledger, State
from sr.lock import is_held
from sr.parts import build_criterion
from sweeps import agendas
from sweeps.spec import PlannedTrial, SweepConfig, expand, parse_sweep, sweep_id
from sweeps.store import SweepFolder


@dataclass(frozen=True)
class Sweep:
    """A sweep on disk, ready to run or to be looked at."""

    config: SweepConfig
    trials: list[PlannedTrial]
    """All that are known; a search adds to them as it goes."""
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

    def try_again(self) -> None:
        """Lets trials that failed or were cancelled wait for another attempt, as whoever asks for the sweep again wants."""
        for trial in self.trials:
            ledger = self.ledger(trial)
            (ledger.folder / "cancel").unlink(missing_ok=True)
            status = ledger.status()
            if status.has_ended and not status.is_over:
                ledger.set_status(
                    dataclasses.replace(status, state=State.PENDING, reason="to be tried again")
                )


def plan(config: SweepConfig) -> list[PlannedTrial]:
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
    trials = expand(bound, dataset_fingerprint=dataset.fingerprint)
    agendas.check(bound, trials)
    # Now, rather than once per trial after minutes of training.
    held_out(dataset, trials[0].config)
    return trials


def folder_of(config: SweepConfig, trials: Sequence[PlannedTrial], *, store: Path) -> SweepFolder:
    """Where the sweep with these trials lies, whether it exists or not."""
    return SweepFolder(store / "sweeps" / sweep_id(config, trials))


def create(config: SweepConfig, *, store: Path, command: str) -> Sweep:
    """Makes the sweep's folder, with a folder for each trial.

    Raises:
        ValueError: This very sweep exists already, and how to continue it; or a loss or a metric cannot be built here.
    """
    trials = plan(config)
    _check_parts(trials)
    folder = folder_of(config, trials, store=store)
    if folder.exists():
        over = sum(folder.trial(trial.trial_id).status().is_over for trial in trials)
        raise ValueError(
            f"{folder.path}: this very sweep exists, {over} of {len(trials)} trials finished. Continue it with: "
            f"{folder.resume_command} (or delete that folder to start over)"
        )
    for trial in trials:
        agendas.make_trial(folder, trial, config=config, command=command)
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
    climbing = {trial.candidate: trial.config for trial in trials}
    faults = [
        f"{name}: {fault}"
        for name, config in climbing.items()
        if config.ladder is not None
        for fault in problems(config, config.ladder)
    ]
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
    trials = [
        PlannedTrial(name, folder.trial(name).config(), candidate, variant)
        for name, candidate, variant in stored["trials"]
    ]
    return Sweep(config, trials, folder, stored["command"])
