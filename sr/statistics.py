"""Paired statistics over clips that are not independent: tiles of one picture belong together, and so do seeds.

The unit of resampling is the source picture. All differences are paired: the same clips, and the same seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
DRAWS = 10_000
_EXACT_UP_TO = 14
"""Sources up to which all sign patterns are tried; 2^14 of them."""


@dataclass(frozen=True, slots=True)
class PerSource:
    """One quantity summed over the clips of each source, for each seed."""

    sums: np.ndarray
    """Shape (seeds, sources)."""
    counts: np.ndarray
    """Clips of each source, shape (sources,)."""

    @property
    def mean(self) -> float:
        """Mean over seeds and clips."""
        return float(self.sums.sum() / (len(self.sums) * self.counts.sum()))

    @property
    def seed_means(self) -> np.ndarray:
        """Mean over clips of each seed, shape (seeds,)."""
        return self.sums.sum(axis=1) / self.counts.sum()

    def __sub__(self, other: PerSource) -> PerSource:
        # A baseline has no seeds: its one row stands against each seed of the other.
        return PerSource(self.sums - other.sums, self.counts)


def per_source(values: Sequence[Mapping[str, float]], sources: Mapping[str, str]) -> PerSource:
    """Gathers per-clip values by source.

    Args:
        values: For each seed, clip to value; the same clips in each.
        sources: Clip to source.
    """
    names = sorted(set(sources.values()))
    index = {name: i for i, name in enumerate(names)}
    sums = np.zeros((len(values), len(names)))
    counts = np.zeros(len(names))
    for clip, source in sources.items():
        counts[index[source]] += 1
        for seed, by_clip in enumerate(values):
            sums[seed, index[source]] += by_clip[clip]
    return PerSource(sums, counts)


def bootstrap_interval(
    data: PerSource, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean, resampling seeds and sources (each with all its clips) with replacement.

    Source: cluster bootstrap, Field and Welsh 2007, "Bootstrapping clustered data"; crossed with seeds.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    num_seeds, num_sources = data.sums.shape
    seed_weights = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=draws)
    source_weights = generator.multinomial(num_sources, np.full(num_sources, 1 / num_sources), size=draws)
    totals = np.einsum("ds,sg,dg->d", seed_weights, data.sums, source_weights, optimize=True)
    means = totals / (num_seeds * (source_weights @ data.counts))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def widened(level: float, num_sources: int) -> float:
    """The level at which a percentile interval over so few sources covers the truth as often as `level` says.

    Source: Hesterberg 2015, "What teachers should know about the bootstrap", the expanded percentile interval: Student's
    t for the normal distribution, and the deviation's bias of (n - 1) / n.
    """
    from scipy import stats

    tail = stats.t.ppf((1 - level) / 2, num_sources - 1) * math.sqrt(num_sources / (num_sources - 1))
    return float(1 - 2 * stats.norm.cdf(tail))


def sign_flip_p(data: PerSource, *, seed: int = 0) -> float:
    """Two-sided p of a paired difference being zero: signs flipped by source, exactly for few sources.

    Returns:
        At least `smallest_p` of that many sources: few pictures cannot give small p, however large the difference.
    """
    per_picture = data.sums.mean(axis=0)
    observed = abs(per_picture.sum())
    num_sources = len(per_picture)
    if num_sources <= _EXACT_UP_TO:
        signs = np.array(list(itertools.product((1, -1), repeat=num_sources)))
        extreme = np.abs(signs @ per_picture) >= observed * (1 - 1e-12)
        return float(extreme.mean())
    generator = np.random.Generator(np.random.Philox(seed))
    signs = generator.integers(0, 2, size=(DRAWS * 2, num_sources)) * 2 - 1
    extreme = np.abs(signs @ per_picture) >= observed * (1 - 1e-12)
    return float((extreme.sum() + 1) / (len(signs) + 1))


def smallest_p(num_sources: int) -> float:
    """The smallest p that `sign_flip_p` can give for this many sources."""
    return 2.0 ** (1 - num_sources) if num_sources <= _EXACT_UP_TO else 1 / (DRAWS * 2 + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = np.argsort(p_values)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
