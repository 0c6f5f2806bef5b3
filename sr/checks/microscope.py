"""The loss microscope: one picture, spoiled in ways that MSE cannot tell apart, and how each loss ranks them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.checks import distortions
from sr.checks.bench import Call, call_of
from sr.checks.exemptions import SHIPPED
from sr.checks.named import NamedLoss, named
from sr.checks.pictures import centre_crop
from sr.features.weights import find_or_none
from sr.losses import LOSSES
from sr.losses.adversarial import AdversarialLoss, FeatureMatching
from sr.resize import bicubic
from sr.similarity import ssim_map

MSE = 309.0
"""Of luma on 0..255: that of the figure in Wang and Bovik 2009, "Mean squared error: love it or leave it?"."""
SHORT_SIDE = 256
"""Pixels to which a larger picture is reduced."""
_SMALLEST_SIDE = 48
_SAME = 0.01
"""Relative difference up to which two values share a rank."""


@dataclass(frozen=True, slots=True)
class Version:
    """The picture, spoiled in one way."""

    name: str
    label: str
    picture: Tensor
    """float32 in [0, 1], shape (3, H, W)."""
    mse: float
    """Of luma on 0..255."""
    ssim: float
    """Of luma, Gaussian window 11."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one loss says about the versions, in their order."""

    loss: str
    values: list[float]
    """As the loss returns them."""
    ranks: list[int]
    """1 is the version that the loss minds least; values that differ by less than 1 % share a rank."""
    normalised: list[float]
    """Above its value at identity, as a fraction of the worst; in [0, 1]."""
    calibrated: list[float]
    """Above its value at identity, times what makes its gradient at the bicubic output as large as that of L1."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What the microscope shows."""

    original: Tensor
    """float32, shape (3, H, W)."""
    target_mse: float
    versions: list[Version]
    rows: list[Row]
    skipped: dict[str, str]
    """Loss to the reason why it is not shown."""


def look(
    picture: Tensor, *, losses: list[str] | None = None, mse: float = MSE, stand_in_weights: bool = False
) -> View:
    """Spoils a picture at equal MSE and asks every loss.

    Args:
        picture: RGB, float in [0, 1], shape (3, H, W); a larger one is reduced to a shorter side of 256 pixels, and
            its sides are cut to multiples of 16.
        losses: Keys of LOSSES, with settings in brackets if need be; unless given all, and `vgg` on a network of which
            the weights are installed.
        mse: Wanted MSE of luma on 0..255; where a distortion cannot reach it on this picture, all take the largest
            that every one reaches.
        stand_in_weights: Take random weights where the real ones are missing.

    Raises:
        ValueError: The picture is too small or flat, the MSE is not positive, or no loss can be shown.
    """
    if not mse > 0:
        raise ValueError(
            f"microscope: an MSE of {mse:g} spoils nothing; give a positive number, e.g. {MSE:g}"
        )
    frame = _frame(picture)
    versions, target = spoil(frame, mse)
    rows, skipped = [], {}
    for entry in map(named, losses or default_losses()):
        try:
            rows.append(_row(entry, frame, versions, stand_in_weights))
        except (ValueError, ImportError, OSError) as error:
            skipped[str(entry)] = str(error)
    if not rows:
        raise ValueError(
            f"microscope: no loss can be shown; {'; '.join(f'{n}: {r}' for n, r in skipped.items())}"
        )
    return View(frame, target, versions, rows, skipped)


def default_losses() -> list[str]:
    """All of LOSSES; and one on genuine weights, where the package that brings them is installed."""
    found = find_or_none("effnet_lite0") is not None
    return [*LOSSES, *(["vgg(network=effnet_lite0)"] if found else [])]


def spoil(frame: Tensor, mse: float) -> tuple[list[Version], float]:
    """The versions of equal MSE, the 1-pixel shift with its own last; and the MSE they have.

    Args:
        frame: float in [0, 1], shape (3, H, W).
        mse: Wanted MSE of luma on 0..255.

    Raises:
        ValueError: The picture is so flat that some distortion does not change it.
    """
    reachable = {n: distortions.strongest_mse(frame, s) for n, s in distortions.EQUAL_MSE.items()}
    least = min(reachable, key=lambda name: reachable[name])
    target = min(mse, 0.98 * reachable[least])
    if target < 1:
        raise ValueError(
            f"microscope: on this picture {distortions.EQUAL_MSE[least].label} reaches an MSE of "
            f"{reachable[least]:.2f} only; give a picture with some detail and contrast"
        )
    versions = [
        _version(name, spoiler.label, distortions.at_mse(frame, spoiler, target), frame)
        for name, spoiler in distortions.EQUAL_MSE.items()
    ]
    return [*versions, _version("shift", "1-pixel shift", distortions.shift(frame), frame)], target


def _version(name: str, label: str, picture: Tensor, frame: Tensor) -> Version:
    lumas = (distortions.luma255(x.double()) for x in (picture, frame))
    similarity = ssim_map(*lumas, data_range=255.0).mean().item()
    return Version(name, label, picture, distortions.mse255(picture, frame), similarity)


def _frame(picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    if min(height, width) < _SMALLEST_SIDE:
        raise ValueError(
            f"microscope: {width} x {height} pixels; give a picture of at least {_SMALLEST_SIDE} x {_SMALLEST_SIDE}"
        )
    shrink = min(1.0, SHORT_SIDE / min(height, width))
    if shrink < 1:
        picture = bicubic(picture, height=round(height * shrink), width=round(width * shrink)).clamp(0, 1)
    return centre_crop(picture.float(), *(side // 16 * 16 for side in picture.shape[-2:]))


def _row(entry: NamedLoss, frame: Tensor, versions: list[Version], stand_in_weights: bool) -> Row:
    loss, note = _build(entry, stand_in_weights)
    call, hr = call_of(loss), frame[None]
    with torch.no_grad():
        least = float(call(hr, hr))
        values = [float(call(version.picture[None], hr)) for version in versions]
    above = [value - least for value in values]
    worst = max(above)
    factor = _calibration(call_of(loss), hr)
    return Row(
        str(entry),
        values,
        ranks=[1 + sum(other < value - _SAME * abs(value) for other in above) for value in above],
        normalised=[max(0.0, value) / worst if worst > 0 else 0.0 for value in above],
        calibrated=[factor * value for value in above],
        note=note,
    )


def _build(entry: NamedLoss, stand_in_weights: bool) -> tuple[nn.Module, str]:
    """The loss; refuses those that say nothing about one picture and its target."""
    if "minimum at identity" in SHIPPED.get(entry.name, {}):
        raise ValueError("does not have its minimum at the target, so its ranks say nothing")
    loss, note = entry.build_or_stand_in(stand_in_weights=stand_in_weights)
    looks_through_an_opponent = isinstance(loss, AdversarialLoss | FeatureMatching)
    if looks_through_an_opponent:
        raise ValueError("looks through a discriminator that is trained along; there is none yet")
    return loss, note


def _calibration(call: Call, hr: Tensor) -> float:
    """What `calibrate` would multiply the loss with: RMS of L1's gradient over its own, at the bicubic output (x4)."""
    height, width = hr.shape[-2:]
    small = bicubic(hr, height=height // 4, width=width // 4)
    output = bicubic(small, height=height, width=width).clamp(0, 1).requires_grad_()
    wanted, own = (
        torch.autograd.grad(f(output, hr), output)[0].square().mean().sqrt().item() for f in (F.l1_loss, call)
    )
    return wanted / own if own > 0 else float("nan")
