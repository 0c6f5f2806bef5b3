"""In what the configurations of the compared losses differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sr.config import TrialConfig, to_plain
from sweeps.candidates import loss_name
from sweeps.report.findings import ConfigDifferences
from sweeps.verdict import Verdict

ABSENT = "\u2013"
_NOT_COMPARED = ("name", "seed", "data.seed", "tracking", "loss")
"""What differs within a loss, what changes no result, and the loss, which is told as a sum."""
_LOSS = "loss"


def config_differences(verdict: Verdict) -> ConfigDifferences | None:
    """Of the trials that stand for the losses; None where fewer than two are compared.

    A section that some losses do not have counts as one difference. Its keys are told only where those differ that have it.
    """
    configs = {candidate.name: candidate.trials[0].config for candidate in verdict.ranking}
    if len(configs) < 2:
        return None
    flat = {name: _told(config) for name, config in configs.items()}
    keys = dict.fromkeys(key for one in flat.values() for key in one)
    differing = [key for key in keys if len({one[key] for one in flat.values() if key in one}) > 1]
    if all(configs[name].loss.name == "" and one[_LOSS] == name for name, one in flat.items()):
        # The losses are called by their sums already.
        differing = [key for key in differing if key != _LOSS]
    return ConfigDifferences(
        keys=tuple(differing),
        values={name: tuple(one.get(key, ABSENT) for key in differing) for name, one in flat.items()},
    )


def _told(config: TrialConfig) -> dict[str, str]:
    """Dotted key -> value; `adversarial` and `ladder` as a whole are `yes` or absent."""
    plain = to_plain(config)
    for key in _NOT_COMPARED:
        section, _, inner = key.partition(".")
        if inner:
            plain[section].pop(inner, None)
        else:
            plain.pop(section, None)
    found = {_LOSS: _sum(config), "loss.calibrate": _shown(config.loss.calibrate)}
    for key, value in plain.items():
        if isinstance(value, Mapping) or value is None:
            found[key] = ABSENT if value is None else "yes"
            found |= _flat(value or {}, f"{key}.")
        else:
            found[key] = _shown(value)
    return found


def _flat(section: Mapping[str, Any], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = _shown(value)
    return found


def _sum(config: TrialConfig) -> str:
    """The loss as a sum, whatever it is called."""
    return loss_name(config.model_copy(update={"loss": config.loss.model_copy(update={"name": ""})}))


def _shown(value: Any) -> str:  # noqa: ANN401 - any plain value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return ABSENT if value is None else str(value)
