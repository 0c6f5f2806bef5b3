"""Are the numbers right? Precision, NaN, known values."""

from __future__ import annotations

import math

import torch

from sr.checks.bench import Bench
from sr.checks.known import Known
from sr.checks.known_values import known_values
from sr.checks.results import Outcome, judged, not_run
from sr.losses.criterion import Criterion

_SINGLE_TOLERANCE = 3e-4
_BF16_TOLERANCE = 0.2
_WEIGHT = 0.5
"""Not 1, which would hide a weight that counts twice."""


def single_precision_is_enough(bench: Bench) -> Outcome:
    """float32 against float64 on the same pictures; and with the output rounded to bfloat16, as autocast gives it."""
    try:
        with torch.no_grad():
            exact = float(bench.double(bench.sr.double(), bench.hr.double()))
    except RuntimeError as error:
        return not_run(f"not computable in float64 ({error})")
    rounded = bench.value(bench.sr.bfloat16().float())
    single, coarse = (abs(value - exact) / max(abs(exact), 1e-12) for value in (bench.at_sr, rounded))
    good = math.isfinite(rounded) and single < _SINGLE_TOLERANCE and coarse < _BF16_TOLERANCE
    return judged(
        good,
        f"float32 is {single:.1e} off float64 (tolerance {_SINGLE_TOLERANCE:g}), a bfloat16 output {coarse:.1e}",
        float32=single,
        bfloat16=coarse,
    )


def stays_single_under_autocast(bench: Bench) -> Outcome:
    """Within the criterion, weighted, bfloat16 autocast around it changes nothing."""
    criterion, views = Criterion({"term": bench.module}, [_WEIGHT]), bench.views()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        cast = criterion(views)[0] / _WEIGHT
    good = cast.dtype == torch.float32 and math.isclose(float(cast), bench.at_sr, rel_tol=1e-5, abs_tol=1e-8)
    return judged(
        good, f"{bench.at_sr:.6g}, in the criterion under bfloat16 autocast {float(cast):.6g} ({cast.dtype})"
    )


def nan_in_the_output(bench: Bench) -> Outcome:
    """One NaN in the output makes the value NaN, or an error; never a number to train on."""
    return _nan(bench, "output")


def nan_in_the_target(bench: Bench) -> Outcome:
    """One NaN in the target makes the value NaN, or an error: it is damaged data."""
    return _nan(bench, "target")


def _nan(bench: Bench, side: str) -> Outcome:
    places = {"first pixel": (0, 0), "middle": (bench.hr.shape[-2] // 2, bench.hr.shape[-1] // 2)}
    swallowed = []
    for place, (y, x) in places.items():
        sr, hr = bench.sr.clone(), bench.hr.clone()
        (sr if side == "output" else hr)[..., 1, y, x] = float("nan")
        try:
            value = bench.value(sr, hr)
        except (ValueError, RuntimeError, FloatingPointError):
            continue
        if not math.isnan(value):
            swallowed.append(f"{place}: {value:.3g}")
    if swallowed:
        return judged(False, f"a NaN in the {side} gives a number ({'; '.join(swallowed)})")
    return judged(True, f"a NaN in the {side} makes the value NaN, or an error")


def has_its_known_values(bench: Bench) -> Outcome:
    """Against formulas worked out by hand, and against independent implementations."""
    try:
        values = known_values(bench)
    except ImportError as error:
        return not_run(f"the implementation to compare with is not installed ({error})")
    if not values:
        what = "" if bench.has_defaults else " with these settings"
        return not_run(f"no known value is written down for it{what}; add one to sr/checks/known_values.py")
    wrong = [v for v in values if not _agrees(v)]
    shown = wrong or values
    text = "; ".join(f"{v.what}: {v.got:.6g}, expected {v.expected:.6g}" for v in shown)
    return judged(not wrong, text, **{v.what: v.got for v in values})


def _agrees(value: Known) -> bool:
    # Only zero has no relative tolerance; a loss may be tiny by nature, as Gram matrices are.
    slack = 1e-7 if value.expected == 0 else 0.0
    return math.isclose(value.got, value.expected, rel_tol=value.tolerance, abs_tol=slack)
