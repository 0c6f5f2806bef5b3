"""Clips of a data set as pixels: only the bytes that a crop needs are read, and every one is checked."""

import zlib
from dataclasses import dataclass

import numpy as np

from shards.decode import Window, decode_member, span_of
from shards.manifest import DamagedError, Dataset, verify_command
from shards.picture import UnusablePictureError
from shards.records import Member, Sample
from shards.storage.errors import StorageError
from shards.storage.local import LocalStorage

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
        ValueError: It cannot be had over the network.
    """
    members = [member for member in sample.members if member.role == role]
    if not members:
        raise ValueError(f"{sample.shard}: {sample.key}: holds no pictures of role {role!r}")
    spans: list[_Span] = []
    for member in members:
        start, stop = span_of(member, window)
        spans.append(_Span(member, member.offset + start, member.offset + stop))
    frames = np.empty(0, np.uint8)
    number = 0
    for group in _groups(spans):
        data = memoryview(_read(dataset, sample, group))
        for span in group:
            part = data[span.start - group[0].start : span.stop - group[0].start]
            pixels = _decode(dataset, sample, span, part, window)
            if number == 0:
                # Not earlier: an index may claim any size, which decoding the first one has proved.
                frames = np.empty((len(members), 3, *pixels.shape[:2]), np.uint8)
            elif pixels.shape[:2] != frames.shape[2:]:
                where = f"{sample.shard}: {span.member.name}"
                raise DamagedError(where, "not of the size of the others", verify_command(dataset.url))
            frames[number] = pixels.transpose(2, 0, 1)
            number += 1
    return frames


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
    names = group[0].member.name if len(group) == 1 else f"{group[0].member.name} and the frames behind it"
    return _bytes(dataset, sample, names, group[0].start, group[-1].stop)


def _bytes(dataset: Dataset, sample: Sample, what: str, start: int, stop: int) -> bytes:
    where = f"{sample.shard}: {what}"
    try:
        return dataset.storage.read(sample.shard, start, stop)
    except StorageError as error:
        if isinstance(dataset.storage, LocalStorage):
            raise DamagedError(where, str(error), verify_command(dataset.url)) from error
        # A network that is down is no damage, and no reason to train on other clips.
        raise ValueError(
            f"{where}: {error}; once that place is in order, the same command continues"
        ) from error


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
        DamagedError: They are not what was packed.
        ValueError: They cannot be had over the network.
    """
    data = _bytes(dataset, sample, member.name, member.offset, member.offset + member.size)
    if zlib.crc32(data) != member.crc32:
        what = f"CRC32 is {zlib.crc32(data):08x}, not {member.crc32:08x} as packed"
        raise DamagedError(f"{sample.shard}: {member.name}", what, verify_command(dataset.url))
    return data
