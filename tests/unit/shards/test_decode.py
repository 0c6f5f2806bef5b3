"""Only checked bytes are decoded, only those that are needed, and to the same pixels whatever is installed."""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from shards.decode import Window, available_decoders, decode_member, picture_header, span_of
from shards.formats.png import chunk
from shards.picture import PNG_SIGNATURE, UnusablePictureError
from shards.records import Band, Member
from tests.unit.shards.picture_files import (
    EXAMPLES,
    OPTIONAL,
    example,
    forget_decoders,
    member_of,
    photo,
    saved,
    without,
)


@pytest.fixture(params=["installed", "none"])
def optional_decoders(request: pytest.FixtureRequest) -> Iterator[str]:
    """With the optional decoders, and as if none were installed."""
    with without(*(OPTIONAL if request.param == "none" else ())):
        yield request.param


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_kind_and_every_window_of_it(name: str) -> None:
    data, member, expected = example(name)
    assert np.array_equal(decode_member(data, member, None), expected)
    height, width = expected.shape[:2]
    rng = np.random.default_rng(0)
    corners = [Window(0, 0, 1, 1), Window(height - 1, width - 1, 1, 1), Window(0, 0, height, width)]
    for _ in range(12):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        size = int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))
        corners.append(Window(top, left, *size))
    for window in corners:
        start, stop = span_of(member, window)
        found = decode_member(memoryview(data)[start:stop], member, window)
        bottom, right = window.top + window.height, window.left + window.width
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected[window.top : bottom, window.left : right]), window


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_changed_byte_is_found_before_decoding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, member, _ = example(name)
    window = Window(40, 3, 20, 9)
    spans = [(None, *span_of(member, None)), (window, *span_of(member, window))]
    for module in ("png", "jpeg", "webp", "npy"):
        monkeypatch.setattr(f"shards.formats.{module}.decode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("shards.decode.inflate", lambda *_, **__: pytest.fail("inflated"))
    rng = np.random.default_rng(0)
    for chosen, start, stop in spans:
        # In a window of several bands the sound ones may be decoded before the damaged one is reached.
        places = {start, stop - 1, *map(int, rng.integers(start, stop, 20))} if chosen is None else {start}
        for place in places:
            bent = bytearray(data[start:stop])
            bent[place - start] ^= 1 << int(rng.integers(8))
            with pytest.raises(UnusablePictureError, match=r"damaged: the CRC32 .*is [0-9a-f]{8}, not"):
                decode_member(bytes(bent), member, chosen)


@pytest.mark.parametrize("name", ["banded", "raw"])
def test_every_changed_byte_of_the_bands_of_a_window_is_found(name: str) -> None:
    data, member, _ = example(name)
    window = Window(40, 3, 60, 9)
    start, stop = span_of(member, window)
    assert stop - start < len(data) / 1.5
    for place in range(start, stop, max(1, (stop - start) // 50)):
        bent = bytearray(data[start:stop])
        bent[place - start] ^= 4
        with pytest.raises(UnusablePictureError, match=r"CRC32 of the rows from \d+ on"):
            decode_member(bytes(bent), member, window)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("window", [None, Window(40, 3, 60, 9)])
def test_another_number_of_bytes_is_refused(name: str, window: Window | None) -> None:
    data, member, _ = example(name)
    start, stop = span_of(member, window)
    for found in (data[start : stop - 1], data[start:stop] + b"x", b""):
        with pytest.raises(UnusablePictureError, match=f"{len(found)} bytes instead of {stop - start}"):
            decode_member(found, member, window)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_window_outside_of_the_frame_is_a_mistake_of_the_caller(name: str) -> None:
    data, member, _ = example(name)
    for window in (Window(-1, 0, 5, 5), Window(0, 186, 5, 5), Window(146, 0, 5, 5), Window(0, 0, 0, 5)):
        with pytest.raises(ValueError, match="does not lie inside of the frame of 190x150"):
            span_of(member, window)
        with pytest.raises(ValueError, match="does not lie inside"):
            decode_member(data, member, window)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_index_that_tells_another_size_is_found(name: str) -> None:
    data, member, _ = example(name)
    wrong = [
        replace(member, width=191),
        replace(member, height=149),
        replace(member, channels=1 if member.channels == 3 else 3),
    ]
    for lie in wrong:
        with pytest.raises(UnusablePictureError, match="190x150"):
            decode_member(data, lie, None)
        if lie.bands and lie.height != member.height:
            continue  # The pixels of the rows that it knows of are right.
        window = Window(0, 0, 149, 190)
        start, stop = span_of(lie, window)
        with pytest.raises(UnusablePictureError):
            decode_member(data[start:stop], lie, window)


@pytest.mark.parametrize("name", ["banded", "raw"])
def test_bands_that_cannot_be_are_found(name: str) -> None:
    data, member, _ = example(name)
    bands = member.bands
    swapped = (bands[1], bands[0], *bands[2:])
    outside = (*bands[:-1], Band(len(data) + 5, 0))
    for lie in (
        replace(member, bands=bands[:-1]),
        replace(member, bands=swapped),
        replace(member, bands=outside),
        replace(member, band_height=member.band_height + 40),
        replace(member, band_height=0),
        replace(member, kind="jpg"),
        replace(member, channels=4),
    ):
        window = Window(140, 3, 9, 9)
        assert span_of(lie, window) == (0, len(data))
        with pytest.raises(UnusablePictureError, match="bands in the index do not fit"):
            decode_member(data, lie, window)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_index_that_tells_of_too_many_pixels_is_refused(name: str) -> None:
    data, member, _ = example(name)
    lie = replace(member, width=8001, height=8001, band_height=0, bands=())
    for window in (None, Window(0, 0, 8000, 8000)):
        with pytest.raises(UnusablePictureError, match="more than 64 Mpx"):
            decode_member(data, lie, window)


def test_bands_with_right_checksums_but_no_banded_png_are_refused() -> None:
    data = saved(photo(40, 30), "PNG")
    member = member_of(data)
    start = data.index(b"IDAT") - 4
    bands = (Band(start, zlib.crc32(data[start:-12])),)
    lie = replace(member, band_height=40, bands=bands)
    for window in (None, Window(3, 3, 9, 9)):
        first, last = span_of(lie, window)
        with pytest.raises(UnusablePictureError, match="no banded PNG"):
            decode_member(data[first:last], lie, window)
    other = data[:start] + chunk(b"IDAX", data[start + 8 : -16]) + data[-12:]
    named = replace(lie, bands=(Band(start, zlib.crc32(other[start:-12])),))
    with pytest.raises(UnusablePictureError, match="not one IDAT chunk"):
        decode_member(other[start:-12], named, Window(0, 0, 1, 1))
    shifted = replace(lie, bands=(Band(start + 1, zlib.crc32(data[start + 1 : -12])),))
    first, last = span_of(shifted, Window(0, 0, 1, 1))
    with pytest.raises(UnusablePictureError, match="not one IDAT chunk"):
        decode_member(data[first:last], shifted, Window(0, 0, 1, 1))


def test_what_is_no_picture_is_refused() -> None:
    member = Member("a.json", 0, 2, zlib.crc32(b"{}"), "json", "other")
    with pytest.raises(UnusablePictureError, match="no picture but of kind 'json'"):
        decode_member(b"{}", member, None)


def test_many_threads_decode_the_same() -> None:
    jobs = [example(name) for name in EXAMPLES] * 8
    forget_decoders()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: decode_member(job[0], job[1], None), jobs))
    assert all(np.array_equal(rgb, job[2]) for rgb, job in zip(found, jobs, strict=True))


@pytest.mark.parametrize("name", EXAMPLES)
def test_headers(name: str) -> None:
    data, _, expected = example(name)
    height, width = expected.shape[:2]
    kind = {"banded": "png", "raw": "npy"}.get(name.split()[0], name.split()[0])
    assert picture_header(data) == (kind, width, height, 1 if name.endswith("grey") else 3)


def test_headers_of_other_files() -> None:
    for data, reason in [
        (b"", "empty"),
        (b"hello", "not a PNG, JPEG, WebP or NumPy file"),
        (b"GIF89a" + bytes(50), "not a PNG"),
        (PNG_SIGNATURE, "truncated PNG"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (b"RIFF" + bytes(20), "does not begin as a WebP"),
        (b"\x93NUMPY", "version 1.0 or 2.0"),
    ]:
        with pytest.raises(UnusablePictureError, match=reason):
            picture_header(data)


def test_decoders_are_named(optional_decoders: str) -> None:
    found = available_decoders()
    assert set(found) == {"banded png", "png", "jpg", "webp", "npy"}
    if optional_decoders == "none":
        assert found["png"] == "zlib + Pillow"
        assert found["jpg"] == "Pillow"
        assert found["banded png"] == "zlib + numpy"
