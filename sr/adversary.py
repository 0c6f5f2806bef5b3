"""The generator's opponent: a discriminator that learns beside it, in the phases that the configuration sets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from sr.config import AdversarialConfig, EngineConfig
from sr.ema import Ema
from sr.engines import build_engine
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


_OBSERVED: tuple[str, ...] = (
    "accuracy_on_sr",
    "accuracy_on_hr",
    # How far apart it holds the two: above 0 it is winning.
    "balance",
    "logit_sr",
    "logit_hr",
    "loss",
    "penalty",
)


class Adversary:
    """A discriminator, its optimizer, and the game it plays against the generator.

    Args:
        config: Architecture, phases and rates.
        game: The loss of both sides.
        seed: Of the initial weights.
        betas: Of its Adam.
        world: This process's place among the trial's ranks.
        engine: How it computes.
        accumulation_steps: Parts in which a rank works through its share of a step.
    """

    def __init__(
        self,
        config: AdversarialConfig,
        game: AdversarialLoss,
        *,
        seed: int,
        betas: tuple[float, float],
        world: World,
        engine: EngineConfig,
        accumulation_steps: int,
    ) -> None:
        self.config = config
        self.game = game
        module = build_discriminator(config, seed=seed).to(world.device)
        # Of the weights as they are whole: under ZeRO 3 a rank soon holds only a part of them.
        self.ema = Ema(module, config.ema_decay)
        self.engine = build_engine(
            module,
            world=world,
            config=engine,
            accumulation_steps=accumulation_steps,
            betas=config.betas or betas,
            gradient_clip_norm=config.gradient_clip_norm,
        )
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
        fake_logits, fake_features = self.engine.as_loss(views.sr)
        with torch.no_grad():
            real_logits, real_features = self.engine.as_loss(views.hr)
        return dataclasses.replace(
            views,
            fake_logits=fake_logits,
            real_logits=real_logits,
            fake_features=fake_features,
            real_features=real_features,
        )

    def learn(
        self, pairs: Sequence[tuple[Tensor, Tensor]], *, step: int, learning_rate: float
    ) -> dict[str, Any]:
        """Its own updates of one step, as many as configured, on the generator's batch.

        Args:
            pairs: The generator's output, to which no gradient flows, and the target, for each part of the batch.
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
            row = self._update(pairs, learning_rate * config.learning_rate_factor)
        if not turn:
            # It must be seen, or a discriminator that was once too good would sit out for ever.
            with torch.no_grad():
                seen = [(self.engine.as_loss(sr)[0], self.engine.as_loss(hr)[0]) for sr, hr in pairs]
            row = self._observe([self._judgement(fake, real) for fake, real in seen])
            del row["loss"], row["penalty"]
        return row | {
            "phase": str(self.phase(step)),
            "weight": self.weight(step),
            "accuracy_average": memory.accuracy,
            "updates": memory.updates,
            "skipped": memory.skipped,
        }

    def _update(self, pairs: Sequence[tuple[Tensor, Tensor]], rate: float) -> dict[str, Any]:
        config, engine, memory = self.config, self.engine, self._memory
        has_r1 = bool(config.r1_gamma) and memory.updates % config.r1_every == 0
        judgements: list[Tensor] = []
        for number, (sr, hr) in enumerate(pairs):
            with engine.micro_batch(is_last=number == len(pairs) - 1):
                sr = sr.detach()
                fake, real = (engine(pictures)[0].float() for pictures in (sr, hr))
                loss = self.game.discriminator_loss(fake, real)
                penalty = self.game.penalty(engine.module, sr, hr)
                if has_r1:
                    # Every so often, and so much stronger: the same on average, for a fraction of the time.
                    penalty = penalty + config.r1_gamma * config.r1_every * r1_penalty(engine.module, hr)
                engine.backward((loss + penalty) / len(pairs))
                judgements.append(self._judgement(fake, real, loss, penalty))
        row = self._observe(judgements)
        # The same on all ranks, so they stop together.
        if math.isfinite(row["loss"] + row["penalty"]):
            row["gradient_norm"] = engine.step(rate).item()
        if not math.isfinite(row["loss"] + row["penalty"] + row.get("gradient_norm", 0.0)):
            raise FloatingPointError(
                f"the discriminator's loss is {row['loss']}, its penalty {row['penalty']}, its gradient's norm "
                f"{row.get('gradient_norm', 'not computed')}"
            )
        row["learning_rate"] = rate
        with engine.whole():
            self.ema.update(engine.module, memory.updates)
        memory.updates += 1
        return row

    def _judgement(
        self, fake: Tensor, real: Tensor, loss: Tensor | None = None, penalty: Tensor | None = None
    ) -> Tensor:
        """What is known of one part of the batch, as numbers in the order of `_OBSERVED`."""
        fake, real = fake.detach().float(), real.detach().float()
        right_fake, right_real = self.game.correct(fake, real)
        nothing = fake.new_zeros(())
        return torch.stack(
            [
                right_fake.float().mean(),
                right_real.float().mean(),
                torch.sigmoid(real).mean() - torch.sigmoid(fake).mean(),
                fake.mean(),
                real.mean(),
                nothing if loss is None else loss.detach(),
                nothing if penalty is None else penalty.detach(),
            ]
        )

    def _observe(self, judgements: Sequence[Tensor]) -> dict[str, Any]:
        """Means over the whole batch, on all ranks; the accuracy, half for each kind, is averaged over time."""
        means = self.engine.world.mean(torch.stack(list(judgements)).mean(dim=0)).tolist()
        row: dict[str, Any] = dict(zip(_OBSERVED, means, strict=True))
        row["accuracy"] = (row["accuracy_on_sr"] + row["accuracy_on_hr"]) / 2
        self._memory.accuracy += (row["accuracy"] - self._memory.accuracy) * 0.01
        return row

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

    def learn(
        self, pairs: Sequence[tuple[Tensor, Tensor]], *, step: int, learning_rate: float
    ) -> dict[str, Any]:
        """Nobody learns."""
        del pairs, step, learning_rate
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
