"""Tells a person, line by line, how a sweep goes."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from sr.ledger import Ledger, State
from sr.metrics import METRICS
from sweeps.cli.show import Ticker, progress, say
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep


class Follow:
    """Implements `sweeps.driver.Progress` for a terminal or a log."""

    def __init__(self, sweep: Sweep, *, headings: tuple[str, str] = ("sweep", "evaluate")) -> None:
        self._sweep = sweep
        self._headings = headings
        self._shown: AbstractContextManager[Ticker] | None = None
        self._ticker: Ticker | None = None
        self._steps: dict[str, int] = {}
        self._best: tuple[float, str] | None = None
        self._ended = 0
        self._total = 0
        self._started = time.monotonic()

    def trials_begin(self, total: int, done: int, steps: int) -> None:
        """Announces the training."""
        losses = ", ".join(dict.fromkeys(trial.candidate for trial in self._sweep.trials))
        over = f" ({done} of them finished before)" if done else ""
        say(f"{self._headings[0]} {total} trials{over} of {losses}")
        self._ended, self._total = done, total
        self._begin("training", steps)

    def validated(self, trial: PlannedTrial, metrics: dict[str, Any]) -> None:
        """Moves the bar, and remembers the best so far."""
        self._steps[trial.trial_id] = int(metrics["step"])
        spec = self._sweep.config.metric
        value = metrics[spec.name]
        sign = 1 if spec.goal == "maximize" else -1
        name = f"{trial.candidate} {trial.settings}"
        if self._best is None or sign * value > sign * self._best[0]:
            self._best = (value, name)
        metric = METRICS[spec.evaluation_name]
        best = f"best so far {self._best[1]}, {self._best[0]:.{metric.decimals}f} {metric.unit}".rstrip()
        if self._ticker:
            self._ticker.update(sum(self._steps.values()), f"{self._ended} of {self._total} trials; {best}")

    def trial_ended(self, trial: PlannedTrial, ledger: Ledger, reason: str) -> None:
        """A line for each trial, and for a failure its cause and log."""
        self._ended += 1
        status = ledger.status()
        name = f"{trial.candidate} {trial.settings}"
        if status.state is State.FAILED:
            say(f"  {self._ended}/{self._total} {name}: failed: {reason}")
            say(f"      log: {ledger.log_path}")
            return
        if status.state is State.CANCELLED:
            say(f"  {self._ended}/{self._total} {name}: {reason}")
            return
        rows = ledger.rows("validation")
        spec = self._sweep.config.metric
        metric = METRICS[spec.evaluation_name]
        value = (
            f"{metric.label} {rows[-1][spec.name]:.{metric.decimals}f} {metric.unit}".rstrip()
            if rows
            else "no validation"
        )
        say(
            f"  {self._ended}/{self._total} {name}: {value} on validation pictures, {reason}, {status.seconds:.0f} s"
        )

    def trial_died(self, trial: PlannedTrial, ledger: Ledger, cause: str) -> None:
        """A line for each death; the trial goes on."""
        say(f"  {trial.candidate} {trial.settings}: {cause}; started again from its checkpoint")

    def trial_had_problem(self, trial: PlannedTrial, problem: str) -> None:
        """A line for each problem."""
        say(f"  {trial.candidate} {trial.settings}: warning: {problem}")

    def stage_ended(self, trial: PlannedTrial, message: str) -> None:
        """A line for each stage of a ladder."""
        say(f"  {trial.candidate} {trial.settings}: {message}")

    def evaluation_begins(self, total: int) -> None:
        """Announces the evaluation."""
        self._finish()
        if total:
            say(f"{self._headings[1]} {total} models on the held-out clips")
        self._steps = {}
        self._begin("evaluating", total)

    def evaluated(self, name: str, problem: str) -> None:
        """Moves the bar; a problem gets a line."""
        self._steps[name] = 1
        if problem:
            say(f"  {name}: could not be evaluated: {problem}")
        if self._ticker:
            self._ticker.update(len(self._steps), name)

    def _begin(self, label: str, total: float) -> None:
        self._shown = progress(label, total)
        self._ticker = self._shown.__enter__()

    def _finish(self) -> None:
        if self._shown is not None:
            self._shown.__exit__(None, None, None)
        self._shown = self._ticker = None

    def __enter__(self) -> Follow:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
