"""The weighted sum of a trial's terms, calibrated and accounted for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.features.network import FeatureNetwork, Features, Weights
from sr.losses.adversarial import AdversarialLoss, FeatureMatching
from sr.losses.term import FeatureLoss, Term, Views, as_frames

Mean = Callable[[Tensor], Tensor]


def _own(values: Tensor) -> Tensor:
    """The average over ranks where there is one."""
    return values.detach()


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
    """A weighted list of terms: what the generator minimises.

    Terms on one feature network share its activations, which are computed once, those of the target without a graph.
    """

    def __init__(
        self,
        terms: Mapping[str, nn.Module],
        weights: Sequence[float],
        given_calibration: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(zip(terms, weights, strict=True))
        self._given = dict(given_calibration or {})
        self.calibration = dict.fromkeys(terms, 1.0) | self._given
        self.adversarial_weight = 1.0
        """Factor of all terms that look through the live discriminator: 0 before it plays, rising to 1."""

    @property
    def game(self) -> AdversarialLoss | None:
        """The term that says which game generator and discriminator play."""
        games = [term for term in self.terms.values() if isinstance(term, AdversarialLoss)]
        return games[0] if games else None

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Views` that some term asks for."""
        return frozenset(name for term in self.terms.values() for name in _needs(term))

    @property
    def perceptual(self) -> tuple[str, ...]:
        """Names of the terms that look through a frozen network."""
        return tuple(name for name, term in self.terms.items() if isinstance(term, FeatureLoss))

    @property
    def feature_weights(self) -> dict[str, Weights]:
        """Which weights each term looks through, for those that look through a network."""
        found = {
            name: term.network.weights if isinstance(term, FeatureLoss) else getattr(term, "weights", None)
            for name, term in self.terms.items()
        }
        return {name: weights for name, weights in found.items() if isinstance(weights, Weights)}

    def factor(self, name: str) -> float:
        """What the raw value of a term is multiplied with."""
        live = self.adversarial_weight if _is_adversarial(self.terms[name]) else 1.0
        return live * self.calibration[name] * self.weights[name]

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and the raw value of each term, all scalars in float32.

        While `adversarial_weight` is 0, adversarial terms are left out of both.
        """
        names = [
            name for name, term in self.terms.items() if self.adversarial_weight or not _is_adversarial(term)
        ]
        raw = self.values(views, names)
        return torch.stack([self.factor(name) * value for name, value in raw.items()]).sum(), raw

    def values(self, views: Views, names: Iterable[str]) -> dict[str, Tensor]:
        """The raw values of these terms."""
        with torch.autocast(views.sr.device.type, enabled=False):
            views = _in_float32(views)
            terms = {name: self.terms[name] for name in names}
            features = _shared_features(views, terms.values())
            return {name: _value(term, views, features) for name, term in terms.items()}

    def calibrate(self, views: Views, *, mean: Mean = _own) -> None:
        """Sets each term's calibration so that its gradient RMS at `views.sr` equals that of L1.

        Terms that look through the live discriminator keep 1: what it will become is not known here. A calibration that
        was given stays.

        Args:
            views: A fixed batch, or this rank's part of one; `sr` is its bicubic enlargement, in [0, 1].
            mean: Averages over ranks.

        Raises:
            ValueError: A term has no gradient there, or not a finite one.
        """
        sr = views.sr.detach().float().requires_grad_()
        views = dataclasses.replace(views, sr=sr)
        (gradient,) = torch.autograd.grad(F.l1_loss(sr, views.hr.float()), sr)
        names = [
            name
            for name, term in self.terms.items()
            if getattr(term, "calibrated", True) and name not in self._given
        ]
        with torch.enable_grad():
            raw = self.values(views, names)
        gradients = [gradient, *(_gradient(value, sr) for value in raw.values())]
        reference, *others = mean(torch.stack([g.square().mean() for g in gradients])).sqrt().tolist()
        for name, rms in zip(raw, others, strict=True):
            if not 0 < rms < float("inf"):
                raise ValueError(
                    f"loss term '{name}': gradient RMS at the bicubic output is {rms}, so it cannot be calibrated; "
                    "set loss.calibrate=false, or remove the term"
                )
            self.calibration[name] = reference / rms

    def observe(self, views: Views, raw: Mapping[str, Tensor]) -> Tensor:
        """What `account` needs to know of a part of a batch; costs a backward pass of each term, and leaves the graph.

        Args:
            views: What `forward` was called with; `sr` is part of the graph.
            raw: What it returned.

        Returns:
            float64 on the CPU, shape (2, terms): raw values, and squared norms of weighted gradients at `sr`. Both may be
            averaged over the parts of a batch.
        """
        squares = [norm**2 for norm in self.gradient_norms(views, raw).values()]
        return torch.tensor([[value.item() for value in raw.values()], squares], dtype=torch.float64)

    def account(self, names: Iterable[str], observed: Tensor) -> dict[str, TermValue]:
        """Value and gradient share of each term, from what was observed, in the order of the names."""
        values, norms = observed[0].tolist(), observed[1].sqrt().tolist()
        total = sum(norms)
        return {
            name: TermValue(value, self.factor(name) * value, norm / total if total > 0 else 0.0)
            for name, value, norm in zip(names, values, norms, strict=True)
        }

    def gradient_norms(self, views: Views, raw: Mapping[str, Tensor]) -> dict[str, float]:
        """Norm of each term's weighted gradient at the output; NaN tells which term broke."""
        return {
            name: abs(self.factor(name)) * _gradient(value, views.sr).float().norm().item()
            for name, value in raw.items()
        }


def _is_adversarial(term: nn.Module) -> bool:
    return isinstance(term, AdversarialLoss | FeatureMatching)


def _needs(term: nn.Module) -> tuple[str, ...]:
    return term.needs if isinstance(term, Term) else ()


def _value(term: nn.Module, views: Views, features: Mapping[int, tuple[Features, Features]]) -> Tensor:
    if isinstance(term, FeatureLoss):
        return term.compare(*features[id(term.network)])
    given = {name: getattr(views, name) for name in _needs(term)}
    absent = [name for name, value in given.items() if value is None]
    assert not absent, f"{type(term).__name__} needs {absent}, which the caller did not provide"
    return term(views.sr, views.hr, **given)


def _shared_features(views: Views, terms: Iterable[nn.Module]) -> dict[int, tuple[Features, Features]]:
    """Activations of SR and HR by identity of the network, at all taps that any term on it asks for."""
    wanted: dict[int, tuple[FeatureNetwork, set[str]]] = {}
    for term in terms:
        if isinstance(term, FeatureLoss):
            wanted.setdefault(id(term.network), (term.network, set()))[1].update(term.taps)
    features: dict[int, tuple[Features, Features]] = {}
    for key, (network, taps) in wanted.items():
        in_order = tuple(tap for tap in network.tap_names if tap in taps)
        with torch.no_grad():
            target = network(as_frames(views.hr), in_order)
        features[key] = network(as_frames(views.sr), in_order), target
    return features


def _in_float32(views: Views) -> Views:
    def cast(value: Tensor | Features | None) -> Tensor | Features | None:
        if isinstance(value, dict):
            return {name: tensor.float() for name, tensor in value.items()}
        return None if value is None else value.float()

    return Views(**{field.name: cast(getattr(views, field.name)) for field in dataclasses.fields(views)})  # type: ignore[arg-type]


def _gradient(value: Tensor, output: Tensor) -> Tensor:
    """Gradient at the output, zero where the value does not depend on it; the graph stays."""
    if not value.requires_grad:
        return torch.zeros_like(output)
    (gradient,) = torch.autograd.grad(value, output, retain_graph=True, materialize_grads=True)
    return gradient
