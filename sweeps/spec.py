"""The sweep file: which trials there are. Expanding it is a pure function, so a dry run shows just what will run."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from sr import short_forms
from sr.config import Section, TrialConfig, fingerprint, parse_trial
from sr.configfile import ConfigError, apply_overrides, read_yaml, set_path, unknown, validate
from sr.expression import format_loss
from sr.losses import LOSSES
from sr.metrics import METRICS


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
    """A list to go through (grid) or to draw from (random)."""
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


class SweepConfig(Section):
    """A sweep file: what varies (`parameters`), and what all trials share (`trial`)."""

    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,60}$")
    """Letters, digits, `-`, `_` and `.`; begins the sweep's id."""
    method: Literal["grid", "random"] = "grid"
    metric: MetricSpec = MetricSpec()
    parameters: dict[str, ParameterSpec] = Field(min_length=1)
    """Dotted names of a trial's configuration, e.g. `loss`, `seed`, `optimizer.learning_rate`."""
    trial: dict[str, Any] = Field(default_factory=dict)
    """Configuration that all trials share."""
    run_cap: int | None = Field(default=None, ge=1)
    """Most trials of a random search."""
    search_seed: int = 0
    """Seed of the random search."""
    early_terminate: EarlyTerminate | None = None
    max_concurrent_trials: int | None = Field(default=None, ge=1)
    """Trials at once; null: as many as the machine's CPUs, GPUs and memory carry."""
    gpus_per_trial: float = Field(default=0.0, ge=0)
    """GPUs of one trial; a fraction lets trials share one."""
    memory_gb_per_trial: float = Field(default=1.5, gt=0)
    """Memory that one trial may need, in GB; bounds how many run at once."""
    max_failures: int = Field(default=3, ge=0)
    """How often a trial whose process died is started again from its checkpoint."""
    small: dict[str, Any] = Field(default_factory=dict)
    """What `--small` changes, by dotted name (`trial.training.steps: 40`): a rehearsal that a laptop can run."""


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """One trial of a sweep, before it runs."""

    trial_id: str
    config: TrialConfig
    candidate: str
    """The loss it stands for in the verdict."""
    variant: str
    """What tuning changed besides the loss and the seeds; empty if nothing. Equal within one candidate's seeds."""

    @property
    def settings(self) -> str:
        """What tells it from the other trials of its candidate."""
        return ", ".join(part for part in (self.variant, f"seed={self.config.seed}") if part)


_SWEEP_KEYS = frozenset(SweepConfig.model_fields)


def read_sweep(path: Path, overrides: Sequence[str] = (), *, small: bool = False) -> SweepConfig:
    """Reads a sweep file; `a.b=c` sets a key of the sweep or, where the sweep has no such key, of every trial.

    Args:
        path: The file.
        overrides: Settings to change.
        small: Whether to make the changes of the file's `small` first.

    Raises:
        ConfigError: The file or an override is wrong.
    """
    data = read_yaml(path)
    if small:
        data = _made_small(data, where=path.name)
    routed = [
        text if text.partition("=")[0].split(".")[0] in _SWEEP_KEYS else f"trial.{text}" for text in overrides
    ]
    data.setdefault("name", re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-.") or "sweep")
    return parse_sweep(apply_overrides(data, routed), where=path.name)


def _made_small(data: dict[str, Any], *, where: str) -> dict[str, Any]:
    changes = data.get("small")
    if not isinstance(changes, dict) or not changes:
        raise ConfigError(
            [f"{where}: has no 'small' that --small could apply; add one, or leave out --small"]
        )
    data = json.loads(json.dumps(data))
    for name, value in changes.items():
        set_path(data, name, value, where=f"small.{name}")
    return data


def parse_sweep(data: dict[str, Any], *, where: str) -> SweepConfig:
    """Validates plain data as a sweep; every fault at once, `where` before each.

    Raises:
        ConfigError: Something is unknown, missing or out of range.
    """
    parameters = data.get("parameters")
    if isinstance(parameters, dict):
        # `seed: [0, 1]` and `scale: 2` are what people write; both mean something obvious.
        written_out = {
            key: spec
            if isinstance(spec, dict)
            else {"values": spec}
            if isinstance(spec, list)
            else {"value": spec}
            for key, spec in parameters.items()
        }
        data = data | {"parameters": written_out}
    return validate(SweepConfig, data, where=where)


def expand(sweep: SweepConfig, *, dataset_fingerprint: str = "") -> list[PlannedTrial]:
    """Returns the sweep's trials in order, duplicates left out.

    In a grid every combination is a trial. In a random search, losses and seeds are still crossed in full and the other
    parameters are drawn, the same draws for every loss and seed: each candidate gets an equal budget and the same luck.

    Raises:
        ConfigError: A combination is not a valid trial; names the combination.
    """
    _check_judged_alike(sweep)
    _check_names(sweep)
    assignments = _grid(sweep) if sweep.method == "grid" else _random(sweep)
    trials: dict[str, PlannedTrial] = {}
    faults: list[str] = []
    for assignment in assignments:
        try:
            planned = _plan(sweep, assignment, dataset_fingerprint)
        except ConfigError as error:
            shown = ", ".join(f"{key}={value}" for key, value in assignment.items())
            faults += [
                fault
                for fault in (f"trial ({shown}): {fault}" for fault in error.faults)
                if fault not in faults
            ]
            continue
        trials.setdefault(planned.trial_id, planned)
    if faults:
        raise ConfigError(faults[:10])
    return list(trials.values())


def _check_names(sweep: SweepConfig) -> None:
    """Two losses of one name would be ranked as one."""
    spec = sweep.parameters.get("loss")
    values = (spec.choices() or ()) if spec is not None else ()
    names = [value["name"] for value in values if isinstance(value, dict) and value.get("name")]
    taken = sorted({name for name in names if names.count(name) > 1 or name in values})
    if taken:
        raise ConfigError(
            [f"parameters.loss: several losses are named {', '.join(taken)}; rename all but one"]
        )


def _check_judged_alike(sweep: SweepConfig) -> None:
    """One verdict needs one test: the same clips, degraded alike and judged alike."""
    for name, spec in sweep.parameters.items():
        is_fixed = len(spec.choices() or (0, 0)) == 1
        if not is_fixed and re.match(r"(scale|degradation|evaluation|data\.path)\b", name):
            raise ConfigError(
                [
                    f"parameters.{name}: must be equal in all trials of a sweep, which end in one verdict; run a sweep for each"
                ]
            )


def _is_compared(name: str) -> bool:
    """Whether a parameter is the loss or a seed: crossed in full by every method."""
    return name in ("loss", "loss.type", "loss.terms", "seed", "data.seed")


def _grid(sweep: SweepConfig) -> Iterable[dict[str, Any]]:
    ranges = [name for name, spec in sweep.parameters.items() if spec.choices() is None]
    if ranges:
        raise ConfigError(
            [
                f"parameters.{name}: a grid needs 'values', not a range; or use method: random"
                for name in ranges
            ]
        )
    return _crossed({name: spec.choices() or () for name, spec in sweep.parameters.items()})


def _crossed(choices: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def _random(sweep: SweepConfig) -> list[dict[str, Any]]:
    if sweep.run_cap is None:
        raise ConfigError(["run_cap: missing; a random search needs the largest number of trials"])
    compared = {name: spec for name, spec in sweep.parameters.items() if _is_compared(name)}
    drawn = {name: spec for name, spec in sweep.parameters.items() if not _is_compared(name)}
    ranges = [name for name, spec in compared.items() if spec.choices() is None]
    if ranges:
        raise ConfigError(
            [
                f"parameters.{name}: losses and seeds are compared, so list them with 'values'"
                for name in ranges
            ]
        )
    crossed = _crossed({name: spec.choices() or () for name, spec in compared.items()})
    draws = sweep.run_cap // len(crossed) if drawn else 1
    if draws == 0 or len(crossed) > sweep.run_cap:
        raise ConfigError(
            [
                f"run_cap: {sweep.run_cap} is below one draw for each of {len(crossed)} losses and seeds; raise it"
            ]
        )
    generator = np.random.Generator(np.random.Philox(sweep.search_seed))
    settings = [{name: spec.draw(generator) for name, spec in drawn.items()} for _ in range(draws)]
    return [combination | setting for setting in settings for combination in crossed]


def _plan(sweep: SweepConfig, assignment: Mapping[str, Any], dataset_fingerprint: str) -> PlannedTrial:
    coarse: dict[str, Any] = json.loads(json.dumps(sweep.trial))
    for name, value in assignment.items():
        if name in ("loss", "loss.type", "loss.terms"):
            _set_loss(coarse, name, value)
    full = json.loads(json.dumps(coarse))
    if any(name.startswith("loss.terms.") for name in assignment):
        full["loss"] = short_forms.loss(full.get("loss"))
    for name, value in assignment.items():
        if name not in ("loss", "loss.type", "loss.terms"):
            set_path(full, name, value, where=f"parameters.{name}")
    if dataset_fingerprint and isinstance(full.get("data"), dict):
        full["data"]["fingerprint"] = dataset_fingerprint
    config = _measured_on(parse_trial(full), sweep.metric.evaluation_name)
    tuned = {name: value for name, value in assignment.items() if not _is_compared(name)}
    candidate = loss_name(parse_trial(coarse)) if "data" in coarse else loss_name(config)
    # Tuning a weight must not make a new candidate of each value, so the candidate is read before it is set.
    variant = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in tuned.items()
        if len(sweep.parameters[name].choices() or (0, 0)) > 1
    )
    return PlannedTrial(fingerprint(config), config, candidate, variant)


def _measured_on(config: TrialConfig, metric: str) -> TrialConfig:
    """The trial with the sweep's metric among what its validations and its evaluation measure."""
    evaluation = config.evaluation
    lists = {"metrics": evaluation.metrics, "validation": evaluation.validation}
    added = {key: (*names, metric) for key, names in lists.items() if metric not in names}
    return config.model_copy(update={"evaluation": evaluation.model_copy(update=added)}) if added else config


def _set_loss(data: dict[str, Any], name: str, value: Any) -> None:  # noqa: ANN401
    calibrate = data.get("loss", {}).get("calibrate") if isinstance(data.get("loss"), dict) else None
    section: dict[str, Any] = (
        dict(value) if isinstance(value, dict) else {"type" if name == "loss.type" else "terms": value}
    )
    if calibrate is not None:
        section.setdefault("calibrate", calibrate)
    data["loss"] = section


def loss_name(config: TrialConfig) -> str:
    """The trial's loss by its name or as a readable sum; parameters that have their defaults are left out."""
    if config.loss.name:
        return config.loss.name
    terms = []
    for term in config.loss.terms:
        defaults = _defaults(term.type)
        changed = {key: value for key, value in term.parameters.items() if value != defaults[key]}
        terms.append((term.type, term.weight, changed))
    return format_loss(terms)


def _defaults(kind: str) -> dict[str, Any]:
    from sr.components import parameters_of

    return {name: p.default for name, p in parameters_of(LOSSES[kind], given_elsewhere=frozenset()).items()}


def sweep_id(sweep: SweepConfig, trials: Sequence[PlannedTrial]) -> str:
    """The sweep's name and six digits that depend on its trials, metric and rules of stopping."""
    rules = [sweep.metric.name, sweep.early_terminate.model_dump() if sweep.early_terminate else None]
    digest = hashlib.sha256(json.dumps([[trial.trial_id for trial in trials], rules]).encode()).hexdigest()
    return f"{sweep.name}-{digest[:6]}"
