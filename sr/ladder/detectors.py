"""What goes wrong in a stage, as its ledger shows: pure functions of rows, so that a resumed trial finds the same."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sr.ladder.config import Remedies
from sr.losses import LOSSES
from sr.losses.adversarial import AdversarialLoss
from sr.metrics import METRICS

Row = Mapping[str, Any]

PERCEPTUAL = "val/perceptual"
AUC = "val/auc_discriminator"
AUC_FRESH = "val/auc_fresh"
LR_PSNR = "val/lr_psnr"

R1_GAMMA = 10.0
"""Of the remedy `r1`."""

_SURE_AUC = 0.995
_SMALL_SHARE = 0.01
_CHANCE = (0.45, 0.55)
_TELLING_AUC = 0.8
_FALL = 0.01
_DRIFT = 100.0


class Failure(StrEnum):
    """What the detectors look for."""

    TOO_STRONG = "too_strong"
    """The discriminator is always right, and the generator no longer learns from it."""
    COLLAPSED = "collapsed"
    """The discriminator guesses where a fresh one would know."""
    SCALE_DRIFT = "scale_drift"
    """The factors that make perceptual terms comparable have moved far apart between stages."""
    LR_INCONSISTENT = "lr_inconsistent"
    """The output, shrunk again, is not the input."""
    LOSS_HACKING = "loss_hacking"
    """The perceptual loss gets better while the metrics get worse: the method's own risk."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A failure in a stage, and what is done about it."""

    failure: Failure
    step: int
    """Of the validation that showed it."""
    remedy: str
    """The configured one, a value in `Remedies`; "none"."""
    message: str
    """For a researcher, with the numbers."""


def find(
    validations: Sequence[Row], trains: Sequence[Row], remedies: Remedies, *, quality: str
) -> list[Finding]:
    """All that went wrong in a stage up to its newest validation, in order, each failure once.

    What was found stays found: of fewer rows this returns the beginning of what it returns of more.

    Args:
        validations: The stage's rows of kind `validation`, by step; in the pixel phase without `val/auc_discriminator`.
        trains: Its rows of kind `train`; those after a validation have no part in what that shows.
        remedies: What is configured.
        quality: Key of METRICS, measured as `val/NAME`: the stop rule's.
    """
    detectors: dict[Failure, Callable[[Sequence[Row]], Finding | None]] = {
        Failure.TOO_STRONG: lambda seen: _too_strong(seen, trains, remedies),
        Failure.COLLAPSED: lambda seen: _collapsed(seen, remedies),
        Failure.LR_INCONSISTENT: lambda seen: _lr_inconsistent(seen, remedies),
        Failure.LOSS_HACKING: lambda seen: _loss_hacking(seen, remedies.patience, quality),
    }
    found: dict[Failure, Finding] = {}
    for count in range(1, len(validations) + 1):
        for failure, detect in detectors.items():
            if failure not in found and (finding := detect(validations[:count])) is not None:
                found[failure] = finding
    return list(found.values())


def needs_fresh(validations: Sequence[Row], remedies: Remedies) -> bool:
    """Whether only a fresh classifier can tell if the discriminator has collapsed.

    So it is when the discriminator was near chance for `patience` validations in a row, none of which has an answer yet.
    A discriminator that stays there is asked about again after as many more; one that was found collapsed never again.

    Args:
        validations: The stage's rows so far and, last, that of the validation being made, with its AUC.
        remedies: What is configured.
    """
    last = _last(validations, remedies.patience)
    if not _all_near_chance(last) or any(math.isfinite(_number(row, AUC_FRESH)) for row in last):
        return False
    return not any(
        _collapsed(validations[:count], remedies) is not None for count in range(1, len(validations))
    )


def scale_drift(calibrations: Sequence[float]) -> Finding | None:
    """At the begin of a stage: whether its discriminator's features are of another size than the first one's.

    Args:
        calibrations: Factors of the perceptual term of stages 1, 2, ..., the newest last.
    """
    if not calibrations:
        return None
    first, newest = calibrations[0], calibrations[-1]
    if not all(math.isfinite(factor) and factor > 0 for factor in (first, newest)):
        return None
    if 1 / _DRIFT <= newest / first <= _DRIFT:
        return None
    message = (
        f"scale drift: the perceptual term's factor is {newest:.3g} in stage {len(calibrations)} and was {first:.3g} in "
        f"stage 1; the calibration makes up for it, but the discriminator's features have grown or faded, so consider "
        "adversarial.discriminator.norm: spectral or ladder.distance: unit"
    )
    return Finding(Failure.SCALE_DRIFT, 0, "none", message)


def _too_strong(validations: Sequence[Row], trains: Sequence[Row], remedies: Remedies) -> Finding | None:
    last = _last(validations, remedies.patience)
    aucs = [_number(row, AUC) for row in last]
    if not last or not all(auc > _SURE_AUC for auc in aucs):
        return None
    step = last[-1]["step"]
    share = _adversarial_share(trains, first=last[0]["step"], last=step)
    # Also false where it is NaN: nothing is known of the gradient.
    if not share < _SMALL_SHARE:
        return None
    message = (
        f"discriminator too strong: AUC above {_SURE_AUC:g} in {_times(len(last))} (least {min(aucs):.4f}), and its share "
        f"of the gradient is {share:.2%}; {_DONE[remedies.too_strong]}"
    )
    return Finding(Failure.TOO_STRONG, step, remedies.too_strong, message)


def _collapsed(validations: Sequence[Row], remedies: Remedies) -> Finding | None:
    last = _last(validations, remedies.patience)
    if not _all_near_chance(last):
        return None
    measured = [value for row in last if math.isfinite(value := _number(row, AUC_FRESH))]
    if not measured or not measured[-1] > _TELLING_AUC:
        return None
    message = (
        f"discriminator collapsed: AUC within 0.05 of chance in {_times(len(last))} (now {_number(last[-1], AUC):.3f}), "
        f"while a fresh classifier reaches {measured[-1]:.3f}; {_DONE[remedies.collapsed]}"
    )
    return Finding(Failure.COLLAPSED, last[-1]["step"], remedies.collapsed, message)


def _lr_inconsistent(validations: Sequence[Row], remedies: Remedies) -> Finding | None:
    last = _last(validations, remedies.patience)
    values = [_number(row, LR_PSNR) for row in last]
    if not last or not all(value < remedies.least_lr_psnr for value in values):
        return None
    remedy = remedies.lr_inconsistent
    done = _DONE[remedy] + (f" of weight {remedies.consistency_weight:g}" if remedy == "consistency" else "")
    message = (
        f"LR inconsistent: the output, shrunk again, misses the input by an LR-PSNR below {remedies.least_lr_psnr:g} dB in "
        f"{_times(len(last))} (now {values[-1]:.2f} dB); {done}"
    )
    return Finding(Failure.LR_INCONSISTENT, last[-1]["step"], remedy, message)


def _loss_hacking(validations: Sequence[Row], patience: int, quality: str) -> Finding | None:
    before, last = validations[-2 * patience : -patience], validations[-patience:]
    if len(before) < patience:
        return None
    was, now = _median(before, PERCEPTUAL), _median(last, PERCEPTUAL)
    if not now < (1 - _FALL) * was or not _is_worse(before, last, quality):
        return None
    others = [
        name
        for name in METRICS
        if name != quality and _is_full_reference(name) and _is_measured(validations, name)
    ]
    worse = [name for name in others if _is_worse(before, last, name)]
    if others and 2 * len(worse) <= len(others):
        return None
    told = ", ".join(
        f"{METRICS[name].label} {_median(before, f'val/{name}'):.4g} -> {_median(last, f'val/{name}'):.4g}"
        for name in (quality, *worse)
    )
    message = (
        f"loss hacking: the perceptual loss fell by {1 - now / was:.1%} over the last {_times(patience)} while metrics got "
        f"worse ({told}); nothing is done, it is a risk of the method: lower ladder.weight, or stop at the stage before"
    )
    return Finding(Failure.LOSS_HACKING, last[-1]["step"], "none", message)


_DONE: Mapping[str, str] = {
    "none": "nothing is done, for ladder.remedies names no remedy",
    "r1": f"from here on its gradient at real pictures is penalised (R1, gamma at least {R1_GAMMA:g})",
    "update_ratio": "from here on it learns half as often",
    "spectral_norm": "from the next stage on it has spectral norm",
    "restart": "it begins again with new weights",
    "consistency": "from here on the loss has a term lr_consistency",
}


def _times(count: int) -> str:
    return "1 validation" if count == 1 else f"{count} validations"


def _number(row: Row, key: str) -> float:
    """A value of a row; NaN, which no comparison holds for, where there is none."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def _last(validations: Sequence[Row], count: int) -> Sequence[Row]:
    """The newest `count` rows; nothing where there are fewer."""
    return validations[-count:] if len(validations) >= count else []


def _all_near_chance(rows: Sequence[Row]) -> bool:
    low, high = _CHANCE
    return bool(rows) and all(low <= _number(row, AUC) <= high for row in rows)


def _adversarial_share(trains: Sequence[Row], *, first: int, last: int) -> float:
    """Mean share of the gradient that adversarial terms had from one step to another; NaN if nothing is known.

    Where no row lies between, as with few rows and a patience of 1, it is that of the newest row before.
    """
    shares = [
        (row["step"], sum(_number(term, "gradient_share") for term in played))
        for row in trains
        if row["step"] <= last and (played := [term for name, term in row["terms"].items() if _is_game(name)])
    ]
    between = [share for step, share in shares if step >= first] or [share for _, share in shares[-1:]]
    finite = [share for share in between if math.isfinite(share)]
    return statistics.fmean(finite) if finite else math.nan


def _is_game(name: str) -> bool:
    """Whether a term of the ledger is an adversarial loss; a second one of a type has a number behind its name."""
    entry = LOSSES.get(name) or LOSSES.get(re.sub(r"_\d+$", "", name))
    return isinstance(entry, type) and issubclass(entry, AdversarialLoss)


def _is_full_reference(name: str) -> bool:
    """Whether a metric compares with HR: LR-PSNR, which does not, rises and falls for reasons of its own."""
    return name != "lr_psnr"


def _is_measured(validations: Sequence[Row], name: str) -> bool:
    return f"val/{name}" in validations[-1]


def _median(rows: Sequence[Row], key: str) -> float:
    """NaN if one of the values is not finite: half a window says nothing."""
    values = [_number(row, key) for row in rows]
    return statistics.median(values) if all(map(math.isfinite, values)) else math.nan


def _is_worse(before: Sequence[Row], last: Sequence[Row], name: str) -> bool:
    """Whether the median of a metric got worse; false where it is not known."""
    was, now = _median(before, f"val/{name}"), _median(last, f"val/{name}")
    goodness = METRICS[name].goodness
    return goodness(now) < goodness(was)
