"""Does the loss order pictures as it should? Least at identity, rising with what spoils a picture, the same everywhere."""

from __future__ import annotations

import itertools
import math

import torch

from sr.checks.bench import SIDES, Bench, reconstruction
from sr.checks.distortions import LUMA, luma255
from sr.checks.pictures import centre_crop
from sr.checks.results import Outcome, judged, not_applicable, not_run


def _close(a: float, b: float, tolerance: float) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-9)


def minimum_at_identity(bench: Bench) -> Outcome:
    """No distorted picture may score better than the target itself."""
    least = bench.at_identity
    below = {
        name: min(values) - least
        for name, values in bench.levels.items()
        # Rounding in float32 may put an equal value a little below.
        if not min(values) >= least - 1e-6 * (1 + abs(least))
    }
    lowest = min(min(values) for values in bench.levels.values())
    if below:
        worst = min(below, key=lambda name: below[name])
        meaning = (
            f"{least:.4g} for identical pictures, but {least + below[worst]:.4g} with {worst}: lower is worse"
        )
        return judged(False, meaning, identity=least, lowest_distorted=lowest)
    return judged(
        math.isfinite(least),
        f"{least:.4g} for identical pictures, at least {lowest:.4g} for spoiled ones",
        identity=least,
        lowest_distorted=lowest,
    )


def _rises(bench: Bench, name: str) -> Outcome:
    values = [bench.at_identity, *bench.levels[name]]
    good = all(a < b for a, b in itertools.pairwise(values))
    text = " < ".join(f"{value:.4g}" for value in values)
    return judged(
        good,
        f"identity < {name} at rising levels: {text if good else text.replace('<', ',') + ' is no rise'}",
        **{f"level_{i}": value for i, value in enumerate(values)},
    )


def rises_with_blur(bench: Bench) -> Outcome:
    """Monotone over Gaussian blurs of 0.6, 1.0 and 1.8 pixels."""
    return _rises(bench, "blur")


def rises_with_noise(bench: Bench) -> Outcome:
    """Monotone over noise of standard deviation 0.03, 0.06 and 0.12."""
    return _rises(bench, "noise")


def rises_with_jpeg(bench: Bench) -> Outcome:
    """Monotone over JPEG of quality 60, 20 and 6."""
    return _rises(bench, "JPEG")


def rises_with_shift(bench: Bench) -> Outcome:
    """A picture one pixel aside is not the target; how much worse is the loss's own affair."""
    return _rises(bench, "shift")


def sees_where_things_are(bench: Bench) -> Outcome:
    """A mirror image has the same means, histograms and noise: only what looks at places can tell."""
    mirrored = bench.value(bench.hr.flip(-1)) - bench.at_identity
    strong = bench.levels["JPEG"][-1] - bench.at_identity
    return judged(
        mirrored > 1e-3 * strong,
        f"a mirror image adds {mirrored:.4g}, coarse JPEG {strong:.4g}",
        mirrored=mirrored,
    )


def is_a_scalar_in_float32(bench: Bench) -> Outcome:
    """One finite number, in the precision that it was given."""
    value = bench.call(bench.sr, bench.hr)
    good = value.shape == () and value.dtype == torch.float32 and bool(torch.isfinite(value))
    return judged(
        good, f"shape {tuple(value.shape)}, {value.dtype}, value {float(value.detach().mean()):.4g}"
    )


def batch_is_the_mean(bench: Bench) -> Outcome:
    """The value of a batch is the mean of its members' values, so that the batch size does not act as a weight."""
    singles = [bench.value(bench.sr[i : i + 1], bench.hr[i : i + 1]) for i in range(len(bench.hr))]
    mean, ratio = sum(singles) / len(singles), float("nan")
    if mean:
        ratio = bench.at_sr / mean
    good = _close(bench.at_sr, mean, 1e-4)
    return judged(
        good,
        f"batch of {len(singles)}: {bench.at_sr:.5g}, mean of its members {mean:.5g} (ratio {ratio:.4f})",
        batch=bench.at_sr,
        mean_of_singles=mean,
    )


def crops_agree_with_the_whole(bench: Bench) -> Outcome:
    """The mean over quarters is near the value of the whole, so that the crop size does not act as a weight."""
    if not bench.traits.is_local:
        return not_applicable("a global loss: the value of a crop need not be like that of the whole")
    height, width = (2 * side for side in bench.hr.shape[-2:])
    if bench.whole.shape[-2] < height or bench.whole.shape[-1] < width:
        height, width = (side // 32 * 32 for side in bench.whole.shape[-2:])
    if min(height, width) < 2 * SIDES[0]:
        return not_run(
            f"pictures of at least {2 * SIDES[0]} x {2 * SIDES[0]} pixels are needed to be quartered"
        )
    hr = centre_crop(bench.whole, height, width)
    sr = reconstruction(hr)
    halves = [(slice(0, s // 2), slice(s // 2, s)) for s in (height, width)]
    try:
        quarters = [bench.value(sr[..., y, x], hr[..., y, x]) for y in halves[0] for x in halves[1]]
    except ValueError as error:
        return not_run(f"the pictures are too small to be quartered: {error}")
    whole, mean = bench.value(sr, hr), sum(quarters) / 4
    ratio = mean / whole if whole else float("nan")
    return judged(
        2 / 3 < ratio < 1.5,
        f"mean of 4 quarters / value of the whole = {ratio:.3f} (2/3 to 3/2: borders differ a little)",
        ratio=ratio,
    )


def clips_are_pictures(bench: Bench) -> Outcome:
    """A clip's value is that of its frames: (B, T, C, H, W) is (B * T, C, H, W)."""
    if bench.is_temporal:
        return not_applicable("compares frames of a clip with each other")
    as_clip = bench.value(bench.sr[None], bench.hr[None])
    good = _close(as_clip, bench.at_sr, 1e-5)
    return judged(
        good, f"{len(bench.hr)} pictures {bench.at_sr:.6g}, as one clip {as_clip:.6g}", clip=as_clip
    )


def range_matters(bench: Bench) -> Outcome:
    """A loss that guesses the range (`if x.max() > 1`) hides a caller's mistake and changes within training."""
    # Dark pictures: none of their values times 2 gives a range away.
    dark = bench.value(0.4 * bench.sr, 0.4 * bench.hr)
    bright = bench.value(255 * bench.sr, 255 * bench.hr)
    plain = bench.at_sr
    ratio = bright / plain if plain else float("nan")
    reason = ""
    if _close(bright, plain, 1e-4):
        reason = ": the range is guessed"
        if _close(dark, plain, 1e-4):
            reason = (
                ", those times 0.4 too: divided by what the pictures themselves hold; where that is the definition (an "
                "angle, a correlation), say so in the class: exempt = {'range': 'why'}"
            )
    return judged(
        not reason and math.isfinite(dark),
        f"the same pictures on 0..255 give {ratio:.4g} times the value{reason}",
        on_255=bright,
        on_1=plain,
    )


def channels_in_order(bench: Bench) -> Outcome:
    """On grey pictures, noise in R, G or B alone counts alike, or as much as the channel weighs in luma."""
    if bench.has_network or bench.is_live:
        return not_applicable("a network's channels are told apart by its input: see 'network input'")
    mix = _only_mix(bench)
    if mix is not None:
        return _judged_mix(mix)
    grey = (luma255(bench.hr) / 255).unsqueeze(-3).expand_as(bench.hr)
    noise = 0.04 * torch.randn(grey[..., :1, :, :].shape, generator=torch.Generator().manual_seed(5))
    base = bench.value(grey, grey)
    red, green, blue = (
        bench.value(grey + noise * torch.eye(3)[channel].view(3, 1, 1), grey) - base for channel in range(3)
    )
    measured = {"red": red, "green": green, "blue": blue}
    shown = f"R {red:.3g}, G {green:.3g}, B {blue:.3g}"
    if min(red, green, blue) <= 0:
        return judged(False, f"noise in one channel is not seen: {shown}", **measured)
    if max(red, green, blue) < 1.02 * min(red, green, blue):
        return judged(True, f"the three channels count alike: {shown}", **measured)
    good = green > red > blue
    return judged(
        good,
        f"{shown}: "
        + ("green, red, blue, as in luma" if good else "neither alike nor as in luma (green, red, blue)"),
        **measured,
    )


def _only_mix(bench: Bench) -> tuple[float, float, float] | None:
    """The weights of R, G and B, sum 1, where the loss looks at one weighted sum of them only; else None.

    Its gradients of the three channels are then the same picture times the weights, so that these can be read off.
    """
    gradient = bench.gradient(bench.sr).double().movedim(-3, -1).reshape(-1, 3)
    sizes, directions = torch.linalg.eigh(gradient.T @ gradient)
    if not (sizes[-1] > 0 and sizes[:-1].abs().sum() < 1e-8 * sizes[-1]):
        return None
    weights = directions[:, -1] / directions[:, -1].sum()
    return float(weights[0]), float(weights[1]), float(weights[2])


def _judged_mix(mix: tuple[float, float, float]) -> Outcome:
    shown = "{:.4f} R + {:.4f} G + {:.4f} B".format(*mix)
    standards = {"luma of BT.601": LUMA, "the mean of the channels": (1 / 3, 1 / 3, 1 / 3)}
    for name, weights in standards.items():
        if all(abs(a - b) < 2e-3 for a, b in zip(mix, weights, strict=True)):
            return judged(True, f"it sees {shown} only: {name}")
    return judged(
        False,
        "it sees {} only, not luma as used here: {:g} R + {:g} G + {:g} B (BT.601)".format(shown, *LUMA),
    )


def deterministic(bench: Bench) -> Outcome:
    """Twice the same, whatever the global random state; torch's global state is left as it was, for all others' sake."""
    state, settings = torch.get_rng_state(), _global_settings()
    first = bench.value(bench.sr)
    bench.call(bench.sr, bench.hr)
    untouched = bool(torch.equal(state, torch.get_rng_state()))
    moved = [name for name, value in _global_settings().items() if value != settings[name]]
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(12345)
    second = bench.value(bench.sr)
    torch.set_rng_state(state)
    if first != second:
        return judged(False, f"two calls on the same pictures give {first:.8g} and {second:.8g}")
    faults = [*([] if untouched else ["torch's global random state"]), *moved]
    return judged(
        not faults,
        f"two calls give {first:.6g}" + (f", but it changes {', '.join(faults)}" if faults else ""),
    )


def _global_settings() -> dict[str, object]:
    return {
        "whether gradients are recorded": torch.is_grad_enabled(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
    }


def layout_does_not_matter(bench: Bench) -> Outcome:
    """Strided and transposed memory gives the value of contiguous memory."""
    strided = torch.stack([bench.sr, bench.sr], dim=-1)[..., 0]
    transposed = bench.hr.transpose(-1, -2).contiguous().transpose(-1, -2)
    with torch.no_grad():
        value = float(bench.raw(strided, transposed))
    return judged(_close(value, bench.at_sr, 1e-5), f"contiguous {bench.at_sr:.6g}, strided {value:.6g}")
