"""Climbing the ladder.

Train a generator and a discriminator with an adversarial and a perceptual loss. When they have converged, freeze the
discriminator: it is the new perceptual loss. Train again from scratch. Go on until both networks are equally good at
telling super-resolved from real pictures.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from sr import checkpoint
from sr.adversary import Adversary
from sr.config import TrialConfig, parse_trial, to_plain
from sr.configfile import ConfigError
from sr.data import held_out, open_dataset
from sr.ladder.detectors import find, scale_drift
from sr.ladder.examine import decided, examine, quality_metric
from sr.ladder.probe import patch_side
from sr.ladder.records import Outcome, StageRecord, read_records, stage_folder, write_record
from sr.ladder.remedies import CONSISTENCY, applied, problems
from sr.ladder.stages import (
    StageLedger,
    calibrated,
    final_state,
    later_term,
    seconds_of,
    stage_config,
    stage_steps,
    stand_for,
    steps_of,
)
from sr.ladder.watch import StageWatch
from sr.ledger import Ledger, Onlooker, State, Status
from sr.loop import Report, Stop, Warn, run_loop
from sr.parts import Parts
from sr.step import TrialDivergedError
from sr.world import World

log = logging.getLogger(__name__)

_FEWEST_PICTURES = 2


def climb(
    config: TrialConfig, *, world: World, ledger: Ledger, report: Report, stop: Stop, warn: Warn
) -> Status:
    """Trains a trial with a ladder to its end, continuing where it was; see `sr.train.train`."""
    trial = _Climb(config, world, ledger, report, stop, warn)
    trial.check()
    while not trial.is_at_the_top:
        status = trial.train_stage()
        if status.state is not State.FINISHED:
            return status
        try:
            trial.examine_stage(status)
        except _InterruptedError as why:
            return trial.interrupted(str(why))
    return trial.end()


class _InterruptedError(Exception):
    """Somebody asked all ranks to stop, while a stage was examined; says who."""


class _Climb:
    """A ladder in motion: the stages that are done, and the one that is not."""

    def __init__(
        self, config: TrialConfig, world: World, ledger: Ledger, report: Report, stop: Stop, warn: Warn
    ) -> None:
        assert config.ladder is not None, "asked for by the caller"
        self._config, self._ladder = config, config.ladder
        self._world, self._ledger = world, ledger
        self._report, self._stop, self._warn = report, stop, warn
        self._is_stopped = False
        # As the first rank sees them: on a network file system others may be late.
        self._records: list[StageRecord] = world.gather(
            read_records(ledger.folder) if world.is_first else []
        )[0]

    def check(self) -> None:
        """Checks the settings, and says what can be decided on the validation pictures that there are.

        Raises:
            ValueError: It cannot work, or nothing at all can be compared.
        """
        clips = held_out(open_dataset(self._config), self._config).val
        probe = self._ladder.probe
        probe = probe.model_copy(update={"patch_size": patch_side(clips, probe.patch_size)})
        if faults := problems(self._config, self._ladder.model_copy(update={"probe": probe})):
            raise ConfigError(faults)
        pictures = {clip.sample.source for clip in clips}
        if len(pictures) < _FEWEST_PICTURES:
            raise ValueError(
                f"ladder: the data set has {len(pictures)} validation picture, and networks are read on pictures that their "
                "reader has not seen; pack more pictures, or other --split shares"
            )
        least = self._ladder.probe.least_sources
        if len(pictures) < least and self._world.is_first:
            told = (
                f"ladder: {len(pictures)} validation pictures; below {least} (ladder.probe.least_sources) nothing about its "
                "networks can be decided, so it ends by its budget"
            )
            log.warning(told)
            self._warn(told)

    @property
    def is_at_the_top(self) -> bool:
        """Whether the ladder has ended."""
        return bool(self._records) and self._records[-1].is_last

    def train_stage(self) -> Status:
        """Trains generator and discriminator of the next stage, beside the frozen discriminator of the one before."""
        stage = len(self._records)
        own = self._open_stage(stage)
        status = self._world.gather(own.status() if self._world.is_first else None)[0]
        assert status is not None, "the first rank has made it"
        if status.state is State.FINISHED and self._is_sound(own, status.step):
            # An earlier attempt trained it, and ended before it was examined.
            return status
        config = self._config_of(own, stage)
        try:
            return run_loop(
                config,
                world=self._world,
                ledger=own,
                report=self._passed_on,
                stop=self._stop,
                warn=self._warn,
                watch=lambda parts: StageWatch(
                    parts,
                    self._ladder,
                    quality=quality_metric(config, self._ladder),
                    tell=lambda problem: self._tell(own, parts.progress.step, f"stage {stage}: {problem}"),
                ),
                begin=self._begin,
            )
        except TrialDivergedError as error:
            step = own.status().step
            own.set_status(dataclasses.replace(own.status(), state=State.FAILED, reason=str(error)))
            message = f"stage {stage} diverged: {error}"
            self._ledger.append(
                {
                    "kind": "stage",
                    "step": self._steps + step,
                    "stage": stage,
                    "outcome": str(Outcome.DIVERGED),
                    "message": message,
                },
                sync=True,
            )
            raise TrialDivergedError(message) from None

    def examine_stage(self, status: Status) -> None:
        """Compares the discriminator with the perceptual network, and decides whether there is a further stage."""
        stage, folder = len(self._records), self._ledger.folder
        config = self._config_of(Ledger(stage_folder(folder, stage)), stage)
        # The first rank has come to its end when its last checkpoint is written.
        self._at(f"stage {stage}: examining", may_stop=True)
        record = examine(
            config,
            self._ladder,
            trial=self._ledger,
            before=self._records,
            status=status,
            world=self._world,
            at=lambda where: self._at(f"stage {stage}: {where}", may_stop=True),
        )
        record = decided(record, self._records, self._ladder, no_budget=self._spent([*self._records, record]))
        self._records.append(record)
        if self._world.is_first:
            message = _in_words(record)
            log.info(message)
            row = {"kind": "stage", "step": self._steps, "stage": stage, "message": message}
            row |= {"outcome": str(record.ended), "comparison": str(record.comparison)}
            row["decision"] = None if record.decision is None else str(record.decision)
            self._ledger.append(row, sync=True)
            stand_for(folder, stage)
            # The last of all: a stage that has it is done, and all that follows from it can be seen.
            write_record(folder, record)
        # Asked for when its last validation was reported; where the ladder has ended all the same, the end is the end.
        if self._world.agree(self._is_stopped) and not record.is_last:
            self._stands(State.PENDING, f"stopped at step {self._steps}")
            raise SystemExit

    def interrupted(self, why: str) -> Status:
        """Writes down that the examination of a stage is to be done again."""
        return self._stands(
            State.PENDING, f"interrupted by {why} while stage {len(self._records)} was examined"
        )

    def end(self) -> Status:
        """Writes down how the ladder ended."""
        last, count = self._records[-1], len(self._records)
        assert last.decision is not None, "a ladder ends by a decision"
        reason = f"{in_words(last.decision)} after {count} stage{'s' * (count > 1)}: {last.decision_why}"
        return self._stands(State.FINISHED, reason)

    def _stands(self, state: State, reason: str) -> Status:
        """The trial's status, written and equal on all ranks; of the stream it says what the last stage said."""
        spent, cap = seconds_of(self._records), self._config.training.max_seconds
        before = self._ledger.status()
        status = dataclasses.replace(
            before,
            state=state,
            reason=reason,
            attempt=self._ledger.attempt,
            seconds=max(before.seconds, spent),
            met_wall_time_cap=before.met_wall_time_cap or (cap is not None and spent >= cap),
        )
        self._ledger.set_status(status)
        return self._world.gather(status)[0]

    # --- how a stage begins ---

    def _open_stage(self, stage: int) -> Ledger:
        """The stage's folder, made where it is new."""
        folder = stage_folder(self._ledger.folder, stage)
        is_there = self._world.gather(Ledger(folder).exists())[0]
        config = None if is_there else self._next_config(stage)
        if not self._world.is_first:
            onlooker = Onlooker(folder)
            onlooker.attempt = self._world.gather(0)[0]
            return onlooker
        own = StageLedger(self._ledger, stage, self._records)
        if config is not None:
            own.create(config, command=self._ledger.command())
        if stage == 0 and not self._ledger.checkpoints.exists():
            stand_for(self._ledger.folder, 0)
        self._world.gather(own.begin_attempt())
        return own

    def _is_sound(self, own: Ledger, step: int) -> bool:
        """Whether the checkpoint that a stage ended with can be read; if not, it goes on from the one before."""
        try:
            checkpoint.load(checkpoint.path_of(own.checkpoints, step))
            is_sound = True
        except ValueError:
            is_sound = False
        return self._world.gather(is_sound)[0]

    def _next_config(self, stage: int) -> TrialConfig:
        """What the stage minimises: stage 0 the trial's loss, a later one looks through the discriminator before it."""
        if stage == 0:
            return stage_config(self._config, self._ladder, (), perceptual=None)
        config = self._remedied(stage)
        term = later_term(self._config, self._ladder, self._ledger.folder, stage)
        if term is not None:
            # Whatever it comes through: not without the weights that the stage ended with.
            final_state(self._ledger.folder, self._records[-1])
            term = calibrated(term, self._config, self._ladder, self._world, self._ledger)
            scales = [record.calibration for record in self._records if record.calibration is not None]
            drift = scale_drift([*scales, *([term["calibration"]] if term["calibration"] else [])])
            if drift is not None:
                self._tell(self._ledger, self._steps, f"stage {stage}: {drift.message}")
        return stage_config(config, self._ladder, self._records, perceptual=term)

    def _remedied(self, stage: int) -> TrialConfig:
        """The trial's configuration with the remedies that the stages before have come to need."""
        before = Ledger(stage_folder(self._ledger.folder, stage - 1))
        config = before.config()
        quality = quality_metric(config, self._ladder)
        rows = (before.rows("validation"), before.rows("train"))
        found = self._world.gather(find(*rows, self._ladder.remedies, quality=quality))[0]
        config = applied(config, found, self._ladder.remedies)
        own = [term for term in self._config.loss.terms if term.type != CONSISTENCY]
        kept = [term for term in config.loss.terms if term.type == CONSISTENCY]
        loss = self._config.loss.model_copy(update={"terms": (*own, *kept)})
        return self._config.model_copy(update={"loss": loss, "adversarial": config.adversarial})

    def _config_of(self, own: Ledger, stage: int) -> TrialConfig:
        """The stage's configuration, as the first rank reads it."""
        plain: dict[str, Any] = self._world.gather(to_plain(own.config()) if self._world.is_first else {})[0]
        term = later_term(self._config, self._ladder, self._ledger.folder, stage) if stage else None
        for written in plain["loss"]["terms"]:
            # The run store may have moved since.
            if term is not None and "path" in term and written["type"] == term["type"]:
                written["path"] = term["path"]
        return parse_trial(plain)

    def _begin(self, parts: Parts) -> None:
        """The stream runs on from the stage before; the weights only where asked to."""
        if not self._records:
            return
        state = final_state(self._ledger.folder, self._records[-1])
        parts.stream.load_state_dict(state["stream"])
        if self._ladder.begin == "scratch":
            return
        assert isinstance(parts.adversary, Adversary), "a ladder has an opponent"
        both = ((parts.engine, state["engine"]), (parts.adversary.engine, state["discriminator"]))
        for engine, before in both:
            engine.load_state_dict(engine.state_dict() | {"module": before["module"]})
        parts.ema.module.load_state_dict(state["ema"])
        parts.adversary.ema.module.load_state_dict(state["discriminator_ema"])

    # --- what it shares with the trial ---

    @property
    def _steps(self) -> int:
        """Of the stages that are done."""
        return steps_of(self._records)

    def _spent(self, records: Sequence[StageRecord]) -> str:
        """What has run out after these stages, in words; empty while there is enough for another."""
        training = self._config.training
        if len(records) == self._ladder.stages:
            return f"all {len(records)} stages" if len(records) > 1 else "its only stage"
        if training.max_seconds is not None and seconds_of(records) >= training.max_seconds:
            return f"the wall-time cap of {training.max_seconds:g} s"
        if not stage_steps(self._config, self._ladder, records):
            return f"the budget of {training.steps} steps"
        return ""

    def _passed_on(self, metrics: dict[str, float]) -> None:
        try:
            self._report({**metrics, "step": metrics["step"] + self._steps})
        except SystemExit:
            self._is_stopped = True
            raise

    def _tell(self, ledger: Ledger, step: int, problem: str) -> None:
        log.warning(problem)
        if self._world.is_first:
            self._warn(problem)
            row = {"kind": "problem", "step": step, "problem": problem, "is_finding": True}
            ledger.append(row, sync=True)

    def _at(self, where: str, *, may_stop: bool = False) -> None:
        self._world.at(where)
        self._ledger.beat(where)
        if may_stop and (why := next(filter(None, self._world.gather(self._stop())), "")):
            raise _InterruptedError(why)


def in_words(outcome: Outcome) -> str:
    """For people."""
    return str(outcome).replace("_", " ")


def _in_words(record: StageRecord) -> str:
    ended = "converged" if record.ended is Outcome.CONVERGED else f"not converged ({record.ended_why})"
    end = f"the ladder ends, {in_words(record.decision)}" if record.is_last and record.decision else "goes on"
    return f"stage {record.stage}: {ended} after {record.steps} steps; {record.decision_why}; {end}"
