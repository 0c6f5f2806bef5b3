"""`srloss losses`: list the losses, prove that they are what they claim to be, see how they rank distortions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="List the losses; check that they are what they claim to be; see how they rank distortions.",
    invoke_without_command=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
StandIn = Annotated[
    bool,
    typer.Option(
        "--stand-in-weights",
        help="Where weights are missing take random ones: proves the mathematics, says nothing about perception.",
    ),
]


@app.callback()
def losses(context: typer.Context, as_json: Json = False) -> None:
    """List the losses, with their parameters; or one of the commands below."""
    if context.invoked_subcommand is None:
        from sweeps.cli.parts import listed
        from sweeps.cli.show import say

        listed("losses", as_json=as_json)
        if not as_json:
            say("\nA weighted sum in a config:  loss: 0.8*l1 + 0.2*ssim  or  l1 + 0.1*vgg(preset=esrgan)")


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME ...]",
            help="Losses, as in a config: ssim, or 'vgg(network=effnet_lite0)'; all if left out.",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            "--picture",
            metavar="FILE",
            help="Check on your own picture; repeat for several. Bundled photographs if left out.",
            show_default=False,
        ),
    ] = None,
    stand_in_weights: StandIn = False,
    as_json: Json = False,
) -> None:
    """Prove losses: minimum, order, gradients, precision, batches, known values. Exit code 1 if one fails."""
    from sweeps.cli.losses_shown import check as command

    code = command(names or [], pictures or [], stand_in_weights=stand_in_weights, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def microscope(
    image: Annotated[Path, typer.Argument(help="Any picture.")],
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--loss",
            metavar="NAME",
            help="Only this loss, with settings in brackets if need be; repeat for several.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="PNG to write; IMAGE-microscope.png beside you.", show_default=False
        ),
    ] = None,
    mse: Annotated[float, typer.Option(help="Of every distortion, on luma 0..255.")] = 309.0,
    stand_in_weights: StandIn = False,
    as_json: Json = False,
) -> None:
    """Spoil a picture in ways of equal MSE and show how each loss ranks them, as a table and a picture."""
    from sweeps.cli.losses_shown import microscope as command

    command(image, names or [], out=out, mse=mse, stand_in_weights=stand_in_weights, as_json=as_json)
