"""From the ledgers of a sweep to an answer: which loss, by how much, and how sure one can be."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sr.config import TrialConfig
from sr.ledger import State
from sr.metrics import METRICS, Metric
from sr.statistics import ALPHA, PerSource, bootstrap_interval, holm, per_source, sign_flip_p
from sweeps.caveats import caveats
from sweeps.evaluation import BASELINE
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep

Seed = tuple[int, int]
"""A trial's own seed and that of its data."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired difference: row minus reference."""

    mean: float
    low: float
    high: float
    p_adjusted: float
    """Holm-adjusted over the rows compared with the same reference on the same metric."""
    seed_spread: float
    """Standard deviation over seeds of the difference; 0 with one seed."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero, p is below 0.05, and it exceeds the spread over seeds."""
        leaves_out_zero = self.low > 0 or self.high < 0
        return leaves_out_zero and self.p_adjusted < ALPHA and abs(self.mean) > self.seed_spread


@dataclass(frozen=True)
class Candidate:
    """One loss: the trials that stand for it, and what they measured."""

    name: str
    trials: tuple[PlannedTrial, ...]
    measured: dict[str, PerSource]
    """Metric to its values."""


@dataclass(frozen=True)
class Verdict:
    """Everything that was concluded."""

    primary: str
    metrics: tuple[str, ...]
    ranking: tuple[Candidate, ...]
    """Candidates with full budgets, best first by the primary metric."""
    baseline: Candidate | None
    to_baseline: dict[str, dict[str, Comparison]]
    """Metric, then candidate: difference to bicubic."""
    to_best: dict[str, dict[str, Comparison]]
    """Metric, then candidate: difference to the best candidate on that metric; the best itself is absent."""
    best_on: dict[str, str]
    """Metric to the candidate with the best mean."""
    num_clips: int
    num_sources: int
    sentence: str
    caveats: tuple[str, ...]


def draw(sweep: Sweep) -> Verdict:
    """Draws the verdict from what has finished so far.

    Of each candidate the variant that validated best stands for it; of each population the trial that did.
    """
    chosen, dropped = _chosen_trials(sweep)
    baseline_rows = sweep.folder.baseline(BASELINE).evaluation()
    sources = {row["clip"]: row["source"] for row in baseline_rows}
    tables = {name: [sweep.ledger(trial).evaluation() for trial in trials] for name, trials in chosen.items()}
    judged = judged_clips([baseline_rows, *itertools.chain.from_iterable(tables.values())], sources)
    metrics = tuple(judged)
    dropped += _left_out(judged, sources)
    primary = sweep.config.metric.evaluation_name
    candidates = [
        Candidate(name, tuple(trials), measured(tables[name], judged)) for name, trials in chosen.items()
    ]
    candidates.sort(key=lambda c: _goodness(c, primary), reverse=True)
    baseline = Candidate(BASELINE, (), measured([baseline_rows], judged)) if baseline_rows else None
    best_on = {
        metric: max(candidates, key=lambda c: _goodness(c, metric)).name for metric in metrics if candidates
    }
    by_name = {candidate.name: candidate for candidate in candidates}
    to_baseline = {m: _compare(candidates, baseline, m) for m in metrics} if baseline else {}
    to_best = {
        m: _compare([c for c in candidates if c.name != best_on[m]], by_name[best_on[m]], m) for m in best_on
    }
    verdict = Verdict(
        primary, metrics, tuple(candidates), baseline, to_baseline, to_best, best_on,
        len(sources), len(set(sources.values())), "", (),
    )  # fmt: skip
    return _with_words(verdict, sweep, dropped)


def _goodness(candidate: Candidate, metric: str) -> float:
    mean = candidate.measured[metric].mean
    return mean if METRICS[metric].higher_is_better else -mean


def _chosen_trials(sweep: Sweep) -> tuple[dict[str, list[PlannedTrial]], list[str]]:
    """Candidate to the trials that stand for it, one for each seed, and what was left out of the comparison, in words.

    All candidates stand with the same seeds: with every planned seed where any of them has that, else, in a sweep that
    still runs, with the seeds that all of them have.
    """
    finished = finished_trials(sweep)
    planned = {seed_of(trial.config) for trial in sweep.trials}
    widest = {name: max(map(set, variants.values()), key=len) for name, variants in finished.items()}
    seeds = planned if planned in widest.values() else set.intersection(*widest.values()) if widest else set()
    dropped: list[str] = []
    chosen: dict[str, list[PlannedTrial]] = {}
    for name in dict.fromkeys(trial.candidate for trial in sweep.trials):
        variants = [
            [trials[seed] for seed in sorted(seeds)]
            for trials in finished.get(name, {}).values()
            if seeds <= trials.keys()
        ]
        if not seeds or not variants:
            done = len(widest.get(name, ()))
            dropped.append(
                f"{name} is left out of the ranking: {done} of its {len(planned)} seeds finished and were evaluated."
            )
            continue
        chosen[name] = max(variants, key=lambda trials: validated(sweep, trials))
    return chosen, dropped


def finished_trials(sweep: Sweep) -> dict[str, dict[str, dict[Seed, PlannedTrial]]]:
    """Candidate, then variant, then seed: the trials that were trained in full and evaluated."""
    finished: dict[str, dict[str, dict[Seed, PlannedTrial]]] = defaultdict(lambda: defaultdict(dict))
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        if ledger.status().state is State.FINISHED and ledger.evaluation():
            # The settings that a trial of a population began with say nothing of those it ended with.
            variant = finished[trial.candidate]["" if sweep.config.population else trial.variant]
            seed = seed_of(trial.config)
            variant[seed] = max(
                [variant.get(seed, trial), trial], key=lambda rival: validated(sweep, [rival])
            )
    return finished


def seed_of(config: TrialConfig) -> Seed:
    """What tells the replicates of one configuration apart."""
    return config.seed, config.data.seed


def validated(sweep: Sweep, trials: Sequence[PlannedTrial]) -> float:
    """Last validation of the sweep's metric, averaged over seeds; tuning never sees the held-out clips."""
    name = sweep.config.metric.name
    values = [sweep.ledger(trial).rows("validation")[-1][name] for trial in trials]
    return float(np.mean(values)) * (1 if sweep.config.metric.goal == "maximize" else -1)


def judged_clips(
    tables: Sequence[list[dict[str, Any]]], sources: dict[str, str]
) -> dict[str, dict[str, str]]:
    """Metric to the clips (with their sources) on which everybody has a number: all stand on the same ones.

    A metric may be undefined on a clip, e.g. the recognition of a face where there is none; one without any clip is absent.
    """
    judged: dict[str, dict[str, str]] = {}
    names = [
        name for name in METRICS if tables[0] and all(name in row for table in tables for row in table[:1])
    ]
    for name in names:
        undefined = {row["clip"] for table in tables for row in table if not math.isfinite(row[name])}
        clips = {clip: source for clip, source in sources.items() if clip not in undefined}
        if clips:
            judged[name] = clips
    return judged


def _left_out(judged: dict[str, dict[str, str]], sources: dict[str, str]) -> list[str]:
    return [
        f"{METRICS[name].label} is undefined on {len(sources) - len(clips)} of {len(sources)} clips for some model; all are "
        "compared on the others."
        for name, clips in judged.items()
        if len(clips) < len(sources)
    ]


def measured(tables: list[list[dict[str, Any]]], judged: dict[str, dict[str, str]]) -> dict[str, PerSource]:
    """Metric to the values of these tables of clips, one table for each seed."""

    def value(metric: str, row: dict[str, Any]) -> float:
        # Of a metric with a sign that is best at zero, the distance from zero is what can be ranked.
        return abs(row[metric]) if METRICS[metric].zero_is_best else row[metric]

    return {
        metric: per_source(
            [{row["clip"]: value(metric, row) for row in table if row["clip"] in clips} for table in tables],
            clips,
        )
        for metric, clips in judged.items()
    }


def _compare(rows: Sequence[Candidate], reference: Candidate, metric: str) -> dict[str, Comparison]:
    differences = {row.name: row.measured[metric] - reference.measured[metric] for row in rows}
    adjusted = holm([sign_flip_p(difference) for difference in differences.values()])
    return {
        name: Comparison(
            difference.mean,
            *bootstrap_interval(difference),
            p_adjusted=p,
            seed_spread=float(np.std(difference.seed_means, ddof=1)) if len(difference.sums) > 1 else 0.0,
        )
        for (name, difference), p in zip(differences.items(), adjusted, strict=True)
    }


# --- in words ---


def _with_words(verdict: Verdict, sweep: Sweep, dropped: list[str]) -> Verdict:
    if not verdict.ranking and _is_open(sweep):
        # Of each loss the same would be said.
        dropped = []
    return replace(verdict, sentence=_sentence(verdict, sweep), caveats=(*dropped, *caveats(verdict, sweep)))


def _is_open(sweep: Sweep) -> bool:
    """Whether trials have not ended, or wait to be evaluated."""
    return bool(sweep.with_state(State.PENDING, State.RUNNING) or sweep.unevaluated())


def _sentence(verdict: Verdict, sweep: Sweep) -> str:
    failed, cancelled = (len(sweep.with_state(state)) for state in (State.FAILED, State.CANCELLED))
    if not verdict.ranking and _is_open(sweep):
        over = sum(sweep.ledger(trial).status().has_ended for trial in sweep.trials)
        how = f" ({failed} failed, {cancelled} cancelled)" if failed or cancelled else ""
        return f"No verdict yet: {over} of {len(sweep.trials)} trials have ended{how}, and none of them is evaluated yet."
    if not verdict.ranking or verdict.baseline is None:
        by_hand = f", {cancelled} cancelled" if cancelled else ""
        return f"No verdict: no trial has been trained in full and evaluated ({failed} of {len(sweep.trials)} failed{by_hand})."
    metric = METRICS[verdict.primary]
    best = verdict.ranking[0]
    gain = verdict.to_baseline[verdict.primary][best.name]
    sign = 1 if metric.higher_is_better else -1
    if sign * gain.mean <= 0:
        return (
            f"None of the {len(verdict.ranking)} losses beats bicubic enlargement on held-out pictures: the best, {best.name}, "
            f"differs by {quantity(gain.mean, metric)} {metric.label} ({interval(gain, metric)}). Train longer before you choose."
        )
    evidence = f"{quantity(gain.mean, metric)} {metric.label} over bicubic ({interval(gain, metric)})"
    others = verdict.to_best[verdict.primary]
    tied = [name for name, comparison in others.items() if not comparison.is_clear]
    if not others:
        answer = f"{best.name} gains {evidence}; it is the only loss, so there is nothing to choose from."
    elif not tied:
        answer = f"Train with {best.name}: {evidence}, and better than every other loss tried: {_losers(others, list(others), metric)}."
    elif len(tied) == len(others):
        answer = f"No loss is distinguishable from the best, {best.name}, on {metric.label}: it gains {evidence}; choose by another metric or by cost, or add pictures and seeds."
    else:
        clear = [name for name in others if name not in tied]
        answer = (
            f"Train with {_listed([best.name, *tied], 'or')}, which {metric.label} does not tell apart: {best.name} gains "
            f"{evidence}. Clearly worse: {_losers(others, clear, metric)}."
        )
    if not gain.is_clear:
        answer += " The gain over bicubic is itself not certain on so few pictures."
    return answer + _perceptual(verdict)


def _losers(others: dict[str, Comparison], names: list[str], metric: Metric) -> str:
    return _listed([f"{name} {quantity(others[name].mean, metric)}" for name in names], "and")


def _perceptual(verdict: Verdict) -> str:
    """Who wins on the perceptual metric, where that is somebody else than the winner."""
    name = perception_metric(verdict)
    winner = verdict.best_on[name]
    if name == verdict.primary or winner == verdict.ranking[0].name:
        return ""
    beaten = verdict.to_best[name][verdict.ranking[0].name]
    metric = METRICS[name]
    if not beaten.is_clear:
        return ""
    return (
        f" On {metric.label}, which weighs structures, {winner} is better ({quantity(-beaten.mean, metric)})."
    )


def perception_metric(verdict: Verdict) -> str:
    """The metric on the perception axis."""
    return "haarpsi" if "haarpsi" in verdict.metrics else verdict.primary


def quantity(value: float, metric: Metric) -> str:
    """A signed difference with its unit."""
    sign = "+" if value >= 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(value):.{metric.decimals}f}{' ' + metric.unit if metric.unit else ''}"


def interval(comparison: Comparison, metric: Metric) -> str:
    """The interval and p of a difference."""
    ends = f"{comparison.low:.{metric.decimals}f} to {comparison.high:.{metric.decimals}f}".replace(
        "-", "\N{MINUS SIGN}"
    )
    return f"95 % interval {ends}, p = {comparison.p_adjusted:.2g}"


def _listed(names: list[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def pairwise(first: Candidate, second: Candidate, metrics: Sequence[str]) -> dict[str, Comparison]:
    """Paired difference of two candidates on each metric; p is adjusted over the metrics."""
    single = {metric: _compare([first], second, metric)[first.name] for metric in metrics}
    adjusted = holm([comparison.p_adjusted for comparison in single.values()])
    return {m: replace(c, p_adjusted=p) for (m, c), p in zip(single.items(), adjusted, strict=True)}
