"""One trial, from its configuration to its last checkpoint. Knows neither Ray nor YAML."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sr import checkpoint
from sr.config import TrialConfig
from sr.data import judged_frames
from sr.evaluate import validation_scores
from sr.ledger import Ledger, State, Status
from sr.lock import exclusive
from sr.losses.term import Views
from sr.parts import Parts, Progress, build_parts, pictures_of
from sr.schedule import learning_rate
from sr.world import World

log = logging.getLogger(__name__)

Report = Callable[[dict[str, float]], None]


class TrialDivergedError(ValueError):
    """A loss or a gradient became NaN or infinite; says at which step and in which term."""


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
        parts = build_parts(config, world, ledger)
        try:
            return _train(parts, attempt, ledger, report)
        finally:
            parts.stream.close()


def _train(parts: Parts, attempt: int, ledger: Ledger, report: Report) -> Status:
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

    def __init__(self, progress: Progress) -> None:
        self._before = progress.seconds
        self._started = perf_counter()

    def seconds(self) -> float:
        return self._before + perf_counter() - self._started


def _met_cap(parts: Parts, clock: _Clock) -> bool:
    cap = parts.config.training.max_seconds
    return cap is not None and clock.seconds() >= cap


def _one_step(parts: Parts, ledger: Ledger, clock: _Clock) -> None:
    config, engine, adversary, progress = parts.config, parts.engine, parts.adversary, parts.progress
    started = perf_counter()
    rate = learning_rate(progress.step, config.optimizer, steps=config.training.steps)
    hr, lr = pictures_of(parts.stream.next_batch(), config, engine.world.device)
    views = _upscaled(parts, hr, lr)

    opponent: dict[str, Any] = {}
    if adversary.plays(progress.step):
        opponent = _discriminator_step(parts, views, rate)
        views = adversary.judge(views)
    criterion = parts.criterion_at(progress.step)

    loss, raw = criterion(views)
    # What the generator itself wants minimised, e.g. the error of its motion estimate.
    auxiliary = getattr(engine.module, "auxiliary_loss", None)
    loss = loss if auxiliary is None else loss + auxiliary
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
        if auxiliary is not None:
            row["auxiliary"] = auxiliary.item()
        ledger.append(row)


def _upscaled(parts: Parts, hr: Tensor, lr: Tensor) -> Views:
    """The generator's step forward: what the terms of the loss look at."""
    hr = judged_frames(hr, parts.config.model)
    if "sr_backward" not in parts.criterion.needs | parts.pixel_criterion.needs:
        return Views(parts.engine(lr), hr, lr)
    # The clip is played to its end and back, so that each frame is seen with two pasts.
    frames = lr.shape[1]
    both = parts.engine(torch.cat([lr, lr[:, :-1].flip(1)], dim=1))
    return Views(both[:, :frames], hr, lr, both[:, frames - 1 :].flip(1))


def _discriminator_step(parts: Parts, views: Views, rate: float) -> dict[str, Any]:
    try:
        return parts.adversary.learn(views.sr, views.hr, step=parts.progress.step, learning_rate=rate)
    except FloatingPointError as error:
        raise TrialDivergedError(
            f"{_where(parts)}: {error}; stopped before its update. Lower adversarial.learning_rate_factor, set "
            "adversarial.gradient_clip_norm, or change the game"
        ) from None


def _where(parts: Parts) -> str:
    return f"step {parts.progress.step + 1}, rank {parts.engine.world.rank}"


def _stop_if_not_finite(parts: Parts, loss: Tensor, raw: dict[str, Tensor]) -> None:
    if not parts.engine.agree(not bool(torch.isfinite(loss))):
        return
    broken = [f"{name}={value.item()}" for name, value in raw.items() if not torch.isfinite(value)]
    where = ", ".join(broken) or "the sum of all terms"
    raise TrialDivergedError(
        f"{_where(parts)}: the loss is {loss.item()} ({where}); stopped before the optimizer update. Lower "
        "optimizer.learning_rate, or change the term"
    )


def _which_gradient(parts: Parts, views: Views) -> str:
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


def _validate(parts: Parts, ledger: Ledger, clock: _Clock) -> dict[str, float]:
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


def _save(parts: Parts, ledger: Ledger, clock: _Clock) -> None:
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


def _resume(parts: Parts, ledger: Ledger) -> None:
    state = checkpoint.latest(ledger.checkpoints, on_damaged=log.warning)
    if state is None:
        return
    parts.engine.load_state_dict(state["engine"])
    parts.ema.module.load_state_dict(state["ema"])
    parts.stream.load_state_dict(state["stream"])
    parts.criterion.calibration = state["calibration"]
    parts.pixel_criterion.calibration = state["pixel_calibration"]
    parts.adversary.load_state_dict(state)
    parts.progress = Progress(state["step"], state["seconds"], state["step_seconds"])
    torch.set_rng_state(state["rng"])
    log.info("continuing from step %d", parts.progress.step)


def _status(parts: Parts, attempt: int, clock: _Clock, state: State, reason: str) -> Status:
    return Status(
        state,
        reason,
        step=parts.progress.step,
        seconds=clock.seconds(),
        attempt=attempt,
        stream_hash=parts.stream.stream_hash,
        damaged_clips=len(parts.stream.damaged),
    )
