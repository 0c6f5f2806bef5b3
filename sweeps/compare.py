"""Two losses or two trials beside each other: what differs in how they were made, and in what they do to held-out clips."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from sr.config import LossConfig, TrialConfig, to_plain
from sr.metrics import METRICS
from sr.statistics import PerSource, smallest_p
from sweeps.candidates import loss_name
from sweeps.sides import Member, Side
from sweeps.verdict import Candidate, Comparison, Seed, judged_clips, measured, pairwise, seed_of

NUM_CLIPS_SHOWN = 3
"""Clips of each of the two extremes."""


class Stream(StrEnum):
    """How the training data of the two sides compare."""

    SAME = "same"
    OTHER_SEEDS = "other_seeds"
    """The seeds differ, so the order and the crops do too."""
    OTHER_LENGTH = "other_length"
    """Equally seeded, but one has consumed more."""
    DIFFERENT = "different"
    """As many samples by the same seeds, and yet not the same ones."""
    NONE = "none"
    """One of them was not trained."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the configuration that differs; of several trials all their values."""

    key: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """One metric on the held-out clips."""

    metric: str
    first: float
    second: float
    comparison: Comparison
    """The first minus the second, p adjusted over the metrics."""
    num_clips: int
    num_sources: int

    @property
    def better(self) -> int | None:
        """0 or 1, the side that is better; None where they cannot be told apart."""
        if not self.comparison.is_clear:
            return None
        metric = METRICS[self.metric]
        # Of a metric that is best at zero, distances from zero are compared.
        is_higher_better = metric.higher_is_better and not metric.zero_is_best
        return int((self.comparison.mean > 0) != is_higher_better)


@dataclass(frozen=True, slots=True)
class ClipContrast:
    """One clip, on one metric, means over the seeds."""

    clip: str
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Mean over the trials of a side."""

    seconds: float
    images_per_second: float | None
    device_hours: float


@dataclass(frozen=True, slots=True)
class Validation:
    """The latest step at which all trials of both sides were validated."""

    step: int
    values: dict[str, tuple[float, float]]
    """Metric to its means, of both sides."""


@dataclass(frozen=True)
class Compared:
    """Everything that was found."""

    sides: tuple[Side, Side]
    settings: tuple[Setting, ...]
    stream: Stream
    steps: tuple[int, int]
    """Most that a trial of each side has done."""
    not_comparable: tuple[str, ...]
    """Why the numbers of the two must not be set against each other."""
    doubts: tuple[str, ...]
    """What to bear in mind with the numbers."""
    seeds: tuple[Seed, ...]
    """On which the two are paired; empty where they have none in common and their means over seeds are compared."""
    contrasts: tuple[Contrast, ...]
    """Empty where one of them is not evaluated, or they are not comparable."""
    clips_by: str
    """The metric of `clips`."""
    clips: tuple[ClipContrast, ...]
    """Where the two differ most, those first on which the first side is better."""
    validation: Validation | None
    """In place of the above, where there is any."""
    costs: tuple[Cost | None, Cost | None]

    @property
    def smallest_p(self) -> float | None:
        """The least p that so few pictures and so many metrics can give."""
        if not self.contrasts:
            return None
        fewest = min(contrast.num_sources for contrast in self.contrasts)
        return min(1.0, smallest_p(fewest) * len(self.contrasts))


def compare(first: Side, second: Side) -> Compared:
    """Sets two sides against each other, as far as that is fair."""
    why_not = tuple(_not_comparable(first, second))
    seeds = _common_seeds(first, second)
    judged = first.is_evaluated and second.is_evaluated and not why_not
    tables = [_tables(side, seeds) for side in (first, second)] if judged else []
    contrasts = _contrasts(tables, seeds, without=_other_conventions(first, second)) if judged else ()
    by = first.primary or second.primary
    by = by if by in {contrast.metric for contrast in contrasts} else next((c.metric for c in contrasts), "")
    return Compared(
        sides=(first, second),
        settings=tuple(_settings(first, second)),
        stream=_stream(first, second),
        steps=(_steps(first), _steps(second)),
        not_comparable=why_not,
        doubts=tuple(_doubts(first, second)),
        seeds=seeds,
        contrasts=contrasts,
        clips_by=by,
        clips=_extreme_clips(tables, by) if by else (),
        validation=None if judged or why_not else _validation(first, second),
        costs=(_cost(first), _cost(second)),
    )


# --- how they were made ---


def _settings(first: Side, second: Side) -> Iterable[Setting]:
    if first.is_baseline or second.is_baseline:
        return
    values = [_values(side) for side in (first, second)]
    keys = dict.fromkeys(key for of_side in values for key in of_side)
    for section in [key for key in keys if any(of_side.get(key) == ("null",) for of_side in values)]:
        # One line for a section that only the one has, rather than one for each of its settings.
        inner = [key for key in keys if key.startswith(f"{section}.")]
        for of_side in values if inner else ():
            count = sum(of_side.pop(key, None) is not None for key in inner)
            of_side[section] = (f"{count} settings",) if count else ("none",)
    for key in keys:
        one, other = (of_side.get(key, ("-",)) for of_side in values)
        if one != other:
            yield Setting(key, ", ".join(one), ", ".join(other))


def _values(side: Side) -> dict[str, tuple[str, ...]]:
    """Dotted key to the values that the trials of a side have, each once."""
    found: dict[str, dict[str, None]] = {}
    for member in side.members:
        for key, value in _flat(_readable(member.config)).items():
            found.setdefault(key, {})[value] = None
    return {key: tuple(values) for key, values in found.items()}


def _readable(config: TrialConfig) -> dict[str, Any]:
    """The configuration with each loss as the sum that people write."""
    plain = to_plain(config)
    plain["loss"] |= _terms(config, config.loss)
    if config.adversarial is not None and config.adversarial.pixel_loss is not None:
        plain["adversarial"]["pixel_loss"] |= _terms(config, config.adversarial.pixel_loss)
    return plain


def _terms(config: TrialConfig, loss: LossConfig) -> dict[str, Any]:
    nameless = config.model_copy(update={"loss": loss.model_copy(update={"name": ""})})
    given = {term.type: term.calibration for term in loss.terms if term.calibration is not None}
    return {"terms": loss_name(nameless)} | ({"calibration": given} if given else {})


def _flat(value: object, key: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        parts = [_flat(part, f"{key}.{name}" if key else name) for name, part in value.items()]
        return {k: v for part in parts for k, v in part.items()}
    return {key: value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)}


def _stream(first: Side, second: Side) -> Stream:
    if first.is_baseline or second.is_baseline:
        return Stream.NONE
    ours, theirs = (_streams(side) for side in (first, second))
    if not any(ours.values()) or not any(theirs.values()):
        return Stream.NONE
    common = ours.keys() & theirs.keys()
    if not common:
        return Stream.OTHER_SEEDS
    if any(ours[seed][0] != theirs[seed][0] for seed in common):
        return Stream.OTHER_LENGTH
    return Stream.SAME if all(ours[seed] == theirs[seed] for seed in common) else Stream.DIFFERENT


def _streams(side: Side) -> dict[int, tuple[int, str]]:
    """Data seed to the number of crops consumed and their hash."""
    found = {}
    for member in side.members:
        status = member.ledger.status()
        if status.stream_hash:
            crops = status.step * member.config.training.global_batch_size
            found[member.config.data.seed] = (crops, status.stream_hash)
    return found


def _steps(side: Side) -> int:
    return max(member.ledger.status().step for member in side.members)


def _cost(side: Side) -> Cost | None:
    if side.is_baseline:
        return None
    seconds = [member.ledger.status().seconds for member in side.members]
    if not any(seconds):
        return None
    hours = [s * m.config.engine.ranks / 3600 for s, m in zip(seconds, side.members, strict=True)]
    rows = [rows[-1] for member in side.members if (rows := member.ledger.rows("train"))]
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return Cost(float(np.mean(seconds)), float(np.mean(rates)) if rates else None, float(np.mean(hours)))


# --- whether they can be compared ---


def _not_comparable(first: Side, second: Side) -> Iterable[str]:
    one, other = first.members[0].config, second.members[0].config
    if one.scale != other.scale:
        yield f"one enlarges x{one.scale} and the other x{other.scale}"
    if one.degradation != other.degradation:
        yield f"their LR pictures are made in different ways ({_worded(one.degradation)}; {_worded(other.degradation)})"
    clips = [_sources(side.members) for side in (first, second)]
    if all(clips) and clips[0] != clips[1]:
        ours, theirs = (set(found.items()) for found in clips)
        yield (
            f"they were judged on different held-out clips: {len(ours & theirs)} in common, {len(ours - theirs)} only of "
            f"{first.name}, {len(theirs - ours)} only of {second.name}"
        )


def _other_conventions(first: Side, second: Side) -> dict[str, str]:
    """The metrics that were measured in two ways, and these ways."""
    ours, theirs = (_conventions(side.members) for side in (first, second))
    return {
        name: f"{ours[name]} / {theirs[name]}"
        for name in ours
        if name in theirs and ours[name] != theirs[name]
    }


def _worded(section: Any) -> str:  # noqa: ANN401 - a component of the configuration
    return ", ".join(f"{key}={value}" for key, value in section.model_dump().items())


def _sources(members: Sequence[Member]) -> dict[str, str]:
    """Clip to its source picture, of all trials."""
    return {row["clip"]: row["source"] for member in members for row in member.ledger.evaluation()}


def _conventions(members: Sequence[Member]) -> dict[str, str]:
    """Metric to how it was measured, as recorded when it was; empty where that was not recorded."""
    found: dict[str, str] = {}
    for member in members:
        path = member.ledger.folder / "summary.json"
        plain = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"metrics": {}}
        for name, values in plain["metrics"].items():
            if name in METRICS:
                found[name] = f"{values['convention']}; {json.dumps(values['protocol'])}"
    return found


def _doubts(first: Side, second: Side) -> Iterable[str]:
    prints = [{member.config.data.fingerprint for member in side.members} for side in (first, second)]
    if prints[0] != prints[1]:
        shown = " and ".join("/".join(sorted(p[:12] for p in found)) for found in prints)
        yield (
            f"the data sets differ (fingerprints {shown}): their clips have the same names, but whether they show the same "
            "pictures is not known here; do not rely on the numbers unless you know"
        )
    for name, ways in _other_conventions(first, second).items():
        yield f"{METRICS[name].label} is left out: it was measured by different conventions ({ways})"
    for side in (first, second):
        if side.num_left_out:
            yield f"of {side.name}, {side.num_left_out} seed{'s have' if side.num_left_out > 1 else ' has'} not finished; left out"
        if any(member.ledger.status().met_wall_time_cap for member in side.members):
            yield f"{side.name} met its wall-time cap before its last step, so the budgets are not equal in steps"


# --- what they do ---


def _common_seeds(first: Side, second: Side) -> tuple[Seed, ...]:
    """Seeds by which the two are paired; those of the trained one against the baseline, which has none."""
    ours, theirs = ({seed_of(member.config) for member in side.members} for side in (first, second))
    if first.is_baseline:
        return tuple(sorted(theirs))
    return tuple(sorted(ours if second.is_baseline else ours & theirs))


def _tables(side: Side, seeds: Sequence[Seed]) -> list[list[dict[str, Any]]]:
    """The rows of a side's clips, a table for each seed."""
    by_seed = {seed_of(member.config): member.ledger.evaluation() for member in side.members}
    return list(by_seed.values()) if side.is_baseline or not seeds else [by_seed[seed] for seed in seeds]


def _contrasts(
    tables: Sequence[list[list[dict[str, Any]]]], seeds: Sequence[Seed], *, without: Iterable[str]
) -> tuple[Contrast, ...]:
    first, second = tables
    judged = judged_clips([*first, *second], {row["clip"]: row["source"] for row in first[0]})
    judged = {name: clips for name, clips in judged.items() if name not in without}
    values = [measured(of_side, judged) for of_side in tables]
    if not seeds:
        # One seed of the one has nothing to do with one seed of the other.
        values = [{name: _mean_over_seeds(data) for name, data in of_side.items()} for of_side in values]
    one, other = (Candidate(str(place), (), data) for place, data in enumerate(values))
    return tuple(
        Contrast(
            name,
            one.measured[name].mean,
            other.measured[name].mean,
            comparison,
            len(clips),
            len(set(clips.values())),
        )
        for (name, clips), comparison in zip(
            judged.items(), pairwise(one, other, list(judged)).values(), strict=True
        )
    )


def _mean_over_seeds(data: PerSource) -> PerSource:
    return PerSource(data.sums.mean(axis=0, keepdims=True), data.counts)


def _extreme_clips(tables: Sequence[list[list[dict[str, Any]]]], metric: str) -> tuple[ClipContrast, ...]:
    means = [_by_clip(of_side, metric) for of_side in tables]
    clips = [ClipContrast(clip, means[0][clip], means[1][clip]) for clip in means[0] if clip in means[1]]
    goodness = METRICS[metric].goodness
    gains = {clip.clip: goodness(clip.first) - goodness(clip.second) for clip in clips}
    ordered = sorted((clip for clip in clips if gains[clip.clip]), key=lambda c: gains[c.clip], reverse=True)
    won = [clip for clip in ordered if gains[clip.clip] > 0][:NUM_CLIPS_SHOWN]
    lost = [clip for clip in ordered if gains[clip.clip] < 0][-NUM_CLIPS_SHOWN:]
    return (*won, *lost)


def _by_clip(tables: list[list[dict[str, Any]]], metric: str) -> dict[str, float]:
    """Means over seeds, of the clips on which all have a number."""
    values: dict[str, list[float]] = {}
    for table in tables:
        for row in table:
            values.setdefault(row["clip"], []).append(row[metric])
    return {clip: float(np.mean(found)) for clip, found in values.items() if np.isfinite(found).all()}


def _validation(first: Side, second: Side) -> Validation | None:
    rows = [
        [{row["step"]: row for row in member.ledger.rows("validation")} for member in side.members]
        for side in (first, second)
    ]
    trained = [of_side for of_side, side in zip(rows, (first, second), strict=True) if not side.is_baseline]
    steps = set.intersection(*(set(by_step) for of_side in trained for by_step in of_side))
    if not steps or not all(by_step for of_side in rows for by_step in of_side):
        return None
    step = max(steps)
    # The baseline was validated once, without any training.
    latest = [[by_step.get(step) or by_step[max(by_step)] for by_step in of_side] for of_side in rows]
    names = [name for name in METRICS if all(f"val/{name}" in row for of_side in latest for row in of_side)]
    means = {
        name: tuple(float(np.mean([row[f"val/{name}"] for row in of_side])) for of_side in latest)
        for name in names
    }
    return Validation(step, {name: (one, other) for name, (one, other) in means.items()})
