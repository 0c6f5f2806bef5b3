"""What a network sees of the difference between super-resolved and real pictures, in numbers with intervals.

All networks are read alike: the spatial means of their taps, standardised, a logistic regression with squared penalty,
scored on pictures that it has not seen. Of discriminators also their own logits, which need no reader.

Intervals are of 90 %, by resampling source pictures (or videos): patches of one picture are not independent. Those of
fitted readers hold for the readers as they are, not for readers fitted anew.

Source: classifier two-sample test, Lopez-Paz and Oquab 2017; cluster bootstrap, Field and Welsh 2007.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sr.data import Clip
from sr.features.network import FeatureNetwork
from sr.ladder.records import Interval, Reading
from sr.metrics import to_8bit
from sr.metrics.perception_distortion import auc, logistic, wins_by_source
from sr.statistics import bootstrap_interval, per_source, widened

__all__ = [
    "Seen",
    "auc",
    "auc_interval",
    "cut",
    "describe",
    "mean_interval",
    "own_scores",
    "patch_side",
    "read",
]

LEVEL = 0.9
_BATCH = 64
"""Patches that a network looks at together."""
_STEPS = (0.8191725, 0.6710436, 0.5497005)
"""Powers of 1 / 1.2207441, the root of x^4 = x + 1: their multiples fill a cube evenly.

Source: Roberts 2018, "The unreasonable effectiveness of quasirandom sequences".
"""
_PENALTIES = (1e4, 1e3, 1e2, 10.0, 1.0, 0.1)
"""Of the reader, those that are tried; of equal ones the strongest is taken."""
_PENALTY_UNTRIED = 1e2
"""Where a single picture leaves nothing to try them on."""
_TRIALS = 5
"""Folds that a penalty is tried on."""


@dataclass(frozen=True)
class Seen:
    """What a network sees of patches: a row for each, of the same places in both."""

    sr: np.ndarray
    """Shape (N, c)."""
    hr: np.ndarray
    """Same shape."""


# --- patches ---


def patch_side(clips: Sequence[Clip], size: int) -> int:
    """The side of the patches: `size`, or the smallest side of any clip where that is smaller."""
    return min(size, *(min(clip.height, clip.width) for clip in clips))


def cut(sr: Tensor, hr: Tensor, *, size: int, most: int) -> tuple[Tensor, Tensor]:
    """Patches of one clip, at the same places in both, spread evenly over frames, rows and columns.

    Args:
        sr: Shape (1, T, 3, H, W), any float, not clipped.
        hr: Target in [0, 1], same shape.
        size: Side of a patch, at most H and W.
        most: Number of patches, at most; none overlap.

    Returns:
        SR and HR, rounded to 8 bits; uint8, shape (n, 3, size, size).
    """
    num_frames, _, height, width = sr.shape[1:]
    tops, lefts = _starts(height, size), _starts(width, size)
    places = [
        (frame, tops[row], lefts[column])
        for frame, row, column in _cells((num_frames, len(tops), len(lefts)), most)
    ]
    both = [
        torch.stack([clip[0, frame, :, y : y + size, x : x + size] for frame, y, x in places])
        for clip in (sr, hr)
    ]
    first, second = (to_8bit(patches).mul(255).round().to(torch.uint8) for patches in both)
    return first, second


def _starts(side: int, size: int) -> list[int]:
    """Where patches start along a side, with equal gaps between and around them."""
    count = side // size
    spare = side - count * size
    return [i * size + spare * (2 * i + 1) // (2 * count) for i in range(count)]


def _cells(counts: tuple[int, int, int], most: int) -> list[tuple[int, int, int]]:
    """So many different cells of a grid, spread evenly along each axis and over the whole."""
    wanted = min(most, math.prod(counts))
    chosen: dict[tuple[int, int, int], None] = {}
    for i in itertools.count():
        if len(chosen) == wanted:
            break
        a, b, c = (int((0.5 + i * step) % 1 * count) for step, count in zip(_STEPS, counts, strict=True))
        chosen[a, b, c] = None
    return sorted(chosen)


# --- networks ---


@torch.no_grad()
def describe(network: FeatureNetwork, taps: Sequence[str], patches: Tensor) -> np.ndarray:
    """What a network sees: the spatial mean of each channel of each tap.

    Args:
        network: Looks at the patches on its own device.
        taps: Names of its taps.
        patches: uint8, shape (N, 3, H, W).

    Returns:
        float32, shape (N, channels of all taps).
    """
    rows: list[Tensor] = []
    for pictures in _batches(network, patches):
        features = network(pictures, tuple(taps))
        rows.append(torch.cat([features[tap].float().mean(dim=(2, 3)) for tap in taps], dim=1))
    return torch.cat(rows).cpu().numpy()


@torch.no_grad()
def own_scores(discriminator: nn.Module, patches: Tensor) -> np.ndarray:
    """A discriminator's own judgement, high for real: its logits, averaged over positions.

    Args:
        discriminator: Judges in evaluation mode, and is left in the mode it was in.
        patches: uint8, shape (N, 3, H, W).

    Returns:
        float32, shape (N,).
    """
    was_training = discriminator.training
    discriminator.eval()
    try:
        logits = [discriminator(pictures)[0] for pictures in _batches(discriminator, patches)]
    finally:
        discriminator.train(was_training)
    return torch.cat([each.float().flatten(1).mean(dim=1) for each in logits]).cpu().numpy()


def _batches(network: nn.Module, patches: Tensor) -> Iterator[Tensor]:
    some = next(itertools.chain(network.parameters(), network.buffers()), patches)
    for batch in patches.split(_BATCH):
        yield batch.to(some.device).float().div(255)


# --- readings ---


def read(
    discriminator: Seen, perceptual: Seen | None, sources: Sequence[str], *, draws: int, seed: int = 0
) -> Reading:
    """How well both networks tell SR from HR on pictures that their reader has not seen.

    The pictures are split in two halves, and each is scored by a reader that was fitted on the other. Only patches of
    the same half are compared, for the scores of two readers have no common scale. Both networks share the split and the
    draws, so that their difference is paired.

    Args:
        discriminator: What the discriminator sees.
        perceptual: What the perceptual network sees of the same patches; None where there is none.
        sources: Which picture or video each patch is from.
        draws: Of the bootstrap.
        seed: Of the split and the draws.

    Returns:
        AUCs with intervals. With few sources they say little: see `Reading.num_sources`.

    Raises:
        ValueError: There is only one source, the numbers of patches differ, or a network's features are not finite.
    """
    source_of, num_sources = _numbered(sources)
    for name, seen in (("discriminator", discriminator), ("perceptual network", perceptual)):
        if seen is not None:
            _check(name, seen, len(sources))
    in_second = np.isin(source_of, np.random.default_rng(seed).permutation(num_sources)[num_sources // 2 :])
    halves = [~in_second, in_second]
    times = _times(num_sources, draws, seed)
    of_discriminator = _drawn(_read_one(discriminator, source_of, halves), source_of, halves, times)
    own = _interval(of_discriminator, num_sources)
    if perceptual is None:
        return Reading(own, None, None, None, num_sources, len(sources))
    of_perceptual = _drawn(_read_one(perceptual, source_of, halves), source_of, halves, times)
    differences = of_discriminator - of_perceptual
    # The bootstrap draws deviations that are too small by (n - 1) / n in their square.
    error = float(differences[1:].std()) * math.sqrt(num_sources / (num_sources - 1))
    other, difference = _interval(of_perceptual, num_sources), _interval(differences, num_sources)
    return Reading(own, other, difference, error, num_sources, len(sources))


def auc_interval(
    real: np.ndarray, fake: np.ndarray, sources: Sequence[str], *, draws: int, seed: int = 0
) -> Interval:
    """AUC of scores that need no reader, such as a discriminator's own.

    Args:
        real: Scores of HR patches, shape (N,).
        fake: Of the same places in SR.
        sources: Which picture or video each patch is from.
        draws: Of the bootstrap.
        seed: Of the draws.

    Raises:
        ValueError: There is only one source, or the numbers of patches differ.
    """
    source_of, num_sources = _numbered(sources)
    _check("scores", Seen(fake, real), len(sources))
    whole = [np.full(len(sources), True)]
    return _interval(_drawn((real, fake), source_of, whole, _times(num_sources, draws, seed)), num_sources)


def mean_interval(
    values: Mapping[str, float], sources: Mapping[str, str], *, draws: int, seed: int = 0
) -> Interval:
    """Mean over the clips on which a value is defined (finite).

    Args:
        values: Clip to value, or to a difference of two.
        sources: Clip to the picture or video it is from; there may be more clips.
        draws: Of the bootstrap.
        seed: Of the draws.

    Raises:
        ValueError: The values that are defined are of fewer than two sources.
    """
    defined = {clip: value for clip, value in values.items() if math.isfinite(value)}
    own = {clip: sources[clip] for clip in defined}
    _, num_sources = _numbered(list(own.values()))
    data = per_source([defined], own)
    low, high = bootstrap_interval(data, level=widened(LEVEL, num_sources), draws=draws, seed=seed)
    return Interval(data.mean, low, high)


# --- the reader ---


def _read_one(
    seen: Seen, source_of: np.ndarray, halves: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of HR and SR, high for real, each by a reader that was fitted on the other half."""
    real, fake = np.zeros(len(source_of)), np.zeros(len(source_of))
    for scored, fitted in (halves, halves[::-1]):
        both = np.concatenate([seen.hr[fitted], seen.sr[fitted]]).astype(np.float64)
        mean, deviation = both.mean(axis=0), both.std(axis=0)
        # A channel that does not change says nothing, and must not blow up where it does change.
        deviation[deviation <= 1e-6 * np.abs(mean) + 1e-12] = np.inf
        sign = np.repeat([1.0, -1.0], fitted.sum())
        weights = _fit((both - mean) / deviation, sign, np.tile(source_of[fitted], 2))
        real[scored] = (seen.hr[scored] - mean) / deviation @ weights
        fake[scored] = (seen.sr[scored] - mean) / deviation @ weights
    return real, fake


def _fit(x: np.ndarray, sign: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Weights of a logistic regression whose penalty is the best on pictures that were left out."""
    num_trials = min(_TRIALS, len(np.unique(groups)))
    best = _PENALTY_UNTRIED
    if num_trials > 1:
        # Of the number of a picture: pictures are in no order of interest, and have about as many patches.
        trial_of = np.unique(groups, return_inverse=True)[1] % num_trials
        losses = sum(_losses(x, sign, trial_of == trial) for trial in range(num_trials))
        best = _PENALTIES[int(np.argmin(losses))]
    return logistic(x, sign, best)[:-1]


def _losses(x: np.ndarray, sign: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """What each penalty costs on patches that were left out: their negative log likelihood."""
    losses: list[float] = []
    weights: np.ndarray | None = None
    for penalty in _PENALTIES:
        weights = logistic(x[~left_out], sign[~left_out], penalty, weights)
        margin = sign[left_out] * (x[left_out] @ weights[:-1] + weights[-1])
        losses.append(float(np.logaddexp(0, -margin).sum()))
    return np.array(losses)


# --- the bootstrap ---


def _drawn(
    scores: tuple[np.ndarray, np.ndarray],
    source_of: np.ndarray,
    parts: Sequence[np.ndarray],
    times: np.ndarray,
) -> np.ndarray:
    """AUC of the sources as they are, then of each draw; pairs of different parts do not meet.

    A source that is drawn twice counts as two, but pairs between the two are left out: they would be pairs within a
    picture, which are easier, posing as pairs between pictures, and the draws would lie above their AUC.
    """
    num_sources = times.shape[1]
    weights = np.concatenate([np.ones((1, num_sources)), times])
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for part in parts:
        numbers = source_of[part]
        wins = wins_by_source(scores[0][part], scores[1][part], numbers, num_sources)
        sizes = np.bincount(numbers, minlength=num_sources).astype(np.float64)
        for table, total in ((wins, won), (np.outer(sizes, sizes), pairs)):
            between = table - np.diag(np.diag(table))
            total += ((weights @ between) * weights).sum(axis=1) + weights @ np.diag(table)
    return won / pairs


def _times(num_sources: int, draws: int, seed: int) -> np.ndarray:
    """How often each source is drawn, shape (draws, num_sources)."""
    generator = np.random.Generator(np.random.Philox(seed))
    return generator.multinomial(num_sources, np.full(num_sources, 1 / num_sources), size=draws)


def _interval(values: np.ndarray, num_sources: int) -> Interval:
    """Of an estimate followed by its draws."""
    level = widened(LEVEL, num_sources)
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values[0]), float(low), float(high))


def _numbered(sources: Sequence[str]) -> tuple[np.ndarray, int]:
    names, source_of = np.unique(np.array(sources, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"ladder: networks are read on at least 2 validation pictures (or videos), got {len(names)}; "
            "pack more into split 'val' (--split), best no fewer than `ladder.probe.least_sources`"
        )
    return source_of, len(names)


def _check(name: str, seen: Seen, num_patches: int) -> None:
    if not len(seen.sr) == len(seen.hr) == num_patches:
        raise ValueError(
            f"ladder, {name}: got {len(seen.sr)} SR patches, {len(seen.hr)} HR patches and {num_patches} "
            "sources; give the same patches of both, and a source for each"
        )
    if not (np.isfinite(seen.sr).all() and np.isfinite(seen.hr).all()):
        raise ValueError(
            f"ladder, {name}: what it sees is infinite or not a number, so nothing can be read from it; "
            "look for the step at which the training diverged"
        )
