"""Learning curves, and the frame of every chart.

Charts are SVG drawn in Python, so that they are there without JavaScript, in print and in a screenshot.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from sweeps.report.data import Curve, MetricInfo, ReportData
from sweeps.report.numbers import is_finite, number
from sweeps.report.palette import Look
from sweeps.report.svg import (
    CHARACTER_WIDTH,
    LABEL_HEIGHT,
    Box,
    Scale,
    document,
    label,
    padded,
    polyline,
    short,
    spread,
    tag,
    text_of,
    tick_decimals,
    ticks,
)

MOST_LABELS = 12
"""Up to this many series get their name in the chart; more need the legend."""
MOST_CHARACTERS = 24
"""Longer names are cut in a chart; the legend has them whole."""
_MOST_POINTS = 160


@dataclass(frozen=True, slots=True)
class Chart:
    """A finished drawing."""

    svg: Markup
    is_labelled: bool
    """Whether every series carries its name, so that no legend is needed."""
    has_front: bool = False
    """Whether a Pareto front of more than one loss is drawn."""


# --- frame ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """The plot area inside a drawing, and its two scales."""

    width: float
    height: float
    area: Box
    x: Scale
    y: Scale

    def axes(
        self, *, x_title: str, y_title: str, x_labels: Sequence[tuple[float, str]] | None = None
    ) -> list[Markup]:
        """Horizontal grid lines, round ticks, the y title above the plot and the x title below its right end.

        Args:
            x_title: Of the x axis.
            y_title: Of the y axis.
            x_labels: Places and texts of the ticks of the x axis instead of round numbers.
        """
        area = self.area
        parts: list[Markup] = []
        y_ticks = ticks(self.y.low, self.y.high, about=max(3, int((area.bottom - area.top) / 60)))
        decimals = tick_decimals(y_ticks)
        for value in y_ticks:
            y = self.y(value)
            parts.append(tag("line", x1=area.left, x2=area.right, y1=y, y2=y, class_="grid"))
            parts.append(
                label(number(value, decimals), area.left - 8, y + 4, class_="tick", text_anchor="end")
            )
        for value, text in self._round_labels() if x_labels is None else x_labels:
            x = self.x(value)
            parts.append(tag("line", x1=x, x2=x, y1=area.bottom, y2=area.bottom + 5, class_="axis"))
            parts.append(label(text, x, area.bottom + 19, class_="tick", text_anchor="middle"))
        parts.append(tag("line", x1=area.left, x2=area.right, y1=area.bottom, y2=area.bottom, class_="axis"))
        parts.append(label(y_title, 2, 13, class_="title"))
        parts.append(label(x_title, area.right, self.height - 4, class_="title", text_anchor="end"))
        return parts

    def _round_labels(self) -> list[tuple[float, str]]:
        x_ticks = ticks(self.x.low, self.x.high, about=max(3, int((self.area.right - self.area.left) / 95)))
        decimals = tick_decimals(x_ticks)
        return [(value, number(value, decimals)) for value in x_ticks]


def frame_for(
    x_range: tuple[float, float], y_range: tuple[float, float], *, width: float, height: float, right: float
) -> Frame:
    """A frame whose left edge has room for the longest number of the y axis; `right` is the margin there."""
    y_ticks = ticks(*y_range, about=max(3, int((height - 74) / 60)))
    longest = max((len(number(value, tick_decimals(y_ticks))) for value in y_ticks), default=1)
    area = Box(left=14 + longest * CHARACTER_WIDTH, top=28, right=width - right, bottom=height - 46)
    return Frame(
        width=width,
        height=height,
        area=area,
        x=Scale(*x_range, area.left, area.right),
        y=Scale(*y_range, area.bottom, area.top),
    )


# --- learning curves --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A candidate's validation, averaged over the seeds that reached each step."""

    look: Look
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def learning_curves(
    data: ReportData,
    looks: dict[str, Look],
    *,
    axis: Literal["steps", "seconds"],
    width: float,
    height: float,
) -> Chart:
    """Mean over seeds with the range over seeds as a band, and the baseline as a dashed line."""
    lines = _lines(data.curves, looks, axis)
    has_labels = width >= 600 and len(lines) <= MOST_LABELS
    names = [short(line.look.name, MOST_CHARACTERS) for line in lines]
    right = 24 + CHARACTER_WIDTH * max(map(len, names), default=0) if has_labels else 18.0
    x_end = max((line.x[-1] for line in lines), default=1.0) or 1.0
    baseline = data.curve_baseline if is_finite(data.curve_baseline) else None
    y_range = _curve_range(lines, baseline, data.curve_metric)
    frame = frame_for((0.0, x_end), y_range, width=width, height=height, right=right)
    parts = frame.axes(x_title=axis, y_title=f"{_titled(data.curve_metric)}, validation")
    inner: list[Markup] = [_draw_line(line, frame) for line in reversed(lines)]
    clip = f"plot-{axis}-{width:.0f}"
    parts.append(tag("defs", tag("clipPath", _rect(frame.area, grow=4), id=clip)))
    parts.append(tag("g", *inner, clip_path=f"url(#{clip})") if inner else Markup(""))
    if baseline is not None and y_range[0] <= baseline <= y_range[1]:
        parts.append(_baseline_line(data, looks, lines, frame, baseline))
    if has_labels:
        parts.extend(_end_labels(lines, names, frame))
    class_ = "curves many" if len(lines) > 8 else "curves"
    title = f"{data.curve_metric.label} during training, by {axis}"
    return Chart(document(*parts, width=width, height=height, title=title, class_=class_), has_labels)


def _lines(curves: Sequence[Curve], looks: dict[str, Look], axis: Literal["steps", "seconds"]) -> list[_Line]:
    by_candidate: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        by_candidate[curve.candidate].append(curve)
    order = {name: index for index, name in enumerate(looks)}
    names = sorted(by_candidate, key=lambda name: order[name])
    found = (_line(looks[name], by_candidate[name], axis) for name in names)
    return [line for line in found if line is not None]


def _line(look: Look, curves: Sequence[Curve], axis: Literal["steps", "seconds"]) -> _Line | None:
    """Seeds are matched by step; on the axis of seconds a point lies at the mean of its seeds' seconds."""
    values: dict[int, list[float]] = defaultdict(list)
    seconds: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for step, second, value in zip(curve.steps, curve.seconds, curve.values, strict=False):
            if is_finite(value) and is_finite(second):
                values[step].append(value)
                seconds[step].append(second)
    steps = sorted(values)
    if not steps:
        return None
    stride = -(-len(steps) // _MOST_POINTS)
    steps = [*steps[:-1:stride], steps[-1]]
    return _Line(
        look=look,
        x=tuple(float(step) if axis == "steps" else statistics.fmean(seconds[step]) for step in steps),
        mean=tuple(statistics.fmean(values[step]) for step in steps),
        low=tuple(min(values[step]) for step in steps),
        high=tuple(max(values[step]) for step in steps),
    )


def _curve_range(lines: Sequence[_Line], baseline: float | None, metric: MetricInfo) -> tuple[float, float]:
    """The range of all bands; where the first steps are far off, they are cut so that the rest can be told apart."""
    ends = [value for line in lines for value in (*line.low, *line.high)]
    ends += [baseline] if baseline is not None else []
    if len(ends) < 8:
        return padded(ends)
    worst_first = sorted(ends, reverse=not metric.higher_is_better)
    worst, tenth, best = worst_first[0], worst_first[len(ends) // 10], worst_first[-1]
    if abs(tenth - worst) > 0.6 * abs(best - tenth) > 0:
        kept = [value for value in ends if (value >= tenth) == metric.higher_is_better or value == tenth]
        return padded([*kept, baseline] if baseline is not None else kept)
    return padded(ends)


def _draw_line(line: _Line, frame: Frame) -> Markup:
    upper = [(frame.x(x), frame.y(high)) for x, high in zip(line.x, line.high, strict=True)]
    lower = [(frame.x(x), frame.y(low)) for x, low in zip(line.x, line.low, strict=True)]
    middle = [(frame.x(x), frame.y(mean)) for x, mean in zip(line.x, line.mean, strict=True)]
    every = max(1, len(middle) // 4)
    marked = (
        {*range(len(middle) - 1, -1, -every)} if len(middle) < 12 else {len(middle) - 1, len(middle) // 2}
    )
    return tag(
        "g",
        tag("title", text_of(line.look.name)),
        tag("path", d=f"{polyline([*upper, *reversed(lower)])}Z", class_="band"),
        tag("path", d=polyline(middle), class_="line", stroke_dasharray=line.look.dash),
        tag("path", d=polyline(middle), class_="hit"),
        *(line.look.marker(*middle[index], size=3.6) for index in sorted(marked)),
        class_=f"series {line.look.colour}",
        data_loss=line.look.key,
    )


def _baseline_line(
    data: ReportData, looks: dict[str, Look], lines: Sequence[_Line], frame: Frame, value: float
) -> Markup:
    look = next((look for look in looks.values() if look.is_baseline), None)
    y, area = frame.y(value), frame.area
    said = f"{look.name if look else 'baseline'} {number(value, data.curve_metric.decimals)}"
    top = y - LABEL_HEIGHT - 5 if y - area.top > 24 else y + 3
    long = len(said) * CHARACTER_WIDTH
    left = Box(area.left + 4, top, area.left + 4 + long, top + LABEL_HEIGHT)
    right = Box(area.right - 4 - long, top, area.right - 4, top + LABEL_HEIGHT)
    spot = min(left, right, key=lambda box: _num_crossing(lines, box, frame))
    return tag(
        "g",
        tag("line", x1=area.left, x2=area.right, y1=y, y2=y, class_="reference"),
        label(said, spot.left, spot.bottom - 3.5, class_="label quiet"),
        class_="series sb",
        data_loss=look.key if look else None,
    )


def _num_crossing(lines: Sequence[_Line], box: Box, frame: Frame) -> int:
    """How many means run through the box, each taken as the box around every two neighbouring points."""
    crossing = 0
    for line in lines:
        points = [(frame.x(x), frame.y(mean)) for x, mean in zip(line.x, line.mean, strict=True)]
        pieces = (
            Box(x, min(y, next_y), next_x, max(y, next_y))
            for (x, y), (next_x, next_y) in itertools.pairwise(points)
        )
        crossing += any(piece.overlaps(box) for piece in pieces)
    return crossing


def _end_labels(lines: Sequence[_Line], names: Sequence[str], frame: Frame) -> list[Markup]:
    wanted = [frame.y(line.mean[-1]) for line in lines]
    placed = spread(wanted, gap=LABEL_HEIGHT, low=frame.area.top, high=frame.area.bottom)
    parts: list[Markup] = []
    for line, name, start, y in zip(lines, names, wanted, placed, strict=True):
        x = frame.x(line.x[-1])
        leader = tag("path", d=polyline([(x + 6, start), (frame.area.right + 15, y)]), class_="leader")
        text = label(name, frame.area.right + 19, y + 4, class_="label")
        title = tag("title", text_of(line.look.name))
        parts.append(
            tag("g", title, leader, text, class_=f"series {line.look.colour}", data_loss=line.look.key)
        )
    return parts


def _titled(metric: MetricInfo) -> str:
    return f"{metric.label} in {metric.unit}" if metric.unit else metric.label


def _rect(box: Box, *, grow: float) -> Markup:
    return tag(
        "rect",
        x=box.left - grow,
        y=box.top - grow,
        width=box.right - box.left + 2 * grow,
        height=box.bottom - box.top + 2 * grow,
    )
