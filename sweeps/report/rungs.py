"""The rungs of successive halving, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.report import numbers
from sweeps.report.data import MetricInfo, ReportData
from sweeps.report.findings import RungCell
from sweeps.report.palette import Look

_MOST_NAMED = 3
"""So many trials that ended at a rung are named; of more only the number is told."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One loss at one rung."""

    value: float | None
    score: str
    reached: str
    stopped: str


@dataclass(frozen=True, slots=True)
class Row:
    """One loss."""

    look: Look
    cells: tuple[Cell, ...]
    finished: int


@dataclass(frozen=True, slots=True)
class RungsView:
    """The section."""

    rule: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    totals: tuple[str, ...]
    finished: int
    label: str


def rungs_view(data: ReportData, looks: Mapping[str, Look]) -> RungsView | None:
    """None where no sweep stops anybody early."""
    rungs = data.findings.rungs
    if rungs is None:
        return None
    names = [name for name in looks if name in rungs.cells]
    totals = []
    for place in range(len(rungs.steps)):
        here = [rungs.cells[name][place] for name in names]
        stopped = sum(len(cell.stopped) for cell in here)
        totals.append(f"{sum(cell.reached for cell in here)} reached, {stopped} stopped")
    return RungsView(
        rule=(
            f"Successive halving (ASHA): at each rung about one in {rungs.reduction_factor} of the trials that reach it goes on, "
            "judged by the last validation."
        ),
        headings=tuple(f"step {numbers.number(step, 0)}" for step in rungs.steps),
        rows=tuple(
            Row(looks[n], tuple(_cell(c, data.curve_metric) for c in rungs.cells[n]), rungs.finished[n])
            for n in names
        ),
        totals=tuple(totals),
        finished=sum(rungs.finished[name] for name in names),
        label=data.curve_metric.label,
    )


def _cell(cell: RungCell, metric: MetricInfo) -> Cell:
    stopped = ""
    if cell.stopped:
        named = f": {'; '.join(cell.stopped)}" if len(cell.stopped) <= _MOST_NAMED else ""
        stopped = f"{len(cell.stopped)} stopped{named}"
    return Cell(
        value=cell.score if numbers.is_finite(cell.score) else None,
        score=numbers.number(cell.score, metric.decimals),
        reached=f"{cell.reached} reached" if cell.reached else "",
        stopped=stopped,
    )
