"""Inflating and checksums, by isal where it is installed, which takes half of the time, else by zlib.

Both give the same bytes wherever both accept a stream. What isal refuses, zlib decides; a few broken streams that zlib
refuses isal accepts (incomplete Huffman codes), which no known writer makes and no change of a byte leads to, since
all bytes are checked before. Compressing is not here: its result would depend on what is installed.
"""

import functools
import zlib
from collections.abc import Sequence
from types import ModuleType

from shards.picture import UnusablePictureError


@functools.cache
def backend() -> ModuleType:
    """The module in use; both offer the same functions."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


def crc32(data: bytes | memoryview, before: int = 0) -> int:
    """CRC32 of `data`, or of all so far where `before` is that of what comes before it."""
    return backend().crc32(data, before)


def inflate(pieces: Sequence[bytes | memoryview], size: int, *, wrapped: bool) -> bytes:
    """The first `size` bytes of a compressed stream; no more than these are ever made.

    Args:
        pieces: The stream, in order.
        size: How many bytes are needed.
        wrapped: Whether the stream is of zlib's format, with two bytes in front; else it is bare.

    Raises:
        UnusablePictureError: The stream is damaged, or holds less.
    """
    try:
        found = _inflate(backend(), pieces, size, wrapped)
    except (zlib.error, backend().error):
        try:
            found = _inflate(zlib, pieces, size, wrapped)
        except zlib.error as error:
            raise UnusablePictureError(f"its compressed data are damaged ({error})") from error
    if len(found) < size:
        raise UnusablePictureError(f"its compressed data hold {len(found)} bytes, {size} are needed")
    return found


def _inflate(module: ModuleType, pieces: Sequence[bytes | memoryview], size: int, wrapped: bool) -> bytes:
    stream = module.decompressobj(15 if wrapped else -15)
    found: list[bytes] = []
    missing = size
    for piece in pieces:
        if missing == 0 or stream.eof:
            break
        found.append(stream.decompress(piece, missing))
        missing -= len(found[-1])
    return found[0] if len(found) == 1 else b"".join(found)
