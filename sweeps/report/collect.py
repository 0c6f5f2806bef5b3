"""Fills a report from the run store: ledgers, verdict and pictures to plain values."""

from __future__ import annotations

import json
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
from sweeps.report.collect_ladders import collect_ladders
from sweeps.report.data import (
    CandidateRow,
    Crop,
    Curve,
    Difference,
    Estimate,
    MetricInfo,
    OnWholeSet,
    ReportData,
    TrialRow,
)
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep
from sweeps.verdict import Candidate, Verdict, perception_metric

_MAX_CROPS = 6
_MAX_CROP_BYTES = 3_000_000
"""As base64 they are a third larger, and a report is to stay below 5 MB also with forty losses."""


def collect(sweep: Sweep, verdict: Verdict) -> ReportData:
    """Everything the report of a sweep shows, as it stands now.

    Args:
        sweep: The sweep, finished or not.
        verdict: Drawn from the same sweep.
    """
    running = sweep.is_running()
    baseline = sweep.folder.baseline(BASELINE)
    rows = [_row(candidate, verdict) for candidate in verdict.ranking]
    rows = [_with_cost(row, candidate, sweep) for row, candidate in zip(rows, verdict.ranking, strict=True)]
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
        curves=tuple(_curve(trial, sweep) for trial in _shown_trials(sweep, verdict)),
        curve_baseline=validated[-1][curve_name] if validated else None,
        ladders=collect_ladders(_shown_trials(sweep, verdict), sweep),
        crops=_crops(sweep, verdict),
        trials=tuple(_trial_row(trial, sweep) for trial in sweep.trials),
        facts=_facts(sweep, verdict),
        command=sweep.command,
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


def _curve(trial: PlannedTrial, sweep: Sweep) -> Curve:
    rows = sweep.ledger(trial).rows("validation")
    return Curve(
        candidate=trial.candidate,
        seed=trial.config.seed,
        steps=tuple(row["step"] for row in rows),
        seconds=tuple(row["seconds"] for row in rows),
        values=tuple(row[sweep.config.metric.name] for row in rows),
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
    ledgers = [sweep.ledger(trial) for trial in sweep.trials]
    environments = [ledger.folder / "environment.json" for ledger in ledgers]
    for path in [path for path in environments if path.exists()][:1]:
        environment = json.loads(path.read_text())
        versions = ", ".join(f"{name} {environment[name]}" for name in ("srloss", "torch", "ray", "python"))
        facts.append(("Environment", f"{versions}; {environment['cpus']} CPUs, {environment['platform']}"))
    try:
        rejected = manifest.load(config.data.path).description.rejected
    except ValueError:
        rejected = ()
    if rejected:
        facts.append(("Files not used", "; ".join(f"{item.source}: {item.reason}" for item in rejected)))
    return tuple(facts)


def _crops(sweep: Sweep, verdict: Verdict) -> tuple[Crop, ...]:
    """Clips where the losses disagree most, each from another picture; the first seed stands for a loss.

    Disagreement is taken on the perception metric: on PSNR it would single out smooth areas, where nobody sees it.
    """
    if not verdict.ranking:
        return ()
    by = perception_metric(verdict)
    baseline = {row["clip"]: row for row in sweep.folder.baseline(BASELINE).evaluation()}
    tables = {
        c.name: {row["clip"]: row for row in sweep.ledger(c.trials[0]).evaluation()} for c in verdict.ranking
    }
    spread = {clip: float(np.ptp([table[clip][by] for table in tables.values()])) for clip in baseline}
    if len(tables) == 1:
        only = next(iter(tables.values()))
        spread = {clip: abs(only[clip][by] - row[by]) for clip, row in baseline.items()}
    files = _crop_files(sweep)
    shown: dict[str, Crop] = {}
    num_bytes = 0
    for clip in sorted(files, key=lambda clip: spread[clip], reverse=True):
        source = baseline[clip]["source"]
        images = _images(sweep, verdict, files[clip]) if source not in shown else None
        if images is None:
            continue
        num_bytes += sum(len(content) for _, content in images)
        if len(shown) == _MAX_CROPS or (shown and num_bytes > _MAX_CROP_BYTES):
            break
        scores = {BASELINE: baseline[clip][verdict.primary]} | {
            n: t[clip][verdict.primary] for n, t in tables.items()
        }
        metric = METRICS[by]
        reason = f"{metric.label} of the losses differs by {spread[clip]:.{metric.decimals}f} here"
        title = f"{source}, tile {int(clip.rpartition('#')[2]) + 1}"
        shown[source] = Crop(title=title, reason=reason, images=images, scores=scores)
    return tuple(shown.values())


def _crop_files(sweep: Sweep) -> dict[str, str]:
    """Clip to the file name of its kept pictures."""
    from sr.data import held_out
    from sr.evaluate import crop_names

    config = sweep.trials[0].config
    try:
        return crop_names(held_out(manifest.load(config.data.path), config).test)
    except ValueError:
        # The report outlives the data set; it then shows no pictures.
        return {}


def _images(sweep: Sweep, verdict: Verdict, file: str) -> tuple[tuple[str, bytes], ...] | None:
    folder = sweep.folder.baseline(BASELINE).folder
    paths = [("LR", folder / "lr" / file), (BASELINE, folder / "crops" / file)]
    paths += [(c.name, sweep.ledger(c.trials[0]).folder / "crops" / file) for c in verdict.ranking]
    paths += [("HR", folder / "hr" / file)]
    if not all(path.exists() for _, path in paths):
        return None
    return tuple((label, path.read_bytes()) for label, path in paths)
