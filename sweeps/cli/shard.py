"""`srloss shard`: pack any source of clips into WebDataset shards, check them, look into them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Pack pictures and video into WebDataset shards; index anybody's shards; check them, look into them.",
    no_args_is_help=True,
)

Place = Annotated[
    str, typer.Argument(metavar="FOLDER", help="Folder or URL (https, s3) of a packed data set.")
]
Folder = Annotated[Path, typer.Argument(help="Folder of tar shards.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Split = Annotated[str | None, typer.Option(help="Only this split: train, val or test.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes; all CPUs unless given.")]


class Layout(StrEnum):
    """Indexes that other readers want."""

    DALI = "dali"
    ENERGON = "energon"
    WIDS = "wids"


class Profile(StrEnum):
    """How pictures are stored; all are lossless."""

    PNG_BANDED = "png-banded"
    PNG_KEEP = "png-keep"
    RAW = "raw"
    WEBP = "webp"


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="What is packed; see: srloss shard sources.")],
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="[PATH] OUT", help="Where it is (not for photos), and the folder to make."),
    ],
    profile: Annotated[
        Profile,
        typer.Option(
            help="png-banded: PNG of which crops are read alone. png-keep: the source's own bytes. "
            "raw: no compression. webp: smallest. All lossless."
        ),
    ] = Profile.PNG_BANDED,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of a clip, where the source leaves a choice.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Frames from clip to clip; as many as a clip has.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Shares of the splits, unless the source or the folder's layout gives them.")
    ] = "train=0.7,val=0.1,test=0.2",
    split_list: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Text file with the sources of a split, one a line; repeat for each split.",
        ),
    ] = None,
    drop_leaks: Annotated[
        bool, typer.Option("--drop-leaks", help="Leave out training clips that nearly equal a test clip.")
    ] = False,
    shard_bytes: Annotated[int, typer.Option(min=1, help="Size of a shard, about.")] = 256 * 2**20,
    jobs: Jobs = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Pack a source into tar shards with a checksummed index; name all that is not used. Killed, it continues."""
    from sweeps.cli import shards_shown

    shards_shown.pack(
        source,
        paths,
        profile=profile.value,
        frames=frames,
        stride=stride,
        split=split,
        split_lists=split_list or [],
        drop_leaks=drop_leaks,
        shard_bytes=shard_bytes,
        jobs=jobs,
        force=force,
        as_json=as_json,
    )


@app.command()
def sources(as_json: Json = False) -> None:
    """Show what can be packed, and how its folders must look."""
    from sweeps.cli import shards_shown

    shards_shown.sources(as_json=as_json)


@app.command()
def index(
    folder: Folder,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of shards whose names do not begin with train, val or test; or shares: train=0.9,val=0.1."
        ),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            help="Ending of the pictures to learn from, where names leave it open, as hr in KEY.hr.png."
        ),
    ] = None,
    lr: Annotated[
        str | None, typer.Option(help="Ending of their low-resolution partners, as lr in KEY.lr.png.")
    ] = None,
    jobs: Jobs = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Use what is sound of a damaged tar, and name the rest.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an index that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Make an index for existing WebDataset tars, which are not touched; find all that is wrong with them, once."""
    from sweeps.cli import shards_shown

    shards_shown.index(
        folder,
        split=split,
        frames=frames,
        lr=lr,
        jobs=jobs,
        keep_going=keep_going,
        force=force,
        as_json=as_json,
    )


@app.command()
def verify(
    folder: Folder,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every picture, in two ways.")] = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Read every byte again; name each damaged, missing or foreign member and shard."""
    from sweeps.cli import shards_shown

    raise typer.Exit(shards_shown.verify(folder, deep=deep, jobs=jobs, as_json=as_json))


@app.command()
def info(folder: Place, as_json: Json = False) -> None:
    """Show what a data set holds, what was converted, what was left out, and what is nearly the same."""
    from sweeps.cli import shards_shown

    shards_shown.info(folder, as_json=as_json)


@app.command()
def ls(
    folder: Place,
    pattern: Annotated[str, typer.Argument(help="Keys to show, with * and ? as in a shell.")] = "*",
    split: Split = None,
    members: Annotated[
        bool, typer.Option("--members", help="Show each member: offset, bytes, CRC, shape.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List samples, from the index alone."""
    from sweeps.cli import shards_shown

    shards_shown.ls(folder, pattern, split=split, members=members, as_json=as_json)


@app.command()
def cat(
    folder: Place,
    key: Annotated[str, typer.Argument(help="Key of the sample.")],
    member: Annotated[str, typer.Argument(help="Ending of the member, as ls --members shows it.")] = "json",
) -> None:
    """Write a member's bytes to standard output, checked."""
    from sweeps.cli import shards_shown

    shards_shown.cat(folder, key, member)


@app.command("export-index")
def export_index(
    folder: Folder,
    layout: Annotated[Layout, typer.Argument(help="Which reader's index to write.")],
    out: Annotated[Path | None, typer.Argument(help="Where; beside the shards unless given.")] = None,
) -> None:
    """Write the index that another reader of WebDataset tars wants: NVIDIA DALI, Megatron Energon or wids."""
    from sweeps.cli import shards_shown

    shards_shown.export_index(folder, layout.value, out)
