"""Measuring clips: each metric by its own protocol, one value per clip."""

from __future__ import annotations

import torch
from torch import Tensor

from sr.configfile import unknown
from sr.metrics.protocol import Metric, crop_border, to_8bit
from sr.metrics.table import METRICS


def measure(
    sr: Tensor, hr: Tensor, *, names: tuple[str, ...], scale: int, lr: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns each metric's value per clip by the metric's own protocol.

    Args:
        sr: Output of a generator, shape (N, T, 3, H, W), any float, not clipped.
        hr: Target in [0, 1], same shape.
        names: Keys of METRICS.
        scale: Upscaling factor; so many pixels are cut from each border where the protocol cuts.
        lr: What the generator was given, shape (N, T', 3, H / scale, W / scale), T' >= T: the frames in the middle count.
            Only metrics that need it look at it.

    Returns:
        Metric name to shape (N,), float64; a clip's value is the mean over its frames, or what its protocol says.

    Raises:
        ValueError: The shapes differ, a name is unknown, or a metric needs larger pictures, more frames, `lr`, or
            something that is not installed.
    """
    if sr.shape != hr.shape:
        raise ValueError(
            f"the output has shape {tuple(sr.shape)} and the target {tuple(hr.shape)}; they must agree"
        )
    if sr.ndim != 5 or sr.shape[2] != 3 or 0 in sr.shape:
        raise ValueError(
            f"the output has shape {tuple(sr.shape)}; clips have (N, T, 3, H, W), a grey picture three equal channels"
        )
    for what, pictures in (("output", sr), ("target", hr)):
        if not pictures.isfinite().all():
            raise ValueError(
                f"the {what} has values that are infinite or not a number; no metric can judge them: "
                "look for the step at which the training diverged"
            )
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metrics: {unknown('metric', name, METRICS)}")
        _refuse_unfit(name, METRICS[name], sr, scale, lr)
    asked = any("lr" in METRICS[name].needs for name in names)
    prepared = _Prepared(sr, hr, scale, _middle(lr, sr, scale) if lr is not None and asked else None)
    return {name: _value(METRICS[name], prepared) for name in names}


def _refuse_unfit(name: str, metric: Metric, sr: Tensor, scale: int, lr: Tensor | None) -> None:
    border = scale if metric.protocol.crop == "scale" else 0
    height, width = (side - 2 * border for side in sr.shape[-2:])
    if min(height, width) < metric.min_side:
        raise ValueError(
            f"metrics.{name}: needs pictures of at least {metric.min_side} x {metric.min_side} pixels after cutting "
            f"{border} from each border, got {width} x {height}; evaluate larger crops or leave {name} out"
        )
    if "clip" in metric.needs and sr.shape[1] < 2:
        raise ValueError(
            f"metrics.{name}: compares consecutive frames, got clips of one frame; "
            f"evaluate clips of two frames or more, or leave {name} out"
        )
    if "lr" in metric.needs and lr is None:
        raise ValueError(
            f"metrics.{name}: compares with the generator's input, got none; pass lr, or leave {name} out"
        )


def _middle(lr: Tensor, sr: Tensor, scale: int) -> Tensor:
    """The frames of `lr` that `sr` was made from; a model of many frames in and one out answers for the middle."""
    expected = (len(sr), 3, sr.shape[-2] // scale, sr.shape[-1] // scale)
    if lr.ndim != 5 or (len(lr), *lr.shape[2:]) != expected or lr.shape[1] < sr.shape[1]:
        raise ValueError(
            f"the input has shape {tuple(lr.shape)} and the output {tuple(sr.shape)}; at scale {scale} the input "
            f"should have (N, T, 3, H / {scale}, W / {scale}), and no fewer frames than the output"
        )
    first = lr.shape[1] // 2 - sr.shape[1] // 2
    return lr[:, first : first + sr.shape[1]]


class _Prepared:
    """The pictures as each protocol wants them, made once for all metrics that agree on it."""

    def __init__(self, sr: Tensor, hr: Tensor, scale: int, lr: Tensor | None) -> None:
        self.sr, self.hr, self.lr = sr, hr, lr
        self._scale = scale
        self._made: dict[tuple[bool, str], tuple[Tensor, Tensor]] = {}

    def pair(self, *, quantised: bool, crop: str) -> tuple[Tensor, Tensor]:
        """SR and HR, shape (N, T, 3, H', W'), float64."""
        key = (quantised, crop)
        if key not in self._made:
            border = self._scale if crop == "scale" else 0
            a, b = (to_8bit(x) if quantised else x.double() for x in (self.sr, self.hr))
            self._made[key] = (crop_border(a, border), crop_border(b, border))
        return self._made[key]


@torch.no_grad()
def _value(metric: Metric, prepared: _Prepared) -> Tensor:
    protocol = metric.protocol
    sr, hr = prepared.pair(quantised=protocol.quantised, crop=protocol.crop)
    if protocol.per == "clip":
        return metric.compute(sr, hr).double()
    arguments = [sr, hr, prepared.lr] if "lr" in metric.needs else [sr, hr]
    values = metric.compute(*(x.flatten(0, 1) for x in arguments if x is not None))
    per_frame = values.double().reshape(sr.shape[:2])
    return per_frame.sum(dim=1) if protocol.over_frames == "sum" else per_frame.mean(dim=1)
