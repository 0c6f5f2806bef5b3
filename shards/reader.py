"""Clips of a data set as pixels: only the bytes that a crop needs are read, and every one is checked."""

import zlib
from dataclasses import dataclass

import numpy as np

from shards.decode import Window, decode_member, span_of
from shards.manifest import DamagedError, Dataset, verify_command
from shards.picture import UnusablePictureError
from shards.records import Member, Sample
from shards.storage.errors import StorageError

MAX_GAP_BYTES = 256 * 1024
"""Frames that lie closer together than this are read at once: one request costs more than these bytes."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Bytes of a shard that hold what is needed of a member."""

    member: Member
    start: int
    stop: int


def read_clip(
    dataset: Dataset, sample: Sample, window: Window | None = None, *, role: str = "frame"
) -> np.ndarray:
    """The pixels of a sample, or of a window of it.

    Args:
        dataset: Where it is.
        sample: Which one.
        window: Must lie inside of the frames; None: all of them.
        role: "frame", or "lr" for the low-resolution partners.

    Returns:
        uint8, shape (T, 3, H, W), contiguous.

    Raises:
        DamagedError: The shard is missing or a member damaged; names both, and how to find all damage.
    """
    members = [member for member in sample.members if member.role == role]
    spans: list[_Span] = []
    for member in members:
        start, stop = span_of(member, window)
        spans.append(_Span(member, member.offset + start, member.offset + stop))
    frames: list[np.ndarray] = []
    for group in _groups(spans):
        data = _read(dataset, sample, group)
        for span in group:
            part = memoryview(data)[span.start - group[0].start : span.stop - group[0].start]
            frames.append(_decode(dataset, sample, span, part, window))
    return np.stack(frames).transpose(0, 3, 1, 2).copy()


def _groups(spans: list[_Span]) -> list[list[_Span]]:
    """Neighbours that are read in one go."""
    groups: list[list[_Span]] = []
    for span in spans:
        if groups and 0 <= span.start - groups[-1][-1].stop <= MAX_GAP_BYTES:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _read(dataset: Dataset, sample: Sample, group: list[_Span]) -> bytes:
    try:
        return dataset.storage.read(sample.shard, group[0].start, group[-1].stop)
    except StorageError as error:
        names = (
            group[0].member.name if len(group) == 1 else f"{group[0].member.name} and the frames behind it"
        )
        raise DamagedError(f"{sample.shard}: {names}", str(error), verify_command(dataset.url)) from error


def _decode(
    dataset: Dataset, sample: Sample, span: _Span, data: memoryview, window: Window | None
) -> np.ndarray:
    try:
        return decode_member(data, span.member, window)
    except UnusablePictureError as error:
        where = f"{sample.shard}: {span.member.name}"
        raise DamagedError(where, str(error), verify_command(dataset.url)) from error


def read_member(dataset: Dataset, sample: Sample, member: Member) -> bytes:
    """The bytes of a member, checked.

    Raises:
        DamagedError: They cannot be read, or are not what was packed.
    """
    where, fix = f"{sample.shard}: {member.name}", verify_command(dataset.url)
    try:
        data = dataset.storage.read(sample.shard, member.offset, member.offset + member.size)
    except StorageError as error:
        raise DamagedError(where, str(error), fix) from error
    if zlib.crc32(data) != member.crc32:
        raise DamagedError(where, f"CRC32 is {zlib.crc32(data):08x}, not {member.crc32:08x} as packed", fix)
    return data
