"""Does this evaluation measure what it seems to? Eight rules, each of which would have caught a published error.

`lint` is a function of facts that were measured; the functions below it measure those that need pictures. A fact that
is not known is None, and the rules that need it are silent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sr.metrics.aggregate import decibels_of_mean
from sr.metrics.pixel import psnr
from sr.metrics.protocol import luma, to_8bit
from sr.resize import bicubic, upscale_bicubic

BLACK_MARGIN_DB = 0.1
PLAUSIBLE_DB = 60.0
HEAVY_TAIL_DB = 3.0
TAIL_OVER_BICUBIC_DB = 1.0
MATCHING_LR_DB = 40.0
SOFT_HR_DB = 45.0
MODE_GAP_DB = 1.0
RANGE_RATIOS = (0.5, 1.5)
CHECKERBOARD_RATIO = 10.0
PERIODS = (2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was measured of one model on one set; PSNRs in dB, of one profile."""

    psnr: tuple[float, ...] = ()
    """One value per clip or frame."""
    psnr_label: str = "PSNR"
    """What messages call it: its profile."""
    psnr_black: float | None = None
    """Mean over the same clips of a black picture."""
    psnr_bicubic: float | None = None
    """Mean over the same clips of the bicubic baseline."""
    tail_of_bicubic_db: float | None = None
    """Its mean PSNR less the PSNR of its mean error, over the same clips: how unlike each other the pictures are."""
    frames_per_clip: int | None = None
    output_range: tuple[float, float] | None = None
    """Smallest and largest value that the model gives, or can give, before clipping."""
    target_range: tuple[float, float] | None = None
    """The same for the targets, in the same unit."""
    lr_against_down_hr: float | None = None
    """From `lr_against_down_hr`."""
    hr_against_its_half: float | None = None
    """From `hr_against_its_half`."""
    psnr_training_mode: float | None = None
    """Mean over the same clips with the model in training mode."""
    checkerboard: Mapping[int, float] | None = None
    """From `checkerboard`: period in pixels to ratio."""


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001 - linter.Warning, as linter.Facts
    """One rule that fires."""

    rule: int
    """1 to 8."""
    message: str
    """What is odd, what was measured, and what to look at."""


def lint(facts: Facts) -> list[Warning]:
    """Returns what is suspicious about an evaluation, in the order of the rules; empty where nothing is."""
    found = ((number, rule(facts)) for number, rule in RULES.items())
    return [Warning(number, message) for number, message in found if message]


def _ranges(facts: Facts) -> str:
    if facts.output_range is None or facts.target_range is None:
        return ""
    (low, high), (lowest, highest) = facts.output_range, facts.target_range
    ratio = (high - low) / (highest - lowest)
    if RANGE_RATIOS[0] <= ratio <= RANGE_RATIOS[1]:
        return ""
    return (
        f"the output spans {low:g} to {high:g} and the target {lowest:g} to {highest:g}: {ratio:.3g} times as much; "
        "look at the last activation of the model and at the range of the data"
    )


def _baselines(facts: Facts) -> str:
    if not facts.psnr:
        return ""
    mean = float(np.mean(facts.psnr))
    if facts.psnr_black is not None and mean < facts.psnr_black + BLACK_MARGIN_DB:
        return (
            f"{facts.psnr_label} {mean:.2f} dB is no more than a black picture's {facts.psnr_black:.2f} dB; "
            "any ranking of such models is noise: look at the output's range and at the pictures"
        )
    if facts.psnr_bicubic is not None and mean < facts.psnr_bicubic:
        return (
            f"{facts.psnr_label} {mean:.2f} dB is below bicubic's {facts.psnr_bicubic:.2f} dB; "
            "unless it was trained for another goal, it has not learned to upscale"
        )
    return ""


def _too_good(facts: Facts) -> str:
    mean = float(np.mean(facts.psnr)) if facts.psnr else 0.0
    if mean <= PLAUSIBLE_DB:
        return ""
    frames = facts.frames_per_clip
    summed = (
        f"; {frames} frames that were added up would have {mean / frames:.2f} dB each"
        if frames is not None and frames > 1
        else ""
    )
    return (
        f"{facts.psnr_label} {mean:.2f} dB is beyond what rounding to 8 bits allows a model{summed}; "
        "look for a sum over frames in place of a mean, the data range, and a target among the inputs"
    )


def _heavy_tail(facts: Facts) -> str:
    if not facts.psnr:
        return ""
    values = np.asarray(facts.psnr, dtype=np.float64)
    mean, of_the_mean = float(values.mean()), decibels_of_mean(values)
    tail = abs(mean - of_the_mean)
    # Easy and difficult pictures make a gap of their own, which bicubic shows as well.
    of_the_pictures = facts.tail_of_bicubic_db or 0.0
    if tail <= HEAVY_TAIL_DB or tail <= of_the_pictures + TAIL_OVER_BICUBIC_DB:
        return ""
    p5, median, p95 = np.percentile(values, (5, 50, 95))
    return (
        f"the mean {facts.psnr_label} is {mean:.2f} dB and the PSNR of the mean error {of_the_mean:.2f} dB: a few pictures decide; "
        f"5th percentile {p5:.2f}, median {median:.2f}, 95th {p95:.2f} dB: look at the worst"
    )


def _mismatched_lr(facts: Facts) -> str:
    value = facts.lr_against_down_hr
    if value is None or value >= MATCHING_LR_DB:
        return ""
    return (
        f"LR differs from HR brought down by antialiased bicubic: {value:.2f} dB, less than {MATCHING_LR_DB:g}; "
        "if that is not the degradation you mean (blur, noise, another kernel), look for missing antialiasing or a shift"
    )


def _soft_hr(facts: Facts) -> str:
    value = facts.hr_against_its_half
    if value is None or value <= SOFT_HR_DB:
        return ""
    return (
        f"HR survives halving and doubling with {value:.2f} dB, more than {SOFT_HR_DB:g}: "
        "it holds no detail to recover; look whether the targets were upscaled already"
    )


def _mode_gap(facts: Facts) -> str:
    if facts.psnr_training_mode is None or not facts.psnr:
        return ""
    mean = float(np.mean(facts.psnr))
    if abs(facts.psnr_training_mode - mean) <= MODE_GAP_DB:
        return ""
    return (
        f"{facts.psnr_label} is {mean:.2f} dB in evaluation mode and {facts.psnr_training_mode:.2f} dB in training mode; "
        "look at batch normalisation: its running statistics do not describe the data"
    )


def _periodic(facts: Facts) -> str:
    loud = {p: r for p, r in (facts.checkerboard or {}).items() if r > CHECKERBOARD_RATIO}
    if not loud:
        return ""
    listed = ", ".join(f"{ratio:.0f} times at {period} pixels" for period, ratio in sorted(loud.items()))
    return (
        f"the error repeats on a grid ({listed}, against its surroundings in the spectrum): a checkerboard; "
        "look at transposed convolutions whose kernel is no multiple of their stride"
    )


RULES: dict[int, Callable[[Facts], str]] = {
    1: _ranges,
    2: _baselines,
    3: _too_good,
    4: _heavy_tail,
    5: _mismatched_lr,
    6: _soft_hr,
    7: _mode_gap,
    8: _periodic,
}
"""Number to a function that returns the message, empty where the rule is content or lacks its facts."""


def psnr_of_black(hr: Tensor) -> float:
    """Mean PSNR, on RGB, of a black picture against `hr`; (N, 3, H, W) in [0, 1]."""
    target = to_8bit(hr)
    return psnr(torch.zeros_like(target), target, data_range=1.0).mean().item()


def lr_against_down_hr(lr: Tensor, hr: Tensor) -> float:
    """Mean PSNR of LR against HR brought down to its size by antialiased bicubic, both as 8 bits, RGB.

    Args:
        lr: Shape (N, 3, h, w) in [0, 1].
        hr: Shape (N, 3, H, W).
    """
    down = to_8bit(bicubic(to_8bit(hr), height=lr.shape[-2], width=lr.shape[-1]))
    return psnr(to_8bit(lr), down, data_range=1.0).mean().item()


def hr_against_its_half(hr: Tensor) -> float:
    """Mean PSNR of HR against itself halved and doubled by bicubic, RGB: high where HR has no detail.

    Args:
        hr: Shape (N, 3, H, W) in [0, 1]; an odd last row or column is left out.

    Raises:
        ValueError: The pictures are smaller than 16 x 16.
    """
    if min(hr.shape[-2:]) < 16:
        raise ValueError(
            f"linter: got pictures of {hr.shape[-1]} x {hr.shape[-2]}; give at least 16 x 16 pixels"
        )
    height, width = (side // 2 for side in hr.shape[-2:])
    even = to_8bit(hr)[..., : 2 * height, : 2 * width]
    again = upscale_bicubic(bicubic(even, height=height, width=width), 2)
    return psnr(to_8bit(again), even, data_range=1.0).mean().item()


def checkerboard(sr: Tensor, hr: Tensor) -> dict[int, float]:
    """How much the error repeats every 2, 4 and 8 pixels, against its own spectrum nearby.

    The power of the residual's luma at the frequencies k / period (those of a smaller period left out), over the
    median power 3 to 6 bins away along the row or the column of the spectrum, whichever is louder: upright and level
    edges fill a whole row or column of it. About 1 for an error without a grid.

    Args:
        sr: Shape (N, 3, H, W) in [0, 1].
        hr: Same shape, H and W at least 64.

    Raises:
        ValueError: The pictures are smaller than 64 x 64.

    Source: Odena et al. 2016, "Deconvolution and checkerboard artifacts", for what causes it.
    """
    if min(sr.shape[-2:]) < 64:
        raise ValueError(
            f"linter: got pictures of {sr.shape[-1]} x {sr.shape[-2]}; give at least 64 x 64 pixels"
        )
    height, width = (side // 8 * 8 for side in sr.shape[-2:])
    residual = (luma(sr.double()) - luma(hr.double()))[..., :height, :width]
    window = torch.outer(*(torch.hann_window(n, periodic=True, dtype=torch.float64) for n in (height, width)))
    power = torch.fft.fft2(residual * window.to(residual)).abs().square().mean(dim=0)
    return {period: _excess(power, period) for period in PERIODS}


def _excess(power: Tensor, period: int) -> float:
    """Power on the grid of one period over that around it; `power` of shape (H, W), both multiples of 8."""
    height, width = power.shape
    on_grid = around = 0.0
    offsets = torch.tensor([*range(-6, -2), *range(3, 7)], device=power.device)
    for k in range(period):
        for m in range(period):
            if math.gcd(k, m, period) == 1:
                row, column = k * height // period, m * width // period
                on_grid += power[row, column].item()
                along_column = power[(row + offsets) % height, column].quantile(0.5)
                along_row = power[row, (column + offsets) % width].quantile(0.5)
                around += max(along_column.item(), along_row.item())
    # An error of zero has no spectrum: neither a grid nor surroundings.
    return on_grid / around if around else (math.inf if on_grid else 1.0)
