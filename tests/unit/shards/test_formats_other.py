"""WebP and NumPy files of strangers: pixels or a reason, and nothing is ever unpickled."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from shards.decode import Window, decode_member, picture_header
from shards.picture import UnusablePictureError
from shards.records import Member
from tests.unit.shards.picture_files import (
    decoded,
    npy,
    photo,
    saved,
)


def webp_cases() -> dict[str, tuple[bytes, str]]:
    rgb = photo(40, 60)
    good = saved(rgb, "WEBP", lossless=True)
    lossy = saved(rgb, "WEBP", quality=80)
    alpha = np.concatenate([rgb, rgb[..., :1]], axis=2)
    animated = io.BytesIO()
    Image.fromarray(rgb).save(animated, "WEBP", save_all=True, append_images=[Image.fromarray(255 - rgb)])
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\x10\0\0" + b"\x10\0\0"
    inner = good[12:]
    body = b"WEBP" + canvas + inner
    return {
        "cut": (good[: len(good) // 2], "truncated WebP"),
        "cut inside": (
            b"RIFF" + struct.pack("<I", 212) + good[8:16] + struct.pack("<I", 200) + good[20:220],
            "damaged WebP",
        ),
        "lossy cut inside": (
            b"RIFF" + struct.pack("<I", 112) + lossy[8:16] + struct.pack("<I", 100) + lossy[20:120],
            "damaged WebP",
        ),
        "long chunk": (good[:16] + struct.pack("<I", 2**31) + good[20:], "behind the end of the file"),
        "alpha": (saved(alpha, "WEBP", lossless=True), "alpha channel"),
        "lossy alpha": (saved(alpha, "WEBP"), "alpha channel"),
        "animated": (animated.getvalue(), "animated WebP"),
        "empty": (b"RIFF" + struct.pack("<I", 4) + b"WEBP", "without pixels"),
        "another canvas": (b"RIFF" + struct.pack("<I", len(body)) + body, "in a frame of"),
        "no picture": (good[:20] + b"x" + good[21:], "does not begin as one"),
    }


@pytest.mark.parametrize("name", webp_cases())
def test_damaged_and_uncommon_webp_files_are_refused(name: str) -> None:
    data, reason = webp_cases()[name]
    member = Member("a", 0, len(data), zlib.crc32(data), "webp", "frame", 60, 40, 3)
    for window in (None, Window(0, 0, 5, 5)):
        with pytest.raises(UnusablePictureError, match=reason):
            decode_member(data, member, window)


def test_a_webp_with_other_chunks_is_read() -> None:
    rgb = photo(41, 61)
    data = saved(rgb, "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(31), icc_profile=b"x" * 101)
    assert b"VP8X" in data
    assert np.array_equal(decoded(data), rgb)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("unpickled",)


def npy_cases() -> dict[str, tuple[bytes, str]]:
    rgb = photo(40, 60)
    trap = io.BytesIO()
    np.save(trap, np.array([Trap()], object), allow_pickle=True)
    good = npy(rgb)
    deep = b"(" * 3000

    def with_header(text: bytes) -> bytes:
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + rgb.tobytes()

    return {
        "pickled objects": (trap.getvalue(), "array of type '.O'"),
        "floats": (npy(rgb.astype(np.float32)), "array of type '<f4'"),
        "int8": (npy(rgb.astype(np.int8)), "array of type '.i1'"),
        "fields": (npy(np.zeros((4, 4), [("a", "u1")])), "only uint8"),
        "Fortran": (npy(np.asfortranarray(rgb)), "order of Fortran"),
        "alpha": (npy(np.zeros((4, 4, 4), np.uint8)), "shape"),
        "clip": (npy(np.zeros((7, 4, 4, 3), np.uint8)), "shape"),
        "line": (npy(np.zeros(9, np.uint8)), "shape"),
        "nothing": (npy(np.zeros((0, 4, 3), np.uint8)), "0 bytes|128 bytes"),
        "cut": (good[:-1], "7327 bytes for the shape"),
        "longer": (good + b"x", "7329 bytes for the shape"),
        "version 3": (good[:6] + b"\x03" + good[7:], "version 1.0 or 2.0"),
        "cut header": (good[:60], "header has"),
        "long header": (good[:8] + b"\xff\xff" + bytes(70000), "header has 65535 bytes"),
        "deep header": (with_header(deep), "header cannot be read"),
        "code in the header": (with_header(b"__import__('os').abort()"), "header cannot be read"),
        "negative": (
            with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-40, -60, 3)}\n"),
            "header cannot be read",
        ),
        "bomb": (
            with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999, 999999)}\n"),
            "for the shape",
        ),
    }


@pytest.mark.parametrize("name", npy_cases())
def test_other_arrays_are_refused_and_never_unpickled(name: str) -> None:
    data, reason = npy_cases()[name]
    with pytest.raises(UnusablePictureError, match=reason):
        picture_header(data)
    member = Member("a", 0, len(data), zlib.crc32(data), "npy", "frame", 60, 40, 3)
    with pytest.raises(UnusablePictureError, match=reason):
        decode_member(data, member, None)
