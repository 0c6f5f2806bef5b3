"""YAML text and `a.b=c` overrides to plain dictionaries; pydantic errors to messages a person can act on.

Knows nothing of what the keys mean: `sr.config` and `sweeps.spec` do.
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pydantic
import yaml


class ConfigError(ValueError):
    """A configuration that cannot be used; one line per fault, each with its key and the remedy."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: `1e-4` is a number, only true and false are booleans, dates stay text."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        if key in result:
            raise ConfigError(
                [f"line {key_node.start_mark.line + 1}: '{key}' is given twice; keep one of them"]
            )
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str, *, where: str) -> Any:  # noqa: ANN401 - YAML holds any plain value
    """Returns the plain value of a YAML text.

    Raises:
        ConfigError: It is not YAML, or a key is given twice; names `where` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError([f"{where}: {fault}" for fault in error.faults]) from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError([f"{where}{line}: not valid YAML: {error.problem or error}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{where}: not valid YAML: {error}"]) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        ConfigError: The file is missing, unreadable, or holds something else than `key: value` lines.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; give the path of a YAML file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read as text: {error}"]) from None
    data = parse_yaml(text, where=str(path))
    if not isinstance(data, dict):
        raise ConfigError([f"{path}: expected 'key: value' lines, got {type(data).__name__}"])
    return cast(dict[str, Any], data)


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Returns a copy of `data` with each `a.b=value` set; list elements are addressed by number.

    Raises:
        ConfigError: An override has no `=`, or its path leads through something that is not a mapping or list.
    """
    result = json.loads(json.dumps(data))
    for number, override in enumerate(overrides, start=1):
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ConfigError(
                [f"override #{number} '{override}': expected a.b=value, e.g. training.steps=500"]
            )
        value = parse_yaml(text, where=f"override #{number} '{override}'")
        set_path(result, path, value, where=f"override #{number} '{override}'")
    return result


def set_path(data: dict[str, Any], path: str, value: Any, *, where: str) -> None:  # noqa: ANN401
    """Sets `data[a][b] = value` for the path `a.b`, in place, making missing mappings on the way."""
    *parents, last = path.split(".")
    node: Any = data
    for depth, part in enumerate(parents):
        if isinstance(node, dict) and not isinstance(node.get(part), (dict, list)):
            if isinstance(node.get(part), str):
                # A component in its short form, `model: espcn`: model.x=1 means {type: espcn, x: 1}.
                node[part] = {"type": node[part]}
            elif node.get(part) is None:
                node[part] = {}
            else:
                prefix = ".".join(parents[: depth + 1])
                raise ConfigError([f"{where}: '{prefix}' is {node[part]!r}, not a section"])
        node = _step(node, part, where)
    if isinstance(node, list):
        node[_index(node, last, where)] = value
    else:
        node[last] = value


def value_at(data: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401
    """The value at the path `a.b` of plain data; None where there is none."""
    node: Any = data
    for part in path.split("."):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _step(node: Any, part: str, where: str) -> Any:  # noqa: ANN401
    return node[_index(node, part, where)] if isinstance(node, list) else node[part]


def _index(node: list[Any], part: str, where: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError([f"{where}: '{part}' must be a number from 0 to {len(node) - 1} in this list"])
    return int(part)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that does not exist: what, the likely intended one, and all known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"unknown {what} '{name}'.{hint} Known: {', '.join(known)}."


M = TypeVar("M", bound=pydantic.BaseModel)


def validate(model: type[M], data: dict[str, Any], *, where: str = "") -> M:
    """Returns `data` as a `model`; all faults at once, each with its key.

    Raises:
        ConfigError: Something does not fit; unknown keys come with the nearest known one.
    """
    try:
        return model.model_validate_json(json.dumps(data))
    except pydantic.ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise ConfigError([prefix + _fault(model, item) for item in error.errors()]) from None


def _fault(model: type[pydantic.BaseModel], item: Any) -> str:  # noqa: ANN401 - pydantic's error dictionary
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        return f"{location}: {unknown('key', str(item['loc'][-1]), known)}"
    if item["type"] == "missing":
        return f"{location}: missing; this key has no default"
    message = item["msg"].removeprefix("Value error, ")
    if not location:
        return message
    got = "" if isinstance(item["input"], (dict, list)) else f", got {item['input']!r}"
    return f"{location}: {message[:1].lower()}{message[1:]}{got}"


def _fields_at(model: type[pydantic.BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the section at this place; positions in lists and keys of mappings are stepped over."""
    current: Any = model
    is_key = False
    for part in location:
        if is_key or isinstance(part, int):
            is_key = False
            continue
        annotation = current.model_fields[part].annotation
        arguments = [a for a in typing.get_args(annotation) if hasattr(a, "model_fields")]
        is_key = typing.get_origin(annotation) is dict
        current = arguments[0] if arguments else annotation
    return list(current.model_fields)
