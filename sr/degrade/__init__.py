"""HR to LR. The degradations by name: to add one, a class in a file here and one line in DEGRADATIONS.

A degradation is a class whose keyword parameters are its settings (see sr.degrade.base). Those that reduce can be a
trial's degradation by themselves; the others are steps of a `chain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sr.components import complete
from sr.configfile import ConfigError
from sr.degrade.base import Degradation
from sr.degrade.blur import GaussianBlur
from sr.degrade.camera import H264, Jpeg, Noise
from sr.degrade.draws import Draws
from sr.degrade.reduction import BicubicAa, BicubicCv2, Bilinear, BlurDown
from sr.degrade.seed0 import Seed0Coded, Seed0Told

GIVEN = "given"
"""The name, in a configuration, of no degradation at all: the data set holds the LR pictures itself."""


class Chain:
    """Degradations one after the other, exactly one of which reduces.

    Rounded to 8 bits once, at the end (JPEG and H.264 round as files do). Every step draws its own numbers. In the manner of
    Real-ESRGAN (Wang et al., ICCVW 2021, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
    Data", section 3), without its random resizing and ringing:

        degradation:
          type: chain
          steps:
            - {type: gaussian_blur, sigma: [0.2, 3.0]}
            - {type: noise, sigma: [1, 30]}
            - {type: jpeg, quality: [30, 95]}
            - {type: gaussian_blur, sigma: [0.2, 1.5]}
            - bicubic_aa
            - {type: noise, sigma: [1, 25]}
            - {type: jpeg, quality: [30, 95]}
    """

    reduces = True

    def __init__(self, *, steps: Sequence[str | dict[str, Any]] | None = None) -> None:
        if not steps:
            raise ValueError("steps: missing; give a list of degradations, e.g. steps: [bicubic_aa, noise]")
        written = [{"type": step} if isinstance(step, str) else step for step in steps]
        self.steps = [build(step["type"], {k: v for k, v in step.items() if k != "type"}) for step in written]
        names = [step["type"] for step in written]
        reducing = [name for name, step in zip(names, self.steps, strict=True) if step.reduces]
        if len(reducing) != 1:
            raise ValueError(
                f"steps: {' > '.join(names)} has {len(reducing)} steps that reduce"
                + (f" ({', '.join(reducing)})" if reducing else "")
                + f"; have exactly one of: {', '.join(_reducing())}"
            )

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Takes the steps in order."""
        for number, step in enumerate(self.steps):
            clips = step(clips, scale=scale, draws=draws.of_step(number))
        return clips


DEGRADATIONS: dict[str, Callable[..., Degradation]] = {
    "bicubic_aa": BicubicAa,
    "bicubic_cv2": BicubicCv2,
    "bilinear": Bilinear,
    "blur_down": BlurDown,
    "seed0_coded": Seed0Coded,
    "seed0_told": Seed0Told,
    "gaussian_blur": GaussianBlur,
    "noise": Noise,
    "jpeg": Jpeg,
    "h264": H264,
    "chain": Chain,
}


def degrade(
    hr: Tensor, *, kind: str, scale: int, parameters: Mapping[str, Any], keys: Sequence[str]
) -> Tensor:
    """Returns the LR clips as they would be stored: clipped to [0, 1] and rounded to 8 bits.

    All that is random is drawn from the clips' keys: equal keys give equal draws, whatever else is in the batch, on any
    rank and device.

    Args:
        hr: float32 in [0, 1], shape (B, T, 3, H, W), or (T, 3, H, W) for one clip; H and W multiples of `scale`.
        kind: Key of DEGRADATIONS, of one that reduces.
        scale: Reduction factor.
        parameters: The degradation's settings.
        keys: One per clip.

    Returns:
        float32 in [0, 1], shape (..., H / scale, W / scale), multiples of 1/255.

    Raises:
        ValueError: A size is no multiple of the scale, there is not one key per clip, or nothing reduces.
    """
    if hr.shape[-2] % scale or hr.shape[-1] % scale:
        raise ValueError(
            f"HR is {hr.shape[-1]} x {hr.shape[-2]}, not a multiple of scale {scale}; crop it first"
        )
    if hr.ndim not in (4, 5):
        raise ValueError(f"HR has shape {tuple(hr.shape)}; give clips, (B, T, 3, H, W) or (T, 3, H, W)")
    clips = hr if hr.ndim == 5 else hr[None]
    if len(keys) != len(clips):
        raise ValueError(f"degradation: {len(keys)} keys for {len(clips)} clips; give one key per clip")
    degradation = build(kind, parameters)
    if not degradation.reduces:
        raise ValueError(_does_not_reduce(kind))
    # In full precision even where training is not: LR is data, and must not depend on the engine.
    with torch.autocast(hr.device.type, enabled=False):
        lr = degradation(clips.float(), scale=scale, draws=Draws(tuple(keys)))
    lr = lr.clamp(0, 1).mul(255).round().div(255)
    return lr if hr.ndim == 5 else lr[0]


def build(kind: str, parameters: Mapping[str, Any]) -> Degradation:
    """Returns the degradation of that name with those settings.

    Raises:
        ValueError: A setting is out of range.
    """
    return DEGRADATIONS[kind](**parameters)


def complete_degradation(value: object, where: str) -> dict[str, Any]:
    """Returns a trial's degradation (a name, or a mapping with `type`) with all settings filled in, those of the steps too.

    Args:
        value: As read from YAML.
        where: Key of it in the configuration, for messages.

    Raises:
        ConfigError: A name or setting does not exist, has the wrong type or is out of range, or the whole does not reduce.
    """
    full = _complete(value, DEGRADATIONS | {GIVEN: lambda: None}, where)
    if full["type"] != GIVEN and not _built(full, where).reduces:
        raise ConfigError([f"{where}: {_does_not_reduce(full['type'])}"])
    return full


def _complete(value: object, table: Mapping[str, Callable[..., Any]], where: str) -> dict[str, Any]:
    full = complete(value, table, where=where, what="degradation")
    if full["type"] == "chain" and full["steps"]:
        steps: list[dict[str, Any]] = []
        faults: list[str] = []
        for number, step in enumerate(full["steps"]):
            try:
                steps.append(_complete(step, DEGRADATIONS, f"{where}.steps.{number}"))
                _built(steps[-1], f"{where}.steps.{number}")
            except ConfigError as error:
                faults += error.faults
        if faults:
            raise ConfigError(faults)
        full["steps"] = steps
    return full


def _built(full: Mapping[str, Any], where: str) -> Degradation:
    try:
        return build(full["type"], {name: value for name, value in full.items() if name != "type"})
    except ValueError as error:
        raise ConfigError([f"{where}.{error}"]) from None


def _does_not_reduce(kind: str) -> str:
    return (
        f"'{kind}' leaves the size of the picture; put it into a chain with one that reduces, e.g. "
        f"{{type: chain, steps: [bicubic_aa, {kind}]}}, or use one of: {', '.join(_reducing())}"
    )


def _reducing() -> list[str]:
    return sorted(name for name, factory in DEGRADATIONS.items() if getattr(factory, "reduces", False))
