"""PNG: 8 bits or fewer a channel, grey, RGB or palette, nothing transparent, one picture.

The container is read here, and the compressed data are inflated here, up to the last row that is needed. A decoder
gets a PNG made anew of just these rows, stored without compression: no other chunk of a stranger's file reaches it, all
decoders refuse the same files, and the whole takes less time than they do.
"""

import functools
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shards.inflate import backend, crc32, inflate
from shards.picture import PNG_SIGNATURE, UnusablePictureError

GREY, RGB, PALETTE = 0, 2, 3
"""Types of colour."""
DEPTHS = {GREY: (1, 2, 4, 8), RGB: (8,), PALETTE: (1, 2, 4, 8)}
"""Bits of a channel that are read, by type of colour."""
MAX_STORED = 65535
"""Bytes of a block without compression."""
ADAM7 = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
"""First column and step, first row and step of each pass of an interlaced picture."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the IHDR chunk says."""

    width: int
    height: int
    depth: int
    """Bits of a channel."""
    colour: int
    """One of `DEPTHS`."""
    interlaced: bool

    @property
    def channels(self) -> int:
        """Of the decoded picture."""
        return 1 if self.colour == GREY else 3


@dataclass(frozen=True, slots=True)
class _Contents:
    header: Header
    palette: memoryview | None
    """The whole PLTE chunk."""
    compressed: list[memoryview]
    """The contents of the IDAT chunks."""


def read_header(data: memoryview) -> tuple[int, int, int]:
    """Width, height and channels; reads up to the first IDAT chunk.

    Raises:
        UnusablePictureError: It is damaged there, or none that is read here.
    """
    header = None
    for kind, chunk in _chunks(data):
        header = _accept(kind, chunk, header)
        if kind == b"IDAT":
            return header.width, header.height, header.channels
    raise UnusablePictureError("PNG without pixels (no IDAT chunk)")


def decode(data: memoryview, rows: int) -> np.ndarray:
    """Pixels of at least the first `rows` rows, uint8, shape (H, W, 3).

    Raises:
        UnusablePictureError: It is damaged, or none that is read here.
    """
    contents = _read(data)
    header = contents.header
    # The rows of an interlaced picture lie in seven passes.
    height = header.height if header.interlaced else min(rows, header.height)
    lines = inflate(contents.compressed, _line_bytes(header, height), wrapped=True)
    bare = _bare_png(header, height, contents.palette, lines)
    del lines
    rgb = _unfilter(bare)
    if rgb.shape != (height, header.width, 3):
        raise UnusablePictureError(
            f"PNG decoder gave the shape {rgb.shape} for {header.width}x{height} pixels"
        )
    return rgb


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    checksum = crc32(content, crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))


def header_chunk(header: Header) -> bytes:
    """The IHDR chunk."""
    fields = (header.width, header.height, header.depth, header.colour, 0, 0, header.interlaced)
    return chunk(b"IHDR", struct.pack(">IIBBBBB", *fields))


def decoder_name() -> str:
    """What decodes these files here."""
    inflater = "zlib" if backend().__name__ == "zlib" else "isal"
    return f"{inflater} + {'Pillow' if _pyspng() is None else 'pyspng'}"


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Type and all bytes of each chunk, up to the last."""
    if bytes(data[: len(PNG_SIGNATURE)]) != PNG_SIGNATURE:
        raise UnusablePictureError("does not begin as a PNG")
    start, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        kind = bytes(data[start + 4 : start + 8])
        stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if len(kind) < 4 or stop > len(data):
            raise UnusablePictureError(f"truncated PNG: {len(data)} bytes end before its last chunk (IEND)")
        yield kind, data[start:stop]
        start = stop


def _read(data: memoryview) -> _Contents:
    header, palette, compressed, previous = None, None, [], b""
    for kind, whole in _chunks(data):
        header = _accept(kind, whole, header)
        if kind == b"PLTE":
            if palette is not None or compressed or len(whole) not in range(15, 12 + 769, 3):
                raise UnusablePictureError(
                    "damaged PNG: its palette is too short or long, or not where it belongs"
                )
            palette = whole
        elif kind == b"IDAT":
            if compressed and previous != b"IDAT":
                raise UnusablePictureError("PNG with other chunks between its IDAT chunks")
            _check_crc(kind, whole)
            compressed.append(whole[8:-4])
        previous = kind
    assert header is not None, "the loop ends behind IEND"
    if not compressed:
        raise UnusablePictureError("PNG without pixels (no IDAT chunk)")
    if header.colour != PALETTE:
        return _Contents(header, None, compressed)
    if palette is None:
        raise UnusablePictureError("damaged PNG: it has no palette, which its header announces")
    return _Contents(header, palette, compressed)


def _accept(kind: bytes, whole: memoryview, header: Header | None) -> Header:
    """Refuses a chunk that changes what the pixels mean; returns the header so far."""
    if (header is None) != (kind == b"IHDR"):
        raise UnusablePictureError("PNG that does not begin with one IHDR chunk")
    if header is None:
        _check_crc(kind, whole)
        return _parse_header(whole[8:-4])
    if kind == b"PLTE":
        _check_crc(kind, whole)
    elif kind == b"tRNS":
        raise UnusablePictureError("PNG with transparent colours; only opaque pictures are read")
    elif kind == b"acTL":
        raise UnusablePictureError("animated PNG; only single pictures are read")
    elif kind not in (b"IDAT", b"IEND") and not kind[0] & 0x20:
        raise UnusablePictureError(f"PNG with an unknown part that it says is needed ({kind!r})")
    return header


def _check_crc(kind: bytes, whole: memoryview) -> None:
    if crc32(whole[4:-4]) != int.from_bytes(whole[-4:], "big"):
        raise UnusablePictureError(f"damaged PNG: the CRC of its chunk {kind.decode('ascii')} is wrong")


def _parse_header(content: memoryview) -> Header:
    if len(content) != 13:
        raise UnusablePictureError(f"damaged PNG: its header has {len(content)} bytes, not 13")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", content)
    if depth == 16:
        raise UnusablePictureError("PNG with 16 bits a channel; only 8-bit pictures are read")
    if colour in (4, 6):
        raise UnusablePictureError("PNG with an alpha channel; only opaque pictures are read")
    if depth not in DEPTHS.get(colour, ()) or (compression, filtering) != (0, 0) or interlace > 1:
        raise UnusablePictureError("damaged PNG: its header holds values that do not exist")
    return Header(width, height, depth, colour, interlace == 1)


def _line_bytes(header: Header, height: int) -> int:
    """Bytes of all lines with the filter's byte before each."""
    bits = header.depth * header.channels if header.colour != PALETTE else header.depth
    passes = [(header.width, height)]
    if header.interlaced:
        passes = [
            (-(-(header.width - left) // across), -(-(height - top) // down))
            for left, across, top, down in ADAM7
        ]
    return sum(h * (1 + (w * bits + 7) // 8) for w, h in passes if w > 0 and h > 0)


def _bare_png(header: Header, height: int, palette: memoryview | None, lines: bytes) -> bytes:
    """A PNG of the given lines, not compressed."""
    view = memoryview(lines)
    content: list[bytes | memoryview] = [b"\x78\x01"]
    for start in range(0, len(lines), MAX_STORED):
        block = view[start : start + MAX_STORED]
        last = start + MAX_STORED >= len(lines)
        content += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    content.append(struct.pack(">I", backend().adler32(lines)))
    checksum = crc32(b"IDAT")
    for part in content:
        checksum = crc32(part, checksum)
    rows = Header(header.width, height, header.depth, header.colour, header.interlaced)
    front = [PNG_SIGNATURE, header_chunk(rows), palette or b""]
    begin = struct.pack(">I", sum(map(len, content))) + b"IDAT"
    return b"".join([*front, begin, *content, struct.pack(">I", checksum), chunk(b"IEND", b"")])


def _unfilter(bare: bytes) -> np.ndarray:
    fast = _pyspng()
    if fast is not None:
        try:
            return fast(bare, "RGB")
        except (RuntimeError, ValueError):
            pass  # What it complains of, Pillow decides: the result must not depend on what is installed.
    return _by_pillow(bare)


def _by_pillow(bare: bytes) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(bare), formats=("PNG",)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UnusablePictureError("damaged PNG: its rows cannot be decoded") from error


@functools.cache
def _pyspng() -> Callable[[bytes, str], np.ndarray] | None:
    try:
        import pyspng
    except ImportError:
        return None
    return pyspng.load
