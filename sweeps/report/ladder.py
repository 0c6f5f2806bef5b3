"""A trial's ladder as it stands now: read from its folder, for the command line, its own page and the report of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr.config import TrialConfig
from sr.ladder.records import Outcome, StageRecord, read_records, stage_folder
from sr.ledger import Ledger, Status, open_trial
from sr.lock import is_held
from sr.metrics import METRICS
from sweeps.report.data import Estimate, MetricInfo


@dataclass(frozen=True, slots=True)
class Ladder:
    """What is known of a trial's ladder."""

    folder: Path
    config: TrialConfig
    status: Status
    is_running: bool
    metric: MetricInfo | None
    """In which quality is told; None before the first stage has ended."""
    records: tuple[StageRecord, ...]
    """Of the stages that have ended."""
    tests: tuple[Estimate | None, ...]
    """Quality of each on the test clips; None where it was not measured."""
    whys: tuple[str, ...]
    """Why there is no such quality; empty where there is."""
    last_row: dict[str, Any] | None
    """The newest row of training or validation."""

    @property
    def outcome(self) -> Outcome | None:
        """How the ladder ended; None where it goes on, or was ended from outside."""
        return self.records[-1].decision if self.records and self.records[-1].is_last else None

    @property
    def why(self) -> str:
        """The reason of that, with the numbers; empty where there is no outcome."""
        return self.records[-1].decision_why if self.outcome is not None else ""


def read_ladder(folder: Path) -> Ladder:
    """Reads a trial's ladder.

    Raises:
        ValueError: There is no trial, it is no ladder, or a record is damaged.
    """
    ledger, config = open_trial(folder)
    if config.ladder is None:
        raise ValueError(
            f"{folder}: this trial is no ladder (its config has no `ladder`); name one that has, see: srloss config schema "
            "ladder"
        )
    records = read_records(folder)
    draws = config.ladder.probe.draws
    tests = [_on_test_clips(stage_folder(folder, record.stage), record, draws) for record in records]
    rows = [*ledger.rows("train")[-1:], *ledger.rows("validation")[-1:]]
    return Ladder(
        folder=folder,
        config=config,
        status=ledger.status(),
        is_running=is_held(folder),
        metric=metric_info(records[-1].quality_metric, where=str(folder)) if records else None,
        records=tuple(records),
        tests=tuple(test for test, _ in tests),
        whys=tuple(why for _, why in tests),
        last_row=max(rows, key=lambda row: row["step"], default=None),
    )


def metric_info(name: str, *, where: str) -> MetricInfo:
    """A metric as a reader needs to see it.

    Raises:
        ValueError: This srloss does not have it.
    """
    if name not in METRICS:
        raise ValueError(
            f"{where}: judged by '{name}', which this srloss does not have; known: {', '.join(METRICS)}"
        )
    metric = METRICS[name]
    return MetricInfo(
        name, metric.label, metric.unit, metric.higher_is_better, metric.decimals, metric.convention
    )


def _on_test_clips(folder: Path, record: StageRecord, draws: int) -> tuple[Estimate | None, str]:
    """Mean over the test clips with its interval, as the record has them of the validation clips; or why there is none."""
    from sr.ladder.probe import mean_interval

    rows = Ledger(folder).evaluation()
    name = record.quality_metric
    if not rows:
        return None, "not evaluated yet"
    if name not in rows[0]:
        return None, f"not measured on the test clips; add {name} to evaluation.metrics"
    values = {row["clip"]: row[name] for row in rows}
    try:
        mean = mean_interval(values, {row["clip"]: row["source"] for row in rows}, draws=draws)
    except ValueError as error:
        return None, f"no interval: {error}"
    return Estimate(mean.value, mean.low, mean.high), ""


def transfer(records: tuple[StageRecord, ...]) -> list[list[float]]:
    """AUC of the own logits of each stage's discriminator (row) on each stage's generator (column)."""
    return [
        [
            records[one].judged_by[other] if other < one else records[other].on_generators[one]
            for one in range(len(records))
        ]
        for other in range(len(records))
    ]
