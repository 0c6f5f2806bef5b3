"""What `srloss report` does: the page once, again and again while the sweep runs, or the table alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from sr.configfile import ConfigError
from sr.files import write_atomically
from sweeps.cli.show import say, say_json
from sweeps.cli.table import as_plain, print_verdict
from sweeps.dashboard_pages import stamp
from sweeps.overview import Overview, overview
from sweeps.report import exports
from sweeps.report.build import Report, build, images_folder, write
from sweeps.store import SweepFolder, default_store, find_sweep
from sweeps.sweep import reopen
from sweeps.trial_view import Memory

_TABLES = {"csv": exports.to_csv, "latex": exports.to_latex, "markdown": exports.to_markdown}
_OVER_AFTER = 2
"""Looks in a row at which nothing goes on: between a job and the next one, for a moment nothing does."""
_LASTS_S = 60.0
"""A running sweep's page is written anew after so long in any case: its time left has changed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the page shall hold and where it goes."""

    folder: SweepFolder
    path: Path
    crops: Sequence[str]
    full_images: bool

    def build(self, view: Overview, *, refresh_s: float | None = None) -> Report:
        """The page as it stands."""
        images = images_folder(self.path) if self.full_images else ""
        return build(reopen(self.folder), view, refresh_s=refresh_s, pinned=self.crops, images_in=images)


def report(
    sweep_id: str | None,
    *,
    out: Path | None,
    store: Path | None,
    as_json: bool,
    tables: Sequence[str],
    watch: bool,
    every_s: float,
    crops: Sequence[str],
    full_images: bool,
) -> int:
    """Writes the report, or one of its tables; the exit code."""
    if tables and (as_json or watch or crops or full_images or len(tables) > 1):
        raise ConfigError(
            [f"report: --{tables[0]} prints one table and nothing else; leave out the other options"]
        )
    if watch and as_json:
        raise ConfigError(["report: --json shows one moment; it does not go with --watch"])
    folder = find_sweep(store or default_store(), sweep_id)
    if tables:
        return _table(folder, tables[0], out)
    wanted = Wanted(folder, out or folder.report, crops, full_images)
    if watch:
        return _watched(wanted, every_s=every_s)
    made = wanted.build(overview(folder))
    write(made, wanted.path)
    if as_json:
        say_json(as_plain(made.verdict) | {"report": str(wanted.path)})
    else:
        print_verdict(made.verdict)
        say(f"\nreport: {wanted.path}")
    return 0


def _table(folder: SweepFolder, kind: str, out: Path | None) -> int:
    data = build(reopen(folder), overview(folder)).data
    text = _TABLES[kind](data)
    if out is None:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        return 0
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text.encode())
    say(f"{kind}: {out}")
    return 0


def _watched(wanted: Wanted, *, every_s: float) -> int:
    """Writes the page whenever the sweep has changed, until it goes on no more; the exit code, 130 after Ctrl-C."""
    memory = Memory()
    seen: Hashable = None
    quiet, written, told = 0, 0.0, ("", "")
    view = overview(wanted.folder, memory)
    try:
        while True:
            now = stamp(wanted.folder)
            if now != seen or time.monotonic() - written > _LASTS_S:
                # A page that is written seldom has no reason to load itself often.
                made = wanted.build(view, refresh_s=max(every_s, 5.0))
                write(made, wanted.path)
                seen, written = now, time.monotonic()
                told = _tell((_line(view), made.verdict.sentence), told)
            quiet = 0 if view.is_active else quiet + 1
            if quiet >= _OVER_AFTER:
                break
            sleep(every_s if not quiet else min(every_s, 2.0))
            view = overview(wanted.folder, memory)
        # Nobody writes it anew any more: it must not load itself either, whatever state the sweep was left in.
        write(wanted.build(view), wanted.path)
    except KeyboardInterrupt:
        return 130
    say(f"the sweep is over; report: {wanted.path}")
    return view.exit_code


def _tell(news: tuple[str, str], told: tuple[str, str]) -> tuple[str, str]:
    """Says how the sweep stands, and its verdict, each if it is news; what was said last."""
    line, verdict = news
    if line != told[0]:
        say(f"{time.strftime('%H:%M:%S')} page written: {line}")
    if verdict != told[1]:
        say(f"         {verdict}")
    return news


def _line(view: Overview) -> str:
    counts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in view.counts.items())
    total = sum(trial.steps for trial in view.trials)
    done = sum(trial.steps if trial.has_ended else min(trial.step, trial.steps) for trial in view.trials)
    steps = f"; {100 * done / total:.0f} % of the steps" if total else ""
    best = view.best
    return f"{counts}{steps}" + (f"; best {best.name}: {view.metric} {best.best:.4g}" if best else "")
