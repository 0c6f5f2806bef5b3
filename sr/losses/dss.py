"""DCT sub-band similarity as a loss."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.block_dct import SIDE, block_dct
from sr.losses.luma import luma_255

_DC_CONSTANT = 1000.0
_AC_CONSTANT = 300.0
_SPREAD = 1.55
"""Standard deviation of the weights of the sub-bands, in frequencies."""
_LEAST_WEIGHT = 1e-2
_SIGMA = 1.5
"""Standard deviation of the 3 x 3 window in which a sub-band's variance is taken, in blocks."""
_WORST = 0.05
"""The fraction of positions, those of least similarity, that is averaged."""
_SMALLEST_VARIANCE = 1e-6
"""In grey levels squared; a root has no finite slope at zero. Beside constants of 300 it changes no value."""


class Dss(nn.Module):
    """1 - DCT sub-band similarity: compares local variances of each frequency of luma, in [0, 1]; blind to level.

    Each of the 8 x 8 frequencies makes a small picture, one pixel for each block; the similarity of a sub-band is the
    mean of the worst 5 % of its positions (at least one), and low frequencies count most. Outside the picture
    sub-bands count as zero. As it doesn't see brightness or colour, use it beside a pixel loss. A rest of less than 8
    pixels at the right and lower edge gets no gradient.

    Source: Balanov, Schwartz, Moshe and Peleg, ICIP 2015, "Image quality assessment based on DCT subband similarity".
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss; pictures of at least 8 x 8 pixels, else ValueError."""
        # A variance is a small difference of large squares, of which float32 keeps three digits.
        bands, weights = _weights(sr.device, torch.float64)
        a, b = (_subbands(luma_255(pictures.double()))[:, bands] for pictures in (sr, hr))
        return (1 - (_similarity(a, b) * weights).sum(dim=1).mean()).to(sr.dtype)


@functools.lru_cache(maxsize=16)
def _weights(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sub-bands that count, DC first, as indices into the 64, and their weights, sum 1."""
    axis = torch.arange(SIDE, dtype=torch.float64) + 0.5
    weights = torch.exp(-(axis[:, None].square() + axis.square()) / (2 * _SPREAD**2)).flatten()
    bands = torch.nonzero(weights >= _LEAST_WEIGHT).flatten()
    weights = weights[bands] / weights[bands].sum()
    return bands.to(device), weights.to(device=device, dtype=dtype)


def _subbands(luma: Tensor) -> Tensor:
    """(N, 1, H, W) to (N, 64, H // 8, W // 8), DC first."""
    rows, columns = luma.shape[-2] // SIDE, luma.shape[-1] // SIDE
    return block_dct(luma).reshape(len(luma), rows, columns, -1).permute(0, 3, 1, 2)


def _local_mean(maps: Tensor) -> Tensor:
    """Gaussian mean of 3 x 3 positions, zero outside; same shape. In shifted sums: GPU convolutions may round to TF32."""
    fall = math.exp(-1 / (2 * _SIGMA**2))
    side, centre = fall / (1 + 2 * fall), 1 / (1 + 2 * fall)
    padded = F.pad(maps, (1, 1, 1, 1))
    rows = side * (padded[..., :-2, :] + padded[..., 2:, :]) + centre * padded[..., 1:-1, :]
    return side * (rows[..., :-2] + rows[..., 2:]) + centre * rows[..., 1:-1]


def _worst(similarity: Tensor) -> Tensor:
    """Mean of the worst positions, (N, K, h, w) to (N, K); NaN where any is."""
    flat = similarity.flatten(-2)
    count = max(1, round(_WORST * flat.shape[-1]))
    worst = flat.topk(count, dim=-1, largest=False).values.mean(dim=-1)
    # A NaN counts as large, so that it would not be among them.
    return worst.where(~flat.isnan().any(dim=-1), torch.nan)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Similarity of each sub-band, (N, K, h, w) to (N, K); the first is DC."""
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    variance_a = (_local_mean(a * a) - mean_a.square()).clamp(min=_SMALLEST_VARIANCE)
    variance_b = (_local_mean(b * b) - mean_b.square()).clamp(min=_SMALLEST_VARIANCE)
    product = (variance_a * variance_b).sqrt()
    constants = torch.full((a.shape[1], 1, 1), _AC_CONSTANT, device=a.device, dtype=a.dtype)
    constants[0] = _DC_CONSTANT
    similarity = _worst((2 * product + constants) / (variance_a + variance_b + constants))
    covariance = _local_mean(a[:, :1] * b[:, :1]) - mean_a[:, :1] * mean_b[:, :1]
    structure = _worst((covariance + _DC_CONSTANT) / (product[:, :1] + _DC_CONSTANT))
    return torch.cat([similarity[:, :1] * structure, similarity[:, 1:]], dim=1)
