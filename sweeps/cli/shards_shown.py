"""What the `srloss shard` commands do and print."""

from __future__ import annotations

import fnmatch
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.machine import available_cpus
from shards import manifest
from shards.agreement import SplitChoice
from shards.export import export_index as write_index
from shards.foreign import IndexOptions, index_foreign
from shards.grouping import RoleChoice
from shards.manifest import Dataset
from shards.pack import PackOptions, PackProgress
from shards.pack import pack as pack_shards
from shards.reader import read_member
from shards.records import SPLITS, Sample
from shards.sources import SOURCES, SourceKind, SourceOptions
from shards.verify import verify as verify_shards
from sr.configfile import ConfigError, unknown
from sweeps.cli.show import progress, say, say_json, warn

SHOWN = 20
"""Lines of one kind before the rest is only counted; --json prints them all."""


def pack(
    source: str,
    paths: list[Path],
    *,
    profile: str,
    frames: int | None,
    stride: int | None,
    split: str,
    split_lists: list[str],
    drop_leaks: bool,
    shard_bytes: int,
    jobs: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Packs a source and describes the result."""
    if source not in SOURCES:
        raise ConfigError([unknown("source", source, SOURCES)])
    kind = SOURCES[source]
    if len(paths) not in range(
        2 if kind.takes_path and not kind.path_is_optional else 1, 2 + kind.takes_path
    ):
        raise ConfigError([f"shard pack {source}: expected {_expected(kind)}, got {len(paths)} paths"])
    lists = {name: Path(file) for name, file in (_pair(text, "--split-list") for text in split_lists)}
    options = PackOptions(
        split=_shares(split),
        split_lists=lists,
        shard_bytes=shard_bytes,
        force=force,
        profile=profile,
        clips=SourceOptions(frames=frames, stride=stride),
        jobs=jobs,
        drop_leaks=drop_leaks,
    )
    path = paths[0] if len(paths) == 2 else None
    with progress("packing", 1) as ticker:

        def on_progress(state: PackProgress) -> None:
            note = f"{state.current}"
            if state.rate and state.seconds_left is not None:
                note = f"{state.rate:.1f}/s, {_duration(state.seconds_left)} left  {note}"
            if state.taken_over:
                note = f"({state.taken_over} from before)  {note}"
            ticker.update(state.done, note, total=state.total, label=state.phase)

        dataset = pack_shards(source, path, paths[-1], options, on_progress=on_progress)
    if as_json:
        say_json(_as_plain(dataset))
        return
    _describe(dataset)


def sources(*, as_json: bool) -> None:
    """Prints what can be packed."""
    if as_json:
        say_json(
            {name: {"description": kind.description, "layout": kind.layout} for name, kind in SOURCES.items()}
        )
        return
    for name, kind in SOURCES.items():
        say(f"srloss shard pack {name} {_expected(kind)}")
        say(f"    {kind.description}")
        for line in kind.layout.splitlines():
            say(f"      {line}")


def index(
    folder: Path,
    *,
    split: str | None,
    frames: str | None,
    lr: str | None,
    jobs: int | None,
    keep_going: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Indexes the tars of a folder and describes the result."""
    splits = SplitChoice(fractions=_shares(split)) if split and "=" in split else SplitChoice(split)
    options = IndexOptions(
        splits=splits, roles=RoleChoice(frames, lr), force=force, keep_going=keep_going, jobs=jobs
    )
    with progress("indexing", 1) as ticker:
        dataset = index_foreign(
            folder,
            options,
            on_progress=lambda state: ticker.update(state.done, state.current, total=state.total),
        )
    if as_json:
        say_json(_as_plain(dataset))
        return
    _describe(dataset)


def verify(folder: Path, *, deep: bool, jobs: int | None, as_json: bool) -> int:
    """Prints all damage; returns the exit code."""
    with progress("verifying", 1) as ticker:
        findings = verify_shards(
            folder,
            deep=deep,
            jobs=jobs or max(1, int(available_cpus())),
            on_progress=lambda state: ticker.update(state.done, state.current, total=state.total),
        )
    if as_json:
        say_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            say(f"{finding.where}: {finding.what}; {finding.fix}")
        checked = "every byte and every picture" if deep else "every byte; --deep also decodes every picture"
        say(f"{folder}: {f'sound ({checked})' if not findings else f'{len(findings)} problem(s)'}")
    return 1 if findings else 0


def info(place: str, *, as_json: bool) -> None:
    """Describes a data set."""
    dataset = manifest.load(place)
    if as_json:
        say_json(_as_plain(dataset))
    else:
        _describe(dataset)


def ls(place: str, pattern: str, *, split: str | None, members: bool, as_json: bool) -> None:
    """Lists samples."""
    dataset = manifest.load(place)
    chosen = dataset.samples if split is None else dataset.of_split(split)
    matching = (sample for sample in chosen if fnmatch.fnmatchcase(sample.key, pattern))
    if as_json:
        say_json([asdict(sample) for sample in matching])
        return
    for sample in matching:
        say(
            f"{sample.split:5} {sample.key}  {len(sample.frames)} x {sample.width}x{sample.height}  {sample.source}"
        )
        for member in sample.members if members else ():
            shape = f"{member.width}x{member.height}x{member.channels}" if member.width else ""
            bands = f"{len(member.bands)} bands" if member.bands else ""
            say(
                f"        {sample.shard} {member.offset:>12} {member.size:>10} {member.crc32:08x} "
                f"{member.name.removeprefix(sample.key + '.'):12} {shape} {bands}".rstrip()
            )


def cat(place: str, key: str, ending: str) -> None:
    """Writes a member to standard output."""
    dataset = manifest.load(place)
    sample = next((s for s in dataset.samples if s.key == key), None)
    if sample is None:
        raise ConfigError([f"{place}: no sample '{key}'; srloss shard ls {shlex.quote(place)} lists them"])
    endings = {member.name.removeprefix(f"{key}."): member for member in sample.members}
    if ending not in endings:
        raise ConfigError([unknown(f"member of {key}", ending, endings)])
    sys.stdout.buffer.write(read_member(dataset, sample, endings[ending]))
    sys.stdout.buffer.flush()


def export_index(folder: Path, layout: str, out: Path | None) -> None:
    """Writes another reader's index."""
    for path in write_index(manifest.load(folder), layout, out):
        say(str(path))


def _expected(kind: SourceKind) -> str:
    if not kind.takes_path:
        return "OUT"
    return "[PATH] OUT" if kind.path_is_optional else "PATH OUT"


def _describe(dataset: Dataset) -> None:
    description = dataset.description
    size = sum(shard.size for shard in dataset.shards)
    num_frames = len(dataset.samples[0].frames)
    of = f" of {num_frames} frames" if num_frames > 1 else ""
    what = "clips" if num_frames > 1 else "pictures"
    say(
        f"{dataset.url}: {len(dataset.samples)} {what}{of} in {len(dataset.shards)} shards, {size / 1e6:.1f} MB, "
        f"{description.profile}"
        + (f", with LR pictures of scale {description.lr_scale}" if description.lr_scale else "")
    )
    say(f"fingerprint {dataset.fingerprint[:12]}; splits: {description.split_rule}")
    for split in SPLITS:
        samples = dataset.of_split(split)
        names = list(dict.fromkeys(sample.source for sample in samples[:200]))
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        say(f"  {split:5} {len(samples):6}  {shown}")
    _some("converted", (f"{s.source}: {', '.join(s.notes)}" for s in dataset.samples if s.notes))
    _some("not used", (f"{item.source}: {item.reason}" for item in description.rejected))
    _some(
        "nearly the same",
        (
            f"{pair.first} ({_split_of(dataset, pair.first)}) and {pair.second} ({_split_of(dataset, pair.second)}), "
            f"similarity {pair.similarity:.3f}"
            for pair in description.near_duplicates
        ),
    )
    for line in description.warnings:
        warn(line)
    if description.near_duplicates:
        warn(
            f"{len(description.near_duplicates)} pairs of clips in different splits show nearly the same: scores on them "
            "flatter what was trained here; look at them, or pack again with --drop-leaks"
        )


def _some(label: str, lines: Iterable[str]) -> None:
    number = 0
    for number, line in enumerate(lines, start=1):
        if number <= SHOWN:
            say(f"  {label}: {line}")
    if number > SHOWN:
        say(f"  {label}: and {number - SHOWN} more (--json prints all)")


def _split_of(dataset: Dataset, key: str) -> str:
    return next((split for split in SPLITS if any(s.key == key for s in dataset.of_split(split))), "?")


def _as_plain(dataset: Dataset) -> dict[str, Any]:
    return {
        "root": dataset.url,
        "fingerprint": dataset.fingerprint,
        **asdict(dataset.description),
        "shards": [asdict(shard) for shard in dataset.shards],
        "samples": [_plain_sample(sample) for sample in dataset.samples],
    }


def _plain_sample(sample: Sample) -> dict[str, Any]:
    return asdict(sample) | {"width": sample.width, "height": sample.height}


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.strip().partition("=")
    if not equals:
        raise ConfigError([f"{option}: expected name=value, got {text!r}"])
    return name, value


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, value = _pair(part, "--split")
        try:
            shares[name] = float(value)
        except ValueError:
            raise ConfigError([f"--split: expected a number between 0 and 1, got {value!r}"]) from None
    return shares


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
