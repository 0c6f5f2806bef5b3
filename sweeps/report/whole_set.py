"""The second table of the scores: what the held-out clips show only together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.report import numbers
from sweeps.report.data import CandidateRow, MetricInfo, OnWholeSet, ReportData
from sweeps.report.palette import Look

AUC_DECIMALS = 3
_RMSE_DECIMALS = 2


@dataclass(frozen=True, slots=True)
class Cell:
    """One number."""

    value: float | None
    """What the column is sorted by; None sorts last."""
    shown: str
    below: str
    """In small print: an interval, a region."""


@dataclass(frozen=True, slots=True)
class Row:
    """One loss: a cell for each of the headings."""

    look: Look
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """Of a column."""

    text: str
    first: str
    """How it is sorted on the first click: `ascending` or `descending`."""


@dataclass(frozen=True, slots=True)
class Table:
    """The table, and what is said below it."""

    headings: tuple[Heading, ...]
    trained: tuple[Row, ...]
    baseline: tuple[Row, ...]
    is_told: bool
    """Whether SR was told from HR for any row."""
    has_of_the_mean: bool


def table(data: ReportData, looks: dict[str, Look]) -> Table | None:
    """The table in the order given; None where nothing of it was recorded."""
    if not data.metrics or not any(row.on_whole_set for row in data.candidates):
        return None
    metric = data.metrics[0]
    known = [row.on_whole_set for row in data.candidates if row.on_whole_set]
    has_of_the_mean = any(whole.of_the_mean is not None for whole in known)
    rows = [(row, Row(looks[row.name], _cells(row, metric, has_of_the_mean))) for row in data.candidates]
    return Table(
        headings=_headings(metric, has_of_the_mean),
        trained=tuple(shown for row, shown in rows if not row.is_baseline),
        baseline=tuple(shown for row, shown in rows if row.is_baseline),
        is_told=any(whole.told_from_real is not None for whole in known),
        has_of_the_mean=has_of_the_mean,
    )


def _headings(metric: MetricInfo, has_of_the_mean: bool) -> tuple[Heading, ...]:
    first = "descending" if metric.higher_is_better else "ascending"
    label = f"{metric.label}, {metric.unit}" if metric.unit else metric.label
    names = [f"{label}: 5 %", "median", "95 %", *(["of the mean error"] if has_of_the_mean else [])]
    rest = (Heading("RMSE \u2193", "ascending"), Heading("told from real \u2193", "ascending"))
    return (*(Heading(name, first) for name in names), *rest)


def _cells(row: CandidateRow, metric: MetricInfo, has_of_the_mean: bool) -> tuple[Cell, ...]:
    whole = row.on_whole_set
    spread = (whole.p5, whole.median, whole.p95) if whole else (None, None, None)
    if has_of_the_mean:
        spread = (*spread, whole.of_the_mean if whole else None)
    return (*(_cell(value, metric.decimals) for value in spread), _rmse(whole), _told(whole))


def _cell(value: float | None, decimals: int, below: str = "") -> Cell:
    sorted_by = value if numbers.is_finite(value) else None
    return Cell(sorted_by, numbers.number(value, decimals), below if sorted_by is not None else "")


def _rmse(whole: OnWholeSet | None) -> Cell:
    if whole is None:
        return _cell(None, _RMSE_DECIMALS)
    return _cell(whole.rmse, _RMSE_DECIMALS, f"region {whole.region}" if whole.region else "beyond region 3")


def _told(whole: OnWholeSet | None) -> Cell:
    told = whole.told_from_real if whole else None
    if told is None:
        return _cell(None, AUC_DECIMALS)
    ends = (numbers.number(end, AUC_DECIMALS) for end in (told.low, told.high))
    return _cell(told.mean, AUC_DECIMALS, f"[{', '.join(ends)}]")


def exported_headings(data: ReportData) -> list[str]:
    """For tables to be pasted elsewhere; empty where nothing was recorded, as `exported_cells` is then."""
    if not _is_recorded(data.candidates):
        return []
    label = f"{data.metrics[0].label}: " if data.metrics else ""
    return [f"{label}5 %", "median", "95 %", "told from real (AUC)"]


def exported_cells(row: CandidateRow, data: ReportData) -> list[str]:
    """A text for each of `exported_headings`."""
    if not _is_recorded(data.candidates):
        return []
    decimals = data.metrics[0].decimals if data.metrics else 0
    whole, told = row.on_whole_set, _told(row.on_whole_set)
    spread = (whole.p5, whole.median, whole.p95) if whole else (None, None, None)
    return [*(numbers.number(value, decimals) for value in spread), f"{told.shown} {told.below}".rstrip()]


def _is_recorded(rows: Sequence[CandidateRow]) -> bool:
    return any(row.on_whole_set for row in rows)
