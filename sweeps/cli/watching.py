"""`srloss status`, `srloss logs` and `srloss cancel`: a sweep from the login node, whoever runs it and wherever."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SweepId = Annotated[
    str | None, typer.Argument(help="Sweep id or its beginning; the latest if left out.", show_default=False)
]
Store = Annotated[Path | None, typer.Option(help="Run store; $SRLOSS_STORE, or ./runs.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Trial = Annotated[
    str | None,
    typer.Option(
        "--trial", metavar="T", help="Number in the table of status, beginning of its id, or its name."
    ),
]


def status(
    sweep_id: SweepId = None,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Look again until the sweep is over.")] = False,
    every: Annotated[float, typer.Option(min=0.2, metavar="SECONDS", help="With --watch: how often.")] = 5.0,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show how a sweep stands: its jobs, its trials, the best so far and the time left.

    With --watch it ends with the sweep, and with its exit code: 0 well, 1 all trials failed, 3 some did, 130 unfinished.
    """
    from sr.configfile import ConfigError
    from sweeps.cli.overview_shown import as_plain
    from sweeps.cli.show import out, say_json
    from sweeps.cli.watched import show, watched

    if watch and as_json:
        raise ConfigError(["status: --json shows one moment; it does not go with --watch"])
    from sweeps.overview import overview
    from sweeps.store import default_store, find_sweep

    folder = find_sweep(store or default_store(), sweep_id)
    if watch:
        raise typer.Exit(watched(folder, every_s=every))
    view = overview(folder)
    if as_json:
        say_json(as_plain(view))
    else:
        show(view, out)


def logs(
    sweep_id: SweepId = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until it is over.")] = False,
    trial: Trial = None,
    rank: Annotated[
        int, typer.Option(min=0, help="Of the trial; without --trial: the task of the job, one per node.")
    ] = 0,
    lines: Annotated[int, typer.Option(min=0, metavar="N", help="So many of the last lines.")] = 200,
    store: Store = None,
) -> None:
    """Print what the sweep's job, or one of its trials, has logged."""
    from sweeps.cli.logs_shown import show_logs
    from sweeps.store import default_store, find_sweep

    folder = find_sweep(store or default_store(), sweep_id)
    raise typer.Exit(show_logs(folder, trial=trial, rank=rank, lines=lines, follow=follow))


def cancel(
    sweep_id: SweepId = None,
    trial: Trial = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep-checkpoints/--delete-checkpoints",
            help="Whether it can go on where it was, or the disk is freed and it would start over.",
        ),
    ] = True,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before checkpoints are deleted.")
    ] = False,
    store: Store = None,
) -> None:
    """End a sweep, or one of its trials, wherever it runs; what was done is saved first and kept.

    At the end it says how to go on with it; trials that were cancelled are then tried again.
    """
    from sweeps.cli.cancelled import cancel_sweep, cancel_trial
    from sweeps.store import default_store, find_sweep

    folder = find_sweep(store or default_store(), sweep_id)
    if not keep and not yes:
        what = f"trial {trial}" if trial else "all unfinished trials"
        typer.confirm(
            f"delete the checkpoints of {what} of {folder.sweep_id}? They cannot be brought back", abort=True
        )
    if trial is not None:
        raise typer.Exit(cancel_trial(folder, trial, keep=keep))
    raise typer.Exit(cancel_sweep(folder, keep=keep))
