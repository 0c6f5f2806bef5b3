"""Which agenda a sweep has, and what becomes of a trial that is suggested while it runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sr.configfile import ConfigError
from sweeps.agenda import Agenda
from sweeps.population import Populations, populations
from sweeps.population import check as check_populations
from sweeps.search import Search, Stored, num_planned, suggestions_ahead
from sweeps.spec import PlannedTrial, SweepConfig, tuned
from sweeps.store import SweepFolder

if TYPE_CHECKING:
    from sweeps.sweep import Sweep


def check(config: SweepConfig, trials: Sequence[PlannedTrial]) -> None:
    """Checks what can only be known once the first trials are.

    Raises:
        ConfigError: The sweep's population or early stopping cannot work.
    """
    has_ladders = any(trial.config.ladder is not None for trial in trials)
    if has_ladders and config.early_terminate is not None:
        raise ConfigError(
            [
                "early_terminate: does not go with ladder, whose stages begin anew and would be taken for failures; leave out one "
                "of them"
            ]
        )
    if config.population is None:
        return
    if config.method == "bayes":
        raise ConfigError(["population: does not go with method: bayes; use method: random or grid"])
    if config.early_terminate is not None:
        raise ConfigError(["population: does not go with early_terminate; leave out one of them"])
    if has_ladders:
        raise ConfigError(
            [
                "population: does not go with ladder, whose stages begin anew while a population goes on from checkpoints; leave "
                "out one of them"
            ]
        )
    check_populations(config, trials)


def num_trials(config: SweepConfig, trials: Sequence[PlannedTrial]) -> int:
    """How many trials the sweep will have in the end, those included that are not known yet."""
    return max(len(trials), num_planned(config)) if config.method == "bayes" else len(trials)


def in_words(config: SweepConfig, trials: Sequence[PlannedTrial]) -> str:
    """What a list of the known trials does not tell of the sweep; empty where it tells all."""
    losses = len({trial.candidate for trial in trials})
    if config.method == "bayes":
        total, known = num_trials(config, trials) // losses, len(trials) // losses
        searched = ", ".join(f"{name} ({spec.in_words()})" for name, spec in tuned(config).items())
        return (
            f"bayes: {total} trials of each loss, of which the {known} above are drawn at random; the others are chosen as the "
            f"sweep goes, for each loss from its own trials alone: {searched}"
        )
    if config.population is not None:
        spec = config.population
        sizes = sorted({len(members) for members in populations(trials)})
        return (
            f"population: {' or '.join(map(str, sizes))} trials for each loss and seed; every {spec.perturb_every} steps the worst "
            f"of them go on from the best ones' checkpoints, with other values of {', '.join(spec.parameters)}"
        )
    return ""


def make_trial(folder: SweepFolder, trial: PlannedTrial, *, config: SweepConfig, command: str) -> None:
    """Makes a trial's folder, if it is not there."""
    ledger = folder.trial(trial.trial_id)
    # By itself a member of a population would come to something else.
    own = shlex.join(["srloss", "train", str(ledger.folder / "config.yaml")])
    ledger.create(trial.config, command=own if config.population is None else command)


def agenda_of(
    sweep: Sweep,
    running: Sequence[PlannedTrial],
    *,
    at_once: int,
    on_new: Callable[[PlannedTrial], None],
) -> Agenda | None:
    """What decides the order of trials; None where that is fixed.

    Args:
        sweep: Its list of trials grows as some are suggested.
        running: Trials that are to run, of those that are known.
        at_once: How many the cluster can run.
        on_new: Told about each trial that was not known before.
    """
    config, folder = sweep.config, sweep.folder
    if config.population is not None:
        return Populations(config, sweep.trials, running=running, ledger=folder.trial)
    if config.method != "bayes":
        return None
    plan = folder.read_plan()
    plan.setdefault("suggestions", [])
    # Once and for all: what is suggested must not depend on the machine that continues the sweep.
    plan.setdefault("suggestions_ahead", suggestions_ahead(config, at_once))
    folder.write_plan(plan)
    known = {trial.trial_id for trial in sweep.trials}

    def suggested(suggestion: Stored, trials: list[PlannedTrial]) -> None:
        new = [trial for trial in trials if trial.trial_id not in known]
        for trial in new:
            make_trial(folder, trial, config=config, command=sweep.command)
        plan["suggestions"].append(suggestion)
        plan["trials"] += [[trial.trial_id, trial.candidate, trial.variant] for trial in new]
        folder.write_plan(plan)
        for trial in new:
            known.add(trial.trial_id)
            sweep.trials.append(trial)
            on_new(trial)

    data = sweep.trials[0].config.data
    bound = config.model_copy(
        update={"trial": config.trial | {"data": config.trial["data"] | {"path": data.path}}}
    )
    return Search(
        bound,
        [(number, settings) for number, settings in plan["suggestions"]],
        running=running,
        ledger=folder.trial,
        ahead=plan["suggestions_ahead"],
        dataset_fingerprint=data.fingerprint,
        on_suggested=suggested,
    )
