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
from sr.config import Component, OptimizerConfig, TrialConfig
from sr.data import Clip, held_out, hr_and_lr, open_dataset, open_stream
from sr.ema import Ema
from sr.engine import Engine, SingleEngine
from sr.evaluate import validation_scores
from sr.ledger import Ledger, State, Status
from sr.lock import exclusive
from sr.losses import LOSSES
from sr.losses.criterion import Criterion
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
    stream: Stream
    validation_clips: list[Clip]
    progress: _Progress = field(default_factory=_Progress)


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


def build_criterion(config: TrialConfig) -> Criterion:
    """Returns the trial's loss; two terms of one type are told apart by a number."""
    names: list[str] = []
    for term in config.loss.terms:
        repeats = sum(name == term.type or name.startswith(f"{term.type}_") for name in names)
        names.append(f"{term.type}_{repeats + 1}" if repeats else term.type)
    modules = {
        name: LOSSES[term.type](**term.parameters)
        for name, term in zip(names, config.loss.terms, strict=True)
    }
    return Criterion(modules, [term.weight for term in config.loss.terms])


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
    optimizer = torch.optim.Adam(parameters, lr=config.optimizer.learning_rate, betas=config.optimizer.betas)
    engine = SingleEngine(
        generator, optimizer, world=world, gradient_clip_norm=config.optimizer.gradient_clip_norm
    )
    criterion = build_criterion(config).to(world.device)
    beginning = stream.state_dict()
    clips = held_out(dataset, config)
    for line in clips.left_out:
        log.warning(line)
    ema = Ema(generator, config.optimizer.ema_decay)
    parts = _Parts(config, dataset, engine, ema, criterion, stream, clips.val)
    if config.loss.calibrate:
        hr, lr = _pictures(parts, stream.next_batch())
        stream.load_state_dict(beginning)
        criterion.calibrate(upscale_bicubic(lr, config.scale).clamp(0, 1), hr)
    ledger.append(
        {"kind": "loss", "step": 0, "calibration": criterion.calibration, "weights": criterion.weights}
    )
    return parts


def _pictures(parts: _Parts, batch: Batch) -> tuple[Tensor, Tensor]:
    return hr_and_lr(batch.hr, batch.lr, parts.config, parts.engine.world.device)


def _one_step(parts: _Parts, ledger: Ledger, clock: _Clock) -> None:
    config, engine, progress = parts.config, parts.engine, parts.progress
    started = perf_counter()
    hr, lr = _pictures(parts, parts.stream.next_batch())
    sr = engine(lr)
    loss, raw = parts.criterion(sr, hr)
    _stop_if_not_finite(parts, loss, raw)
    engine.backward(loss)
    norm = engine.gradient_norm()
    if engine.agree(not bool(torch.isfinite(norm))):
        raise TrialDivergedError(_which_gradient(parts, sr, hr))
    rate = learning_rate(progress.step, config.optimizer, steps=config.training.steps)
    engine.step(rate)
    parts.ema.update(engine.module, progress.step)
    progress.step_seconds += perf_counter() - started
    if (progress.step + 1) % config.training.log_every == 0:
        terms = parts.criterion.account(sr, hr)
        ledger.append(
            {
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
        )


def learning_rate(step: int, optimizer: OptimizerConfig, *, steps: int) -> float:
    """The rate of update number `step` (from 0): a linear warm-up, then half a cosine down to `final_fraction`."""
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    done = (step - optimizer.warmup_steps) / max(1, steps - 1 - optimizer.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return optimizer.learning_rate * (optimizer.final_fraction + (1 - optimizer.final_fraction) * cosine)


def _stop_if_not_finite(parts: _Parts, loss: Tensor, raw: dict[str, Tensor]) -> None:
    if not parts.engine.agree(not bool(torch.isfinite(loss))):
        return
    broken = [f"{name}={value.item()}" for name, value in raw.items() if not torch.isfinite(value)]
    where = ", ".join(broken) or "the sum of all terms"
    raise TrialDivergedError(
        f"step {parts.progress.step + 1}, rank {parts.engine.world.rank}: the loss is {loss.item()} ({where}); stopped "
        "before the optimizer update. Lower optimizer.learning_rate, or change the term"
    )


def _which_gradient(parts: _Parts, sr: Tensor, hr: Tensor) -> str:
    norms = {name: parts.criterion.gradient_norm(name, sr, hr) for name in parts.criterion.terms}
    broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
    where = f"of term {', '.join(broken)}" if broken else "inside the network"
    return (
        f"step {parts.progress.step + 1}, rank {parts.engine.world.rank}: the gradient {where} is not finite; stopped "
        "before the optimizer update. Lower optimizer.learning_rate, or change the term"
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
