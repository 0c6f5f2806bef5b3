"""What `srloss ladder show` prints and draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sr.files import write_atomically
from sr.ladder.records import stage_folder
from sr.store import default_store, find_trial
from sweeps.cli.show import say, say_json
from sweeps.report.ladder import Ladder, read_ladder, transfer
from sweeps.report.ladder_page import render_ladder
from sweeps.report.ladder_words import StageRow, stage_rows, titled, where
from sweeps.report.numbers import number


def show(trial: str, *, out: Path | None, store: Path | None, as_json: bool) -> None:
    """Prints a ladder and writes its page; as JSON it is written only where `out` says so.

    Raises:
        ValueError: There is no such trial, it is no ladder, or a record is damaged.
    """
    folder = Path(trial)
    if not (folder / "state.json").exists():
        if folder.is_dir():
            raise ValueError(f"{folder}: no trial here (state.json is missing)")
        folder = find_trial(store or default_store(), trial)
    ladder = read_ladder(folder.resolve())
    page = out or (None if as_json else folder / "ladder.html")
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(page, render_ladder(ladder).encode())
    if as_json:
        say_json(as_plain(ladder))
        return
    _print(ladder)
    say(f"page: {page}")


def _print(ladder: Ladder) -> None:
    rows = stage_rows(ladder)
    if rows and ladder.metric is not None:
        _print_quality(rows, titled(ladder.metric))
        _print_readings(rows)
        _print_transfer(ladder)
        _print_decisions(rows)
        _print_hashes(rows)
    say(where(ladder))
    if ladder.why:
        say(f"  {ladder.why}")


def _print_quality(rows: Sequence[StageRow], metric: str) -> None:
    say(f"{metric}, with 90 % intervals over pictures; gain: to the stage before, above 0 is better")
    _say_table(
        ("stage", ">steps", "ended", ">validation", ">gain", ">test clips"),
        [(row.stage, row.steps, row.ended, *map(_joined, (row.quality, row.gain, row.test))) for row in rows],
    )
    for row in rows:
        if row.why_no_test:
            say(f"  stage {row.stage}, test clips: {row.why_no_test}")
    say()


def _print_readings(rows: Sequence[StageRow]) -> None:
    say("Told from real on validation pictures: AUC, 0.5 = cannot tell, 1 = always")
    _say_table(
        (
            "stage",
            ">discriminator",
            ">perceptual network",
            ">difference",
            "comparison",
            ">own judgement",
            ">fresh",
            ">texture",
        ),
        [
            (
                row.stage,
                *map(_joined, (row.discriminator, row.perceptual, row.difference)),
                row.comparison,
                *map(_joined, (row.own, row.fresh, row.texture)),
            )
            for row in rows
        ],
    )
    for row in rows:
        say(f"  stage {row.stage} looked through: {row.looked_through}")
    say()


def _joined(cell: tuple[str, str]) -> str:
    return " ".join(cell).rstrip()


def _print_transfer(ladder: Ladder) -> None:
    say("Own judgement of the discriminator of stage k (rows) on the generator of stage j (columns): AUC")
    matrix = transfer(ladder.records)
    rows = [(str(stage), *(number(value, 3) for value in values)) for stage, values in enumerate(matrix)]
    _say_table(("k\\j", *(f">{stage}" for stage in range(len(matrix)))), rows)
    say()


def _print_decisions(rows: Sequence[StageRow]) -> None:
    for row in rows:
        why = f" ({row.ended_why})" if row.ended_why else ""
        say(
            f"stage {row.stage}: {row.ended}{why}; {row.decision}{': ' + row.decision_why if row.decision_why else ''}"
        )
        for finding in row.findings:
            say(f"  found: {finding}")
    say()


def _print_hashes(rows: Sequence[StageRow]) -> None:
    _say_table(
        ("stage", "generator", "discriminator", "perceptual network"),
        [(row.stage, row.generator_hash, row.discriminator_hash, row.perceptual_hash) for row in rows],
    )
    say()


def _say_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table as wide as it needs to be: an interval that is broken over lines cannot be read.

    A heading that begins with `>` stands, with its column, to the right.
    """
    named = [heading.removeprefix(">") for heading in headings]
    widths = [max(map(len, column)) for column in zip(named, *rows, strict=True)]
    for cells in (named, *rows):
        placed = [
            cell.rjust(width) if heading.startswith(">") else cell.ljust(width)
            for heading, width, cell in zip(headings, widths, cells, strict=True)
        ]
        say("  ".join(placed).rstrip())


def as_plain(ladder: Ladder) -> dict[str, Any]:
    """The ladder as plain values; numbers that are not finite are null."""
    stages = [
        {
            **asdict(record),
            "folder": str(stage_folder(ladder.folder, record.stage)),
            "test": None if test is None else asdict(test),
            "why_no_test": why,
        }
        for record, test, why in zip(ladder.records, ladder.tests, ladder.whys, strict=True)
    ]
    plain = {
        "trial": str(ladder.folder),
        "state": str(ladder.status.state),
        "reason": ladder.status.reason,
        "where": where(ladder),
        "outcome": ladder.outcome,
        "why": ladder.why,
        "stages": stages,
        "transfer": transfer(ladder.records),
    }
    return _finite(plain)


def _finite(value: Any) -> Any:  # noqa: ANN401 - any plain value
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
