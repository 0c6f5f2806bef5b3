"""Finds all damage of a packed or indexed data set."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from shards.foreign import FOREIGN
from shards.manifest import (
    DATASET_FILE,
    INDEX_FILE,
    DamagedError,
    Dataset,
    fingerprint_of,
    read_dataset,
    read_head,
)
from shards.proof import MismatchError, prove_member
from shards.records import SPLITS, Member, Sample, Shard, parse_shard
from shards.scan import Entry, Problem, scan, shown
from shards.storage import open_storage
from shards.storage.local import LocalStorage
from shards.tars import sha256_of
from shards.workers import WorkerDiedError, run_all
from shards.writing import sample_json

REPACK = "pack the originals again: srloss shard pack, with --force to replace"
REINDEX = "write the index anew from the tars: srloss shard index, with --force to replace"
REFETCH = "copy this tar again; or, if it is meant to be so, srloss shard index with --force"
REMOVE = "remove the file; it is no part of the data set"


@dataclass(frozen=True)
class Finding:
    """One damage: where it is, what it is, what to do."""

    where: str
    what: str
    fix: str


@dataclass(frozen=True)
class VerifyProgress:
    """Shards done of all, and the one just done."""

    done: int
    total: int
    current: str


@dataclass(frozen=True)
class _Task:
    """One shard to check; can be sent to another process."""

    root: Path
    shard: Shard
    number: int
    """Of the shard, in the index."""
    has_index: bool
    deep: bool


def verify(
    root: Path | str,
    *,
    deep: bool = False,
    jobs: int = 1,
    on_progress: Callable[[VerifyProgress], None],
) -> list[Finding]:
    """Reads everything again: both sidecars, tar headers, members and their order, all checksums.

    Args:
        root: Folder of the data set, on a local disk.
        deep: Decode every picture as well; a banded one also as a whole, by another decoder, and compare; and
            compare each sample's JSON with the index.
        jobs: Processes.
        on_progress: Called after each shard.

    Returns:
        All damage; empty where the data set is sound.

    Raises:
        ValueError: `root` is no packed data set at all, elsewhere, or of another format.
    """
    storage = open_storage(root)
    if not isinstance(storage, LocalStorage):
        raise ValueError(  # noqa: TRY004 - It is about a place.
            f"{storage.url}: only a data set on a local disk can be verified; copy it to one first"
        )
    try:
        head = read_head(storage)
    except DamagedError as error:
        return [Finding(error.where, error.what, REINDEX)]
    shards, findings, has_index = _check_sidecars(storage, head)
    is_foreign = head.get("profile") == FOREIGN
    findings += _extra_files(storage.root, shards, only_tars=is_foreign)
    tasks = [
        _Task(storage.root, shard, number, has_index=has_index, deep=deep)
        for number, shard in enumerate(shards)
    ]
    found = _check_all(tasks, jobs, on_progress)
    fix = REFETCH if is_foreign else REPACK
    return findings + [Finding(where, what, fix) for whats in found for where, what in whats]


def _check_sidecars(
    storage: LocalStorage, head: dict[str, Any]
) -> tuple[tuple[Shard, ...], list[Finding], bool]:
    """The shards as far as they can be told, what is wrong, and whether the index can be read."""
    try:
        dataset = read_dataset(storage, head)
        whats = _inconsistencies(dataset, head)
    except DamagedError as error:
        return _readable_shards(head), [Finding(error.where, error.what, REINDEX)], False
    return dataset.shards, [Finding(where, what, REINDEX) for where, what in whats], True


def _check_all(
    tasks: Sequence[_Task], jobs: int, on_progress: Callable[[VerifyProgress], None]
) -> list[list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = {}
    _opened.cache_clear()
    try:
        for number, whats in run_all(_check_shard, tasks, jobs=min(jobs, max(1, len(tasks)))):
            found[number] = whats
            on_progress(VerifyProgress(len(found), len(tasks), tasks[number].shard.file))
    except WorkerDiedError:
        raise ValueError("verify: a process was killed, mostly for want of memory; try --jobs 1") from None
    return [found[number] for number in range(len(tasks))]


@lru_cache(maxsize=1)
def _opened(root: Path) -> Dataset:
    storage = LocalStorage(root)
    return read_dataset(storage, read_head(storage))


def _readable_shards(head: dict[str, Any]) -> tuple[Shard, ...]:
    """The shards as files, which can be checked even where the index cannot be read."""
    rows = head.get("shardlist")
    try:
        return tuple(parse_shard(row) for row in rows) if isinstance(rows, list) else ()
    except (KeyError, TypeError, ValueError):
        return ()


def _inconsistencies(dataset: Dataset, head: dict[str, Any]) -> list[tuple[str, str]]:
    """Where `dataset.json` and the index, each readable, do not say the same."""
    index = dataset.samples
    whats: list[tuple[str, str]] = []
    if not len(index):
        whats.append((INDEX_FILE, "it lists no samples"))
    if head.get("num_samples") != len(index):
        whats.append(
            (DATASET_FILE, f"num_samples is {head.get('num_samples')!r}, the index lists {len(index)}")
        )
    if fingerprint_of(index) != dataset.fingerprint:
        whats.append((DATASET_FILE, "the fingerprint is not that of the samples in the index"))
    places = [(str(row["split"]), sample.key) for row, sample in zip(index.rows, index, strict=True)]
    if any(second <= first for first, second in pairwise(places)):
        whats.append((INDEX_FILE, "its samples are not in the order of their keys, or a key is there twice"))
    counts = np.bincount(index.rows["shard"], minlength=len(dataset.shards))
    for shard, count in zip(dataset.shards, counts.tolist(), strict=True):
        if count != shard.num_samples:
            what = f"the index lists {count} samples of it, {DATASET_FILE} {shard.num_samples}"
            whats.append((shard.file, what))
    return whats


def _extra_files(root: Path, shards: Sequence[Shard], *, only_tars: bool) -> list[Finding]:
    """Beside tars that others wrote may lie whatever they like, but no tar that is not known."""
    known = {DATASET_FILE, INDEX_FILE, *(shard.file for shard in shards)}
    # What `shards.export` puts there.
    known |= {f"{name}.idx" for shard in shards for name in (shard.file, Path(shard.file).stem)}
    known |= {f"{split}.wids.json" for split in SPLITS}
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    return [
        Finding(name, f"extra: {DATASET_FILE} does not know it", REMOVE)
        for name in names
        if name not in known and (name.lower().endswith(".tar") or not only_tars)
    ]


def _check_shard(task: _Task) -> list[tuple[str, str]]:
    """Where and what, for all damage of one shard."""
    file, path = task.shard.file, task.root / task.shard.file
    if not path.is_file():
        return [(file, "missing")]
    samples: list[Sample] = []
    is_foreign = False
    if task.has_index:
        dataset = _opened(task.root)
        is_foreign = dataset.description.profile == FOREIGN
        numbers = np.flatnonzero(dataset.samples.rows["shard"] == task.number)
        samples = [dataset.samples[int(number)] for number in numbers]
    size = path.stat().st_size
    whats: list[tuple[str, str]] = []
    if size != task.shard.size:
        word = "truncated" if size < task.shard.size else "too long"
        whats.append((file, f"{word}: {size} of {task.shard.size} bytes"))
    parts = list(scan(path))
    is_same = sha256_of(path) == task.shard.sha256
    # What was wrong with the tar of somebody else was told when it was indexed.
    if not (is_foreign and is_same):
        whats += [(file, part.what) for part in parts if isinstance(part, Problem)]
    if samples:
        entries = [part for part in parts if isinstance(part, Entry)]
        is_whole = not any(isinstance(part, Problem) and part.fatal for part in parts)
        members = sorted((m for sample in samples for m in sample.members), key=lambda m: m.offset)
        whats += _check_places(file, members, entries, is_whole=is_whole, all_known=not is_foreign)
        told = {where for where, _ in whats}
        damages = _check_members(path, size, samples, deep=task.deep, is_packed_here=not is_foreign)
        whats += [(where, what) for where, what in damages if where not in told]
    if not whats and not is_same:
        whats.append((file, f"its sha256 is not the one in {DATASET_FILE}"))
    return whats


def _check_places(
    file: str, members: Sequence[Member], entries: Sequence[Entry], *, is_whole: bool, all_known: bool
) -> list[tuple[str, str]]:
    """Whether the tar has the members of the index, in their places. Behind a damaged header none is missing."""
    places = {entry.name: entry for entry in entries}
    expected = {member.name for member in members}
    missing = [m.name for m in members if m.name not in places] if is_whole else []
    extra = [entry.name for entry in entries if entry.name not in expected] if all_known else []
    whats = [(file, f"missing member: {shown(name)}") for name in missing]
    whats += [(file, f"extra member: {shown(name)}") for name in extra]
    moved = [m for m in members if m.name in places and (m.offset, m.size) != _place(places[m.name])]
    if len(expected) < len(members):
        name = next(name for name, count in Counter(m.name for m in members).items() if count > 1)
        return [*whats, (file, f"the index lists member {shown(name)} twice")]
    found = [entry.name for entry in entries if entry.name in expected]
    if not missing and not extra and is_whole and found != [member.name for member in members]:
        first = next(name for name, m in zip(found, members, strict=True) if name != m.name)
        whats.append((file, f"members in another order than packed, from {shown(first)} on"))
    elif not missing and not extra:
        for member in moved:
            offset, size = _place(places[member.name])
            what = f"has {size} bytes from byte {offset} on, the index says {member.size} from {member.offset} on"
            whats.append((f"{file}: {shown(member.name)}", what))
    return whats


def _place(entry: Entry) -> tuple[int, int]:
    return entry.offset, entry.size


def _check_members(
    path: Path, size: int, samples: Sequence[Sample], *, deep: bool, is_packed_here: bool
) -> list[tuple[str, str]]:
    whats: list[tuple[str, str]] = []
    with path.open("rb", buffering=0) as file:
        for sample in samples:
            sizes = sorted({(member.width, member.height) for member in sample.frames})
            if len(sizes) > 1:
                whats.append((f"{path.name}: {shown(sample.key)}", f"frames of several sizes: {sizes}"))
            for member in sample.members:
                is_tail = is_packed_here and member.name == f"{sample.key}.json"
                expected = sample_json(sample) if deep and is_tail else None
                try:
                    if member.offset + member.size > size:
                        reach = member.offset + member.size
                        raise MismatchError(f"truncated: reaches to byte {reach} of {size}")
                    prove_member(file.fileno(), member, deep=deep, expected=expected)
                except MismatchError as error:
                    whats.append((f"{path.name}: {shown(member.name)}", str(error)))
    return whats
