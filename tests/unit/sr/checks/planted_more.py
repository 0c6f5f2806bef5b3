"""More bugs: what a second look found that the first checks let through, or that nobody had tried on them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.losses.adversarial import GanRelativistic, GanWasserstein
from sr.losses.gradient import Sobel
from sr.losses.term import as_frames
from sr.similarity import ssim_map
from tests.unit.sr.checks.planted import Written

_BT709 = (0.2126, 0.7152, 0.0722)


def _l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def _luma(x: Tensor, weights: tuple[float, float, float]) -> Tensor:
    return (x * x.new_tensor(weights).view(3, 1, 1)).sum(-3)


def _reduced(side: int) -> Callable[[], nn.Module]:
    return lambda: Written(lambda s, h: _l1(*(F.avg_pool2d(as_frames(x), side) for x in (s, h))))


def _edge_weights(h: Tensor, *, aside: bool) -> Tensor:
    """Weights by the steps to both neighbours, or to the left one only."""
    step = h.diff(dim=-1).abs()
    left, right = F.pad(step, (1, 0)), F.pad(step, (0, 1))
    return 0.1 + (left if aside else left + right)


def _sloped(s: Tensor, h: Tensor) -> Tensor:
    return ((s - h).abs() * torch.linspace(0.5, 1.5, s.shape[-1], dtype=s.dtype)).mean()


def _angle(s: Tensor, h: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(s, h, dim=-3, eps=1e-3)).mean()


def _angle_of_neighbours(s: Tensor, h: Tensor) -> Tensor:
    # A view where a permutation was meant: three pixels of one channel are taken for one of three channels.
    a, b = (x.reshape(-1, 3) + 1e-3 for x in (s, h))
    return (1 - F.cosine_similarity(a, b, dim=1)).mean() + 0.1 * _l1(s, h)


def _every_other_row_learns(s: Tensor, h: Tensor) -> Tensor:
    mask = torch.zeros_like(s)
    mask[..., ::2, :] = 1
    return _l1(s * mask + (s * (1 - mask)).detach(), h)


def _counts_twice_from_the_second_on(s: Tensor, h: Tensor) -> Tensor:
    if len(s) == 1:
        return _l1(s, h)
    return _l1(s, h) + _l1(s[1:], h[1:]) - _l1(s[1:].detach(), h[1:])


def _takes_a_thread(s: Tensor, h: Tensor) -> Tensor:
    value = _l1(s, h)
    torch.set_num_threads(torch.get_num_threads() % 3 + 1)
    return value


class Angle(Written):
    """A right loss that says what it does not promise."""

    exempt = {"range": "an angle has no scale"}  # noqa: RUF012 - as a newcomer writes it

    def __init__(self) -> None:
        super().__init__(_angle)


class _OfClips(nn.Module):
    def forward(self, s: Tensor, h: Tensor) -> Tensor:
        if s.ndim != 5:
            raise ValueError("needs clips")
        return self.of_changes((s.diff(dim=1) - h.diff(dim=1)).abs())

    def of_changes(self, off: Tensor) -> Tensor:
        return off.mean()


class SummedOverTime(_OfClips):
    def of_changes(self, off: Tensor) -> Tensor:
        return off.mean((0, 2, 3, 4)).sum()


class LastFrameCountsMore(_OfClips):
    def of_changes(self, off: Tensor) -> Tensor:
        return (off.mean() + 5 * off[:, -1].mean()) / 6


class PenaltyWithoutGraph(GanWasserstein):
    def penalty(self, discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        return super().penalty(discriminator, fake, real).detach()


class PenaltyOfEachPixel(GanWasserstein):
    def penalty(self, discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        between = ((fake + real) / 2).detach().requires_grad_()
        logits, _ = discriminator(between)
        (gradient,) = torch.autograd.grad(logits.sum(), between, create_graph=True)
        return self.gradient_penalty * (gradient.norm(dim=1) - 1).square().mean()


class PenaltySummed(GanWasserstein):
    def penalty(self, discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        return len(real) * super().penalty(discriminator, fake, real)


class RelativisticByHalf(GanRelativistic):
    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(fake - real.mean(), torch.ones_like(fake))


RIGHT_TOO: dict[str, Callable[[], nn.Module]] = {
    "edge weights": lambda: Written(lambda s, h: ((s - h).abs() * _edge_weights(h, aside=False)).mean()),
    "squared luma": lambda: Written(lambda s, h: _luma(s - h, (0.299, 0.587, 0.114)).square().mean()),
    "grey": lambda: Written(lambda s, h: _l1(s.mean(-3), h.mean(-3))),
    "angle": Angle,
    "clips": _OfClips,
}

STILL_MORE: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "half resolution": (_reduced(2), "", "fine patterns"),
    "means of blocks": (_reduced(4), "", "fine patterns"),
    "every other pixel": (
        lambda: Written(lambda s, h: _l1(s[..., ::2, ::2], h[..., ::2, ::2])),
        "",
        "mirror images",
    ),
    "blind to a checkerboard": (Sobel, "", "fine patterns"),
    "most of the batch": (
        lambda: Written(lambda s, h: (s - h).abs().flatten(1).mean(1).max()),
        "",
        "batch is the mean",
    ),
    "worst pixel": (
        lambda: Written(lambda s, h: (s - h).abs().flatten(1).amax(1).mean()),
        "",
        "every pixel counts",
    ),
    "one pixel aside": (lambda: Written(lambda s, h: _l1(s.roll(-1, -2), h)), "", "mirror images"),
    "weights one pixel aside": (
        lambda: Written(lambda s, h: ((s - h).abs() * _edge_weights(h, aside=True)).mean()),
        "",
        "mirror images",
    ),
    "right side counts more": (lambda: Written(_sloped), "", "mirror images"),
    "view for a permutation": (lambda: Written(_angle_of_neighbours), "", "mirror images"),
    "bare root": (lambda: Written(lambda s, h: (s - h).square().sqrt().mean()), "", "finite in hard cases"),
    "every other row learns": (lambda: Written(_every_other_row_learns), "", "finite differences"),
    "gradient of all but the first twice": (
        lambda: Written(_counts_twice_from_the_second_on),
        "",
        "finite differences",
    ),
    "one of two terms detached": (
        lambda: Written(lambda s, h: _l1(s, h) + 1 - ssim_map(s.detach(), h).mean()),
        "",
        "finite differences",
    ),
    "summed over time": (
        lambda: Written(lambda s, h: _l1(s, h) * (s.shape[1] if s.ndim == 5 else 1)),
        "",
        "clips are pictures",
    ),
    "clips summed over time": (SummedOverTime, "", "clip length"),
    "last frame counts more": (LastFrameCountsMore, "", "clip length"),
    "luma of BT.709": (
        lambda: Written(lambda s, h: _l1(_luma(s, _BT709), _luma(h, _BT709))),
        "",
        "channel order",
    ),
    "squared luma of BT.709": (
        lambda: Written(lambda s, h: _luma(s - h, _BT709).square().mean()),
        "",
        "channel order",
    ),
    "sign of blue": (
        lambda: Written(lambda s, h: ((s - h).abs() * s.new_tensor((1, 1, -0.3)).view(3, 1, 1)).mean()),
        "",
        "channel order",
    ),
    "range of the target": (
        lambda: Written(lambda s, h: _l1(s, h) / (h.amax() - h.amin() + 1e-6)),
        "",
        "range",
    ),
    "order in the batch": (
        lambda: Written(
            lambda s, h: (torch.arange(len(s)).to(s) @ (s - h).abs().flatten(1).mean(1)) / sum(range(len(s)))
        ),
        "",
        "batch is the mean",
    ),
    "dropout": (lambda: Written(lambda s, h: F.dropout((s - h).abs(), 0.1).mean()), "", "deterministic"),
    "log of less than zero": (
        lambda: Written(lambda s, h: _l1((s + 0.1).log(), (h + 0.1).log())),
        "",
        "gradient beyond [0, 1]",
    ),
    "log of black": (
        lambda: Written(lambda s, h: _l1(s.clamp(min=0).log(), h.log())),
        "",
        "finite in hard cases",
    ),
    "black and white left out": (
        lambda: Written(lambda s, h: ((s - h).abs() * ((h > 0.1) & (h < 0.9))).mean()),
        "",
        "dark and bright",
    ),
    "dead zone": (lambda: Written(lambda s, h: F.relu((s - h).abs() - 0.01).mean()), "", "faint errors"),
    "rounded to bytes": (
        lambda: Written(lambda s, h: _l1(s + ((255 * s).round() / 255 - s).detach(), h)),
        "",
        "finite differences",
    ),
    "global state": (lambda: Written(_takes_a_thread), "", "deterministic"),
    "penalty without graph": (PenaltyWithoutGraph, "gan_wgan", "discriminator's penalty"),
    "penalty summed": (PenaltySummed, "gan_wgan", "discriminator's penalty"),
    "penalty of each pixel": (PenaltyOfEachPixel, "gan_wgan", "known values"),
    "relativistic by half": (RelativisticByHalf, "gan_ragan", "known values"),
}
"""Name of the bug: how the loss is made, what it claims to be, and the check that must catch it."""
