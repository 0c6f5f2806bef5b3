"""The loop of a training: steps, validations and checkpoints, from its newest checkpoint to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from shards.stream import Batch
from sr import checkpoint
from sr.config import TrialConfig
from sr.evaluate import ClipPictures, as_validation, evaluate
from sr.ledger import Ledger, State, Status
from sr.metrics import METRICS
from sr.parts import Parts, Progress, build_parts
from sr.previews import Previews
from sr.step import train_step
from sr.usage import forget_peak, memory_used
from sr.world import World

log = logging.getLogger(__name__)

Report = Callable[[dict[str, float]], None]
Stop = Callable[[], str]
Warn = Callable[[str], None]


class Watch(Protocol):
    """Looks on at the validations of a training, and may end it. Its methods are collective but for `see`."""

    def see(self, item: ClipPictures) -> None:
        """Sees the pictures of a validation clip, on the rank that has it."""
        ...

    def scores(self) -> dict[str, float]:
        """What it makes of the clips seen since the last call, for the ledger's row."""
        ...

    def verdict(self) -> str:
        """Why the training ends here, or empty: asked after each validation, and when an attempt begins."""
        ...


class NoWatch:
    """Of a training that goes on for as many steps as it is told."""

    def __init__(self, parts: Parts) -> None:
        del parts

    def see(self, item: ClipPictures) -> None:
        """Looks away."""
        del item

    def scores(self) -> dict[str, float]:
        """Nothing to add."""
        return {}

    def verdict(self) -> str:
        """It goes on."""
        return ""


def run_loop(
    config: TrialConfig,
    *,
    world: World,
    ledger: Ledger,
    report: Report,
    stop: Stop,
    warn: Warn,
    watch: Callable[[Parts], Watch] = NoWatch,
    begin: Callable[[Parts], None] = lambda _parts: None,
) -> Status:
    """Builds a training from its configuration and runs it to its end; see `sr.train.train`.

    Args:
        config: The complete configuration; `ladder` is not looked at.
        world: This process's place among the ranks.
        ledger: Where to write, of this attempt.
        report: See `train`.
        stop: See `train`.
        warn: See `train`.
        watch: Makes who looks on.
        begin: Called where there is no checkpoint to continue from.
    """
    parts = build_parts(config, world, ledger)
    try:
        return _Loop(parts, report, stop, warn, watch(parts), begin).run()
    finally:
        parts.stream.close()


class _Loop:
    """A training in motion."""

    def __init__(
        self,
        parts: Parts,
        report: Report,
        stop: Stop,
        warn: Warn,
        watch: Watch,
        begin: Callable[[Parts], None],
    ) -> None:
        config = parts.config
        self.parts = parts
        self.config = config
        self.world = parts.world
        self.ledger = parts.ledger
        self._report = report
        self._stop = stop
        self._warn = warn
        self._watch = watch
        self._previews = Previews(parts.validation_clips, config.tracking.preview_clips, scale=config.scale)
        self._writer = checkpoint.NoWriter()
        if self.world.is_first:
            keep = config.training.keep_checkpoints
            self._writer = checkpoint.Writer(self.ledger.checkpoints, keep=keep, on_problem=self._tell)
        if not self._resume():
            begin(parts)
        self._seconds_before = parts.progress.seconds
        self._started = perf_counter()

    def run(self) -> Status:
        """Steps, validations and checkpoints until the end, the time limit, or a request to stop."""
        config, progress = self.config.training, self.parts.progress
        self._begin()
        try:
            metrics = self._missed_validation()
            ended = self._judged(metrics)
            while progress.step < config.steps and not ended:
                batch, why = self._next_batch()
                if batch is None:
                    break
                self._log(train_step(self.parts, batch))
                progress.step += 1
                is_validated = progress.step % config.validate_every == 0 or progress.step == config.steps
                if progress.step % config.checkpoint_every == 0 or is_validated:
                    self._save()
                metrics = self._validate() if is_validated else None
                ended = self._judged(metrics) if is_validated else ""
            else:
                return self._finish(metrics, ended or all_steps(self.config))
        except SystemExit:
            # Only `report` raises it, so everything is saved.
            # Whether this was the scheduler's judgement or an interrupted sweep is known to whoever stopped it.
            self.ledger.set_status(self._status(State.PENDING, f"stopped at step {progress.step}"))
            raise
        if self._writer.step != progress.step:
            self._save()
        if why:
            return self._interrupted(why)
        reason = f"wall-time cap of {config.max_seconds:g} s at step {progress.step} of {config.steps}"
        return self._finish(self._validate(), reason, met_wall_time_cap=True)

    def _begin(self) -> None:
        progress = self.parts.progress
        forget_peak(self.world.device)
        self.ledger.set_status(self._status(State.RUNNING, ""))
        log.info(
            "attempt %d, rank %d of %d on %s, from step %d",
            self.ledger.attempt,
            self.world.rank,
            self.world.world_size,
            self.world.device,
            progress.step,
        )
        self.ledger.append(
            {
                "kind": "attempt",
                "step": progress.step,
                "engine": type(self.parts.engine).__name__.removesuffix("Engine").lower(),
                "ranks": self.world.world_size,
                "device": str(self.world.device),
            }
        )

    def _missed_validation(self) -> dict[str, float] | None:
        """The validation that belongs to the checkpoint the trial goes on from, if it died between the two."""
        config, step = self.config.training, self.parts.progress.step
        is_due = step > 0 and (step % config.validate_every == 0 or step == config.steps)
        if not is_due:
            return None
        rows = {row["step"]: row for row in self.ledger.rows("validation")}
        # Decided together: a ledger on a network file system may look different from elsewhere.
        if self.world.gather(step in rows)[0]:
            return None
        return self._validate()

    def _judged(self, metrics: dict[str, float] | None) -> str:
        """Why the training ends here, or empty; a validation after which it goes on is reported."""
        ended = self._watch.verdict()
        if metrics is not None and not ended and self.parts.progress.step < self.config.training.steps:
            self._reported(metrics)
        return ended

    def _next_batch(self) -> tuple[Batch | None, str]:
        """This rank's part of the next batch, or None where ranks agree to end here; then also why, if asked to.

        Raises:
            ValueError: On all ranks, where the data of any is damaged.
        """
        self.parts.at("reading")
        cap = self.config.training.max_seconds
        before = self.parts.stream.state_dict()
        batch, problem = None, ""
        why = self._stop()
        met_cap = cap is not None and self._seconds() >= cap
        if not why and not met_cap:
            try:
                batch = self.parts.stream.next_batch()
            except ValueError as error:
                problem = str(error)
        self.parts.at("deciding")
        if not self.world.agree(batch is None):
            return batch, ""
        # What this rank may have read already belongs to the next attempt.
        self.parts.stream.load_state_dict(before)
        problems, reasons = zip(*self.world.gather((problem, why)), strict=True)
        for rank, text in enumerate(problems):
            if text:
                raise ValueError(text if self.world.is_alone else f"rank {rank}: {text}")
        return None, next((reason for reason in reasons if reason), "")

    def _log(self, row: dict[str, Any] | None) -> None:
        if row is None:
            return
        progress, stream = self.parts.progress, self.parts.stream
        self.ledger.append(
            {
                "kind": "train",
                "step": progress.step + 1,
                "samples": stream.samples_seen,
                "seconds": round(self._seconds(), 3),
                **row,
                "images_per_second": round(
                    (progress.step + 1) * self.config.training.global_batch_size / progress.step_seconds, 2
                ),
                **memory_used(self.world.device),
            }
        )

    def _validate(self) -> dict[str, float]:
        """Measures the averaged weights on the validation clips, shared among ranks; writes and returns the row."""
        parts, progress = self.parts, self.parts.progress
        clips = parts.validation_clips
        self.parts.at("validating")
        rows = evaluate(
            parts.ema.module,
            parts.dataset,
            clips[self.world.rank :: self.world.world_size],
            self.config,
            device=self.world.device,
            metrics=self.config.evaluation.validation,
            on_clip=self._see,
        )
        by_clip = {row["clip"]: row for shared in self.world.gather(rows) for row in shared}
        scores = as_validation([by_clip[clip.clip_id] for clip in clips]) | self._watch.scores()
        row = {
            "step": progress.step,
            "samples": parts.stream.samples_seen,
            "seconds": round(self._seconds(), 3),
            **scores,
        }
        # Before the row: whoever reads that finds its pictures.
        self._previews.keep(self.ledger, progress.step, self.world)
        self.ledger.append({"kind": "validation", **row}, sync=True)
        self.ledger.set_status(self._status(State.RUNNING, ""))
        if self.world.is_first and self._is_best():
            self._writer.mark_best()
        log.info(
            "step %d: %s", progress.step, ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        )
        return {"step": progress.step, **scores}

    def _see(self, item: ClipPictures) -> None:
        self.parts.at(f"validating {item.clip.clip_id}")
        self._watch.see(item)
        self._previews.see(item)

    def _is_best(self) -> bool:
        evaluation = self.config.evaluation
        name = evaluation.best or evaluation.validation[0]
        # What was measured before the trial went on from another one's checkpoint belongs to other weights.
        began = max((row["step"] for row in self.ledger.rows("perturbation")), default=0)
        now = self.parts.progress.step
        rows = [row for row in self.ledger.rows("validation") if began < row["step"] <= now]
        return best_step(rows, name) == now

    def _reported(self, metrics: dict[str, float]) -> None:
        """Tells the scheduler, on the first rank; its word to stop is for all."""
        # Whoever hears of a validation may stop the trial there, and kill its process.
        self._writer.finish()
        is_over = False
        if self.world.is_first:
            try:
                self._report(metrics)
            except SystemExit:
                is_over = True
        if self.world.agree(is_over):
            raise SystemExit

    def _finish(self, metrics: dict[str, float] | None, reason: str, **facts: bool) -> Status:
        error = self._writer.finish()
        if error is not None:
            raise error
        self._count_damage()
        status = dataclasses.replace(self._status(State.FINISHED, reason), **facts)
        self.ledger.set_status(status)
        # Only now: a scheduler that thinks little of the last validation cannot turn the end into an early stop.
        if metrics is not None and self.world.is_first:
            # Nor may it end one rank only.
            with contextlib.suppress(SystemExit):
                self._report(metrics)
        return status

    def _interrupted(self, why: str) -> Status:
        error = self._writer.finish()
        unsaved = f", without a checkpoint of it: {error.strerror}" if error is not None else ""
        reason = f"interrupted by {why} at step {self.parts.progress.step}{unsaved}"
        status = self._status(State.PENDING, reason)
        self.ledger.set_status(status)
        return status

    def _save(self) -> None:
        parts, progress = self.parts, self.parts.progress
        self.parts.at("saving")
        self._count_damage()
        progress.seconds = self._seconds()
        state: dict[str, Any] = {
            "engine": parts.engine.state_dict(),
            "ema": parts.ema.module.state_dict(),
            "stream": parts.stream.state_dict(),
            "calibration": parts.criterion.calibration,
            "pixel_calibration": parts.pixel_criterion.calibration,
            **parts.adversary.state_dict(),
            "seconds": progress.seconds,
            "step_seconds": progress.step_seconds,
        }
        self._writer.save(progress.step, state)

    def _resume(self) -> bool:
        """Goes back to the newest sound checkpoint; whether there is one."""
        parts = self.parts
        state = checkpoint.latest(self.ledger.checkpoints, on_damaged=self._tell)
        # Of the same step on all ranks: a file may be damaged, or appear, for one of them only.
        steps = self.world.gather(0 if state is None else int(state["step"]))
        if len(set(steps)) > 1:
            raise OSError(
                f"{self.ledger.checkpoints}: ranks see different newest checkpoints, of steps {steps}"
            )
        for row in self.ledger.rows("perturbation")[-1:]:
            if steps[0] < row["step"]:
                raise ValueError(
                    f"{self.ledger.checkpoints}: no sound checkpoint since this trial went on from another one's at step "
                    f"{row['step']}, which it cannot repeat by itself; delete its sweep's folder and start that anew"
                )
        if state is None:
            return False
        parts.engine.load_state_dict(state["engine"])
        parts.ema.module.load_state_dict(state["ema"])
        parts.stream.load_state_dict(state["stream"])
        parts.criterion.calibration = state["calibration"]
        parts.pixel_criterion.calibration = state["pixel_calibration"]
        parts.adversary.load_state_dict(state)
        parts.progress = Progress(state["step"], state["seconds"], state["step_seconds"])
        self._writer.step = state["step"]
        log.info("continuing from step %d", state["step"])
        return True

    def _count_damage(self) -> None:
        """Each rank meets its own damaged clips; the budget is that of the trial."""
        policy, stream = self.config.data, self.parts.stream
        if policy.on_damage == "substitute":
            found = self.world.gather(dict(stream.damaged))
            stream.note_damage({key: what for one in found for key, what in one.items()})

    def _tell(self, problem: str) -> None:
        """Writes down a problem that the trial survives, and says it aloud."""
        log.warning(problem)
        if self.world.is_first:
            self._warn(problem)
        # The disk that a checkpoint does not fit on may have no room for this line either.
        try:
            self.ledger.append({"kind": "problem", "step": self.parts.progress.step, "problem": problem})
        except OSError as error:
            log.warning("%s: %s", self.ledger.folder, error)

    def _seconds(self) -> float:
        """Wall seconds of the loop, continuing from what earlier attempts spent."""
        return self._seconds_before + perf_counter() - self._started

    def _status(self, state: State, reason: str) -> Status:
        return Status(
            state,
            reason,
            step=self.parts.progress.step,
            seconds=self._seconds(),
            attempt=self.ledger.attempt,
            stream_hash=self.parts.stream.stream_hash,
            damaged_clips=len(self.parts.stream.damaged),
        )


def all_steps(config: TrialConfig) -> str:
    """Why a training ended that nothing ended before."""
    return f"all {config.training.steps} steps"


def best_step(rows: list[dict[str, Any]], name: str) -> int:
    """The step of the validation that is best on a metric; the earliest of equals. 0 where there is none."""
    goodness = METRICS[name].goodness
    return min(rows, key=lambda row: (-goodness(row[f"val/{name}"]), row["step"]))["step"] if rows else 0
