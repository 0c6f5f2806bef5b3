"""Everything one tar holds, whoever wrote it: each member read once, each picture decoded once."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from shards.banded import find_bands
from shards.decode import decode_member, picture_header
from shards.grouping import (
    Group,
    Grouped,
    RoleChoice,
    Roles,
    UnusableSampleError,
    group,
    is_executable,
    kind_of,
    roles_of,
)
from shards.inflate import crc32
from shards.leaks import thumbnail
from shards.picture import MIN_SIDE, UnusablePictureError
from shards.records import SPLITS, Member, Rejected, Sample
from shards.scan import Entry, scan, shown

MAX_PICTURE_BYTES = 2**30
"""Encoded. A larger picture could not be decoded within `shards.picture.MAX_PIXELS`."""
MAX_JSON_BYTES = 2**20
MAX_SOURCE = 1000
"""Letters of the source that somebody's JSON names."""
CHUNK = 2**20
MAX_NAMED = 20
"""Members of a tar that belong to no sample and are named one by one."""


@dataclass(frozen=True)
class Survey:
    """What was found in one tar."""

    file: str
    size: int
    sha256: str
    samples: list[Sample]
    """The usable ones. `split` is "" unless the sample itself says it, as those that were packed here do."""
    thumbnails: list[tuple[bytes, ...]]
    """Of the first, middle and last frame of each sample, for `shards.leaks`."""
    rejected: list[Rejected]
    remarks: list[str]
    """What the user should know, besides what is rejected."""


@dataclass(frozen=True)
class _Tail:
    """What the JSON member of a sample says that the index needs."""

    source: str | None = None
    split: str = ""
    notes: tuple[str, ...] = ()


@dataclass
class _Findings:
    samples: list[Sample] = field(default_factory=list)
    thumbnails: list[tuple[bytes, ...]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Sequential:
    """Reads a file from its begin to its end, and hashes every byte on the way."""

    def __init__(self, path: Path) -> None:
        """Opens the file; raises OSError."""
        self._path = path
        self._file = path.open("rb")
        self._digest = hashlib.sha256()
        self.position = 0

    def __enter__(self) -> "Sequential":
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """The next bytes; raises ValueError where the file has become shorter."""
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError(f"{self._path}: became shorter while it was read; is it still being written?")
        self._digest.update(data)
        self.position += size
        return data

    def chunks(self, size: int) -> Iterator[bytes]:
        """The next bytes, a piece at a time."""
        stop = self.position + size
        while self.position < stop:
            yield self.read(min(CHUNK, stop - self.position))

    def skip_to(self, offset: int) -> None:
        """Moves on to an offset that lies ahead."""
        assert offset >= self.position, "members overlap"
        for _ in self.chunks(offset - self.position):
            pass

    def crc32(self, size: int) -> int:
        """Of the next bytes."""
        value = 0
        for chunk in self.chunks(size):
            value = crc32(chunk, value)
        return value

    def sha256(self) -> str:
        """Of the bytes so far, hex digits."""
        return self._digest.hexdigest()


def damage_of(path: Path) -> str | None:
    """What ends a tar before its end mark; reads headers only.

    Raises:
        ValueError: The file cannot be read.
    """
    damage = group(scan(path)).damage
    return damage.what if damage else None


def survey(path: Path, choice: RoleChoice) -> Survey:
    """Reads a tar from begin to end.

    Behind damage of the tar itself nothing is read; that is one of the rejected.

    Raises:
        ValueError: The file cannot be read.
    """
    grouped = group(scan(path))
    findings = _Findings()
    for key, reason in grouped.rejected.items():
        findings.rejected.append(Rejected(f"{path.name}: {shown(key)}", reason))
    findings.rejected += _set_aside(path.name, grouped)
    findings.remarks += _executable(path.name, grouped)
    try:
        with Sequential(path) as file:
            size = path.stat().st_size
            for sample in grouped.groups:
                _take(file, path.name, sample, choice, findings)
            file.skip_to(size)
            sha256 = file.sha256()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the disk") from error
    found = findings.samples, findings.thumbnails, findings.rejected, findings.remarks
    return Survey(path.name, size, sha256, *found)


def _set_aside(file: str, grouped: Grouped) -> list[Rejected]:
    """What belongs to no sample."""
    aside = [Rejected(f"{file}: {shown(name)}", what) for name, what in grouped.aside[:MAX_NAMED]]
    if len(grouped.aside) > MAX_NAMED:
        aside.append(Rejected(file, f"{len(grouped.aside) - MAX_NAMED} more members belong to no sample"))
    if grouped.damage is not None:
        aside.append(Rejected(file, f"nothing behind this is used: {grouped.damage.what}"))
    return aside


def _executable(file: str, grouped: Grouped) -> list[str]:
    names = [entry.name for each in grouped.groups for entry in each.entries if is_executable(entry.name)]
    if not names:
        return []
    more = f" and {len(names) - 1} more members" if len(names) > 1 else ""
    return [f"{file}: some readers would run code from {shown(names[0])}{more}; here they are never opened"]


def _take(file: Sequential, shard: str, sample: Group, choice: RoleChoice, findings: _Findings) -> None:
    try:
        roles = roles_of(sample, choice)
        middle = len(roles.frames) // 2
        compared = {roles.frames[number].name: b"" for number in (0, middle, -1)}
        taken, remark = _sample(file, shard, sample, roles, compared)
    except UnusableSampleError as error:
        findings.rejected.append(Rejected(f"{shard}: {shown(sample.key)}", str(error)))
        return
    findings.samples.append(taken)
    findings.thumbnails.append(tuple(data for data in compared.values() if data))
    if remark:
        findings.remarks.append(f"{shard}: {shown(sample.key)}.json: {remark}")


def _sample(
    file: Sequential, shard: str, sample: Group, roles: Roles, thumbnails: dict[str, bytes]
) -> tuple[Sample, str]:
    """The sample, and what is wrong with its JSON, which is no reason to do without it.

    `thumbnails` names the frames to make some of, and receives them.
    """
    role_of = {e.name: "frame" for e in roles.frames} | {e.name: "lr" for e in roles.lr}
    members: dict[str, Member] = {}
    tail, remark = _Tail(), ""
    for entry in sample.entries:
        file.skip_to(entry.offset)
        if entry.name in role_of:
            members[entry.name], rgb = _picture(file, entry, role_of[entry.name])
            if entry.name in thumbnails:
                thumbnails[entry.name] = thumbnail(rgb)
        elif entry.name == f"{sample.key}.json" and entry.size <= MAX_JSON_BYTES:
            data = file.read(entry.size)
            members[entry.name] = _other(entry, crc32(data))
            tail, remark = _read_tail(data, sample.key)
        else:
            members[entry.name] = _other(entry, file.crc32(entry.size))
    _check_sizes([members[e.name] for e in roles.frames], [members[e.name] for e in roles.lr])
    source = tail.source if tail.source is not None else sample.key
    ordered = tuple(_in_time(list(members.values()), roles))
    return Sample(sample.key, tail.split, source, shard, ordered, tail.notes), remark


def _in_time(members: list[Member], roles: Roles) -> list[Member]:
    """The members in the order of the tar, but frames among themselves in that of time, and partners too."""
    by_name = {member.name: member for member in members}
    frames, lr = iter(roles.frames), iter(roles.lr)
    source_of = {"frame": frames, "lr": lr}
    return [by_name[next(source_of[m.role]).name] if m.role in source_of else m for m in members]


def _picture(file: Sequential, entry: Entry, role: str) -> tuple[Member, np.ndarray]:
    """Decoded once, so that what is in the index can be decoded; and its pixels, uint8, shape (H, W, 3)."""
    if entry.size > MAX_PICTURE_BYTES:
        raise UnusableSampleError(f"{shown(entry.name)}: {entry.size} bytes are too many for a picture")
    data = file.read(entry.size)
    try:
        kind, width, height, channels = picture_header(data)
        if role == "frame" and min(width, height) < MIN_SIDE:
            raise UnusablePictureError(f"smaller than {MIN_SIDE} px ({width}x{height})")
        member = Member(
            entry.name, entry.offset, entry.size, crc32(data), kind, role, width, height, channels
        )
        rgb = decode_member(memoryview(data), member, None)
        found = find_bands(data)
    except UnusablePictureError as error:
        raise UnusableSampleError(f"{shown(entry.name)}: {error}") from error
    return (member if found is None else replace(member, band_height=found[0], bands=found[1])), rgb


def _other(entry: Entry, checksum: int) -> Member:
    return Member(entry.name, entry.offset, entry.size, checksum, kind_of(entry.name), "other")


def _check_sizes(frames: list[Member], lr: list[Member]) -> None:
    for pictures in (frames, lr):
        for picture in pictures[1:]:
            if (picture.width, picture.height) != (pictures[0].width, pictures[0].height):
                raise UnusableSampleError(
                    f"{shown(picture.name)} has {picture.width}x{picture.height} pixels, "
                    f"{shown(pictures[0].name)} {pictures[0].width}x{pictures[0].height}"
                )
    if lr and lr_scale(frames, lr) == 0:
        raise UnusableSampleError(
            f"the frames have {frames[0].width}x{frames[0].height} pixels and their low-resolution partners "
            f"{lr[0].width}x{lr[0].height}: no whole factor"
        )


def lr_scale(frames: Sequence[Member], lr: Sequence[Member]) -> int:
    """How many times larger the frames are than their partners; 0 where there are none, or no whole factor."""
    if not lr:
        return 0
    scale = frames[0].width // lr[0].width
    same = (frames[0].width, frames[0].height) == (scale * lr[0].width, scale * lr[0].height)
    return scale if same else 0


def packed_profile(samples: Sequence[Sample]) -> str:
    """How the pictures are stored in samples that were packed here: a name of `shards.profiles.PROFILES`."""
    kinds = {member.kind for sample in samples for member in sample.frames}
    if kinds == {"npy"}:
        return "raw"
    if kinds == {"webp"}:
        return "webp"
    is_banded = all(member.bands for sample in samples for member in sample.frames)
    return "png-banded" if is_banded else "png-keep"


def _read_tail(data: bytes, key: str) -> tuple[_Tail, str]:
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        return _Tail(), f"not valid JSON ({type(error).__name__}), so nothing is taken from it"
    if not isinstance(row, dict) or not _is_text(row.get("source")):
        return _Tail(), ""
    split, notes = row.get("split"), row.get("notes")
    # Only samples that were packed here say all of this.
    if row.get("key") != key or split not in SPLITS or not isinstance(notes, list):
        if row["source"].isprintable() and len(row["source"]) <= MAX_SOURCE:
            return _Tail(row["source"]), ""
        return _Tail(), "its source is no short text on one line, so the key is taken instead"
    return _Tail(row["source"], split, tuple(note for note in notes if _is_text(note))), ""


def _is_text(value: object) -> bool:
    """Whether it is a string that a table of strings can hold."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
