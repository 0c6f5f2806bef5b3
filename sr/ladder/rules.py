"""When a stage has converged, when two networks are equally good, when the ladder ends.

Pure functions of what was recorded. An interval that is wide proves nothing: "equally good" and "nothing left" are only
said where the interval leaves no room for anything else, and with few validation pictures neither is said at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sr.ladder.config import Convergence, Probe, StopRule
from sr.ladder.records import Comparison, Interval, Outcome, Reading, StageRecord
from sr.metrics import METRICS

_ERRORS_IN_MARGIN = 2.93
"""Standard errors that the margin must hold, so that two equal networks are found equally good 4 times in 5.

The normal quantiles of .95 (the test's level) and .90 (both of its sides must pass).
"""


def compare(reading: Reading, stop: StopRule, probe: Probe) -> Comparison:
    """Which of both networks of a stage sees more of the difference between SR and HR.

    Equally good is an equivalence test at 5 %: two one-sided tests, or the 90 % interval within the margin.
    """
    difference = reading.difference
    if difference is None:
        return Comparison.NO_PERCEPTUAL
    if reading.num_sources < probe.least_sources:
        return Comparison.UNDECIDABLE
    if -stop.margin < difference.low and difference.high < stop.margin:
        return Comparison.EQUALLY_GOOD
    if difference.low > 0:
        return Comparison.DISCRIMINATOR_BETTER
    if difference.high < 0:
        return Comparison.PERCEPTUAL_BETTER
    return Comparison.UNDECIDABLE


def decide(records: Sequence[StageRecord], stop: StopRule, probe: Probe) -> tuple[Outcome | None, str]:
    """Whether the ladder ends after the newest stage, and why, or why not.

    Args:
        records: Of all stages so far; what they say of a decision is not looked at.
        stop: The rule.
        probe: How the networks were read.

    Returns:
        The outcome, None to go on; and the reason with its numbers.
    """
    newest, running = records[-1], records[-stop.stages_running :]
    for_so_long = f"for {_stages(stop.stages_running)}"
    if _all(running, stop, lambda record: record.comparison == Comparison.EQUALLY_GOOD):
        text = f"equally good: {told(newest.reading)} within {stop.margin:g} {for_so_long}"
        return Outcome.EQUALLY_GOOD, text + _seen_by_others(newest, stop) + _unconverged(running)
    if _is_nothing_left(newest, stop, probe):
        return Outcome.NOTHING_LEFT, _told_nothing_left(newest, stop) + _unconverged([newest])
    if _all(running, stop, lambda record: _is_without_gain(record, probe)):
        metric = METRICS[newest.quality_metric]
        gains = [_shown(record.gain, "+", metric.decimals) for record in running if record.gain]
        text = f"no significant gain in {metric.label} {for_so_long}: {', '.join(gains)}"
        return Outcome.NO_GAIN, text + _unconverged(running)
    return None, _why_to_go_on(records, stop, probe)


def out_of_budget(records: Sequence[StageRecord], what: str) -> tuple[Outcome, str]:
    """How a ladder ended that could not go on.

    Args:
        records: Of all stages so far, at least one.
        what: What has run out, such as "all 5 stages".
    """
    newest = records[-1]
    outcome = Outcome.UNDECIDABLE if newest.comparison == Comparison.UNDECIDABLE else Outcome.BUDGET
    return outcome, f"{what} used up; after stage {newest.stage} {_STANDING[newest.comparison]}: " + told(
        newest.reading
    )


def converged(rows: Sequence[Mapping[str, Any]], rule: Convergence, *, quality: str) -> str:
    """Why a stage has learnt what it can, or empty where it has not, or where it is too early to say.

    Args:
        rows: Its validations, in order: `step`, `val/auc_discriminator`, `val/perceptual` where it has a
            perceptual loss, and the quality as `val/` and its name.
        rule: What must hold.
        quality: Key of METRICS.
    """
    rows = rows[-2 * rule.window :]
    if len(rows) < 2 * rule.window:
        return ""
    looks: dict[str, list[float]] = {}
    if any(row.get("val/perceptual") is not None for row in rows):
        looks["perceptual loss"] = [-value for value in _column(rows, "val/perceptual")]
    looks[METRICS[quality].label] = [
        METRICS[quality].goodness(value) for value in _column(rows, f"val/{quality}")
    ]
    spread = float(np.std(_column(rows, "val/auc_discriminator")[rule.window :], ddof=1))
    if not spread < rule.auc_spread:
        return ""
    texts: list[str] = []
    for label, values in looks.items():
        before, now = (float(np.median(half)) for half in (values[: rule.window], values[rule.window :]))
        # The first condition holds also where nothing is left to improve.
        if not (now <= before or now - before < rule.improvement * abs(before)):
            return ""
        texts.append(f"{label} {_change(before, now)}")
    return (
        f"over {rule.window} validations against the {rule.window} before: {', '.join(texts)}; "
        f"the discriminator's AUC varies by {spread:.3f}"
    )


def sources_needed(reading: Reading, stop: StopRule, probe: Probe) -> int:
    """Validation pictures with which two equal networks would be found equally good 4 times in 5.

    From the error of this reading, which shrinks with the root of their number.
    """
    error = reading.standard_error or 0.0
    scaled = reading.num_sources * (_ERRORS_IN_MARGIN * error / stop.margin) ** 2
    return max(math.ceil(scaled), probe.least_sources)


def told(reading: Reading) -> str:
    """A reading in words."""
    text = f"discriminator {_shown(reading.discriminator)}"
    if reading.perceptual is None or reading.difference is None:
        return text
    difference = _shown(reading.difference, "+", 3)
    return f"{text}, perceptual network {_shown(reading.perceptual)}, difference {difference}"


_STANDING = {
    Comparison.EQUALLY_GOOD: "both are equally good, but have not been for long enough",
    Comparison.DISCRIMINATOR_BETTER: "the discriminator sees more than the perceptual network",
    Comparison.PERCEPTUAL_BETTER: "the perceptual network sees more than the discriminator",
    Comparison.UNDECIDABLE: "it is undecidable which sees more",
    Comparison.NO_PERCEPTUAL: "there is no perceptual network to compare with",
}


def _all(running: Sequence[StageRecord], stop: StopRule, holds: Callable[[StageRecord], bool]) -> bool:
    return len(running) == stop.stages_running and all(holds(record) for record in running)


def _is_nothing_left(record: StageRecord, stop: StopRule, probe: Probe) -> bool:
    """Whether no reader sees anything, and all would have shown it if they did."""
    if record.fresh is None or record.reading.num_sources < probe.least_sources:
        return False
    readers = _readers(record).values()
    best = max(readers, key=lambda interval: interval.value)
    # The lower end alone is no proof: it is low wherever the pictures are few. The upper end shows at 5 % that the AUC
    # is less than a margin above the bound, the tolerance that also counts as equally good.
    return best.low <= stop.nothing_left_auc and all(
        interval.high < stop.nothing_left_auc + stop.margin for interval in readers
    )


def _readers(record: StageRecord) -> dict[str, Interval]:
    """All that tried to tell SR from HR in a stage."""
    readers = {
        "a fresh discriminator": record.fresh,
        "a reader of texture statistics": record.texture,
        "the discriminator's own judgement": record.own_judgement,
        "what the discriminator sees": record.reading.discriminator,
        "what the perceptual network sees": record.reading.perceptual,
    }
    return {name: interval for name, interval in readers.items() if interval is not None}


def _told_nothing_left(record: StageRecord, stop: StopRule) -> str:
    readers = _readers(record)
    best = max(readers, key=lambda name: readers[name].value)
    return (
        f"nothing left to tell apart: the best reader, {best}, has an AUC of {_shown(readers[best])}, "
        f"down to {stop.nothing_left_auc:g}, and none reaches up to {stop.nothing_left_auc + stop.margin:g}"
    )


def _seen_by_others(record: StageRecord, stop: StopRule) -> str:
    """That others see more than both networks: they are equal, not good."""
    own = max(one.value for one in (record.reading.discriminator, record.reading.perceptual) if one)
    others = {"a fresh discriminator": record.fresh, "a reader of texture statistics": record.texture}
    more = [
        f"{name} {_shown(interval)}"
        for name, interval in others.items()
        if interval is not None and interval.low > own + stop.margin
    ]
    return f"; but not good: {', '.join(more)}" if more else ""


def _is_without_gain(record: StageRecord, probe: Probe) -> bool:
    return (
        record.gain is not None and record.reading.num_sources >= probe.least_sources and record.gain.low <= 0
    )


def _why_to_go_on(records: Sequence[StageRecord], stop: StopRule, probe: Probe) -> str:
    newest = records[-1]
    reading, standing = newest.reading, newest.comparison
    if standing == Comparison.EQUALLY_GOOD:
        so_far = next(
            (i for i, record in enumerate(reversed(records)) if record.comparison != standing), len(records)
        )
        return (
            f"equally good: {told(reading)} within {stop.margin:g}, for {so_far} of "
            f"{_stages(stop.stages_running)}"
        )
    if standing == Comparison.UNDECIDABLE:
        # Where the difference is neither clearly nil nor clear, the error may be small enough for a nil one.
        needed = max(sources_needed(reading, stop, probe), reading.num_sources + 1)
        difference = reading.difference
        if difference is not None and (difference.low > 0 or difference.high < 0):
            # Clear enough but for their number.
            needed = probe.least_sources
        return (
            f"undecidable within {stop.margin:g} with {reading.num_sources} validation pictures, "
            f"about {needed} would be needed: {told(reading)}"
        )
    return f"{_STANDING[standing]}: {told(reading)}"


def _unconverged(records: Sequence[StageRecord]) -> str:
    """That stages ended without having converged, for then the evidence is weaker."""
    numbers = [str(record.stage) for record in records if record.ended != Outcome.CONVERGED]
    if not numbers:
        return ""
    return f"; not converged: {'stage' if len(numbers) == 1 else 'stages'} {', '.join(numbers)}"


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The values of all rows; NaN, which passes no test, where one has none."""
    values = [row.get(name) for row in rows]
    return [math.nan if value is None else float(value) for value in values]


def _change(before: float, now: float) -> str:
    if before == 0:
        return "unchanged" if now == 0 else "worse"
    share = (now - before) / abs(before)
    return f"{'better' if share > 0 else 'worse'} by {100 * abs(share):.1f} %" if share else "unchanged"


def _stages(count: int) -> str:
    return f"{count} stage{'s' if count != 1 else ''}"


def _shown(interval: Interval, sign: str = "", decimals: int = 2) -> str:
    value, low, high = (f"{number:z.{decimals}f}" for number in (interval.value, interval.low, interval.high))
    return f"{'+' if sign and interval.value >= 0 else ''}{value} ({low} to {high})"
