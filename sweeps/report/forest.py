"""The little interval bars of the main table: one per row, all on one scale."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from markupsafe import Markup

from sweeps.report.data import Difference
from sweeps.report.numbers import is_usable, number
from sweeps.report.palette import Look
from sweeps.report.svg import CHARACTER_WIDTH, Scale, document, label, padded, tag, tick_decimals, ticks

WIDTH = 150.0
_HEIGHT = 44.0


def scale_for(differences: Sequence[Difference]) -> Scale:
    """One scale for all rows; zero, where a loss is no better than the baseline, is always on it."""
    ends = [end for d in differences if is_usable(d.estimate) for end in (d.estimate.low, d.estimate.high)]
    return Scale(*padded([0.0, *ends], share=0.08), 8, WIDTH - 8)


def _marks(scale: Scale) -> list[float]:
    """Ticks whose numbers have room beside each other."""
    for about in (4, 3, 2, 1):
        marks = ticks(scale.low, scale.high, about=about)
        longest = max((len(number(mark, tick_decimals(marks))) for mark in marks), default=0)
        needed = longest * CHARACTER_WIDTH + 6
        if all(scale(after) - scale(before) >= needed for before, after in itertools.pairwise(marks)):
            return marks
    return [0.0]


def axis(scale: Scale) -> Markup:
    """The numbers of the scale, for the heading of the column."""
    marks = _marks(scale)
    decimals = tick_decimals(marks)
    texts = (
        label(number(mark, decimals), scale(mark), 11, class_="tick", text_anchor="middle") for mark in marks
    )
    return document(*texts, width=WIDTH, height=14, title="scale of the interval bars", class_="forest")


def bar(difference: Difference | None, scale: Scale, look: Look, *, said: str) -> Markup:
    """One interval bar, or only the grid where there is no difference to show."""
    middle = _HEIGHT / 2
    parts = [
        tag("line", x1=scale(mark), x2=scale(mark), y1=0, y2=_HEIGHT, class_="zero" if mark == 0 else "grid")
        for mark in _marks(scale)
    ]
    if difference is not None and is_usable(difference.estimate):
        low, high = scale(difference.estimate.low), scale(difference.estimate.high)
        parts.append(tag("line", x1=low, x2=high, y1=middle, y2=middle, class_="whisker thick"))
        parts.append(look.marker(scale(difference.estimate.mean), middle, 4.5))
    svg = document(*parts, width=WIDTH, height=_HEIGHT, title=said, class_="forest")
    return tag("div", svg, class_=look.colour)
