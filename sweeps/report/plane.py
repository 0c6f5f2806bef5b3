"""Two measures against each other: fidelity and perception, quality and time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from sweeps.report.charts import MOST_CHARACTERS, MOST_LABELS, Chart, Frame, frame_for
from sweeps.report.data import Estimate
from sweeps.report.numbers import number
from sweeps.report.palette import Look
from sweeps.report.svg import Box, document, free_spot, label, padded, polyline, short, tag, text_of


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a plane."""

    title: str
    higher_is_better: bool
    decimals: int


@dataclass(frozen=True, slots=True)
class Point:
    """A loss on a plane, with the interval of each coordinate and its single seeds."""

    look: Look
    x: Estimate
    y: Estimate
    seeds: tuple[tuple[float, float], ...] = field(default=())


def plane(points: Sequence[Point], x: Axis, y: Axis, *, width: float, height: float, title: str) -> Chart:
    """Points with crosses, the front of those that no other beats on both axes, arrows towards the better side."""
    x_range = padded(
        [value for p in points for value in (p.x.low, p.x.high, p.x.mean, *(s[0] for s in p.seeds))]
    )
    y_range = padded(
        [value for p in points for value in (p.y.low, p.y.high, p.y.mean, *(s[1] for s in p.seeds))]
    )
    frame = frame_for(x_range, y_range, width=width, height=height, right=16)
    better_x = f"{x.title}, better \u2192" if x.higher_is_better else f"\u2190 better, {x.title}"
    better_y = f"\u2191 better, {y.title}" if y.higher_is_better else f"\u2193 better, {y.title}"
    parts = frame.axes(x_title=better_x, y_title=better_y)
    parts.append(_front(points, x, y, frame))
    parts.extend(_draw_point(point, x, y, frame) for point in points)
    # A crowd of labels cannot be told apart: then only the front and the baseline are named.
    named = [*pareto(points, x, y), *(p for p in points if p.look.is_baseline)]
    labels = _point_labels(points if len(points) <= MOST_LABELS else named, points, frame)
    parts.extend(labels)
    svg = document(*parts, width=width, height=height, title=title, class_="plane")
    return Chart(svg, len(labels) == len(points), has_front=len(pareto(points, x, y)) > 1)


def pareto(points: Sequence[Point], x: Axis, y: Axis) -> list[Point]:
    """The trained losses that none beats on both axes, best x last."""
    trained = [point for point in points if not point.look.is_baseline]

    def towards(point: Point) -> tuple[float, float]:
        return (
            point.x.mean if x.higher_is_better else -point.x.mean,
            point.y.mean if y.higher_is_better else -point.y.mean,
        )

    front: list[Point] = []
    for point in sorted(trained, key=towards, reverse=True):
        if not front or towards(point)[1] > towards(front[-1])[1]:
            front.append(point)
    return front[::-1]


def _front(points: Sequence[Point], x: Axis, y: Axis, frame: Frame) -> Markup:
    """A staircase: what lies on its worse side is beaten by a loss on it."""
    front = [(frame.x(point.x.mean), frame.y(point.y.mean)) for point in pareto(points, x, y)]
    if len(front) < 2:
        return Markup("")
    worse_x = frame.area.left if x.higher_is_better else frame.area.right
    worse_y = frame.area.bottom if y.higher_is_better else frame.area.top
    stairs = [(worse_x, front[0][1])]
    for (across, upper), (_, lower) in itertools.pairwise(front):
        stairs += [(across, upper), (across, lower)]
    stairs += [front[-1], (front[-1][0], worse_y)]
    return tag("path", d=polyline(stairs), class_="front")


def _draw_point(point: Point, x: Axis, y: Axis, frame: Frame) -> Markup:
    cx, cy = frame.x(point.x.mean), frame.y(point.y.mean)
    said = f"{point.look.name}: {number(point.x.mean, x.decimals)}, {number(point.y.mean, y.decimals)}"
    dots = (tag("circle", cx=frame.x(sx), cy=frame.y(sy), r=2, class_="seed") for sx, sy in point.seeds)
    return tag(
        "g",
        tag("title", text_of(said)),
        *dots,
        tag("path", d=_cross(point, frame), class_="whisker"),
        point.look.marker(cx, cy, 5.5),
        class_=f"series {point.look.colour}",
        data_loss=point.look.key,
    )


def _cross(point: Point, frame: Frame) -> str:
    across, up = _whisker_boxes(point, frame)
    y, x = (across.top + across.bottom) / 2, (up.left + up.right) / 2
    return f"M{across.left:.1f} {y:.1f}H{across.right:.1f}M{x:.1f} {up.top:.1f}V{up.bottom:.1f}"


def _whisker_boxes(point: Point, frame: Frame) -> tuple[Box, Box]:
    x, y = frame.x(point.x.mean), frame.y(point.y.mean)
    left, right = frame.x(point.x.low), frame.x(point.x.high)
    top, bottom = frame.y(point.y.high), frame.y(point.y.low)
    return Box(left, y - 1, right, y + 1), Box(x - 1, top, x + 1, bottom)


def _point_labels(named: Sequence[Point], points: Sequence[Point], frame: Frame) -> list[Markup]:
    """The names that find a place beside their point, clear of all points and, if possible, of all crosses."""
    centres = [(frame.x(point.x.mean), frame.y(point.y.mean)) for point in points]
    taken = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in centres]
    whiskers = [box for point in points for box in _whisker_boxes(point, frame)]
    parts: list[Markup] = []
    for point in named:
        x, y = frame.x(point.x.mean), frame.y(point.y.mean)
        text = short(point.look.name, MOST_CHARACTERS)
        spot = free_spot(x, y, text, taken=[*taken, *whiskers], frame=frame.area)
        spot = spot or free_spot(x, y, text, taken=taken, frame=frame.area)
        if spot is None:
            continue
        taken.append(spot)
        anchor, at = ("start", spot.left) if spot.left > x else ("end", spot.right)
        if spot.left <= x <= spot.right:
            anchor, at = "middle", x
        drawn = label(text, at, spot.bottom - 3.5, class_="label halo", text_anchor=anchor)
        parts.append(tag("g", drawn, class_=f"series {point.look.colour}", data_loss=point.look.key))
    return parts
