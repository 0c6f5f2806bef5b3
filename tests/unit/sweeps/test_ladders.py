"""What is said beside a verdict of ladders whose records the test wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sr.ladder.records import (
    Comparison,
    Interval,
    Network,
    Outcome,
    Reading,
    StageRecord,
    stage_folder,
    write_record,
)
from sr.ledger import State, Status
from sweeps.caveats import caveats
from sweeps.ladders import Climb, remarks
from sweeps.sweep import Sweep
from sweeps.verdict import draw
from tests.unit.sweeps.test_verdict import by_loss, planted

SOMETHING = Interval(0.7, 0.6, 0.8)
GAN = "l1 + gan_ragan"


def record(decision: Outcome | None, *, stage: int = 0, sources: int = 4) -> StageRecord:
    return StageRecord(
        stage=stage, ended=Outcome.BUDGET, ended_why="all 5 steps", steps=5, seconds=1.0, judging_seconds=1.0,
        generator=Network("g", "0"), discriminator=Network("d", "1"), perceptual=(), calibration=None,
        reading=Reading(SOMETHING, None, None, None, sources, 8 * sources), own_judgement=SOMETHING, fresh=None, texture=SOMETHING,
        comparison=Comparison.UNDECIDABLE, quality_metric="haarpsi", quality=SOMETHING, quality_by_clip={}, gain=None,
        judged_by=(0.7,), on_generators=(0.7,), findings=(), decision=decision, decision_why="", is_last=decision is not None,
    )  # fmt: skip


def climb(decision: Outcome, *, steps: int = 10, is_capped: bool = False, sources: int = 4) -> Climb:
    return Climb([record(None), record(decision, stage=1, sources=sources)], steps, 10, is_capped)


def test_ladders_that_took_all_steps_and_showed_their_goal_need_no_remark() -> None:
    ladders = {
        "a": [climb(Outcome.EQUALLY_GOOD), climb(Outcome.NO_GAIN)],
        "b": [climb(Outcome.NOTHING_LEFT)],
    }
    assert remarks(ladders, 6) == []
    assert remarks({}, 6) == []


def test_unequal_budgets_are_told_once_with_their_reasons() -> None:
    ladders = {
        "a": [climb(Outcome.EQUALLY_GOOD, steps=5), climb(Outcome.EQUALLY_GOOD)],
        "b": [climb(Outcome.NO_GAIN, steps=7), climb(Outcome.NO_GAIN, steps=7, is_capped=True)],
    }
    (line,) = remarks(ladders, 18)
    assert line.startswith(
        "2 of 18 compared trials ended their ladder before the budget of 10 steps (equally good: 1, no gain: 1), so"
    )


def test_what_was_not_shown_is_told_once_for_each_way_of_ending() -> None:
    undecidable, budget = Outcome.UNDECIDABLE, Outcome.BUDGET
    ladders = {
        "ladder": [climb(undecidable), climb(undecidable, sources=3), climb(undecidable)],
        "warm": [climb(undecidable), climb(Outcome.EQUALLY_GOOD), climb(budget)],
    }
    first, second = remarks(ladders, 9)
    assert first == (
        "The ladders of 'ladder' (3 of 3 seeds), 'warm' (1 of 3 seeds) ended undecidable at this sample size: whether discriminator "
        "and perceptual network are equally good cannot be said with 3 validation pictures."
    )
    assert second.startswith("The ladders of 'warm' (1 of 3 seeds) ended with their budget: ")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A finished sweep of a loss and a ladder, whose records are missing."""
    return planted(
        tmp_path,
        by_loss(l1=1.0, climber=1.5, other=0.5),
        parameters={
            "loss": ["l1", {"name": "other", "terms": "mse"}, {"name": "climber", "terms": GAN}],
            "seed": [0, 1, 2],
        },
        trial={"data": {"path": "nowhere"}, "ladder": {"stages": 2}, "training": {"steps": 10}},
    )


def test_the_verdict_tells_of_its_ladders(sweep: Sweep) -> None:
    assert draw(sweep).caveats == ()
    climbers = [trial for trial in sweep.trials if trial.candidate == "climber"]
    assert [trial.config.ladder is None for trial in climbers] == [False] * 3
    for trial in climbers:
        folder = sweep.ledger(trial).folder
        for stage, decision in enumerate((None, Outcome.UNDECIDABLE)):
            stage_folder(folder, stage).mkdir(parents=True)
            write_record(folder, record(decision, stage=stage))
    early = sweep.ledger(climbers[1])
    early.set_status(dataclasses.replace(early.status(), step=5))
    found = draw(sweep).caveats
    assert len(found) == 2
    assert found[0].startswith("1 of 9 compared trials ended their ladder before the budget of 10 steps")
    assert found[1].startswith("The ladders of 'climber' (3 of 3 seeds) ended undecidable")
    # An unfinished seed counts for nobody.
    early.set_status(Status(State.FAILED, "broken"))
    assert not any("ladder" in line for line in caveats(draw(sweep), sweep))


def test_a_damaged_record_is_told_and_the_verdict_drawn(sweep: Sweep) -> None:
    folder = sweep.ledger(next(t for t in sweep.trials if t.candidate == "climber")).folder
    stage_folder(folder, 0).mkdir(parents=True)
    write_record(folder, record(None))
    (stage_folder(folder, 0) / "stage.json").write_text("{}")
    (line,) = draw(sweep).caveats
    assert line.startswith("What became of the ladders cannot be told: ")
    assert "damaged" in line
