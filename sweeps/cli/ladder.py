"""`srloss ladder`: what became of a ladder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Ladders, whose stages' discriminators become the perceptual networks of the next.",
    no_args_is_help=True,
)


@app.command()
def show(
    trial: Annotated[
        str, typer.Argument(metavar="TRIAL", help="Folder of a trial, or its id or the beginning of it.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to write the page; TRIAL/ladder.html if left out.", show_default=False
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Run store; $SRLOSS_STORE, or ./runs.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Print the stages of a trial's ladder, and draw them on one self-contained HTML page."""
    from sweeps.cli import ladder_shown

    ladder_shown.show(trial, out=out, store=store, as_json=as_json)
