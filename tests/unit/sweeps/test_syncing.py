"""What `srloss sync` sends and how it compares, with stand-ins for W&B's client and server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr.config import parse_trial
from sr.ledger import Ledger, State
from sr.lock import exclusive
from sr.track import Answer
from sr.tracked import Row
from sweeps import syncing
from sweeps.syncing import Sync, VerifiedRun, compared
from sweeps.tracked_sweep import feed_lock


def expected(*values: Any) -> list[list[Row]]:
    """A row for each value; of a tuple, it may be any."""
    return [
        [Row({"v": one}) for one in (value if isinstance(value, tuple) else (value,))] for value in values
    ]


def shown(*values: Any) -> list[dict[str, Any]]:
    return [{"_step": number, "_runtime": 1.5, "v": value} for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("there", "ledger"),
    [
        ([], []),
        (shown(1, 2.0, "x"), expected(1.0, 2, "x")),
        # As a step was measured by the first attempt, by the second, or by the last.
        (shown(1, 5, 9), expected((1, 4), (2, 5), (3, 6, 9))),
        (shown("NaN", "Infinity", "-Infinity"), expected(math.nan, math.inf, -math.inf)),
        (shown(math.nan, math.inf, -math.inf), expected(math.nan, math.inf, -math.inf)),
        (shown("NaN", 2), expected((1, math.nan), (math.nan, 2))),
    ],
)
def test_rows_that_are_those_of_the_ledger_are_sound(
    there: list[dict[str, Any]], ledger: list[list[Row]]
) -> None:
    assert compared("n", there, ledger) == VerifiedRun("n", len(ledger), len(ledger))
    assert compared("n", there, ledger).is_sound


@pytest.mark.parametrize(
    ("there", "ledger", "rows", "problem"),
    [
        (shown(1), expected(1, 2), 1, "1 rows there, 2 in the ledger"),
        ([], expected(1), 0, "0 rows there, 1 in the ledger"),
        (shown(1, 2, 3), expected(1, 2), 2, "3 rows there, 2 in the ledger"),
        (shown(1, 2, 3)[1:], expected(1, 2, 3), 0, "row 0 is row 1 there"),
        (shown(1, 2, 3)[::2], expected(1, 2, 3), 1, "row 1 is row 2 there"),
        ([*shown(1), *shown(1)], expected(1, 1), 1, "row 1 is row 0 there"),
        (shown(1, 7, 3), expected(1, 2, 3), 1, "row 1: v is 7 instead of 2"),
        (shown(1, 7), expected(1, (2, 3)), 1, "row 1: v is 7 instead of 3"),
        (shown(1, "NaN"), expected(1, 2.0), 1, "row 1: v is NaN instead of 2.0"),
        (shown(1, 2.0), expected(1, math.nan), 1, "row 1: v is 2.0 instead of nan"),
        ([{"_step": 0}], expected(1), 0, "row 0: v is missing"),
    ],
)
def test_rows_that_are_not_are_told(
    there: list[dict[str, Any]], ledger: list[list[Row]], rows: int, problem: str
) -> None:
    found = compared("n", there, ledger)
    assert (found.rows, found.expected_rows, found.problem) == (rows, len(ledger), problem)
    assert not found.is_sound


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8), st.data())
def test_any_one_row_that_is_lost_doubled_or_changed_is_found(
    values: list[float], data: st.DataObject
) -> None:
    there, ledger = shown(*values), expected(*values)
    assert compared("n", there, ledger).is_sound
    place = data.draw(st.integers(0, len(values) - 1))
    match data.draw(st.sampled_from(["lost", "doubled", "changed"])):
        case "lost":
            del there[place]
        case "doubled":
            there.insert(place, there[place])
        case _:
            value = values[place]
            there[place] = there[place] | {"v": value * 1.001 + 1e-3 if math.isfinite(value) else 1.0}
            if math.isinf(there[place]["v"]):
                there[place]["v"] = "NaN"
    found = compared("n", there, ledger)
    assert not found.is_sound
    assert found.rows <= len(values)


# --- sending ---


class StandIn:
    """Stands in for W&B's client and server."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.opened = 0
        self.ends: list[tuple[int, bool]] = []
        self.on_open: Callable[[], None] = lambda: None
        self.problem: Exception | None = None
        self.num_known = 0
        self.path, self.url = "lab/p/id", "https://wandb.example/id"
        self.place = "https://wandb.example  srloss"

    def __call__(self, *_arguments: object, **_more: object) -> StandIn:
        return self

    def open(self, _tracked: object) -> StandIn:
        self.on_open()
        self.opened += 1
        self.num_known = len(self.rows)
        return self

    def send(self, index: int, row: Row) -> None:
        if index >= self.num_known:
            self.rows.append({"_step": index, **row.scalars})

    def summarise(self, _values: object) -> None:
        pass

    def finish(self, code: int, *, is_unfinished: bool) -> None:
        self.ends.append((code, is_unfinished))
        if self.problem is not None:
            raise self.problem


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    server = StandIn()
    monkeypatch.setattr(syncing, "Client", server)
    monkeypatch.setattr(syncing, "ask", lambda **_: Answer("well", "lab"))
    monkeypatch.setattr(syncing, "rows_on_server", lambda _path: server.rows)
    monkeypatch.setattr(syncing, "_SETTLE_S", 0.0)
    return server


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "trials" / "0123456789")
    ledger.create(parse_trial({"data": {"path": "x"}, "loss": "l1"}), command="test")
    return ledger


def train(ledger: Ledger, *steps: int, state: State = State.RUNNING) -> None:
    for step in steps:
        ledger.append({"kind": "train", "step": step, "loss": 1 / step, "seconds": 1.0})
    ledger.set_status(replace(ledger.status(), state=state))


def test_a_trial_without_rows_is_left_out(ledger: Ledger, server: StandIn) -> None:
    assert list(Sync(ledger.folder)()) == []
    assert server.opened == 0


def test_a_whole_run_is_sent_once_and_then_known(ledger: Ledger, server: StandIn) -> None:
    train(ledger, 1, 2, state=State.FAILED)
    (found,) = Sync(ledger.folder)()
    assert (found.sent, found.rows, found.is_sound, found.url) == (2, 2, True, server.url)
    assert server.ends == [(1, False)]
    (again,) = Sync(ledger.folder)()
    assert (again.sent, again.rows, again.is_sound, again.url) == (0, 2, True, server.url)
    assert server.opened == 1
    # It was tried again: what is new is sent, and it is a run that goes on.
    train(ledger, 2, 3, state=State.RUNNING)
    (more,) = Sync(ledger.folder)()
    assert (more.sent, more.rows, more.is_sound) == (1, 3, True)
    assert server.ends[1:] == [(143, True)]


def test_another_server_has_not_got_it(ledger: Ledger, server: StandIn) -> None:
    train(ledger, 1, state=State.FAILED)
    list(Sync(ledger.folder)())
    server.rows = []
    server.place = "https://other.example  srloss"
    (found,) = Sync(ledger.folder)()
    assert (found.sent, server.opened) == (1, 2)


def test_a_run_that_is_not_whole_is_verified_again(ledger: Ledger, server: StandIn) -> None:
    train(ledger, 1, 2, 3, state=State.FAILED)
    server.rows = [{"_step": 1, "train/loss": 0.5}]
    (found,) = Sync(ledger.folder)()
    assert found.problem == "row 0 is row 1 there"
    assert not list((ledger.folder / "wandb" / "complete").glob("*"))
    server.rows = []
    (again,) = Sync(ledger.folder)()
    assert again.is_sound


@pytest.mark.parametrize("problem", [OSError("no route"), TimeoutError("2 of 3 rows have arrived")])
def test_rows_that_are_not_taken_are_told(ledger: Ledger, server: StandIn, problem: Exception) -> None:
    train(ledger, 1)
    server.problem = problem
    (found,) = Sync(ledger.folder)()
    assert (found.rows, found.problem, found.is_sound) == (0, f"not taken: {problem}", False)


def test_what_is_trained_meanwhile_is_no_difference(ledger: Ledger, server: StandIn) -> None:
    train(ledger, 1, 2)
    sync = Sync(ledger.folder)
    (tracked,) = sync.runs()
    summary = tracked.summary

    def slow() -> dict[str, Any]:
        train(ledger, 3)
        return summary()

    tracked.summary = slow
    (found,) = sync()
    assert (found.rows, found.is_sound) == (2, True)


def test_nobody_else_feeds_meanwhile(ledger: Ledger, server: StandIn) -> None:
    train(ledger, 1)
    sync = Sync(ledger.folder)

    def second() -> None:
        with pytest.raises(ValueError, match="W&B is being fed with 0123456789"):
            list(Sync(ledger.folder)())

    server.on_open = second
    assert len(list(sync())) == 1


def test_a_trial_of_a_sweep_is_not_sent_while_the_sweep_is(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "sweeps" / "s-1"
    ledger = Ledger(sweep / "trials" / "0123456789")
    ledger.create(parse_trial({"data": {"path": "x"}, "loss": "l1"}), command="test")
    (sweep / "plan.json").write_text(
        json.dumps({"sweep": {}, "trials": [["0123456789", "l1", ""]], "command": "c"})
    )
    train(ledger, 1)
    monkeypatch.setattr(
        syncing, "exclusive", lambda place, **more: exclusive(place, **more | {"timeout_s": 0.1})
    )
    sync = Sync(ledger.folder)
    with (
        exclusive(feed_lock(sweep, "s-1"), timeout_s=1, what="fed"),
        pytest.raises(ValueError, match="W&B is being fed with s-1"),
    ):
        list(sync())
    assert [run.is_sound for run in sync()] == [True]


@pytest.mark.parametrize(
    ("state", "error"), [("unreachable", OSError), ("no_key", ValueError), ("wrong_key", ValueError)]
)
def test_without_a_server_or_a_key_nothing_begins(
    ledger: Ledger, server: StandIn, monkeypatch: pytest.MonkeyPatch, state: Any, error: type[Exception]
) -> None:
    monkeypatch.setattr(syncing, "ask", lambda **_: Answer(state, "it is so"))
    with pytest.raises(error, match="sync: W&B: it is so"):
        Sync(ledger.folder)
    assert server.opened == 0
