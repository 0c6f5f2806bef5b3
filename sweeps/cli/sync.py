"""`srloss sync`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sync(
    sweep_id: Annotated[
        str | None,
        typer.Argument(
            help="Sweep id or its beginning, or a trial's id or folder; the latest sweep if left out.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on sending while the sweep runs, until it is over.")
    ] = False,
    store: Annotated[
        Path | None, typer.Option(help="Run store; $SRLOSS_STORE, or ./runs.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Send W&B what it has not got yet of a sweep's runs, and verify them there row by row.

    From any machine that sees the run store and W&B, during the sweep or after it; a run may be sent in parts, and again.
    The API key comes from wandb login or WANDB_API_KEY.
    """
    from sweeps.cli.synced import synced

    raise typer.Exit(synced(sweep_id, watch=watch, store=store, as_json=as_json))
