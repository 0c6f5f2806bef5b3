"""Learning curves, and the frame of every chart.

Charts are SVG drawn in Python, so that they are there without JavaScript, in print and in a screenshot.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from sweeps.report.data import Curve, MetricInfo, ReportData
from sweeps.report.numbers import DeviceUnit, device_unit, is_finite, number
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
_CROWD = 8
"""Of more curves the bands are drawn by the page's script, of those that the reader highlights."""
_MANY_POINTS, _FEWEST_POINTS = 1280, 40
"""Of many curves each has fewer points, or the page would grow with every loss."""
_FINE = 1000
"""Parts of the horizontal axis in which places are told to the page's script."""


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
        x_ticks: list[Markup] = []
        for value, text in self.round_labels() if x_labels is None else x_labels:
            x = self.x(value)
            x_ticks.append(tag("line", x1=x, x2=x, y1=area.bottom, y2=area.bottom + 5, class_="axis"))
            x_ticks.append(label(text, x, area.bottom + 19, class_="tick", text_anchor="middle"))
        parts.append(tag("g", *x_ticks, class_="x-ticks"))
        parts.append(tag("line", x1=area.left, x2=area.right, y1=area.bottom, y2=area.bottom, class_="axis"))
        parts.append(label(y_title, 2, 13, class_="title"))
        parts.append(label(x_title, area.right, self.height - 4, class_="title x-title", text_anchor="end"))
        return parts

    def round_labels(self) -> list[tuple[float, str]]:
        """Places and texts of the ticks of the x axis."""
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
    """Steps."""
    elsewhere: dict[str, tuple[float, ...]]
    """Places of the same points on the other axes that are known."""
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def learning_curves(data: ReportData, looks: dict[str, Look], *, width: float, height: float) -> Chart:
    """By steps: mean over seeds with the range over seeds as a band, and the baseline as a dashed line."""
    lines = _lines(data.curves, looks)
    has_labels = _has_labels(lines, width)
    names = [short(line.look.name, MOST_CHARACTERS) for line in lines]
    baseline = data.curve_baseline if is_finite(data.curve_baseline) else None
    frame = _curve_frame(data, lines, width=width, height=height)
    parts = frame.axes(x_title="steps", y_title=f"{_titled(data.curve_metric)}, validation")
    is_crowd = len(lines) > _CROWD
    inner: list[Markup] = [_draw_line(line, frame, has_band=not is_crowd) for line in reversed(lines)]
    clip = f"plot-steps-{width:.0f}"
    parts.append(tag("defs", tag("clipPath", _rect(frame.area, grow=4), id=clip)))
    parts.append(tag("g", *inner, clip_path=f"url(#{clip})") if inner else Markup(""))
    if baseline is not None and frame.y.low <= baseline <= frame.y.high:
        parts.append(_baseline_line(data, looks, lines, frame, baseline))
    if has_labels:
        parts.extend(_end_labels(lines, names, frame))
    class_ = "curves many" if is_crowd else "curves"
    title = f"{data.curve_metric.label} during training"
    area = frame.area
    places = {
        "data_left": area.left,
        "data_right": area.right,
        "data_top": area.top,
        "data_bottom": area.bottom,
    }
    svg = document(*parts, width=width, height=height, title=title, class_=class_, **places)
    return Chart(svg, has_labels)


def curve_axes(
    data: ReportData, looks: dict[str, Look], *, wide: tuple[float, float], narrow: tuple[float, float]
) -> dict[str, Any]:
    """What the page's script needs to lay the curves along another axis, by the name of the axis.

    `title`, `ticks` in pixels of the `wide` and the `narrow` drawing (their sizes are given), and in `x` by the key of a
    loss the places of its points in thousandths of the axis. Of many losses `steps` has their `bands`, see `_bands`.
    """
    lines = _lines(data.curves, looks)
    known = [axis for axis in AXES if lines and all(axis in line.elsewhere for line in lines)]
    unit = (
        device_unit(max((line.elsewhere["device_hours"][-1] for line in lines), default=0.0))
        if "device_hours" in known
        else None
    )
    found: dict[str, Any] = {}
    for axis in known:
        in_unit = _in_unit(lines, axis, unit)
        end = _end(in_unit)
        sizes = {"wide": wide, "narrow": narrow}
        frames = {
            name: _curve_frame(data, in_unit, width=width, height=height)
            for name, (width, height) in sizes.items()
        }
        found[axis] = {
            "title": unit.word if unit and axis == "device_hours" else axis,
            "ticks": {
                name: [(round(frame.x(value), 1), text) for value, text in frame.round_labels()]
                for name, frame in frames.items()
            },
            "x": {line.look.key: [round(_FINE * x / end) for x in line.x] for line in in_unit},
        }
    if found and len(lines) > _CROWD:
        found["steps"]["bands"] = _bands(lines, _curve_frame(data, lines, width=wide[0], height=wide[1]))
    return found


def _bands(lines: Sequence[_Line], frame: Frame) -> dict[str, list[int]]:
    """Key of a loss -> the upper edge of its band and then the lower one, in thousandths of the plot's height from its top."""
    height = frame.area.bottom - frame.area.top
    return {
        line.look.key: [
            round(_FINE * (frame.y(value) - frame.area.top) / height) for value in (*line.high, *line.low)
        ]
        for line in lines
    }


AXES = ("steps", "samples", "seconds", "device_hours")
"""What curves can be laid along."""


def _in_unit(lines: Sequence[_Line], axis: str, unit: DeviceUnit | None) -> list[_Line]:
    factor = unit.per_hour if unit and axis == "device_hours" else 1.0
    return [replace(line, x=tuple(x * factor for x in line.elsewhere[axis])) for line in lines]


def _end(lines: Sequence[_Line]) -> float:
    return max((line.x[-1] for line in lines), default=1.0) or 1.0


def _has_labels(lines: Sequence[_Line], width: float) -> bool:
    return width >= 600 and len(lines) <= MOST_LABELS


def _curve_frame(data: ReportData, lines: Sequence[_Line], *, width: float, height: float) -> Frame:
    longest = max((len(short(line.look.name, MOST_CHARACTERS)) for line in lines), default=0)
    right = 24 + CHARACTER_WIDTH * longest if _has_labels(lines, width) else 18.0
    baseline = data.curve_baseline if is_finite(data.curve_baseline) else None
    y_range = _curve_range(lines, baseline, data.curve_metric)
    return frame_for((0.0, _end(lines)), y_range, width=width, height=height, right=right)


def _lines(curves: Sequence[Curve], looks: dict[str, Look]) -> list[_Line]:
    by_candidate: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        by_candidate[curve.candidate].append(curve)
    order = {name: index for index, name in enumerate(looks)}
    names = sorted(by_candidate, key=lambda name: order[name])
    most = _MOST_POINTS if len(names) <= _CROWD else max(_FEWEST_POINTS, _MANY_POINTS // len(names))
    found = (_line(looks[name], by_candidate[name], most) for name in names)
    return [line for line in found if line is not None]


def _line(look: Look, curves: Sequence[Curve], most: int) -> _Line | None:
    """Seeds are matched by step; on the other axes a point lies at the mean of its seeds' places."""
    values: dict[int, list[float]] = defaultdict(list)
    places: dict[str, dict[int, list[float]]] = {axis: defaultdict(list) for axis in AXES}
    known = [axis for axis in AXES if all(len(_places(curve, axis)) == len(curve.steps) for curve in curves)]
    for curve in curves:
        for index, (step, value) in enumerate(zip(curve.steps, curve.values, strict=True)):
            at = [float(_places(curve, axis)[index]) for axis in known]
            if is_finite(value) and all(map(is_finite, at)):
                values[step].append(value)
                for axis, place in zip(known, at, strict=True):
                    places[axis][step].append(place)
    steps = sorted(values)
    if not steps:
        return None
    stride = -(-len(steps) // most)
    steps = [*steps[:-1:stride], steps[-1]]
    return _Line(
        look=look,
        x=tuple(map(float, steps)),
        elsewhere={axis: tuple(statistics.fmean(places[axis][step]) for step in steps) for axis in known},
        mean=tuple(statistics.fmean(values[step]) for step in steps),
        low=tuple(min(values[step]) for step in steps),
        high=tuple(max(values[step]) for step in steps),
    )


def _places(curve: Curve, axis: str) -> Sequence[float]:
    return {
        "steps": curve.steps,
        "samples": curve.samples,
        "seconds": curve.seconds,
        "device_hours": curve.device_hours,
    }[axis]


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


def _draw_line(line: _Line, frame: Frame, *, has_band: bool) -> Markup:
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
        tag("path", d=f"{polyline([*upper, *reversed(lower)])}Z", class_="band") if has_band else Markup(""),
        tag("path", d=polyline(middle), class_="line", stroke_dasharray=line.look.dash),
        *(tag("g", line.look.marker(*middle[index], size=3.6), data_at=index) for index in sorted(marked)),
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
