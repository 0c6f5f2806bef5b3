"""What the sweep cost, for the page: where the device time went, and what each loss took of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from sweeps.report import findings, numbers
from sweeps.report.data import CandidateRow, ReportData
from sweeps.report.findings import CandidateCost
from sweeps.report.palette import Look
from sweeps.report.svg import document, tag

_WORDS = {
    findings.COMPARED: "trials that are compared",
    findings.NOT_CHOSEN: "finished trials that do not stand for their loss, or not yet",
    findings.STOPPED: "trials that were stopped early",
    findings.FAILED: "trials that failed",
    findings.CANCELLED: "trials that were cancelled",
    findings.UNFINISHED: "trials that have not ended",
    findings.REPEATED: "repeated after a death or an interruption",
}
_BAR_WIDTH, _BAR_HEIGHT = 220.0, 12.0


@dataclass(frozen=True, slots=True)
class Share:
    """What was spent on one purpose."""

    words: str
    time: str
    percent: str
    bar: Markup


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the table."""

    value: float | None
    shown: str


@dataclass(frozen=True, slots=True)
class Row:
    """One loss."""

    look: Look
    cells: tuple[Cell, ...]
    troubles: str
    """What became of the trials that did not finish, in words."""


@dataclass(frozen=True, slots=True)
class CostView:
    """The section, but for its chart."""

    total: str
    shares: tuple[Share, ...]
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    memory_of: str


def cost_view(data: ReportData, looks: Mapping[str, Look]) -> CostView | None:
    """None where nothing has been spent."""
    cost = data.findings.cost
    if cost is None or not sum(cost.shares.values()):
        return None
    total = sum(cost.shares.values())
    unit = numbers.device_unit(total)
    once = {row.name: row for row in data.candidates}
    largest = max(cost.shares.values())
    shown = [(purpose, hours) for purpose, hours in cost.shares.items() if hours > 0]
    return CostView(
        total=f"{unit.number(total)} {unit.word}",
        shares=tuple(
            Share(
                words=_WORDS[purpose],
                time=f"{unit.number(hours)} {unit.short}",
                percent=_percent(hours / total),
                bar=_bar(
                    hours / largest,
                    _WORDS[purpose],
                    is_loss=purpose not in (findings.COMPARED, findings.NOT_CHOSEN),
                ),
            )
            for purpose, hours in shown
        ),
        headings=(
            "trials",
            "restarts",
            f"one training, {unit.short}",
            f"all trials, {unit.short}",
            "of it repeated",
            *(["memory, GB"] if cost.memory_of else []),
        ),
        rows=tuple(
            _row(one, looks[one.candidate], once.get(one.candidate), unit, has_memory=bool(cost.memory_of))
            for one in _ordered(cost.by_candidate, looks)
        ),
        memory_of=cost.memory_of,
    )


def _ordered(costs: tuple[CandidateCost, ...], looks: Mapping[str, Look]) -> list[CandidateCost]:
    """As in the main table; then those that are not in it."""
    order = {name: index for index, name in enumerate(looks)}
    return sorted((cost for cost in costs if cost.candidate in order), key=lambda cost: order[cost.candidate])


def _row(
    cost: CandidateCost,
    look: Look,
    row: CandidateRow | None,
    unit: numbers.DeviceUnit,
    *,
    has_memory: bool,
) -> Row:
    hours = [row.device_hours if row else None, cost.device_hours, cost.repeated]
    cells = [Cell(sum(cost.outcomes.values()), str(sum(cost.outcomes.values())))]
    cells.append(Cell(cost.num_restarts, str(cost.num_restarts)))
    cells += [Cell(value if numbers.is_finite(value) else None, unit.number(value)) for value in hours]
    if has_memory:
        cells.append(Cell(cost.memory_gb, numbers.number(cost.memory_gb, 1)))
    troubles = [
        f"{count} {state.replace('_', ' ')}"
        for state, count in sorted(cost.outcomes.items())
        if state != "finished"
    ]
    return Row(look, tuple(cells), ", ".join(troubles))


def _percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _bar(share: float, said: str, *, is_loss: bool) -> Markup:
    """A loss of time is hatched as well, so that it is not told by its colour alone."""
    width = max(2.0, share * _BAR_WIDTH)
    parts = [
        tag(
            "rect", x=0, y=1, width=width, height=_BAR_HEIGHT - 2, class_="spent lost" if is_loss else "spent"
        )
    ]
    if is_loss:
        parts += [
            tag("line", x1=x, x2=x + 8, y1=_BAR_HEIGHT - 1, y2=1, class_="hatch")
            for x in range(0, int(width) - 8, 7)
        ]
    return document(*parts, width=_BAR_WIDTH, height=_BAR_HEIGHT, title=said, class_="share")
