"""A trial's ledger as the rows of a W&B run: whoever reads it, in whatever portions, numbers them alike."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr.config import parse_trial
from sr.ledger import Ledger, State, Status
from sr.tracked import STEP, Row, TrackedTrial, difference, flat

CLIPS = [
    {"clip": "a#0", "source": "a", "psnr_y": 30.0, "lpips": 0.25},
    {"clip": "b#0", "source": "b", "psnr_y": 32.0, "lpips": math.nan},
]


def new_ledger(folder: Path, **changes: Any) -> Ledger:
    ledger = Ledger(folder)
    ledger.create(
        parse_trial({"data": {"path": "x"}, "loss": "l1", **changes}), command="srloss train x.yaml"
    )
    ledger.begin_attempt()
    return ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return new_ledger(tmp_path / "0123456789")


def row(kind: str, step: int, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "step": step, "samples": 4 * step, "seconds": float(step), **values}


def end(ledger: Ledger, state: State = State.FINISHED, **changes: Any) -> None:
    ledger.set_status(replace(ledger.status(), state=state, **changes))


def test_rows_have_wandb_s_names_and_the_order_of_the_ledger(ledger: Ledger) -> None:
    ledger.append({"kind": "attempt", "step": 0, "ranks": 2, "device": "cpu"})
    ledger.append({"kind": "loss", "step": 0, "weights": {"l1": 1.0}})
    terms = {"l1": {"raw": 0.5, "weighted": 0.25, "gradient_share": 1.0}}
    ledger.append(
        row("train", 1, loss=0.25, terms=terms, gradient_norm=None, images_per_second=9.5, memory_gb=0.5)
    )
    ledger.append(row("validation", 1, **{"val/psnr_y": 30.5, "haarpsi": 0.5}))
    ledger.append({"kind": "problem", "step": 1, "problem": "the disk is full"})
    ledger.append(
        {"kind": "perturbation", "step": 1, "changes": {"seed": 3}, "from_trial": "a", "from_step": 1}
    )
    ledger.append({"kind": "judged", "step": 1, "place": 1, "of": 2})
    ledger.append(
        {"kind": "stage", "step": 1, "stage": 1, "outcome": "found", "decision": None, "terms": ["a", "b"]}
    )
    train, validation, stage = (one.scalars for one in TrackedTrial(ledger.folder).new_rows())
    assert train == {
        STEP: 1,
        "trainer/samples": 4,
        "trainer/seconds": 1.0,
        "train/loss": 0.25,
        "train/terms/l1/raw": 0.5,
        "train/terms/l1/weighted": 0.25,
        "train/terms/l1/gradient_share": 1.0,
        "perf/images_per_second": 9.5,
        "perf/memory_gb": 0.5,
        "perf/device_hours": 2 / 3600,
    }
    assert (validation["val/psnr_y"], validation["val/haarpsi"]) == (30.5, 0.5)
    assert stage == {STEP: 1, "ladder/stage": 1, "ladder/outcome": "found", "ladder/terms": '["a", "b"]'}


def test_a_row_is_given_once_and_a_repeated_step_keeps_its_place(ledger: Ledger) -> None:
    tracked = TrackedTrial(ledger.folder)
    assert list(tracked.new_rows()) == []
    for step in (1, 2):
        ledger.append(row("train", step, loss=float(step)))
    assert [one.scalars["train/loss"] for one in tracked.new_rows()] == [1.0, 2.0]
    for step in (2, 3):
        ledger.append(row("train", step, loss=10.0 * step))
    assert [one.scalars["train/loss"] for one in tracked.new_rows()] == [30.0]
    assert list(tracked.new_rows()) == []
    # Whoever comes later sees what was measured last, at the same place, and either may be what W&B has.
    assert [one.scalars["train/loss"] for one in TrackedTrial(ledger.folder).new_rows()] == [1.0, 20.0, 30.0]
    versions = [[one.scalars["train/loss"] for one in each] for each in tracked.versions()]
    assert versions == [[1.0], [2.0, 20.0], [30.0]]


def test_a_line_that_is_being_written_waits(ledger: Ledger) -> None:
    tracked = TrackedTrial(ledger.folder)
    line = json.dumps({"attempt": 1, **row("train", 1, loss=0.5)})
    path = ledger.folder / "metrics.jsonl"
    path.write_text(line[:20])
    assert list(tracked.new_rows()) == []
    path.write_text(f"{line}\n\n{line[:10]}")
    assert len(list(tracked.new_rows())) == 1
    # A kill left half a line; the next attempt cuts it off.
    ledger.begin_attempt()
    ledger.append(row("train", 2, loss=0.4))
    assert [one.scalars[STEP] for one in tracked.new_rows()] == [2]


def test_a_stage_that_diverges_where_the_last_one_ended_is_a_row_of_its_own(ledger: Ledger) -> None:
    for stage, message in ((1, "go on"), (2, "diverged")):
        ledger.append({"kind": "stage", "step": 100, "stage": stage, "message": message})
    rows = list(TrackedTrial(ledger.folder).new_rows())
    assert [(one.scalars["ladder/stage"], one.scalars["ladder/message"]) for one in rows] == [
        (1, "go on"),
        (2, "diverged"),
    ]
    assert len(TrackedTrial(ledger.folder).versions()) == 2


def test_device_hours_count_the_ranks_of_the_attempt_that_measured(ledger: Ledger) -> None:
    for ranks, step in ((1, 3600), (4, 7200)):
        ledger.append({"kind": "attempt", "step": step, "ranks": ranks})
        ledger.append(row("train", step))
    rows = list(TrackedTrial(ledger.folder).new_rows())
    assert [one.scalars["perf/device_hours"] for one in rows] == [1.0, 8.0]
    assert [[one] for one in rows] == TrackedTrial(ledger.folder).versions()


@pytest.mark.parametrize("state", [State.FINISHED, State.STOPPED_EARLY])
def test_the_evaluation_is_the_last_row_and_comes_when_the_trial_is_over(
    ledger: Ledger, state: State
) -> None:
    tracked = TrackedTrial(ledger.folder)
    ledger.append({"kind": "attempt", "step": 0, "ranks": 2})
    ledger.append(row("train", 1))
    ledger.write_evaluation(CLIPS)
    assert [one.tables for one in tracked.new_rows()] == [{}]
    assert tracked.exit_code() is None
    ledger.append(row("train", 2))
    end(ledger, state, step=2, seconds=1800.0)
    assert tracked.exit_code() == 0
    train, last = tracked.new_rows()
    assert train.scalars[STEP] == 2
    assert last.scalars == {
        STEP: 2,
        "trainer/seconds": 1800.0,
        "perf/device_hours": 1.0,
        "test/psnr_y": 31.0,
        "test/lpips": 0.25,
    }
    assert last.tables["test/clips"].columns == ("clip", "source", "psnr_y", "lpips")
    assert last.tables["test/clips"].rows[0] == ("a#0", "a", 30.0, 0.25)
    assert last.pictures == {"test/crops": ()}
    assert list(tracked.new_rows()) == []


@pytest.mark.parametrize("state", [State.FINISHED, State.STOPPED_EARLY])
def test_no_run_ends_before_its_evaluation(ledger: Ledger, state: State) -> None:
    end(ledger, state)
    assert TrackedTrial(ledger.folder).exit_code() is None
    ledger.write_evaluation(CLIPS)
    assert TrackedTrial(ledger.folder).exit_code() == 0


def test_a_row_that_comes_while_it_is_read_stays_before_the_evaluation(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feeder may be stopped at any place, for long."""
    tracked = TrackedTrial(ledger.folder)
    ledger.append(row("train", 1))
    read = TrackedTrial.read

    def slow(self: TrackedTrial) -> Any:
        yield from read(self)
        if self is tracked and not self._is_evaluated and ledger.status().state is not State.FINISHED:
            ledger.append(row("train", 2))
            end(ledger)
            ledger.write_evaluation(CLIPS)

    monkeypatch.setattr(TrackedTrial, "read", slow)
    rows = [*tracked.new_rows(), *tracked.new_rows()]
    assert ["test/psnr_y" in one.scalars for one in rows] == [False, False, True]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (State.PENDING, None),
        (State.RUNNING, None),
        (State.FAILED, 1),
        (State.CANCELLED, 1),
    ],
)
def test_the_exit_code_says_how_it_ended(ledger: Ledger, state: State, code: int | None) -> None:
    end(ledger, state)
    assert TrackedTrial(ledger.folder).exit_code() == code


def test_a_failed_trial_that_is_tried_again_goes_on(ledger: Ledger) -> None:
    tracked = TrackedTrial(ledger.folder)
    ledger.append(row("train", 1))
    assert len(list(tracked.new_rows())) == 1
    end(ledger, State.FAILED)
    assert tracked.exit_code() == 1
    end(ledger, State.PENDING)
    ledger.append(row("train", 1))
    ledger.append(row("train", 2))
    assert tracked.exit_code() is None
    assert [one.scalars[STEP] for one in tracked.new_rows()] == [2]


def test_the_summary_counts_problems_as_rows_are_read(ledger: Ledger) -> None:
    tracked = TrackedTrial(ledger.folder)
    for _ in range(2):
        ledger.append({"kind": "problem", "step": 0, "problem": "p"})
    list(tracked.new_rows())
    end(ledger, State.FAILED, reason="diverged", attempt=3, stream_hash="ab")
    assert tracked.summary() == {
        "trial/state": "failed",
        "trial/reason": "diverged",
        "trial/attempts": 3,
        "trial/problems": 2,
        "trial/stream_hash": "ab",
    }


def test_previews_are_shown_with_their_validation(ledger: Ledger) -> None:
    ledger.write_previews("hr", 4, {"a.png": b"hr"})
    ledger.write_previews("sr", 4, {f"{number:02d}.png": b"x" for number in range(10)})
    ledger.append(row("validation", 4))
    ledger.append(row("validation", 8))
    four, eight = TrackedTrial(ledger.folder).new_rows()
    shown = four.pictures["val/crops"]
    assert [(one.path.name, one.caption) for one in shown[:2]] == [
        ("00.png", "00, step 4"),
        ("01.png", "01, step 4"),
    ]
    assert len(shown) == 8
    assert eight.pictures["val/crops"] == ()


@pytest.mark.parametrize("count", [0, 1, 8, 12, 40])
def test_a_few_crops_are_kept_of_any_number(ledger: Ledger, count: int) -> None:
    (ledger.folder / "crops").mkdir()
    for number in range(count):
        (ledger.folder / "crops" / f"{number:02d}.png").write_bytes(b"x")
    ledger.write_evaluation(CLIPS)
    end(ledger)
    (last,) = TrackedTrial(ledger.folder).new_rows()
    assert len(last.pictures["test/crops"]) == min(count, 8)


def test_names_are_those_of_the_loss_and_no_longer_than_wandb_takes(tmp_path: Path) -> None:
    plain = TrackedTrial(
        new_ledger(tmp_path / "a", loss={"terms": [{"type": "l1"}, {"type": "mse", "weight": 0.5}]}).folder
    )
    assert (plain.name, plain.tags) == ("l1 + 0.5*mse seed=0", ("loss:l1 + 0.5*mse", "scale:x2"))
    named = new_ledger(tmp_path / "b", name="損失 ä/x", loss={"name": "n" * 120, "terms": ["l1"]})
    tracked = TrackedTrial(named.folder, candidate="c" * 500, variant="a=1")
    assert tracked.name == "損失 ä/x"
    assert [len(tag) for tag in tracked.tags] == [64, len("scale:x2")]
    config = tracked.config()
    assert (config["candidate"], config["settings"], config["sweep_id"]) == ("c" * 500, "a=1, seed=0", "")
    assert config["loss"]["name"] == "n" * 120
    assert config["command"] == "srloss train x.yaml"
    # What the sweep calls it goes before.
    within = TrackedTrial(named.folder, group="sweep-1", candidate="c" * 500)
    assert within.name == "c" * 128
    assert within.config()["sweep_id"] == "sweep-1"


def test_values_that_are_no_numbers_are_sent_as_they_are() -> None:
    shown = flat(
        {"kind": "train", "step": 1, "attempt": 1, "loss": math.nan, "terms": {"a b/ü": {"raw": math.inf}}}
    )
    assert shown.keys() == {STEP, "train/loss", "train/terms/a b/ü/raw"}
    assert math.isnan(shown["train/loss"])


@pytest.mark.parametrize(
    ("value", "shown", "is_same"),
    [
        (1, 1.0, True),
        (0.1, 0.1 * (1 + 1e-12), True),
        (0.1, 0.1001, False),
        (0.0, 1e-12, False),
        (math.nan, "NaN", True),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (math.inf, "Infinity", True),
        (-math.inf, "-Infinity", True),
        (math.inf, "-Infinity", False),
        (1.0, "NaN", False),
        (1.0, math.nan, False),
        ("words", "words", True),
        ("words", "others", False),
        (True, True, True),
        (True, False, False),
    ],
)
def test_what_wandb_gives_back_is_compared_by_value(value: object, shown: object, is_same: bool) -> None:
    found = difference({"a": shown, "_step": 3, "_runtime": 1}, Row({"a": value}))
    assert (found == "") is is_same
    if not is_same:
        assert found == f"a is {shown} instead of {value}"


def test_missing_values_pictures_tables_and_pages_are_told(tmp_path: Path) -> None:
    from sr.tracked import Picture, Table

    row = Row({"a": 1}, {"p": (Picture(tmp_path, ""),), "none": ()}, {"t": Table((), ())}, {"h": tmp_path})
    shown: dict[str, Any] = {"a": 1, "p": {}, "t": {}, "h": {}}
    assert difference(shown, row) == ""
    for name in shown:
        rest = {key: value for key, value in shown.items() if key != name}
        assert difference(rest, row) == f"{name} is missing"


# --- any history ---

_KINDS = st.sampled_from(["train", "train", "validation", "stage", "problem", "attempt", "judged"])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[bytes], bool]:
    """Pieces of metrics.jsonl as a reader may find it grown, cut off by kills and gone on with; whether it was evaluated."""
    lines: list[bytes] = []
    for attempt in range(1, draw(st.integers(1, 4)) + 1):
        step = draw(st.integers(0, 6))
        for kind in draw(st.lists(_KINDS, max_size=8)):
            step += draw(st.integers(0, 2))
            values = {"loss": attempt + step / 100}
            values |= {"stage": draw(st.integers(1, 2))} if kind == "stage" else {}
            values |= {"ranks": draw(st.integers(1, 3))} if kind == "attempt" else {}
            content = json.dumps({"attempt": attempt, **row(kind, step, **values)}).encode()
            lines.append(content + b"\n")
    return lines, draw(st.booleans())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_ledger(tmp_path_factory.mktemp("any") / "template").folder


@settings(max_examples=30, deadline=None)
@given(histories(), st.data())
def test_reading_in_portions_numbers_rows_as_reading_at_once(
    template: Path, history: tuple[list[bytes], bool], data: st.DataObject
) -> None:
    lines, is_evaluated = history
    ledger = Ledger(template)
    path = ledger.folder / "metrics.jsonl"
    for leftover in ("metrics.jsonl", "evaluation.jsonl"):
        (template / leftover).unlink(missing_ok=True)
    ledger.set_status(Status(State.RUNNING, attempt=1))
    in_portions, whole = TrackedTrial(ledger.folder), b""
    given: list[Row] = []
    for line in lines:
        whole += line
        match data.draw(st.sampled_from(["whole", "torn", "unseen"])):
            case "whole":
                path.write_bytes(whole)
                given += in_portions.new_rows()
            case "torn":
                # In the middle of being written, or for good: then it is cut off, and another attempt goes on.
                path.write_bytes(whole + line[: data.draw(st.integers(1, len(line) - 1))])
                given += in_portions.new_rows()
            case _:
                pass
    path.write_bytes(whole)
    if is_evaluated:
        ledger.write_evaluation(CLIPS)
        ledger.set_status(Status(State.FINISHED, step=9, seconds=9.0, attempt=1))
    given += in_portions.new_rows()
    at_once = list(TrackedTrial(ledger.folder).new_rows())
    versions = in_portions.versions()

    def places(rows: list[Row]) -> list[Any]:
        return [(one.scalars[STEP], sorted(one.scalars), one.scalars.get("ladder/stage")) for one in rows]

    assert places(given) == places(at_once) == places([each[-1] for each in versions])
    # What was sent is one of the versions, and what is seen at last is the last one.
    for sent, latest, each in zip(given, at_once, versions, strict=True):
        assert sent.scalars in [version.scalars for version in each]
        assert latest.scalars == each[-1].scalars
