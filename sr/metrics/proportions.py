"""Intervals and tests for counts of failures."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np


def wilson(failures: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion that keeps its promise for few trials and near 0 and 1.

    Args:
        failures: How many of `n`.
        n: Trials, at least one.
        confidence: E.g. 0.95.

    Returns:
        Lower and upper bound, in [0, 1].

    Raises:
        ValueError: `n` is not positive, or `failures` not in 0..n.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if n < 1 or not 0 <= failures <= n:
        raise ValueError(f"wilson: got {failures} failures of {n}; give 0 <= failures <= n and n >= 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = failures / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Rounding may leave the bounds of 0 and n a hair off.
    return (0.0 if failures == 0 else centre - half), (1.0 if failures == n else centre + half)


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """Two-sided p-value that two methods fail equally often, judged on the same pictures.

    Args:
        first_only: Pictures on which only the first failed.
        second_only: Pictures on which only the second failed.

    Returns:
        In (0, 1]; 1 where they never disagree.

    Raises:
        ValueError: A count is negative.

    Source: McNemar 1947, with the exact binomial distribution.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"mcnemar_exact: got {first_only} and {second_only}; counts can't be negative")
    n, fewer = first_only + second_only, min(first_only, second_only)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    # Python divides whole numbers of any size without overflow.
    return min(1.0, 2 * tail / 2**n)


def compare_failures(first: np.ndarray, second: np.ndarray) -> float:
    """`mcnemar_exact` from the failures themselves, two boolean arrays of shape (N,) over the same pictures.

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"compare_failures: got {first.shape} and {second.shape}; judge both on the same pictures"
        )
    return mcnemar_exact(int((first & ~second).sum()), int((~first & second).sum()))
