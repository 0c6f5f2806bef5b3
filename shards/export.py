"""Indexes of the same tars for other loaders: NVIDIA DALI, Megatron Energon, wids.

Each is written as that loader's own tool writes it, read from the sources of DALI 2.x (tools/wds2idx.py), Megatron
Energon 7.4 (energon prepare) and wids 0.1.11 (wids_index.py). The tars stay as they are.
"""

import hashlib
import json
import os
import re
import sqlite3
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from shards.grouping import group, split_name
from shards.manifest import Dataset
from shards.records import SPLITS, Sample, Shard
from shards.scan import BLOCK, Entry, scan, shown

WIDS_NAME_BYTES = 100
"""Longer names are continued in another field of a tar header, which wids does not read."""
WIDS_NAMES = re.compile(r".*\.")
"""Of members that it does not pass over; with hidden ones, other than WebDataset."""
ENERGON_NAMES = re.compile(r"(?!__[^/]*__($|/))((?:.*/|)[^.]+)[.]([^/]*)$")
ENERGON_FOLDER = ".nv-meta"


@dataclass(frozen=True)
class _Group:
    """What other loaders take for a sample: its members in the order of the tar."""

    key: str
    entries: list[Entry]
    is_usable: bool
    """Whether the data set has it."""


def export_index(dataset: Dataset, layout: str, out: Path | None = None) -> list[Path]:
    """Writes what another loader needs to read the tars of a data set by its own index.

    Args:
        dataset: On a local disk.
        layout: A name in `LAYOUTS`.
        out: The folder to write to; None: beside the tars. Energon reads its files only there.

    Returns:
        The files that were written.

    Raises:
        ValueError: There is no such layout, the data set cannot be expressed in it, or a file is there already.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: unknown {layout!r}; use one of {', '.join(LAYOUTS)}")
    out = dataset.root if out is None else out
    files = LAYOUTS[layout](dataset, out)
    there = sorted(str(path) for path in files if path.exists())
    if there:
        raise ValueError(
            f"{there[0]}: exists already, as do {len(there) - 1} others; remove them or choose another folder"
        )
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(data)
        temporary.rename(path)
    return list(files)


def _dali(dataset: Dataset, out: Path) -> dict[Path, bytes]:
    """`NAME.idx` for each tar, for `fn.readers.webdataset(paths, index_paths)`.

    Text: "v1.2" and the number of samples; then a line for each sample: suffix, offset, size and name of each
    member. Samples that the data set rejects are not listed, so DALI does not see them.
    """
    files: dict[Path, bytes] = {}
    for shard in dataset.shards:
        samples = _samples_of(dataset, shard)
        if not samples:
            continue  # DALI refuses an index without samples; leave that tar out.
        lines = [f"v1.2 {len(samples)}"]
        for sample in samples:
            cells: list[str] = []
            for member in sorted(sample.members, key=lambda m: m.offset):
                divided = split_name(member.name)
                assert divided is not None, "a member without a suffix"
                if not divided[1] or any(letter.isspace() for letter in member.name):
                    raise ValueError(
                        f"{shard.file}: {shown(member.name)}: DALI's index divides by blanks, so it cannot hold this "
                        "name; pack the pictures again: srloss shard pack"
                    )
                cells += [divided[1], str(member.offset), str(member.size), member.name]
            lines.append(" ".join(cells))
        files[out / f"{Path(shard.file).stem}.idx"] = ("\n".join(lines) + "\n").encode()
    return files


def _energon(dataset: Dataset, out: Path) -> dict[Path, bytes]:
    """`NAME.tar.idx` for each tar, and the folder `.nv-meta`.

    `.tar.idx`: the byte where each sample's first header begins and where the last one ends, as 64-bit integers.
    `.nv-meta`: `.info.json`, `split.yaml` (with samples that the data set rejects as excluded), `dataset.yaml` (a
    CrudeWebdataset, since what a sample means to a training is not ours to say), `index.sqlite` and `index.uuid`.
    The version of energon and metadata of media are left out.
    """
    _require_one_split_each(dataset, "energon")
    groups = {
        shard: found for shard in dataset.shards if (found := _groups_of(dataset, shard, ENERGON_NAMES))
    }
    _require_distinct_keys(groups)
    files: dict[Path, bytes] = {}
    for shard, found in groups.items():
        starts = [one.entries[0].header for one in found] + [_end(found[-1])]
        files[out / f"{shard.file}.idx"] = struct.pack(f"<{len(starts)}Q", *starts)
    folder = out / ENERGON_FOLDER
    counts = {shard.file: len(found) for shard, found in groups.items()}
    excluded = [
        f"{shard.file}/{one.key}" for shard, found in groups.items() for one in found if not one.is_usable
    ]
    used = [*counts, *excluded]
    if any(letter in name for name in used for letter in "{}"):
        raise ValueError(
            "energon: a name holds braces, which it takes for a pattern; rename that tar or sample"
        )
    split_rows = ["split_parts:"]
    for split in SPLITS:
        names = [shard.file for shard in groups if shard.split == split]
        split_rows += [f"  {split}:", *(f"  - {json.dumps(name)}" for name in names)] if names else []
    split_rows += (
        ["exclude:", *(f"- {json.dumps(name)}" for name in excluded)] if excluded else ["exclude: []"]
    )
    files[folder / ".info.json"] = (json.dumps({"shard_counts": counts}, indent=2) + "\n").encode()
    files[folder / "split.yaml"] = ("\n".join(split_rows) + "\n").encode()
    files[folder / "dataset.yaml"] = b"__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    files[folder / "index.uuid"] = str(uuid.UUID(dataset.fingerprint[:32], version=4)).encode()
    files[folder / "index.sqlite"] = _energon_tables(list(groups.values()))
    return files


def _wids(dataset: Dataset, out: Path) -> dict[Path, bytes]:
    """`SPLIT.wids.json` for each split: a shard list with md5sum, relative to the folder it is in."""
    _require_one_split_each(dataset, "wids")
    files: dict[Path, bytes] = {}
    for split in SPLITS:
        rows: list[dict[str, object]] = []
        for shard in (s for s in dataset.shards if s.split == split):
            found = _groups_of(dataset, shard, WIDS_NAMES)
            unusable = [one.key for one in found if not one.is_usable]
            if unusable:
                raise ValueError(
                    f"{shard.file}: {shown(unusable[0])} is not usable (see the rejected ones: srloss shard info), and "
                    "wids cannot leave out a sample; pack the pictures again: srloss shard pack"
                )
            for entry in (entry for one in found for entry in one.entries):
                if len(entry.name.encode()) > WIDS_NAME_BYTES:
                    raise ValueError(
                        f"{shard.file}: {shown(entry.name)}: wids reads names of up to {WIDS_NAME_BYTES} bytes; "
                        "pack the pictures again: srloss shard pack"
                    )
            if found:
                rows.append(_wids_row(dataset.root / shard.file, out, len(found)))
        if rows:
            name = f"{dataset.description.name}-{split}"
            text = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": rows}
            files[out / f"{split}.wids.json"] = (json.dumps(text, indent=2) + "\n").encode()
    return files


LAYOUTS: dict[str, Callable[[Dataset, Path], dict[Path, bytes]]] = {
    "dali": _dali,
    "energon": _energon,
    "wids": _wids,
}
"""Each gives the files to write, with their content."""


def _wids_row(path: Path, out: Path, num_samples: int) -> dict[str, object]:
    with path.open("rb") as file:
        md5sum = hashlib.file_digest(file, "md5").hexdigest()
    url = os.path.relpath(path, out)
    return {"url": url, "md5sum": md5sum, "nsamples": num_samples, "filesize": path.stat().st_size}


def _samples_of(dataset: Dataset, shard: Shard) -> list[Sample]:
    """The usable samples of a tar, in its order."""
    number = dataset.shards.index(shard)
    numbers = (dataset.samples.rows["shard"] == number).nonzero()[0]
    return sorted((dataset.samples[int(n)] for n in numbers), key=_first_offset)


def _first_offset(sample: Sample) -> int:
    return min(member.offset for member in sample.members)


def _groups_of(dataset: Dataset, shard: Shard, counted: re.Pattern[str]) -> list[_Group]:
    """All that other loaders take for samples in a tar, usable or not.

    `counted` are the names of members that the loader would take for a part of a sample.
    """
    grouped = group(scan(dataset.root / shard.file), keep_rejected=True)
    if grouped.damage is not None:
        raise ValueError(
            f"{shard.file}: {grouped.damage.what}; find all damage with: srloss shard verify {dataset.url}"
        )
    foreign = [name for name in grouped.ungrouped if counted.match(name)]
    if foreign:
        raise ValueError(
            f"{shard.file}: {shown(foreign[0])} belongs to no sample, and that loader would take it for one; "
            "pack the pictures again: srloss shard pack"
        )
    usable = {_first_offset(sample) for sample in _samples_of(dataset, shard)}
    return [_Group(g.key, g.entries, g.entries[0].offset in usable) for g in grouped.groups]


def _end(last: _Group) -> int:
    entry = last.entries[-1]
    return -(-(entry.offset + entry.size) // BLOCK) * BLOCK


def _require_one_split_each(dataset: Dataset, layout: str) -> None:
    for number, shard in enumerate(dataset.shards):
        splits = set(dataset.samples.rows["split"][dataset.samples.rows["shard"] == number].tolist())
        if len(splits) > 1:
            names = ", ".join(SPLITS[split] for split in sorted(splits))
            raise ValueError(
                f"{shard.file}: holds samples of {names}, and {layout} splits by tars; index it with one split for all "
                "(--split train), or pack the pictures again: srloss shard pack"
            )


def _require_distinct_keys(groups: dict[Shard, list[_Group]]) -> None:
    places = sorted((one.key, shard.file) for shard, found in groups.items() for one in found)
    for (first, file), (second, other) in pairwise(places):
        if first == second:
            raise ValueError(
                f"{file}: {shown(first)} is in {other} too, and energon takes a key once only; pack the pictures "
                "again: srloss shard pack"
            )


def _energon_tables(shards: Sequence[list[_Group]]) -> bytes:
    """The random-access index: where each sample and each of its members lies."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        """
        CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE,
            sample_index INTEGER NOT NULL, byte_offset INTEGER, byte_size INTEGER);
        CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT,
            content_byte_offset INTEGER, content_byte_size INTEGER);
        """
    )
    for tar, found in enumerate(shards):
        starts = [one.entries[0].header for one in found] + [_end(found[-1])]
        for number, one in enumerate(found):
            size = starts[number + 1] - starts[number]
            connection.execute(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?)", (tar, one.key, number, starts[number], size)
            )
            parts = [
                (tar, number, entry.name[len(one.key) + 1 :], entry.offset, entry.size)
                for entry in one.entries
            ]
            connection.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", parts)
    connection.executescript(
        """
        CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
        CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset);
        CREATE INDEX idx_sample_parts_full ON sample_parts(tar_file_id, sample_index, part_name,
            content_byte_offset, content_byte_size);
        """
    )
    data = connection.serialize()
    connection.close()
    return data
