"""The tree of commands."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli import evaluate, export, features, ladder, losses, shard, submit, sync, upscale, watching
from sweeps.interrupt import GRACE_S, listening

app = typer.Typer(
    name="srloss",
    help="Which loss function should I train my super-resolution model with?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(
    help="Show the complete configuration of a trial, its schema, and what it can name.", no_args_is_help=True
)
app.add_typer(shard.app, name="shard")
app.add_typer(losses.app, name="losses")
app.add_typer(features.app, name="features")
app.add_typer(ladder.app, name="ladder")
app.add_typer(config_app, name="config")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Store = Annotated[Path | None, typer.Option(help="Run store; $SRLOSS_STORE, or ./runs.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, as a.b=value.", metavar="[a.b=c ...]")
]
SweepId = Annotated[
    str | None, typer.Argument(help="Sweep id or its beginning; the latest if left out.", show_default=False)
]
Detach = Annotated[bool, typer.Option("--detach", help="Run in the background, surviving this terminal.")]
Grace = Annotated[
    float,
    typer.Option(
        min=0, metavar="SECONDS", help="After SIGTERM, SIGUSR1 or Ctrl-C: end anyway after so long."
    ),
]


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to put everything the demo makes.")] = Path("demo"),
) -> None:
    """The whole loop on bundled photographs: shards, a sweep over 4 losses, evaluation, report, W&B check."""
    from sweeps.demo import run_demo

    raise typer.Exit(run_demo(folder))


@app.command()
def doctor(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="With --on: what the job asks for, as cluster.NAME=value.", metavar="[cluster.b=c ...]"
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="slurm|ray",
            help="Look at the nodes of a cluster, with a job.",
            show_default=False,
        ),
    ] = None,
    address: submit.Address = None,
    data: Annotated[Path | None, typer.Option(help="Also check this packed data set.")] = None,
    store: Store = None,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="With --on: how long the job may wait to start.")
    ] = 600.0,
    as_json: Json = False,
) -> None:
    """Check Python, packages, CPUs, GPUs, disk, Ray, SLURM and W&B; print what is wrong and how to fix it.

    With --on, a short job does so on the nodes of a cluster, as many as cluster.nodes says on SLURM and all of Ray's, and also
    whether they see the store and reach each other and W&B.
    """
    from sweeps.cli.examined import here, on_cluster

    if on is None:
        if overrides:
            from sr.configfile import ConfigError

            raise ConfigError([f"doctor: {overrides[0]}: only with --on slurm or --on ray"])
        raise typer.Exit(here(data=data, store=store, as_json=as_json))
    raise typer.Exit(
        on_cluster(on, overrides or [], address=address, data=data, store=store, wait_s=wait, as_json=as_json)
    )


@app.command()
def train(
    file: Annotated[Path, typer.Argument(help="YAML file of one trial.")],
    overrides: Overrides = None,
    store: Store = None,
    detach: Detach = False,
    max_failures: Annotated[
        int,
        typer.Option(
            min=0, help="With engine.ranks=N: how often all are started again when one dies or hangs."
        ),
    ] = 3,
    grace: Grace = GRACE_S,
) -> None:
    """Train and evaluate one trial; run again, it continues where it was.

    engine.ranks=N starts N processes on this machine, one per GPU. Under torchrun or srun, each process finds its place
    among the others by itself. SIGTERM, SIGUSR1 and Ctrl-C leave a checkpoint; SIGUSR1 also requeues a SLURM job.
    """
    # First of all: what is asked while the program is still being loaded is not lost.
    with listening(grace_s=grace):
        from sweeps.cli.commands import train as command

        code = command(
            file, overrides or [], store=store, detach=detach, max_failures=max_failures, grace_s=grace
        )
    raise typer.Exit(code)


@app.command()
def sweep(
    file: Annotated[
        Path | None,
        typer.Argument(help="YAML file of the sweep, or the name of a recipe.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the trials and run nothing.")] = False,
    small: Annotated[
        bool, typer.Option("--small", help="With the file's own changes for a rehearsal on a laptop.")
    ] = False,
    resume: Annotated[str | None, typer.Option(metavar="ID", help="Continue this sweep.")] = None,
    store: Store = None,
    detach: Detach = False,
    grace: Grace = GRACE_S,
    as_json: Json = False,
) -> None:
    """Compare losses: train every trial of a sweep file, evaluate, and draw the verdict."""
    # First of all: what is asked while the program is still being loaded is not lost.
    with listening(grace_s=grace):
        from sweeps.cli.commands import sweep as command

        code = command(
            file,
            overrides or [],
            dry_run=dry_run,
            resume=resume,
            store=store,
            detach=detach,
            grace_s=grace,
            as_json=as_json,
            small=small,
        )
    raise typer.Exit(code)


app.command()(submit.submit)
app.command()(submit.resume)
app.command()(watching.status)
app.command()(watching.logs)
app.command()(watching.cancel)
app.command()(sync.sync)
app.command()(evaluate.evaluate)
app.command()(upscale.upscale)
app.command()(export.export)


@app.command()
def report(
    sweep_id: SweepId = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the page, beside the sweep if left out; or the table.", show_default=False
        ),
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Only the table, as CSV, to standard output or --out.")
    ] = False,
    latex: Annotated[bool, typer.Option("--latex", help="The same for LaTeX (booktabs).")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The same as Markdown.")] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "-w", "--watch", help="Write the page again whenever something changes, until the sweep is over."
        ),
    ] = False,
    every: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="With --watch: how often to look.")
    ] = 10.0,
    crop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE[:TILE]",
            help="Show this held-out picture in any case; may be given again.",
            show_default=False,
        ),
    ] = None,
    full_images: Annotated[
        bool, typer.Option("--full-images", help="All pictures in full, in a folder beside the page.")
    ] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Write the report of a sweep, one self-contained HTML file, and print its verdict."""
    from sweeps.cli.reported import report as command

    tables = [
        name for name, is_wanted in (("csv", csv), ("latex", latex), ("markdown", markdown)) if is_wanted
    ]
    raise typer.Exit(
        command(
            sweep_id,
            out=out,
            store=store,
            as_json=as_json,
            tables=tables,
            watch=watch,
            every_s=every,
            crops=crop or [],
            full_images=full_images,
        )
    )


@app.command()
def dashboard(
    sweep_id: SweepId = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Of this machine; the first free one from 8550 on if left out.",
            show_default=False,
        ),
    ] = None,
    wandb: Annotated[
        bool,
        typer.Option("--wandb", help="Instead, a view in W&B's app: choose --dry-run or --push."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --wandb: print the view as JSON and send nothing.")
    ] = False,
    push: Annotated[bool, typer.Option("--push", help="With --wandb: save the view in W&B.")] = False,
    store: Store = None,
) -> None:
    """Show the report in a browser, live while the sweep runs, and a list of all sweeps.

    It only reads the run store, and answers on 127.0.0.1 only, to whoever has the printed address. $SRLOSS_DASHBOARD_TOKEN sets
    the secret in it, so that open pages survive a new start. With --wandb, it makes a view in W&B's app instead, in which the
    losses of a sweep are compared.
    """
    if wandb or dry_run or push:
        from sweeps.cli.dashboard_wandb import workspace

        raise typer.Exit(workspace(sweep_id, store=store, is_wanted=wandb, dry_run=dry_run, push=push))
    from sweeps.cli.dashboard import dashboard as command

    raise typer.Exit(command(sweep_id, port=port, store=store))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A loss of the sweep, bicubic, or a trial.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    sweep_id: Annotated[
        str | None, typer.Option("--sweep", help="Sweep id or its beginning; the latest if left out.")
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Compare two losses or two trials: what differs in their configuration, and paired statistics on every metric.

    A trial is named by its number in srloss status, the beginning of its id, or its folder; a loss of another sweep as
    SWEEP/LOSS. The exit code is 1 where the two cannot be compared.
    """
    from sweeps.cli.compared import show

    raise typer.Exit(show(first, second, sweep_id=sweep_id, store=store, as_json=as_json))


@config_app.command("show")
def config_show(
    file: Annotated[Path, typer.Argument(help="YAML file of one trial.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Print the complete configuration of a trial, defaults filled in."""
    from sweeps.cli.commands import config_show as command

    command(file, overrides or [], as_json=as_json)


@config_app.command("schema")
def config_schema(
    section: Annotated[str | None, typer.Argument(help="One section, e.g. training.")] = None,
    sweep_file: Annotated[bool, typer.Option("--sweep", help="The schema of a sweep file.")] = False,
) -> None:
    """Print the JSON schema of a trial, for editors and for reading."""
    from sweeps.cli.commands import config_schema as command

    command(section, sweep_file=sweep_file)


@config_app.command("parts")
def config_parts(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="losses, models, discriminators, degradations, metrics or profiles; all if left out."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what a configuration can name, with all settings."""
    from sweeps.cli.parts import listed

    listed(kind, as_json=as_json)


@config_app.command("recipe")
def config_recipe(
    name: Annotated[str | None, typer.Argument(help="A recipe; all names if left out.")] = None,
) -> None:
    """Print a sweep file that comes with srloss, to start your own from."""
    from sweeps.cli.commands import config_recipe as command

    command(name)


def run() -> None:
    """Runs the command line; a user's mistake is a message, an interruption has its own exit code."""
    try:
        app()
    except SystemExit as ended:
        # Typer turns an interruption into this, and says nothing.
        if interruption := _interruption_behind(ended):
            sys.stderr.write(f"{str(interruption) or 'interrupted; what was finished is kept'}\n")
        raise
    except (ValueError, OSError) as error:
        if os.environ.get("SRLOSS_DEBUG"):
            traceback.print_exc()
        sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
        from sr.configfile import ConfigError

        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _interruption_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error
