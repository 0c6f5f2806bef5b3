"""What a trial is made of, put together from its configuration; `sr.train` sets it in motion."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from shards.manifest import Dataset
from shards.stream import Batch, Stream
from sr.adversary import Adversary, NoAdversary
from sr.config import LossConfig, TrialConfig, check_division
from sr.data import Clip, held_out, hr_and_lr, judged_frames, open_dataset, open_stream, training_keys
from sr.ema import Ema
from sr.engines import Engine, build_engine
from sr.engines.tuning import compile_generator
from sr.ledger import Ledger
from sr.losses import LOSSES
from sr.losses.adversarial import AdversarialLoss
from sr.losses.criterion import Criterion
from sr.losses.term import Views
from sr.models import GENERATORS
from sr.resize import upscale_bicubic
from sr.section import Component
from sr.world import World

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """What a trial remembers between steps, besides weights and data position."""

    step: int = 0
    seconds: float = 0.0
    """Wall seconds in the loop, over all attempts."""
    step_seconds: float = 0.0
    """The part of it spent in steps, not in validation or checkpoints."""


@dataclass
class Parts:
    """Everything a trial is made of."""

    config: TrialConfig
    dataset: Dataset
    engine: Engine
    ema: Ema
    criterion: Criterion
    pixel_criterion: Criterion
    """What is minimised in the pixel phase; the same as `criterion` unless configured."""
    adversary: Adversary | NoAdversary
    stream: Stream
    validation_clips: list[Clip]
    ledger: Ledger
    progress: Progress = field(default_factory=Progress)

    @property
    def world(self) -> World:
        """This process's place among the trial's ranks."""
        return self.engine.world

    def at(self, what: str) -> None:
        """Shows that the trial moves on, and where it is."""
        where = f"step {self.progress.step + 1}: {what}"
        self.world.at(where)
        self.ledger.beat(where)

    def criterion_at(self, step: int) -> Criterion:
        """What the generator minimises at this step, the adversarial terms weighing as the phase says."""
        is_pixel_phase = self.config.adversarial is not None and not self.adversary.plays(step)
        criterion = self.pixel_criterion if is_pixel_phase else self.criterion
        criterion.adversarial_weight = self.adversary.weight(step)
        return criterion


def build_generator(model: Component, *, scale: int, seed: int) -> nn.Module:
    """Returns a fresh generator; equal seeds give equal weights, whatever the loss."""
    torch.manual_seed(seed)
    return GENERATORS[model.type](scale=scale, **model.parameters)


def build_criterion(loss: LossConfig) -> Criterion:
    """Returns a loss; two terms of one type are told apart by a number.

    Raises:
        ValueError: A term cannot be built, e.g. because the weights of its feature network are not there.
    """
    modules: dict[str, nn.Module] = {}
    given: dict[str, float] = {}
    count: Counter[str] = Counter()
    for term in loss.terms:
        count[term.type] += 1
        name = term.type if count[term.type] == 1 else f"{term.type}_{count[term.type]}"
        modules[name] = LOSSES[term.type](**term.parameters)
        if term.calibration is not None:
            given[name] = term.calibration
    return Criterion(modules, [term.weight for term in loss.terms], given)


def build_adversary(config: TrialConfig, game: AdversarialLoss, world: World, *, seed: int) -> Adversary:
    """Returns a fresh opponent; equal seeds give equal weights."""
    assert config.adversarial is not None, "a configuration with a game has an opponent"
    return Adversary(
        config.adversarial,
        game,
        seed=seed,
        betas=config.optimizer.betas,
        world=world,
        engine=config.engine,
        accumulation_steps=config.training.accumulation_steps,
    )


def build_parts(config: TrialConfig, world: World, ledger: Ledger) -> Parts:
    """Puts a trial together, at its beginning; calibrates its loss, and writes that down.

    Raises:
        ValueError: Data or weights are missing, damaged or other ones than before; a setting is impossible.
    """
    check_division(config, world.world_size)
    dataset = open_dataset(config)
    stream = open_stream(config, dataset, world, ledger)
    if stream.small:
        log.warning(
            "padded by reflection, smaller than data.patch_size=%d: %s",
            config.data.patch_size,
            ", ".join(stream.small),
        )
    generator = build_generator(config.model, scale=config.scale, seed=config.seed).to(world.device)
    if not list(generator.parameters()):
        raise ValueError(f"model: '{config.model.type}' has nothing to train; choose another generator")
    ema = Ema(generator, config.optimizer.ema_decay)
    compile_generator(generator, config.engine, world.device, steps=config.training.steps)
    engine = build_engine(
        generator,
        world=world,
        config=config.engine,
        accumulation_steps=config.training.accumulation_steps,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
        gradient_clip_norm=config.optimizer.gradient_clip_norm,
    )
    criterion = build_criterion(config.loss).to(world.device)
    pixel_criterion, adversary = criterion, NoAdversary()
    if config.adversarial is not None:
        assert criterion.game is not None
        if config.adversarial.pixel_loss is not None:
            pixel_criterion = build_criterion(config.adversarial.pixel_loss).to(world.device)
        adversary = build_adversary(config, criterion.game, world, seed=config.seed)
    clips = held_out(dataset, config)
    for line in clips.left_out:
        log.warning(line)
    parts = Parts(
        config, dataset, engine, ema, criterion, pixel_criterion, adversary, stream, clips.val, ledger
    )
    _calibrate(parts)
    _record_loss(parts, ledger)
    return parts


def _calibrate(parts: Parts) -> None:
    """Makes the weights of terms comparable, on the first batch; the stream then begins again."""
    config, stream = parts.config, parts.stream
    both = zip((parts.criterion, parts.pixel_criterion), config.losses, strict=False)
    criteria = [criterion for criterion, loss in both if loss.calibrate]
    if not criteria:
        return
    views = bicubic_views(stream, config, parts.world)
    for criterion in criteria:
        criterion.calibrate(views, mean=parts.world.mean)


def bicubic_views(stream: Stream, config: TrialConfig, world: World) -> Views:
    """This rank's part of the stream's next batch, enlarged bicubically: what losses are calibrated at. The stream stays."""
    before = stream.state_dict()
    hr, lr = pictures_of(stream.next_batch(), config, world.device)
    stream.load_state_dict(before)
    bicubic = judged_frames(upscale_bicubic(lr, config.scale).clamp(0, 1), config.model)
    return Views(bicubic, judged_frames(hr, config.model), lr)


def _record_loss(parts: Parts, ledger: Ledger) -> None:
    """Writes down calibration and weights' hashes; a trial that goes on must look through the same networks.

    Raises:
        ValueError: The weights of a feature network are others than when the trial began.
    """
    used = {"": parts.criterion} | (
        {} if parts.pixel_criterion is parts.criterion else {"pixel/": parts.pixel_criterion}
    )
    networks = {
        f"{phase}{name}": dataclasses.asdict(weights)
        for phase, criterion in used.items()
        for name, weights in criterion.feature_weights.items()
    }
    for row in ledger.rows("loss"):
        for name, before in row["feature_networks"].items():
            if name in networks and networks[name]["sha256"] != before["sha256"]:
                raise ValueError(
                    f"loss term '{name}': the weights of {networks[name]['name']} have sha256 "
                    f"{networks[name]['sha256'][:12]} now and had {before['sha256'][:12]} when the trial began; restore "
                    f"{before['source']}, or start a new trial"
                )
    ledger.append(
        {
            "kind": "loss",
            "step": 0,
            "calibration": parts.criterion.calibration,
            "weights": parts.criterion.weights,
            "feature_networks": networks,
        }
    )


def pictures_of(batch: Batch, config: TrialConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """HR and LR of a batch of the stream, float32 in [0, 1], shape (B, T, 3, H, W), on the device."""
    return hr_and_lr(batch.hr, batch.lr, config, device, keys=training_keys(batch, config))
