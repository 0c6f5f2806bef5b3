"""Writes the report of a sweep."""

from __future__ import annotations

from pathlib import Path

from sr.checkpoint import write_atomically
from sweeps.report.collect import collect
from sweeps.report.render import render
from sweeps.sweep import Sweep
from sweeps.verdict import Verdict, draw


def write_report(sweep: Sweep, path: Path) -> Verdict:
    """Draws the verdict, writes the self-contained page, and returns the verdict."""
    verdict = draw(sweep)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(collect(sweep, verdict)).encode())
    return verdict
