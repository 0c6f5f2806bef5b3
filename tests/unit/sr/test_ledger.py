"""The ledger's readings after kills and repeats."""

import json
from pathlib import Path
from typing import Any

import pytest

from sr.config import parse_trial
from sr.ledger import Ledger, State, open_trial, read_rows


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "trial")
    ledger.create(parse_trial({"data": {"path": "x"}, "loss": "l1"}), command="srloss train x.yaml")
    return ledger


def row(step: int, value: float) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": value}


def test_a_repeated_step_counts_once_and_the_last_attempt_wins(ledger: Ledger) -> None:
    ledger.begin_attempt()
    for step in (1, 2, 3):
        ledger.append(row(step, 0.1 * step))
    ledger.set_status(ledger.status().__class__(State.RUNNING, attempt=1))
    assert ledger.begin_attempt() == 2
    for step in (2, 3, 4):
        ledger.append(row(step, 10.0 * step))
    rows = ledger.rows("train")
    assert [(r["step"], r["attempt"], r["loss"]) for r in rows] == [
        (1, 1, 0.1),
        (2, 2, 20.0),
        (3, 2, 30.0),
        (4, 2, 40.0),
    ]


def test_a_line_cut_off_by_a_kill_is_left_out_and_then_repaired(ledger: Ledger) -> None:
    ledger.begin_attempt()
    ledger.append(row(1, 0.5))
    path = ledger.folder / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 2, "lo')
    assert [r["step"] for r in ledger.rows("train")] == [1]
    ledger.begin_attempt()
    ledger.append(row(2, 0.4))
    assert [r["step"] for r in ledger.rows("train")] == [1, 2]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_creating_again_changes_nothing(ledger: Ledger) -> None:
    ledger.set_status(ledger.status().__class__(State.FINISHED, "all 3 steps", step=3))
    ledger.create(ledger.config(), command="something else")
    assert ledger.status().state is State.FINISHED
    assert ledger.command() == "srloss train x.yaml"


def test_a_folder_without_a_trial_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trial here"):
        open_trial(tmp_path)


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: damaged"):
        read_rows(path)
