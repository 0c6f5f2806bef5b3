"""Ray Tune's schedulers: who goes on, and who is stopped early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeps.spec import PlannedTrial, SweepConfig


def scheduler(sweep: SweepConfig, trials: Sequence[PlannedTrial]) -> Any:  # noqa: ANN401 - Ray's TrialScheduler
    """FIFO, or ASHA where the sweep asks for it."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    early = sweep.early_terminate
    if early is None:
        return FIFOScheduler()
    return ASHAScheduler(
        # Not Tune's own iteration count: after a restart that counts from one again.
        time_attr="step",
        metric=sweep.metric.name,
        mode="max" if sweep.metric.goal == "maximize" else "min",
        grace_period=early.min_steps,
        reduction_factor=early.reduction_factor,
        # Above the last step: a trial that gets there has finished, not been stopped.
        max_t=max(trial.config.training.steps for trial in trials) + 1,
    )
