"""The conformance suite of metrics: one value per picture, a plain mean, best at identity, the right way round."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sr.checks import distortions
from sr.checks.pictures import as_moving_clip, centre_crop
from sr.checks.results import Outcome, Result, judged, not_applicable, run_table
from sr.metrics import METRICS, Metric, aggregate, to_8bit
from sr.resize import bicubic

Average = Callable[[Tensor], float]
"""From one value per picture, shape (N,), to the number that is reported."""

_SCALE = 2
_SIDES = (48, 96, 176)


@dataclass(frozen=True, slots=True)
class MetricBench:
    """A metric and the pictures it is checked on."""

    metric: Metric
    average: Average
    hr: Tensor
    """As the metric wants it: float64, (N, 3, H, W), or clips (N, 3, 3, H, W)."""

    def values(self, sr: Tensor, hr: Tensor | None = None) -> Tensor:
        """One value per picture or clip, shape (N,); an error measure: lower is better, zero best if it is signed."""
        hr = self.hr if hr is None else hr
        if self.metric.protocol.quantised:
            sr = to_8bit(sr)
        given = [sr, hr]
        if "lr" in self.metric.needs:
            given.append(bicubic(hr, height=hr.shape[-2] // _SCALE, width=hr.shape[-1] // _SCALE).to(hr))
        with torch.no_grad():
            return self.metric.compute(*given)

    def error(self, sr: Tensor) -> float:
        """The average, turned so that lower is better."""
        value = float(self.values(sr).mean())
        if self.metric.zero_is_best:
            return abs(value)
        return -value if self.metric.higher_is_better else value


def one_value_per_picture(bench: MetricBench) -> Outcome:
    """Shape (N,), and each the value that the picture has by itself."""
    sr = distortions.noise(bench.hr, 0.05)
    together = bench.values(sr)
    if together.shape != (len(sr),):
        return judged(False, f"{len(sr)} pictures give shape {tuple(together.shape)}, expected ({len(sr)},)")
    alone = torch.cat([bench.values(sr[i : i + 1], bench.hr[i : i + 1]) for i in range(len(sr))])
    off = float((together - alone).abs().max() / alone.abs().max().clamp(min=1e-12))
    return judged(off < 1e-5, f"{len(sr)} pictures at once and one by one differ by {off:.1e}", deviation=off)


def average_is_the_mean(bench: MetricBench) -> Outcome:
    """The reported number is sum / N: of one value that value, of equal values that value."""
    cases = {"one 0.9": [0.9], "five 0.9": [0.9] * 5, "0.2 and 0.6": [0.2, 0.6]}
    cases["these pictures"] = bench.values(distortions.noise(bench.hr, 0.05)).tolist()
    for name, values in cases.items():
        expected = sum(values) / len(values)
        try:
            got = bench.average(torch.tensor(values, dtype=torch.float64))
        except ZeroDivisionError:
            return judged(False, f"{name}: division by zero")
        if not math.isclose(got, expected, rel_tol=1e-6):
            return judged(False, f"{name}: reported {got:.6g}, the mean is {expected:.6g}")
    return judged(True, "of one, of equal and of unequal values it is the mean")


def best_at_identity(bench: MetricBench) -> Outcome:
    """No distorted picture is better than the target itself."""
    best = bench.error(bench.hr)
    spoiled = {
        "noise": distortions.noise(bench.hr, 0.05),
        "blur": distortions.blur(bench.hr, 1.0),
        "JPEG": distortions.jpeg(bench.hr, 80),
        "shift": distortions.shift(bench.hr),
        "luminance": distortions.brighter(bench.hr, 0.05),
    }
    below = {name: error for name, sr in spoiled.items() if (error := bench.error(sr)) < best - 1e-9}
    shown = "; ".join(f"{name} is better by {best - error:.4g}" for name, error in below.items())
    value = float(bench.values(bench.hr).mean())
    return judged(
        not below and math.isfinite(best),
        shown or f"{value:.6g} for identical pictures, none better",
        identity=value,
    )


def worse_with_noise(bench: MetricBench) -> Outcome:
    """Monotone in the direction it states over three levels of noise."""
    return _worse(bench, "noise", [distortions.noise(bench.hr, level) for level in (0.02, 0.05, 0.12)])


def worse_with_blur(bench: MetricBench) -> Outcome:
    """Monotone in the direction it states over three blurs."""
    return _worse(bench, "blur", [distortions.blur(bench.hr, level) for level in (0.6, 1.0, 1.8)])


def _worse(bench: MetricBench, name: str, versions: list[Tensor]) -> Outcome:
    errors = [bench.error(bench.hr), *(bench.error(version) for version in versions)]
    good = all(a < b for a, b in itertools.pairwise(errors))
    sign = -1 if bench.metric.higher_is_better and not bench.metric.zero_is_best else 1
    shown = ", ".join(f"{sign * e:.5g}" for e in errors)
    way = "higher" if bench.metric.higher_is_better else "lower"
    return judged(good, f"identity and rising {name}: {shown} ({way} is said to be better)")


def says_its_convention(bench: MetricBench) -> Outcome:
    """A number without range, colour and border cannot be compared with a paper's."""
    metric = bench.metric
    good = bool(
        metric.label and metric.convention and metric.protocol.profile and metric.protocol.data_range > 0
    )
    return judged(good, f"{metric.label or 'no label'}: {metric.convention or 'no convention'}")


def order_of_channels(bench: MetricBench) -> Outcome:
    """A metric of luma minds an error in green most and in blue least, one of RGB minds them alike."""
    colour = bench.metric.protocol.colour
    if colour == "lab" or bench.metric.protocol.profile in ("perceptual", "faces", "temporal", "consistency"):
        return not_applicable("weighs colours in a way of its own")
    grey = (distortions.luma255(bench.hr) / 255).unsqueeze(-3).expand_as(bench.hr)
    draw = torch.randn(grey[..., :1, :, :].shape, generator=torch.Generator().manual_seed(4)).to(grey)
    mine = dataclasses.replace(bench, hr=to_8bit(0.2 + 0.6 * grey))
    red, green, blue = (
        mine.error(mine.hr + 0.05 * draw * torch.eye(3, dtype=draw.dtype)[c].view(3, 1, 1)) for c in range(3)
    )
    alike = max(red, green, blue) - min(red, green, blue) < 0.03 * max(abs(red), abs(green), abs(blue))
    good = alike if colour == "rgb" else green > red > blue
    return judged(good, f"error with noise in R {red:.4g}, in G {green:.4g}, in B {blue:.4g} ({colour})")


METRIC_CHECKS: dict[str, Callable[[MetricBench], Outcome]] = {
    "one value per picture": one_value_per_picture,
    "average is the mean": average_is_the_mean,
    "best at identity": best_at_identity,
    "worse with noise": worse_with_noise,
    "worse with blur": worse_with_blur,
    "channel order": order_of_channels,
    "convention": says_its_convention,
}

_SHARPNESS = {
    "worse with noise": "noise makes a picture sharper, blur less sharp: it measures sharpness, not fidelity",
    "best at identity": "signed: averages of opposite signs cancel",
    "channel order": "signed sums",
}
_SHIPPED: dict[str, Mapping[str, str]] = {
    "sharpness_seed4": _SHARPNESS,
    "sharpness_levels_seed4": _SHARPNESS,
    "vif": {"best at identity": "exceeds 1 where contrast is raised, as its convention says"},
    "warping_error": dict.fromkeys(
        ("best at identity", "worse with blur"), "the target has a residual along its own optical flow"
    ),
    "colour_shift": dict.fromkeys(
        ("worse with noise", "worse with blur"), "a cast only: blind to what averages out over the picture"
    ),
}


def check_metric(
    metric: str | Metric, pictures: Tensor, *, average: Average | None = None, name: str = ""
) -> list[Result]:
    """Runs every check on one metric.

    Args:
        metric: A name from METRICS, or a metric.
        pictures: Natural pictures, float in [0, 1], shape (N >= 2, 3, H, W).
        average: How its values become the number that is reported; unless given, as the evaluation does it.
        name: What a given metric claims to be, for exemptions.

    Raises:
        ValueError: The metric cannot be computed here (weights are missing), or is not defined on these pictures.
    """
    if isinstance(metric, str):
        name, metric = metric, METRICS[metric]
    reported = average or (lambda values: aggregate(values, name if name in METRICS else "ssim_y").mean)
    side = next((s for s in _SIDES if s >= metric.min_side), _SIDES[-1])
    whole = as_moving_clip(pictures, frames=3) if "clip" in metric.needs else pictures
    hr = to_8bit(centre_crop(whole, side, side + 16))
    bench = MetricBench(metric, reported, hr)
    if bool(bench.values(hr).isnan().all()):
        raise ValueError(f"metrics.{name}: not defined on these pictures; give others ({metric.convention})")
    return run_table(METRIC_CHECKS, bench, _SHIPPED.get(name, {}))
