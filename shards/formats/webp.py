"""WebP, lossless or lossy: nothing transparent, one picture.

A decoder gets only the chunk with the pixels. libwebp is the only implementation, so that all its users give the same
ones.
"""

import io
import struct
from collections.abc import Iterator

import numpy as np

from shards.picture import UnusablePictureError

MAX_SIDE = 16383
"""Pixels."""
ANIMATED = 0x02
"""A flag of the chunk VP8X."""


def read_header(data: memoryview) -> tuple[int, int, int]:
    """Width, height and channels.

    Raises:
        UnusablePictureError: It is damaged there, or none that is read here.
    """
    return _read(data)[:3]


def decode(data: memoryview, rows: int) -> np.ndarray:
    """All pixels, uint8, shape (H, W, 3); `rows` is not used: no part of a WebP can be decoded alone.

    Raises:
        UnusablePictureError: It is damaged, or none that is read here.
    """
    from PIL import Image, features

    del rows
    chunk = _read(data)[3]
    if not features.check("webp"):
        raise UnusablePictureError(
            "this Pillow cannot read WebP; install it with: pip install --upgrade pillow"
        )
    padding = b"\0" * (len(chunk) % 2)
    size = struct.pack("<I", 4 + len(chunk) + len(padding))
    bare = b"".join((b"RIFF", size, b"WEBP", chunk, padding))
    try:
        with Image.open(io.BytesIO(bare), formats=("WEBP",)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UnusablePictureError(f"damaged WebP ({error})") from error


def decoder_name() -> str:
    """What decodes these files here."""
    return "Pillow"


def _read(data: memoryview) -> tuple[int, int, int, memoryview]:
    """Width, height and channels, and all bytes of the chunk with the pixels."""
    canvas = None
    for kind, chunk in _chunks(data):
        content = chunk[8:]
        if kind == b"VP8X":
            canvas = _parse_canvas(content)
        elif kind == b"ALPH":
            raise UnusablePictureError("WebP with an alpha channel; only opaque pictures are read")
        elif kind in (b"VP8 ", b"VP8L"):
            width, height = _parse_lossy(content) if kind == b"VP8 " else _parse_lossless(content)
            if canvas not in (None, (width, height)):
                raise UnusablePictureError(f"damaged WebP: {width}x{height} pixels in a frame of {canvas}")
            return width, height, 3, chunk
    raise UnusablePictureError("WebP without pixels")


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Type and all bytes of each chunk, without the filling byte."""
    if bytes(data[:4]) != b"RIFF" or bytes(data[8:12]) != b"WEBP":
        raise UnusablePictureError("does not begin as a WebP")
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise UnusablePictureError(f"truncated WebP: {len(data)} of {end} bytes")
    start = 12
    while start + 8 <= end:
        stop = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        if stop > end:
            raise UnusablePictureError("damaged WebP: a chunk ends behind the end of the file")
        yield bytes(data[start : start + 4]), data[start:stop]
        start = stop + stop % 2


def _parse_canvas(content: memoryview) -> tuple[int, int]:
    if len(content) < 10:
        raise UnusablePictureError("damaged WebP: its header is too short")
    if content[0] & ANIMATED:
        raise UnusablePictureError("animated WebP; only single pictures are read")
    return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")


def _parse_lossy(content: memoryview) -> tuple[int, int]:
    if len(content) < 10 or content[0] & 1 or bytes(content[3:6]) != b"\x9d\x01\x2a":
        raise UnusablePictureError("damaged WebP: its picture does not begin as one")
    width, height = struct.unpack("<HH", content[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _parse_lossless(content: memoryview) -> tuple[int, int]:
    if len(content) < 5 or content[0] != 0x2F:
        raise UnusablePictureError("damaged WebP: its picture does not begin as one")
    bits = int.from_bytes(content[1:5], "little")
    if bits >> 28 & 1:
        raise UnusablePictureError("WebP with an alpha channel; only opaque pictures are read")
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
