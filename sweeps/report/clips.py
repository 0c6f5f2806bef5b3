"""Clip by clip: where a loss wins and loses most, and the numbers with which the page compares any two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.report import numbers
from sweeps.report.data import MetricInfo, ReportData
from sweeps.report.findings import ClipScores
from sweeps.report.palette import Look

NUM_EXTREMES = 3
_MOST_NUMBERS = 12_000
"""Scores in the page; of more clips some are left out."""


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One clip, and what two losses make of it."""

    title: str
    score: str
    other: str
    difference: str


@dataclass(frozen=True, slots=True)
class ClipTable:
    """A loss against another, or against the baseline."""

    name: str
    against: str
    wins: tuple[ClipRow, ...]
    """Where it is ahead most, the most first."""
    losses: tuple[ClipRow, ...]
    """Where it is behind most, or ahead least, the worst first."""
    summary: str


@dataclass(frozen=True, slots=True)
class ClipsView:
    """The section."""

    tables: tuple[ClipTable, ...]
    """The winner against the baseline and against the runner-up."""
    numbers: dict[str, Any]
    """For the page's script."""
    num_clips: int
    num_in_page: int


def clips_view(data: ReportData, looks: Mapping[str, Look]) -> ClipsView | None:
    """None where there is no loss and something to compare it with."""
    clips = data.findings.clips
    if clips is None or not data.metrics or not clips.titles:
        return None
    names = [row.name for row in data.candidates if row.name in clips.by_name]
    ranked = [name for name in names if not looks[name].is_baseline]
    baseline = [name for name in names if looks[name].is_baseline]
    others = [*baseline[:1], *ranked[1:2]]
    if not ranked or not others:
        return None
    metric = data.metrics[0]
    kept = _kept(clips, names, metric, ranked, others)
    return ClipsView(
        tables=tuple(_table(ranked[0], other, clips, metric) for other in others),
        numbers={
            "label": metric.label,
            "unit": metric.unit,
            "decimals": metric.decimals,
            "up": metric.higher_is_better,
            "clips": [clips.titles[index] for index in kept],
            "losses": [
                {
                    "key": looks[name].key,
                    "name": name,
                    "values": [round(clips.by_name[name][index] * _fine(metric)) for index in kept],
                }
                for name in [*ranked, *baseline]
            ],
        },
        num_clips=len(clips.titles),
        num_in_page=len(kept),
    )


def _fine(metric: MetricInfo) -> int:
    """One digit more than is shown: of rounded numbers the difference would be off."""
    return 10 ** (metric.decimals + 1)


def extremes(
    scores: Sequence[float], others: Sequence[float], *, higher_is_better: bool, count: int = NUM_EXTREMES
) -> tuple[list[int], list[int]]:
    """Places of the clips where `scores` are ahead most, and of those where they are behind most; none is in both."""
    sign = 1.0 if higher_is_better else -1.0
    ahead = [sign * (score - other) for score, other in zip(scores, others, strict=True)]
    order = sorted(range(len(ahead)), key=lambda index: -ahead[index])
    first = min(count, (len(order) + 1) // 2)
    last = min(count, len(order) - first)
    return order[:first], order[len(order) - last :][::-1]


def _kept(
    clips: ClipScores,
    names: Sequence[str],
    metric: MetricInfo,
    ranked: Sequence[str],
    others: Sequence[str],
) -> list[int]:
    """Places of the clips in the page: all, or those at the ends of what is compared first, and others evenly."""
    total = len(clips.titles)
    most = _MOST_NUMBERS // len(names)
    if total <= most:
        return list(range(total))
    kept: dict[int, None] = {}
    for name in ranked:
        for other in others:
            if name != other:
                pair = clips.by_name[name], clips.by_name[other]
                best, worst = extremes(*pair, higher_is_better=metric.higher_is_better)
                kept |= dict.fromkeys([*best, *worst])
    spread = (index * total // most for index in range(most))
    kept |= dict.fromkeys(spread)
    return sorted(list(kept)[:most])


def _table(name: str, other: str, clips: ClipScores, metric: MetricInfo) -> ClipTable:
    scores, others = clips.by_name[name], clips.by_name[other]
    best, worst = extremes(scores, others, higher_is_better=metric.higher_is_better)

    def row(index: int) -> ClipRow:
        change = numbers.signed(scores[index] - others[index], metric.decimals)
        return ClipRow(
            title=clips.titles[index],
            score=numbers.number(scores[index], metric.decimals),
            other=numbers.number(others[index], metric.decimals),
            difference=numbers.with_unit(change, metric.unit),
        )

    sign = 1.0 if metric.higher_is_better else -1.0
    ahead = sum(sign * (a - b) > 0 for a, b in zip(scores, others, strict=True))
    return ClipTable(
        name=name,
        against=other,
        wins=tuple(map(row, best)),
        losses=tuple(map(row, worst)),
        summary=f"{name} is ahead on {ahead} of {len(scores)} clips.",
    )
