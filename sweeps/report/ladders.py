"""The section of a sweep's report about its ladders."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweeps.report import numbers
from sweeps.report.data import CandidateLadders, Estimate, LadderStage, LadderTrial, MetricInfo, ReportData
from sweeps.report.ladder_charts import Series
from sweeps.report.ladder_view import DISCRIMINATOR, FRESH, PERCEPTUAL, auc_figure, quality_figure
from sweeps.report.ladder_words import AUC_DECIMALS, titled
from sweeps.report.palette import Look
from sweeps.report.view import Figure


@dataclass(frozen=True, slots=True)
class LadderView:
    """The ladders of one loss."""

    look: Look
    quality_title: str
    quality: Figure | None
    """None while no stage has ended, as the next."""
    aucs: Figure | None
    stages: tuple[tuple[str, ...], ...]
    """For each stage: its number, how many seeds reached it, quality, AUC of discriminator, perceptual network, fresh one."""
    trials: tuple[LadderTrial, ...]


def views(data: ReportData, looks: dict[str, Look]) -> list[LadderView]:
    """In the order given."""
    return [_view(one, looks[one.candidate]) for one in data.ladders]


def _view(ladders: CandidateLadders, look: Look) -> LadderView:
    metric, trials = ladders.metric, ladders.trials
    if metric is None:
        return LadderView(look, "", None, None, (), trials)
    quality = _series(look, trials, lambda stage: stage.quality)
    aucs = [
        _series(DISCRIMINATOR, trials, lambda stage: stage.discriminator),
        _series(PERCEPTUAL, trials, lambda stage: stage.perceptual),
        _series(FRESH, trials, lambda stage: stage.fresh),
    ]
    return LadderView(
        look=look,
        quality_title=titled(metric),
        quality=quality_figure([quality], metric),
        aucs=auc_figure(aucs),
        stages=tuple(_row(stage, trials, quality, aucs, metric) for stage in range(len(quality.by_stage))),
        trials=trials,
    )


def _series(
    look: Look, trials: Sequence[LadderTrial], value: Callable[[LadderStage], float | None]
) -> Series:
    """Mean over the trials that reached each stage, and each of them as a dot."""
    reached = max((len(trial.stages) for trial in trials), default=0)
    known = [
        [
            found
            for trial in trials
            for one in trial.stages[stage : stage + 1]
            if numbers.is_finite(found := value(one))
        ]
        for stage in range(reached)
    ]
    means = (statistics.fmean(values) if values else None for values in known)
    return Series(
        look,
        tuple(None if mean is None else Estimate(mean, mean, mean) for mean in means),
        tuple(tuple(values) if len(values) > 1 else () for values in known),
    )


def _row(
    stage: int, trials: Sequence[LadderTrial], quality: Series, aucs: Sequence[Series], metric: MetricInfo
) -> tuple[str, ...]:
    def shown(series: Series, decimals: int) -> str:
        mean = series.by_stage[stage]
        return numbers.number(mean.mean if mean else None, decimals)

    reached = sum(len(trial.stages) > stage for trial in trials)
    cells = (shown(quality, metric.decimals), *(shown(series, AUC_DECIMALS) for series in aucs))
    return (str(stage), str(reached), *cells)
