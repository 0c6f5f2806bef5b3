"""From values to the words and drawings of the page: what the template only has to put in place."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sweeps.report import charts, forest, numbers, plane
from sweeps.report.data import CandidateRow, Difference, Estimate, MetricInfo, ReportData, TrialRow
from sweeps.report.palette import Look

_WORST_FIRST = ("failed", "cancelled", "interrupted", "stopped_early", "running", "pending", "finished")
_STATE_WORDS = {"stopped_early": "stopped early"}


# --- the main table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """One score of one loss."""

    value: float | None
    """What the column is sorted by; None sorts last."""
    mean: str
    difference: str
    interval: str
    p: str
    mark: str
    """`best`, `tied` or empty."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the main table."""

    look: Look
    num_seeds: int
    cells: tuple[Cell, ...]
    forest: Markup
    seconds_value: float | None
    seconds: str
    device_hours_value: float | None
    device_hours: str
    throughput_value: float | None
    throughput: str


@dataclass(frozen=True, slots=True)
class Table:
    """The main table, without its headings."""

    trained: tuple[Row, ...]
    baseline: tuple[Row, ...]
    """Stays at the foot, however the table is sorted."""
    forest_axis: Markup
    device_unit: str
    """In which `device_hours` are told."""


def table(data: ReportData, looks: dict[str, Look]) -> Table:
    """The main table in the order given, the interval bars of all rows on one scale."""
    primary = data.metrics[0] if data.metrics else None
    differences = [row.to_baseline.get(primary.name) for row in data.candidates] if primary else []
    scale = forest.scale_for([d for d in differences if d is not None])
    seconds_decimals = numbers.column_decimals([row.train_seconds for row in data.candidates])
    unit = numbers.device_unit(
        max((r.device_hours for r in data.candidates if numbers.is_finite(r.device_hours)), default=0.0)
    )
    rate_decimals = numbers.column_decimals([row.images_per_second for row in data.candidates])

    def shown(row: CandidateRow) -> Row:
        difference = row.to_baseline.get(primary.name) if primary else None
        look = looks[row.name]
        return Row(
            look=look,
            num_seeds=row.num_seeds,
            cells=tuple(_cell(row, metric) for metric in data.metrics),
            forest=forest.bar(difference, scale, look, said=_said(difference, primary)),
            seconds_value=row.train_seconds if numbers.is_finite(row.train_seconds) else None,
            seconds=numbers.number(row.train_seconds, seconds_decimals),
            device_hours_value=row.device_hours if numbers.is_finite(row.device_hours) else None,
            device_hours=unit.number(row.device_hours),
            throughput_value=row.images_per_second if numbers.is_finite(row.images_per_second) else None,
            throughput=numbers.number(row.images_per_second, rate_decimals),
        )

    return Table(
        trained=tuple(shown(row) for row in data.candidates if not row.is_baseline),
        baseline=tuple(shown(row) for row in data.candidates if row.is_baseline),
        forest_axis=forest.axis(scale),
        device_unit=unit.short,
    )


def _cell(row: CandidateRow, metric: MetricInfo) -> Cell:
    score, difference = row.scores.get(metric.name), row.to_baseline.get(metric.name)
    mark = "tied" if metric.name in row.tied_with_best_on else ""
    mark = "best" if metric.name in row.best_on else mark
    value = score.mean if score and numbers.is_finite(score.mean) else None
    mean = numbers.number(score.mean if score else None, metric.decimals)
    if difference is None or not numbers.is_finite(difference.estimate.mean):
        return Cell(value, mean, "", "", "", mark)
    change = numbers.signed(difference.estimate.mean, metric.decimals)
    return Cell(
        value=value,
        mean=mean,
        difference=numbers.with_unit(change, metric.unit),
        interval=numbers.interval(difference.estimate, metric.decimals),
        p=numbers.p_value(difference.p_adjusted),
        mark=mark,
    )


def _said(difference: Difference | None, metric: MetricInfo | None) -> str:
    if difference is None or metric is None or not numbers.is_usable(difference.estimate):
        return "no difference to show"
    change = numbers.with_unit(numbers.signed(difference.estimate.mean, metric.decimals), metric.unit)
    return f"{change}, 95 % interval {numbers.interval(difference.estimate, metric.decimals)}"


# --- charts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart for wide pages and the same for narrow ones: scaling one down would make its text too small to read."""

    wide: charts.Chart
    narrow: charts.Chart
    looks: tuple[Look, ...]
    """The legend."""


_CURVES_WIDE, _CURVES_NARROW = (1120.0, 440.0), (358.0, 320.0)


def curve_figure(data: ReportData, looks: dict[str, Look]) -> Figure:
    """The learning curves, along steps."""
    drawn = {curve.candidate for curve in data.curves}
    wide, narrow = (
        charts.learning_curves(data, looks, width=width, height=height)
        for width, height in (_CURVES_WIDE, _CURVES_NARROW)
    )
    return Figure(wide, narrow, tuple(look for name, look in looks.items() if name in drawn))


def curve_axes(data: ReportData, looks: dict[str, Look]) -> dict[str, Any]:
    """What the page's script lays the curves along."""
    return charts.curve_axes(data, looks, wide=_CURVES_WIDE, narrow=_CURVES_NARROW)


def tradeoff_figure(data: ReportData, looks: dict[str, Look]) -> Figure | None:
    """The perception-distortion plane; None where the two metrics are not both there."""
    by_name = {metric.name: metric for metric in data.metrics}
    x, y = by_name.get(data.distortion_metric), by_name.get(data.perception_metric)
    if x is None or y is None or x is y:
        return None
    points = [point for row in data.candidates if (point := _tradeoff_point(row, x, y, looks)) is not None]
    return _plane_figure(points, _axis(x), _axis(y), title=f"{y.label} against {x.label}", width=1120)


def _tradeoff_point(
    row: CandidateRow, x: MetricInfo, y: MetricInfo, looks: dict[str, Look]
) -> plane.Point | None:
    at_x, at_y = placed(row, x), placed(row, y)
    if at_x is None or at_y is None:
        return None
    pairs = zip(row.seed_scores.get(x.name, ()), row.seed_scores.get(y.name, ()), strict=False)
    seeds = tuple(pair for pair in pairs if all(map(numbers.is_finite, pair)))
    return plane.Point(looks[row.name], at_x, at_y, () if row.is_baseline else seeds)


def placed(row: CandidateRow, metric: MetricInfo) -> Estimate | None:
    """The mean with the interval of the paired difference to the baseline around it.

    The interval of a mean itself spans easy and hard pictures, which all losses share; it would cover the whole plane
    and tell nothing about their order. The baseline is the reference and has no interval.
    """
    score, difference = row.scores.get(metric.name), row.to_baseline.get(metric.name)
    if score is None or not numbers.is_finite(score.mean):
        return None
    if difference is None or not numbers.is_usable(difference.estimate):
        return Estimate(score.mean, score.mean, score.mean)
    shift = score.mean - difference.estimate.mean
    return Estimate(score.mean, shift + difference.estimate.low, shift + difference.estimate.high)


def cost_figure(data: ReportData, looks: dict[str, Look]) -> Figure | None:
    """The primary metric against the device time of one training."""
    if not data.metrics:
        return None
    hours = [row.device_hours for row in data.candidates if numbers.is_finite(row.device_hours)]
    unit = numbers.device_unit(max(hours, default=0.0))
    points: list[plane.Point] = []
    for row in data.candidates:
        at = placed(row, data.metrics[0])
        if at is not None and numbers.is_finite(row.device_hours):
            spent = row.device_hours * unit.per_hour
            points.append(plane.Point(looks[row.name], Estimate(spent, spent, spent), at))
    time = plane.Axis(f"{unit.word} of one training", higher_is_better=False, decimals=1)
    return _plane_figure(points, time, _axis(data.metrics[0]), title="Quality against device time", width=540)


def _plane_figure(
    points: list[plane.Point], x: plane.Axis, y: plane.Axis, *, title: str, width: float
) -> Figure | None:
    if not any(not point.look.is_baseline for point in points):
        return None
    return Figure(
        wide=plane.plane(points, x, y, width=width, height=420, title=title),
        narrow=plane.plane(points, x, y, width=358, height=330, title=title),
        looks=tuple(point.look for point in points),
    )


def _axis(metric: MetricInfo) -> plane.Axis:
    title = f"{metric.label} in {metric.unit}" if metric.unit else metric.label
    return plane.Axis(title, metric.higher_is_better, metric.decimals)


# --- trials -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrialView:
    """One line of the table of trials."""

    row: TrialRow
    look: Look
    state: str
    seconds: str


def trial_views(data: ReportData, looks: dict[str, Look]) -> list[TrialView]:
    """What went wrong first, else in the order given."""
    rank = {state: place for place, state in enumerate(_WORST_FIRST)}
    ordered = sorted(data.trials, key=lambda trial: rank.get(trial.state, 0))
    decimals = numbers.column_decimals([trial.seconds for trial in data.trials])
    return [
        TrialView(
            row=trial,
            look=looks[trial.candidate],
            state=_STATE_WORDS.get(trial.state, trial.state),
            seconds=numbers.number(trial.seconds, decimals),
        )
        for trial in ordered
    ]


def trial_summary(trials: Sequence[TrialRow]) -> str:
    """`24 trials: 22 finished, 1 stopped early, 1 failed. 2 h 10 min of training in all.`."""
    counts = Counter(trial.state for trial in trials)
    order = [*reversed(_WORST_FIRST), *sorted(set(counts) - set(_WORST_FIRST))]
    parts = [f"{counts[state]} {_STATE_WORDS.get(state, state)}" for state in order if counts[state]]
    retried = sum(trial.attempts > 1 for trial in trials)
    total = sum(trial.seconds for trial in trials if numbers.is_finite(trial.seconds))
    noun = "trial" if len(trials) == 1 else "trials"
    again = f", {retried} needed more than one attempt" if retried else ""
    return f"{len(trials)} {noun}: {', '.join(parts)}{again}. {numbers.duration(total)} of training in all."


def cost_summary(rows: Sequence[CandidateRow]) -> str:
    """How far the dearest loss is from the cheapest, in words; empty where there is nothing to compare."""
    timed = [(row.train_seconds, row.name) for row in rows if numbers.is_finite(row.train_seconds)]
    if len(timed) < 2 or min(timed)[0] <= 0:
        return ""
    (least, cheap), (most, dear) = min(timed), max(timed)
    typical = statistics.median(seconds for seconds, _ in timed)
    return (
        f"{dear} took {most / least:.1f} times as long as {cheap}; "
        f"the median training took {numbers.duration(typical)}."
    )
