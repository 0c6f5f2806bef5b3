"""What a packed data set holds, how it is read back, and one clip of it as pixels.

On disk: `dataset.json` (the whole), `index.jsonl` (a line for each sample) and the tar shards they describe.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.picture import UnusablePictureError, decode_png
from shards.records import (
    SPLITS,
    Member,
    Rejected,
    Sample,
    Shard,
    field,
    parse_rejected,
    parse_sample,
    parse_shard,
)

FORMAT = "srloss-shards"
FORMAT_VERSION = 1
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.jsonl"


@dataclass(frozen=True)
class Dataset:
    """A packed data set. `fingerprint` (64 hex digits) is of its contents, not of its place or name."""

    root: Path
    name: str
    fingerprint: str
    shards: tuple[Shard, ...]
    samples: tuple[Sample, ...]
    rejected: tuple[Rejected, ...]
    split_rule: str
    """How the splits were chosen, in words."""

    def of_split(self, split: str) -> tuple[Sample, ...]:
        """The samples of a split, ordered by key.

        Raises:
            ValueError: There is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split: unknown {split!r}; use one of {', '.join(SPLITS)}")
        return tuple(
            sorted((sample for sample in self.samples if sample.split == split), key=lambda s: s.key)
        )


class DamagedError(ValueError):
    """A data set that is not as it was packed: where, what was found and what to do."""

    def __init__(self, where: str, what: str, fix: str) -> None:
        """The three parts of the message."""
        super().__init__(f"{where}: {what}; {fix}")
        self.where = where
        self.what = what


def fingerprint_of(samples: Iterable[Sample]) -> str:
    """sha256 over what the samples are: keys, splits, and size and checksum of every frame. Hex digits."""
    rows = sorted([s.key, s.split, [[m.crc32, m.size] for m in s.members]] for s in samples)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def save(dataset: Dataset) -> None:
    """Writes `dataset.json` and `index.jsonl` to `dataset.root`: no times, no paths of this machine."""
    lines = [json.dumps(asdict(sample), sort_keys=True) + "\n" for sample in dataset.samples]
    index = "".join(lines).encode()
    head = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "num_samples": len(dataset.samples),
        "split_rule": dataset.split_rule,
        "shards": [asdict(shard) for shard in dataset.shards],
        "rejected": [asdict(rejected) for rejected in dataset.rejected],
    }
    _write_synced(dataset.root / INDEX_FILE, index)
    _write_synced(dataset.root / DATASET_FILE, (json.dumps(head, indent=1) + "\n").encode())


def load(root: Path) -> Dataset:
    """Reads a packed data set and checks that its two files belong together; the shards are not opened.

    Raises:
        ValueError: There is no data set, or it is foreign, damaged, empty or of a newer format.
    """
    head = read_head(root)
    dataset = read_dataset(root, head)
    problems = inconsistencies(dataset, head)
    if problems:
        raise DamagedError(*problems[0], _verify_command(root))
    if not dataset.samples:
        raise ValueError(f"{root}: the data set holds no pictures; pack it again with: srloss shard pack")
    return dataset


def read_head(root: Path) -> dict[str, Any]:
    """The contents of `dataset.json`.

    Raises:
        ValueError: It is missing, unreadable, foreign or newer than this program.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; pack a data set with: srloss shard pack photos {root}")
    path = root / DATASET_FILE
    if not path.is_file():
        raise ValueError(
            f"{root}: not a packed data set, it has no {DATASET_FILE}; "
            f"pack one with: srloss shard pack folder {root} OUT"
        )
    try:
        head = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedError(str(path), f"not valid JSON ({error})", _verify_command(root)) from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(
            f"{path}: was not written by srloss; "
            "pack the originals with: srloss shard pack folder PICTURES OUT"
        )
    version = head.get("format_version")
    if not isinstance(version, int):
        raise DamagedError(str(path), f"format_version is {version!r}, not a number", _verify_command(root))
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: format {version} is newer than {FORMAT_VERSION}, the newest known here; update srloss, "
            "or pack again with this version: srloss shard pack"
        )
    return head


def read_dataset(root: Path, head: dict[str, Any]) -> Dataset:
    """Parses `head` and the index without comparing them.

    Raises:
        DamagedError: A field or file is missing or of the wrong type.
    """
    index = root / INDEX_FILE
    place = str(root / DATASET_FILE)
    try:
        dataset_fields = [field(head, name, str) for name in ("name", "fingerprint", "split_rule")]
        shards = tuple(parse_shard(row) for row in field(head, "shards", list))
        rejected = tuple(parse_rejected(row) for row in field(head, "rejected", list))
        place = str(index)
        if not index.is_file():
            raise DamagedError(place, "missing", _verify_command(root))
        samples: list[Sample] = []
        for number, line in enumerate(index.read_bytes().splitlines(), start=1):
            place = f"{index} line {number}"
            samples.append(parse_sample(json.loads(line)))
    except (KeyError, TypeError, UnicodeError, json.JSONDecodeError) as error:
        raise DamagedError(
            place, f"damaged ({type(error).__name__}: {error})", _verify_command(root)
        ) from error
    name, fingerprint, split_rule = dataset_fields
    return Dataset(root, name, fingerprint, shards, tuple(samples), rejected, split_rule)


def inconsistencies(dataset: Dataset, head: dict[str, Any]) -> list[tuple[str, str]]:
    """Where index and `dataset.json` contradict each other: (where, what)."""
    index = dataset.root / INDEX_FILE
    found: list[tuple[str, str]] = []
    if hashlib.sha256(index.read_bytes()).hexdigest() != head.get("index_sha256"):
        found.append((str(index), f"its sha256 is not the one in {DATASET_FILE}: it was edited or damaged"))
    if fingerprint_of(dataset.samples) != dataset.fingerprint:
        found.append(
            (str(dataset.root / DATASET_FILE), "the fingerprint is not that of the samples in the index")
        )
    unknown = {sample.shard for sample in dataset.samples} - {shard.file for shard in dataset.shards}
    found += [
        (str(index), f"names a shard that {DATASET_FILE} does not know: {name}") for name in sorted(unknown)
    ]
    return found


def read_clip(dataset: Dataset, sample: Sample) -> np.ndarray:
    """The pixels of a sample, uint8, shape (T, 3, H, W). Every frame's CRC32 and size are checked.

    Raises:
        ValueError: The shard is missing, or a member is damaged; names both, and how to find all damage.
    """
    frames = [read_frame(dataset, sample, member) for member in sample.members]
    return np.stack(frames).transpose(0, 3, 1, 2).copy()


def read_frame(dataset: Dataset, sample: Sample, member: Member) -> np.ndarray:
    """The pixels of one frame, uint8, shape (H, W, 3); raises as `read_clip` does."""
    where = f"{sample.shard}: {member.name}"
    fix = _verify_command(dataset.root)
    try:
        file = os.open(dataset.root / sample.shard, os.O_RDONLY)
    except OSError as error:
        raise DamagedError(where, f"the shard cannot be opened ({error.strerror})", fix) from error
    try:
        total = os.fstat(file).st_size
        if member.offset < 0 or member.size < 0 or member.offset + member.size > total:
            end = member.offset + member.size
            raise DamagedError(where, f"truncated: reaches to byte {end}, the shard ends at {total}", fix)
        data = os.pread(file, member.size, member.offset)
    except OSError as error:
        raise DamagedError(where, f"cannot be read ({error.strerror})", fix) from error
    finally:
        os.close(file)
    if zlib.crc32(data) != member.crc32:
        raise DamagedError(where, f"CRC32 is {zlib.crc32(data):08x}, not {member.crc32:08x} as packed", fix)
    try:
        pixels = decode_png(data)
    except UnusablePictureError as error:
        raise DamagedError(where, str(error), fix) from error
    if pixels.shape[:2] != (sample.height, sample.width):
        found = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise DamagedError(
            where, f"the picture is {found}, not {sample.width}x{sample.height} as packed", fix
        )
    return pixels


def _verify_command(root: Path) -> str:
    return f"find all damage with: srloss shard verify {root}"


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
