"""`srloss shard`: pack pictures, verify and look at packed data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shards.manifest import Dataset

app = typer.Typer(help="Pack pictures into WebDataset shards; verify and look at them.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of a packed data set.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="folder (of pictures), or photos (bundled photographs).")],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[PATH] OUT", help="Where the pictures are (not for photos), and the folder to make."
        ),
    ],
    split: Annotated[
        str, typer.Option(help="Shares of the splits, unless the folder has train/, val/ and test/.")
    ] = "train=0.7,val=0.1,test=0.2",
    split_list: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Text file with the pictures of a split, one a line; repeat for each split.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Pack pictures of any size into tar shards with a checksummed manifest; name every file that is not used."""
    from shards.pack import PackOptions, PackProgress
    from shards.pack import pack as pack_shards
    from shards.sources import SOURCES
    from sr.configfile import ConfigError, unknown
    from sweeps.cli.show import progress, say_json

    if source not in SOURCES:
        raise ConfigError([unknown("source", source, SOURCES)])
    expected = 1 if source == "photos" else 2
    if len(paths) != expected:
        raise ConfigError(
            [
                f"shard pack {source}: expected {'OUT' if expected == 1 else 'PATH OUT'}, got {len(paths)} paths"
            ]
        )
    lists = {name: Path(file) for name, file in (_pair(text, "--split-list") for text in split_list or [])}
    shares = {name: _share(value) for name, value in (_pair(text, "--split") for text in split.split(","))}
    options = PackOptions(split=shares, split_lists=lists, force=force)
    with progress("packing", 1) as ticker:

        def on_progress(state: PackProgress) -> None:
            ticker.update(state.done / max(1, state.total), f"{state.done} of {state.total}  {state.current}")

        dataset = pack_shards(
            source, paths[0] if expected == 2 else None, paths[-1], options, on_progress=on_progress
        )
    if as_json:
        say_json(_as_plain(dataset))
        return
    _describe(dataset)


def _pair(text: str, option: str) -> tuple[str, str]:
    from sr.configfile import ConfigError

    name, equals, value = text.strip().partition("=")
    if not equals:
        raise ConfigError([f"{option}: expected name=value, got {text!r}"])
    return name, value


def _share(text: str) -> float:
    from sr.configfile import ConfigError

    try:
        return float(text)
    except ValueError:
        raise ConfigError([f"--split: expected a number between 0 and 1, got {text!r}"]) from None


@app.command()
def verify(folder: Folder, as_json: Json = False) -> None:
    """Read every byte again; name each damaged, missing or foreign member and shard."""
    from dataclasses import asdict

    from shards.verify import VerifyProgress
    from shards.verify import verify as verify_shards
    from sweeps.cli.show import progress, say, say_json

    with progress("verifying", 1) as ticker:

        def on_progress(state: VerifyProgress) -> None:
            ticker.update(state.done / max(1, state.total), state.current)

        findings = verify_shards(folder, on_progress=on_progress)
    if as_json:
        say_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            say(f"{finding.where}: {finding.what}; {finding.fix}")
        say(f"{folder}: {'sound' if not findings else f'{len(findings)} problem(s)'}")
    raise typer.Exit(1 if findings else 0)


@app.command()
def info(folder: Folder, as_json: Json = False) -> None:
    """Show what a packed data set holds, what was converted, and what was left out."""
    from shards import manifest
    from sweeps.cli.show import say_json

    dataset = manifest.load(folder)
    if as_json:
        say_json(_as_plain(dataset))
    else:
        _describe(dataset)


def _describe(dataset: Dataset) -> None:
    from shards.records import SPLITS
    from sweeps.cli.show import say

    size = sum(shard.size for shard in dataset.shards)
    say(
        f"{dataset.root}: {len(dataset.samples)} pictures in {len(dataset.shards)} shards, {size / 1e6:.1f} MB"
    )
    say(f"fingerprint {dataset.fingerprint[:12]}; splits: {dataset.split_rule}")
    for split in SPLITS:
        samples = dataset.of_split(split)
        names = ", ".join(sample.source for sample in samples[:6]) + (", ..." if len(samples) > 6 else "")
        say(f"  {split:5} {len(samples):6}  {names}")
    for sample in dataset.samples:
        if sample.notes:
            say(f"  converted: {sample.source}: {', '.join(sample.notes)}")
    for item in dataset.rejected:
        say(f"  not used: {item.source}: {item.reason}")


def _as_plain(dataset: Dataset) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "root": str(dataset.root),
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "split_rule": dataset.split_rule,
        "shards": [asdict(shard) for shard in dataset.shards],
        "samples": [asdict(sample) for sample in dataset.samples],
        "rejected": [asdict(item) for item in dataset.rejected],
    }
