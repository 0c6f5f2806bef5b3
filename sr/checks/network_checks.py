"""Losses that look through a network: what really arrives at its first layer, and are its taps what they are called?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr.checks.bench import Bench
from sr.checks.results import Outcome, judged, not_applicable
from sr.losses.term import as_frames

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def network_input(bench: Bench) -> Outcome:
    """The first convolution must get R, G, B in this order, each about centred and scaled to unit spread.

    Whatever affine normalisation is in use is recovered by least squares from what arrives: no flag is trusted.
    """
    if not bench.has_network or bench.is_live:
        return not_applicable("looks through no frozen network")
    # Colour noise tells the channels apart on grey pictures too.
    draw = torch.rand(bench.hr.shape, generator=torch.Generator().manual_seed(6))
    coloured = 0.7 * bench.hr + 0.3 * draw
    arrived = _first_input(bench, coloured)
    pictures = as_frames(coloured)
    if arrived is None or arrived.shape[1] != 3 or len(arrived) < len(pictures):
        return not_applicable("its first convolution does not see the pictures' three channels")
    if arrived.shape[-2:] != pictures.shape[-2:]:
        return not_applicable(f"it resamples the pictures to {tuple(arrived.shape[-2:])} first")
    faults, means, spreads = [], [], []
    for channel, letter in enumerate("RGB"):
        fits = [_affine(pictures[:, source], arrived[: len(pictures), channel]) for source in range(3)]
        best = min(range(3), key=lambda source: fits[source][2])
        slope, shift, rest = fits[best]
        if best != channel:
            faults.append(f"its {letter} input is the picture's {'RGB'[best]}")
        if rest > 1e-3 or slope == 0:
            faults.append(f"its {letter} input is no affine function of one channel")
            continue
        means.append(-shift / slope)
        spreads.append(1 / slope)
    if means and not all(0.2 < m < 0.7 for m in means):
        faults.append("natural pictures do not arrive centred")
    if spreads and not all(0.12 < s < 0.6 for s in spreads):
        faults.append("natural pictures do not arrive with a spread of about 1")
    shown = (
        "mean " + ", ".join(f"{m:.3f}" for m in means) + ", spread " + ", ".join(f"{s:.3f}" for s in spreads)
    )
    known = zip((*means, *spreads), (*_IMAGENET[0], *_IMAGENET[1]), strict=False)
    if not faults and all(abs(a - b) < 2e-3 for a, b in known):
        shown += " (ImageNet's)"
    return judged(not faults, "; ".join([*faults, f"recovered normalisation: {shown}"]))


def taps_are_what_they_are_called(bench: Bench) -> Outcome:
    """A tap named relu* has no negative activations, one named conv* has some: before and after differ in SRGAN and ESRGAN."""
    loss = bench.feature_loss
    if loss is None:
        return not_applicable("no loss on named activations of a network")
    with torch.no_grad():
        features = loss.network(as_frames(bench.hr), loss.taps)
    faults = []
    for tap in loss.taps:
        lowest = float(features[tap].min())
        if "relu" in tap and lowest < 0:
            faults.append(f"{tap} goes down to {lowest:.3g}: it is taken before the ReLU")
        if "conv" in tap and "relu" not in tap and lowest >= 0:
            faults.append(f"{tap} has no negative value: it is taken after the ReLU")
        if float(features[tap].std()) == 0:
            faults.append(f"{tap} is constant: a dead layer")
    return judged(not faults, "; ".join(faults) or f"{', '.join(loss.taps)}: as their names say")


def _first_input(bench: Bench, pictures: Tensor) -> Tensor | None:
    """What the first convolution that runs gets when the target is given as the output too."""
    seen: list[Tensor] = []

    def remember(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0].detach())

    hooks = [
        m.register_forward_pre_hook(remember) for m in bench.module.modules() if isinstance(m, nn.Conv2d)
    ]
    try:
        bench.value(pictures, pictures)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else None


def _affine(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Slope, shift and relative residual of the best line from x to y."""
    x, y = x.double().flatten(), y.double().flatten()
    spread = (x - x.mean()).square().mean()
    slope = ((x - x.mean()) * (y - y.mean())).mean() / spread
    shift = y.mean() - slope * x.mean()
    rest = (y - slope * x - shift).square().mean().sqrt() / y.std()
    return float(slope), float(shift), float(rest)
