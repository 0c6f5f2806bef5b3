"""Writes the report of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sr.files import write_atomically
from sweeps.overview import Overview, overview
from sweeps.report.collect import collect
from sweeps.report.data import ReportData
from sweeps.report.pictures import beside
from sweeps.report.progress import is_going_on, progress
from sweeps.report.render import render
from sweeps.sweep import Sweep
from sweeps.verdict import Verdict, draw


@dataclass(frozen=True, slots=True)
class Report:
    """The report of a sweep as it stands at one moment."""

    page: str
    verdict: Verdict
    data: ReportData


def write_report(
    sweep: Sweep, path: Path, *, pinned: Sequence[str] = (), full_images: bool = False
) -> Verdict:
    """Draws the verdict, writes the page, and returns the verdict.

    Args:
        sweep: The sweep, finished or not.
        path: Where the page goes.
        pinned: See `sweeps.report.collect_crops.collect_crops`.
        full_images: Whether all pictures lie in a folder beside the page, rather than some of them in it.

    Raises:
        ValueError: A pinned clip is not known.
    """
    # Whoever has just run the sweep need not ask a scheduler how it stands.
    view = overview(sweep.folder, asks_schedulers=False)
    report = build(sweep, view, pinned=pinned, images_in=images_folder(path) if full_images else "")
    write(report, path)
    return report.verdict


def images_folder(path: Path) -> str:
    """Name of the folder beside a page that holds its pictures."""
    return f"{path.stem}_images"


def build(
    sweep: Sweep,
    view: Overview,
    *,
    refresh_s: float | None = None,
    is_live: bool = False,
    pinned: Sequence[str] = (),
    images_in: str = "",
) -> Report:
    """Draws the verdict and the page.

    Args:
        sweep: The sweep, finished or not.
        view: What is seen of it from outside.
        refresh_s: See `sweeps.report.render.render`.
        is_live: See there.
        pinned: See `sweeps.report.collect_crops.collect_crops`.
        images_in: The folder beside the page to which `write` puts all pictures; empty: those that fit lie in the page.

    Raises:
        ValueError: A pinned clip is not known.
    """
    verdict = draw(sweep)
    data = _as_seen(collect(sweep, verdict, pinned=pinned, full_images=bool(images_in)), view)
    if images_in:
        data = replace(data, crops=tuple(beside(crop, images_in) for crop in data.crops))
    page = render(
        data,
        progress=progress(view, sweep) if data.is_running else None,
        refresh_s=refresh_s,
        is_live=is_live,
    )
    return Report(page, verdict, data)


def write(report: Report, path: Path) -> None:
    """Puts the page at its place, never half of it, and before it the pictures that lie beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for crop in report.data.crops:
        for label, content in crop.images:
            if label in crop.files:
                file = path.parent / crop.files[label]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    write_atomically(path, report.page.encode())


def _as_seen(data: ReportData, view: Overview) -> ReportData:
    """With the states of trials as seen from outside: trials of an array are trained without anybody who runs the sweep."""
    seen = {trial.trial_id: trial for trial in view.trials}
    rows = [
        replace(row, state=seen[row.trial_id].state, steps=max(row.steps, seen[row.trial_id].step))
        if row.trial_id in seen
        else row
        for row in data.trials
    ]
    return replace(data, is_running=is_going_on(view), trials=tuple(rows))
