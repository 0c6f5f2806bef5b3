"""Does the generator learn from the loss? Its gradient arrives, is right, is finite, and goes downhill."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from sr.checks.bench import Bench, Call, TinyGenerator, call_of, input_gradient
from sr.checks.results import Outcome, judged, not_run
from sr.resize import bicubic

_DIRECTIONS = 3


def reaches_the_generator(bench: Bench) -> Outcome:
    """Every layer of a small generator gets a finite, non-zero gradient."""
    hr = bench.hr
    lr = bicubic(hr, height=hr.shape[-2] // 2, width=hr.shape[-1] // 2)
    generator = TinyGenerator()
    value = bench.call(generator(lr), hr)
    if not value.requires_grad:
        return judged(False, "the value has no graph: the generator would learn nothing from it")
    value.backward()
    norms = {
        name: float("nan") if p.grad is None else p.grad.norm().item()
        for name, p in generator.named_parameters()
        if name.endswith("weight")
    }
    good = all(0 < norm < float("inf") for norm in norms.values())
    shown = ", ".join(f"{name} {norm:.3g}" for name, norm in norms.items())
    return judged(good, f"gradient norms in a small generator: {shown}", **norms)


def agrees_with_finite_differences(bench: Bench) -> Outcome:
    """Directional derivatives on two real pictures: along 2 random directions and along the gradient itself."""
    sr, hr = bench.sr[:2].double(), bench.hr[:2].double()
    probe = sr.clone().requires_grad_()
    call, steps, tolerance = bench.double, (1e-7, 1e-8), 1e-4
    try:
        value = call(probe, hr)
    except RuntimeError as error:
        return not_run(f"not computable in float64 ({error})")
    if value.dtype != torch.float64:
        # Something inside computes in float32: take steps that its rounding does not drown.
        steps, tolerance = (1e-3, 3e-4), 0.03
    if not value.requires_grad:
        return judged(False, "the value has no graph: there is no gradient to compare")
    gradient = input_gradient(value, probe)
    if gradient is None:
        return judged(False, "the value does not depend on the output: there is no gradient to compare")
    # A kink between the two points spoils one step or the other, hardly both.
    worst = max(
        min(_deviation(call, sr, hr, gradient, d, step) for step in steps) for d in _directions(gradient)
    )
    return judged(
        worst < tolerance,
        f"largest relative deviation {worst:.2g} along {_DIRECTIONS} directions (tolerance {tolerance:g}, "
        f"{str(value.dtype).removeprefix('torch.')})",
        deviation=worst,
    )


def _directions(gradient: Tensor) -> list[Tensor]:
    draw = torch.Generator().manual_seed(11)
    random = [
        torch.randn(gradient.shape, generator=draw, dtype=gradient.dtype) for _ in range(_DIRECTIONS - 1)
    ]
    return [d / d.abs().max() for d in (*random, gradient) if d.abs().max() > 0] or random


def _deviation(call: Call, sr: Tensor, hr: Tensor, gradient: Tensor, direction: Tensor, step: float) -> float:
    with torch.no_grad():
        up, down = (float(call(sr + sign * step * direction, hr)) for sign in (1, -1))
    measured = (up - down) / (2 * step)
    claimed = float((gradient * direction).sum())
    # A random direction may be nearly orthogonal to the gradient; its typical slope is the measure then.
    typical = float(gradient.norm() * direction.norm()) / gradient.numel() ** 0.5
    return abs(measured - claimed) / max(abs(measured), abs(claimed), typical, 1e-12)


def a_step_lowers_it(bench: Bench) -> Outcome:
    """A small step of the output against the gradient, at most 0.001 a value, lowers the loss."""
    gradient = bench.gradient(bench.sr)
    largest = gradient.abs().max().item()
    if not 0 < largest < float("inf"):
        return judged(False, f"the largest gradient is {largest:g}")
    before = bench.value(bench.sr)
    after = min(bench.value(bench.sr - size / largest * gradient) for size in (1e-3, 1e-4))
    return judged(after < before, f"one step: {before:.6g} to {after:.6g}", before=before, after=after)


def finite_where_it_is_hard(bench: Bench) -> Outcome:
    """At identity, on flat and on black pictures, where square roots and quotients break."""
    flat = torch.full_like(bench.hr, 0.5)
    cases = {
        "at identity": (bench.hr, bench.hr),
        "flat output": (flat, bench.hr),
        "flat target": (bench.sr, flat),
        "both flat": (flat, flat),
        "both black": (torch.zeros_like(flat), torch.zeros_like(flat)),
        "black target": (bench.sr, torch.zeros_like(flat)),
    }
    broken = []
    for name, (sr, hr) in cases.items():
        finite = bool(torch.isfinite(bench.gradient(sr, hr)).all()) and bench.value(sr, hr) < float("inf")
        if not finite:
            broken.append(name)
    if broken:
        return judged(False, f"value or gradient not finite: {', '.join(broken)}")
    return judged(True, f"value and gradient finite in {len(cases)} hard cases: {', '.join(cases)}")


def overshoot_is_pulled_back(bench: Bench) -> Outcome:
    """Outputs beyond [0, 1] get a gradient too: where the loss clamps, a generator that overshoots stays there."""
    wild = 0.5 + 3 * (bench.sr - 0.5)
    beyond = (wild < 0) | (wild > 1)
    if not bool(beyond.any()):
        return not_run("the pictures have too little contrast to overshoot")
    gradient = bench.gradient(wild)
    if not (math.isfinite(bench.value(wild)) and bool(torch.isfinite(gradient).all())):
        return judged(
            False,
            "value or gradient is not finite where the output is beyond [0, 1]: a root or log of less than zero",
        )
    share = (gradient[beyond] != 0).double().mean().item()
    return judged(share > 0.5, f"{share:.0%} of the values beyond [0, 1] get a gradient", share=share)


def every_pixel_counts(bench: Bench) -> Outcome:
    """All channels, all frames, the first and the last rows and columns."""
    gradient = bench.gradient(bench.sr).abs()
    # A network's strided first layer may leave out the last rows by its definition.
    band = 8 if bench.has_network else 1
    parts = {
        "red": gradient[..., 0, :, :],
        "green": gradient[..., 1, :, :],
        "blue": gradient[..., 2, :, :],
        "top": gradient[..., :band, :],
        "bottom": gradient[..., -band:, :],
        "left": gradient[..., :band],
        "right": gradient[..., -band:],
        **{f"picture {i}": gradient[i] for i in range(len(gradient))},
    }
    if bench.is_temporal:
        parts |= {f"frame {t}": gradient[:, t] for t in range(gradient.shape[1])}
    unseen = [name for name, part in parts.items() if not part.max() > 0]
    if unseen:
        return judged(False, f"without any influence: {', '.join(unseen)}")
    strongest = max(float(part.mean()) for part in parts.values())
    weakest = min(parts, key=lambda name: float(parts[name].mean()))
    ratio = float(parts[weakest].mean()) / strongest
    return judged(True, f"all channels, borders and pictures have influence; least: {weakest} ({ratio:.2g})")


def only_the_output_learns(bench: Bench) -> Outcome:
    """Neither the loss's own network nor the inputs are changed: no parameter of it gets a gradient."""
    module = copy.deepcopy(bench.module)
    sr, hr = bench.sr.clone().requires_grad_(), bench.hr.clone()
    kept_sr, kept_hr = sr.detach().clone(), hr.clone()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    call_of(module)(sr, hr).backward()
    trained = [name for name, p in module.named_parameters() if p.grad is not None]
    moved = [name for name, value in module.state_dict().items() if not torch.equal(value, state[name])]
    changed = [n for n, a, b in (("sr", sr, kept_sr), ("hr", hr, kept_hr)) if not torch.equal(a.detach(), b)]
    faults = [
        *(f"parameter {name} gets a gradient" for name in trained[:3]),
        *(f"{name} is changed by the call" for name in moved[:3]),
        *(f"{name} is changed in place" for name in changed),
    ]
    return judged(
        not faults, "; ".join(faults) or "inputs unchanged, no parameter or buffer of the loss touched"
    )
