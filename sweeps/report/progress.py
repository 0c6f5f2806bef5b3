"""How far a running sweep has come: from what is seen of it to the words of the page's first section."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sr.metrics import METRICS
from sweeps.overview import ALIVE_S, Overview
from sweeps.report import numbers
from sweeps.spec import SweepConfig
from sweeps.sweep import Sweep
from sweeps.trial_view import TrialView

_MOST_SHOWN = 12
"""Trials at work that get a card; a cluster may work on hundreds."""
_GROUPS = {
    "done": ("finished", "stopped_early"),
    "running": ("running",),
    "waiting": ("pending", "interrupted"),
    "failed": ("failed", "cancelled"),
}


@dataclass(frozen=True, slots=True)
class AtWork:
    """One trial that is being trained."""

    trial_id: str
    candidate: str
    settings: str
    share: float
    """Of its steps, 0 to 1."""
    steps: str
    stage: str
    """Which rung, round or stage of a ladder it is at; empty where there is none."""
    best: str
    left: str
    warning: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What the first section of a running sweep's page says."""

    headline: str
    """`5 of 12 trials done`."""
    groups: tuple[tuple[str, int], ...]
    """(group, number of trials); those without any are left out."""
    figures: tuple[tuple[str, str, str], ...]
    """(name, value, what stands small below it)."""
    at_work: tuple[AtWork, ...]
    num_more: int
    """Trials at work that are not listed."""
    remarks: tuple[str, ...]


def is_going_on(view: Overview) -> bool:
    """Whether a sweep is being worked on or waits in a queue. A job that only writes the report works on nothing."""
    return (
        bool(view.driver)
        or any(trial.state == "running" for trial in view.trials)
        or any(job.status is not None and job.status.state == "pending" for job in view.jobs)
    )


def progress(view: Overview, sweep: Sweep) -> Progress:
    """What is to be said of a sweep that is going on."""
    counts = Counter(trial.state for trial in view.trials)
    groups = {group: sum(counts[state] for state in states) for group, states in _GROUPS.items()}
    running = [trial for trial in view.trials if trial.state == "running"]
    stage = _stages(sweep.config)
    climbs = {trial.trial_id: trial.config.ladder for trial in sweep.trials}
    cards = []
    for trial in running[:_MOST_SHOWN]:
        ladder = climbs.get(trial.trial_id)
        at = _ladder_stage(trial, ladder.stages) if ladder is not None else stage(trial)
        cards.append(_card(trial, at, sweep.config))
    return Progress(
        headline=f"{groups['done']} of {len(view.trials)} {'trial' if len(view.trials) == 1 else 'trials'} done",
        groups=tuple((group, count) for group, count in groups.items() if count),
        figures=tuple(_figures(view, sweep.config)),
        at_work=tuple(cards),
        num_more=len(running) - len(cards),
        remarks=tuple(_remarks(view)),
    )


def _figures(view: Overview, config: SweepConfig) -> list[tuple[str, str, str]]:
    found = []
    total = sum(trial.steps for trial in view.trials)
    if total:
        # One that was ended early has no steps left to do.
        done = sum(trial.steps if trial.has_ended else min(trial.step, trial.steps) for trial in view.trials)
        found.append(
            ("Steps", f"{_count(done)} of {_count(total)}", f"{100 * done / total:.0f} % of the training")
        )
    if view.left_s is not None:
        found.append(("Time left", f"about {numbers.duration(view.left_s)}", "of training"))
    if (best := view.best) is not None:
        found.append(
            ("Best so far", best.name, f"{_quality(best.best, config)} at step {_count(best.best_step or 0)}")
        )
    return found


def _count(value: int) -> str:
    return numbers.number(value, 0)


def _quality(value: float | None, config: SweepConfig) -> str:
    return f"{METRICS[config.metric.evaluation_name].label} {_value(value, config)}"


def _value(value: float | None, config: SweepConfig) -> str:
    metric = METRICS[config.metric.evaluation_name]
    return numbers.with_unit(numbers.number(value, metric.decimals), metric.unit)


def _card(trial: TrialView, stage: str, config: SweepConfig) -> AtWork:
    silence = trial.silent_s or 0.0
    return AtWork(
        trial_id=trial.trial_id,
        candidate=trial.candidate,
        settings=trial.settings,
        share=min(1.0, trial.step / trial.steps) if trial.steps else 0.0,
        steps=f"step {_count(trial.step)}" + (f" of {_count(trial.steps)}" if trial.steps else ""),
        stage=stage,
        best="" if trial.best is None else f"best {_value(trial.best, config)}",
        left="" if trial.left_s is None else f"about {numbers.duration(trial.left_s)} left",
        warning=f"no sign of life for {numbers.duration(silence)}" if silence > ALIVE_S else "",
    )


def _stages(config: SweepConfig) -> Callable[[TrialView], str]:
    """What tells at which rung or in which round a trial is; empty words where the sweep has neither."""
    early, population = config.early_terminate, config.population
    if population is not None:
        return lambda trial: (
            f"round {trial.step // population.perturb_every + 1} of {-(-trial.steps // population.perturb_every)}"
        )
    if early is None:
        return lambda _: ""

    def rung(trial: TrialView) -> str:
        rungs = _rungs(early.min_steps, early.reduction_factor, trial.steps)
        passed = sum(trial.step >= at for at in rungs)
        if passed == len(rungs):
            return f"all {len(rungs)} rungs passed" if rungs else ""
        return f"rung {passed + 1} of {len(rungs)} at step {_count(rungs[passed])}"

    return rung


def _rungs(first: int, factor: int, steps: int) -> Sequence[int]:
    """Steps at which the scheduler judges a trial before its end."""
    found = []
    while first < steps:
        found.append(first)
        first *= factor
    return found


def _ladder_stage(trial: TrialView, stages: int) -> str:
    found = re.match(r"stage (\d+)", trial.where)
    return f"stage {found[1]} of at most {stages}" if found else ""


def _remarks(view: Overview) -> list[str]:
    found = []
    if view.driver and all(trial.has_ended for trial in view.trials):
        finished = [trial for trial in view.trials if trial.state == "finished"]
        done = sum(trial.is_evaluated for trial in finished)
        found.append(f"Evaluating on the held-out clips: {done} of {len(finished)} models done.")
    elif not view.driver and not any(trial.state == "running" for trial in view.trials):
        found.append("Nothing runs yet: it waits for its scheduler.")
    # A scheduler that does not answer leaves the states of trials uncertain; whoever looks shall know.
    return found + [f"{problem}." if not problem.endswith(".") else problem for problem in view.problems]
