"""`srloss features`: the networks that perceptual losses look through."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Networks that perceptual losses look through: which are here, fetch one, train one on your own data.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Name = Annotated[str, typer.Argument(help="Name of the network; see: srloss features list.")]


class Task(StrEnum):
    """What a network learns to tell."""

    DEGRADATION = "degradation"
    LABELS = "labels"


@app.command("list")
def list_networks(as_json: Json = False) -> None:
    """Show the networks, and where their weights are or how to get them."""
    from sweeps.cli import features_shown

    features_shown.list_networks(as_json=as_json)


@app.command()
def train(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder or URL of a packed data set.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, such as vgg.safetensors.")],
    task: Annotated[
        Task,
        typer.Option(
            help="degradation: which damage of which level a crop has. labels: the data set's labels."
        ),
    ] = Task.DEGRADATION,
    steps: Annotated[int, typer.Option(min=1, help="Updates, of 16 crops each.")] = 2000,
    width: Annotated[
        int, typer.Option(min=1, help="Channels of the first of four blocks; each has twice as many.")
    ] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, crops and damage.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Train a small VGG on your own data, and print how well it does on held-out pictures."""
    from sweeps.cli import features_shown

    features_shown.train(
        data, out, task=task.value, steps=steps, width=width, seed=seed, force=force, as_json=as_json
    )


@app.command()
def fetch(
    name: Name,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to; $SRLOSS_WEIGHTS, or torch's cache, unless given."),
    ] = None,
) -> None:
    """Download the published weights of a network, and prove them by their hash."""
    from sweeps.cli import features_shown

    features_shown.fetch(name, to=to)


@app.command()
def export(
    name: Name,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A .safetensors file, or a folder to put it into.")
    ],
    path: Annotated[
        Path | None, typer.Option(help="The published file, if not where it is looked for.")
    ] = None,
) -> None:
    """Write a network's weights without its classifier: all that losses need, a seventh of the size."""
    from sweeps.cli import features_shown

    features_shown.export(name, out, path=path)
