"""Banded PNG: a standard PNG, read by everybody, of which some rows can be decoded without those above them.

Every row is stored as the difference from the row above it, but the first of each band as it is; each band is an IDAT
chunk of its own, compressed without reference to the bands before it. `shards.decode` reads single bands, of members
only that were written here or certified by `find_bands`: a file made on purpose can decode differently in parts.
"""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np

from shards.decode import FILTER_NONE, FILTER_UP, decode_member
from shards.formats import npy
from shards.formats.png import RGB, Header, chunk, header_chunk, read_header
from shards.inflate import crc32
from shards.picture import PNG_SIGNATURE, UnusablePictureError
from shards.records import Band, Member

BAND_HEIGHT = 64
"""Rows. Fewer cost disk: 32 rows 2 % more than 64, and 128 rows 1 % less but a third more time for a small patch."""
RAW_BAND_HEIGHT = 16
"""Rows of an uncompressed array that are checked together: costs no disk worth naming."""
LEVEL = 6
STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE)
"""Each band is stored in the shorter of the two: repetitions help pictures without noise, and harm those with it."""
MAX_BANDS = 65535
"""What the index can hold; the same for rows of a band."""
END = chunk(b"IEND", b"")
HEADER_BYTES = len(PNG_SIGNATURE) + 25


def encode_banded(
    rgb: np.ndarray, *, band_height: int = BAND_HEIGHT, level: int = LEVEL
) -> tuple[bytes, tuple[Band, ...]]:
    """A banded PNG.

    Only the zlib of the standard library compresses here, whatever else is installed, so that equal pixels give equal
    bytes on all machines whose Python has the same zlib. One that is built with zlib-ng (see
    `zlib.ZLIB_RUNTIME_VERSION`) makes other bytes of the same pixels.

    Args:
        rgb: uint8, shape (H, W, 3).
        band_height: Rows of each band, the last of which may have fewer.
        level: Of zlib, 1 to 9.

    Returns:
        The bytes, and where the bands lie in them.
    """
    height, width, _channels = rgb.shape
    lines = _filtered(rgb, band_height)
    parts = [PNG_SIGNATURE, header_chunk(Header(width, height, 8, RGB, interlaced=False))]
    bands: list[Band] = []
    position = sum(map(len, parts))
    for top in range(0, height, band_height):
        last = top + band_height >= height
        content = _compressed(lines[top : top + band_height], level, last=last)
        if top == 0:
            content = b"\x78\x9c" + content
        if last:
            content += struct.pack(">I", zlib.adler32(lines.data))
        parts.append(chunk(b"IDAT", content))
        bands.append(Band(position, crc32(parts[-1])))
        position += len(parts[-1])
    return b"".join([*parts, END]), tuple(bands)


def raw_bands(data: bytes | memoryview) -> tuple[int, tuple[Band, ...]]:
    """Rows of a band, and the bands of a NumPy file, which has no compression: any such file can be read in parts.

    Raises:
        UnusablePictureError: It holds no picture.
    """
    data = memoryview(data)
    width, height, channels, start = npy.read_layout(data)
    # A picture that is very tall has higher bands.
    band_height = min(height, max(RAW_BAND_HEIGHT, -(-height // MAX_BANDS)))
    step = band_height * width * channels
    starts = range(start, len(data), step)
    return band_height, tuple(Band(at, crc32(data[at : at + step])) for at in starts)


def find_bands(data: bytes | memoryview) -> tuple[int, tuple[Band, ...]] | None:
    """Rows of a band, and the bands of somebody's file, if it can be read in parts.

    Proved by decoding: a PNG counts only if its bands give exactly what Pillow gives for the whole file.

    Returns:
        None where it is another kind of file, not banded, or damaged.
    """
    data = memoryview(data)
    try:
        if bytes(data[: len(npy.MAGIC)]) == npy.MAGIC:
            return raw_bands(data)
        found = _trial(data)
        if found is None:
            return None
        parts = decode_member(data, found, None)
        # The plain decoder checks what bands do not need, such as the checksums of the chunks.
        whole = decode_member(data, replace(found, band_height=0, bands=()), None)
    except UnusablePictureError:
        return None
    is_same = np.array_equal(parts, whole) and np.array_equal(parts, _by_pillow(data))
    return (found.band_height, found.bands) if is_same else None


def _filtered(rgb: np.ndarray, band_height: int) -> np.ndarray:
    height, width, channels = rgb.shape
    rows = rgb.reshape(height, width * channels)
    lines = np.empty((height, 1 + width * channels), np.uint8)
    lines[:, 0] = FILTER_UP
    np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    lines[::band_height, 0] = FILTER_NONE
    lines[::band_height, 1:] = rows[::band_height]
    return lines


def _compressed(lines: np.ndarray, level: int, *, last: bool) -> bytes:
    found: list[bytes] = []
    for strategy in STRATEGIES:
        stream = zlib.compressobj(level, zlib.DEFLATED, -15, zlib.DEF_MEM_LEVEL, strategy)
        # A full flush ends at a whole byte, and nothing behind it refers to anything before it.
        found.append(stream.compress(lines.data) + stream.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH))
    return min(found, key=len)


def _trial(data: memoryview) -> Member | None:
    """The member that the file is, if it has the layout of a banded PNG; its pixels are not compared yet."""
    width, height, channels = read_header(data)
    starts = _idat_starts(data)
    if not starts or len(starts) > MAX_BANDS:
        return None
    stops = [*starts[1:], len(data) - len(END)]
    bands = tuple(Band(a, crc32(data[a:b])) for a, b in zip(starts, stops, strict=True))
    first = data[starts[0] : stops[0]]
    band_height = height if len(starts) == 1 else _first_height(first, 1 + width * channels, height)
    if not 0 < band_height <= MAX_BANDS or -(-height // band_height) != len(starts):
        return None
    return Member("", 0, len(data), crc32(data), "png", "frame", width, height, channels, band_height, bands)


def _idat_starts(data: memoryview) -> list[int]:
    """Where the IDAT chunks begin, if the file is IHDR, IDAT chunks and IEND; else nothing."""
    starts: list[int] = []
    at, end = HEADER_BYTES, len(data) - len(END)
    while at < end and bytes(data[at + 4 : at + 8]) == b"IDAT":
        starts.append(at)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return starts if at == end and bytes(data[end:]) == END else []


def _first_height(whole: memoryview, line_bytes: int, height: int) -> int:
    """Rows of the first of several bands; 0 where it does not end at a row."""
    content = whole[10:-4]
    if bytes(content[-4:]) != b"\0\0\xff\xff":  # A flush ends so; nearly all other files are told apart here.
        return 0
    length = _inflated_length(content, height * line_bytes)
    return 0 if length % line_bytes else length // line_bytes


def _inflated_length(content: memoryview, limit: int) -> int:
    stream = zlib.decompressobj(-15)
    length = 0
    rest: bytes | memoryview = content
    try:
        while rest and length < limit:
            part = stream.decompress(rest, 2**20)
            length += len(part)
            rest = stream.unconsumed_tail
    except zlib.error:
        return 0
    return length


def _by_pillow(data: memoryview) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return np.empty(0)
