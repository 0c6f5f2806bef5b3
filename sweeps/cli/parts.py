"""What a configuration can name: losses, models, discriminators, degradations and metrics, with their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sr.components import parameters_of
from sr.configfile import ConfigError, unknown
from sr.degrade import DEGRADATIONS
from sr.losses import LOSSES
from sr.metrics import METRICS, PROFILES
from sr.models import DISCRIMINATORS, GENERATORS
from sweeps.cli.show import say, say_json


@dataclass(frozen=True, slots=True)
class _Part:
    what: str
    parameters: dict[str, Any]


def _components(table: Mapping[str, Callable[..., Any]], *given: str) -> dict[str, _Part]:
    return {
        name: _Part(
            (entry.__doc__ or "").strip().splitlines()[0],
            {k: p.default for k, p in parameters_of(entry, given_elsewhere=frozenset(given)).items()},
        )
        for name, entry in table.items()
    }


def _metrics() -> dict[str, _Part]:
    return {
        name: _Part(f"{metric.label}{f' [{metric.unit}]' if metric.unit else ''}: {metric.convention}", {})
        for name, metric in METRICS.items()
    }


def _profiles() -> dict[str, _Part]:
    return {
        name: _Part(f"{', '.join(profile.metrics)}: {profile.convention}", {})
        for name, profile in PROFILES.items()
    }


KINDS: dict[str, Callable[[], dict[str, _Part]]] = {
    "losses": lambda: _components(LOSSES),
    "models": lambda: _components(GENERATORS, "scale"),
    "discriminators": lambda: _components(DISCRIMINATORS),
    "degradations": lambda: _components(DEGRADATIONS),
    "metrics": _metrics,
    "profiles": _profiles,
}


def listed(kind: str | None, *, as_json: bool) -> None:
    """Prints the parts of one kind, or of all.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError([unknown("kind of part", kind, KINDS)])
    chosen = KINDS if kind is None else {kind: KINDS[kind]}
    if as_json:
        plain = {
            name: {part: {"what": p.what, "parameters": p.parameters} for part, p in table().items()}
            for name, table in chosen.items()
        }
        say_json(plain if kind is None else plain[kind])
        return
    for name, table in chosen.items():
        if kind is None:
            say(f"\n{name}:" if name != next(iter(chosen)) else f"{name}:")
        _print(table())


def _print(parts: Mapping[str, _Part]) -> None:
    width = max(map(len, parts))
    for name, part in parts.items():
        say(f"{name:{width}}  {part.what}")
        parameters = ", ".join(f"{key}={_short(value)}" for key, value in part.parameters.items())
        if parameters:
            say(f"{'':{width}}  ({parameters})")


def _short(value: object) -> str:
    return "none" if value is None else str(value)
