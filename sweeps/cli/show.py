"""What the commands print: plain lines, progress where there is a terminal, JSON where it is asked for."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

_LINE_EVERY_S = 30.0
_PIPED_WIDTH = 10_000

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str = "") -> None:
    """Prints a line as it is: names of files and losses may hold brackets, which are not markup."""
    out.print(text, markup=False)


def show_table(table: Table) -> None:
    """Prints a table: as wide as the terminal, or, into a file or a pipe, as wide as it is."""
    if out.is_terminal:
        out.print(table, soft_wrap=False)
        return
    wide = Console(file=io.StringIO(), width=_PIPED_WIDTH, highlight=False)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        say(line.rstrip())


def warn(text: str) -> None:
    """Prints a warning to standard error."""
    err.print(f"warning: {text}", markup=False, style="yellow")


def say_json(value: Any) -> None:  # noqa: ANN401 - any plain value
    """Prints a value as JSON, and nothing else, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class Ticker:
    """Progress of one piece of work: a bar on a terminal, else a line every half minute."""

    def __init__(self, label: str, total: float, bar: Progress | None) -> None:
        self._label = label
        self._total = total
        self._bar = bar
        self._task = bar.add_task(label, total=total, note="") if bar else None
        self._started = self._last_line = time.monotonic()

    def update(
        self, done: float, note: str = "", *, total: float | None = None, label: str | None = None
    ) -> None:
        """Sets how much is done, and what to say beside it; another label begins another phase of the work."""
        if total is not None:
            self._total = total
        if label is not None and label != self._label:
            self._label = label
            self._started = time.monotonic()
            if self._bar is not None and self._task is not None:
                self._bar.reset(self._task)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, description=self._label, total=self._total, completed=done, note=note
            )
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            left = (now - self._started) * (self._total - done) / done if done else float("nan")
            remaining = f", about {left:.0f} s left" if done else ""
            say(f"  {self._label}: {done:g} of {self._total:g}{remaining}  {note}".rstrip())


@contextmanager
def progress(label: str, total: float) -> Iterator[Ticker]:
    """Shows the progress of a block."""
    if not out.is_terminal:
        yield Ticker(label, total, None)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        yield Ticker(label, total, bar)
