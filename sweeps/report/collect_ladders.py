"""The ladders of a sweep as plain values."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from sr.ladder.records import StageRecord
from sweeps.report.data import CandidateLadders, LadderStage, LadderTrial
from sweeps.report.ladder import Ladder, read_ladder
from sweeps.report.ladder_words import where
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep


def collect_ladders(trials: Sequence[PlannedTrial], sweep: Sweep) -> tuple[CandidateLadders, ...]:
    """The ladders among these trials, by candidate."""
    by_candidate: dict[str, list[PlannedTrial]] = defaultdict(list)
    for trial in trials:
        if trial.config.ladder is not None:
            by_candidate[trial.candidate].append(trial)
    return tuple(_candidate(name, climbed, sweep) for name, climbed in by_candidate.items())


def _candidate(name: str, trials: Sequence[PlannedTrial], sweep: Sweep) -> CandidateLadders:
    read: list[LadderTrial] = []
    metric = None
    for trial in trials:
        folder = sweep.ledger(trial).folder
        try:
            ladder = read_ladder(folder)
        except ValueError as error:
            # One damaged record is no reason for a sweep without a report.
            read.append(_trial(trial, folder, outcome=str(error)))
            continue
        metric = metric or ladder.metric
        read.append(_trial(trial, folder, ladder=ladder, outcome=where(ladder)))
    return CandidateLadders(name, metric, tuple(read))


def _trial(trial: PlannedTrial, folder: Path, *, outcome: str, ladder: Ladder | None = None) -> LadderTrial:
    records = ladder.records if ladder else ()
    return LadderTrial(
        trial_id=trial.trial_id,
        settings=trial.settings,
        stages=tuple(map(_stage, records)),
        outcome=outcome,
        why=ladder.why if ladder else "",
        findings=tuple(f"stage {record.stage}: {found}" for record in records for found in record.findings),
        command=shlex.join(["srloss", "ladder", "show", str(folder)]),
    )


def _stage(record: StageRecord) -> LadderStage:
    perceptual, fresh = record.reading.perceptual, record.fresh
    return LadderStage(
        quality=record.quality.value,
        discriminator=record.reading.discriminator.value,
        perceptual=None if perceptual is None else perceptual.value,
        fresh=None if fresh is None else fresh.value,
    )
