"""JPEG files of strangers: the same pixels from every decoder, or a reason."""

import io
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from shards.decode import Window, available_decoders, decode_member, picture_header
from shards.picture import UnusablePictureError
from shards.records import Member
from tests.unit.shards.picture_files import (
    OPTIONAL,
    PHOTOS,
    decoded,
    forget_decoders,
    jpeg_pixels,
    photo,
    saved,
    without,
)


@pytest.fixture(params=["installed", "none"])
def optional_decoders(request: pytest.FixtureRequest) -> Iterator[str]:
    """With the optional decoders, and as if none were installed."""
    with without(*(OPTIONAL if request.param == "none" else ())):
        yield request.param


def exif_rotated(rgb: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(rgb, "JPEG", quality=90, exif=exif)


def two_pictures(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(
        buffer, "MPO", save_all=True, append_images=[Image.fromarray(255 - rgb)], quality=90
    )
    return buffer.getvalue()


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey", "RGB"])
@pytest.mark.parametrize("size", [(64, 80), (61, 83), (17, 1), (1, 1)])
def test_jpeg_is_what_pillow_decodes(sampling: str, progressive: bool, size: tuple[int, int]) -> None:
    rgb = photo(*size)
    factors = {"4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440, "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411}
    if sampling in factors:
        options = [
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            factors[sampling],
            cv2.IMWRITE_JPEG_PROGRESSIVE,
            int(progressive),
        ]
        data = cv2.imencode(".jpg", rgb[..., ::-1], options)[1].tobytes()
    elif sampling == "grey":
        data = saved(rgb[..., 1], "JPEG", progressive=progressive)
    elif sampling == "RGB":
        data = saved(rgb, "JPEG", progressive=progressive, keep_rgb=True)
    else:
        data = saved(rgb, "JPEG", progressive=progressive, subsampling=sampling)
    assert np.array_equal(decoded(data), jpeg_pixels(data))


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("name", ["rocket.jpg", "retina.jpg", "hubble_deep_field.jpg"])
def test_real_jpeg_files(name: str) -> None:
    data = (PHOTOS / name).read_bytes()
    assert np.array_equal(decoded(data), jpeg_pixels(data))


@pytest.mark.usefixtures("optional_decoders")
def test_a_jpeg_is_taken_as_it_is_stored() -> None:
    rgb = photo(40, 60)
    plain = decoded(saved(rgb, "JPEG", quality=90))
    assert plain.shape == (40, 60, 3)
    for data in (exif_rotated(rgb), two_pictures(rgb), saved(rgb, "JPEG", quality=90, comment=b"x" * 999)):
        assert np.array_equal(decoded(data), plain)


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("transform", [0, 1])
def test_the_marker_that_tells_rgb_from_ycbcr_is_heeded(transform: int) -> None:
    data = saved(photo(40, 60), "JPEG", subsampling=0)
    assert data[2:4] == b"\xff\xe0"
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    marked = data[:2] + adobe + data[4 + int.from_bytes(data[4:6], "big") :]
    assert np.array_equal(decoded(marked), jpeg_pixels(marked))
    assert np.array_equal(decoded(marked), decoded(data)) == (transform == 1)


def test_nothing_but_the_picture_reaches_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def spy(bare: bytes) -> np.ndarray:
        seen.append(bare)
        return jpeg_pixels(bare)

    monkeypatch.setattr("shards.formats.jpeg.simplejpeg_decoder", lambda: spy)
    rgb = photo(40, 60)
    for data in (exif_rotated(rgb), saved(rgb, "JPEG", quality=90, comment="noise")):
        decoded(data)
    assert seen[0] == seen[1]
    assert b"Exif" not in seen[0]


def jpeg_cases() -> dict[str, tuple[bytes, str]]:
    good = saved(photo(40, 60), "JPEG", quality=90)
    frame = good.index(b"\xff\xc0")
    scan = good.index(b"\xff\xda")

    def with_size(height: int, width: int) -> bytes:
        return good[: frame + 5] + struct.pack(">HH", height, width) + good[frame + 9 :]

    return {
        "half": (good[: len(good) // 2], "truncated"),
        "no end": (good[:-2], "truncated"),
        "header only": (good[:scan], "truncated JPEG"),
        "cut in a segment": (good[: frame + 4], "truncated JPEG"),
        "12 bits": (good[: frame + 4] + b"\x0c" + good[frame + 5 :], "12 bits a channel"),
        "lossless": (good[: frame + 1] + b"\xc3" + good[frame + 2 :], "uncommon kind"),
        "arithmetic": (good[: frame + 1] + b"\xc9" + good[frame + 2 :], "uncommon kind"),
        "two frames": (good[:scan] + good[frame : frame + 19] + good[scan:], "two frames"),
        "no frame": (good[:frame] + good[frame + 19 :], "precedes its frame"),
        "no marker": (good[:frame] + b"xx" + good[frame:], "no marker"),
        "no height": (with_size(0, 60), "smaller than 1 px"),
        "too many pixels": (with_size(20000, 20000), "more than 64 Mpx"),
        "many scans": (good[:-2] + good[scan : scan + 14] * 200 + good[-2:], "201 scans"),
    }


@pytest.mark.usefixtures("optional_decoders")
@pytest.mark.parametrize("name", jpeg_cases())
def test_damaged_and_uncommon_jpeg_files_are_refused(name: str) -> None:
    data, reason = jpeg_cases()[name]
    member = Member("a", 0, len(data), zlib.crc32(data), "jpg", "frame", 60, 40, 3)
    for window in (None, Window(0, 0, 5, 5)):
        with pytest.raises(UnusablePictureError, match=reason):
            decode_member(data, member, window)


def test_cmyk_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(20, 30)).convert("CMYK").save(buffer, "JPEG")
    with pytest.raises(UnusablePictureError, match="4 channels"):
        picture_header(buffer.getvalue())


def test_a_decoder_that_gives_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    real = simplejpeg.decode_jpeg

    def off_by_one(data: bytes, **options: object) -> np.ndarray:
        rgb = real(data, **options)
        rgb[0, 0, 0] ^= 1
        return rgb

    data = saved(photo(40, 60), "JPEG")
    assert available_decoders()["jpg"] == "simplejpeg"
    monkeypatch.setattr(simplejpeg, "decode_jpeg", off_by_one)
    forget_decoders()
    assert available_decoders()["jpg"] == "Pillow"
    assert np.array_equal(decoded(data), jpeg_pixels(data))
    monkeypatch.undo()
    forget_decoders()
