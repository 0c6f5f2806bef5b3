"""Fills what a report knows beside the scores from the run store."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from sr.ledger import State
from sr.metrics import METRICS
from sr.statistics import smallest_p
from sweeps.evaluation import BASELINE
from sweeps.report import findings
from sweeps.report.collect_configs import config_differences
from sweeps.report.collect_rungs import collect_rungs
from sweeps.report.collect_tuning import collect_tuning
from sweeps.report.findings import CandidateCost, ClipScores, Cost, Findings
from sweeps.report.history import History, read_history
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep
from sweeps.verdict import Verdict

Histories = Mapping[str, History]
"""Trial id -> its course."""


def collect_histories(sweep: Sweep) -> dict[str, History]:
    """The course of every trial, read once."""
    return {
        trial.trial_id: read_history(
            sweep.ledger(trial),
            metric=sweep.config.metric.name,
            ranks=trial.config.engine.ranks,
            donor=sweep.folder.trial,
        )
        for trial in sweep.trials
    }


def collect_findings(sweep: Sweep, verdict: Verdict, histories: Histories) -> Findings:
    """Cost, clips, tuning, configurations and rungs as they stand now."""
    compared = [trial for candidate in verdict.ranking for trial in candidate.trials]
    chosen = {trial.trial_id for trial in compared}
    least = smallest_p(verdict.num_sources) * len(verdict.ranking) if verdict.num_sources else None
    return Findings(
        cost=_cost(sweep, chosen, histories),
        clips=_clips(sweep, verdict),
        tuning=collect_tuning(sweep, chosen, histories),
        configs=config_differences(verdict),
        rungs=collect_rungs(sweep, histories),
        streams=_streams(sweep, compared),
        smallest_p=min(1.0, least) if least else None,
    )


# --- cost -------------------------------------------------------------------------------------------------------------

_PURPOSE = {
    State.STOPPED_EARLY: findings.STOPPED,
    State.FAILED: findings.FAILED,
    State.CANCELLED: findings.CANCELLED,
    State.PENDING: findings.UNFINISHED,
    State.RUNNING: findings.UNFINISHED,
}


def _cost(sweep: Sweep, chosen: set[str], histories: Histories) -> Cost | None:
    if not any(history.device_hours for history in histories.values()):
        return None
    states = {trial.trial_id: sweep.ledger(trial).status().state for trial in sweep.trials}
    shares: dict[str, float] = dict.fromkeys(findings.PURPOSES, 0.0)
    by_candidate: dict[str, list[PlannedTrial]] = defaultdict(list)
    for trial in sweep.trials:
        name, history = trial.trial_id, histories[trial.trial_id]
        finished = findings.COMPARED if name in chosen else findings.NOT_CHOSEN
        shares[_PURPOSE.get(states[name], finished)] += history.kept
        shares[findings.REPEATED] += history.repeated
        by_candidate[trial.candidate].append(trial)
    on_device = any(history.device_memory_gb is not None for history in histories.values())
    costs = []
    for candidate, trials in by_candidate.items():
        own = [histories[trial.trial_id] for trial in trials]
        memory = [m for h in own if (m := h.device_memory_gb if on_device else h.memory_gb) is not None]
        costs.append(
            CandidateCost(
                candidate=candidate,
                outcomes=dict(Counter(str(states[trial.trial_id]) for trial in trials)),
                num_restarts=sum(max(0, history.num_attempts - 1) for history in own),
                device_hours=sum(history.device_hours for history in own),
                repeated=sum(history.repeated for history in own),
                memory_gb=max(memory, default=None),
            )
        )
    is_known = any(cost.memory_gb is not None for cost in costs)
    return Cost(shares, tuple(costs), ("device" if on_device else "process") if is_known else "")


# --- clips ------------------------------------------------------------------------------------------------------------


def clip_title(clip: str, source: str) -> str:
    """A clip as people read it: `chelsea.png, tile 3`."""
    return f"{source}, tile {int(clip.rpartition('#')[2]) + 1}"


def _clips(sweep: Sweep, verdict: Verdict) -> ClipScores | None:
    """The primary metric on the clips on which everybody has a number."""
    if not verdict.ranking:
        return None
    tables = {c.name: [sweep.ledger(trial).evaluation() for trial in c.trials] for c in verdict.ranking}
    rows = sweep.folder.baseline(BASELINE).evaluation()
    tables[BASELINE] = [rows]
    means = {name: _clip_means(of_seeds, verdict.primary) for name, of_seeds in tables.items()}
    shown = [row for row in rows if all(np.isfinite(by_clip[row["clip"]]) for by_clip in means.values())]
    return ClipScores(
        titles=tuple(clip_title(row["clip"], row["source"]) for row in shown),
        by_name={name: tuple(by_clip[row["clip"]] for row in shown) for name, by_clip in means.items()},
    )


def _clip_means(of_seeds: Sequence[Sequence[Mapping[str, object]]], metric: str) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for rows in of_seeds:
        for row in rows:
            value = float(str(row[metric]))
            values[str(row["clip"])].append(abs(value) if METRICS[metric].zero_is_best else value)
    return {clip: float(np.mean(numbers)) for clip, numbers in values.items()}


# --- the same data ----------------------------------------------------------------------------------------------------


def _streams(sweep: Sweep, compared: Sequence[PlannedTrial]) -> str:
    """Whether trials of one data seed and equal length consumed the same samples and crops."""
    hashes: dict[int, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for trial in compared:
        status = sweep.ledger(trial).status()
        samples = status.step * trial.config.training.global_batch_size
        hashes[trial.config.data.seed][samples].add(status.stream_hash)
    if len(compared) < 2:
        return ""
    seeds = f"{len(hashes)} data seed{'s' if len(hashes) > 1 else ''}"
    if any(len(found) > 1 for by_length in hashes.values() for found in by_length.values()):
        return (
            f"The {len(compared)} compared trials did not all see the same samples and crops: stream hashes of equal data "
            "seed and length differ."
        )
    if any(len(by_length) > 1 for by_length in hashes.values()):
        return (
            f"The {len(compared)} compared trials were not trained on equally many samples; those that were saw the same "
            f"samples and crops in the same order (stream hashes agree, {seeds})."
        )
    return f"The {len(compared)} compared trials saw the same samples and crops in the same order (stream hashes agree, {seeds})."


def environments(sweep: Sweep) -> str:
    """Versions and hardware, and which of them differ between trials; empty where nothing has run."""
    paths = [sweep.ledger(trial).folder / "environment.json" for trial in sweep.trials]
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not found:
        return ""
    versions = ", ".join(f"{name} {found[0][name]}" for name in ("srloss", "torch", "ray", "python"))
    differing = {
        key: sorted({str(one.get(key)) for one in found})
        for key in found[0]
        if len({str(one.get(key)) for one in found}) > 1
    }
    told = "; ".join(f"{key} {' or '.join(values)}" for key, values in differing.items())
    alike = "the same in all trials that ran" if not told else f"not the same in all trials: {told}"
    return f"{versions}; {found[0]['cpus']} CPUs, {found[0]['platform']}; {alike}"
