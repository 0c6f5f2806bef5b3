"""One step of a trial: the discriminator's update, then the generator's, on one batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from shards.stream import Batch
from sr import collective
from sr.data import judged_frames
from sr.losses.term import Views
from sr.parts import Parts, pictures_of
from sr.schedule import learning_rate


class TrialDivergedError(ValueError):
    """A loss or a gradient became NaN or infinite; says at which step and in which term."""


@dataclass(frozen=True)
class _Part:
    """A part of this rank's share of the batch, and what came of it."""

    views: Views
    loss: Tensor
    raw: dict[str, Tensor]
    auxiliary: Tensor | None


def train_step(parts: Parts, batch: Batch) -> dict[str, Any] | None:
    """Makes one step; returns the ledger's row where one is due.

    Raises:
        TrialDivergedError: On all ranks, where a loss or a gradient is not finite on any.
    """
    config, engine, adversary, progress = parts.config, parts.engine, parts.adversary, parts.progress
    started = perf_counter()
    step = progress.step
    rate = learning_rate(step, config.optimizer, steps=config.training.steps)
    parts.at("computing")
    pictures = _micro_batches(parts, batch)
    collective.begin_step(config.seed, step, rank=parts.world.rank, samples=len(pictures[0][0]))

    opponent: dict[str, Any] = {}
    first_views: Views | None = None
    if adversary.plays(step):
        opponent, first_views = _discriminator_step(parts, pictures, rate)
    is_logged = (step + 1) % config.training.log_every == 0
    observed: list[Tensor] = []
    accounting_seconds = 0.0
    done: list[_Part] = []
    for number, (hr, lr) in enumerate(pictures):
        with engine.micro_batch(is_last=number == len(pictures) - 1):
            part = _forward(parts, first_views or _upscaled(parts, hr, lr))
            started_accounting = perf_counter()
            if is_logged:
                observed.append(parts.criterion_at(step).observe(part.views, part.raw))
            accounting_seconds += perf_counter() - started_accounting
            parts.at("taking gradients")
            engine.backward(part.loss / len(pictures))
        done.append(part)
    norm = _update(parts, done, rate)
    progress.step_seconds += perf_counter() - started - accounting_seconds
    if not is_logged:
        return None
    row = {
        "loss": _mean(parts, [part.loss for part in done]),
        "terms": _terms(parts, done[0].raw, observed),
        "gradient_norm": norm.item(),
        "learning_rate": rate,
    }
    if opponent:
        row["discriminator"] = opponent
    auxiliary = [part.auxiliary for part in done if part.auxiliary is not None]
    return row | {"auxiliary": _mean(parts, auxiliary)} if auxiliary else row


def _micro_batches(parts: Parts, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """HR and LR of each part of this rank's share, HR as far as the generator answers for it."""
    hr, lr = pictures_of(batch, parts.config, parts.world.device)
    hr = judged_frames(hr, parts.config.model)
    count = parts.config.training.accumulation_steps
    return list(zip(hr.chunk(count), lr.chunk(count), strict=True))


def _upscaled(parts: Parts, hr: Tensor, lr: Tensor) -> Views:
    """The generator's step forward: what the terms of the loss look at."""
    if "sr_backward" not in parts.criterion.needs | parts.pixel_criterion.needs:
        return Views(parts.engine(lr), hr, lr)
    # The clip is played to its end and back, so that each frame is seen with two pasts.
    frames = lr.shape[1]
    both = parts.engine(torch.cat([lr, lr[:, :-1].flip(1)], dim=1))
    return Views(both[:, :frames], hr, lr, both[:, frames - 1 :].flip(1))


def _discriminator_step(
    parts: Parts, pictures: list[tuple[Tensor, Tensor]], rate: float
) -> tuple[dict[str, Any], Views | None]:
    """The opponent's update; returns its row, and the generator's pass forward where the generator can go on with it."""
    views = None
    if len(pictures) == 1:
        views = _upscaled(parts, *pictures[0])
        pairs = [(views.sr, views.hr)]
    else:
        # It must learn from the whole batch before the generator hears its judgement of any part of it.
        with torch.no_grad():
            pairs = [(_upscaled(parts, hr, lr).sr, hr) for hr, lr in pictures]
    try:
        return parts.adversary.learn(pairs, step=parts.progress.step, learning_rate=rate), views
    except FloatingPointError as error:
        raise TrialDivergedError(
            f"{_where(parts)}: {error}; stopped before its update. Lower adversarial.learning_rate_factor, set "
            "adversarial.gradient_clip_norm, or change the game"
        ) from None


def _forward(parts: Parts, views: Views) -> _Part:
    if parts.adversary.plays(parts.progress.step):
        views = parts.adversary.judge(views)
    loss, raw = parts.criterion_at(parts.progress.step)(views)
    # What the generator itself wants minimised, e.g. the error of its motion estimate.
    auxiliary = getattr(parts.engine.module, "auxiliary_loss", None)
    return _Part(views, loss if auxiliary is None else loss + auxiliary, raw, auxiliary)


def _update(parts: Parts, done: list[_Part], rate: float) -> Tensor:
    """The generator's update, unless something is not finite; returns the norm of its gradient."""
    engine, world = parts.engine, parts.world
    parts.at("updating")
    if world.agree(not all(bool(torch.isfinite(part.loss)) for part in done)):
        broken = world.gather([text for part in done for text in _broken_values(part)])
        rank = next(number for number, texts in enumerate(broken) if texts)
        raise TrialDivergedError(
            f"{_where(parts, rank)}: the loss is not finite ({broken[rank][0]}); stopped before the optimizer update. "
            "Lower optimizer.learning_rate, or change the term"
        )
    norm = engine.step(rate)
    if not torch.isfinite(norm):
        raise TrialDivergedError(_which_gradient(parts, done[-1].views))
    with engine.whole():
        parts.ema.update(engine.module, parts.progress.step)
    return norm


def _broken_values(part: _Part) -> list[str]:
    if torch.isfinite(part.loss):
        return []
    broken = [f"{name}={value.item()}" for name, value in part.raw.items() if not torch.isfinite(value)]
    return [", ".join(broken) or f"the sum of all terms={part.loss.item()}"]


def _which_gradient(parts: Parts, views: Views) -> str:
    again = dataclasses.replace(views, sr=views.sr.detach().requires_grad_())
    if parts.adversary.plays(parts.progress.step):
        again = parts.adversary.judge(again)
    criterion = parts.criterion_at(parts.progress.step)
    own = criterion.gradient_norms(again, criterion(again)[1])
    norms = parts.world.gather(own)
    for rank, found in enumerate(norms):
        if broken := [name for name, norm in found.items() if not math.isfinite(norm)]:
            where = f"{_where(parts, rank)}: the gradient of term {', '.join(broken)}"
            break
    else:
        where = f"{_where(parts)}: the gradient inside the network"
    return f"{where} is not finite; stopped before the optimizer update. Lower optimizer.learning_rate, or change the term"


def _where(parts: Parts, rank: int = 0) -> str:
    step = f"step {parts.progress.step + 1}"
    return step if parts.world.world_size == 1 else f"{step}, rank {rank}"


def _mean(parts: Parts, values: list[Tensor]) -> float:
    """Over parts and ranks."""
    return parts.world.mean(torch.stack([value.detach() for value in values]).mean()).item()


def _terms(parts: Parts, names: Iterable[str], observed: list[Tensor]) -> dict[str, dict[str, float]]:
    """Values and gradient shares of terms, of the whole batch."""
    average = parts.world.mean(torch.stack(observed).mean(dim=0))
    terms = parts.criterion_at(parts.progress.step).account(names, average)
    return {name: dataclasses.asdict(value) for name, value in terms.items()}
