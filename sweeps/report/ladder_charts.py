"""Drawings of ladders: something by stage, and who is told from real by which discriminator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sweeps.report.charts import Chart, Frame, frame_for
from sweeps.report.data import Estimate
from sweeps.report.numbers import is_finite, is_usable, number
from sweeps.report.palette import Look
from sweeps.report.svg import (
    CHARACTER_WIDTH,
    LABEL_HEIGHT,
    Box,
    document,
    free_spot,
    label,
    padded,
    polyline,
    tag,
    text_of,
)

CHANCE = 0.5
"""AUC of whoever cannot tell SR from HR."""
_APART, _APART_WITH_DOTS = 11.0, 22.0
"""Pixels between the series at a stage, so that their intervals do not cover each other."""
_BESIDE = 9.0
"""Pixels from a marker to its dots, which it would hide."""
_CELL_WIDTH, _CELL_HEIGHT = 74.0, 42.0
_DARKEST = 0.55
"""Opacity of a cell of the matrix that is always told apart: its number can still be read on it."""


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity, stage by stage."""

    look: Look
    by_stage: tuple[Estimate | None, ...]
    """None where there is none at this stage."""
    dots: tuple[tuple[float, ...], ...] = ()
    """Single values behind an estimate, such as those of seeds."""


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line with a name."""

    value: float
    name: str


def by_stage(
    series: Sequence[Series],
    *,
    y_title: str,
    decimals: int,
    width: float,
    height: float,
    title: str,
    level: Level | None = None,
) -> Chart:
    """Each series as a line with a marker and its interval at each stage; series beside each other."""
    num_stages = max((len(one.by_stage) for one in series), default=1)
    frame = frame_for(
        (-0.45, max(num_stages - 0.55, 0.45)), _range(series, level), width=width, height=height, right=16
    )
    places = [
        (float(stage), f"stage {stage}" if num_stages <= 6 else str(stage)) for stage in range(num_stages)
    ]
    parts = frame.axes(x_title="" if num_stages <= 6 else "stage", y_title=y_title, x_labels=places)
    if level is not None:
        parts.extend(_level(level, series, frame))
    middle = (len(series) - 1) / 2
    apart = _APART_WITH_DOTS if any(dots for one in series for dots in one.dots) else _APART
    for index, one in enumerate(series):
        parts.append(_draw(one, frame, shift=(index - middle) * apart, decimals=decimals))
    return Chart(document(*parts, width=width, height=height, title=title, class_="stages"), False)


def _range(series: Sequence[Series], level: Level | None) -> tuple[float, float]:
    values = [] if level is None else [level.value]
    for one in series:
        for estimate in filter(is_usable, one.by_stage):
            values += [estimate.low, estimate.high, estimate.mean]
        values += [value for dots in one.dots for value in dots]
    return padded(values)


def _draw(series: Series, frame: Frame, *, shift: float, decimals: int) -> Markup:
    known = [(stage, one) for stage, one in enumerate(series.by_stage) if is_usable(one)]
    points = [(frame.x(stage) + shift, frame.y(one.mean)) for stage, one in known]
    parts = [tag("title", text_of(_said(series.look.name, known, decimals)))]
    if len(points) > 1:
        parts.append(tag("path", d=polyline(points), class_="line thin", stroke_dasharray=series.look.dash))
    for stage, dots in enumerate(series.dots):
        at = frame.x(stage) + shift + _BESIDE
        parts += [
            tag("circle", cx=at, cy=frame.y(value), r=2.4, class_="seed")
            for value in dots
            if is_finite(value)
        ]
    for (_, one), (x, y) in zip(known, points, strict=True):
        if one.high > one.low:
            parts.append(
                tag("line", x1=x, x2=x, y1=frame.y(one.low), y2=frame.y(one.high), class_="whisker thick")
            )
        parts.append(series.look.marker(x, y, 5))
    return tag("g", *parts, class_=f"series {series.look.colour}", data_loss=series.look.key)


def _said(name: str, known: Sequence[tuple[int, Estimate]], decimals: int) -> str:
    values = (f"{number(one.mean, decimals)} at stage {stage}" for stage, one in known)
    return f"{name}: {', '.join(values)}"


def _level(level: Level, series: Sequence[Series], frame: Frame) -> list[Markup]:
    y, area = frame.y(level.value), frame.area
    line = tag("line", x1=area.left, x2=area.right, y1=y, y2=y, class_="reference")
    parts = [tag("g", line, class_="sb")]
    points = [
        (frame.x(stage), frame.y(one.low), frame.y(one.high))
        for each in series
        for stage, one in enumerate(each.by_stage)
        if is_usable(one)
    ]
    reach = len(series) * _APART_WITH_DOTS / 2
    taken = [Box(x - reach, top - 6, x + reach, bottom + 6) for x, bottom, top in points]
    for x in (area.left, area.right - 18 - len(level.name) * CHARACTER_WIDTH):
        spot = free_spot(x, y - LABEL_HEIGHT / 2 - 2, level.name, taken=taken, frame=area)
        if spot is not None:
            parts.append(label(level.name, spot.left, spot.bottom - 3.5, class_="label quiet"))
            break
    return parts


def heat_map(rows: Sequence[Sequence[float]]) -> Markup:
    """AUC of the discriminator of each row's stage on the generator of each column's, as shades with numbers."""
    left, top = 118.0, 46.0
    num = len(rows)
    width, height = left + num * _CELL_WIDTH + 2, top + num * _CELL_HEIGHT + 2
    width = max(width, left + 21 * CHARACTER_WIDTH)
    parts = [
        label("on the generator of", left, 14, class_="title"),
        label("discriminator of", left - 10, top - 10, class_="title", text_anchor="end"),
    ]
    for stage in range(num):
        x, y = left + (stage + 0.5) * _CELL_WIDTH, top + (stage + 0.5) * _CELL_HEIGHT
        parts.append(label(f"stage {stage}", x, top - 10, class_="tick", text_anchor="middle"))
        parts.append(label(f"stage {stage}", left - 10, y + 4, class_="tick", text_anchor="end"))
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            parts.append(
                _cell(value, left + column * _CELL_WIDTH, top + row * _CELL_HEIGHT, own=row == column)
            )
    return document(*parts, width=width, height=height, title=_matrix_said(rows), class_="matrix")


def _cell(value: float, x: float, y: float, *, own: bool) -> Markup:
    # Above chance in one colour, below in another, so that a discriminator that is wrong does not look like one that is right.
    shade = min(1.0, abs(value - CHANCE) / (1 - CHANCE)) * _DARKEST if math.isfinite(value) else 0.0
    side = "above" if not math.isfinite(value) or value >= CHANCE else "below"
    box = {"x": x + 1, "y": y + 1, "width": _CELL_WIDTH - 2, "height": _CELL_HEIGHT - 2, "rx": 3}
    middle = x + _CELL_WIDTH / 2, y + _CELL_HEIGHT / 2 + 4.5
    return tag(
        "g",
        tag("rect", **box, class_=side, fill_opacity=f"{shade:.3f}"),
        tag("rect", **box, class_="own" if own else "edge"),
        label(number(value, 2), *middle, class_="value", text_anchor="middle"),
    )


def _matrix_said(rows: Sequence[Sequence[float]]) -> str:
    told = (
        f"discriminator {row} on generator {column}: {number(value, 2)}"
        for row, values in enumerate(rows)
        for column, value in enumerate(values)
    )
    return "AUC of discriminators on generators; " + ", ".join(told)
