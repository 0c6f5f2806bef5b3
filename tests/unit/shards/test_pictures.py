"""Every kind of picture becomes 8-bit RGB, with a note, or is refused with a reason."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards.picture import Picture, UnusablePictureError, open_picture

RAMP = np.linspace(0, 65535, 32 * 24).astype(np.uint16).reshape(24, 32)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png_16(values: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    """A 16-bit PNG, which Pillow itself cannot write in colour."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def opened(tmp_path: Path, image: Image.Image | bytes, name: str = "a.png", **options: Any) -> Picture:
    path = tmp_path / name
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path, **options)
    return open_picture(path)


def grey_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp"])
def test_rgb_is_kept_bit_for_bit(tmp_path: Path, name: str) -> None:
    pixels = random_pixels(20, 30, 3)
    found = opened(
        tmp_path, Image.fromarray(pixels), name, **({"lossless": True} if name == "a.webp" else {})
    )
    assert np.array_equal(found.rgb, pixels)
    assert found.notes == ()


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    found = opened(tmp_path, Image.fromarray(random_pixels(20, 30, 3)), "a.jpg")
    assert np.array_equal(found.rgb, np.asarray(Image.open(tmp_path / "a.jpg")))
    assert found.notes == ()


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = random_pixels(20, 30)
    found = opened(tmp_path, Image.fromarray(grey))
    assert np.array_equal(found.rgb, grey_rgb(grey))
    assert found.notes == ("grey to RGB",)


def test_black_and_white_is_grey(tmp_path: Path) -> None:
    bits = random_pixels(20, 30) > 127
    found = opened(tmp_path, Image.fromarray(bits))
    assert np.array_equal(found.rgb, grey_rgb(bits.astype(np.uint8) * 255))
    assert found.notes == ("grey to RGB",)


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(random_pixels(20, 30, 3)).quantize(16)
    found = opened(tmp_path, image)
    assert np.array_equal(found.rgb, np.asarray(image.convert("RGB")))
    assert found.notes == ("palette to RGB",)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(random_pixels(20, 30, 3)).convert("CMYK")
    found = opened(tmp_path, image, "a.tif")
    assert np.array_equal(found.rgb, np.asarray(image.convert("RGB")))
    assert found.notes == ("CMYK to RGB",)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_over_its_whole_range(tmp_path: Path, name: str) -> None:
    found = opened(tmp_path, Image.fromarray(RAMP), name)
    assert np.array_equal(found.rgb, grey_rgb(np.round(RAMP / 257).astype(np.uint8)))
    assert found.notes == ("16-bit to 8-bit", "grey to RGB")


def test_16_bit_grey_tiff_with_white_as_zero_is_inverted(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP)
    found = opened(tmp_path, image, "a.tif", tiffinfo={262: 0})
    assert found.rgb[0, 0, 0] == 255
    assert found.rgb[-1, -1, 0] == 0


def test_16_bit_colour_is_scaled_and_noted(tmp_path: Path) -> None:
    values = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 40 * 257)], axis=2)
    found = opened(tmp_path, png_16(values, 2))
    assert np.abs(found.rgb - values / 257).max() <= 1
    assert (found.rgb[..., 2] == 40).all()
    assert found.notes == ("16-bit to 8-bit (high byte)",)


def test_16_bit_colour_tiff_is_scaled_and_noted(tmp_path: Path) -> None:
    values = np.stack([RAMP] * 3, axis=2)
    tags = [
        (256, 3, 32),
        (257, 3, 24),
        (262, 3, 2),
        (273, 4, 0),
        (277, 3, 3),
        (278, 3, 24),
        (279, 4, values.nbytes),
    ]
    head = 8 + 2 + 12 * (len(tags) + 1) + 4
    places = {273: head + 6}
    rows = [(*tag[:2], 1, places.get(tag[0], tag[2])) for tag in tags] + [(258, 3, 3, head)]
    directory = b"".join(struct.pack("<HHII", *row) for row in sorted(rows))
    data = (
        b"II*\0" + struct.pack("<IH", 8, len(rows)) + directory + bytes(4) + struct.pack("<HHH", 16, 16, 16)
    )
    found = opened(tmp_path, data + values.astype("<u2").tobytes(), "a.tif")
    assert np.abs(found.rgb - values / 257).max() <= 1
    assert found.notes == ("16-bit to 8-bit (high byte)",)


def test_16_bit_grey_with_alpha_notes_all_three_conversions(tmp_path: Path) -> None:
    values = np.stack([RAMP, np.full_like(RAMP, 0)], axis=2)
    found = opened(tmp_path, png_16(values, 4))
    assert (found.rgb == 255).all()
    assert found.notes == ("16-bit to 8-bit (high byte)", "grey to RGB", "alpha flattened on white")


def test_16_bit_grey_with_a_transparent_value_is_flattened(tmp_path: Path) -> None:
    values = np.where(np.arange(32) < 16, 0, 40 * 257).astype(np.uint16) * np.ones((24, 1), np.uint16)
    found = opened(tmp_path, png_16(values, 0, chunk(b"tRNS", struct.pack(">H", 0))))
    assert (found.rgb[:, :16] == 255).all()
    assert (found.rgb[:, 16:] == 40).all()
    assert "alpha flattened on white" in found.notes


def test_opaque_alpha_is_dropped(tmp_path: Path) -> None:
    pixels = random_pixels(20, 30, 4)
    pixels[..., 3] = 255
    found = opened(tmp_path, Image.fromarray(pixels))
    assert np.array_equal(found.rgb, pixels[..., :3])
    assert found.notes == ("opaque alpha dropped",)


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    pixels = random_pixels(20, 30, 4)
    found = opened(tmp_path, Image.fromarray(pixels))
    alpha = pixels[..., 3:] / 255
    expected = np.floor(pixels[..., :3] * alpha + 255 * (1 - alpha) + 0.5)
    assert np.abs(found.rgb - expected).max() <= 0
    assert found.notes == ("alpha flattened on white",)


def test_a_transparent_palette_colour_lies_on_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat([[0, 1]], 20, axis=0).repeat(15, axis=1).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    found = opened(tmp_path, image, transparency=0)
    assert (found.rgb[:, :15] == 255).all()
    assert (found.rgb[:, 15:] == (40, 50, 60)).all()
    assert found.notes == ("palette to RGB", "alpha flattened on white")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_rotation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16] = 200  # Top left.
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = opened(tmp_path, Image.fromarray(pixels), name, exif=exif)
    expected = {1: pixels, 3: np.rot90(pixels, 2), 6: np.rot90(pixels, -1)}[orientation]
    assert found.rgb.shape == expected.shape
    assert np.abs(found.rgb.astype(int) - expected).max() < 60
    assert found.notes == (() if orientation == 1 else ("rotated by EXIF",))


def test_rotation_and_depth_are_both_noted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    start = data.index(b"eXIf") - 4
    block = data[start : start + 12 + struct.unpack(">I", data[start : start + 4])[0]]
    found = opened(tmp_path, png_16(np.stack([RAMP] * 3, axis=2), 2, block))
    assert found.notes == ("rotated by EXIF", "16-bit to 8-bit (high byte)")
    assert found.rgb[0, 0, 0] == 255


@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.png"])
def test_the_first_page_is_taken(tmp_path: Path, name: str) -> None:
    pages = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if name == "a.webp" else {}
    found = opened(tmp_path, pages[0], name, save_all=True, append_images=pages[1:], **options)
    assert (found.rgb == (255, 0, 0)).all()
    assert found.notes == ("first of 3 pages",)


def test_unusable_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(64, 64, 3)).save(buffer, "JPEG")
    gif = io.BytesIO()
    Image.new("P", (20, 20)).save(gif, "GIF")
    png = io.BytesIO()
    Image.fromarray(random_pixels(64, 64, 3)).save(png, "PNG")
    whole = png.getvalue()
    cases = {
        "zero.png": (b"", "empty file"),
        "text.png": (b"hello, I am no picture", "not a picture by its content"),
        "other.png": (gif.getvalue(), "not a picture by its content"),
        "cut.png": (whole[: len(whole) // 2], "cannot be read"),
        "cut.jpg": (
            buffer.getvalue()[: len(buffer.getvalue()) // 2],
            "cannot be read: image file is truncated",
        ),
        "bent.png": (whole[:300] + bytes([whole[300] ^ 255]) + whole[301:], "cannot be read"),
    }
    for name, (data, reason) in cases.items():
        with pytest.raises(UnusablePictureError, match=reason) as caught:
            opened(tmp_path, data, name)
        assert str(tmp_path) not in str(caught.value), name
        assert " at 0x" not in str(caught.value), name


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_white_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(UnusablePictureError, match="no defined white"):
        opened(tmp_path, Image.new(mode, (20, 20)), "a.tif")


@pytest.mark.parametrize(("width", "height"), [(15, 40), (40, 15), (1, 1)])
def test_tiny_pictures_are_refused(tmp_path: Path, width: int, height: int) -> None:
    with pytest.raises(UnusablePictureError, match=rf"smaller than 16 px \({width}x{height}\)"):
        opened(tmp_path, Image.new("RGB", (width, height)))


@pytest.mark.parametrize("side", [8001, 12000, 20000])
def test_bombs_are_refused_before_they_are_decoded(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", explode)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", explode)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(UnusablePictureError, match="more than 64 Mpx"):
        opened(tmp_path, bomb)


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(path)
    if os.geteuid() == 0:  # The superuser may read everything.

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
    path.chmod(0)
    with pytest.raises(UnusablePictureError, match=r"^cannot be read: Permission denied$"):
        open_picture(path)


def test_a_jpeg_of_two_pictures_gives_the_first(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (24, 20), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "a.mpo", save_all=True, append_images=pages[1:])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    found = open_picture(tmp_path / "a.jpg")
    assert found.notes == ("first of 2 pages",)
    assert found.rgb[0, 0, 0] > 200


def test_a_reason_holds_no_address_of_this_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def confuse(*_: object, **__: object) -> None:
        raise ValueError("cannot use <Decoder at 0x7f12ab>")

    monkeypatch.setattr(Image, "open", confuse)
    with pytest.raises(UnusablePictureError, match=r"^cannot be read: cannot use <Decoder>$"):
        opened(tmp_path, b"x")
