"""Finds all damage of a packed data set."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shards.manifest import (
    DATASET_FILE,
    INDEX_FILE,
    DamagedError,
    Dataset,
    inconsistencies,
    read_dataset,
    read_frame,
    read_head,
)
from shards.pack import sample_json
from shards.records import Sample, Shard, parse_shard
from shards.tars import Entry, sha256_of, walk

REPACK = "pack the originals again: srloss shard pack, with --force to replace"
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


def verify(root: Path, *, on_progress: Callable[[VerifyProgress], None]) -> list[Finding]:
    """Reads everything again: checksums, tar headers, members and their order, and decodes every frame.

    Args:
        root: Folder of the data set.
        on_progress: Called after each shard.

    Returns:
        All damage; empty where the data set is sound.

    Raises:
        ValueError: `root` is no packed data set at all, or of a newer format.
    """
    try:
        head = read_head(root)
    except DamagedError as error:
        return [Finding(error.where, error.what, REPACK)]
    findings: list[Finding] = []
    try:
        dataset = read_dataset(root, head)
        findings += [Finding(where, what, REPACK) for where, what in inconsistencies(dataset, head)]
    except DamagedError as error:
        findings.append(Finding(error.where, error.what, REPACK))
        dataset = _without_index(root, head)
    findings += _extra_files(dataset)
    for done, shard in enumerate(dataset.shards, start=1):
        findings += _check_shard(dataset, shard)
        on_progress(VerifyProgress(done, len(dataset.shards), shard.file))
    return findings


def _without_index(root: Path, head: dict[str, object]) -> Dataset:
    """What can still be checked where the index cannot be read: the shards as files."""
    rows = head.get("shards")
    try:
        shards = tuple(parse_shard(row) for row in rows) if isinstance(rows, list) else ()
    except (KeyError, TypeError):
        shards = ()
    return Dataset(root, "", "", shards, (), (), "")


def _extra_files(dataset: Dataset) -> list[Finding]:
    known = {DATASET_FILE, INDEX_FILE, *(shard.file for shard in dataset.shards)}
    names = sorted(path.name for path in dataset.root.iterdir() if not path.name.startswith("."))
    return [
        Finding(name, f"extra: {DATASET_FILE} does not know it", REMOVE)
        for name in names
        if name not in known
    ]


def _check_shard(dataset: Dataset, shard: Shard) -> list[Finding]:
    path = dataset.root / shard.file
    if not path.is_file():
        return [Finding(shard.file, "missing", REPACK)]
    samples = [sample for sample in dataset.samples if sample.shard == shard.file]
    whats: list[tuple[str, str]] = []
    size = path.stat().st_size
    if size != shard.size:
        whats.append(
            (shard.file, f"{'truncated' if size < shard.size else 'too long'}: {size} of {shard.size} bytes")
        )
    entries, stopped = walk(path)
    if stopped:
        whats.append((shard.file, stopped))
    if samples:
        whats += [(shard.file, what) for what in _check_names(samples, entries, complete=stopped is None)]
        whats += _check_members(dataset, samples)
        whats += _check_tails(path, samples, entries)
    if not whats and sha256_of(path) != shard.sha256:
        whats.append((shard.file, f"its sha256 is not the one in {DATASET_FILE}"))
    if dataset.samples and len(samples) != shard.num_samples:
        whats.append(
            (shard.file, f"the index lists {len(samples)} samples of it, {DATASET_FILE} {shard.num_samples}")
        )
    return [Finding(where, what, REPACK) for where, what in whats]


def _check_names(samples: list[Sample], entries: list[Entry], *, complete: bool) -> list[str]:
    """Missing, extra, repeated or re-ordered members. What lies behind a damaged header is not missing."""
    expected = [
        name for sample in samples for name in (*(m.name for m in sample.members), f"{sample.key}.json")
    ]
    found = [entry.name for entry in entries]
    extra = Counter(found) - Counter(expected)
    missing = Counter(expected) - Counter(found) if complete else Counter[str]()
    whats = [f"missing member: {name}" for name in missing] + [f"extra member: {name}" for name in extra]
    if not whats and found != expected[: len(found)]:
        first = next(name for name, wanted in zip(found, expected, strict=False) if name != wanted)
        whats.append(f"members in another order than packed, from {first} on")
    return whats


def _check_members(dataset: Dataset, samples: list[Sample]) -> list[tuple[str, str]]:
    whats: list[tuple[str, str]] = []
    for sample in samples:
        for member in sample.members:
            try:
                read_frame(dataset, sample, member)
            except DamagedError as error:
                whats.append((error.where, error.what))
    return whats


def _check_tails(path: Path, samples: list[Sample], entries: list[Entry]) -> list[tuple[str, str]]:
    """The JSON members, which must say what the index says."""
    places = {entry.name: entry for entry in entries}
    whats: list[tuple[str, str]] = []
    with path.open("rb") as file:
        for sample in samples:
            entry = places.get(f"{sample.key}.json")
            if entry is None:
                continue
            file.seek(entry.offset)
            data = file.read(entry.size)
            if data != sample_json(sample):
                whats.append((f"{path.name}: {entry.name}", f"differs from {INDEX_FILE}: {_shortened(data)}"))
    return whats


def _shortened(data: bytes) -> str:
    return json.dumps(data[:80].decode("ascii", "replace"))
