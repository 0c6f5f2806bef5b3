"""The sweep file: which trials there are. Expanding it is a pure function, so a dry run shows just what will run."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from sr import short_forms
from sr.config import TrialConfig, fingerprint, parse_trial
from sr.configfile import ConfigError, apply_overrides, read_yaml, set_path, validate
from sr.section import Section
from sweeps import candidates
from sweeps.cluster_section import ClusterSection
from sweeps.sections import EarlyTerminate, MetricSpec, ParameterSpec, PopulationSpec


class SweepConfig(Section):
    """A sweep file: what varies (`parameters`), and what all trials share (`trial`)."""

    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,60}$")
    """Letters, digits, `-`, `_` and `.`; begins the sweep's id."""
    method: Literal["grid", "random", "bayes"] = "grid"
    """grid: every combination. random: `run_cap` trials in all, the settings of each loss drawn. bayes: the same, but chosen
    by Optuna's TPE from how the earlier ones of the same loss went, the first few at random."""
    metric: MetricSpec = MetricSpec()
    parameters: dict[str, ParameterSpec] = Field(min_length=1)
    """Dotted names of a trial's configuration, e.g. `loss`, `seed`, `optimizer.learning_rate`."""
    trial: dict[str, Any] = Field(default_factory=dict)
    """Configuration that all trials share."""
    run_cap: int | None = Field(default=None, ge=1)
    """Most trials of a random or bayes search, shared equally among losses and seeds."""
    search_seed: int = 0
    """Seed of the search, and of what changes in populations."""
    early_terminate: EarlyTerminate | None = None
    population: PopulationSpec | None = None
    """Population based training; goes with the methods grid and random, which give the trials their first settings."""
    max_concurrent_trials: int | None = Field(default=None, ge=1)
    """Trials at once; null: as many as the machine's CPUs, GPUs and memory carry."""
    ranks: int | None = Field(default=None, ge=1)
    """Processes of each trial; null: as `trial.engine.ranks` says. Each has `engine.threads` CPUs."""
    gpus_per_rank: float = Field(default=0.0, ge=0, le=1)
    """GPUs of one rank, 0 or 1; a fraction lets trials of one rank share a GPU."""
    memory_gb_per_rank: float = Field(default=1.5, gt=0)
    """Memory that one rank may need, in GB; bounds how many trials run at once."""
    max_failures: int = Field(default=3, ge=0)
    """How often a trial one of whose processes died is started again from its checkpoint."""
    cluster: ClusterSection = ClusterSection()
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


_FEWEST_SETTINGS = 4
_MOST_RANDOM = 10
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
    parameters are drawn, the same draws for every loss and seed: each candidate gets an equal budget and the same luck. Of a
    bayes search these are the first trials, before there is anything to learn from; `sweeps.search` chooses the others.

    Raises:
        ConfigError: A combination is not a valid trial; names the combination.
    """
    _check_judged_alike(sweep)
    candidates.check(sweep.parameters)
    assignments = _grid(sweep) if sweep.method == "grid" else _searched(sweep)
    trials: dict[str, PlannedTrial] = {}
    faults: list[str] = []
    for assignment in assignments:
        try:
            planned = plan_trial(sweep, assignment, dataset_fingerprint)
        except ConfigError as error:
            shown = candidates.in_words(assignment)
            faults += [
                fault
                for fault in (f"trial ({shown}): {fault}" for fault in error.faults)
                if fault not in faults
            ]
            continue
        twin = trials.setdefault(planned.trial_id, planned)
        if twin.candidate != planned.candidate and candidates.own_settings(assignment):
            # It would be missing from the verdict.
            faults.append(
                f"trial ({candidates.in_words(assignment)}): just the same as that of '{twin.candidate}'; leave one out"
            )
    if faults:
        raise ConfigError(faults[:10])
    planned = list(trials.values())
    _check_gpus(sweep, planned[0].config.engine.ranks)
    return planned


def _check_gpus(sweep: SweepConfig, ranks: int) -> None:
    """NCCL refuses two ranks on one GPU."""
    if 0 < sweep.gpus_per_rank < 1 and ranks > 1:
        raise ConfigError(
            [
                f"gpus_per_rank: {sweep.gpus_per_rank:g} with {ranks} ranks; ranks of one trial cannot share a GPU. Set "
                "gpus_per_rank: 1, or ranks: 1"
            ]
        )


def _check_judged_alike(sweep: SweepConfig) -> None:
    """One verdict needs one test: the same clips, degraded alike and judged alike, after computing alike."""
    for name, spec in sweep.parameters.items():
        is_fixed = len(spec.choices() or (0, 0)) == 1
        if not is_fixed and re.match(r"(scale|degradation|evaluation|engine|data\.path)\b", name):
            raise ConfigError(
                [
                    f"parameters.{name}: must be equal in all trials of a sweep, which end in one verdict; run a sweep for each"
                ]
            )


def _is_compared(name: str) -> bool:
    """Whether a parameter is the loss or a seed: crossed in full by every method."""
    return name in (*candidates.LOSS, "seed", "data.seed")


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


def crossed_in_full(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Every combination of losses and seeds of a search.

    Raises:
        ConfigError: A loss or a seed is a range.
    """
    compared = {name: spec for name, spec in sweep.parameters.items() if _is_compared(name)}
    what_to_do = "losses and seeds are compared, so list them with 'values'"
    if ranges := [name for name, spec in compared.items() if spec.choices() is None]:
        raise ConfigError([f"parameters.{name}: {what_to_do}" for name in ranges])
    return _crossed({name: spec.choices() or () for name, spec in compared.items()})


def tuned(sweep: SweepConfig) -> dict[str, ParameterSpec]:
    """The parameters of a search that are neither losses nor seeds."""
    return {name: spec for name, spec in sweep.parameters.items() if not _is_compared(name)}


def num_settings(sweep: SweepConfig) -> int:
    """How many settings of the tuned parameters a search tries with each loss and seed.

    Raises:
        ConfigError: `run_cap` is missing or too low, or a range has no distribution.
    """
    if sweep.run_cap is None:
        raise ConfigError([f"run_cap: missing; a {sweep.method} search needs the largest number of trials"])
    shapeless = [
        name for name, spec in tuned(sweep).items() if spec.min is not None and not spec.distribution
    ]
    if shapeless:
        raise ConfigError(
            [
                f"parameters.{name}: a range needs a distribution: uniform, log_uniform_values or int_uniform"
                for name in shapeless
            ]
        )
    crossed = crossed_in_full(sweep)
    count = sweep.run_cap // len(crossed) if tuned(sweep) else 1
    if count == 0 or len(crossed) > sweep.run_cap:
        raise ConfigError(
            [
                f"run_cap: {sweep.run_cap} is below one draw for each of {len(crossed)} losses and seeds; raise it"
            ]
        )
    return count


def num_random_first(sweep: SweepConfig) -> int:
    """How many settings of each loss a bayes search draws before it has something to go by.

    Raises:
        ConfigError: There is nothing to search, or too little to learn from.
    """
    if not any(len(spec.choices() or (0, 0)) > 1 for spec in tuned(sweep).values()):
        raise ConfigError(
            ["method: bayes has nothing to choose, only losses and seeds vary; use method: grid"]
        )
    count = num_settings(sweep)
    if count < _FEWEST_SETTINGS:
        crossed = len(crossed_in_full(sweep))
        raise ConfigError(
            [
                f"run_cap: {sweep.run_cap} gives {count} settings to each of {crossed} losses and seeds; bayes needs "
                f"{_FEWEST_SETTINGS} or more, so run_cap: {_FEWEST_SETTINGS * crossed}, or method: random"
            ]
        )
    return min(_MOST_RANDOM, max(_FEWEST_SETTINGS - 1, count // 4))


def drawn_settings(sweep: SweepConfig, count: int) -> list[dict[str, Any]]:
    """So many settings at random; asked for more, the same and others after them."""
    generator = np.random.Generator(np.random.Philox(sweep.search_seed))
    return [{name: spec.draw(generator) for name, spec in tuned(sweep).items()} for _ in range(count)]


def _searched(sweep: SweepConfig) -> list[dict[str, Any]]:
    count = num_random_first(sweep) if sweep.method == "bayes" else num_settings(sweep)
    crossed = crossed_in_full(sweep)
    return [combination | setting for setting in drawn_settings(sweep, count) for combination in crossed]


def plan_trial(
    sweep: SweepConfig, assignment: Mapping[str, Any], dataset_fingerprint: str = ""
) -> PlannedTrial:
    """The trial with these values of the sweep's parameters.

    Raises:
        ConfigError: It is not a valid trial.
    """
    coarse: dict[str, Any] = json.loads(json.dumps(sweep.trial))
    for name, value in assignment.items():
        if name in candidates.LOSS:
            candidates.set_loss(coarse, name, value)
    own = candidates.own_settings(assignment)
    full = json.loads(json.dumps(coarse))
    if any(name.startswith("loss.terms.") for name in assignment):
        full["loss"] = short_forms.loss(full.get("loss"))
    for name, value in assignment.items():
        if name not in candidates.LOSS:
            set_path(full, name, value, where=f"parameters.{name}")
    for data in (coarse, full):
        # Last, so that what a loss has no use for stays away, though it be tuned for the others.
        candidates.set_own(data, own)
    if sweep.ranks is not None:
        _set_ranks(full, sweep.ranks)
    if dataset_fingerprint and isinstance(full.get("data"), dict):
        full["data"]["fingerprint"] = dataset_fingerprint
    config = _measured_on(parse_trial(full), sweep.metric.evaluation_name)
    candidates.check_effect(config, own)
    candidate = candidates.loss_name(parse_trial(coarse) if "data" in coarse else config)
    # Tuning a weight must not make a new candidate of each value, so the candidate is read before it is set.
    variant = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in assignment.items()
        if not _is_compared(name) and len(sweep.parameters[name].choices() or (0, 0)) > 1
    )
    return PlannedTrial(fingerprint(config), config, candidate, variant)


def _set_ranks(data: dict[str, Any], ranks: int) -> None:
    engine = data.get("engine")
    given = engine.get("ranks") if isinstance(engine, dict) else None
    if given not in (None, ranks):
        raise ConfigError([f"ranks: {ranks}, but engine.ranks is {given}; leave out one of them"])
    set_path(data, "engine.ranks", ranks, where="ranks")


def _measured_on(config: TrialConfig, metric: str) -> TrialConfig:
    """The trial with the sweep's metric among what is measured, and, unless it says otherwise, as what makes the best."""
    evaluation = config.evaluation
    lists = {"metrics": evaluation.metrics, "validation": evaluation.validation}
    added: dict[str, Any] = {key: (*names, metric) for key, names in lists.items() if metric not in names}
    added["best"] = evaluation.best or metric
    return config.model_copy(update={"evaluation": evaluation.model_copy(update=added)})


def sweep_id(sweep: SweepConfig, trials: Sequence[PlannedTrial]) -> str:
    """The sweep's name and six digits that depend on its trials, metric and rules of stopping."""
    rules: list[Any] = [
        sweep.metric.name,
        sweep.early_terminate.model_dump() if sweep.early_terminate else None,
    ]
    if sweep.method == "bayes":
        # What is to come follows from these.
        rules += [sweep.run_cap, sweep.search_seed, [spec.model_dump() for spec in sweep.parameters.values()]]
    if sweep.population is not None:
        rules += [sweep.search_seed, sweep.population.model_dump()]
    digest = hashlib.sha256(json.dumps([[trial.trial_id for trial in trials], rules]).encode()).hexdigest()
    return f"{sweep.name}-{digest[:6]}"
