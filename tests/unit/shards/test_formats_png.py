"""PNG files of strangers: every damage is found, and no more is read than the pixels."""

import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from shards.decode import Window, decode_member, picture_header
from shards.formats import png
from shards.formats.png import chunk
from shards.picture import PNG_SIGNATURE, UnusablePictureError
from shards.records import Member
from tests.unit.shards.picture_files import OPTIONAL, decoded, member_of, photo, saved, without


@pytest.fixture(params=["installed", "none"])
def optional_decoders(request: pytest.FixtureRequest) -> Iterator[str]:
    """With the optional decoders, and as if none were installed."""
    with without(*(OPTIONAL if request.param == "none" else ())):
        yield request.param


def idat(lines: bytes) -> bytes:
    return chunk(b"IDAT", zlib.compress(lines))


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2, *rest: int) -> bytes:
    compression, filtering, interlace = rest or (0, 0, 0)
    fields = (width, height, depth, colour, compression, filtering, interlace)
    return chunk(b"IHDR", struct.pack(">IIBBBBB", *fields))


IEND = chunk(b"IEND", b"")
SMALL = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
LINES = b"".join(b"\0" + row.tobytes() for row in SMALL)


def file(*chunks: bytes) -> bytes:
    return PNG_SIGNATURE + b"".join(chunks)


def broken_crc(whole: bytes) -> bytes:
    return whole[:-1] + bytes([whole[-1] ^ 1])


HOSTILE = {
    "no IEND": (file(ihdr(30, 20), idat(LINES)), "truncated PNG"),
    "no IDAT": (file(ihdr(30, 20), IEND), "no IDAT"),
    "a row is missing": (file(ihdr(30, 20), idat(LINES[:-91]), IEND), "hold 1729 bytes, 1820 are needed"),
    "a byte is missing": (file(ihdr(30, 20), idat(LINES[:-1]), IEND), "hold 1819 bytes, 1820 are needed"),
    "nothing compressed": (file(ihdr(30, 20), chunk(b"IDAT", b""), IEND), "hold 0 bytes"),
    "cut stream": (
        file(ihdr(30, 20), chunk(b"IDAT", zlib.compress(LINES)[:900]), IEND),
        r"hold \d+ bytes, 1820 are needed",
    ),
    "no zlib": (file(ihdr(30, 20), chunk(b"IDAT", b"hello, world"), IEND), "compressed data are damaged"),
    "bad IHDR CRC": (file(broken_crc(ihdr(30, 20)), idat(LINES), IEND), "CRC of its chunk IHDR"),
    "bad IDAT CRC": (file(ihdr(30, 20), broken_crc(idat(LINES)), IEND), "CRC of its chunk IDAT"),
    "bad PLTE CRC": (
        file(ihdr(30, 20, 8, 3), broken_crc(chunk(b"PLTE", bytes(9))), idat(bytes(31 * 20)), IEND),
        "CRC of its chunk PLTE",
    ),
    "unknown filter": (file(ihdr(30, 20), idat(b"\5" + LINES[1:]), IEND), "rows cannot be decoded"),
    "unknown filter at the end": (
        file(ihdr(30, 20), idat(LINES[:-91] + b"\7" + LINES[-90:]), IEND),
        "rows cannot be decoded",
    ),
    "two IHDR": (file(ihdr(30, 20), ihdr(30, 20), idat(LINES), IEND), "one IHDR"),
    "no IHDR": (file(idat(LINES), IEND), "one IHDR"),
    "IDAT apart": (
        file(
            ihdr(30, 20),
            chunk(b"IDAT", zlib.compress(LINES)[:100]),
            chunk(b"tEXt", b"a\0b"),
            chunk(b"IDAT", zlib.compress(LINES)[100:]),
            IEND,
        ),
        "between its IDAT",
    ),
    "unknown critical chunk": (file(ihdr(30, 20), chunk(b"ABCD", b""), idat(LINES), IEND), "b'ABCD'"),
    "long chunk": (file(ihdr(30, 20), b"\xff\xff\xff\xf0IDAT" + bytes(100)), "truncated PNG"),
    "short header": (file(chunk(b"IHDR", bytes(12)), idat(LINES), IEND), "12 bytes, not 13"),
    "16 bits": (file(ihdr(30, 20, 16), idat(LINES), IEND), "16 bits a channel"),
    "alpha": (file(ihdr(30, 20, 8, 6), idat(LINES), IEND), "alpha channel"),
    "grey and alpha": (file(ihdr(30, 20, 8, 4), idat(LINES), IEND), "alpha channel"),
    "unknown colour": (file(ihdr(30, 20, 8, 5), idat(LINES), IEND), "do not exist"),
    "4-bit RGB": (file(ihdr(30, 20, 4), idat(LINES), IEND), "do not exist"),
    "unknown interlacing": (file(ihdr(30, 20, 8, 2, 0, 0, 2), idat(LINES), IEND), "do not exist"),
    "unknown compression": (file(ihdr(30, 20, 8, 2, 1, 0, 0), idat(LINES), IEND), "do not exist"),
    "a transparent colour": (
        file(ihdr(30, 20), chunk(b"tRNS", bytes(6)), idat(LINES), IEND),
        "transparent colours",
    ),
    "animated": (file(ihdr(30, 20), chunk(b"acTL", bytes(8)), idat(LINES), IEND), "animated PNG"),
    "no palette": (file(ihdr(30, 20, 8, 3), idat(bytes(31 * 20)), IEND), "no palette"),
    "two palettes": (
        file(ihdr(30, 20, 8, 3), *[chunk(b"PLTE", bytes(9))] * 2, idat(bytes(31 * 20)), IEND),
        "palette",
    ),
    "late palette": (
        file(ihdr(30, 20, 8, 3), idat(bytes(31 * 20)), chunk(b"PLTE", bytes(9)), IEND),
        "palette",
    ),
    "odd palette": (
        file(ihdr(30, 20, 8, 3), chunk(b"PLTE", bytes(10)), idat(bytes(31 * 20)), IEND),
        "palette",
    ),
    "no pixels": (file(ihdr(0, 20), idat(LINES), IEND), "smaller than 1 px"),
    "too many pixels": (file(ihdr(12000, 12000), idat(LINES), IEND), "more than 64 Mpx"),
    "huge": (file(ihdr(2**31 - 1, 2**31 - 1), idat(LINES), IEND), "more than 64 Mpx"),
    "promises too much": (file(ihdr(8000, 8000), idat(LINES), IEND), "hold 1820 bytes, 192008000 are needed"),
}


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_png_files_are_refused_whatever_is_installed(name: str) -> None:
    data, reason = HOSTILE[name]
    width, height = (8000, 8000) if name == "promises too much" else (30, 20)
    member = Member("a", 0, len(data), zlib.crc32(data), "png", "frame", width, height, 3)
    tracemalloc.start()
    try:
        with pytest.raises(UnusablePictureError, match=reason):
            decode_member(data, member, None)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name", ["too many pixels", "huge", "no pixels", "16 bits", "alpha", "a transparent colour"]
)
def test_headers_of_what_is_not_read_are_refused(name: str) -> None:
    data, reason = HOSTILE[name]
    with pytest.raises(UnusablePictureError, match=reason):
        picture_header(data)


@pytest.mark.usefixtures("optional_decoders")
def test_every_truncation_of_a_png_is_refused() -> None:
    data = saved(photo(40, 50), "PNG")
    member = member_of(data)
    for length in [*range(0, len(data), 97), *range(len(data) - 30, len(data))]:
        cut = data[:length]
        with pytest.raises(UnusablePictureError):
            decode_member(cut, replace(member, size=length, crc32=zlib.crc32(cut)), None)


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("where", ["zTXt", "iTXt", "iCCP", "IDAT"])
def test_bombs_behind_small_pictures_are_never_inflated(where: str) -> None:
    bomb = zlib.compress(bytes(20 * 2**20))
    front = {"zTXt": b"a\0\0", "iTXt": b"a\0\1\0\0\0", "iCCP": b"a\0\0"}
    if where == "IDAT":
        stream = zlib.compressobj()
        data = file(
            ihdr(30, 20), chunk(b"IDAT", stream.compress(LINES + bytes(20 * 2**20)) + stream.flush()), IEND
        )
    else:
        data = file(ihdr(30, 20), chunk(where.encode(), front[where] + bomb), idat(LINES), IEND)
    member = member_of(data)
    tracemalloc.start()
    try:
        assert np.array_equal(decode_member(data, member, None), SMALL)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def adam7(rgb: np.ndarray) -> bytes:
    passes = []
    for left, across, top, down in png.ADAM7:
        part = rgb[top::down, left::across]
        if part.size:
            passes += [b"\0" + row.tobytes() for row in part]
    return b"".join(passes)


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("size", [(20, 30), (1, 1), (2, 7), (9, 3), (33, 8)])
def test_interlaced_png(size: tuple[int, int]) -> None:
    height, width = size
    rgb = photo(height, width)
    data = file(ihdr(width, height, 8, 2, 0, 0, 1), idat(adam7(rgb)), IEND)
    assert np.array_equal(decoded(data), rgb)
    assert np.array_equal(decoded(data, Window(height // 2, 0, 1, width)), rgb[height // 2 : height // 2 + 1])


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("width", [30, 31, 1])
def test_grey_and_palette_of_few_bits(depth: int, colour: int, width: int) -> None:
    values = np.random.default_rng(depth).integers(0, 2**depth, (20, width), dtype=np.uint8)
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(20, -1)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    palette = np.random.default_rng(9).integers(0, 256, (2**depth, 3), dtype=np.uint8)
    plte = [chunk(b"PLTE", palette.tobytes())] if colour == 3 else []
    data = file(ihdr(width, 20, depth, colour), *plte, idat(lines), IEND)
    grey = np.repeat((values.astype(int) * 255 // (2**depth - 1)).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(decoded(data), palette[values] if colour == 3 else grey)
    assert picture_header(data)[3] == (3 if colour == 3 else 1)


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("extra", [b"gAMA", b"sRGB", b"eXIf", b"pHYs", b"tEXt"])
def test_other_chunks_change_nothing(extra: bytes) -> None:
    rotated = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    content = {b"gAMA": struct.pack(">I", 100000), b"sRGB": b"\0", b"eXIf": rotated, b"pHYs": bytes(9)}
    data = file(ihdr(30, 20), chunk(extra, content.get(extra, b"a\0b")), idat(LINES), IEND)
    assert np.array_equal(decoded(data), SMALL)


def test_only_the_rows_down_to_the_window_are_inflated() -> None:
    # The rows below are missing: to this index they were never decoded as a whole.
    data = file(ihdr(30, 20), idat(LINES[: 91 * 12]), IEND)
    assert np.array_equal(decoded(data, Window(5, 4, 7, 9)), SMALL[5:12, 4:13])
    with pytest.raises(UnusablePictureError, match="hold 1092 bytes, 1183 are needed"):
        decoded(data, Window(5, 4, 8, 9))
