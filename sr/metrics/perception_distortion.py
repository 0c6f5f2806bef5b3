"""Perception against distortion: how far from the truth, and how easily told from it.

A method can't be best at both (Blau and Michaeli 2018, "The perception-distortion tradeoff"). Distortion is the RMSE of
the PIRM 2018 challenge. Perception, without any network weights, is how well a classifier that has never seen the
pictures tells SR from HR (a classifier two-sample test, Lopez-Paz and Oquab 2017): area under the curve .5 where it
can only guess, 1 where every patch gives itself away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sr.metrics.pixel import mse
from sr.metrics.protocol import crop_border, luma, to_8bit

PIRM_BORDER = 4
PIRM_REGIONS = (11.5, 12.5, 16.0)
"""Upper bounds of RMSE of regions 1, 2 and 3."""


def rmse(sr: Tensor, hr: Tensor) -> float:
    """Root of the mean MSE over a set: 8 bits, BT.601 luma on 0..255, 4 pixels cut from each border.

    Args:
        sr: Shape (N, 3, H, W) in [0, 1].
        hr: Same shape.

    Raises:
        ValueError: The pictures are smaller than 9 x 9.

    Source: Blau et al. 2018, "The 2018 PIRM challenge on perceptual image super-resolution".
    """
    if min(sr.shape[-2:]) <= 2 * PIRM_BORDER:
        raise ValueError(
            f"perception-distortion: got pictures of {sr.shape[-1]} x {sr.shape[-2]} pixels, of which "
            f"{PIRM_BORDER} are cut from each border; give pictures of at least 9 x 9"
        )
    a, b = (luma(crop_border(to_8bit(x), PIRM_BORDER)) for x in (sr, hr))
    return math.sqrt(mse(a, b).mean().item())


def region(rmse_levels: float) -> int | None:
    """PIRM's region 1, 2 or 3, or None beyond all three."""
    return next((i for i, bound in enumerate(PIRM_REGIONS, start=1) if rmse_levels <= bound), None)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (distortion, perception; lower is better) that no other is as good as on both."""
    return [
        i
        for i, point in enumerate(points)
        if not any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points)
    ]


@dataclass(frozen=True, slots=True)
class Separability:
    """How well SR is told from HR on sources that the classifier has not seen."""

    auc: float
    """.5: not at all; 1: always. Below .5 by chance only."""
    low: float
    """95 % interval of `auc`: sources drawn anew; the classifier stays."""
    high: float
    num_sources: int
    """Test sources."""
    num_patches: int
    """Test patches of each kind."""


def separability(
    sr: Tensor,
    hr: Tensor,
    sources: Sequence[str],
    *,
    seed: int = 0,
    penalty: float = 1.0,
    draws: int = 2000,
) -> Separability:
    """Trains a classifier on half of the sources and lets it tell SR from HR on the others.

    A logistic regression on fixed features: logarithmic energy and heaviness of tail of each band of the 8 x 8 DCT of
    luma, and the statistics of chroma. Both kinds of patch are the same crops, so that content tells nothing.

    Args:
        sr: Patches, shape (N, 3, H, W), H and W at least 16; rounded to 8 bits first, as HR is.
        hr: The same crops of the truth.
        sources: Which picture or video each patch is from; at least 4 different ones.
        seed: Of the split and the bootstrap.
        penalty: Weight of the squared coefficients against the summed log likelihood.
        draws: Of the bootstrap.

    Returns:
        AUC on the test sources with its interval.

    Raises:
        ValueError: Shapes differ, patches are too small, or there are too few sources.
    """
    if sr.shape != hr.shape or len(sources) != len(sr):
        raise ValueError(
            f"perception-distortion: got {tuple(sr.shape)}, {tuple(hr.shape)} and {len(sources)} sources; "
            "give the same crops of SR and HR, and a source for each"
        )
    if min(sr.shape[-2:]) < 2 * _BLOCK:
        raise ValueError(
            f"perception-distortion: got patches of {sr.shape[-1]} x {sr.shape[-2]}; give at least 16 x 16 pixels"
        )
    names = sorted(set(sources))
    if len(names) < 4:
        raise ValueError(
            f"perception-distortion: got patches from {len(names)} sources; "
            "give at least 4, so that the classifier is tested on pictures it has not seen"
        )
    random = np.random.default_rng(seed)
    in_training = set(random.permutation(names)[: len(names) // 2].tolist())
    training = np.array([source in in_training for source in sources])
    fake, real = features(to_8bit(sr)), features(to_8bit(hr))
    scorer = _fit(real[training], fake[training], penalty)
    fake_scores, real_scores = scorer(fake[~training]), scorer(real[~training])
    test_sources = np.array([s for s in sources if s not in in_training])
    low, high = _bootstrap(real_scores, fake_scores, test_sources, random, draws)
    return Separability(
        auc(real_scores, fake_scores), low, high, len(names) - len(in_training), int((~training).sum())
    )


_BLOCK = 8


def features(patches: Tensor) -> np.ndarray:
    """Fixed description of a patch's texture; (N, 3, H, W) in [0, 1] to (N, 130)."""
    height, width = (side - side % _BLOCK for side in patches.shape[-2:])
    grey = luma(patches[..., :height, :width])[:, None]
    basis = _dct_basis().to(grey)
    bands = F.conv2d(grey, basis, stride=_BLOCK // 2).flatten(2)
    size = bands.abs().mean(dim=2)
    # One for a band that is all of one size, large for a few strong edges on a plain ground.
    tail = bands.square().mean(dim=2) / (size.square() + 1e-3)
    chroma = patches[:, [0, 2]] - patches[:, [1]]
    spread = torch.log(chroma.diff(dim=-1).abs().mean(dim=(2, 3)) * 255 + 0.1)
    return torch.cat([torch.log(size + 0.1), torch.log(tail + 0.1), spread], dim=1).cpu().numpy()


def _dct_basis() -> Tensor:
    """Orthonormal 8 x 8 DCT-II as filters, shape (64, 1, 8, 8)."""
    k = torch.arange(_BLOCK, dtype=torch.float64)
    rows = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    rows[0] /= math.sqrt(2)
    return torch.einsum("ux,vy->uvxy", rows, rows).reshape(-1, 1, _BLOCK, _BLOCK)


class _Scorer:
    """Standardises, then weighs: higher for what looks real."""

    def __init__(self, mean: np.ndarray, deviation: np.ndarray, weights: np.ndarray) -> None:
        self._mean, self._deviation, self._weights = mean, deviation, weights

    def __call__(self, described: np.ndarray) -> np.ndarray:
        # No offset: it moves all scores alike, and only their order counts.
        return ((described - self._mean) / self._deviation) @ self._weights


def _fit(real: np.ndarray, fake: np.ndarray, penalty: float) -> _Scorer:
    """Logistic regression with squared penalty."""
    both = np.concatenate([real, fake])
    mean, deviation = both.mean(axis=0), both.std(axis=0)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)
    sign = np.r_[np.ones(len(real)), -np.ones(len(fake))]
    return _Scorer(mean, deviation, logistic((both - mean) / deviation, sign, penalty)[:-1])


def logistic(x: np.ndarray, sign: np.ndarray, penalty: float, start: np.ndarray | None = None) -> np.ndarray:
    """Weights of a logistic regression with squared penalty, and behind them its offset, which has none.

    Args:
        x: Standardised, shape (N, c).
        sign: 1 or -1 for each.
        penalty: Of the squared weights (half of them) against the summed log likelihood.
        start: Where to look first, shape (c + 1,).
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    x = np.c_[x, np.ones(len(x))]

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w)
        value = np.logaddexp(0, -margin).sum() + 0.5 * penalty * np.square(w[:-1]).sum()
        gradient = -(sign * expit(-margin)) @ x + penalty * np.r_[w[:-1], 0.0]
        return float(value), gradient

    begin = np.zeros(x.shape[1]) if start is None else start
    return minimize(objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive's score is above a negative's, ties counting half; arrays of shape (P,) and (N,)."""
    return float(_wins(positive, negative).sum() / (len(positive) * len(negative)))


def _wins(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """How many negatives each positive is above, ties counting half; shape (P,)."""
    ordered = np.sort(negative)
    return (np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")) / 2


def wins_by_source(
    positive: np.ndarray, negative: np.ndarray, source_of: np.ndarray, num_sources: int
) -> np.ndarray:
    """How often positives of source i are above negatives of source j, ties counting half.

    Args:
        positive: Scores, shape (N,).
        negative: Scores of as many.
        source_of: Number of the source of each pair, shape (N,).
        num_sources: More than the largest of them.

    Returns:
        Shape (num_sources, num_sources).
    """
    wins = np.zeros((num_sources, num_sources))
    for j in np.unique(source_of):
        above = _wins(positive, negative[source_of == j])
        wins[:, j] = np.bincount(source_of, weights=above, minlength=num_sources)
    return wins


def _bootstrap(
    real: np.ndarray, fake: np.ndarray, sources: np.ndarray, random: np.random.Generator, draws: int
) -> tuple[float, float]:
    """95 % interval of the AUC over sources: patches of one source are not independent."""
    names, source_of = np.unique(sources, return_inverse=True)
    # A draw only weighs these.
    wins = wins_by_source(real, fake, source_of, len(names))
    sizes = np.bincount(source_of)
    chosen = random.integers(len(names), size=(draws, len(names)))
    times = np.stack([np.bincount(one, minlength=len(names)) for one in chosen]).astype(np.float64)
    values = ((times @ wins) * times).sum(axis=1) / np.square(times @ sizes)
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
