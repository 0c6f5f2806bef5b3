"""A loss written as people write it: `0.8*l1 + 0.2*ssim`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sr.configfile import ConfigError

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TERM = re.compile(rf"^(?:(?P<weight>{_NUMBER})\s*\*\s*)?(?P<type>[A-Za-z_]\w*)$")


def parse_loss(text: str) -> list[dict[str, Any]]:
    """Returns the terms of a sum: `0.8*l1 + ssim` gives l1 with weight 0.8 and ssim with weight 1.

    Raises:
        ConfigError: The text is not a sum of names with optional factors.
    """
    terms: list[dict[str, Any]] = []
    # A plus sign inside an exponent (1e+2) does not separate terms.
    for part in re.split(r"(?<![eE])\+", text):
        match = _TERM.match(part.strip())
        if match is None:
            raise ConfigError(
                [f"loss: cannot read {part.strip()!r} in {text!r}; write a sum such as '0.8*l1 + 0.2*ssim'"]
            )
        terms.append({"type": match["type"], "weight": float(match["weight"] or 1)})
    return terms


def format_loss(terms: Sequence[tuple[str, float, dict[str, Any]]]) -> str:
    """Returns terms (type, weight, parameters that differ from their defaults) as one readable sum."""
    return " + ".join(_format_term(*term) for term in terms)


def _format_term(kind: str, weight: float, changed: dict[str, Any]) -> str:
    factor = "" if weight == 1 else f"{weight:g}*"
    arguments = ", ".join(f"{key}={value}" for key, value in changed.items())
    return f"{factor}{kind}({arguments})" if arguments else f"{factor}{kind}"
