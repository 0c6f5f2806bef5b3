"""Asynchronous successive halving from the ledgers: who was judged at which rung, and who ended there."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sr.ledger import State
from sweeps.report.findings import RungCell, Rungs
from sweeps.report.history import History, Validation
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep


def rung_steps(min_steps: int, factor: int, steps: int) -> tuple[int, ...]:
    """Budgets of the rungs that a trial of so many steps can reach, as Ray Tune lays them."""
    found = [min_steps]
    while found[-1] * factor <= steps:
        found.append(found[-1] * factor)
    return tuple(found) if min_steps <= steps else ()


def judged_at(validations: Sequence[Validation], rungs: Sequence[int]) -> dict[int, Validation]:
    """Rung -> the validation that counted there: the first at or after it that no higher rung took."""
    taken: dict[int, Validation] = {}
    for validation in validations:
        free = [rung for rung in rungs if rung <= validation.step and rung not in taken]
        if free:
            taken[max(free)] = validation
    return taken


def collect_rungs(sweep: Sweep, histories: Mapping[str, History]) -> Rungs | None:
    """The rungs of a sweep that stops the worse trials early; None for others."""
    early = sweep.config.early_terminate
    if early is None:
        return None
    longest = max(trial.config.training.steps for trial in sweep.trials)
    rungs = rung_steps(early.min_steps, early.reduction_factor, longest)
    by_candidate: dict[str, list[PlannedTrial]] = defaultdict(list)
    for trial in sweep.trials:
        by_candidate[trial.candidate].append(trial)
    cells = {}
    finished = {}
    for candidate, trials in by_candidate.items():
        states = {trial.trial_id: sweep.ledger(trial).status().state for trial in trials}
        judged = {t.trial_id: judged_at(histories[t.trial_id].validations, rungs) for t in trials}
        stopped = {
            trial.trial_id: max(judged[trial.trial_id], key=lambda rung: judged_step(judged, trial, rung))
            for trial in trials
            if states[trial.trial_id] is State.STOPPED_EARLY and judged[trial.trial_id]
        }
        cells[candidate] = tuple(_cell(rung, trials, judged, stopped) for rung in rungs)
        finished[candidate] = sum(state is State.FINISHED for state in states.values())
    return Rungs(early.reduction_factor, rungs, cells, finished)


def judged_step(
    judged: Mapping[str, Mapping[int, Validation]], trial: PlannedTrial, rung: int
) -> tuple[int, int]:
    """When a trial was judged at a rung: the latest judgement is the one that ended it."""
    return judged[trial.trial_id][rung].step, rung


def _cell(
    rung: int,
    trials: Sequence[PlannedTrial],
    judged: Mapping[str, Mapping[int, Validation]],
    stopped: Mapping[str, int],
) -> RungCell:
    scores = [judged[trial.trial_id][rung].value for trial in trials if rung in judged[trial.trial_id]]
    return RungCell(
        reached=len(scores),
        stopped=tuple(trial.settings for trial in trials if stopped.get(trial.trial_id) == rung),
        score=statistics.fmean(scores) if scores else None,
    )
