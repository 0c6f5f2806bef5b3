"""Proves one member of a tar against the index: checksum, header, bands, and if wanted its pixels."""

import os
from collections.abc import Iterator

from shards.banded import find_bands
from shards.decode import PNG_END_BYTES, decode_member, picture_header
from shards.inflate import crc32
from shards.picture import UnusablePictureError
from shards.records import Member
from shards.survey import CHUNK, MAX_PICTURE_BYTES


class MismatchError(Exception):
    """A member that is not what the index says. Its text is what was found."""


def prove_member(descriptor: int, member: Member, *, deep: bool, expected: bytes | None = None) -> None:
    """Reads a member again.

    Args:
        descriptor: Of its tar, which must reach beyond the member.
        member: What the index says of it.
        deep: Decode a picture as well, and a banded one also as a whole, by Pillow.
        expected: The bytes it must have; None: any with the right checksum.

    Raises:
        MismatchError: It is damaged, or differs from the index.
    """
    is_picture = member.role != "other"
    if is_picture and member.size > MAX_PICTURE_BYTES:
        raise MismatchError(f"{member.size} bytes are too many for a picture")
    checksum = 0
    data = bytearray()
    for chunk in _chunks(descriptor, member):
        checksum = crc32(chunk, checksum)
        if is_picture:
            data += chunk
    if checksum != member.crc32:
        raise MismatchError(f"CRC32 is {checksum:08x}, not {member.crc32:08x} as in the index")
    if expected is not None and crc32(expected) != checksum:
        raise MismatchError("its JSON is not what the index says of the sample")
    if is_picture:
        try:
            _prove_picture(bytes(data), member, deep=deep)
        except UnusablePictureError as error:
            raise MismatchError(str(error)) from error


def _chunks(descriptor: int, member: Member) -> Iterator[bytes]:
    """The bytes of a member, a piece at a time."""
    stop = member.offset + member.size
    for start in range(member.offset, stop, CHUNK):
        wanted = min(CHUNK, stop - start)
        chunk = os.pread(descriptor, wanted, start)
        if len(chunk) < wanted:
            raise MismatchError(f"truncated: ends at byte {start + len(chunk)}, {stop} are needed")
        yield chunk


def _prove_picture(data: bytes, member: Member, *, deep: bool) -> None:
    header = picture_header(data)
    if header != (member.kind, member.width, member.height, member.channels):
        kind, width, height, channels = header
        raise MismatchError(
            f"is {kind} of {width}x{height}x{channels}, the index says {member.kind} of "
            f"{member.width}x{member.height}x{member.channels}"
        )
    end = member.size - PNG_END_BYTES if member.kind == "png" else member.size
    stops = [*(band.start for band in member.bands[1:]), end]
    for band, stop in zip(member.bands, stops, strict=False):
        if crc32(data[band.start : stop]) != band.crc32:
            raise MismatchError(f"the index has another checksum for the band at byte {band.start}")
    if deep:
        _prove_pixels(data, member)


def _prove_pixels(data: bytes, member: Member) -> None:
    decode_member(data, member, None)
    # A hostile file can look different in parts and as a whole; this decodes both and compares.
    if member.bands and find_bands(data) != (member.band_height, member.bands):
        raise MismatchError(
            "the index has other bands than the picture, or they give other pixels than the whole"
        )
