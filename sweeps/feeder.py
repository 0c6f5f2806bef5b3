"""Feeds W&B from the run store: `python -m sweeps.feeder FOLDER`, a process beside the one that trains.

It reads what the ledgers hold and sends it; nobody waits for it, and it may be killed at any time: what W&B has not got is
sent by the next one, or by `srloss sync`. So neither an outage of W&B nor its client's faults ever reach a training.

Its first line of output is a `Decision` as JSON, all others are for people. A line `finish SECONDS` on its input has it end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from cluster.fate import die_with
from sr.configfile import read_yaml
from sr.files import write_atomically
from sr.lock import exclusive
from sr.track import Answer, Client, OpenRun, RowsLostError, ask
from sr.tracked import Row, Tracked
from sweeps.tracked_sweep import RunsOf, feed_lock

log = logging.getLogger(__name__)

SENT, INCOMPLETE, REFUSED = 0, 3, 2
"""Exit codes: W&B has everything; something is left to be sent; nothing can be sent, as the decision says."""
_POLL_S = 1.0
_PAUSE, _LONGEST_PAUSE_S = 10.0, 10.0
"""After a look at all ledgers that took long it rests as many times as long, up to this."""
_LOCK_S = 60.0
"""How long another one is waited for that feeds the same runs."""
_LOOK_EVERY_S = 20.0
"""How often an unreachable server is asked again."""
_MOST_OPEN = 48
"""Runs open at once; of more, those wait closed that wait to be evaluated."""


# --- what to do -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a sweep's runs go; made once, and kept beside them."""

    mode: Literal["online", "offline", "disabled", "refused"]
    words: str
    """For people; may be empty."""


def decide(wanted: str, *, recorded: Path, ask_server: Callable[[], Answer] = ask) -> Decision:
    """Where runs go, from the setting `tracking.wandb`, $WANDB_MODE, the API key, and whether the server answers.

    Args:
        wanted: The setting.
        recorded: Where an earlier decision of `auto` for the same sweep is kept.
        ask_server: Asks whether the server answers.
    """
    environment = os.environ.get("WANDB_MODE", "")
    if wanted in ("auto", "online") and environment in ("offline", "disabled", "dryrun"):
        mode = "disabled" if environment == "disabled" else "offline"
        return Decision(mode, f"W&B: {mode}, as WANDB_MODE says")
    if wanted in ("offline", "disabled"):
        return Decision(wanted, "")
    if wanted == "auto" and recorded.exists():
        return Decision(json.loads(recorded.read_text())["mode"], "")
    try:
        answer = ask_server()
    except ValueError as error:
        return Decision("refused", str(error))
    decision = _decided(wanted, answer)
    if wanted == "auto":
        recorded.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(recorded, json.dumps(asdict(decision)).encode())
    return decision


def _decided(wanted: str, answer: Answer) -> Decision:
    if answer.is_well:
        return Decision("online", "")
    if wanted == "auto":
        return Decision(
            "offline", f"W&B: {answer.words}; runs are written offline for the whole sweep, nothing is lost"
        )
    if answer.state == "unreachable":
        # Somebody who insists has his reasons; it may come back.
        return Decision(
            "online", f"W&B: {answer.words}; training goes on, and rows are sent when that is over"
        )
    return Decision(
        "refused",
        f"tracking.wandb: online, but {answer.words}; or set WANDB_MODE=offline and use srloss sync later",
    )


# --- sending ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Feed:
    """One run, as far as it has come."""

    tracked: Tracked
    run: OpenRun | None = None
    index: int = 0
    """Number of the first of `pending`."""
    pending: deque[Row] = field(default_factory=deque)
    sent: list[Row] = field(default_factory=list)
    """Rows since the run was opened: W&B may not have got them when it closes."""
    summary: dict[str, object] = field(default_factory=dict)
    is_over: bool = False
    is_lost: bool = False
    """Whether W&B can never have this run whole."""
    failed_at: float = 0.0
    """When W&B did not take it last."""


class Feeder:
    """Sends what is new of some runs, and tells what a person must know, once.

    Args:
        client: Where to.
        runs: All runs that are known now.
        tell: Takes a line for people.
        is_told: Whether they know already that the server is not reached.
    """

    def __init__(
        self,
        client: Client,
        runs: Callable[[], list[Tracked]],
        tell: Callable[[str], None],
        *,
        is_told: bool = False,
    ) -> None:
        self._client = client
        self._runs = runs
        self._tell = tell
        self._feeds: dict[str, _Feed] = {}
        self._look_again_at = 0.0
        self._is_told = is_told
        self.num_rows = 0
        """Sent by this process."""
        self.urls: dict[str, str] = {}
        """Page of each run on W&B, by its id."""
        self.look_s = 0.0
        """How long it took to read what is new, the last time."""

    def poll(self) -> None:
        """Sends what has come since the last call, and ends the runs that are over.

        Raises:
            Exception: W&B's client is broken; begin anew in another process.
        """
        began = time.monotonic()
        for tracked in self._runs():
            self._feeds.setdefault(tracked.run_id, _Feed(tracked))
        self.look_s = time.monotonic() - began
        # What was not taken goes to the back: a run that was deleted there for good keeps none of the others waiting.
        for feed in sorted(self._feeds.values(), key=lambda feed: feed.failed_at):
            if feed.is_over:
                continue
            began = time.monotonic()
            # Asked first: whatever comes while rows are sent is for the next time, also the end.
            code = feed.tracked.exit_code()
            feed.pending.extend(feed.tracked.new_rows())
            self.look_s += time.monotonic() - began
            # The sweep's own run tells from the start how many trials stand where.
            if (feed.pending or feed.tracked.job_type == "sweep") and self._opened(feed):
                self._send(feed)
            if feed.run is not None and not feed.pending:
                self._close_if_over(feed, code)

    def _opened(self, feed: _Feed) -> bool:
        if feed.run is not None:
            return True
        if time.monotonic() < self._look_again_at:
            return False
        if self._is_sent(feed):
            feed.is_over = True
            feed.pending.clear()
            return False
        try:
            feed.run = self._client.open(feed.tracked)
        except OSError as error:
            self._failed(feed)
            self._tell_once(f"W&B: {error}; training goes on, and rows are sent when that is over")
            return False
        except RowsLostError:
            # Only another run can hold all of them; that is for `srloss sync`.
            feed.is_over = feed.is_lost = True
            return False
        if feed.run.url and not self.urls:
            self._tell(f"W&B: online, {feed.run.url}")
        self.urls[feed.tracked.run_id] = feed.run.url
        self._is_told = False
        feed.summary = {}
        return True

    def _send(self, feed: _Feed) -> None:
        assert feed.run is not None
        try:
            while feed.pending:
                feed.run.send(feed.index, feed.pending[0])
                self.num_rows += feed.index >= feed.run.num_known
                feed.sent.append(feed.pending.popleft())
                feed.index += 1
            self._summarise(feed)
        except Exception as error:  # noqa: BLE001 - a table asks the server at once, and whatever it answers comes up here
            log.warning("%s: %s", feed.tracked.name, error)
            self._finished(feed, None, is_unfinished=True)
            self._again(feed)

    def _again(self, feed: _Feed) -> None:
        """Has all rows since the run was opened sent again, in a while; those that W&B has are left out then."""
        feed.pending.extendleft(reversed(feed.sent))
        feed.index -= len(feed.sent)
        feed.sent = []
        self._failed(feed)

    def _summarise(self, feed: _Feed) -> None:
        assert feed.run is not None
        summary = feed.tracked.summary()
        if summary != feed.summary:
            feed.run.summarise(summary)
            feed.summary = summary

    def _close_if_over(self, feed: _Feed, code: int | None) -> None:
        assert feed.run is not None
        num_open = sum(other.run is not None for other in self._feeds.values())
        is_crowded = num_open > _MOST_OPEN and self._client.mode == "online"
        # A sweep's own run is over when nobody feeds it any more: there may be another verdict.
        if (code is not None and feed.tracked.job_type != "sweep") or is_crowded:
            self._summarise(feed)
            is_whole = self._finished(feed, code, is_unfinished=code is None)
            feed.is_over = is_whole and code is not None
            if feed.is_over:
                self._note_sent(feed)

    def _is_sent(self, feed: _Feed) -> bool:
        """Whether an earlier feeder has sent all of a trial that has ended: of many, each would be opened for nothing."""
        code, path = feed.tracked.exit_code(), self._sent_note(feed)
        is_candidate = self._client.mode == "online" and code is not None and feed.tracked.job_type != "sweep"
        return is_candidate and path.exists() and json.loads(path.read_text()) == self._state(feed, code)

    def _note_sent(self, feed: _Feed) -> None:
        path = self._sent_note(feed)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(self._state(feed, feed.tracked.exit_code())).encode())

    def _sent_note(self, feed: _Feed) -> Path:
        return self._client.folder / "wandb" / "sent" / f"{feed.tracked.key}.json"

    def _state(self, feed: _Feed, code: int | None) -> dict[str, object]:
        return {"rows": feed.index + len(feed.pending), "exit_code": code, "place": self._client.place}

    def _finished(self, feed: _Feed, code: int | None, *, is_unfinished: bool = False) -> bool:
        """Ends the run; whether W&B has got everything. If not, it is opened again when rows are to be sent."""
        assert feed.run is not None
        try:
            feed.run.finish(code if code is not None else 0, is_unfinished=is_unfinished)
        except TimeoutError:
            feed.run = None
            self._tell_once(
                "W&B: does not take rows in time; training goes on, and rows are sent again later"
            )
            self._again(feed)
            return False
        feed.run = None
        feed.sent = []
        return True

    def _failed(self, feed: _Feed) -> None:
        feed.failed_at = time.monotonic()
        self._look_again_at = feed.failed_at + _LOOK_EVERY_S

    def _tell_once(self, words: str) -> None:
        if not self._is_told:
            self._is_told = True
            self._tell(words)

    def finish(self, within_s: float) -> list[str]:
        """Sends the rest and ends all runs at once; names of those that W&B has not got whole within this time."""
        deadline = time.monotonic() + max(0.2, within_s)
        self._is_told = True
        self._look_again_at = 0.0
        last = threading.Thread(target=self._last_poll, daemon=True)
        last.start()
        last.join(max(0.1, deadline - time.monotonic()))
        feeds = list(self._feeds.values())
        threads = [
            threading.Thread(target=self._end, args=(feed,), daemon=True)
            for feed in feeds
            if feed.run is not None and not last.is_alive()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        # A run whose end still blocks, or broke down, is there still.
        return [feed.tracked.name for feed in feeds if feed.run is not None or feed.pending or feed.is_lost]

    def _last_poll(self) -> None:
        with contextlib.suppress(Exception):
            self.poll()

    def _end(self, feed: _Feed) -> None:
        with contextlib.suppress(Exception):
            self._summarise(feed)
            code = feed.tracked.exit_code()
            self._finished(feed, 143 if code is None else code, is_unfinished=code is None)


# --- the process ------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Feeds until it is told to finish, or whoever started it is gone."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.feeder")
    parser.add_argument("folder", type=Path, help="of the sweep, or of a trial without one")
    parser.add_argument("--parent", type=int, required=True, help="process that this one ends with")
    given = parser.parse_args(arguments)
    die_with(given.parent)
    # What SLURM or a terminal sends to all processes is for the parent, who has this one send the rest first.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    runs = RunsOf(given.folder)
    section = read_yaml(runs.first_config()).get("tracking", {})
    decision = decide(section.get("wandb", "auto"), recorded=runs.root / "wandb" / "tracking.json")
    _write(json.dumps(asdict(decision)))
    if decision.mode in ("disabled", "refused"):
        return REFUSED if decision.mode == "refused" else SENT
    client = Client(
        runs.root,
        mode=decision.mode,
        project=section.get("project", "srloss"),
        entity=section.get("entity"),
        finish_timeout_s=section.get("finish_timeout_s", 60.0),
        driver_pid=given.parent,
    )
    feeder = Feeder(client, runs, _write, is_told=bool(decision.words))
    # No two may send the same runs, nor write offline logs of them: each deletes those that it finds.
    alone = exclusive(
        feed_lock(runs.root, runs.folder.name, mode=decision.mode),
        timeout_s=_LOCK_S,
        what="W&B is being fed from here",
    )
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone)
        except ValueError as error:
            _write(f"W&B: nothing is sent from here: {error}")
            return REFUSED
        left = feeder.finish(_fed(feeder))
    return _ended(left, feeder)


def _fed(feeder: Feeder) -> float:
    """Polls until told to finish; returns how long that may take."""
    while True:
        feeder.poll()
        # A thousand ledgers are looked at less often: file servers have better things to do.
        pause = min(max(_POLL_S, _PAUSE * feeder.look_s), _LONGEST_PAUSE_S)
        if select.select([sys.stdin], [], [], pause)[0]:
            words = sys.stdin.readline().split()
            return float(words[1]) if words else 0.0


def _ended(left: list[str], feeder: Feeder) -> int:
    if left:
        _write(f"W&B: {len(left)} of {len(feeder.urls) or len(left)} runs are not complete there yet")
    sys.stdout.flush()
    # W&B's client would wait at the exit for what it could not send.
    os._exit(INCOMPLETE if left else SENT)


def _write(words: str) -> None:
    # Whoever listened may be gone.
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{words}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
