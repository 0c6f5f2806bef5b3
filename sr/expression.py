"""A loss written as people write it: `0.8*l1 + 0.2*ssim`, `l1 + vgg(preset=esrgan) + 5e-3*gan_ragan`."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Sequence
from typing import Any

from sr.configfile import ConfigError


def parse_loss(text: str) -> list[dict[str, Any]]:
    """Returns the terms of a sum: `0.8*l1 + ssim` gives l1 with weight 0.8 and ssim with weight 1.

    A term may have settings in brackets: `vgg(preset=esrgan, taps=[conv5_4])`; a bare word is a string.

    Raises:
        ConfigError: The text is not a sum of names with optional factors and settings.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return [_term(node) for node in _summands(tree)]
    except (SyntaxError, _UnreadableError) as error:
        part = ast.unparse(error.node) if isinstance(error, _UnreadableError) else text
        raise ConfigError(
            [
                f"loss: cannot read {part!r} in {text!r}; write a sum such as '0.8*l1 + 0.2*ssim' "
                "or 'l1 + 0.1*vgg(preset=esrgan)'; names of files need quotes, ids of trials too: vgg(network=dataset_vgg, path='my.safetensors')"
            ]
        ) from None


class _UnreadableError(Exception):
    def __init__(self, node: ast.AST) -> None:
        super().__init__()
        self.node = node


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


def _term(node: ast.expr) -> dict[str, Any]:
    weight = 1.0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        factor = _value(node.left)
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise _UnreadableError(node)
        weight, node = float(factor), node.right
    if isinstance(node, ast.Name):
        return {"type": node.id, "weight": weight}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        settings = {argument.arg: _value(argument.value) for argument in node.keywords if argument.arg}
        if len(settings) == len(node.keywords) and not {"type", "weight"} & settings.keys():
            return {"type": node.func.id, "weight": weight, **settings}
    raise _UnreadableError(node)


_YAML_WORDS = {"true": True, "false": False, "null": None}


def _value(node: ast.expr) -> Any:  # noqa: ANN401
    if isinstance(node, ast.Name):
        return _YAML_WORDS.get(node.id, node.id)
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _UnreadableError(node) from None


def format_loss(terms: Sequence[tuple[str, float, dict[str, Any]]]) -> str:
    """Returns terms (type, weight, parameters that differ from their defaults) as one sum that `parse_loss` reads."""
    return " + ".join(_format_term(*term) for term in terms)


def _format_term(kind: str, weight: float, changed: dict[str, Any]) -> str:
    factor = "" if weight == 1 else f"{weight:g}*"
    arguments = ", ".join(f"{key}={_format_value(value)}" for key, value in changed.items())
    return f"{factor}{kind}({arguments})" if arguments else f"{factor}{kind}"


def _format_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_format_value, value))}]"
    is_word = isinstance(value, str) and value.isidentifier() and not keyword.iskeyword(value)
    return str(value) if is_word and value not in _YAML_WORDS else repr(value)
