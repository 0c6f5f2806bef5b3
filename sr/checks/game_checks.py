"""Adversarial losses: both players' functions, through a small fixed discriminator and on logits."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sr.checks.bench import Bench, critic_for
from sr.checks.results import Outcome, judged, not_applicable
from sr.features.network import Features
from sr.losses.adversarial import AdversarialLoss

_NO_GAME = "no adversarial game"


def _game(bench: Bench) -> AdversarialLoss | None:
    return bench.module if isinstance(bench.module, AdversarialLoss) else None


def generator_step_convinces(bench: Bench) -> Outcome:
    """One step of the output against the generator's gradient makes the discriminator judge it more real."""
    if _game(bench) is None:
        return not_applicable(_NO_GAME)
    gradient = bench.gradient(bench.sr)
    critic = critic_for(bench.sr)
    stepped = bench.sr - 0.01 / gradient.abs().max() * gradient
    with torch.no_grad():
        before, after = (critic(x).mean().item() for x in (bench.sr, stepped))
    return judged(
        after > before, f"mean logit of the output: {before:.5g} to {after:.5g}", before=before, after=after
    )


def discriminator_step_tells_apart(bench: Bench) -> Outcome:
    """One step of the discriminator lowers its loss."""
    game = _game(bench)
    if game is None:
        return not_applicable(_NO_GAME)
    critic = copy.deepcopy(critic_for(bench.sr)).requires_grad_()

    def judge() -> Tensor:
        return game.discriminator_loss(critic(bench.sr), critic(bench.hr))

    before = judge()
    before.backward()
    moved = [(p, p.grad) for p in critic.parameters() if p.grad is not None]
    largest = max(float(gradient.abs().max()) for _, gradient in moved)
    with torch.no_grad():
        for parameter, gradient in moved:
            parameter -= 1e-3 / largest * gradient
    first, second = before.item(), judge().item()
    return judged(second < first, f"loss {first:.6g} to {second:.6g}", before=first, after=second)


def players_agree_with_finite_differences(bench: Bench) -> Outcome:
    """Both functions on logits in float64, on either side of the hinge."""
    game = _game(bench)
    if game is None:
        return not_applicable(_NO_GAME)
    draw = torch.Generator().manual_seed(2)
    fake, real = (
        torch.randn(2, 1, 3, 3, generator=draw, dtype=torch.float64).mul(1.5).requires_grad_()
        for _ in range(2)
    )
    for name, player in (("generator", game.generator_loss), ("discriminator", game.discriminator_loss)):
        if not torch.autograd.gradcheck(player, (fake, real), raise_exception=False):
            return judged(False, f"the gradient of {name}_loss is not that of its value")
    return judged(True, "generator_loss and discriminator_loss agree with finite differences on logits")


def players_are_opponents(bench: Bench) -> Outcome:
    """What is judged more real pleases the generator; sure and right pleases the discriminator."""
    game = _game(bench)
    if game is None:
        return not_applicable(_NO_GAME)
    # Between the labels 0 and 1 of least squares, and within the margins of the hinge.
    grid = torch.ones(2, 1, 3, 3)
    distances = (-0.4, -0.1, 0.2, 0.45)
    generator = [float(game.generator_loss((0.5 + d) * grid, 0.5 * grid)) for d in distances]
    discriminator = [float(game.discriminator_loss((0.5 - d) * grid, (0.5 + d) * grid)) for d in distances]
    good = all(sorted(v, reverse=True) == v and v[0] > v[-1] for v in (generator, discriminator))
    return judged(
        good,
        f"generator {', '.join(f'{v:.3g}' for v in generator)} as the fake looks more real; "
        f"discriminator {', '.join(f'{v:.3g}' for v in discriminator)} as it tells better apart",
    )


class LinearCritic(nn.Module):
    """A discriminator whose gradient is known everywhere: its weights."""

    slope = 2.5
    """Length of that gradient."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        draw = torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(4))
        self.weights = nn.Parameter(self.slope * draw / draw.norm())

    def forward(self, pictures: Tensor) -> tuple[Tensor, Features]:
        """A judgement each, shape (B, 1)."""
        return (pictures * self.weights).flatten(1).sum(dim=1, keepdim=True), {}


def penalty_restrains_the_discriminator(bench: Bench) -> Outcome:
    """Not negative, the same for one picture as for many, and where it is not zero the discriminator learns from it."""
    game = _game(bench)
    if game is None:
        return not_applicable(_NO_GAME)
    critic = LinearCritic(bench.hr)
    with torch.enable_grad():
        whole, single = (game.penalty(critic, bench.sr[:n], bench.hr[:n]) for n in (len(bench.hr), 1))
    value, one = whole.item(), single.item()
    if value == 0 and not whole.requires_grad:
        return judged(True, "none")
    if not whole.requires_grad:
        return judged(False, f"{value:.4g}, without a graph: the discriminator learns nothing from it")
    (gradient,) = torch.autograd.grad(whole, critic.weights)
    if not 0 < gradient.norm() < float("inf"):
        return judged(False, f"{value:.4g}, gradient of the discriminator {float(gradient.norm()):.4g}")
    # Of a linear discriminator the gradient is the same everywhere, so nothing that is drawn changes the penalty.
    good = value >= 0 and abs(value - one) <= 1e-4 * abs(value)
    return judged(
        good,
        f"{len(bench.hr)} pictures {value:.5g}, one of them {one:.5g}; it reaches the discriminator",
        value=value,
    )
