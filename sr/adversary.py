"""The generator's opponent: a discriminator that learns beside it, in the phases that the configuration sets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from sr.config import AdversarialConfig
from sr.ema import Ema
from sr.engine import Engine, SingleEngine
from sr.losses.adversarial import AdversarialLoss, r1_penalty
from sr.losses.term import Views
from sr.models.discriminators import DISCRIMINATORS
from sr.world import World


class Phase(StrEnum):
    """What a trial is doing."""

    PIXEL = "pixel"
    """The discriminator does not exist for the generator yet."""
    RAMP = "ramp"
    """The weight of the adversarial terms rises from 0 to 1."""
    ADVERSARIAL = "adversarial"


@dataclass(slots=True)
class _Memory:
    """What it remembers between steps, besides weights."""

    accuracy: float = 0.5
    """Share of right judgements, averaged over about a hundred updates."""
    updates: int = 0
    skipped: int = 0


class Adversary:
    """A discriminator, its optimizer, and the game it plays against the generator.

    Args:
        config: Architecture, phases and rates.
        game: The loss of both sides.
        seed: Of the initial weights.
        betas: Of its Adam.
        world: This process's place among the trial's ranks.
    """

    def __init__(
        self,
        config: AdversarialConfig,
        game: AdversarialLoss,
        *,
        seed: int,
        betas: tuple[float, float],
        world: World,
    ) -> None:
        self.config = config
        self.game = game
        module = build_discriminator(config, seed=seed).to(world.device)
        optimizer = torch.optim.Adam(module.parameters(), lr=1.0, betas=config.betas or betas)
        self.engine: Engine = SingleEngine(
            module, optimizer, world=world, gradient_clip_norm=config.gradient_clip_norm
        )
        self.ema = Ema(module, config.ema_decay)
        self._memory = _Memory()

    def phase(self, step: int) -> Phase:
        """The phase of update number `step`, from 0."""
        if step < self.config.start_step:
            return Phase.PIXEL
        return Phase.RAMP if self.weight(step) < 1 else Phase.ADVERSARIAL

    def weight(self, step: int) -> float:
        """Factor of the adversarial terms at update number `step`: 0, rising linearly, 1."""
        begun = step - self.config.start_step
        if begun < 0:
            return 0.0
        return min(1.0, (begun + 1) / (self.config.ramp_steps + 1))

    def plays(self, step: int) -> bool:
        """Whether it takes part in update number `step`."""
        return self.phase(step) is not Phase.PIXEL

    def judge(self, views: Views) -> Views:
        """Adds its judgement, for the generator's sake: gradients flow to `sr`, none to the discriminator's weights."""
        self.engine.module.requires_grad_(False)
        fake_logits, fake_features = self.engine(views.sr)
        with torch.no_grad():
            real_logits, real_features = self.engine(views.hr)
        self.engine.module.requires_grad_(True)
        return dataclasses.replace(
            views,
            fake_logits=fake_logits,
            real_logits=real_logits,
            fake_features=fake_features,
            real_features=real_features,
        )

    def learn(self, sr: Tensor, hr: Tensor, *, step: int, learning_rate: float) -> dict[str, Any]:
        """Its own updates of one step, as many as configured, on the generator's batch.

        Args:
            sr: Output of the generator; no gradient flows to it.
            hr: The target, same shape.
            step: Number of the generator's update, from 0.
            learning_rate: The generator's at this step; the discriminator's stands in proportion to it.

        Returns:
            What the ledger records of it.
        """
        config, memory = self.config, self._memory
        turn = (step - config.start_step) % config.update_every == 0
        if turn and config.skip_above_accuracy is not None and memory.accuracy > config.skip_above_accuracy:
            memory.skipped += 1
            turn = False
        row: dict[str, Any] = {}
        for _ in range(config.updates_per_step if turn else 0):
            row = self._update(sr.detach(), hr, learning_rate * config.learning_rate_factor)
        if not turn:
            # It must be seen, or a discriminator that was once too good would sit out for ever.
            with torch.no_grad():
                fake, real = self.engine(sr.detach())[0], self.engine(hr)[0]
            row = self._observe(fake, real)
        return row | {
            "phase": str(self.phase(step)),
            "weight": self.weight(step),
            "accuracy_average": memory.accuracy,
            "updates": memory.updates,
            "skipped": memory.skipped,
        }

    def _update(self, sr: Tensor, hr: Tensor, rate: float) -> dict[str, Any]:
        config, engine, memory = self.config, self.engine, self._memory
        fake, _ = engine(sr)
        real, _ = engine(hr)
        loss = self.game.discriminator_loss(fake.float(), real.float())
        penalty = self.game.penalty(engine.module, sr, hr)
        if config.r1_gamma and memory.updates % config.r1_every == 0:
            # Every so often, and so much stronger: the same on average, for a fraction of the time.
            penalty = penalty + config.r1_gamma * config.r1_every * r1_penalty(engine.module, hr)
        engine.backward(loss + penalty)
        norm = engine.gradient_norm()
        row = self._observe(fake.detach(), real.detach()) | {
            "loss": loss.item(),
            "penalty": penalty.item(),
            "gradient_norm": norm.item(),
            "learning_rate": rate,
        }
        if engine.agree(not math.isfinite(row["loss"] + row["penalty"] + row["gradient_norm"])):
            raise FloatingPointError(
                f"the discriminator's loss is {row['loss']}, its penalty {row['penalty']}, its gradient's norm "
                f"{row['gradient_norm']}"
            )
        engine.step(rate)
        self.ema.update(engine.module, memory.updates)
        memory.updates += 1
        return row

    def _observe(self, fake: Tensor, real: Tensor) -> dict[str, Any]:
        """Accuracy on this batch, half for each kind, and what it is averaged into."""
        right_fake, right_real = self.game.correct(fake, real)
        on_fake, on_real = right_fake.float().mean().item(), right_real.float().mean().item()
        accuracy = (on_fake + on_real) / 2
        self._memory.accuracy += (accuracy - self._memory.accuracy) * 0.01
        return {
            "accuracy": accuracy,
            "accuracy_on_sr": on_fake,
            "accuracy_on_hr": on_real,
            # How far apart it holds the two: above 0 it is winning.
            "balance": (torch.sigmoid(real).mean() - torch.sigmoid(fake).mean()).item(),
            "logit_sr": fake.mean().item(),
            "logit_hr": real.mean().item(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs; tensors and plain values only."""
        memory = self._memory
        return {
            "discriminator": self.engine.state_dict(),
            "discriminator_ema": self.ema.module.state_dict(),
            "adversary": {
                "accuracy": memory.accuracy,
                "updates": memory.updates,
                "skipped": memory.skipped,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.engine.load_state_dict(state["discriminator"])
        self.ema.module.load_state_dict(state["discriminator_ema"])
        self._memory = _Memory(**state["adversary"])


class NoAdversary:
    """Of a trial whose loss has no adversarial term."""

    def plays(self, step: int) -> bool:
        """Never."""
        del step
        return False

    def weight(self, step: int) -> float:
        """Of the terms that there are not."""
        del step
        return 0.0

    def judge(self, views: Views) -> Views:
        """Nobody judges."""
        return views

    def learn(self, sr: Tensor, hr: Tensor, *, step: int, learning_rate: float) -> dict[str, Any]:
        """Nobody learns."""
        del sr, hr, step, learning_rate
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def build_discriminator(config: AdversarialConfig, *, seed: int) -> nn.Module:
    """Returns a fresh discriminator; its weights follow from the seed alone, and not from the generator's."""
    torch.manual_seed(seed + 1_000_003)
    return DISCRIMINATORS[config.discriminator.type](**config.discriminator.parameters)
