"""The parts of a sweep file: what is optimised, what varies and how, who stops early, and who learns from whom."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from sr.configfile import unknown
from sr.metrics import METRICS
from sr.section import Section


class MetricSpec(Section):
    """What the sweep optimises, fixed before it starts; the verdict is drawn on the same metric of held-out clips."""

    name: str = "val/psnr_y"
    goal: Literal["maximize", "minimize"] = "maximize"

    @property
    def evaluation_name(self) -> str:
        """The metric's name in the evaluation tables."""
        return self.name.removeprefix("val/")

    @model_validator(mode="after")
    def _exists(self) -> MetricSpec:
        known = [f"val/{name}" for name in METRICS]
        if self.name not in known:
            raise ValueError(unknown("metric", self.name, known))
        goal = "maximize" if METRICS[self.evaluation_name].higher_is_better else "minimize"
        if self.goal != goal:
            raise ValueError(
                f"goal: {self.name} is better the {'higher' if goal == 'maximize' else 'lower'}; write goal: {goal}"
            )
        return self


class ParameterSpec(Section):
    """The values of one parameter, in the words of W&B's sweep files."""

    value: Any = None
    """One fixed value."""
    values: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """A list to go through (grid) or to draw from (random). A loss may be {name, terms, calibrate, with}: `with` holds what is
    this one's own of the sections `ladder` and `adversarial`, by dotted name, e.g. {ladder.stages: 3}; null takes one away."""
    distribution: Literal["uniform", "log_uniform_values", "int_uniform"] | None = None
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ParameterSpec:
        given = [
            self.value is not None,
            self.values is not None,
            self.min is not None or self.max is not None,
        ]
        if sum(given) != 1:
            raise ValueError("give just one of: value, values, or min and max (with a distribution)")
        if given[2]:
            if self.min is None or self.max is None or self.min >= self.max:
                raise ValueError("min and max must both be given, min below max")
            if self.distribution == "log_uniform_values" and self.min <= 0:
                raise ValueError(f"min must be above 0 for log_uniform_values, got {self.min}")
        elif self.distribution is not None:
            raise ValueError("a distribution needs min and max")
        return self

    def choices(self) -> tuple[Any, ...] | None:
        """The listed values, or None for a range."""
        return self.values if self.values is not None else None if self.min is not None else (self.value,)

    def in_words(self) -> str:
        """Its values, for people."""
        choices = self.choices()
        if choices is not None:
            return " or ".join(map(str, choices))
        return f"{self.min:g} to {self.max:g}, {self.distribution}"

    def draw(self, generator: np.random.Generator) -> Any:  # noqa: ANN401
        """One value at random."""
        choices = self.choices()
        if choices is not None:
            return choices[int(generator.integers(len(choices)))]
        assert self.min is not None
        assert self.max is not None
        if self.distribution == "int_uniform":
            return int(generator.integers(int(self.min), int(self.max) + 1))
        if self.distribution == "log_uniform_values":
            return float(np.exp(generator.uniform(math.log(self.min), math.log(self.max))))
        return float(generator.uniform(self.min, self.max))


class EarlyTerminate(Section):
    """Asynchronous successive halving (ASHA): the worse trials at each rung end early."""

    type: Literal["asha"] = "asha"
    min_steps: int = Field(default=200, ge=1)
    """No trial ends before this many steps."""
    reduction_factor: int = Field(default=3, ge=2)
    """One in so many trials goes on at each rung."""


class Perturbation(Section):
    """How one parameter of a population is changed."""

    factors: tuple[float, ...] = Field(default=(0.8, 1.2), min_length=1)
    """One of them, drawn at random, times the value of the trial that is continued; a range given under `parameters` is
    never left."""

    @model_validator(mode="after")
    def _positive(self) -> Perturbation:
        if any(factor <= 0 for factor in self.factors):
            raise ValueError(f"factors must be above 0, got {list(self.factors)}")
        return self


_PERTURBABLE = (
    r"optimizer\.learning_rate",
    r"loss\.terms\.\d+\.weight",
    r"adversarial\.learning_rate_factor",
    r"adversarial\.r1_gamma",
)
"""What a trial that goes on from a checkpoint takes from its configuration, not from the checkpoint."""


class PopulationSpec(Section):
    """Population based training: every so often the worst trials go on from the best ones' checkpoints, changed a little.

    The trials of one loss and one seed are a population. Nothing passes between losses or seeds.
    """

    perturb_every: int = Field(ge=1)
    """Steps between rounds; a multiple of `training.validate_every`. The trials of a population wait for each other."""
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """The worst of this share go on from one of the best of this share, drawn at random; at least one does."""
    parameters: dict[str, Perturbation] = Field(min_length=1)
    """What is changed, by dotted name: the learning rate, weights of terms (`loss.terms.1.weight`), the discriminator's
    rate or penalty (`adversarial.learning_rate_factor`, `adversarial.r1_gamma`); `{}` for the usual factors."""

    @model_validator(mode="after")
    def _can_change(self) -> PopulationSpec:
        for name in self.parameters:
            if not any(re.fullmatch(pattern, name) for pattern in _PERTURBABLE):
                raise ValueError(
                    f"parameters.{name}: cannot change in the middle of a training; possible: optimizer.learning_rate, "
                    "loss.terms.N.weight, adversarial.learning_rate_factor, adversarial.r1_gamma"
                )
        return self
