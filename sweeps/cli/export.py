"""`srloss export`: a trained model as a folder to give away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Source = Annotated[
    Path,
    typer.Argument(
        help="Folder of a trial, one of its checkpoints, or a folder made by this command.",
        metavar="TRIAL_OR_CHECKPOINT",
    ),
]
_ONNX_DEFAULT_OPSET = 18


def export(
    source: Source,
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    file_format: Annotated[
        Literal["safetensors", "onnx"],
        typer.Option("--format", help="Weights for srloss and torch, or a network that runs without them."),
    ] = "safetensors",
    opset: Annotated[int, typer.Option(help="ONNX: version of the operators.")] = _ONNX_DEFAULT_OPSET,
    clip: Annotated[
        int | None,
        typer.Option(
            metavar="T", help="ONNX: take clips of T frames instead of pictures.", show_default=False
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(help="ONNX: fixed height of the LR pictures; any if left out.", show_default=False),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(help="ONNX: fixed width of the LR pictures; any if left out.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that an export made.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Write a trained model as a folder: weights or ONNX, its configuration, and a card that says what it is."""
    from dataclasses import asdict

    from sr.configfile import ConfigError
    from sr.export import OnnxOptions, export_onnx, export_safetensors
    from sweeps.cli.show import say, say_json

    options = OnnxOptions(opset=opset, clip=clip, height=height, width=width)
    if file_format == "onnx":
        done = export_onnx(source, out, options=options, force=force)
    else:
        if options != OnnxOptions():
            raise ConfigError(
                ["export: --opset, --clip, --height and --width are of ONNX; add --format onnx or drop them"]
            )
        done = export_safetensors(source, out, force=force)
    if as_json:
        say_json(
            {key: str(value) if isinstance(value, Path) else value for key, value in asdict(done).items()}
        )
        return
    say(f"{done.name}: {done.model}, {done.size_bytes:,} bytes, sha256 {done.sha256}")
    if file_format == "onnx":
        axes = ", ".join(str(axis) for axis in done.input_shape)
        say(f"input lr ({axes}); at most {done.max_difference:.2g} away from torch")
    say(f"what it is: {done.folder / 'model_card.md'}")
