"""Which pictures a report shows: where losses disagree, the best and worst of the winner, what the reader asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shards import manifest
from sr.metrics import METRICS
from sweeps.evaluation import BASELINE
from sweeps.report.collect_previews import collect_previews
from sweeps.report.data import Crop
from sweeps.report.pictures import fitting
from sweeps.report.pins import Clips, clip_of
from sweeps.sweep import Sweep
from sweeps.verdict import Verdict, perception_metric

_MAX_CROPS = 6
_MAX_OVER_TIME = 2

Rows = dict[str, dict[str, Any]]
"""Clip to its row of an evaluation."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The pictures of a report."""

    crops: tuple[Crop, ...]
    left_out: int
    """Clips of which pictures were kept, but which are not shown."""


@dataclass(frozen=True)
class _Judged:
    """What was measured on each clip of which all pictures were kept."""

    sweep: Sweep
    verdict: Verdict
    baseline: Rows
    losses: dict[str, Rows]
    files: dict[str, str]
    """Clip to the file name of its pictures."""
    spread: dict[str, float]
    """Clip to how far the losses lie apart."""

    def source(self, clip: str) -> str:
        return self.baseline[clip]["source"]

    def gain(self, clip: str) -> float:
        """How much the winner is better than the baseline by the primary metric; NaN where that is not known."""
        primary, winner = self.verdict.primary, self.losses[self.verdict.ranking[0].name]
        gain = winner[clip][primary] - self.baseline[clip].get(primary, math.nan)
        return gain if METRICS[primary].higher_is_better else -gain


def collect_crops(
    sweep: Sweep, verdict: Verdict, *, pinned: Sequence[str] = (), everything: bool = False
) -> Shown:
    """The crops of a report, those that the reader asked for first.

    Args:
        sweep: The sweep, finished or not.
        verdict: Drawn from the same sweep.
        pinned: `SOURCE`, `SOURCE:TILE` or clip ids that are shown in any case.
        everything: All of which pictures were kept, in full, however large.

    Raises:
        ValueError: There is no such clip among those the sweep is judged on, or it has no pictures.
    """
    clips = _clips(sweep)
    judged = _judged(sweep, verdict, clips)
    if judged is None:
        for wish in pinned:
            clip_of(wish, clips, order=())
        crops = collect_previews(sweep)
        return Shown(tuple(crops if everything else fitting(crops)), 0)
    ordered = sorted(judged.files, key=lambda clip: judged.spread[clip], reverse=True)
    wishes = list(dict.fromkeys(clip_of(wish, clips, order=ordered) for wish in pinned))
    reasons = _reasons(judged, ordered, wishes)
    chosen = [*reasons, *(clip for clip in ordered if clip not in reasons)] if everything else list(reasons)
    still = [_crop(clip, judged, reasons.get(clip, []), is_pinned=clip in wishes) for clip in chosen]
    moving = [crop for clip in chosen for crop in _over_time(clip, judged)]
    if everything:
        return Shown((*still, *moving), 0)
    shown = fitting(_by_importance(still, moving[: 2 * _MAX_OVER_TIME]))
    in_order = {(crop.name, crop.kind): crop for crop in shown}
    crops = tuple(in_order[key] for crop in (*still, *moving) if (key := (crop.name, crop.kind)) in in_order)
    return Shown(crops, len(judged.files) - sum(crop.kind == "crop" for crop in crops))


def _by_importance(still: list[Crop], moving: list[Crop]) -> list[Crop]:
    """What is asked for and three more, then one of them over time, then the others."""
    first = sum(crop.is_pinned for crop in still) + 3
    return [*still[:first], *moving[:2], *still[first:], *moving[2:]]


def _clips(sweep: Sweep) -> Clips:
    from sr.data import held_out
    from sr.evaluate import crop_names

    config = sweep.trials[0].config
    try:
        clips = held_out(manifest.load(config.data.path), config).test
    except ValueError as error:
        # The report outlives the data set; it then shows no pictures.
        return Clips({}, {}, str(error))
    return Clips({clip.clip_id: clip.sample.source for clip in clips}, crop_names(clips), "")


def _judged(sweep: Sweep, verdict: Verdict, clips: Clips) -> _Judged | None:
    """None while no loss was evaluated."""
    if not verdict.ranking:
        return None
    by = perception_metric(verdict)
    baseline = {row["clip"]: row for row in sweep.folder.baseline(BASELINE).evaluation()}
    losses = {
        c.name: {row["clip"]: row for row in sweep.ledger(c.trials[0]).evaluation()} for c in verdict.ranking
    }
    folders = [folder / name for _, folder, name in _places(sweep, verdict)]
    files = {
        clip: file
        for clip, file in clips.kept.items()
        if clip in baseline and all((folder / file).exists() for folder in folders)
    }
    compared = losses if len(losses) > 1 else losses | {BASELINE: baseline}
    spread = {clip: _spread([table[clip][by] for table in compared.values()]) for clip in files}
    return _Judged(sweep, verdict, baseline, losses, files, spread)


def _spread(values: list[float]) -> float:
    return float(np.ptp(values)) if np.isfinite(values).all() else 0.0


def _places(sweep: Sweep, verdict: Verdict) -> list[tuple[str, Path, str]]:
    """(label, folder of the trial, folder of its pictures) of each version; the first seed stands for a loss."""
    folder = sweep.folder.baseline(BASELINE).folder
    losses = [(c.name, sweep.ledger(c.trials[0]).folder, "crops") for c in verdict.ranking]
    return [("LR", folder, "lr"), (BASELINE, folder, "crops"), *losses, ("HR", folder, "hr")]


def _reasons(judged: _Judged, ordered: list[str], wishes: list[str]) -> dict[str, list[str]]:
    """The clips to show, each with why, the most telling first.

    Disagreement is taken on the perception metric: on PSNR it would single out smooth areas, where nobody sees it. Each of
    these clips is from another picture.
    """
    reasons: dict[str, list[str]] = {clip: [] for clip in wishes}
    sources = dict.fromkeys(judged.source(clip) for clip in wishes)
    apart: list[str] = []
    for clip in ordered:
        if judged.source(clip) not in sources and len(apart) < _MAX_CROPS:
            sources[judged.source(clip)] = None
            apart.append(clip)
    extremes = _extremes(judged)
    for clip in [*apart[:1], *extremes, *apart[1:]]:
        reasons.setdefault(clip, [])
    for clip in reasons:
        if clip in apart or clip in wishes:
            reasons[clip].append(_apart(clip, judged))
        reasons[clip] += extremes.get(clip, [])
    return reasons


def _apart(clip: str, judged: _Judged) -> str:
    metric = METRICS[perception_metric(judged.verdict)]
    return f"{metric.label} of the losses differs by {judged.spread[clip]:.{metric.decimals}f} here"


def _extremes(judged: _Judged) -> dict[str, list[str]]:
    """Where the winner gains most and least over the baseline, of the clips with pictures."""
    gains = {clip: gain for clip in judged.files if math.isfinite(gain := judged.gain(clip))}
    if not gains:
        return {}
    name = judged.verdict.ranking[0].name
    best, worst = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    found = {best: [f"{name} gains most over {BASELINE} here: {_signed(gains[best], judged)}"]}
    if worst != best:
        found[worst] = [f"{name} gains least over {BASELINE} here: {_signed(gains[worst], judged)}"]
    return found


def _signed(gain: float, judged: _Judged) -> str:
    metric = METRICS[judged.verdict.primary]
    shown = gain if metric.higher_is_better else -gain
    return f"{shown:+.{metric.decimals}f} {metric.unit}".strip().replace("-", "\u2212")


def _crop(clip: str, judged: _Judged, reasons: list[str], *, is_pinned: bool) -> Crop:
    primary = judged.verdict.primary
    tables = {BASELINE: judged.baseline} | judged.losses
    return Crop(
        title=_title(clip, judged),
        reason="; ".join(reasons or [_apart(clip, judged)]),
        images=_images(judged, judged.files[clip]),
        scores={label: table[clip][primary] for label, table in tables.items()},
        name=clip,
        is_pinned=is_pinned,
    )


def _title(clip: str, judged: _Judged) -> str:
    return f"{judged.source(clip)}, tile {int(clip.rpartition('#')[2]) + 1}"


def _images(judged: _Judged, file: str) -> tuple[tuple[str, bytes], ...]:
    places = _places(judged.sweep, judged.verdict)
    return tuple((label, (folder / name / file).read_bytes()) for label, folder, name in places)


def _over_time(clip: str, judged: _Judged) -> list[Crop]:
    """A clip's frames and its slice, with the temporal metrics that the sweep measured; empty for a still picture."""
    from sr.over_time import names

    places = [place for place in _places(judged.sweep, judged.verdict) if place[0] != "LR"]
    crops: list[Crop] = []
    for kind, file in names(judged.files[clip]).items():
        paths = [(label, folder / name / file) for label, folder, name in places]
        if not all(path.exists() for _, path in paths):
            continue
        what = "frame by frame" if kind == "frames" else "one row of pixels, time runs downwards"
        crop = Crop(
            title=_title(clip, judged),
            reason=what,
            images=tuple((label, path.read_bytes()) for label, path in paths),
            scores={},
            name=clip,
            notes=_temporal(clip, judged),
        )
        crops.append(replace(crop, kind="frames" if kind == "frames" else "slice"))
    return crops


def _temporal(clip: str, judged: _Judged) -> dict[str, str]:
    measured = [name for name in judged.verdict.metrics if METRICS[name].protocol.per == "clip"]
    tables = {BASELINE: judged.baseline} | judged.losses
    return {
        label: ", ".join(_value(name, table[clip].get(name, math.nan)) for name in measured)
        for label, table in tables.items()
        if measured
    }


def _value(name: str, value: float) -> str:
    metric = METRICS[name]
    shown = f"{value:.{metric.decimals}f} {metric.unit}".strip() if math.isfinite(value) else "not defined"
    return f"{metric.label} {shown}"
