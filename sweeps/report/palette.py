"""One look per loss, the same in the table, the legends, the crops and every chart.

Seven colours that stay apart for colour-blind readers (Okabe and Ito's, darkened or lightened per theme in the style
sheet), and a marker and a dash that differ as well, so that nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from sweeps.report.data import ReportData
from sweeps.report.svg import tag

NUM_COLOURS = 7
BASELINE_KEY = "b"
_DASHES = (None, "7 3", "2 3", "9 3 2 3", "5 2 1 2 1 2", "12 4", "1 2")
_SHAPES = ("circle", "square", "diamond", "triangle", "down", "plus", "cross")


@dataclass(frozen=True, slots=True)
class Look:
    """How one loss is drawn."""

    key: str
    """Value of `data-loss` in the page; never the name, which may hold anything."""
    name: str
    colour: str
    """CSS class that sets the colour."""
    shape: str
    dash: str | None

    @property
    def is_baseline(self) -> bool:
        """Whether this is the row that all others are compared with."""
        return self.key == BASELINE_KEY

    def marker(self, x: float, y: float, size: float = 4.5) -> Markup:
        """The marker centred at (x, y), `size` being its half width in pixels."""
        return _marker(self.shape, x, y, size)

    @property
    def swatch(self) -> Markup:
        """A marker to stand beside the name."""
        return tag(
            "svg",
            self.marker(7, 7, 4.5),
            viewBox="0 0 14 14",
            class_=f"swatch {self.colour}",
            aria_hidden="true",
        )


def _marker(shape: str, x: float, y: float, size: float) -> Markup:
    if shape == "circle":
        return tag("circle", cx=x, cy=y, r=size, class_="mark")
    if shape == "ring":
        return tag("circle", cx=x, cy=y, r=size - 0.8, class_="mark open")
    corners = {
        "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        "triangle": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
        "down": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
        "plus": ((0, -1.1), (0, 1.1), (-1.1, 0), (1.1, 0)),
        "cross": ((-0.9, -0.9), (0.9, 0.9), (-0.9, 0.9), (0.9, -0.9)),
    }[shape]
    points = [f"{x + dx * size:.1f} {y + dy * size:.1f}" for dx, dy in corners]
    if shape in ("plus", "cross"):
        return tag("path", d=f"M{points[0]}L{points[1]}M{points[2]}L{points[3]}", class_="mark open bar")
    return tag("path", d=f"M{'L'.join(points)}Z", class_="mark")


def _look(index: int, name: str) -> Look:
    turn = index // NUM_COLOURS
    return Look(
        key=str(index),
        name=name,
        colour=f"s{index % NUM_COLOURS}",
        shape=_SHAPES[(index + turn) % len(_SHAPES)],
        dash=_DASHES[turn % len(_DASHES)],
    )


def _names(data: ReportData) -> Iterable[str]:
    """Every loss that the page mentions: one whose trials all failed has no row in the table, but a trial."""
    yield from (row.name for row in data.candidates)
    yield from (curve.candidate for curve in data.curves)
    yield from (trial.candidate for trial in data.trials)


def looks(data: ReportData, *, by_plan: bool = False) -> dict[str, Look]:
    """Name -> look, the trained losses in the order of the table, the baseline beside them.

    Args:
        data: The report's.
        by_plan: The look goes by a loss's place in the plan rather than in the table, whose order changes while a sweep runs.
            Else the first losses of the table have the colours that are told apart best.
    """
    found: dict[str, Look] = {}
    baseline = next((row.name for row in data.candidates if row.is_baseline), None)
    if baseline is not None:
        found[baseline] = Look(BASELINE_KEY, baseline, "sb", "ring", "2 4")
    names = [name for name in dict.fromkeys(_names(data)) if name != baseline]
    planned = dict.fromkeys([*(trial.candidate for trial in data.trials), *names]) if by_plan else names
    place = {name: index for index, name in enumerate(name for name in planned if name != baseline)}
    return found | {name: _look(place[name], name) for name in names}
