"""Fills a report from the run store: ledgers, verdict and pictures to plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shards import manifest
from sr.ledger import Ledger, State
from sr.metrics import METRICS
from sr.metrics.perception_distortion import region
from sr.statistics import PerSource, bootstrap_interval
from sr.summary import Summary
from sweeps.deaths import survived
from sweeps.evaluation import BASELINE
from sweeps.report.collect_crops import collect_crops
from sweeps.report.collect_findings import collect_findings, collect_histories, environments
from sweeps.report.collect_ladders import collect_ladders
from sweeps.report.data import (
    CandidateRow,
    Curve,
    Difference,
    Estimate,
    MetricInfo,
    OnWholeSet,
    ReportData,
    TrialRow,
)
from sweeps.report.history import History
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep
from sweeps.verdict import Candidate, Verdict, perception_metric


def collect(
    sweep: Sweep, verdict: Verdict, *, pinned: Sequence[str] = (), full_images: bool = False
) -> ReportData:
    """Everything the report of a sweep shows, as it stands now.

    Args:
        sweep: The sweep, finished or not.
        verdict: Drawn from the same sweep.
        pinned: Clips that are shown in any case, see `collect_crops`.
        full_images: All pictures that were kept, rather than as many as lie well in a page.

    Raises:
        ValueError: A pinned clip is not known.
    """
    running = sweep.is_running()
    crops = collect_crops(sweep, verdict, pinned=pinned, everything=full_images)
    baseline = sweep.folder.baseline(BASELINE)
    rows = [_row(candidate, verdict) for candidate in verdict.ranking]
    histories = collect_histories(sweep)
    findings = collect_findings(sweep, verdict, histories)
    memory = {
        cost.candidate: cost.memory_gb for cost in (findings.cost.by_candidate if findings.cost else ())
    }
    rows = [
        replace(
            _with_cost(row, candidate, sweep),
            device_hours=float(np.mean([histories[trial.trial_id].kept for trial in candidate.trials])),
            memory_gb=memory.get(candidate.name),
        )
        for row, candidate in zip(rows, verdict.ranking, strict=True)
    ]
    if verdict.baseline:
        rows.append(_row(verdict.baseline, verdict))
    everybody = [*verdict.ranking, *([verdict.baseline] if verdict.baseline else [])]
    rows = [
        replace(row, on_whole_set=_on_whole_set(_summaries(candidate, sweep), verdict.primary))
        for row, candidate in zip(rows, everybody, strict=True)
    ]
    validated = baseline.rows("validation") if baseline.exists() else []
    curve_name = sweep.config.metric.name
    return ReportData(
        title=sweep.config.name,
        sweep_id=sweep.folder.sweep_id,
        is_running=running,
        verdict=verdict.sentence,
        caveats=verdict.caveats,
        metrics=tuple(_info(name, sweep) for name in _primary_first(verdict)),
        distortion_metric="psnr_y",
        perception_metric=perception_metric(verdict),
        candidates=tuple(rows),
        why_not_told_from_real=_why_not_told(sweep, verdict),
        curve_metric=_info(sweep.config.metric.evaluation_name, sweep),
        curves=tuple(_curve(trial, histories[trial.trial_id]) for trial in _shown_trials(sweep, verdict)),
        curve_baseline=validated[-1][curve_name] if validated else None,
        ladders=collect_ladders(_shown_trials(sweep, verdict), sweep),
        crops=crops.crops,
        crops_left_out=crops.left_out,
        trials=tuple(_trial_row(trial, sweep) for trial in sweep.trials),
        facts=_facts(sweep, verdict),
        command=sweep.command,
        findings=findings,
    )


def _primary_first(verdict: Verdict) -> list[str]:
    return [verdict.primary, *(name for name in verdict.metrics if name != verdict.primary)]


def _info(name: str, sweep: Sweep) -> MetricInfo:
    metric = METRICS[name]
    convention = f"{metric.convention}; 8-bit, {sweep.trials[0].config.scale} px cut from each border"
    return MetricInfo(name, metric.label, metric.unit, metric.higher_is_better, metric.decimals, convention)


def _estimate(data: PerSource) -> Estimate:
    return Estimate(data.mean, *bootstrap_interval(data))


def _row(candidate: Candidate, verdict: Verdict) -> CandidateRow:
    to_baseline = {}
    for metric, by_name in verdict.to_baseline.items():
        if candidate.name in by_name:
            difference = by_name[candidate.name]
            estimate = Estimate(difference.mean, difference.low, difference.high)
            to_baseline[metric] = Difference(estimate, difference.p_adjusted)
    is_baseline = candidate is verdict.baseline
    return CandidateRow(
        name=candidate.name,
        is_baseline=is_baseline,
        num_seeds=len(candidate.trials),
        scores={metric: _estimate(data) for metric, data in candidate.measured.items()},
        seed_scores={metric: tuple(data.seed_means.tolist()) for metric, data in candidate.measured.items()},
        to_baseline=to_baseline,
        best_on=tuple(m for m, name in verdict.best_on.items() if name == candidate.name and not is_baseline),
        tied_with_best_on=tuple(
            metric
            for metric, by_name in verdict.to_best.items()
            if candidate.name in by_name and not by_name[candidate.name].is_clear and not is_baseline
        ),
        train_seconds=None,
        images_per_second=None,
        on_whole_set=None,
    )


def _summaries(candidate: Candidate, sweep: Sweep) -> list[Summary]:
    """Of all its trials, or none: a mean over some of the seeds would not be that of the row."""
    ledgers = [sweep.ledger(trial) for trial in candidate.trials] or [sweep.folder.baseline(BASELINE)]
    summaries = [summary for ledger in ledgers if (summary := ledger.summary()) is not None]
    return summaries if len(summaries) == len(ledgers) else []


def _on_whole_set(summaries: list[Summary], primary: str) -> OnWholeSet | None:
    if not summaries or not all(primary in summary.metrics for summary in summaries):
        return None
    spread = [summary.metrics[primary] for summary in summaries]
    told = [summary.separability for summary in summaries]
    rmse = _mean([summary.rmse for summary in summaries])
    auc, low, high = (_mean([one and getattr(one, part) for one in told]) for part in ("auc", "low", "high"))
    return OnWholeSet(
        median=float(np.mean([one.median for one in spread])),
        p5=float(np.mean([one.p5 for one in spread])),
        p95=float(np.mean([one.p95 for one in spread])),
        of_the_mean=_mean([one.of_the_mean for one in spread]),
        rmse=rmse,
        region=None if rmse is None else region(rmse),
        told_from_real=None if auc is None or low is None or high is None else Estimate(auc, low, high),
    )


def _mean(values: list[float | None]) -> float | None:
    """None where one of them is None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _why_not_told(sweep: Sweep, verdict: Verdict) -> str:
    # They are all judged on the same clips: what is missing for one is missing for all.
    candidates = [*verdict.ranking, *([verdict.baseline] if verdict.baseline else [])]
    summaries = [summary for candidate in candidates for summary in _summaries(candidate, sweep)]
    return next((summary.why_not_separated for summary in summaries if summary.why_not_separated), "")


def _with_cost(row: CandidateRow, candidate: Candidate, sweep: Sweep) -> CandidateRow:
    ledgers = [sweep.ledger(trial) for trial in candidate.trials]
    rates = [rows[-1]["images_per_second"] for rows in (ledger.rows("train") for ledger in ledgers) if rows]
    return replace(
        row,
        train_seconds=float(np.mean([ledger.status().seconds for ledger in ledgers])),
        images_per_second=float(np.mean(rates)) if rates else None,
    )


def _shown_trials(sweep: Sweep, verdict: Verdict) -> list[PlannedTrial]:
    """Of a ranked loss the trials that stand for it, of any other all: settings that lost would blur its curve."""
    ranked = {candidate.name: candidate.trials for candidate in verdict.ranking}
    return [trial for trial in sweep.trials if trial in ranked.get(trial.candidate, (trial,))]


def _curve(trial: PlannedTrial, history: History) -> Curve:
    points = history.validations
    return Curve(
        candidate=trial.candidate,
        seed=trial.config.seed,
        steps=tuple(point.step for point in points),
        seconds=tuple(point.seconds for point in points),
        values=tuple(point.value for point in points),
        samples=tuple(point.samples for point in points),
        device_hours=tuple(point.device_hours for point in points),
    )


def _trial_row(trial: PlannedTrial, sweep: Sweep) -> TrialRow:
    ledger = sweep.ledger(trial)
    status = ledger.status()
    state = str(status.state)
    if status.attempt and not status.has_ended and not sweep.is_running():
        state = "interrupted"
    reason = f"{status.reason} (log: {ledger.log_path})" if status.state is State.FAILED else status.reason
    reason = "; ".join([reason, *(f"survived: {problem}" for problem in dict.fromkeys(survived(ledger)))])
    return TrialRow(
        trial_id=trial.trial_id,
        candidate=trial.candidate,
        settings=trial.settings + _changed(ledger),
        state=state,
        reason=reason,
        steps=status.step,
        seconds=status.seconds,
        attempts=status.attempt,
        stream_hash=status.stream_hash[:12],
        command=ledger.command(),
    )


def _changed(ledger: Ledger) -> str:
    """What its population has changed in a trial since it began."""
    return "".join(
        f"; from step {row['step']} on {row['from_trial']} with "
        + ", ".join(f"{name}={value:g}" for name, value in row["changes"].items())
        for row in ledger.rows("perturbation")
    )


def _facts(sweep: Sweep, verdict: Verdict) -> tuple[tuple[str, str], ...]:
    config = sweep.trials[0].config
    facts = [
        ("Data set", f"{Path(config.data.path).name}, fingerprint {config.data.fingerprint[:12]}"),
        ("Scale and degradation", f"x{config.scale}, {config.degradation.type}, LR rounded to 8 bits"),
        ("Judged on", f"{verdict.num_clips} clips (tiles of up to {config.evaluation.tile_size} px) of {verdict.num_sources} held-out pictures"),
        ("Generator", ", ".join([config.model.type, *(f"{k}={v}" for k, v in config.model.parameters.items())])),
        ("Budget of a trial", f"{config.training.steps} steps of {config.training.global_batch_size} crops of {config.data.patch_size} px"
         + (f", at most {config.training.max_seconds:g} s" if config.training.max_seconds else "")),
        ("Term weights", "calibrated to L1's gradient" if config.loss.calibrate else "as given, not calibrated"),
        ("Intervals", "95 %, paired, bootstrap over source pictures and seeds; p: sign flips over pictures, Holm-adjusted"),
    ]  # fmt: skip
    if environment := environments(sweep):
        facts.append(("Environment", environment))
    try:
        rejected = manifest.load(config.data.path).description.rejected
    except ValueError:
        rejected = ()
    if rejected:
        facts.append(("Files not used", "; ".join(f"{item.source}: {item.reason}" for item in rejected)))
    return tuple(facts)
