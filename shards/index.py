"""The index of a data set: one binary file of tables, mapped into memory and shared by all processes that read it.

A million samples take no longer to open than ten: nothing is parsed, and a `Sample` is made when it is asked for.
Layout: 8 bytes magic, uint32 length of a JSON header, the header ({table: [offset, count]}), then the tables, each
aligned to 64 bytes, little-endian.
"""

import json
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np

from shards.records import KINDS, ROLES, SPLITS, Band, Member, Sample

MAGIC = b"SRLIDX\x00\x01"
ALIGNMENT = 64
MAX_PARTS = 2**16 - 1
"""Members of a sample and bands of a member, at most."""
MAX_BYTES = 2**48
"""No offset or size is larger."""
MAX_HEADER_BYTES = 4096
NUM_PICTURE_KINDS = KINDS.index("json")
FIRST = -1
"""Column of the first part of a row; the one before it counts them."""

# A text is a place in the table of strings; equal texts share one.
_TEXT = [("at", "<u8"), ("length", "<u4")]
SAMPLES = np.dtype(
    [
        ("key", _TEXT),
        ("source", _TEXT),
        ("notes", _TEXT),
        ("shard", "<u4"),
        ("split", "u1"),
        ("num_members", "<u2"),
        ("first_member", "<u8"),
    ]
)
MEMBERS = np.dtype(
    [
        ("name", _TEXT),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("crc32", "<u4"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("channels", "u1"),
        ("kind", "u1"),
        ("role", "u1"),
        ("band_height", "<u2"),
        ("num_bands", "<u2"),
        ("first_band", "<u8"),
    ]
)
BANDS = np.dtype([("start", "<u4"), ("crc32", "<u4")])
STRINGS = np.dtype("u1")
TABLES = {"samples": SAMPLES, "members": MEMBERS, "bands": BANDS, "strings": STRINGS}


class IndexBuilder:
    """Collects samples in any order; the bytes that come out do not depend on it."""

    def __init__(self, shards: Sequence[str]) -> None:
        """`shards` are the file names that samples may name; more may be appended to the same list."""
        self._shards = shards
        self._shard_numbers: dict[str, int] = {}
        self._order: list[tuple[int, str]] = []
        # All rows of a table, one behind another, with the numbers of texts until all texts are known. No lists of
        # tuples: these would take five times the memory.
        self._rows = array("q")
        self._members = array("q")
        self._bands = array("q")
        self._num_members = self._num_bands = 0
        self._texts: dict[str, int] = {}

    def add(self, sample: Sample) -> None:
        """Adds a sample.

        Raises:
            ValueError: It does not fit into the tables.
        """
        most = max([len(sample.members), *(len(member.bands) for member in sample.members)])
        if most > MAX_PARTS:
            raise ValueError(
                f"{sample.shard}: {sample.key}: {most} parts are more than the index has room for"
            )
        split = SPLITS.index(sample.split)
        notes = json.dumps(sample.notes) if sample.notes else ""
        self._order.append((split, sample.key))
        self._rows.extend(
            (
                self._text(sample.key),
                self._text(sample.source),
                self._text(notes),
                self._shard_number(sample.shard),
                split,
                len(sample.members),
                self._num_members,
            )
        )
        for member in sample.members:
            # A name is the key and a suffix that thousands of members share.
            suffix = member.name.removeprefix(sample.key)
            starts_with_key = len(suffix) < len(member.name)
            self._members.extend(
                (
                    self._text(suffix if starts_with_key else "/" + member.name),
                    member.offset,
                    member.size,
                    member.crc32,
                    member.width,
                    member.height,
                    member.channels,
                    KINDS.index(member.kind),
                    ROLES.index(member.role),
                    member.band_height,
                    len(member.bands),
                    self._num_bands,
                )
            )
            for band in member.bands:
                self._bands.extend((band.start, band.crc32))
            self._num_bands += len(member.bands)
        self._num_members += len(sample.members)

    def to_bytes(self) -> bytes:
        """The content of an index file."""
        order = sorted(range(len(self._order)), key=self._order.__getitem__)
        rows = _as_integers(self._rows, len(SAMPLES.names or ()))[order]
        members = _as_integers(self._members, len(MEMBERS.names or ()))
        bands = _as_integers(self._bands, len(BANDS.names or ()))
        members = members[_parts_of(rows)]
        bands = bands[_parts_of(members)]
        places, strings = self._strings(np.concatenate([rows[:, :3].ravel(), members[:, 0]]))
        return tables_to_bytes(
            {
                "samples": _as_table(rows, SAMPLES, places),
                "members": _as_table(members, MEMBERS, places),
                "bands": _as_table(bands, BANDS, places),
                "strings": np.frombuffer(strings, STRINGS),
            }
        )

    def _text(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    def _shard_number(self, shard: str) -> int:
        if shard not in self._shard_numbers:
            self._shard_numbers |= {name: number for number, name in enumerate(self._shards)}
        return self._shard_numbers[shard]

    def _strings(self, used: np.ndarray) -> tuple[np.ndarray, bytes]:
        """The place (at, length) of each text, and all of them joined in the order of their first use."""
        texts = [text.encode("utf-8", "surrogateescape") for text in self._texts]
        _, first_uses = np.unique(used, return_index=True)
        in_order = used[np.sort(first_uses)]
        places = np.zeros((len(texts), 2), np.int64)
        places[in_order, 1] = lengths = np.array([len(texts[number]) for number in in_order], np.int64)
        places[in_order, 0] = np.cumsum(lengths) - lengths
        return places, b"".join(texts[number] for number in in_order)


def tables_to_bytes(tables: Mapping[str, np.ndarray]) -> bytes:
    """The content of an index file that holds these tables, one for each of `TABLES`."""
    header = {name: [0, len(table)] for name, table in tables.items()}
    # Room for offsets of any size, so that the tables' places do not depend on the text of the header.
    position = _aligned(len(MAGIC) + 4 + 64 * len(header))
    for name, table in tables.items():
        header[name][0] = position
        position = _aligned(position + table.nbytes)
    text = json.dumps(header).encode()
    out = bytearray(position)
    out[: len(MAGIC) + 4] = MAGIC + struct.pack("<I", len(text))
    out[len(MAGIC) + 4 : len(MAGIC) + 4 + len(text)] = text
    for name, table in tables.items():
        start = header[name][0]
        out[start : start + table.nbytes] = table.tobytes()
    return bytes(out)


class Index(Sequence[Sample]):
    """All samples, sorted by split and key, read from the bytes of an index file (mapped or in memory)."""

    def __init__(self, buffer: bytes | memoryview, shards: Sequence[str]) -> None:
        """Checks the tables against the length of the buffer.

        Raises:
            ValueError: It is no index, or cut off, or its tables point outside of one another.
        """
        self._buffer = buffer
        self._shards = tuple(shards)
        tables = _tables(buffer)
        self.rows = tables["samples"]
        """The table of samples (dtype `SAMPLES`)."""
        self.members = tables["members"]
        """The table of members (dtype `MEMBERS`)."""
        self.bands = tables["bands"]
        self.strings = tables["strings"]
        self._check()

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, item: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, item: slice) -> "Sequence[Sample]": ...
    def __getitem__(self, item: SupportsIndex | slice) -> "Sample | Sequence[Sample]":
        if isinstance(item, slice):
            return Samples(self, range(len(self))[item])
        return self._sample(range(len(self))[item])

    def of_split(self, split: str) -> "Samples":
        """The samples of a split, ordered by key."""
        first, last = np.searchsorted(self.rows["split"], [SPLITS.index(split), SPLITS.index(split) + 1])
        return Samples(self, range(int(first), int(last)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and bytes(self._buffer) == bytes(other._buffer)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def _sample(self, number: int) -> Sample:
        # Whole rows at once: asking a table of numpy for one field after another takes ten times as long.
        key_at, source_at, notes_at, shard, split, count, first = self.rows[number].item()
        key = self._text(key_at)
        return Sample(
            key=key,
            split=SPLITS[split],
            source=self._text(source_at),
            shard=self._shards[shard],
            members=tuple(self._member(key, row) for row in self.members[first : first + count].tolist()),
            notes=_notes(self._text(notes_at), key),
        )

    def _member(self, key: str, row: tuple[Any, ...]) -> Member:
        name_at, offset, size, crc32, width, height, channels, kind, role, band_height, count, first = row
        suffix = self._text(name_at)
        bands = self.bands[first : first + count].tolist() if count else ()
        return Member(
            name=suffix[1:] if suffix.startswith("/") else key + suffix,
            offset=offset,
            size=size,
            crc32=crc32,
            kind=KINDS[kind],
            role=ROLES[role],
            width=width,
            height=height,
            channels=channels,
            band_height=band_height,
            bands=tuple(Band(start, checksum) for start, checksum in bands),
        )

    def _text(self, place: tuple[int, int]) -> str:
        at, length = place
        return self.strings[at : at + length].tobytes().decode("utf-8", "surrogateescape")

    def _check(self) -> None:
        """Every pointer of every table, at once: an index from elsewhere may hold anything."""
        rows, members = self.rows, self.members
        checks: list[tuple[str, Callable[[], bool]]] = [
            ("split", lambda: bool((rows["split"] < len(SPLITS)).all())),
            ("order of splits", lambda: bool((np.diff(rows["split"].astype(np.int8)) >= 0).all())),
            ("shard", lambda: bool((rows["shard"] < len(self._shards)).all())),
            ("members", lambda: _inside(rows["first_member"], rows["num_members"], len(members))),
            ("kind", lambda: bool((members["kind"] < len(KINDS)).all())),
            ("role", lambda: bool((members["role"] < len(ROLES)).all())),
            ("offset", lambda: bool((members["offset"] <= MAX_BYTES).all())),
            ("size", lambda: bool((members["size"] <= MAX_BYTES).all())),
            ("bands", lambda: _inside(members["first_band"], members["num_bands"], len(self.bands))),
            *(
                (name, lambda texts=texts: _inside(texts["at"], texts["length"], len(self.strings)))
                for name, texts in [
                    *((name, rows[name]) for name in ("key", "source", "notes")),
                    ("name", members["name"]),
                ]
            ),
        ]
        for name, holds in checks:
            if not holds():
                raise ValueError(f"damaged: {name} points outside of its table")
        self._check_frames()

    def _check_frames(self) -> None:
        """A sample without a frame, or a frame without pixels, could not be a clip."""
        members = self.members
        frames = members["role"] == ROLES.index("frame")
        empty = (members["width"] == 0) | (members["height"] == 0) | (members["kind"] >= NUM_PICTURE_KINDS)
        if (frames & empty).any():
            raise ValueError("damaged: a frame is no picture")
        until = np.concatenate([[0], np.cumsum(frames)])
        first = self.rows["first_member"].astype(np.int64)
        if (until[first + self.rows["num_members"]] == until[first]).any():
            raise ValueError("damaged: a sample has no frame")


class Samples(Sequence[Sample]):
    """Some consecutive samples of an index, made as they are asked for."""

    def __init__(self, index: Index, numbers: range) -> None:
        """`numbers` are places in the index."""
        self.index: Index = index  # pyright: ignore[reportIncompatibleMethodOverride]
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, item: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Sample]: ...
    def __getitem__(self, item: SupportsIndex | slice) -> Sample | Sequence[Sample]:
        if isinstance(item, slice):
            return Samples(self.index, self.numbers[item])
        return self.index[self.numbers[item]]

    def __iter__(self) -> Iterator[Sample]:
        return (self.index[number] for number in self.numbers)


def _tables(buffer: bytes | memoryview) -> dict[str, np.ndarray]:
    try:
        if bytes(buffer[: len(MAGIC)]) != MAGIC:
            raise ValueError("it does not begin as an index of this version")
        (length,) = struct.unpack_from("<I", buffer, len(MAGIC))
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(bytes(buffer[len(MAGIC) + 4 : len(MAGIC) + 4 + length]))
        return {name: _table(buffer, dtype, *header[name]) for name, dtype in TABLES.items()}
    except (struct.error, KeyError, TypeError, IndexError, ValueError, RecursionError) as error:
        raise ValueError(f"damaged ({error})") from None


def _table(buffer: bytes | memoryview, dtype: np.dtype, offset: int, count: int) -> np.ndarray:
    # numpy takes a count of -1 for "all there is".
    are_numbers = type(offset) is int and type(count) is int and min(offset, count) >= 0
    if not are_numbers or offset + count * dtype.itemsize > len(buffer):
        raise ValueError(f"a table of {count} rows at byte {offset}")
    return np.frombuffer(buffer, dtype, offset=offset, count=count)


def _notes(text: str, key: str) -> tuple[str, ...]:
    try:
        notes = json.loads(text) if text else []
        if isinstance(notes, list) and all(isinstance(note, str) for note in notes):
            return tuple(notes)
    except (ValueError, RecursionError):
        pass
    raise ValueError(f"index: the notes of {key} are damaged; write it anew with: srloss shard index --force")


def _as_integers(cells: "array[int]", columns: int) -> np.ndarray:
    return np.array(cells, np.int64).reshape(-1, columns)


def _parts_of(rows: np.ndarray) -> np.ndarray:
    """Numbers of the parts of all rows, whose last columns are count and first; the firsts become the new ones."""
    counts, firsts = rows[:, FIRST - 1], rows[:, FIRST]
    starts = np.cumsum(counts) - counts
    parts = np.repeat(firsts - starts, counts) + np.arange(counts.sum())
    rows[:, FIRST] = starts
    return parts


def _as_table(rows: np.ndarray, dtype: np.dtype, places: np.ndarray) -> np.ndarray:
    """Rows of integers as a table, with the places of texts instead of their numbers."""
    table = np.zeros(len(rows), dtype)
    for number, name in enumerate(dtype.names or ()):
        column = rows[:, number]
        if dtype[name].names:
            table[name]["at"], table[name]["length"] = places[column].T
            continue
        limit = np.iinfo(dtype[name]).max
        if len(column) and not 0 <= column.min() <= column.max() <= limit:
            raise ValueError(
                f"{name}: from {column.min()} to {column.max()}; the index has room for 0 to {limit}"
            )
        table[name] = column
    return table


def _inside(first: np.ndarray, count: np.ndarray, total: int) -> bool:
    # Compared without adding: 64 bits can overflow.
    counts = count.astype(np.uint64)
    return bool((counts <= total).all() and (first <= np.uint64(total) - counts).all())


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
