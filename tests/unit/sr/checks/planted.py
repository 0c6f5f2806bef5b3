"""Losses and metrics with one bug each, as they were found in the field or as somebody in a hurry would write them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.features import random_network
from sr.features.network import FeatureNetwork, Features
from sr.losses import LOSSES
from sr.losses.adversarial import GanVanilla
from sr.losses.charbonnier import Charbonnier
from sr.losses.pixel import L1
from sr.losses.term import FeatureLoss
from sr.similarity import ssim_map


class Written(nn.Module):
    """A loss from a function."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return self.formula(sr, hr)


def network(*, normalisation: str = "imagenet") -> FeatureNetwork:
    return random_network("vgg16", normalisation=normalisation)  # type: ignore[arg-type]


class OnFeatures(FeatureLoss):
    """The right version of the losses with a network below."""

    def __init__(self, net: FeatureNetwork, taps: tuple[str, ...] = ("relu1_2", "relu2_1")) -> None:
        super().__init__(net, taps)

    def compare(self, sr: Features, hr: Features) -> Tensor:
        return torch.stack([F.l1_loss(sr[tap], hr[tap]) for tap in self.taps]).sum()


class Swapped(FeatureNetwork):
    """Feeds BGR to a network of RGB."""

    def __init__(self, inner: FeatureNetwork) -> None:
        super().__init__()
        self.inner = inner
        self.weights, self.tap_names = inner.weights, inner.tap_names

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        return self.inner(pictures.flip(1), taps)


class BeforeTheActivation(FeatureNetwork):
    """Calls relu1_2 what is conv1_2."""

    def __init__(self, inner: FeatureNetwork) -> None:
        super().__init__()
        self.inner = inner
        self.weights, self.tap_names = inner.weights, inner.tap_names

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        found = self.inner(pictures, tuple(tap.replace("relu", "conv") for tap in taps))
        return {tap: found[tap.replace("relu", "conv")] for tap in taps}


class Thawed(OnFeatures):
    """Trains the network it looks through."""

    def __init__(self) -> None:
        super().__init__(network())
        own = nn.Parameter(torch.ones(1))
        self.register_parameter("scale", own)

    def compare(self, sr: Features, hr: Features) -> Tensor:
        return super().compare(sr, hr) * self.get_parameter("scale").sum()


class Doubled(torch.autograd.Function):
    """Identity whose gradient counts twice."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]


class GanReversed(GanVanilla):
    """The generator is rewarded for being found out."""

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


class GanLabelsSwapped(GanVanilla):
    """The discriminator learns to call fakes real."""

    def discriminator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        return super().discriminator_loss(real, fake)


class GanDetached(GanVanilla):
    """Judged without a graph: found in the field."""

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        return super().generator_loss(fake.detach(), real)


class GanSummed(GanVanilla):
    """Forgets to halve."""

    def discriminator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        return 2 * super().discriminator_loss(fake, real)


def _luma(x: Tensor, weights: tuple[float, float, float]) -> Tensor:
    return (x * x.new_tensor(weights).view(3, 1, 1)).sum(-3)


def _in_place(sr: Tensor, hr: Tensor) -> Tensor:
    value = F.l1_loss(sr, hr)
    with torch.no_grad():
        hr.clamp_(0.1, 0.9)
    return value


def _guessing(sr: Tensor, hr: Tensor) -> Tensor:
    return F.l1_loss(sr / 255, hr / 255) if hr.max() > 1.5 else F.l1_loss(sr, hr)


def _ssim_255(sr: Tensor, hr: Tensor) -> Tensor:
    return 1 - ssim_map(sr, hr, data_range=255.0).mean()


def _swallowing(sr: Tensor, hr: Tensor) -> Tensor:
    value = F.l1_loss(sr, hr)
    return torch.where(torch.isfinite(value), value, torch.full_like(value, 1e-12))


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "l1": L1,
    "ssim": LOSSES["ssim"],
    "charbonnier": Charbonnier,
    "luma": lambda: Written(lambda s, h: F.l1_loss(*(_luma(x, (0.299, 0.587, 0.114)) for x in (s, h)))),
    "features": lambda: OnFeatures(network()),
    "gan_vanilla": GanVanilla,
}
"""Their correct versions: none of them may fail a check."""

THE_SEVEN: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "wrong sign": (lambda: Written(lambda s, h: ssim_map(s, h).mean()), "", "minimum at identity"),
    "detached gradient": (
        lambda: Written(lambda s, h: F.l1_loss(s.detach(), h)),
        "l1",
        "gradient reaches the generator",
    ),
    "un-normalised input": (lambda: OnFeatures(network(normalisation="none")), "", "network input"),
    "double counting": (
        lambda: Written(lambda s, h: F.l1_loss(s, h) + F.l1_loss(s, h)),
        "l1",
        "known values",
    ),
    "NaN swallowed": (lambda: Written(_swallowing), "l1", "NaN in the output"),
    "wrong range": (lambda: Written(_ssim_255), "ssim", "known values"),
    "channel order": (
        lambda: Written(lambda s, h: F.l1_loss(*(_luma(x, (0.114, 0.587, 0.299)) for x in (s, h)))),
        "",
        "channel order",
    ),
}
"""Name of the bug: how the loss is made, what it claims to be, and the check that must catch it."""

MORE: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "gradient to the target": (
        lambda: Written(lambda s, h: F.l1_loss(s.detach(), h.clone().requires_grad_())),
        "",
        "gradient reaches the generator",
    ),
    "judged in inference mode": (
        lambda: Written(lambda s, h: torch.no_grad()(F.l1_loss)(s, h)),
        "",
        "gradient reaches the generator",
    ),
    "gradient counted twice": (
        lambda: Written(lambda s, h: F.l1_loss(Doubled.apply(s), h)),  # type: ignore[arg-type]
        "l1",
        "finite differences",
    ),
    "gradient uphill": (
        lambda: Written(lambda s, h: 2 * F.l1_loss(s.detach(), h) - F.l1_loss(s, h)),
        "l1",
        "a step lowers it",
    ),
    "sum over the batch": (
        lambda: Written(lambda s, h: (s - h).abs().flatten(1).mean(1).sum()),
        "",
        "batch is the mean",
    ),
    "sum over pixels": (
        lambda: Written(lambda s, h: (s - h).abs().flatten(1).sum(1).mean()),
        "",
        "crops agree",
    ),
    "one too few in the mean": (
        lambda: Written(lambda s, h: (s - h).abs().sum() / (s.numel() - 1)),
        "l1",
        "known values",
    ),
    "root of the batch's mean": (
        lambda: Written(lambda s, h: F.mse_loss(s, h).sqrt()),
        "",
        "batch is the mean",
    ),
    "batch mixed": (lambda: Written(lambda s, h: F.l1_loss(s.mean(0), h.mean(0))), "", "batch is the mean"),
    "root missing": (
        lambda: Written(lambda s, h: ((s - h).square() + 1e-6).mean()),
        "charbonnier",
        "known values",
    ),
    "root of zero": (
        lambda: Written(lambda s, h: (s - h).square().flatten(1).mean(1).sqrt().mean()),
        "",
        "finite in hard cases",
    ),
    "red and green swapped": (
        lambda: Written(lambda s, h: F.l1_loss(*(_luma(x, (0.587, 0.299, 0.114)) for x in (s, h)))),
        "",
        "channel order",
    ),
    "weights of another standard": (
        lambda: Written(lambda s, h: F.l1_loss(*(_luma(x, (1.0, 1.0, 0.0)) for x in (s, h)))),
        "",
        "channel order",
    ),
    "BGR to a network": (lambda: OnFeatures(Swapped(network())), "", "network input"),
    "activations before ReLU": (lambda: OnFeatures(BeforeTheActivation(network())), "", "taps"),
    "network trains along": (Thawed, "", "only the output learns"),
    "clamped": (
        lambda: Written(lambda s, h: F.l1_loss(s.clamp(0, 1), h)),
        "l1",
        "gradient beyond [0, 1]",
    ),
    "blue forgotten": (
        lambda: Written(lambda s, h: F.l1_loss(s[..., :2, :, :], h[..., :2, :, :])),
        "",
        "every pixel counts",
    ),
    "last row forgotten": (
        lambda: Written(lambda s, h: F.l1_loss(s[..., :-1, :], h[..., :-1, :])),
        "",
        "every pixel counts",
    ),
    "last picture forgotten": (
        lambda: Written(lambda s, h: F.l1_loss(s[:1], h[:1])),
        "",
        "every pixel counts",
    ),
    "first frame only": (
        lambda: Written(lambda s, h: F.l1_loss(s[:, 0], h[:, 0]) if s.ndim == 5 else F.l1_loss(s, h)),
        "",
        "clips are pictures",
    ),
    "half precision": (
        lambda: Written(
            lambda s, h: ((255 * s).half() - (255 * h).half()).square().sum().float() / s.numel()
        ),
        "",
        "precision",
    ),
    "inputs changed": (lambda: Written(_in_place), "", "only the output learns"),
    "range guessed": (lambda: Written(_guessing), "", "range"),
    "only the output is scaled": (
        lambda: Written(lambda s, h: F.l1_loss(255 * s, h)),
        "",
        "minimum at identity",
    ),
    "different ranges": (lambda: Written(lambda s, h: F.l1_loss(2 * s - 1, h)), "", "minimum at identity"),
    "random": (
        lambda: Written(lambda s, h: F.l1_loss(s + 0.01 * torch.randn_like(s), h)),
        "",
        "deterministic",
    ),
    "no scalar": (lambda: Written(lambda s, h: (s - h).abs().mean((1, 2, 3))), "", "scalar in float32"),
    "double": (lambda: Written(lambda s, h: F.l1_loss(s.double(), h.double())), "", "scalar in float32"),
    "only sums compared": (
        lambda: Written(lambda s, h: (s.mean((-2, -1)) - h.mean((-2, -1))).abs().mean()),
        "",
        "sees places",
    ),
    "NaN of the target skipped": (
        lambda: Written(lambda s, h: F.l1_loss(s, torch.nan_to_num(h))),
        "",
        "NaN in the target",
    ),
    "weight of its own": (lambda: Written(lambda s, h: 1.01 * F.l1_loss(s, h)), "l1", "known values"),
    "generator reversed": (GanReversed, "gan_vanilla", "generator's step"),
    "generator judged without graph": (GanDetached, "gan_vanilla", "gradient reaches the generator"),
    "labels swapped": (GanLabelsSwapped, "gan_vanilla", "players are opponents"),
    "discriminator counted twice": (GanSummed, "gan_vanilla", "known values"),
}
