"""Stages in words and in table cells, for the command line and for pages alike."""

from __future__ import annotations

from dataclasses import dataclass

from sr.ladder.records import Comparison, Interval, Network, Outcome, StageRecord
from sr.ledger import State
from sweeps.report.data import Estimate, MetricInfo
from sweeps.report.ladder import Ladder
from sweeps.report.numbers import MISSING, number, signed, with_unit

AUC_DECIMALS = 3
HASH_DIGITS = 12

OUTCOMES: dict[Outcome, str] = {
    Outcome.CONVERGED: "converged",
    Outcome.EQUALLY_GOOD: "discriminator and perceptual network are equally good",
    Outcome.NOTHING_LEFT: "nothing is left to tell apart",
    Outcome.NO_GAIN: "no gain in quality",
    Outcome.BUDGET: "the budget is spent before the goal was reached",
    Outcome.UNDECIDABLE: "undecidable with so few validation pictures",
    Outcome.DIVERGED: "diverged",
}
ENDS: dict[Outcome, str] = OUTCOMES | {Outcome.BUDGET: "budget spent"}
"""Of single stages."""
COMPARISONS: dict[Comparison, str] = {
    Comparison.EQUALLY_GOOD: "equally good",
    Comparison.DISCRIMINATOR_BETTER: "discriminator better",
    Comparison.PERCEPTUAL_BETTER: "perceptual network better",
    Comparison.UNDECIDABLE: "undecidable",
    Comparison.NO_PERCEPTUAL: "no perceptual network",
}


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage, every cell a text."""

    stage: str
    steps: str
    ended: str
    ended_why: str
    looked_through: str
    quality: tuple[str, str]
    """A number and, in small print, its interval; the same below."""
    gain: tuple[str, str]
    test: tuple[str, str]
    why_no_test: str
    discriminator: tuple[str, str]
    perceptual: tuple[str, str]
    difference: tuple[str, str]
    comparison: str
    own: tuple[str, str]
    fresh: tuple[str, str]
    texture: tuple[str, str]
    decision: str
    """What the stop rule said."""
    decision_why: str
    findings: tuple[str, ...]
    generator_hash: str
    discriminator_hash: str
    perceptual_hash: str


def stage_rows(ladder: Ladder) -> list[StageRow]:
    """A row for each stage that has ended."""
    metric = ladder.metric
    if metric is None:
        return []
    cells = zip(ladder.records, ladder.tests, ladder.whys, strict=True)
    return [_row(record, test, why, metric) for record, test, why in cells]


def _row(record: StageRecord, test: Estimate | None, why_no_test: str, metric: MetricInfo) -> StageRow:
    reading = record.reading
    return StageRow(
        stage=str(record.stage),
        steps=number(record.steps, 0),
        ended=ENDS[record.ended],
        ended_why=record.ended_why,
        looked_through=looked_through(record),
        quality=_cell(record.quality, metric.decimals),
        gain=_signed_cell(record.gain, metric.decimals),
        test=(MISSING, "") if test is None else _texts(test.mean, test.low, test.high, metric.decimals),
        why_no_test=why_no_test,
        discriminator=_cell(reading.discriminator, AUC_DECIMALS),
        perceptual=_cell(reading.perceptual, AUC_DECIMALS),
        difference=_signed_cell(reading.difference, AUC_DECIMALS),
        comparison=COMPARISONS[record.comparison],
        own=_cell(record.own_judgement, AUC_DECIMALS),
        fresh=_cell(record.fresh, AUC_DECIMALS),
        texture=_cell(record.texture, AUC_DECIMALS),
        decision=decision(record),
        decision_why=record.decision_why,
        findings=record.findings,
        generator_hash=_digits(record.generator),
        discriminator_hash=_digits(record.discriminator),
        perceptual_hash=", ".join(map(_digits, record.perceptual)) or MISSING,
    )


def decision(record: StageRecord) -> str:
    """What the stop rule said after a stage; where it was not binding, that the ladder went on all the same."""
    if record.decision is None:
        return "goes on"
    return OUTCOMES[record.decision] + ("" if record.is_last else "; goes on all the same")


def looked_through(record: StageRecord) -> str:
    """The networks of a stage's perceptual terms by name."""
    return ", ".join(network.name for network in record.perceptual) or "none"


def where(ladder: Ladder) -> str:
    """In a sentence, where the ladder stands or how it ended."""
    status, num = ladder.status, len(ladder.records)
    if ladder.outcome is not None:
        return f"Ended after stage {num - 1}: {OUTCOMES[ladder.outcome]}."
    if status.has_ended:
        ended = "Failed" if status.state is State.FAILED else "Ended"
        return f"{ended} in stage {num}, not by the stop rule: {status.reason}."
    if status.state is State.PENDING or ladder.last_row is None:
        return "Not begun yet."
    step, total = ladder.last_row["step"], ladder.config.training.steps
    how = "has not ended yet" if ladder.is_running else "was interrupted"
    return f"Stage {num} {how}: step {step:,} of at most {total:,} of all stages."


def titled(metric: MetricInfo) -> str:
    """`PSNR-Y, dB ↑`."""
    arrow = "\u2191" if metric.higher_is_better else "\u2193"
    return f"{metric.label}{', ' + metric.unit if metric.unit else ''} {arrow}"


def score(value: float | None, metric: MetricInfo) -> str:
    """A number of the metric with its unit."""
    return with_unit(number(value, metric.decimals), metric.unit if value is not None else "")


def _cell(interval: Interval | None, decimals: int) -> tuple[str, str]:
    if interval is None:
        return MISSING, ""
    return _texts(interval.value, interval.low, interval.high, decimals)


def _texts(value: float, low: float, high: float, decimals: int) -> tuple[str, str]:
    return number(value, decimals), f"[{number(low, decimals)}, {number(high, decimals)}]"


def _signed_cell(interval: Interval | None, decimals: int) -> tuple[str, str]:
    if interval is None:
        return MISSING, ""
    ends = f"[{signed(interval.low, decimals)}, {signed(interval.high, decimals)}]"
    return signed(interval.value, decimals), ends


def _digits(network: Network) -> str:
    return network.sha256[:HASH_DIGITS]
