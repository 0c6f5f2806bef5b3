"""The few pieces of SVG that the charts are made of: tags, scales, round ticks, labels that keep out of each other's way."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

CHARACTER_WIDTH = 7.0
"""Pixels that one character of a 12 px label takes at most, on average, in a wide system font."""
LABEL_HEIGHT = 15.0

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """The text without the characters that XML cannot hold."""
    return _CONTROL.sub("\ufffd", text)


def text_of(text: str) -> Markup:
    """The text, escaped for XML."""
    return escape(clean(text))


def tag(name: str, *children: Markup, **attributes: str | float | None) -> Markup:
    """An element; `stroke_width=2` becomes `stroke-width="2"`, `class_` becomes `class`, None is left out."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None:
            continue
        shown = clean(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    parts.append(f">{''.join(children)}</{name}>" if children else "/>")
    return Markup("".join(parts))


def label(text: str, x: float, y: float, **attributes: str | float | None) -> Markup:
    """A text with its baseline at y."""
    return tag("text", text_of(text), x=x, y=y, **attributes)


def document(
    *children: Markup, width: float, height: float, title: str, class_: str = "", **attributes: float | None
) -> Markup:
    """A whole drawing; the title is what a screen reader says."""
    return tag(
        "svg",
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=title,
        class_=f"chart {class_}".strip(),
        **attributes,
    )


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of a path through the points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values in [low, high] to pixels in [start, end]; an upward axis has start > end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value, also of one outside the range."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def padded(values: Iterable[float], *, share: float = 0.06) -> tuple[float, float]:
    """The range of the finite values, a little wider; never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    pad = (high - low) * share or max(abs(high) * 0.05, 0.05)
    return low - pad, high + pad


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) inside [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_decimals(values: Sequence[float]) -> int:
    """The fewest decimals that show every tick exactly."""
    for decimals in range(7):
        if all(abs(value - round(value, decimals)) <= 1e-9 * max(1.0, abs(value)) for value in values):
            return decimals
    return 7


def short(text: str, limit: int) -> str:
    """The text, cut with an ellipsis where it has more than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "\u2026"


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in the same order, at least `gap` apart and inside [low, high] if they fit."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = list(wanted)
    floor = low
    for index in order:
        placed[index] = max(placed[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels, y growing downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two share more than an edge."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def is_inside(self, other: Box) -> bool:
        """Whether no part of this one lies outside the other."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom


def free_spot(x: float, y: float, text: str, *, taken: Sequence[Box], frame: Box) -> Box | None:
    """Where a label beside the point (x, y) covers nothing; None where there is no such place."""
    width = len(text) * CHARACTER_WIDTH
    half = LABEL_HEIGHT / 2
    for reach in (9.0, 16.0):
        lefts = ((reach, -half), (reach, -LABEL_HEIGHT - 2), (reach, 2.0))
        rights = tuple((-reach - width, top) for _, top in lefts)
        middles = ((-width / 2, -LABEL_HEIGHT - reach + 2), (-width / 2, reach - 2))
        for left, top in (*lefts[:1], *rights[:1], *lefts[1:], *rights[1:], *middles):
            box = Box(x + left, y + top, x + left + width, y + top + LABEL_HEIGHT)
            if box.is_inside(frame) and not any(box.overlaps(other) for other in taken):
                return box
    return None
