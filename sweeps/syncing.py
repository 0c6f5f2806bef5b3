"""`srloss sync`: sends W&B what it has not got of the runs in a folder, and compares it with the ledgers row by row.

What is sent comes from the ledgers, not from W&B's offline logs: those may be empty or cut off after a kill, and repeat steps
after a preemption. So a run can be sent at any time, in parts, again, and after its offline log was deleted.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sr.configfile import read_yaml
from sr.files import write_atomically
from sr.lock import exclusive
from sr.track import Client, RowsLostError, ask, mark_synced, offline_rows, rows_on_server
from sr.tracked import Row, Tracked, difference
from sweeps.tracked_sweep import RunsOf, feed_lock

_SETTLE_S = 10.0
"""How long the server may take to show what it has taken."""
_ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class VerifiedRun:
    """What was found in W&B of one run."""

    name: str
    rows: int
    """That are there and equal to the ledger's."""
    expected_rows: int
    problem: str = ""
    sent: int = 0
    """Of them, just now."""
    url: str = ""
    note: str = ""
    """What else there is to know."""

    @property
    def is_sound(self) -> bool:
        """Whether every row of the ledger is there, once, and nothing else."""
        return not self.problem and self.rows == self.expected_rows


def compared(name: str, shown: Sequence[Mapping[str, Any]], expected: Sequence[Sequence[Row]]) -> VerifiedRun:
    """Compares the rows that W&B gives back with those of the ledger, each with what it may be."""
    rows = 0
    for number, (found, versions) in enumerate(zip(shown, expected, strict=False)):
        if found.get("_step", number) != number:
            return VerifiedRun(name, rows, len(expected), f"row {number} is row {found['_step']} there")
        differences = [difference(found, version) for version in versions]
        if all(differences):
            return VerifiedRun(name, rows, len(expected), f"row {number}: {differences[-1]}")
        rows += 1
    if len(shown) != len(expected):
        return VerifiedRun(
            name, rows, len(expected), f"{len(shown)} rows there, {len(expected)} in the ledger"
        )
    return VerifiedRun(name, rows, len(expected))


def verify_offline(
    folder: Path, *, on_done: Callable[[VerifiedRun], None] = lambda _run: None
) -> list[VerifiedRun]:
    """Reads all offline runs of a sweep back with W&B's own reader."""
    runs = RunsOf(folder)
    verified = []
    for tracked in runs():
        expected = tracked.versions()
        try:
            found = compared(tracked.name, offline_rows(runs.root, tracked.run_id), expected)
        except ValueError as error:
            found = VerifiedRun(tracked.name, 0, len(expected), str(error))
        verified.append(found)
        on_done(found)
    return verified


class Sync:
    """Sends and verifies the runs of a folder.

    Args:
        folder: A sweep's, or a trial's.

    Raises:
        ValueError: There is no API key, or the server does not take it.
        OSError: The server does not answer.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = RunsOf(folder)
        section = read_yaml(self.runs.first_config()).get("tracking", {})
        self._project, self._entity = section.get("project", "srloss"), section.get("entity")
        answer = ask(timeout_s=_ASK_S)
        if answer.state == "unreachable":
            raise OSError(f"sync: W&B: {answer.words}; nothing was sent, nothing is lost")
        if not answer.is_well:
            raise ValueError(f"sync: W&B: {answer.words}")
        self.client = Client(
            self.runs.root,
            mode="online",
            project=self._project,
            entity=self._entity,
            finish_timeout_s=max(60.0, section.get("finish_timeout_s", 60.0)),
        )

    def __call__(self) -> Iterator[VerifiedRun]:
        """Sends each run and verifies it; those without any row are left out.

        Raises:
            ValueError: Some other process feeds the same runs.
        """
        with self.alone():
            for tracked in self.runs():
                with ExitStack() as stack:
                    if tracked.key != self.runs.folder.name:
                        stack.enter_context(self._alone(tracked.key))
                    if (done := self._one(tracked)) is not None:
                        yield done

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else feeds W&B with the folder while the block lasts, nor with the sweep that it belongs to."""
        with ExitStack() as stack:
            for name in sorted({self.runs.folder.name, self.runs.root.name}):
                stack.enter_context(self._alone(name))
            yield

    def forget(self) -> None:
        """Begins anew, with the first row of each run."""
        self.runs = RunsOf(self.runs.folder)

    def _alone(self, name: str) -> contextlib.AbstractContextManager[None]:
        place = feed_lock(self.runs.root, name)
        return exclusive(place, timeout_s=2, what=f"W&B is being fed with {name}")

    def _one(self, tracked: Tracked) -> VerifiedRun | None:
        # Asked first: it may end while the rows are read.
        code = tracked.exit_code()
        rows = list(tracked.new_rows())
        if not rows:
            return None
        state = {
            "rows": len(rows),
            "exit_code": code,
            "place": self.client.place,
            "summary": tracked.summary(),
        }
        marker = self.runs.root / "wandb" / "complete" / f"{tracked.key}.json"
        known = json.loads(marker.read_text()) if marker.exists() else {}
        if {name: known.get(name) for name in state} == json.loads(json.dumps(state)):
            return VerifiedRun(tracked.name, len(rows), len(rows), url=known["url"])
        # Whoever trains it may have gone on meanwhile.
        expected = tracked.versions()[: len(rows)]
        own_id, first = tracked.run_id, known.get("again", 0)
        found = VerifiedRun(tracked.name, 0, len(expected))
        for again in (first, first + 1):
            tracked.run_id = f"{own_id}-{again}" if again else own_id
            try:
                found = self._sent(tracked, rows, expected, code)
            except RowsLostError:
                # Rows are only ever added at the end, so only another run can hold them all.
                continue
            except (OSError, TimeoutError) as error:
                return VerifiedRun(tracked.name, 0, len(expected), f"not taken: {error}")
            if found.is_sound:
                mark_synced(self.runs.root, own_id)
                marker.parent.mkdir(parents=True, exist_ok=True)
                kept = state | {"url": found.url, "again": again}
                write_atomically(marker, json.dumps(kept).encode())
                note = f"W&B had lost rows of run {own_id}, which stays as it is; all are in run {tracked.run_id}"
                return replace(found, note=note if again > first else "")
        return found

    def _sent(
        self, tracked: Tracked, rows: Sequence[Row], expected: Sequence[Sequence[Row]], code: int | None
    ) -> VerifiedRun:
        run = self.client.open(tracked)
        for number, row in enumerate(rows):
            run.send(number, row)
        run.summarise(tracked.summary())
        run.finish(143 if code is None else code, is_unfinished=code is None)
        found = _read_back(tracked.name, run.path, expected)
        return replace(found, sent=max(0, len(rows) - run.num_known), url=run.url)


def _read_back(name: str, path: str, expected: Sequence[Sequence[Row]]) -> VerifiedRun:
    deadline = time.monotonic() + _SETTLE_S
    while True:
        shown = rows_on_server(path)
        found = compared(name, shown, expected)
        if found.is_sound or time.monotonic() > deadline:
            return found
        time.sleep(1.0)
