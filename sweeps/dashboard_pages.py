"""What the dashboard shows of a run store: each sweep's report, and a list of all sweeps."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr.lock import is_held
from sweeps.live import Drawn, LivePage, in_words
from sweeps.overview import overview
from sweeps.report.index_page import IndexRow, index_page, message_page
from sweeps.store import SweepFolder, sweeps_in
from sweeps.trial_view import Memory

_LASTS_S = 20.0
"""A page of a running sweep: its time left changes, and trials fall silent, without a file that would tell."""
_UNREADABLE = "cannot be read"
_VERDICTS_S = 1.0
"""Verdicts of the list that are not known yet are drawn for so long; the page's next look goes on."""


def stamp(folder: SweepFolder) -> Hashable:
    """Changes when what a sweep's report shows may have: two files' times for each trial.

    All but metrics.jsonl is replaced by renaming, which changes the time of the trial's folder.
    """
    own = [folder.path, folder.path / "plan.json", folder.path / "baseline" / "bicubic"]
    places = sorted(_children(folder.path / "trials"))
    files = [file for place in places for file in (place, f"{place}/metrics.jsonl")]
    return hash((is_held(folder.path), *(_time(path) for path in (*own, *files))))


def _children(place: Path) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(place)]
    except OSError:
        return []


def _time(path: str | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - thousands of them, every second or so
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def sweep_page(folder: SweepFolder) -> LivePage:
    """The report of a sweep."""
    memory = Memory()

    def draw() -> Drawn:
        # Late: torch stands behind them, and the dashboard's address shall be there at once.
        from sweeps.report.build import build
        from sweeps.sweep import reopen

        # First, for it says best what is no sweep.
        view = overview(folder, memory)
        report = build(reopen(folder), view, is_live=True)
        return Drawn(report.page, _LASTS_S if report.data.is_running else None)

    def excuse(problem: str) -> str:
        return message_page(f"Sweep {folder.sweep_id} cannot be shown", problem, is_live=True)

    return LivePage(lambda: stamp(folder), draw, excuse)


@dataclass(slots=True)
class _Known:
    """Verdicts, each with the stamp of its sweep; they take seconds to draw."""

    verdicts: dict[Path, tuple[Hashable, str]] = field(default_factory=dict)
    has_more: bool = False

    def sentence(self, folder: SweepFolder, until: float) -> str:
        now = stamp(folder)
        seen, sentence = self.verdicts.get(folder.path, (None, ""))
        if seen == now:
            return sentence
        if time.monotonic() > until:
            self.has_more = True
            return sentence
        from sweeps.sweep import reopen
        from sweeps.verdict import draw

        try:
            sentence = draw(reopen(folder)).sentence
        except Exception as error:  # noqa: BLE001 - one damaged sweep is no reason for a list without the others
            sentence = f"{_UNREADABLE}: {in_words(error)}"
        self.verdicts[folder.path] = (now, sentence)
        return sentence


def list_page(store: Path) -> LivePage:
    """The list of all sweeps of a store, the latest first."""
    known = _Known()
    memories: dict[Path, Memory] = {}

    def own_stamp() -> Hashable:
        return hash(tuple((folder.sweep_id, stamp(folder)) for folder in sweeps_in(store)))

    def draw() -> Drawn:
        known.has_more = False
        until = time.monotonic() + _VERDICTS_S
        rows = []
        for folder in reversed(sweeps_in(store)):
            memory = memories.setdefault(folder.path, Memory())
            rows.append(_row(folder, memory, known.sentence(folder, until)))
        is_going_on = any(row.is_going_on for row in rows)
        return Drawn(
            index_page(rows, store=str(store), is_live=True),
            0.0 if known.has_more else _LASTS_S if is_going_on else None,
        )

    def excuse(problem: str) -> str:
        return message_page(f"{store} cannot be shown", problem, is_live=True)

    return LivePage(own_stamp, draw, excuse)


def _row(folder: SweepFolder, memory: Memory, sentence: str) -> IndexRow:
    from sweeps.report.progress import is_going_on

    plan = _plan(folder)
    common: dict[str, Any] = {
        "sweep_id": folder.sweep_id,
        "name": str(plan.get("sweep", {}).get("name", folder.sweep_id)),
        "made": str(plan.get("created", "")),
        "verdict": sentence,
    }
    try:
        view = overview(folder, memory, asks_schedulers=False)
    except ValueError as error:
        return IndexRow(**common, state=_UNREADABLE, trials=str(error), is_going_on=False)
    ended = sum(trial.has_ended for trial in view.trials)
    failed = sum(trial.state in ("failed", "cancelled") for trial in view.trials)
    going = is_going_on(view)
    state = "running" if going else "unfinished" if ended < len(view.trials) else "finished"
    return IndexRow(
        **common,
        state=_UNREADABLE if sentence.startswith(_UNREADABLE) else state,
        trials=f"{ended - failed} of {len(view.trials)} trials done"
        + (f", {failed} failed" if failed else ""),
        is_going_on=going,
    )


def _plan(folder: SweepFolder) -> dict[str, Any]:
    try:
        return folder.read_plan()
    except (OSError, ValueError):
        return {}
