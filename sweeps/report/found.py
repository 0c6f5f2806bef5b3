"""What the page shows beside the scores, ready for its templates."""

from __future__ import annotations

from dataclasses import dataclass

from sr.statistics import ALPHA
from sweeps.report.clips import ClipsView, clips_view
from sweeps.report.cost import CostView, cost_view
from sweeps.report.data import ReportData
from sweeps.report.palette import Look
from sweeps.report.rungs import RungsView, rungs_view
from sweeps.report.tuning import TuningView, tuning_view


@dataclass(frozen=True, slots=True)
class Found:
    """None where there is nothing to show."""

    cost: CostView | None
    clips: ClipsView | None
    tuning: TuningView | None
    rungs: RungsView | None
    smallest_p: str
    """What p can be at best, in a sentence; empty where it is not known."""


def found(data: ReportData, looks: dict[str, Look]) -> Found:
    """All of it."""
    return Found(
        cost=cost_view(data, looks),
        clips=clips_view(data, looks),
        tuning=tuning_view(data, looks),
        rungs=rungs_view(data, looks),
        smallest_p=_smallest_p(data.findings.smallest_p),
    )


def _smallest_p(least: float | None) -> str:
    if least is None:
        return ""
    if least >= ALPHA:
        return (
            f"So few held-out pictures cannot give such a p below {least:.2g}, however large a difference is: nothing "
            "can be told apart at 0.05."
        )
    return f"With so many pictures and losses no such p can be below {least:.2g}."
