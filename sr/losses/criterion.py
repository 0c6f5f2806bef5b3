"""The weighted sum of a trial's terms, calibrated and accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class TermValue:
    """One term's part in one step, as the ledger records it."""

    raw: float
    """What the term's module returned."""
    weighted: float
    """raw * calibration * weight: its part of the loss."""
    gradient_share: float
    """Norm of its weighted gradient at the output, as a fraction of the sum of all terms' norms."""


class Criterion(nn.Module):
    """A weighted list of terms; the features of the target are for terms to share, the sum is for the generator."""

    def __init__(self, terms: Mapping[str, nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(zip(terms, weights, strict=True))
        self.calibration = dict.fromkeys(terms, 1.0)

    def factor(self, name: str) -> float:
        """What the raw value of a term is multiplied with."""
        return self.calibration[name] * self.weights[name]

    def forward(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and the raw value of each term, all scalars in float32.

        Args:
            sr: Output of the generator, shape (B, C, H, W) or (B, T, C, H, W), not clipped.
            hr: Target in [0, 1], same shape.
        """
        with torch.autocast(sr.device.type, enabled=False):
            raw = {name: term(sr.float(), hr.float()) for name, term in self.terms.items()}
            total = torch.stack([self.factor(name) * value for name, value in raw.items()]).sum()
        return total, raw

    def calibrate(self, baseline: Tensor, hr: Tensor) -> None:
        """Sets each term's calibration so that its gradient RMS at `baseline` equals that of L1.

        Args:
            baseline: Bicubic enlargement of a fixed batch, in [0, 1], same shape as `hr`.
            hr: The target.

        Raises:
            ValueError: A term has no gradient there, or not a finite one.
        """
        reference = _gradient(F.l1_loss, baseline, hr).square().mean().sqrt().item()
        for name, term in self.terms.items():
            rms = _gradient(term, baseline, hr).square().mean().sqrt().item()
            if not 0 < rms < float("inf"):
                raise ValueError(
                    f"loss term '{name}': gradient RMS at the bicubic output is {rms}, so it cannot be calibrated; "
                    "set loss.calibrate=false, or remove the term"
                )
            self.calibration[name] = reference / rms

    def account(self, sr: Tensor, hr: Tensor) -> dict[str, TermValue]:
        """Value and gradient share of each term at this output; costs one backward pass of the terms."""
        values = {name: float(term(sr.detach(), hr)) for name, term in self.terms.items()}
        norms = {name: self.gradient_norm(name, sr, hr) for name in self.terms}
        total = sum(norms.values())
        return {
            name: TermValue(raw, self.factor(name) * raw, norms[name] / total if total > 0 else 0.0)
            for name, raw in values.items()
        }

    def gradient_norm(self, name: str, sr: Tensor, hr: Tensor) -> float:
        """Norm of one term's weighted gradient at the output; NaN tells which term broke."""
        return abs(self.factor(name)) * _gradient(self.terms[name], sr, hr).norm().item()


def _gradient(term: Callable[[Tensor, Tensor], Tensor], sr: Tensor, hr: Tensor) -> Tensor:
    output = sr.detach().float().requires_grad_()
    with torch.enable_grad(), torch.autocast(sr.device.type, enabled=False):
        return torch.autograd.grad(term(output, hr), output)[0]
