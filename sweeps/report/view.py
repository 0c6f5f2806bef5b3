"""From values to the words and drawings of the page: what the template only has to put in place."""

from __future__ import annotations

import base64
import statistics
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sweeps.report import charts, forest, numbers, plane
from sweeps.report.data import CandidateRow, Crop, Difference, Estimate, MetricInfo, ReportData, TrialRow
from sweeps.report.palette import Look

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
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
    throughput_value: float | None
    throughput: str


@dataclass(frozen=True, slots=True)
class Table:
    """The main table, without its headings."""

    trained: tuple[Row, ...]
    baseline: tuple[Row, ...]
    """Stays at the foot, however the table is sorted."""
    forest_axis: Markup


def table(data: ReportData, looks: dict[str, Look]) -> Table:
    """The main table in the order given, the interval bars of all rows on one scale."""
    primary = data.metrics[0] if data.metrics else None
    differences = [row.to_baseline.get(primary.name) for row in data.candidates] if primary else []
    scale = forest.scale_for([d for d in differences if d is not None])
    seconds_decimals = numbers.column_decimals([row.train_seconds for row in data.candidates])
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
            throughput_value=row.images_per_second if numbers.is_finite(row.images_per_second) else None,
            throughput=numbers.number(row.images_per_second, rate_decimals),
        )

    return Table(
        trained=tuple(shown(row) for row in data.candidates if not row.is_baseline),
        baseline=tuple(shown(row) for row in data.candidates if row.is_baseline),
        forest_axis=forest.axis(scale),
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


# --- crops ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tile:
    """One version of a crop."""

    label: str
    look: Look | None
    """None for LR, HR and anything that is no row of the table."""
    source: str
    """PNG as a data URI."""
    score: str
    shortcut: str
    """The key that shows it as B; empty where none is left."""


@dataclass(frozen=True, slots=True)
class CropView:
    """One crop in all its versions."""

    title: str
    reason: str
    tiles: tuple[Tile, ...]
    aspect: str
    """CSS `aspect-ratio` of the pictures."""
    zoom: str
    """Their pixel size, e.g. `96 x 96 px`."""
    start_a: int
    """Index of the tile that the viewer shows first as A, and as B."""
    start_b: int


def crop_views(data: ReportData, looks: dict[str, Look]) -> list[CropView]:
    """The crops that hold a picture, in the order given."""
    metric = data.metrics[0] if data.metrics else None
    return [crop_view(crop, looks, metric) for crop in data.crops if crop.images]


def crop_view(crop: Crop, looks: dict[str, Look], metric: MetricInfo | None) -> CropView:
    """A crop, scores in the metric; None where its scores are of none."""
    labels = [name for name, _ in crop.images]
    width, height = max((png_size(content) for _, content in crop.images), default=(1, 1))
    keyed = [name for name in labels if name not in ("LR", "HR")][:9]
    shortcuts = {name: str(place) for place, name in enumerate(keyed, start=1)} | {"HR": "0"}
    tiles = [
        Tile(
            label=name,
            look=looks.get(name),
            source=f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}",
            score=_score(crop.scores.get(name), metric),
            shortcut=shortcuts.get(name, ""),
        )
        for name, content in crop.images
    ]
    start_a = _first(tiles, lambda tile: tile.look is not None and tile.look.is_baseline)
    best = min((int(t.look.key) for t in tiles if t.look and not t.look.is_baseline), default=None)
    start_b = _first(tiles, lambda tile: tile.look is not None and tile.look.key == str(best))
    return CropView(
        title=crop.title,
        reason=crop.reason,
        tiles=tuple(tiles),
        aspect=f"{width} / {height}",
        zoom=f"{width} \u00d7 {height} px",
        start_a=0 if start_a is None else start_a,
        start_b=len(tiles) - 1 if start_b is None else start_b,
    )


def _first(tiles: Sequence[Tile], wanted: Callable[[Tile], bool]) -> int | None:
    return next((index for index, tile in enumerate(tiles) if wanted(tile)), None)


def _score(value: float | None, metric: MetricInfo | None) -> str:
    if value is None or metric is None:
        return ""
    return numbers.with_unit(numbers.number(value, metric.decimals), metric.unit)


def png_size(content: bytes) -> tuple[int, int]:
    """(width, height) from the header; (1, 1) where it is no PNG, which then shows as a broken picture."""
    if len(content) < 24 or not content.startswith(_PNG_SIGNATURE):
        return 1, 1
    width, height = struct.unpack(">II", content[16:24])
    return max(width, 1), max(height, 1)


# --- charts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart for wide pages and the same for narrow ones: scaling one down would make its text too small to read."""

    wide: charts.Chart
    narrow: charts.Chart
    looks: tuple[Look, ...]
    """The legend."""


def curve_figures(data: ReportData, looks: dict[str, Look]) -> dict[str, Figure]:
    """Axis name -> figure."""
    drawn = {curve.candidate for curve in data.curves}
    legend = tuple(look for name, look in looks.items() if name in drawn)
    return {
        axis: Figure(
            wide=charts.learning_curves(data, looks, axis=axis, width=1120, height=440),
            narrow=charts.learning_curves(data, looks, axis=axis, width=358, height=320),
            looks=legend,
        )
        for axis in ("steps", "seconds")
    }


def tradeoff_figure(data: ReportData, looks: dict[str, Look]) -> Figure | None:
    """The perception-distortion plane; None where the two metrics are not both there."""
    by_name = {metric.name: metric for metric in data.metrics}
    x, y = by_name.get(data.distortion_metric), by_name.get(data.perception_metric)
    if x is None or y is None or x is y:
        return None
    points = [point for row in data.candidates if (point := _tradeoff_point(row, x, y, looks)) is not None]
    return _plane_figure(points, _axis(x), _axis(y), title=f"{y.label} against {x.label}")


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
    """The primary metric against the training time."""
    if not data.metrics:
        return None
    points: list[plane.Point] = []
    for row in data.candidates:
        at = placed(row, data.metrics[0])
        if at is not None and numbers.is_finite(row.train_seconds):
            seconds = Estimate(row.train_seconds, row.train_seconds, row.train_seconds)
            points.append(plane.Point(looks[row.name], seconds, at))
    time = plane.Axis("seconds of training", higher_is_better=False, decimals=1)
    return _plane_figure(points, time, _axis(data.metrics[0]), title="Quality against training time")


def _plane_figure(points: list[plane.Point], x: plane.Axis, y: plane.Axis, *, title: str) -> Figure | None:
    if not any(not point.look.is_baseline for point in points):
        return None
    return Figure(
        wide=plane.plane(points, x, y, width=540, height=420, title=title),
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
