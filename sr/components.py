"""A component of a trial (a model, a loss term, a degradation): a name from a table and its parameters.

The parameters are the keyword parameters of the table's entry: their names, types and defaults are read from its
signature, so that adding a component needs no second declaration.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pydantic

from sr.configfile import ConfigError, unknown

Table = Mapping[str, Callable[..., Any]]


def parameters_of(
    factory: Callable[..., Any], *, given_elsewhere: frozenset[str]
) -> dict[str, inspect.Parameter]:
    """The parameters of `factory` that a configuration may set."""
    signature = inspect.signature(factory)
    return {
        name: parameter
        for name, parameter in signature.parameters.items()
        if name not in given_elsewhere
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def complete(
    value: object,
    table: Table,
    *,
    where: str,
    what: str,
    given_elsewhere: frozenset[str] = frozenset(),
    also_known: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Returns `value` (a name, or a mapping with `type`) as a mapping with every parameter filled in.

    Raises:
        ConfigError: The name or a parameter does not exist, or a parameter has the wrong type.
    """
    data: dict[str, Any] = (
        {"type": value} if isinstance(value, str) else dict(_as_mapping(value, where, what))
    )
    kind = data.pop("type", None)
    if not isinstance(kind, str):
        raise ConfigError([f"{where}.type: missing; give one of: {', '.join(sorted(table))}"])
    if kind not in table:
        raise ConfigError([f"{where}: {unknown(what, kind, table)}"])
    factory = table[kind]
    parameters = parameters_of(factory, given_elsewhere=given_elsewhere)
    known = (*parameters, *also_known)
    faults = [
        f"{where}.{key}: {unknown(f'parameter of {kind}', key, known)}"
        for key in data
        if key not in parameters
    ]
    if faults:
        raise ConfigError(faults)
    hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    completed = {name: data.get(name, parameter.default) for name, parameter in parameters.items()}
    for name, given in data.items():
        try:
            pydantic.TypeAdapter(hints[name]).validate_python(given, strict=True)
        except pydantic.ValidationError as error:
            message = error.errors()[0]["msg"]
            raise ConfigError(
                [f"{where}.{name}: {message[:1].lower()}{message[1:]}, got {given!r}"]
            ) from None
    return {"type": kind, **completed}


def _as_mapping(value: object, where: str, what: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise ConfigError([f"{where}: expected the name of a {what} or a mapping with 'type', got {value!r}"])
