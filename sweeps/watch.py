"""Turns what happens to trials into their ledgers' words, and into lines for whoever follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.machine import oom_kills
from sr.ledger import Ledger, State
from sweeps.deaths import deaths, last_step, survived, write_death
from sweeps.evaluation import stop_reason
from sweeps.interrupt import Interruption
from sweeps.spec import PlannedTrial

if TYPE_CHECKING:
    from sweeps.driver import Progress
    from sweeps.sweep import Sweep


class SweepWatch:
    """Implements `sweeps.tune.Watch` for one run of a sweep."""

    def __init__(
        self, sweep: Sweep, progress: Progress, todo: Sequence[PlannedTrial], interruption: Interruption
    ) -> None:
        self._sweep = sweep
        self._progress = progress
        self._interruption = interruption
        self.seen_to_an_end: set[str] = set()
        """Trials that ended by themselves or by the scheduler's judgement, rather than because all shall stop."""
        # Of trials that only run again to be told to the scheduler, nothing is passed on.
        self._todo = {trial.trial_id: trial for trial in todo}
        self._num_deaths = {trial.trial_id: len(deaths(sweep.ledger(trial))) for trial in todo}
        self._num_survived = {trial.trial_id: len(survived(sweep.ledger(trial))) for trial in todo}
        self._num_stages = {trial.trial_id: len(sweep.ledger(trial).rows("stage")) for trial in todo}
        self._oom_kills = oom_kills()

    def add(self, trial: PlannedTrial) -> None:
        """Watches one more trial."""
        self._todo[trial.trial_id] = trial
        self._num_deaths[trial.trial_id] = 0
        self._num_survived[trial.trial_id] = 0
        self._num_stages[trial.trial_id] = 0

    def validated(self, trial_id: str, metrics: dict[str, Any]) -> None:
        """A trial reported a validation."""
        if trial := self._todo.get(trial_id):
            self._tell_news(trial)
            self._progress.validated(trial, metrics)

    def ended(self, trial_id: str) -> None:
        """A trial has ended by itself, or was stopped by the scheduler."""
        if trial := self._todo.get(trial_id):
            self._tell_news(trial)
            status = self._sweep.ledger(trial).status()
            # The trial may have seen a request to stop before it can be seen from here.
            is_interrupted = status.state is State.PENDING and status.reason.startswith("interrupted by")
            if not status.has_ended and (
                is_interrupted or self._interruption.reason() or self._sweep.config.population
            ):
                # It will be continued: by the next run of the sweep, or when its population goes on.
                return
            self.seen_to_an_end.add(trial_id)
            # One that the scheduler has stopped is still writing its last words.
            reason = status.reason if status.has_ended else stop_reason(status)
            self._progress.trial_ended(trial, self._sweep.ledger(trial), reason)

    def died(self, trial_id: str, *, is_final: bool, hint: str) -> None:
        """A trial was ended from outside, and is started again unless that was the last time."""
        trial = self._todo.get(trial_id)
        if trial is None:
            return
        self._tell_news(trial)
        ledger = self._sweep.ledger(trial)
        cause = self._cause(trial_id, ledger, hint)
        if not is_final:
            self._progress.trial_died(trial, ledger, cause)
            return
        status = ledger.status()
        if not status.has_ended:
            times = self._sweep.config.max_failures + 1
            reason = (
                f"ended from outside {times} time{'s' * (times > 1)}, the last time: {cause}. If memory was short, raise "
                "memory_gb_per_rank so that fewer trials run at once"
            )
            status = dataclasses.replace(status, state=State.FAILED, reason=reason)
            ledger.set_status(status)
        self._progress.trial_ended(trial, ledger, status.reason)

    def _tell_news(self, trial: PlannedTrial) -> None:
        """Passes on what the trial has survived, and which stages have ended, since it was last looked at."""
        ledger = self._sweep.ledger(trial)
        known = survived(ledger)
        for problem in known[self._num_survived[trial.trial_id] :]:
            self._progress.trial_had_problem(trial, problem)
        self._num_survived[trial.trial_id] = len(known)
        stages = ledger.rows("stage")
        for row in stages[self._num_stages[trial.trial_id] :]:
            self._progress.stage_ended(trial, row["message"])
        self._num_stages[trial.trial_id] = len(stages)

    def _cause(self, trial_id: str, ledger: Ledger, hint: str) -> str:
        """Why an attempt ended, in one line; written down by the trial, by the watchdog, or now."""
        known = deaths(ledger)
        is_told = len(known) > self._num_deaths[trial_id]
        before, self._oom_kills = self._oom_kills, oom_kills()
        if not is_told:
            if not hint and self._oom_kills > before:
                hint = "likely out of memory: the kernel has just ended a process for want of it"
            known.append(f"its process died after step {last_step(ledger)}{f', {hint}' if hint else ''}")
            write_death(ledger, known[-1])
        self._num_deaths[trial_id] = len(deaths(ledger))
        return known[-1].partition("\n")[0]
