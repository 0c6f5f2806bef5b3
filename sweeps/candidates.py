"""What a sweep compares: losses, some with a name and a few settings of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from sr.config import TrialConfig
from sr.configfile import ConfigError, set_path
from sr.expression import format_loss
from sr.losses import LOSSES
from sweeps.sections import ParameterSpec

LOSS = ("loss", "loss.type", "loss.terms")
"""The parameters that say which loss it is."""

_OWN = ("ladder", "adversarial")
"""Sections that belong to a training method as much as its loss does. All others must be equal in all trials."""


def check(parameters: Mapping[str, ParameterSpec]) -> None:
    """Checks the names of the listed losses, and what they have `with` them.

    Raises:
        ConfigError: Two losses of one name would be ranked as one; or settings cannot be a loss's own.
    """
    listed: dict[str, Any] = {
        f"parameters.{name}.values.{number}" if spec.values else f"parameters.{name}.value": value
        for name, spec in parameters.items()
        if name in LOSS
        for number, value in enumerate(spec.choices() or ())
    }
    names = [value["name"] for value in listed.values() if isinstance(value, dict) and value.get("name")]
    taken = sorted({name for name in names if names.count(name) > 1 or name in listed.values()})
    faults = (
        [f"parameters.loss: several losses are named {', '.join(taken)}; rename all but one"] if taken else []
    )
    varied = [name for name in parameters if name not in LOSS]
    for where, value in listed.items():
        if isinstance(value, dict) and "with" in value:
            faults += _faults_of_own(value, where, varied)
    if faults:
        raise ConfigError(faults)


def _faults_of_own(loss: Mapping[str, Any], where: str, varied: Iterable[str]) -> list[str]:
    own = loss["with"]
    if not isinstance(own, dict):
        return [f"{where}.with: expected settings by their names, e.g. {{ladder.stages: 3}}, got {own!r}"]
    faults = []
    if not loss.get("name"):
        faults.append(
            f"{where}.name: missing; what has settings of its own ('with') needs a name to be called by"
        )
    for key, value in own.items():
        if key.split(".")[0] not in _OWN:
            faults.append(
                f"{where}.with.{key}: only settings of {' and '.join(_OWN)} can belong to one loss, anything else would make the "
                "comparison unfair; set it under 'trial', for all"
            )
        # A section that is taken away needs none of its settings.
        faults += [
            f"{where}.with.{key}: parameters.{name} sets it too; leave out one of them"
            for name in varied
            if value is not None and (f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."))
        ]
    return faults


def set_loss(data: dict[str, Any], name: str, value: Any) -> None:  # noqa: ANN401
    """Puts a value of one of the parameters LOSS into a trial's plain configuration."""
    calibrate = data.get("loss", {}).get("calibrate") if isinstance(data.get("loss"), dict) else None
    section: dict[str, Any] = (
        dict(value) if isinstance(value, dict) else {"type" if name == "loss.type" else "terms": value}
    )
    section.pop("with", None)
    if calibrate is not None:
        section.setdefault("calibrate", calibrate)
    data["loss"] = section


def own_settings(assignment: Mapping[str, Any]) -> dict[str, Any]:
    """What the loss of a trial has `with` it, by dotted name."""
    losses = [assignment[name] for name in LOSS if name in assignment]
    own = [loss["with"] for loss in losses if isinstance(loss, dict) and "with" in loss]
    return {key: value for settings in own for key, value in settings.items()}


def set_own(data: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Puts a loss's own settings into a trial's plain configuration; `null` takes a section away."""
    for key, value in own.items():
        # A copy, for a later setting may go into a section that an earlier one is.
        set_path(data, key, copy.deepcopy(value), where=f"with.{key}")


def check_effect(config: TrialConfig, own: Mapping[str, Any]) -> None:
    """Checks that none of a loss's own settings fell away with its section.

    Raises:
        ConfigError: One did, as the loss has no use for it.
    """
    idle = [
        f"with.{key}: has no effect, the loss has no gan_* term; leave it out"
        for key, value in own.items()
        if value is not None and getattr(config, key.split(".")[0]) is None
    ]
    if idle:
        raise ConfigError(idle)


def in_words(assignment: Mapping[str, Any]) -> str:
    """The values of a trial's parameters, for people; a loss that has a name by its name."""
    named = {
        key: value["name"] if key in LOSS and isinstance(value, dict) and value.get("name") else value
        for key, value in assignment.items()
    }
    return ", ".join(f"{key}={value}" for key, value in named.items())


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
