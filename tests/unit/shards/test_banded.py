"""A banded PNG is a PNG for everybody, and decodes in parts to the same pixels; only proved files count as one."""

import hashlib
import io
import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyspng
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.banded import encode_banded, find_bands, raw_bands
from shards.decode import Window, decode_member, span_of
from shards.formats.png import chunk
from shards.picture import PNG_SIGNATURE, UnusablePictureError
from shards.records import Band, Member


def waves(height: int, width: int, noise: float = 3.0) -> np.ndarray:
    """Smooth and a little noisy, as photographs are."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([127 + 90 * np.sin(x / 17 + y / (9 + c)) for c in range(3)], axis=2)
    return (smooth + np.random.default_rng(0).normal(0, noise, smooth.shape)).clip(0, 255).astype(np.uint8)


def member_of(data: bytes, rgb: np.ndarray, band_height: int, bands: tuple[Band, ...]) -> Member:
    height, width, channels = rgb.shape
    return Member(
        "a.png", 0, len(data), zlib.crc32(data), "png", "frame", width, height, channels, band_height, bands
    )


def read_by_others(data: bytes) -> dict[str, np.ndarray]:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return {
        "Pillow": np.asarray(Image.open(io.BytesIO(data))),
        "cv2": found[..., ::-1],
        "pyspng": pyspng.load(data),
    }


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    band_height=st.sampled_from([1, 2, 7, 16, 64, 200]),
    level=st.sampled_from([1, 6, 9]),
    seed=st.integers(0, 2**31),
)
def test_everybody_reads_the_same_pixels(
    height: int, width: int, band_height: int, level: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, rng.choice([2, 20, 256]), (height, width, 3), dtype=np.uint8)
    data, bands = encode_banded(rgb, band_height=band_height, level=level)
    for reader, found in read_by_others(data).items():
        assert np.array_equal(found, rgb), reader
    assert len(bands) == -(-height // band_height)
    member = member_of(data, rgb, band_height, bands)
    assert np.array_equal(decode_member(data, member, None), rgb)
    top, left = int(rng.integers(height)), int(rng.integers(width))
    window = Window(top, left, int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1)))
    start, stop = span_of(member, window)
    expected = rgb[top : top + window.height, left : left + window.width]
    assert np.array_equal(decode_member(data[start:stop], member, window), expected)
    assert find_bands(data) == (min(band_height, height), bands)


def test_only_the_bands_of_the_window_are_asked_for() -> None:
    rgb = waves(200, 50)
    data, bands = encode_banded(rgb, band_height=64)
    member = member_of(data, rgb, 64, bands)
    starts = [band.start for band in bands]
    assert span_of(member, Window(64, 0, 64, 50)) == (starts[1], starts[2])
    assert span_of(member, Window(63, 0, 2, 1)) == (starts[0], starts[2])
    assert span_of(member, Window(199, 49, 1, 1)) == (starts[3], len(data) - 12)
    assert span_of(member, None) == (0, len(data))


def test_equal_pixels_give_equal_bytes_on_every_machine() -> None:
    if "ng" in zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip("zlib-ng compresses to other bytes")
    y, x = np.mgrid[:150, :90]
    flat = np.stack([x * y // 64, x + y, (x // 8) * 16], axis=2).astype(np.uint8)
    grain = ((x * 7919 + y * 104729) * 2654435761 >> 16 & 7).astype(np.uint8)
    data, _ = encode_banded(flat + grain[..., None])
    assert (
        hashlib.sha256(data).hexdigest() == "f5c7e8d56cb3e1c9d1247429a656589f1b80f89ffaec6feb75e5bc487b106bba"
    )


def test_each_band_takes_the_shorter_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    # The top repeats itself at a distance, the bottom is noise.
    rng = np.random.default_rng(0)
    tile = np.repeat(rng.integers(0, 256, (1, 20, 3), dtype=np.uint8), 64, axis=0)
    noise = rng.normal(128, 4, (64, 200, 3)).astype(np.uint8)
    rgb = np.concatenate([np.tile(tile, (1, 10, 1)), noise])
    both = len(encode_banded(rgb)[0])
    alone = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE):
        monkeypatch.setattr("shards.banded.STRATEGIES", (strategy,))
        alone.append(len(encode_banded(rgb)[0]))
    assert both < min(alone)


@pytest.mark.parametrize(("name", "limit"), [("coffee.png", 1.08), ("chelsea.png", 1.08), ("page.png", 1.05)])
def test_it_is_hardly_larger_than_a_usual_png(name: str, limit: float) -> None:
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        rgb = np.asarray(image.convert("RGB"))[:256]
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    assert len(encode_banded(rgb)[0]) < limit * len(buffer.getvalue())


def test_usual_files_are_not_banded() -> None:
    rgb = waves(100, 300)
    files: list[bytes] = []
    for options in ({}, {"optimize": True}, {"compress_level": 0}):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "PNG", **options)
        files.append(buffer.getvalue())
    files.append(cv2.imencode(".png", rgb)[1].tobytes())
    banded = encode_banded(rgb)[0]
    files += [b"", PNG_SIGNATURE, banded[:-1], banded[: len(banded) // 2], banded + b"x"]
    text = chunk(b"tEXt", b"a\0b")
    files.append(banded[:33] + text + banded[33:])
    files.append(banded[:-12] + chunk(b"teXt", b""))
    for data in files:
        assert find_bands(data) is None


def parts_of(rgb: np.ndarray, band_height: int) -> tuple[bytes, list[bytes]]:
    """What precedes the bands of a banded PNG, and the contents of their chunks."""
    data, bands = encode_banded(rgb, band_height=band_height)
    edges = [band.start for band in bands] + [len(data) - 12]
    return data[: edges[0]], [data[a + 8 : b - 4] for a, b in itertools.pairwise(edges)]


def assembled(front: bytes, contents: list[bytes]) -> bytes:
    return front + b"".join(chunk(b"IDAT", content) for content in contents) + chunk(b"IEND", b"")


def banded_member(data: bytes, front: bytes, contents: list[bytes], rgb: np.ndarray) -> Member:
    """As a careless index would have it."""
    starts = [len(front)]
    for content in contents:
        starts.append(starts[-1] + 12 + len(content))
    bands = tuple(Band(a, zlib.crc32(data[a:b])) for a, b in itertools.pairwise(starts))
    return member_of(data, rgb, 32, bands)


def early_end(contents: list[bytes]) -> list[bytes]:
    """Whoever reads on from the begin stops behind the first band."""
    lines = zlib.decompressobj().decompress(contents[0])
    end = b"\x01\x00\x00\xff\xff"
    first = contents[0][:-5] + end + struct.pack(">I", zlib.adler32(lines)) + end
    return [first, *contents[1:]]


def one_row_more(contents: list[bytes]) -> list[bytes]:
    """Whoever reads on from the begin finds a row between the second band and the third."""
    lines = [zlib.decompressobj().decompress(contents[0]), zlib.decompressobj(-15).decompress(contents[1])]
    lines += [b"\0" + b"\xff" * 120, zlib.decompressobj(-15).decompress(contents[2])]
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    second = stream.compress(lines[1] + lines[2]) + stream.flush(zlib.Z_FULL_FLUSH)
    return [contents[0], second, contents[2][:-4] + struct.pack(">I", zlib.adler32(b"".join(lines)))]


@pytest.mark.parametrize("trick", [early_end, one_row_more])
def test_a_file_that_means_something_else_in_parts_is_not_banded(
    trick: Callable[[list[bytes]], list[bytes]],
) -> None:
    rgb = waves(96, 40)
    front, contents = parts_of(rgb, 32)
    assert find_bands(assembled(front, contents)) is not None
    tricked = trick(contents)
    data = assembled(front, tricked)
    assert np.array_equal(decode_member(data, banded_member(data, front, tricked, rgb), None), rgb)
    assert not np.array_equal(np.asarray(Image.open(io.BytesIO(data))), rgb)
    assert find_bands(data) is None


def test_bands_that_lean_on_others_are_not_banded() -> None:
    rgb = np.tile(waves(8, 40), (12, 1, 1))
    lines = np.concatenate([np.zeros((96, 1), np.uint8), rgb.reshape(96, -1)], axis=1)
    lines[1:, 1:] -= lines[:-1, 1:].copy()
    lines[:, 0] = 2
    lines[::32, 0] = 0
    lines[::32, 1:] = rgb[::32].reshape(3, -1)
    stream = zlib.compressobj(6)
    # A sync flush, unlike a full one, lets the next band refer to this one.
    contents = [
        stream.compress(lines[y : y + 32].tobytes()) + stream.flush(zlib.Z_SYNC_FLUSH) for y in (0, 32)
    ]
    contents.append(stream.compress(lines[64:].tobytes()) + stream.flush())
    data = assembled(parts_of(rgb, 32)[0], contents)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), rgb)
    assert find_bands(data) is None


def test_other_filters_are_not_taken_for_bands() -> None:
    rgb = waves(64, 40)
    lines = np.concatenate([np.full((64, 1), 0, np.uint8), rgb.reshape(64, -1)], axis=1)
    front = parts_of(rgb, 32)[0]
    stream = zlib.compressobj(6)
    contents = [stream.compress(lines[:32].tobytes()) + stream.flush(zlib.Z_FULL_FLUSH)]
    contents.append(stream.compress(lines[32:].tobytes()) + stream.flush())
    data = assembled(front, contents)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), rgb)
    assert find_bands(data) is None


def test_a_bomb_is_no_banded_picture() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0))
    front = PNG_SIGNATURE + header
    assert find_bands(assembled(front, [zlib.compress(bytes(10**6))])) is None
    # 100 MB in the first of two bands, of a picture with rows of 4 bytes.
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 20, 8, 2, 0, 0, 0))
    stream = zlib.compressobj(9)
    first = stream.compress(bytes(10**8)) + stream.flush(zlib.Z_FULL_FLUSH)
    assert find_bands(assembled(PNG_SIGNATURE + header, [first, stream.flush()])) is None


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(50, 9, 3), (16, 9, 3), (1, 1, 3), (33, 7)])
def test_arrays_have_bands_without_being_made_so(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = npy_bytes(array)
    band_height, bands = raw_bands(data)
    assert find_bands(data) == (band_height, bands)
    assert band_height == min(16, shape[0])
    row_bytes = array[0].nbytes
    assert [band.start for band in bands] == list(range(128, len(data), band_height * row_bytes))
    assert bands[-1].crc32 == zlib.crc32(data[bands[-1].start :])


def test_a_very_tall_array_has_no_more_bands_than_the_index_can_hold() -> None:
    data = npy_bytes(np.zeros((2_000_000, 1), np.uint8))
    band_height, bands = raw_bands(data)
    assert len(bands) <= 65535
    assert band_height * len(bands) >= 2_000_000


def test_an_array_that_is_no_picture_has_no_bands() -> None:
    data = npy_bytes(np.zeros((4, 4), np.float32))
    assert find_bands(data) is None
    with pytest.raises(UnusablePictureError, match="<f4"):
        raw_bands(data)
