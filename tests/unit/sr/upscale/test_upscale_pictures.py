"""Pictures: every kind that people have, upright, with what belongs to them, or a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from sr.resize import upscale_bicubic
from sr.upscale.model import Upscaler, open_upscaler
from sr.upscale.pictures import upscale_folder, upscale_picture

COFFEE = np.ascontiguousarray(skimage.data.coffee()[100:141, 200:253])
SCALE = 2


@pytest.fixture(scope="module")
def nearest() -> Upscaler:
    return open_upscaler("nearest", scale=SCALE, device="cpu")


def repeated(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def saved(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif", ".bmp"])
def test_colour_is_bicubic_to_the_level(tmp_path: Path, ending: str) -> None:
    source = saved(tmp_path / "a.png", COFFEE)
    out = tmp_path / f"b{ending}"
    assert upscale_picture(source, out, open_upscaler("bicubic", scale=3, device="cpu")) == ()
    lr = torch.from_numpy(COFFEE).float().div(255).permute(2, 0, 1)
    expected = upscale_bicubic(lr, 3).clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open(out)), expected)


def test_tiles_leave_no_seam_in_a_picture(tmp_path: Path) -> None:
    from sr.upscale.tiles import Tiling

    source = saved(tmp_path / "a.png", np.ascontiguousarray(skimage.data.coffee()[:90, :130]))
    for name, tiling in (("whole", Tiling(0, 0)), ("tiled", Tiling(16, 16))):
        one = open_upscaler("bicubic", scale=2, device="cpu", tiling=tiling)
        upscale_picture(source, tmp_path / f"{name}.png", one)
    whole, tiled = (
        np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("whole", "tiled")
    )
    assert abs(whole - tiled).max() <= 1
    assert (whole != tiled).mean() < 1e-3


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_stay(tmp_path: Path, nearest: Upscaler, ending: str, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 24, channels)).astype(np.uint16)
    order = [2, 1, 0, 3][:channels] if channels > 1 else [0]
    source = tmp_path / f"a{ending}"
    cv2.imwrite(str(source), deep[..., order])
    upscale_picture(source, tmp_path / f"b{ending}", nearest)
    read = cv2.imread(str(tmp_path / f"b{ending}"), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert read.dtype == np.uint16
    read = read.reshape(40, 48, channels)[..., order]
    assert np.array_equal(read[..., :3], repeated(deep[..., :3]))
    # Written with the least bits it could have: into JPEG's 8.
    if channels != 4:
        assert upscale_picture(source, tmp_path / "c.webp", nearest) == ("16-bit to 8-bit",)
        eight = np.asarray(Image.open(tmp_path / "c.webp").convert("RGB")).astype(int)
        assert abs(eight - repeated(deep).astype(float) / 257).max() <= 1


def test_alpha_is_enlarged_and_kept_where_it_can_be(tmp_path: Path, nearest: Upscaler) -> None:
    alpha = np.tile(np.linspace(0, 255, COFFEE.shape[1]).astype(np.uint8), (COFFEE.shape[0], 1))
    source = saved(tmp_path / "a.png", np.dstack([COFFEE, alpha]))
    upscale_picture(source, tmp_path / "b.png", nearest)
    read = np.asarray(Image.open(tmp_path / "b.png"))
    assert np.array_equal(read[..., :3], repeated(COFFEE))
    assert abs(read[..., 3].astype(int) - repeated(alpha)).max() <= 3
    with pytest.raises(ValueError, match=r"b\.jpg.*transparent parts, which \.jpg cannot hold; name a \.png"):
        upscale_picture(source, tmp_path / "b.jpg", nearest)
    assert not (tmp_path / "b.jpg").exists()


@pytest.mark.parametrize("is_deep", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(
    tmp_path: Path, nearest: Upscaler, orientation: int, is_deep: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = saved(tmp_path / "e.png", COFFEE, exif=exif)
    if is_deep:
        cv2.imwrite(str(tmp_path / "d.png"), COFFEE[..., ::-1].astype(np.uint16) * 257)
        data, small = (tmp_path / "d.png").read_bytes(), upright.read_bytes()
        at = small.index(b"eXIf") - 4
        chunk = small[at : at + 12 + int.from_bytes(small[at : at + 4], "big")]
        (tmp_path / "d.png").write_bytes(data[:33] + chunk + data[33:])
    source = tmp_path / ("d.png" if is_deep else "e.png")
    upscale_picture(source, tmp_path / "b.png", nearest)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(upright)))
    with Image.open(tmp_path / "b.png") as read:
        assert read.getexif().get(0x0112, 1) == 1
    values = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
    assert values is not None
    assert values.dtype == (np.uint16 if is_deep else np.uint8)
    assert np.array_equal(values[..., ::-1] // (257 if is_deep else 1), repeated(expected))


def test_grey_palette_and_cmyk(tmp_path: Path, nearest: Upscaler) -> None:
    grey = COFFEE[..., 1]
    upscale_picture(saved(tmp_path / "g.png", grey), tmp_path / "g2.png", nearest)
    with Image.open(tmp_path / "g2.png") as read:
        assert read.mode == "L"
        assert np.array_equal(np.asarray(read), repeated(grey))
    Image.fromarray(COFFEE).quantize(16).save(tmp_path / "p.png")
    upscale_picture(tmp_path / "p.png", tmp_path / "p2.png", nearest)
    palette = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "p2.png")), repeated(palette))
    Image.fromarray(COFFEE).convert("CMYK").save(tmp_path / "c.jpg")
    assert upscale_picture(tmp_path / "c.jpg", tmp_path / "c2.png", nearest) == ("CMYK to RGB",)


def test_the_colour_profile_stays(tmp_path: Path, nearest: Upscaler) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = saved(tmp_path / "a.png", COFFEE, icc_profile=profile)
    upscale_picture(source, tmp_path / "b.jpg", nearest)
    assert Image.open(tmp_path / "b.jpg").info["icc_profile"] == profile


def test_a_folder_keeps_its_tree_and_names_what_it_could_not_do(tmp_path: Path, nearest: Upscaler) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    saved(source / "a.png", COFFEE)
    saved(source / "a.jpg", COFFEE)
    saved(source / "sub" / "b.jpg", COFFEE)
    (source / "broken.png").write_bytes((source / "a.png").read_bytes()[:900])
    (source / "notes.txt").write_text("no picture")
    done = upscale_folder(source, out, nearest, on_progress=lambda *_: None)
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert names == ["a.jpg.png", "a.png.png", "sub/b.png"]
    assert len(done.failed) == 1
    assert "broken.png: damaged or unreadable" in done.failed[0]
    assert any("notes.txt" in note for note in done.notes)
    with pytest.raises(ValueError, match="is there already; name another file, or add --force"):
        upscale_folder(source, out, nearest, on_progress=lambda *_: None)
    upscale_folder(source, out, nearest, force=True, on_progress=lambda *_: None)


def test_wrong_inputs_are_told_in_a_line(tmp_path: Path, nearest: Upscaler) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    good = saved(tmp_path / "a.png", COFFEE)
    for source, out, message in (
        ("text.png", "x.png", "not a picture by its content"),
        ("missing.png", "x.png", "no such file"),
        ("f.tif", "x.png", "no defined white"),
        ("a.png", "x.gif", "not a picture by its ending"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            upscale_picture(tmp_path / source, tmp_path / out, nearest)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="no pictures there"):
        upscale_folder(tmp_path / "empty", tmp_path / "o", nearest, on_progress=lambda *_: None)
    with pytest.raises(ValueError, match="no scale is given; add: --scale 2"):
        open_upscaler("bicubic")
    with pytest.raises(ValueError, match="no such model"):
        open_upscaler(str(tmp_path / "none.pt"))
    assert good.exists()
    assert not list(tmp_path.glob("x.*"))
    assert not list(tmp_path.glob(".*part*"))
