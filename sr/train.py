"""One trial, from its configuration to its last checkpoint. Knows neither Ray nor YAML."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from shards.manifest import Dataset
from shards.stream import Batch, Stream
from sr import checkpoint
from sr.adversary import Adversary, NoAdversary
from sr.config import Component, LossConfig, OptimizerConfig, TrialConfig
from sr.data import Clip, held_out, hr_and_lr, judged_frames, open_dataset, open_stream, training_keys
from sr.ema import Ema
from sr.engine import Engine, SingleEngine
from sr.evaluate import validation_scores
from sr.ledger import Ledger, State, Status
from sr.lock import exclusive
from sr.losses import LOSSES
from sr.losses.criterion import Criterion
from sr.losses.term import Views
from sr.models import GENERATORS
from sr.resize import upscale_bicubic
from sr.world import World

log = logging.getLogger(__name__)

Report = Callable[[dict[str, float]], None]


class TrialDivergedError(ValueError):
    """A loss or a gradient became NaN or infinite; says at which step and in which term."""


@dataclass
class _Progress:
    """What a trial remembers between steps, besides weights and data position."""

    step: int = 0
    seconds: float = 0.0
    """Wall seconds in the loop, over all attempts."""
    step_seconds: float = 0.0
    """The part of it spent in steps, not in validation or checkpoints."""


@dataclass
class _Parts:
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
    progress: _Progress = field(default_factory=_Progress)

    def criterion_at(self, step: int) -> Criterion:
        """What the generator minimises at this step, the adversarial terms weighing as the phase says."""
        is_pixel_phase = self.config.adversarial is not None and not self.adversary.plays(step)
        criterion = self.pixel_criterion if is_pixel_phase else self.criterion
        criterion.adversarial_weight = self.adversary.weight(step)
        return criterion


def train(
    config: TrialConfig, *, world: World, ledger: Ledger, report: Report = lambda _metrics: None
) -> Status:
    """Trains one trial to its end, continuing from its newest checkpoint where there is one.

    Args:
        config: The complete configuration.
        world: This process's place among the trial's ranks.
        ledger: The trial's folder, already created.
        report: Called after each validation, which a checkpoint goes with, with `step` and the validation metrics. It
            may raise SystemExit to stop the trial early.

    Returns:
        The final status, as written to the ledger.

    Raises:
        ValueError: The data set is missing, damaged or another one than before; a setting is impossible.
        TrialDivergedError: A loss or gradient became NaN or infinite.
    """
    with exclusive(ledger.folder, timeout_s=60, what="this trial is being trained"):
        torch.set_num_threads(config.engine.threads)
        attempt = ledger.begin_attempt()
        parts = _build(config, world, ledger)
        try:
            return _train(parts, attempt, ledger, report)
        finally:
            parts.stream.close()


def _train(parts: _Parts, attempt: int, ledger: Ledger, report: Report) -> Status:
    config = parts.config
    _resume(parts, ledger)
    progress = parts.progress
    ledger.set_status(Status(State.RUNNING, step=progress.step, seconds=progress.seconds, attempt=attempt))
    clock = _Clock(progress)
    metrics: dict[str, float] | None = None
    try:
        while progress.step < config.training.steps and not parts.engine.agree(_met_cap(parts, clock)):
            _one_step(parts, ledger, clock)
            progress.step += 1
            is_last = progress.step == config.training.steps
            metrics = None
            if progress.step % config.training.validate_every == 0 or is_last:
                metrics = _validate(parts, ledger, clock)
            # Before the report: whoever hears of a validation may stop the trial there, and kill its process.
            if progress.step % config.training.checkpoint_every == 0 or metrics is not None:
                _save(parts, ledger, clock)
            if metrics is not None and not is_last:
                report(metrics)
    except SystemExit:
        # Only `report` raises it, so everything is saved.
        # Whether this was the scheduler's judgement or an interrupted sweep is known to whoever stopped it.
        ledger.set_status(_status(parts, attempt, clock, State.PENDING, f"stopped at step {progress.step}"))
        raise
    met_cap = progress.step < config.training.steps
    if met_cap:
        metrics = _validate(parts, ledger, clock)
        _save(parts, ledger, clock)
    reason = (
        f"wall-time cap of {config.training.max_seconds:g} s at step {progress.step} of {config.training.steps}"
        if met_cap
        else f"all {config.training.steps} steps"
    )
    status = dataclasses.replace(
        _status(parts, attempt, clock, State.FINISHED, reason), met_wall_time_cap=met_cap
    )
    ledger.set_status(status)
    # Only now: a scheduler that thinks little of the last validation cannot turn the end into an early stop.
    if metrics is not None:
        report(metrics)
    return status


class _Clock:
    """Wall seconds of the loop, continuing from what earlier attempts spent."""

    def __init__(self, progress: _Progress) -> None:
        self._before = progress.seconds
        self._started = perf_counter()

    def seconds(self) -> float:
        return self._before + perf_counter() - self._started


def _met_cap(parts: _Parts, clock: _Clock) -> bool:
    cap = parts.config.training.max_seconds
    return cap is not None and clock.seconds() >= cap


def build_generator(model: Component, *, scale: int, seed: int) -> nn.Module:
    """Returns a fresh generator; equal seeds give equal weights, whatever the loss."""
    torch.manual_seed(seed)
    return GENERATORS[model.type](scale=scale, **model.parameters)


def build_criterion(loss: LossConfig) -> Criterion:
    """Returns a loss; two terms of one type are told apart by a number.

    Raises:
        ValueError: A term cannot be built, e.g. because the weights of its feature network are not there.
    """
    names: list[str] = []
    for term in loss.terms:
        repeats = sum(name == term.type or name.startswith(f"{term.type}_") for name in names)
        names.append(f"{term.type}_{repeats + 1}" if repeats else term.type)
    modules = {
        name: LOSSES[term.type](**term.parameters) for name, term in zip(names, loss.terms, strict=True)
    }
    return Criterion(modules, [term.weight for term in loss.terms])


def _build(config: TrialConfig, world: World, ledger: Ledger) -> _Parts:
    dataset = open_dataset(config)
    stream = open_stream(config, dataset, world, ledger)
    if stream.small:
        log.warning(
            "padded by reflection, smaller than data.patch_size=%d: %s",
            config.data.patch_size,
            ", ".join(stream.small),
        )
    generator = build_generator(config.model, scale=config.scale, seed=config.seed).to(world.device)
    parameters = list(generator.parameters())
    if not parameters:
        raise ValueError(f"model: '{config.model.type}' has nothing to train; choose another generator")
    optimizer = torch.optim.Adam(
        parameters,
        lr=config.optimizer.learning_rate,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
    )
    engine = SingleEngine(
        generator, optimizer, world=world, gradient_clip_norm=config.optimizer.gradient_clip_norm
    )
    criterion = build_criterion(config.loss).to(world.device)
    pixel_criterion, adversary = criterion, NoAdversary()
    if config.adversarial is not None:
        assert criterion.game is not None
        if config.adversarial.pixel_loss is not None:
            pixel_criterion = build_criterion(config.adversarial.pixel_loss).to(world.device)
        adversary = Adversary(
            config.adversarial, criterion.game, seed=config.seed, betas=config.optimizer.betas, world=world
        )
    clips = held_out(dataset, config)
    for line in clips.left_out:
        log.warning(line)
    ema = Ema(generator, config.optimizer.ema_decay)
    parts = _Parts(config, dataset, engine, ema, criterion, pixel_criterion, adversary, stream, clips.val)
    _calibrate(parts)
    _record_loss(parts, ledger)
    return parts


def _calibrate(parts: _Parts) -> None:
    """Makes the weights of terms comparable, on the first batch; the stream then begins again."""
    config, stream = parts.config, parts.stream
    wishes = [(parts.criterion, config.loss)]
    if config.adversarial is not None and config.adversarial.pixel_loss is not None:
        wishes.append((parts.pixel_criterion, config.adversarial.pixel_loss))
    wishes = [(criterion, loss) for criterion, loss in wishes if loss.calibrate]
    if not wishes:
        return
    beginning = stream.state_dict()
    hr, lr = _pictures(parts, stream.next_batch())
    stream.load_state_dict(beginning)
    bicubic = judged_frames(upscale_bicubic(lr, config.scale).clamp(0, 1), config.model)
    for criterion, _ in wishes:
        criterion.calibrate(Views(bicubic, judged_frames(hr, config.model), lr))


def _record_loss(parts: _Parts, ledger: Ledger) -> None:
    """Writes down calibration and weights' hashes; a trial that goes on must look through the same networks.

    Raises:
        ValueError: The weights of a feature network are others than when the trial began.
    """
    networks = {
        name: dataclasses.asdict(weights)
        for criterion in (parts.pixel_criterion, parts.criterion)
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


def _pictures(parts: _Parts, batch: Batch) -> tuple[Tensor, Tensor]:
    keys = training_keys(batch, parts.config)
    return hr_and_lr(batch.hr, batch.lr, parts.config, parts.engine.world.device, keys=keys)


def _one_step(parts: _Parts, ledger: Ledger, clock: _Clock) -> None:
    config, engine, adversary, progress = parts.config, parts.engine, parts.adversary, parts.progress
    started = perf_counter()
    rate = learning_rate(progress.step, config.optimizer, steps=config.training.steps)
    hr, lr = _pictures(parts, parts.stream.next_batch())
    views = _upscaled(parts, hr, lr)

    opponent: dict[str, Any] = {}
    if adversary.plays(progress.step):
        opponent = _discriminator_step(parts, views, rate)
        views = adversary.judge(views)
    criterion = parts.criterion_at(progress.step)

    loss, raw = criterion(views)
    auxiliary = auxiliary_loss(engine.module)
    loss = loss + auxiliary
    _stop_if_not_finite(parts, loss, raw)
    started_accounting = perf_counter()
    is_logged = (progress.step + 1) % config.training.log_every == 0
    terms = criterion.account(views, raw) if is_logged else {}
    accounting_seconds = perf_counter() - started_accounting
    engine.backward(loss)
    norm = engine.gradient_norm()
    if engine.agree(not bool(torch.isfinite(norm))):
        raise TrialDivergedError(_which_gradient(parts, views))
    engine.step(rate)
    parts.ema.update(engine.module, progress.step)
    progress.step_seconds += perf_counter() - started - accounting_seconds
    if is_logged:
        row: dict[str, Any] = {
            "kind": "train",
            "step": progress.step + 1,
            "samples": parts.stream.samples_seen,
            "seconds": round(clock.seconds(), 3),
            "loss": loss.item(),
            "terms": {name: dataclasses.asdict(value) for name, value in terms.items()},
            "gradient_norm": norm.item(),
            "learning_rate": rate,
            "images_per_second": round(parts.stream.samples_seen / progress.step_seconds, 2),
        }
        if opponent:
            row["discriminator"] = opponent
        if auxiliary:
            row["auxiliary"] = float(auxiliary)
        ledger.append(row)


def _upscaled(parts: _Parts, hr: Tensor, lr: Tensor) -> Views:
    """The generator's step forward: what the terms of the loss look at."""
    hr = judged_frames(hr, parts.config.model)
    if "sr_backward" not in parts.criterion.needs | parts.pixel_criterion.needs:
        return Views(parts.engine(lr), hr, lr)
    # The clip is played to its end and back, so that each frame is seen with two pasts.
    frames = lr.shape[1]
    both = parts.engine(torch.cat([lr, lr[:, :-1].flip(1)], dim=1))
    return Views(both[:, :frames], hr, lr, both[:, frames - 1 :].flip(1))


def auxiliary_loss(generator: nn.Module) -> Tensor | float:
    """What the generator itself wants minimised in its last forward pass, e.g. the error of its motion estimate."""
    own = getattr(generator, "auxiliary_loss", None)
    return 0.0 if own is None else own


def _discriminator_step(parts: _Parts, views: Views, rate: float) -> dict[str, Any]:
    try:
        return parts.adversary.learn(views.sr, views.hr, step=parts.progress.step, learning_rate=rate)
    except FloatingPointError as error:
        raise TrialDivergedError(
            f"{_where(parts)}: {error}; stopped before its update. Lower adversarial.learning_rate_factor, set "
            "adversarial.gradient_clip_norm, or change the game"
        ) from None


def learning_rate(step: int, optimizer: OptimizerConfig, *, steps: int) -> float:
    """The rate of update number `step` (from 0): a linear warm-up, then the configured schedule."""
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return optimizer.learning_rate
    if optimizer.schedule == "steps":
        passed = sum(step >= milestone for milestone in optimizer.milestones)
        return optimizer.learning_rate * optimizer.step_factor**passed
    done = (step - optimizer.warmup_steps) / max(1, steps - 1 - optimizer.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return optimizer.learning_rate * (optimizer.final_fraction + (1 - optimizer.final_fraction) * cosine)


def _where(parts: _Parts) -> str:
    return f"step {parts.progress.step + 1}, rank {parts.engine.world.rank}"


def _stop_if_not_finite(parts: _Parts, loss: Tensor, raw: dict[str, Tensor]) -> None:
    if not parts.engine.agree(not bool(torch.isfinite(loss))):
        return
    broken = [f"{name}={value.item()}" for name, value in raw.items() if not torch.isfinite(value)]
    where = ", ".join(broken) or "the sum of all terms"
    raise TrialDivergedError(
        f"{_where(parts)}: the loss is {loss.item()} ({where}); stopped before the optimizer update. Lower "
        "optimizer.learning_rate, or change the term"
    )


def _which_gradient(parts: _Parts, views: Views) -> str:
    again = dataclasses.replace(views, sr=views.sr.detach().requires_grad_())
    if parts.adversary.plays(parts.progress.step):
        again = parts.adversary.judge(again)
    criterion = parts.criterion_at(parts.progress.step)
    norms = criterion.gradient_norms(again, criterion(again)[1])
    broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
    where = f"of term {', '.join(broken)}" if broken else "inside the network"
    return (
        f"{_where(parts)}: the gradient {where} is not finite; stopped before the optimizer update. Lower "
        "optimizer.learning_rate, or change the term"
    )


def _validate(parts: _Parts, ledger: Ledger, clock: _Clock) -> dict[str, float]:
    """Measures the averaged weights on the validation clips; writes and returns the row."""
    scores = validation_scores(
        parts.ema.module,
        parts.dataset,
        parts.validation_clips,
        parts.config,
        device=parts.engine.world.device,
    )
    progress = parts.progress
    row = {
        "step": progress.step,
        "samples": parts.stream.samples_seen,
        "seconds": round(clock.seconds(), 3),
        **scores,
    }
    ledger.append({"kind": "validation", **row}, sync=True)
    status = ledger.status()
    ledger.set_status(dataclasses.replace(status, step=progress.step, seconds=clock.seconds()))
    log.info("step %d: %s", progress.step, ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    return {"step": progress.step, **scores}


def _save(parts: _Parts, ledger: Ledger, clock: _Clock) -> None:
    progress = parts.progress
    progress.seconds = clock.seconds()
    state: dict[str, Any] = {
        "engine": parts.engine.state_dict(),
        "ema": parts.ema.module.state_dict(),
        "stream": parts.stream.state_dict(),
        "rng": torch.get_rng_state(),
        "calibration": parts.criterion.calibration,
        "pixel_calibration": parts.pixel_criterion.calibration,
        **parts.adversary.state_dict(),
        "seconds": progress.seconds,
        "step_seconds": progress.step_seconds,
    }
    checkpoint.save(
        ledger.checkpoints, step=progress.step, state=state, keep=parts.config.training.keep_checkpoints
    )


def _resume(parts: _Parts, ledger: Ledger) -> None:
    state = checkpoint.latest(ledger.checkpoints, on_damaged=log.warning)
    if state is None:
        return
    parts.engine.load_state_dict(state["engine"])
    parts.ema.module.load_state_dict(state["ema"])
    parts.stream.load_state_dict(state["stream"])
    parts.criterion.calibration = state["calibration"]
    parts.pixel_criterion.calibration = state["pixel_calibration"]
    parts.adversary.load_state_dict(state)
    parts.progress = _Progress(state["step"], state["seconds"], state["step_seconds"])
    torch.set_rng_state(state["rng"])
    log.info("continuing from step %d", parts.progress.step)


def _status(parts: _Parts, attempt: int, clock: _Clock, state: State, reason: str) -> Status:
    return Status(
        state,
        reason,
        step=parts.progress.step,
        seconds=clock.seconds(),
        attempt=attempt,
        stream_hash=parts.stream.stream_hash,
        damaged_clips=len(parts.stream.damaged),
    )
