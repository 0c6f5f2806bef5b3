"""A fresh classifier on a finished generator: how much is left to tell apart, for any reader of this kind.

A classifier two-sample test (Lopez-Paz and Oquab, ICLR 2017) with the discriminator's own architecture: what it finds
that the trial's discriminator does not is what that one has not learnt, or has forgotten in the game.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.adversary import build_discriminator
from sr.config import AdversarialConfig
from sr.losses.adversarial import r1_penalty
from sr.metrics.protocol import to_8bit

LEARNING_RATE = 1e-3
"""Of 5e-4, 1e-3 and 2e-3 what tells most after 300 steps."""

_BETAS = (0.9, 0.99)
"""The second shorter than Adam's usual: 300 steps are less than the memory of 0.999."""
_WARMUP_STEPS = 20
_ANNOUNCE_EVERY = 20


def train_fresh(
    config: AdversarialConfig,
    generator: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    steps: int,
    seed: int,
    device: torch.device,
    learning_rate: float = LEARNING_RATE,
    at: Callable[[str], None] = lambda _what: None,
) -> nn.Module:
    """Trains a discriminator from scratch to tell a frozen generator's output from HR, by binary cross-entropy.

    Half of it is absolute, half relative: each place against its own truth. What two pictures show differs far more than
    SR from HR; where that cancels out, a budget that is too short for the absolute one alone suffices.

    Both are shown as they would be stored, clipped and rounded to 8 bits: overshoot that a file cannot hold is no
    evidence. Nothing is shared between ranks: each does the same on the same batches and ends with the same weights.

    Args:
        config: Architecture, and R1 as the trial's own discriminator has it.
        generator: On the device; comes back with its mode and gradients as they were.
        batches: HR and LR in [0, 1], shape (B, T, 3, H, W), on the device; `steps` of them are taken.
        steps: Updates.
        seed: Of the initial weights; another than the trial's, or it begins where the trial's own discriminator did.
        device: Where to train.
        learning_rate: Of Adam, after a short warm-up.
        at: Told now and then how far it is.

    Returns:
        The classifier in evaluation mode, logits high for real; the state of random number generators is as before.

    Raises:
        ValueError: There are fewer batches than steps.
    """
    was_training = generator.training
    generator.eval()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            return _train(config, generator, batches, steps, seed, learning_rate, device, at)
    finally:
        generator.train(was_training)


def _train(
    config: AdversarialConfig,
    generator: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    seed: int,
    learning_rate: float,
    device: torch.device,
    at: Callable[[str], None],
) -> nn.Module:
    classifier = build_discriminator(config, seed=seed).to(device)
    adam = torch.optim.Adam(classifier.parameters(), learning_rate, betas=_BETAS)
    for step in range(steps):
        if step % _ANNOUNCE_EVERY == 0:
            at(f"fresh classifier: step {step} of {steps}")
        hr, lr = _next(batches, step, steps)
        with torch.no_grad():
            real, fake = (to_8bit(pictures).float() for pictures in (hr, generator(lr)))
        for group in adam.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / _WARMUP_STEPS)
        adam.zero_grad()
        _loss(classifier, real, fake, config, step).backward()
        adam.step()
    return classifier.eval().requires_grad_(False)


def _loss(classifier: nn.Module, real: Tensor, fake: Tensor, config: AdversarialConfig, step: int) -> Tensor:
    """Both cross-entropies, and the penalty on its gradient where it is due."""
    on_real, on_fake = (classifier(pictures)[0] for pictures in (real, fake))
    absolute = (F.softplus(-on_real).mean() + F.softplus(on_fake).mean()) / 2
    relative = F.softplus(on_fake - on_real).mean()
    loss = (absolute + relative) / 2
    if config.r1_gamma and step % config.r1_every == 0:
        loss = loss + config.r1_gamma * config.r1_every * r1_penalty(classifier, real)
    return loss


def _next(batches: Iterator[tuple[Tensor, Tensor]], step: int, steps: int) -> tuple[Tensor, Tensor]:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(
            f"fresh classifier: the batches ended after {step} of {steps} steps; give more"
        ) from None
