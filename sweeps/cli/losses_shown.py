"""What `srloss losses check` and `srloss losses microscope` do and print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sr.checks import microscope_picture, pictures
from sr.checks.conformance import CHECKS, Report, report
from sr.checks.microscope import View, look
from sr.checks.named import NamedLoss, named
from sr.checks.results import Verdict
from sr.configfile import ConfigError
from sr.losses import LOSSES
from sweeps.cli.show import out as console
from sweeps.cli.show import progress, say, say_json

_MARKS: dict[Verdict, str] = {"pass": "✓", "fail": "✗", "not applicable": "·", "not run": "?"}
_COLOURS: dict[Verdict, str] = {
    "pass": "green",
    "fail": "bold red",
    "not applicable": "dim",
    "not run": "yellow",
}
_GROUP = 5
_DETAILED_UP_TO = 2
"""Losses for which every check is a line with its numbers; more make one table."""


def check(names: list[str], files: list[Path], *, stand_in_weights: bool, as_json: bool) -> int:
    """Runs the suite and prints it; 1 if a check fails, or a loss asked for by name could not be run."""
    chosen = _read(names) or [NamedLoss(name) for name in sorted(LOSSES)]
    shown = pictures.from_files(files) if files else pictures.bundled()
    reports: list[Report] = []
    with progress("checking", len(chosen)) as ticker:
        for number, entry in enumerate(chosen):
            ticker.update(number, str(entry))
            reports.append(report(entry, shown, stand_in_weights=stand_in_weights))
    if as_json:
        say_json([_plain(one) for one in reports])
    elif len(reports) <= _DETAILED_UP_TO:
        for one in reports:
            _print_one(one)
    else:
        _print_all(reports)
    failed = any(one.failures for one in reports) or (bool(names) and any(one.not_run for one in reports))
    return int(failed)


def _read(texts: list[str]) -> list[NamedLoss]:
    """The losses that are named; all mistakes are told at once."""
    entries, faults = [], []
    for text in texts:
        try:
            entries.append(named(text))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return entries


def _plain(one: Report) -> dict[str, object]:
    return {
        "loss": one.loss,
        "not_run": one.not_run,
        "note": one.note,
        "checks": [{**asdict(result), "measured": dict(result.measured)} for result in one.results],
    }


def _print_one(one: Report) -> None:
    say(f"{one.loss}{f'  ({one.note})' if one.note else ''}")
    if one.not_run:
        say(f"  not run: {one.not_run}")
    width = max(len(name) for name in CHECKS)
    for result in one.results:
        say(f"  {_MARKS[result.verdict]} {result.check:{width}}  {result.meaning}")
    say()
    say(_summary([one]))


def _print_all(reports: list[Report]) -> None:
    run = [one for one in reports if one.results]
    names = [f"{one.loss}{' °' if one.note else ''}" for one in run]
    width = max(map(len, names), default=0)
    # Marks side by side, in groups of five under the number of the first: all checks fit into 80 columns.
    starts = range(0, len(CHECKS), _GROUP)
    say(f"{'':{width}}  " + " ".join(f"{start + 1:<{_GROUP}}" for start in starts).rstrip())
    for name, one in zip(names, run, strict=True):
        line = Text(f"{name:{width}} ")
        for number, result in enumerate(one.results):
            line.append("" if number % _GROUP else " ").append(
                _MARKS[result.verdict], style=_COLOURS[result.verdict]
            )
        console.print(line)
    say()
    _print_legend()
    if any(one.note for one in run):
        say(f"° {next(one.note for one in run if one.note)}")
    for one in run:
        for result in one.failures:
            say(f"✗ {one.loss}, {result.check}: {result.meaning}")
    for one in reports:
        if one.not_run:
            say(f"? {one.loss}: not run: {_first_part(one.not_run)}")
    say()
    say(_summary(reports))


def _print_legend() -> None:
    names = [f"{number:2} {name}" for number, name in enumerate(CHECKS, start=1)]
    rows = -(-len(names) // 3)
    widths = [max(map(len, names[column * rows : (column + 1) * rows])) for column in range(3)]
    for row in range(rows):
        cells = [f"{name:{width}}" for name, width in zip(names[row::rows], widths, strict=False)]
        say("   ".join(cells).rstrip())
    say("✓ pass   ✗ fail   · not applicable   ? not run      one loss in full: srloss losses check NAME")


def _print_wide(table: Table, least: int) -> None:
    """Prints a table in at least so many columns: a long line is a lesser evil than a cell that is cut."""
    Console(width=max(console.width, least), highlight=False).print(table)


def _first_part(reason: str) -> str:
    """What is wrong; what to do about it is said in full by `srloss losses check NAME` and --json."""
    return reason.split(";")[0]


def _summary(reports: list[Report]) -> str:
    failed = [one.loss for one in reports if one.failures]
    missing = [one.loss for one in reports if one.not_run]
    passed = len(reports) - len(failed) - len(missing)
    parts = [f"{passed} of {len(reports)} losses pass every check that applies"]
    if failed:
        parts.append(f"failed: {', '.join(failed)}")
    if missing:
        parts.append(f"not run: {', '.join(missing)}")
    return "; ".join(parts)


def microscope(
    image: Path,
    names: list[str],
    *,
    out: Path | None,
    mse: float,
    stand_in_weights: bool,
    as_json: bool,
) -> None:
    """Writes the picture and prints the table."""
    losses = [str(entry) for entry in _read(names)]
    view = look(pictures.read(image), losses=losses or None, mse=mse, stand_in_weights=stand_in_weights)
    if names and view.skipped:
        raise ConfigError([f"{name}: {reason}" for name, reason in view.skipped.items()])
    path = out or Path(f"{image.stem}-microscope.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(microscope_picture.draw(view, title=image.name))
    if as_json:
        say_json(_plain_view(view, path))
        return
    _print_view(view, wanted=mse)
    say(f"picture: {path}")


def _plain_view(view: View, path: Path) -> dict[str, object]:
    return {
        "picture": str(path),
        "mse": view.target_mse,
        "versions": [{"name": v.name, "mse": v.mse, "ssim": v.ssim} for v in view.versions],
        "losses": [asdict(row) for row in view.rows],
        "skipped": view.skipped,
    }


def _print_view(view: View, *, wanted: float) -> None:
    height, width = view.original.shape[-2:]
    limit = (
        "" if view.target_mse == wanted else f" (the largest that all reach here; {wanted:g} was asked for)"
    )
    say(f"{width} x {height} pixels, MSE {view.target_mse:.0f}{limit}; rank 1 is what a loss minds least")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("loss", no_wrap=True)
    for version in view.versions:
        table.add_column(version.name.replace("_", " "), justify="right", no_wrap=True)
    table.add_row("MSE", *(f"{version.mse:.0f}" for version in view.versions), style="dim")
    table.add_row("SSIM", *(f"{version.ssim:.3f}" for version in view.versions), style="dim")
    for row in view.rows:
        cells = (f"{rank}  {value:4.2f}" for rank, value in zip(row.ranks, row.normalised, strict=True))
        table.add_row(row.loss + (" °" if row.note else ""), *cells)
    _print_wide(table, 100)
    say("beside the rank: the value as a fraction of the row's worst")
    for note in sorted({row.note for row in view.rows if row.note}):
        say(f"° {note}")
    for name, reason in view.skipped.items():
        say(f"? {name}: {_first_part(reason)}")
