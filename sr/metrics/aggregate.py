"""What many clips say together: never only the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sr.metrics.protocol import PSNR_CAP_DB
from sr.metrics.table import METRICS


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A metric over clips; every statistic in the metric's unit, over the clips where it is defined."""

    n: int
    """Clips for which the metric is defined."""
    mean: float
    median: float
    p5: float
    """5th percentile, linear interpolation."""
    p95: float
    of_the_mean: float | None
    """For PSNRs the PSNR of the mean error, capped like them; None for metrics that are no logarithm of an error.

    Far below `mean` where a few clips are very bad. With several frames a clip, a clip counts by its mean PSNR: measure
    frames as clips of one for the exact value.
    """
    num_capped: int
    """Clips at the cap of 100 dB: SR and HR are the same."""
    num_undefined: int
    """Clips left out because the metric is not a number there."""


def aggregate(values: Tensor | np.ndarray | Sequence[float], name: str) -> Aggregate:
    """Sums up one value per clip.

    Args:
        values: Shape (N,); not a number where the metric is undefined.
        name: Key of METRICS.

    Raises:
        ValueError: There are no values, none is defined, or one is infinite.
    """
    metric = METRICS[name]
    given = np.asarray(values, dtype=np.float64).reshape(-1)
    defined = given[~np.isnan(given)]
    if not len(defined):
        raise ValueError(
            f"metrics.{name}: undefined on all {len(given)} clips ({metric.convention}); leave it out, or evaluate other clips"
        )
    if not np.isfinite(defined).all():
        raise ValueError(
            f"metrics.{name}: {int(np.isinf(defined).sum())} of {len(given)} values are infinite; "
            "look at the output of the generator for those clips"
        )
    p5, median, p95 = np.percentile(defined, (5, 50, 95))
    return Aggregate(
        n=len(defined),
        mean=float(defined.mean()),
        median=float(median),
        p5=float(p5),
        p95=float(p95),
        of_the_mean=decibels_of_mean(defined) if metric.in_decibels_of_mse else None,
        num_capped=int((defined >= PSNR_CAP_DB).sum()) if metric.in_decibels_of_mse else 0,
        num_undefined=len(given) - len(defined),
    )


def decibels_of_mean(decibels: np.ndarray) -> float:
    """PSNR of the mean MSE, from PSNRs of one data range; shape (N,)."""
    # Scaled by the smallest: 10 ** (-x / 10) of a PSNR of -4000 dB would overflow.
    lowest = decibels.min()
    return float(lowest - 10 * np.log10(np.mean(10 ** (-(decibels - lowest) / 10))))
