"""What a packed data set holds and how it is opened.

On disk: `dataset.json` (the whole; also a shard list that wids reads), `index.bin` (see `shards.index`) and the tar
shards they describe. The tars alone are a complete WebDataset.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.index import Index, IndexBuilder, Samples
from shards.records import (
    SPLITS,
    NearDuplicate,
    Rejected,
    Sample,
    Shard,
    field,
    parse_near_duplicate,
    parse_rejected,
    parse_shard,
    shard_row,
)
from shards.storage import Storage, open_storage
from shards.storage.errors import MissingError, StorageError
from shards.storage.local import LocalStorage

FORMAT = "srloss-shards"
FORMAT_VERSION = 2
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.bin"


@dataclass(frozen=True)
class Description:
    """What is known of a data set besides its shards and samples."""

    name: str
    split_rule: str
    """How the splits were chosen, in words."""
    profile: str
    """How pictures are stored, a name of `shards.profiles.PROFILES`; "foreign" where the tars were not written here."""
    lr_scale: int = 0
    """Factor between the frames and the low-resolution partners that the source gives; 0 where it gives none."""
    rejected: tuple[Rejected, ...] = ()
    near_duplicates: tuple[NearDuplicate, ...] = ()
    warnings: tuple[str, ...] = ()
    """What one should know before relying on this data."""


@dataclass(frozen=True)
class Dataset:
    """A packed data set. `fingerprint` (64 hex digits) is of its contents, not of its place or name."""

    storage: Storage
    description: Description
    fingerprint: str
    shards: tuple[Shard, ...]
    samples: Index
    """All samples, ordered by split and key."""

    @property
    def url(self) -> str:
        """Where it is, for messages."""
        return self.storage.url

    @property
    def root(self) -> Path:
        """Its folder on this machine.

        Raises:
            ValueError: It is elsewhere.
        """
        if isinstance(self.storage, LocalStorage):
            return self.storage.root
        raise ValueError(f"{self.url}: this needs a data set on a local disk; copy it to one first")

    def of_split(self, split: str) -> Samples:
        """The samples of a split, ordered by key.

        Raises:
            ValueError: There is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split: unknown {split!r}; use one of {', '.join(SPLITS)}")
        return self.samples.of_split(split)


class DamagedError(ValueError):
    """A data set that is not as it was packed: where, what was found and what to do."""

    def __init__(self, where: str, what: str, fix: str) -> None:
        """The three parts of the message."""
        super().__init__(f"{where}: {what}; {fix}")
        self.where = where
        self.what = what


def fingerprint_of(samples: Iterable[Sample]) -> str:
    """sha256 over what the samples are: keys, splits, and role, size and checksum of every picture. Hex digits."""
    digest = hashlib.sha256()
    for sample in samples:
        pictures = [[m.role, m.crc32, m.size] for m in sample.members if m.role != "other"]
        digest.update(json.dumps([sample.key, sample.split, pictures], separators=(",", ":")).encode())
    return digest.hexdigest()


def save(root: Path, description: Description, shards: Sequence[Shard], samples: Iterable[Sample]) -> None:
    """Writes `dataset.json` and `index.bin` to `root`: no times, no paths of this machine."""
    builder = IndexBuilder([shard.file for shard in shards])
    for sample in samples:
        builder.add(sample)
    data = builder.to_bytes()
    index = Index(data, [shard.file for shard in shards])
    head = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": description.name,
        "fingerprint": fingerprint_of(index),
        "profile": description.profile,
        "lr_scale": description.lr_scale,
        "num_samples": len(index),
        "index_size": len(data),
        "index_sha256": hashlib.sha256(data).hexdigest(),
        "split_rule": description.split_rule,
        "warnings": list(description.warnings),
        "shardlist": [shard_row(shard) for shard in shards],
        "near_duplicates": [asdict(pair) for pair in description.near_duplicates],
        "rejected": [asdict(rejected) for rejected in description.rejected],
    }
    # The head last: without it there is no data set.
    _write_synced(root / INDEX_FILE, data)
    _write_synced(root / DATASET_FILE, (json.dumps(head, indent=1) + "\n").encode())


def load(root: Path | str) -> Dataset:
    """Opens a packed data set, a folder or URL, and checks that its two files belong together; opens no shard.

    Raises:
        ValueError: There is no data set, or it is foreign, damaged, empty or of another format, or out of reach.
    """
    storage = open_storage(root)
    head = read_head(storage)
    dataset = read_dataset(storage, head)
    if not len(dataset.samples):
        raise ValueError(
            f"{storage.url}: the data set holds no pictures; pack it again with: srloss shard pack"
        )
    return dataset


def read_head(storage: Storage) -> dict[str, Any]:
    """The contents of `dataset.json`.

    Raises:
        ValueError: It is missing, unreadable, foreign or of another version than this program's.
    """
    url = storage.url
    where = f"{url.rstrip('/')}/{DATASET_FILE}"
    if isinstance(storage, LocalStorage) and not storage.root.is_dir():
        raise ValueError(f"{url}: no such folder; pack a data set with: srloss shard pack photos {url}")
    try:
        data = storage.read(DATASET_FILE, 0, storage.size(DATASET_FILE))
    except MissingError:
        raise ValueError(
            f"{url}: not a packed data set, it has no {DATASET_FILE}; pack one with: "
            f"srloss shard pack folder {url} OUT; or, if it holds tar shards: srloss shard index {url}"
        ) from None
    except StorageError as error:
        raise ValueError(f"{where}: cannot be read ({error}); check that place") from error
    try:
        head = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(where, f"not valid JSON ({error})", verify_command(url)) from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(
            f"{where}: was not written by srloss; pack the originals with: srloss shard pack folder PICTURES OUT; "
            f"or index its tars: srloss shard index {url}"
        )
    version = head.get("format_version")
    if not isinstance(version, int):
        raise DamagedError(where, f"format_version is {version!r}, not a number", verify_command(url))
    if version != FORMAT_VERSION:
        older_or_newer = "newer" if version > FORMAT_VERSION else "older"
        raise ValueError(
            f"{where}: format {version} is {older_or_newer} than {FORMAT_VERSION}, the one of this program; "
            f"write its index anew with: srloss shard index {url} --force; or update srloss"
        )
    return head


def read_dataset(storage: Storage, head: dict[str, Any]) -> Dataset:
    """Parses `head` and opens the index.

    Raises:
        DamagedError: A field or file is missing, of the wrong type, or not the one that belongs to `head`.
    """
    where = f"{storage.url.rstrip('/')}/{DATASET_FILE}"
    fix = verify_command(storage.url)
    try:
        description = Description(
            *(field(head, name, str) for name in ("name", "split_rule", "profile")),
            lr_scale=field(head, "lr_scale", int),
            rejected=tuple(parse_rejected(row) for row in field(head, "rejected", list)),
            near_duplicates=tuple(parse_near_duplicate(row) for row in field(head, "near_duplicates", list)),
            warnings=tuple(str(text) for text in field(head, "warnings", list)),
        )
        fingerprint, sha256 = field(head, "fingerprint", str), field(head, "index_sha256", str)
        shards = tuple(parse_shard(row) for row in field(head, "shardlist", list))
    except (KeyError, TypeError) as error:
        raise DamagedError(where, f"damaged ({type(error).__name__}: {error})", fix) from error
    where = f"{storage.url.rstrip('/')}/{INDEX_FILE}"
    try:
        buffer = _mapped(storage.local_copy(INDEX_FILE))
        if hashlib.sha256(buffer).hexdigest() != sha256:
            raise DamagedError(
                where, f"its sha256 is not the one in {DATASET_FILE}: it was edited or damaged", fix
            )
        index = Index(buffer, [shard.file for shard in shards])
    except MissingError as error:
        raise DamagedError(where, "missing", fix) from error
    except StorageError as error:
        raise ValueError(f"{where}: cannot be read ({error}); check that place") from error
    except DamagedError:
        raise
    except ValueError as error:
        raise DamagedError(where, str(error), fix) from error
    return Dataset(storage, description, fingerprint, shards, index)


def verify_command(url: str) -> str:
    """What to do about damage."""
    if "://" in url:
        return f"copy it to a local disk, and find all damage with: srloss shard verify COPY (from {url})"
    return f"find all damage with: srloss shard verify {url}"


def _mapped(path: Path) -> memoryview | bytes:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
