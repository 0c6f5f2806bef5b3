"""Convergence and the stop rule: each outcome, which comes first, and that a wide interval never proves anything."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sr.ladder.config import Convergence, Probe, StopRule
from sr.ladder.records import Comparison, Interval, Network, Outcome, Reading, StageRecord
from sr.ladder.rules import compare, converged, decide, out_of_budget, sources_needed, told
from sr.metrics import METRICS

STOP, PROBE = StopRule(), Probe()


def reading(
    low: float | None = -0.02, high: float = 0.04, *, auc: float = 0.8, num_sources: int = 20
) -> Reading:
    """A reading whose difference has this interval; None: without a perceptual network."""
    own = Interval(auc, auc - 0.02, auc + 0.02)
    if low is None:
        return Reading(own, None, None, None, num_sources, 4 * num_sources)
    middle = (low + high) / 2
    other = Interval(auc - middle, auc - middle - 0.02, auc - middle + 0.02)
    error = (high - low) / 2 / 1.645
    return Reading(own, other, Interval(middle, low, high), error, num_sources, 4 * num_sources)


BETTER = reading(0.1, 0.2)
EQUAL = reading()


def stage(number: int, read: Reading = BETTER, **changed: Any) -> StageRecord:
    network = Network("network", "0" * 64)
    record = StageRecord(
        stage=number,
        ended=Outcome.CONVERGED,
        ended_why="",
        steps=100,
        seconds=1.0,
        judging_seconds=1.0,
        generator=network,
        discriminator=network,
        perceptual=(network,),
        calibration=1.0 if number else None,
        reading=read,
        own_judgement=Interval(0.8, 0.7, 0.9),
        fresh=Interval(0.85, 0.8, 0.9),
        texture=Interval(0.9, 0.85, 0.95),
        comparison=compare(read, STOP, PROBE),
        quality_metric="psnr_y",
        quality=Interval(28, 27, 29),
        quality_by_clip={"a#0": 28.0},
        gain=Interval(0.5, 0.2, 0.8) if number else None,
        judged_by=(0.8,) * (number + 1),
        on_generators=(0.8,) * (number + 1),
        findings=(),
        decision=None,
        decision_why="",
        is_last=False,
    )
    return replace(record, **changed)


def outcome(*records: StageRecord, stop: StopRule = STOP) -> Outcome | None:
    return decide(records, stop, PROBE)[0]


# --- comparing ---


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.02, 0.04, Comparison.EQUALLY_GOOD),
        (0.01, 0.04, Comparison.EQUALLY_GOOD),  # Better for certain, and by too little to matter.
        (-0.04, -0.01, Comparison.EQUALLY_GOOD),
        (0, 0, Comparison.EQUALLY_GOOD),
        (0.01, 0.06, Comparison.DISCRIMINATOR_BETTER),
        (-0.06, -0.01, Comparison.PERCEPTUAL_BETTER),
        (-0.01, 0.06, Comparison.UNDECIDABLE),
        (-0.06, 0.01, Comparison.UNDECIDABLE),
        (-0.2, 0.2, Comparison.UNDECIDABLE),
        (-0.02, 0.05, Comparison.UNDECIDABLE),  # On the bound is not inside.
        (-0.05, 0.02, Comparison.UNDECIDABLE),
    ],
)
def test_networks_are_compared_by_the_interval_of_their_difference(
    low: float, high: float, expected: Comparison
) -> None:
    assert compare(reading(low, high), STOP, PROBE) == expected


@pytest.mark.parametrize(("low", "high"), [(0, 0), (-0.02, 0.04), (0.1, 0.2), (-0.2, -0.1)])
def test_few_pictures_decide_nothing(low: float, high: float) -> None:
    assert compare(reading(low, high, num_sources=7), STOP, PROBE) == Comparison.UNDECIDABLE
    assert compare(reading(low, high, num_sources=8), STOP, PROBE) != Comparison.UNDECIDABLE


def test_without_a_perceptual_network_there_is_nothing_to_compare_with() -> None:
    assert compare(reading(None), STOP, PROBE) == Comparison.NO_PERCEPTUAL
    assert compare(reading(None, num_sources=3), STOP, PROBE) == Comparison.NO_PERCEPTUAL


# --- deciding ---


def test_a_better_discriminator_goes_on() -> None:
    found, why = decide([stage(0), stage(1)], STOP, PROBE)
    assert found is None
    assert "the discriminator sees more" in why
    assert "difference +0.150 (0.100 to 0.200)" in why


def test_equally_good_for_two_stages_ends_the_ladder() -> None:
    assert outcome(stage(0, EQUAL)) is None
    assert outcome(stage(0, EQUAL), stage(1, BETTER)) is None
    assert outcome(stage(0, EQUAL), stage(1, BETTER), stage(2, EQUAL)) is None
    found, why = decide([stage(0, BETTER), stage(1, EQUAL), stage(2, EQUAL)], STOP, PROBE)
    assert found == Outcome.EQUALLY_GOOD
    assert why == (
        "equally good: discriminator 0.80 (0.78 to 0.82), perceptual network 0.79 (0.77 to 0.81), "
        "difference +0.010 (-0.020 to 0.040) within 0.05 for 2 stages"
    )
    _, so_far = decide([stage(0, BETTER), stage(1, EQUAL)], STOP, PROBE)
    assert so_far.endswith("within 0.05, for 1 of 2 stages")


def test_how_long_equally_good_must_last_is_a_setting() -> None:
    assert outcome(stage(0, EQUAL), stop=StopRule(stages_running=1)) == Outcome.EQUALLY_GOOD
    pair = (stage(0, EQUAL), stage(1, EQUAL))
    assert outcome(*pair, stop=StopRule(stages_running=3)) is None


def test_starved_stages_never_end_the_ladder_by_themselves() -> None:
    """Not even where all numbers agree to the last digit, nothing is seen and nothing gained."""
    starved = reading(0, 0, auc=0.5, num_sources=7)
    blind = Interval(0.5, 0.5, 0.5)
    records = [
        stage(i, starved, own_judgement=blind, fresh=blind, gain=Interval(0, 0, 0) if i else None)
        for i in range(5)
    ]
    found, why = decide(records, STOP, PROBE)
    assert found is None
    assert "undecidable within 0.05 with 7 validation pictures, about 8 would be needed" in why


BLIND: dict[str, Any] = {
    "read": reading(None, auc=0.51),
    "own_judgement": Interval(0.5, 0.46, 0.55),
    "fresh": Interval(0.53, 0.48, 0.57),
    "texture": Interval(0.5, 0.46, 0.55),
}


def blind(**changed: Any) -> StageRecord:
    return stage(1, **{**BLIND, **changed})


def test_nothing_is_left_where_all_readers_are_blind() -> None:
    found, why = decide([blind()], STOP, PROBE)
    assert found == Outcome.NOTHING_LEFT
    assert "the best reader, a fresh discriminator, has an AUC of 0.53 (0.48 to 0.57), down to 0.55" in why


@pytest.mark.parametrize(
    "changed",
    [
        {"fresh": None},
        {"fresh": Interval(0.58, 0.56, 0.599)},  # Sees something, if little.
        {"fresh": Interval(0.53, 0.3, 0.75)},  # Too uncertain to be proof.
        {"own_judgement": Interval(0.7, 0.65, 0.75)},  # Another reader sees it.
        {"texture": Interval(0.9, 0.85, 0.95)},
        {"own_judgement": Interval(0.5, 0.3, 0.7)},  # Another might.
        {"read": reading(None, auc=0.7)},
        {"read": reading(-0.01, 0.01, auc=0.7)},
        {"read": reading(None, auc=0.51, num_sources=7)},
    ],
)
def test_something_may_be_left_where_one_reader_sees_or_might_see_it(changed: dict[str, Any]) -> None:
    assert outcome(blind(**changed)) is None


def test_the_perceptual_network_counts_as_a_reader() -> None:
    assert outcome(blind(read=reading(-0.2, -0.1, auc=0.51))) is None


NO_GAIN = Interval(0.1, -0.1, 0.3)


def test_no_gain_for_two_stages_ends_the_ladder() -> None:
    assert outcome(stage(0), stage(1, gain=NO_GAIN)) is None
    assert outcome(stage(0), stage(1, gain=NO_GAIN), stage(2), stage(3, gain=NO_GAIN)) is None
    found, why = decide(
        [stage(0), stage(1, gain=NO_GAIN), stage(2, gain=Interval(-1, -2, -0.5))], STOP, PROBE
    )
    assert found == Outcome.NO_GAIN
    assert why == "no significant gain in PSNR-Y for 2 stages: +0.10 (-0.10 to 0.30), -1.00 (-2.00 to -0.50)"


def test_gains_are_not_judged_on_few_pictures() -> None:
    few = reading(0.1, 0.2, num_sources=7)
    assert outcome(stage(0, few), stage(1, few, gain=NO_GAIN), stage(2, few, gain=NO_GAIN)) is None


def test_stage_0_gains_on_nothing() -> None:
    assert outcome(stage(0), stop=StopRule(stages_running=1)) is None


def test_equally_good_comes_before_nothing_left_and_that_before_no_gain() -> None:
    equal_and_blind = {**BLIND, "read": reading(-0.02, 0.04, auc=0.51), "gain": NO_GAIN}
    assert outcome(stage(1, **equal_and_blind), stage(2, **equal_and_blind)) == Outcome.EQUALLY_GOOD
    only_blind = {**BLIND, "gain": NO_GAIN}
    assert outcome(stage(1, **only_blind), stage(2, **only_blind)) == Outcome.NOTHING_LEFT
    no_fresh = {**only_blind, "fresh": None}
    assert outcome(stage(1, **no_fresh), stage(2, **no_fresh)) == Outcome.NO_GAIN


def test_earlier_decisions_are_not_looked_at() -> None:
    past = stage(0, decision=Outcome.EQUALLY_GOOD, is_last=True)
    assert outcome(past, stage(1)) is None


def test_stages_that_did_not_converge_are_named() -> None:
    records = [stage(0, EQUAL, ended=Outcome.BUDGET), stage(1, EQUAL)]
    assert decide(records, STOP, PROBE)[1].endswith("for 2 stages; not converged: stage 0")


# --- how many pictures it takes ---


def test_the_pictures_needed_are_those_of_the_power_calculation() -> None:
    """At the error that the specification asks for, as many as there are; at twice the error four times as many."""
    error = 0.05 / (stats.norm.ppf(0.95) + stats.norm.ppf(0.9))
    base = replace(reading(num_sources=100), standard_error=error)
    assert sources_needed(base, STOP, PROBE) == pytest.approx(100, abs=1)
    assert sources_needed(replace(base, standard_error=2 * error), STOP, PROBE) == pytest.approx(400, abs=3)
    assert sources_needed(replace(base, standard_error=0.0), STOP, PROBE) == PROBE.least_sources
    assert sources_needed(base, StopRule(margin=0.025), PROBE) == pytest.approx(400, abs=3)


def test_an_undecidable_stage_says_how_many_more_it_takes() -> None:
    _, why = decide([stage(0, reading(-0.1, 0.1))], STOP, PROBE)
    assert "with 20 validation pictures, about 254 would be needed: discriminator 0.80" in why
    _, near = decide([stage(0, reading(-0.001, 0.055))], STOP, PROBE)
    assert "with 20 validation pictures, about 21 would be needed" in near


# --- out of budget ---


@pytest.mark.parametrize(
    ("read", "expected", "words"),
    [
        (reading(-0.1, 0.1), Outcome.UNDECIDABLE, "it is undecidable which sees more"),
        (reading(0, 0, num_sources=7), Outcome.UNDECIDABLE, "it is undecidable which sees more"),
        (
            BETTER,
            Outcome.BUDGET,
            "the discriminator sees more than the perceptual network: discriminator 0.80",
        ),
        (EQUAL, Outcome.BUDGET, "have not been for long enough"),
        (
            reading(None),
            Outcome.BUDGET,
            "no perceptual network to compare with: discriminator 0.80 (0.78 to 0.82)",
        ),
    ],
)
def test_running_out_is_never_success(read: Reading, expected: Outcome, words: str) -> None:
    found, why = out_of_budget([stage(0), stage(1, read)], "all 2 stages")
    assert found == expected
    assert why.startswith("all 2 stages used up; after stage 1 ")
    assert words in why


def test_a_difference_of_nothing_has_no_minus() -> None:
    assert "difference +0.000 (0.000 to 0.000)" in told(reading(-0.0, 0.0))


# --- convergence ---


def rows(
    perceptual: Sequence[float | None],
    quality: Sequence[float | None],
    auc: Sequence[float | None] | None = None,
) -> list[dict[str, Any]]:
    auc = [0.8] * len(quality) if auc is None else auc
    return [
        {"step": 10 * i, "val/perceptual": p, "val/psnr_y": q, "val/auc_discriminator": a}
        for i, (p, q, a) in enumerate(zip(perceptual, quality, auc, strict=True))
    ]


RULE = Convergence()
FLAT = [0.5, 0.51, 0.49, 0.5, 0.5] * 2
GOOD = [28.0, 28.1, 27.9, 28.0, 28.05] * 2


def test_a_stage_that_stands_still_has_converged() -> None:
    found = converged(rows(FLAT, GOOD), RULE, quality="psnr_y")
    assert "perceptual loss unchanged, PSNR-Y unchanged" in found
    assert (
        converged(rows([9.0, *FLAT], [1.0, *GOOD]), RULE, quality="psnr_y") == found
    )  # Only the last 10 count.
    assert converged(rows(FLAT[1:], GOOD[1:]), RULE, quality="psnr_y") == ""


@pytest.mark.parametrize(
    ("share", "is_converged"), [(0.009, True), (0.011, False), (-0.009, True), (-0.5, True)]
)
def test_what_still_gets_better_has_not_converged_and_what_gets_worse_has(
    share: float, is_converged: bool
) -> None:
    falling = [0.5] * 5 + [0.5 * (1 - share)] * 5
    rising = [28.0] * 5 + [28 * (1 + share)] * 5
    assert bool(converged(rows(falling, GOOD), RULE, quality="psnr_y")) is is_converged
    assert bool(converged(rows(FLAT, rising), RULE, quality="psnr_y")) is is_converged
    words = f"by {100 * abs(share):.1f} %"
    assert is_converged == (words in converged(rows(falling, rising), RULE, quality="psnr_y"))


def test_medians_are_compared_so_that_one_bad_validation_does_not_count() -> None:
    outlier = [0.5] * 4 + [90.0] + [0.5] * 5
    assert converged(rows(outlier, GOOD), RULE, quality="psnr_y")


@pytest.mark.parametrize(
    ("quality", "before", "now", "is_converged"),
    [
        ("psnr_y", 28, 30, False),
        ("psnr_y", 30, 28, True),
        ("gmsd", 0.2, 0.1, False),
        ("gmsd", 0.1, 0.2, True),
        ("sharpness_seed4", -0.3, -0.1, False),
        ("sharpness_seed4", 0.3, 0.1, False),
        ("sharpness_seed4", -0.1, 0.3, True),
        ("sharpness_seed4", -0.3, 0.3, True),
    ],
)
def test_each_metric_gets_better_in_its_own_direction(
    quality: str, before: float, now: float, is_converged: bool
) -> None:
    values = [before] * 5 + [now] * 5
    given = [{"step": i, f"val/{quality}": v, "val/auc_discriminator": 0.8} for i, v in enumerate(values)]
    assert bool(converged(given, RULE, quality=quality)) is is_converged
    assert (METRICS[quality].goodness(now) > METRICS[quality].goodness(before)) is not is_converged


def test_the_discriminator_must_have_settled() -> None:
    swinging = [0.8] * 5 + [0.78, 0.8, 0.82, 0.8, 0.83]
    spread = float(np.std(swinging[5:], ddof=1))
    given = rows(FLAT, GOOD, swinging)
    assert converged(given, Convergence(auc_spread=spread - 1e-6), quality="psnr_y") == ""
    assert f"varies by {spread:.3f}" in converged(
        given, Convergence(auc_spread=spread + 1e-6), quality="psnr_y"
    )
    # Only the last window counts.
    assert converged(rows(FLAT, GOOD, swinging[::-1]), RULE, quality="psnr_y")


def test_without_a_perceptual_loss_the_quality_decides() -> None:
    found = converged(rows([None] * 10, GOOD), RULE, quality="psnr_y")
    assert "perceptual" not in found
    assert "PSNR-Y unchanged" in found
    without = [{k: v for k, v in row.items() if k != "val/perceptual"} for row in rows(FLAT, GOOD)]
    assert converged(without, RULE, quality="psnr_y") == found


@pytest.mark.parametrize("column", ["val/perceptual", "val/psnr_y", "val/auc_discriminator"])
@pytest.mark.parametrize("missing", [None, float("nan")])
def test_what_is_not_known_has_not_converged(column: str, missing: float | None) -> None:
    given = rows(FLAT, GOOD)
    given[-1][column] = missing
    assert converged(given, RULE, quality="psnr_y") == ""


def test_a_loss_of_nothing_can_not_get_better() -> None:
    assert converged(rows([0.0] * 10, GOOD), RULE, quality="psnr_y")
    assert converged(rows(FLAT, GOOD), Convergence(improvement=0), quality="psnr_y")
