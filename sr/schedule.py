"""The learning rate of each update."""

from __future__ import annotations

import math

from sr.config import OptimizerConfig


def learning_rate(step: int, optimizer: OptimizerConfig, *, steps: int) -> float:
    """The rate of update number `step` (from 0): a linear warm-up, then the configured schedule."""
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return optimizer.learning_rate
    if optimizer.schedule == "steps":
        passed = sum(step >= milestone for milestone in optimizer.milestones)
        return optimizer.learning_rate * optimizer.step_factor**passed
    done = (step - optimizer.warmup_steps) / max(1, steps - 1 - optimizer.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return optimizer.learning_rate * (optimizer.final_fraction + (1 - optimizer.final_fraction) * cosine)
