"""A loss on the test bench: called in one way whatever it needs, on pictures of a size it takes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.checks import distortions
from sr.checks.pictures import as_moving_clip, centre_crop
from sr.features.network import Features
from sr.losses.term import FeatureLoss, Views, as_frames
from sr.resize import bicubic

SIDES = (48, 96, 176)
"""Heights in pixels to try, until the loss takes the picture; the width is 16 more."""
_FRAMES = 3

Call = Callable[[Tensor, Tensor], Tensor]


class NotCheckableError(ValueError):
    """The loss needs something that the bench cannot supply."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a loss says about itself, so that no check asks of it what it does not promise.

    A class says it by attributes of its own: `is_local` and `exempt`; both may be left out.
    """

    is_local: bool = True
    """The mean over crops is about the value of the whole; false for Fourier losses and other global ones."""
    exempt: Mapping[str, str] = field(default_factory=dict)
    """Name of a check to the reason why it does not apply."""


def _downscaled(hr: Tensor, scale: int) -> Tensor:
    return bicubic(hr, height=hr.shape[-2] // scale, width=hr.shape[-1] // scale).to(hr)


def supplied(needs: tuple[str, ...], scale: int) -> dict[str, Callable[[Tensor, Tensor], Any]]:
    """Makes what a term asks for from the pair of pictures; the target stands for what was not distorted.

    Raises:
        NotCheckableError: It asks for something unknown.
    """
    known: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "lr": lambda _sr, hr: _downscaled(hr, scale),
        # On the way back the frames are right: what the loss sees is how far the way there is off.
        "sr_backward": lambda _sr, hr: hr,
        "fake_logits": lambda sr, _hr: critic_for(sr)(sr),
        "real_logits": lambda _sr, hr: critic_for(hr)(hr),
        "fake_features": lambda sr, _hr: critic_for(sr).features(sr),
        "real_features": lambda _sr, hr: critic_for(hr).features(hr),
    }
    missing = [name for name in needs if name not in known]
    if missing:
        raise NotCheckableError(f"it needs {', '.join(missing)}, which the checks cannot supply")
    return {name: known[name] for name in needs}


class Critic(nn.Module):
    """A small discriminator, the same in every process: frames to a map of logits, or to its hidden features."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 12, 16)
        self.layers = nn.ModuleList(
            nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in itertools.pairwise(widths)
        )
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)
        seeded(self, gain=1.5)

    def features(self, pictures: Tensor) -> Features:
        """Activations of the hidden layers, shallow first."""
        x = as_frames(pictures) - 0.45
        out: Features = {}
        for number, layer in enumerate(self.layers):
            x = F.leaky_relu(layer(x), 0.2)
            out[f"hidden{number}"] = x
        return out

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, shape (N, 1, H / 8, W / 8)."""
        return self.head(list(self.features(pictures).values())[-1])


_critics: dict[tuple[torch.dtype, torch.device], Critic] = {}


def critic_for(pictures: Tensor) -> Critic:
    """The fixed discriminator in the precision of the pictures."""
    key = (pictures.dtype, pictures.device)
    if key not in _critics:
        _critics[key] = Critic().to(dtype=pictures.dtype, device=pictures.device).requires_grad_(False)
    return _critics[key]


def seeded(module: nn.Module, *, gain: float = 1.0, seed: int = 0) -> None:
    """Draws the weights of convolutions from a generator of its own; the global state is left alone."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * gain / fan_in**0.5)
                if layer.bias is not None:
                    layer.bias.zero_()


class TinyGenerator(nn.Module):
    """Nearest enlargement by 2 plus a small correction by two convolutions: something whose weights a loss can move."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)
        seeded(self, gain=0.3)

    def forward(self, lr: Tensor) -> Tensor:
        """(..., 3, h, w) to (..., 3, 2h, 2w)."""
        flat = F.interpolate(as_frames(lr), scale_factor=2, mode="nearest")
        out = flat + self.last(torch.tanh(self.first(flat)))
        return out.reshape(*lr.shape[:-2], *out.shape[-2:])


@contextmanager
def quiet_randomness() -> Iterator[None]:
    """Restores torch's global random state afterwards."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


class Bench:
    """One loss, the pictures it is checked on, and what several checks share.

    Attributes:
        name: What the loss claims to be: a name from LOSSES, or anything else.
        has_defaults: Its settings are the defaults of that name.
        hr: Targets, float32 in [0, 1], shape (N, 3, H, W), or (N, 3, 3, H, W) where the loss needs clips.
        sr: A smooth, slightly blurred and noisy version of `hr`, as a generator might put out.
    """

    def __init__(
        self, name: str, module: nn.Module, traits: Traits, pictures: Tensor, *, has_defaults: bool = True
    ) -> None:
        self.name = name
        self.has_defaults = has_defaults
        self.module = module
        self.traits = traits
        self.has_network = any(isinstance(part, nn.Conv2d) for part in module.modules())
        self.extras = supplied(tuple(getattr(module, "needs", ())), int(getattr(module, "scale", 2)))
        self.raw = call_of(module)
        """The loss on these very tensors."""
        # A loss that changes its inputs must not change those of the next check.
        self.call: Call = lambda sr, hr: self.raw(sr.clone(), hr.clone())
        self.whole = pictures
        """As large as given; `hr` is the middle of it."""
        self.hr = self._fitting()
        self.sr = reconstruction(self.hr)

    @property
    def is_temporal(self) -> bool:
        """The loss takes clips only."""
        return self.hr.ndim == 5

    @property
    def is_live(self) -> bool:
        """The loss looks through the live discriminator."""
        return bool({"fake_logits", "fake_features"} & set(self.extras))

    def _fitting(self) -> Tensor:
        """The smallest pictures that the loss takes; moving clips where it takes no pictures."""
        problem: ValueError | None = None
        for whole in (self.whole, as_moving_clip(self.whole, frames=_FRAMES)):
            for side in SIDES:
                height, width = (min(s, whole.shape[i] // 16 * 16) for s, i in ((side, -2), (side + 16, -1)))
                hr = centre_crop(whole, height, width)
                try:
                    self.call(distortions.noise(hr, 0.05), hr)
                except ValueError as error:
                    problem = problem or error
                    continue
                self.whole = whole
                return hr
        assert problem is not None
        if min(self.whole.shape[-2:]) < SIDES[-1]:
            height, width = self.whole.shape[-2:]
            raise NotCheckableError(
                f"it takes no picture as small as {width} x {height} pixels: {str(problem).split(';')[0]}; give larger ones"
            )
        raise problem

    def views(self) -> Views:
        """The pair and what the loss needs besides, as a trainer offers them."""
        return Views(self.sr, self.hr, **{name: make(self.sr, self.hr) for name, make in self.extras.items()})

    @property
    def feature_loss(self) -> FeatureLoss | None:
        """The module, where it is a loss on the features of a network."""
        return self.module if isinstance(self.module, FeatureLoss) else None

    def value(self, sr: Tensor, hr: Tensor | None = None) -> float:
        """The loss without a graph."""
        with torch.no_grad():
            return float(self.call(sr, self.hr if hr is None else hr))

    def gradient(self, sr: Tensor, hr: Tensor | None = None) -> Tensor:
        """Of the loss with respect to the output.

        Raises:
            ValueError: The value does not depend on the output.
        """
        output = sr.detach().clone().requires_grad_()
        value = self.call(output, self.hr if hr is None else hr)
        if not value.requires_grad:
            raise ValueError("the value has no graph: the generator would learn nothing from it")
        gradient = input_gradient(value, output)
        if gradient is None:
            raise ValueError("the value does not depend on the output: the generator would learn nothing")
        return gradient

    @cached_property
    def at_identity(self) -> float:
        """loss(hr, hr)."""
        return self.value(self.hr)

    @cached_property
    def at_sr(self) -> float:
        """loss(sr, hr)."""
        return self.value(self.sr)

    @cached_property
    def double(self) -> Call:
        """The loss in float64; its buffers and weights too."""
        return call_of(copy.deepcopy(self.module).double())

    @cached_property
    def levels(self) -> dict[str, list[float]]:
        """The loss under each distortion at rising levels."""
        plan: dict[str, tuple[distortions.Distortion, tuple[float, ...]]] = {
            "blur": (distortions.blur, (0.6, 1.0, 1.8)),
            "noise": (distortions.noise, (0.03, 0.06, 0.12)),
            "JPEG": (distortions.jpeg, (40, 80, 94)),
            "shift": (distortions.shift, (1,)),
            "salt and pepper": (distortions.salt_and_pepper, (0.02,)),
            "luminance": (distortions.brighter, (0.05,)),
            "less luminance": (distortions.brighter, (-0.1,)),
            "contrast": (distortions.contrast, (0.15,)),
            "less contrast": (distortions.contrast, (-0.3,)),
        }
        return {
            name: [self.value(apply(self.hr, level)) for level in levels]
            for name, (apply, levels) in plan.items()
        }


def reconstruction(hr: Tensor) -> Tensor:
    """Bicubic there and back by 2, and a little noise: no value is exactly right, as |x| has a kink there."""
    height, width = hr.shape[-2:]
    small = bicubic(hr, height=height // 2, width=width // 2)
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(3))
    return (bicubic(small, height=height, width=width) + 0.01 * noise).to(hr)


def input_gradient(value: Tensor, x: Tensor) -> Tensor | None:
    """Gradient at `x`; None where the value does not depend on it."""
    found: tuple[Tensor | None, ...] = torch.autograd.grad(value, x, allow_unused=True)
    return found[0]


def call_of(module: nn.Module) -> Call:
    """Calls the loss with the pair and whatever else it needs, made from the pair."""
    extras = supplied(tuple(getattr(module, "needs", ())), int(getattr(module, "scale", 2)))
    return lambda sr, hr: module(sr, hr, **{name: make(sr, hr) for name, make in extras.items()})
