"""What feeds W&B: where runs go, and what is sent when, to a stand-in for W&B's client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from sr.track import Answer, Client
from sr.tracked import Row, Tracked
from sweeps import feeder as feeding
from sweeps.feeder import Decision, Feeder, decide

ANSWERS = {state: Answer(state, f"it is {state}") for state in ("well", "no_key", "wrong_key", "unreachable")}


# --- what to do ---


def never() -> Answer:
    pytest.fail("nobody is to be asked")


@pytest.mark.parametrize(
    ("wanted", "environment", "mode", "words"),
    [
        ("auto", "offline", "offline", "W&B: offline, as WANDB_MODE says"),
        ("auto", "dryrun", "offline", "W&B: offline, as WANDB_MODE says"),
        ("auto", "disabled", "disabled", "W&B: disabled, as WANDB_MODE says"),
        ("online", "offline", "offline", "W&B: offline, as WANDB_MODE says"),
        ("online", "disabled", "disabled", "W&B: disabled, as WANDB_MODE says"),
        ("offline", "", "offline", ""),
        ("offline", "online", "offline", ""),
        ("offline", "disabled", "offline", ""),
        ("disabled", "", "disabled", ""),
        ("disabled", "online", "disabled", ""),
    ],
)
def test_some_settings_need_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, environment: str, mode: str, words: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", environment)
    recorded = tmp_path / "wandb" / "tracking.json"
    assert decide(wanted, recorded=recorded, ask_server=never) == Decision(mode, words)  # type: ignore[arg-type]
    assert not recorded.exists()


@pytest.mark.parametrize("environment", ["", "online"])
@pytest.mark.parametrize(
    ("wanted", "state", "mode"),
    [
        ("auto", "well", "online"),
        ("auto", "no_key", "offline"),
        ("auto", "wrong_key", "offline"),
        ("auto", "unreachable", "offline"),
        ("online", "well", "online"),
        ("online", "no_key", "refused"),
        ("online", "wrong_key", "refused"),
        ("online", "unreachable", "online"),
    ],
)
def test_others_depend_on_what_the_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, state: str, mode: str, environment: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", environment)
    recorded = tmp_path / "wandb" / "tracking.json"
    found = decide(wanted, recorded=recorded, ask_server=lambda: ANSWERS[state])
    assert found.mode == mode
    # All but what goes well is told.
    assert (f"it is {state}" in found.words) is (state != "well")
    assert (found.words == "") is (state == "well")
    assert recorded.exists() is (wanted == "auto")


@pytest.mark.parametrize(("first", "later"), [("well", "unreachable"), ("unreachable", "well")])
def test_what_was_decided_for_a_sweep_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, later: str
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    recorded = tmp_path / "wandb" / "tracking.json"
    made = decide("auto", recorded=recorded, ask_server=lambda: ANSWERS[first])
    assert decide("auto", recorded=recorded, ask_server=never) == Decision(made.mode, "")
    # Whoever insists, or says otherwise, is heard.
    assert decide("online", recorded=recorded, ask_server=lambda: ANSWERS[later]).mode == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert decide("auto", recorded=recorded, ask_server=never).mode == "disabled"


@pytest.mark.parametrize("wanted", ["auto", "online"])
def test_a_setting_of_wandb_that_makes_no_sense_is_refused_with_its_name(tmp_path: Path, wanted: str) -> None:
    def nonsense() -> Answer:
        raise ValueError("W&B's setting mode ($WANDB_MODE): no")

    found = decide(wanted, recorded=tmp_path / "tracking.json", ask_server=nonsense)
    assert found == Decision("refused", "W&B's setting mode ($WANDB_MODE): no")
    assert not (tmp_path / "tracking.json").exists()


# --- sending ---


class FakeTracked:
    """Stands in for a trial; a test lets it grow."""

    group, tags = "sweep-1", ()

    def __init__(self, run_id: str, num_rows: int = 0, *, job_type: str = "train") -> None:
        self.run_id = self.key = run_id
        self.name = f"run {run_id}"
        self.job_type = job_type
        self.code: int | None = None
        self.state = "running"
        self._new: list[Row] = []
        self._count = 0
        self.grow(num_rows)

    def grow(self, count: int) -> None:
        self._new += [Row({"n": self._count + number}) for number in range(count)]
        self._count += count

    def new_rows(self) -> Iterator[Row]:
        new, self._new = self._new, []
        yield from new

    def config(self) -> dict[str, Any]:
        return {}

    def versions(self) -> list[list[Row]]:
        return []

    def summary(self) -> dict[str, Any]:
        return {"state": self.state}

    def exit_code(self) -> int | None:
        return self.code


@dataclass
class StandInServer:
    """Stands in for W&B's server: what it has of each run, and what it does to its client."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    """The values `n` of the rows of each run; row number i has the value i, if all went well."""
    ends: list[tuple[str, int, bool]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    summaries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    is_out: bool = False
    gone: set[str] = field(default_factory=set)
    """Runs that it does not take."""
    loses: bool = False
    """Whether rows are lost on the way."""
    at_finish: Callable[[str], None] = lambda _run_id: None


class FakeClient:
    """Stands in for `sr.track.Client`."""

    def __init__(self, server: StandInServer, mode: str, folder: Path) -> None:
        self.server = server
        self.mode = mode
        self.folder, self.place = folder, "https://wandb.example  p"

    def open(self, tracked: Tracked) -> FakeRun:
        self.server.opened.append(tracked.run_id)
        if self.server.is_out or tracked.run_id in self.server.gone:
            raise OSError(f"no answer for {tracked.run_id}")
        return FakeRun(self.server, tracked.run_id)


class FakeRun:
    """Stands in for `sr.track.OpenRun`."""

    def __init__(self, server: StandInServer, run_id: str) -> None:
        self.server, self.run_id = server, run_id
        self.url = f"https://wandb.example/{run_id}"
        self.there = server.rows.setdefault(run_id, [])
        self.num_known = len(self.there)
        self.num_rows = 0

    def send(self, index: int, row: Row) -> None:
        self.num_rows = index + 1
        if index >= self.num_known and not self.server.loses:
            assert index == len(self.there), "W&B drops a row that comes out of order"
            self.there.append(row.scalars["n"])

    def summarise(self, values: dict[str, Any]) -> None:
        self.server.summaries.setdefault(self.run_id, []).append(values)

    def finish(self, exit_code: int, *, is_unfinished: bool = False) -> None:
        self.server.at_finish(self.run_id)
        if len(self.there) < self.num_rows:
            raise TimeoutError("rows are missing")
        self.server.ends.append((self.run_id, exit_code, is_unfinished))


class Sent:
    """A feeder with what it works on."""

    def __init__(
        self,
        *runs: FakeTracked,
        mode: str = "online",
        server: StandInServer | None = None,
        folder: Path = Path("/proc/nowhere"),
    ) -> None:
        self.server = server or StandInServer()
        self.runs = list(runs)
        self.told: list[str] = []
        client = cast(Client, FakeClient(self.server, mode, folder))
        self.feeder = Feeder(client, lambda: cast(list[Tracked], self.runs), self.told.append)

    def later(self) -> None:
        """Lets an unreachable server be asked again."""
        self.feeder._look_again_at = 0.0


def test_rows_are_sent_in_order_as_they_come() -> None:
    a, b = FakeTracked("a", 2), FakeTracked("b")
    sent = Sent(a, b)
    sent.feeder.poll()
    assert sent.server.rows == {"a": [0, 1]}
    a.grow(1)
    b.grow(3)
    sent.feeder.poll()
    sent.feeder.poll()
    assert sent.server.rows == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert sent.server.opened == ["a", "b"]
    assert sent.feeder.num_rows == 6
    assert sent.told == ["W&B: online, https://wandb.example/a"]
    assert sent.feeder.urls == {name: f"https://wandb.example/{name}" for name in ("a", "b")}


def test_a_trial_that_appears_later_is_sent_too() -> None:
    sent = Sent(FakeTracked("a", 1))
    sent.feeder.poll()
    sent.runs.append(FakeTracked("b", 1))
    sent.feeder.poll()
    assert sent.server.rows == {"a": [0], "b": [0]}


def test_what_wandb_has_is_not_sent_again() -> None:
    server = StandInServer(rows={"a": [0, 1, 2]})
    sent = Sent(FakeTracked("a", 5), server=server)
    sent.feeder.poll()
    assert server.rows["a"] == [0, 1, 2, 3, 4]
    assert sent.feeder.num_rows == 2


def test_a_run_ends_with_its_trial_and_never_again() -> None:
    a = FakeTracked("a", 1)
    sent = Sent(a)
    sent.feeder.poll()
    assert sent.server.ends == []
    a.code, a.state = 1, "failed"
    sent.feeder.poll()
    sent.feeder.poll()
    assert sent.server.ends == [("a", 1, False)]
    assert sent.server.summaries["a"] == [{"state": "running"}, {"state": "failed"}]
    assert sent.feeder.finish(1) == []
    assert sent.server.ends == [("a", 1, False)]


def test_the_sweep_s_run_ends_with_the_feeder_since_there_may_be_another_verdict() -> None:
    sweep = FakeTracked("s", 1, job_type="sweep")
    sweep.code = 0
    sent = Sent(sweep)
    sent.feeder.poll()
    assert sent.server.ends == []
    sweep.grow(1)
    assert sent.feeder.finish(1) == []
    assert sent.server.rows["s"] == [0, 1]
    assert sent.server.ends == [("s", 0, False)]


def test_a_trial_that_will_go_on_is_left_as_preempted() -> None:
    sent = Sent(FakeTracked("a", 2))
    assert sent.feeder.finish(1) == []
    assert sent.server.rows["a"] == [0, 1]
    assert sent.server.ends == [("a", 143, True)]


def test_an_outage_is_told_once_and_rows_wait_for_its_end() -> None:
    a, b = FakeTracked("a", 2), FakeTracked("b", 1)
    sent = Sent(a, b)
    sent.server.is_out = True
    sent.feeder.poll()
    # One try is enough to know.
    assert sent.server.opened == ["a"]
    sent.feeder.poll()
    assert sent.server.opened == ["a"]
    a.grow(1)
    for _ in range(3):
        sent.later()
        sent.feeder.poll()
    assert len(sent.told) == 1
    assert "no answer" in sent.told[0]
    sent.server.is_out = False
    sent.later()
    sent.feeder.poll()
    assert sent.server.rows == {"a": [0, 1, 2], "b": [0]}


def test_a_run_that_is_never_taken_keeps_no_other_waiting() -> None:
    """One that somebody has deleted there, for example."""
    sent = Sent(FakeTracked("a", 1), FakeTracked("deleted", 1), FakeTracked("c", 1), FakeTracked("d", 1))
    sent.server.gone.add("deleted")
    for _ in range(2):
        sent.later()
        sent.feeder.poll()
    assert sent.server.rows.keys() == {"a", "c", "d"}
    assert sent.feeder.finish(1) == ["run deleted"]


def test_rows_that_were_lost_on_the_way_are_sent_again_from_the_first_that_is_missing() -> None:
    a = FakeTracked("a", 2)
    sent = Sent(a)
    sent.feeder.poll()
    sent.server.loses = True
    a.grow(2)
    sent.feeder.poll()
    a.code = 0
    sent.feeder.poll()
    assert sent.server.rows["a"] == [0, 1]
    assert sent.server.ends == []
    assert [words for words in sent.told if "does not take rows" in words] == sent.told[1:]
    sent.server.loses = False
    sent.feeder.poll()
    assert sent.server.opened == ["a"], "the server is left alone for a while"
    a.grow(1)
    sent.later()
    sent.feeder.poll()
    assert sent.server.rows["a"] == [0, 1, 2, 3, 4]
    assert sent.server.ends == [("a", 0, False)]
    assert sent.feeder.finish(1) == []


def test_rows_that_are_lost_at_the_end_are_left() -> None:
    sent = Sent(FakeTracked("a", 2), FakeTracked("b", 1))
    sent.feeder.poll()
    sent.runs[0].grow(1)
    sent.server.loses = True
    assert sent.feeder.finish(1) == ["run a"]


def test_at_the_end_the_server_is_asked_once_more_whatever_was_before() -> None:
    sent = Sent(FakeTracked("a", 2))
    sent.server.is_out = True
    sent.feeder.poll()
    sent.server.is_out = False
    assert sent.feeder.finish(1) == []
    assert sent.server.rows["a"] == [0, 1]


def test_the_end_takes_no_longer_than_it_may_and_says_what_is_left() -> None:
    let_go = threading.Event()
    sent = Sent(FakeTracked("a", 1), FakeTracked("b", 1), FakeTracked("c"))
    sent.feeder.poll()
    sent.server.at_finish = lambda run_id: cast(None, let_go.wait(10)) if run_id == "a" else None
    began = time.monotonic()
    assert sent.feeder.finish(0.3) == ["run a"]
    assert time.monotonic() - began < 2
    assert sent.server.ends == [("b", 143, True)]
    let_go.set()


def test_many_runs_whose_ends_block_take_no_longer_than_one() -> None:
    let_go = threading.Event()
    sent = Sent(*(FakeTracked(str(number), 1) for number in range(30)))
    sent.feeder.poll()
    sent.server.at_finish = lambda _run_id: cast(None, let_go.wait(10))
    began = time.monotonic()
    assert len(sent.feeder.finish(0.3)) == 30
    assert time.monotonic() - began < 1.5
    let_go.set()


def test_a_last_look_that_blocks_is_not_waited_for() -> None:
    let_go = threading.Event()
    sent = Sent(FakeTracked("a", 1), FakeTracked("b", 1), FakeTracked("nothing to send"))
    sent.feeder.poll()
    sent.runs[0].code = 0
    ended: list[str] = []

    def block(run_id: str) -> None:
        ended.append(run_id)
        let_go.wait(10)

    sent.server.at_finish = block
    began = time.monotonic()
    assert sent.feeder.finish(0.2) == ["run a", "run b"]
    assert time.monotonic() - began < 2
    # The client is in the midst of something: nothing else is begun.
    assert ended == ["a"]
    let_go.set()


def test_a_client_that_breaks_down_at_the_end_has_not_sent_the_rest() -> None:
    def broken(_run_id: str) -> None:
        raise BrokenPipeError

    sent = Sent(FakeTracked("a", 1))
    sent.feeder.poll()
    sent.server.at_finish = broken
    assert sent.feeder.finish(1) == ["run a"]


def test_a_client_that_breaks_down_meanwhile_ends_the_process() -> None:
    sent = Sent(FakeTracked("a", 1))
    sent.feeder.poll()
    sent.runs[0].code = 0

    def broken(_run_id: str) -> None:
        raise RuntimeError("its service process died")

    sent.server.at_finish = broken
    with pytest.raises(RuntimeError, match="died"):
        sent.feeder.poll()


@pytest.mark.parametrize(("mode", "num_open"), [("online", 3), ("offline", 6)])
def test_of_many_runs_some_wait_closed(monkeypatch: pytest.MonkeyPatch, mode: str, num_open: int) -> None:
    monkeypatch.setattr(feeding, "_MOST_OPEN", 3)
    runs = [FakeTracked(str(number), 1) for number in range(6)]
    sent = Sent(*runs, mode=mode)
    sent.feeder.poll()
    # An offline log is written anew whenever it is opened, so it stays open.
    assert sum(feed.run is not None for feed in sent.feeder._feeds.values()) == num_open
    for run in runs:
        run.grow(1)
        run.code = 0
    sent.feeder.poll()
    assert sent.server.rows == {str(number): [0, 1] for number in range(6)}
    assert sent.feeder.finish(1) == []
    assert {name for name, code, _ in sent.server.ends if code == 0} == {str(number) for number in range(6)}


def test_the_end_is_told_in_a_line_with_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    codes: list[int] = []
    monkeypatch.setattr(feeding.os, "_exit", codes.append)
    sent = Sent(FakeTracked("a", 1), FakeTracked("b", 1))
    sent.feeder.poll()
    feeding._ended([], sent.feeder)
    feeding._ended(["run a"], sent.feeder)
    assert codes == [feeding.SENT, feeding.INCOMPLETE]
    assert capsys.readouterr().out == "W&B: 1 of 2 runs are not complete there yet\n"


def test_a_decision_is_a_line_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    recorded = tmp_path / "tracking.json"
    decide("auto", recorded=recorded, ask_server=lambda: ANSWERS["no_key"])
    assert json.loads(recorded.read_text())["mode"] == "offline"


def test_what_comes_while_rows_are_sent_comes_before_the_end() -> None:
    server, trial, said = StandInServer(), FakeTracked("a", 2), list[str]()

    class Slow(FakeClient):
        def open(self, tracked: Tracked) -> FakeRun:
            # The trial is evaluated meanwhile, and over.
            trial.grow(1)
            trial.code = 0
            return super().open(tracked)

    feeder = Feeder(
        cast(Any, Slow(server, "online", Path("/proc/nowhere"))), lambda: [cast(Tracked, trial)], said.append
    )
    feeder.poll()
    assert server.ends == []
    feeder.poll()
    assert (server.rows, server.ends) == ({"a": [0, 1, 2]}, [("a", 0, False)])


def test_a_trial_that_an_earlier_feeder_has_sent_whole_is_not_opened_again(tmp_path: Path) -> None:
    first = Sent(FakeTracked("a", 3), folder=tmp_path)
    first.runs[0].code = 0
    first.feeder.poll()
    assert first.server.opened == ["a"]
    again = Sent(FakeTracked("a", 3), folder=tmp_path)
    again.runs[0].code = 0
    again.feeder.poll()
    assert (again.server.opened, again.feeder.finish(1.0)) == ([], [])
    # It was tried again, or is not over.
    for rows, code in ((4, 0), (3, None), (3, 1)):
        other = Sent(FakeTracked("a", rows), folder=tmp_path)
        other.runs[0].code = code
        other.feeder.poll()
        assert other.server.opened == ["a"]


def test_the_run_of_the_sweep_is_there_before_it_has_a_verdict() -> None:
    sent = Sent(FakeTracked("s", job_type="sweep"))
    sent.feeder.poll()
    assert sent.server.opened == ["s"]
    assert sent.server.summaries == {"s": [{"state": "running"}]}
