"""What does the loss see? Fine and faint errors, dark and bright places, both sides of a picture, every frame alike."""

from __future__ import annotations

import torch
from torch import Tensor

from sr.checks.bench import Bench
from sr.checks.results import Outcome, judged, not_applicable

_AMPLITUDE = 0.04
_FAINT = 1 / 255
_LEAST_FINE = 1e-4
"""Of what noise of the same energy adds. What a loss cannot see adds nothing but rounding, under 1e-6."""
_LEAST_FAINT = 1e-6
"""An error of a tenth adds a tenth to a loss like L1, and far less to one of a high order."""
_LEAST_DARK = 1e-3
_MIRRORED = 2e-4


def sees_fine_patterns(bench: Bench) -> Outcome:
    """Checkerboards, columns and rows of period 2 pixels, the artefacts of upsampling, count: nothing was halved before."""
    noise = _added(bench, _AMPLITUDE * _signs(bench.hr))
    shares = {name: _added(bench, _AMPLITUDE * _pattern(bench.hr, name)) / noise for name in _PATTERNS}
    unseen = [name for name, share in shares.items() if not share > _LEAST_FINE]
    shown = ", ".join(f"{name} {share:.2g}" for name, share in shares.items())
    return judged(
        not unseen,
        f"{'not seen: ' + ', '.join(unseen) + '; ' if unseen else ''}period 2, relative to noise: {shown}",
        **shares,
    )


def sees_faint_errors(bench: Bench) -> Outcome:
    """One grey level of 255 up or down is an error too: a dead zone or rounding would hide it."""
    noise = _added(bench, _AMPLITUDE * _signs(bench.hr))
    share = _added(bench, _FAINT * _signs(bench.hr)) / noise
    return judged(
        share > _LEAST_FAINT, f"1/255 up or down adds {share:.2g} of what {_AMPLITUDE:g} adds", share=share
    )


def sees_dark_and_bright(bench: Bench) -> Outcome:
    """The same faint texture with the same noise, near black, mid grey and near white: none may be left out."""
    faint = 0.05 * bench.hr
    noise = 0.03 * _signs(bench.hr)
    added = {
        name: bench.value(target + noise, target) - bench.value(target, target)
        for name, target in (("dark", faint), ("mid grey", 0.475 + faint), ("bright", 1 - faint))
    }
    unseen = [name for name, value in added.items() if not value > _LEAST_DARK * added["mid grey"]]
    shown = ", ".join(f"{name} {value:.3g}" for name, value in added.items())
    return judged(
        not unseen and added["mid grey"] > 0,
        f"{'hardly seen: ' + ', '.join(unseen) + '; ' if unseen else ''}noise adds: {shown}",
        **added,
    )


def mirrored_pictures_are_alike(bench: Bench) -> Outcome:
    """Mirrored pictures have the value of the pictures: no weight or window lies one pixel aside, no axis is mixed up."""
    if bench.has_network or bench.is_live:
        return not_applicable("a network's filters know left from right")
    ratios = {
        name: bench.value(bench.sr.flip(axis), bench.hr.flip(axis)) / bench.at_sr
        for name, axis in (("left to right", -1), ("upside down", -2))
    }
    good = all(abs(ratio - 1) < _MIRRORED for ratio in ratios.values())
    shown = ", ".join(f"{name} {ratio:.6f}" for name, ratio in ratios.items())
    return judged(
        good,
        f"value of the mirrored pictures / of the pictures: {shown}",
        **dict(zip("xy", ratios.values(), strict=True)),
    )


def clip_length_is_no_weight(bench: Bench) -> Outcome:
    """A clip's value is the mean of its parts', also where errors grow from frame to frame."""
    if not bench.is_temporal:
        return not_applicable("takes pictures: see 'clips are pictures'")
    frames = bench.hr.shape[1]
    growth = torch.arange(1, frames + 1).view(1, -1, 1, 1, 1)
    sr = bench.hr + growth * (bench.sr - bench.hr)
    pairs = [bench.value(sr[:, t : t + 2], bench.hr[:, t : t + 2]) for t in range(frames - 1)]
    whole = bench.value(sr)
    ratio = sum(pairs) / len(pairs) / whole if whole else float("nan")
    return judged(
        0.9 < ratio < 1.1,
        f"mean over pairs of frames / value of {frames} frames = {ratio:.3f} (0.9 to 1.1)",
        ratio=ratio,
    )


def _added(bench: Bench, error: Tensor) -> float:
    return bench.value(bench.hr + error) - bench.at_identity


def _signs(like: Tensor) -> Tensor:
    """Plus or minus 1 at random: every error is equally large."""
    draw = torch.rand(like.shape, generator=torch.Generator().manual_seed(8))
    return torch.where(draw < 0.5, -1.0, 1.0)


_PATTERNS = {"checkerboard": (1, 1), "columns": (0, 1), "rows": (1, 0)}
"""Whether the sign changes from row to row, and from column to column."""


def _pattern(like: Tensor, name: str) -> Tensor:
    """Plus and minus 1 in turn; in a clip also from frame to frame."""
    down, across = _PATTERNS[name]
    height, width = like.shape[-2:]
    number = down * torch.arange(height)[:, None] + across * torch.arange(width)
    if like.ndim == 5:
        number = number + torch.arange(like.shape[1]).view(-1, 1, 1, 1)
    return (1.0 - 2.0 * (number % 2)).expand(like.shape)
