"""Folders of pictures: what is found, what is kept byte for byte, and DIV2K's layout."""

import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards.picture import UnusablePictureError
from shards.sources import SOURCES, Listing, RawClip, SourceOptions

NOTHING = SourceOptions()


def pixels(name: str, width: int = 24, height: int = 20, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(zlib.crc32(name.encode("utf-8", "surrogateescape")))
    return generator.integers(0, 256, (height, width, channels), np.uint8).squeeze()


def save(root: Path, name: str, **options: Any) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(pixels(name)).save(buffer, **{"format": "PNG", **options})
    path.write_bytes(buffer.getvalue())
    return path


def listed(root: Path) -> Listing:
    return SOURCES["folder"].list(root, NOTHING)


def reasons(listing: Listing) -> dict[str, str]:
    return {one.source: one.reason for one in listing.rejected}


def only_clip(root: Path) -> RawClip:
    (item,) = listed(root).items
    (clip,) = item.clips()
    assert isinstance(clip, RawClip)
    return clip


def test_pictures_at_any_depth_are_found_in_the_same_order(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a/deep/er/x.PNG", "B.png"):
        save(tmp_path / "data", name)
    listing = listed(tmp_path / "data")
    assert [item.name for item in listing.items] == ["B.png", "a/deep/er/x.PNG", "a/z.png", "b.png"]
    assert [item.source for item in listing.items] == [item.name for item in listing.items]
    assert listing.name == "data"
    assert listing.rejected == ()


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("a.png", {}, "png"),
        ("a.jpg", {"format": "JPEG"}, "jpg"),
        ("a.webp", {"format": "WEBP", "lossless": True}, "webp"),
        ("a.tif", {"format": "TIFF"}, ""),
        ("a.bmp", {"format": "BMP"}, ""),
        ("png.jpg", {"format": "PNG"}, "png"),
    ],
)
def test_a_files_own_bytes_are_kept_where_it_is_plain_rgb(
    tmp_path: Path, name: str, options: dict[str, object], kind: str
) -> None:
    path = save(tmp_path, name, **options)
    (frame,) = only_clip(tmp_path).frames
    assert frame.original_kind == kind
    assert frame.original == (path.read_bytes() if kind else None)
    assert np.array_equal(frame.rgb, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("channels", [1, 4])
def test_bytes_of_what_is_converted_are_not_kept(tmp_path: Path, channels: int) -> None:
    Image.fromarray(pixels("a.png", channels=channels)).save(tmp_path / "a.png")
    clip = only_clip(tmp_path)
    assert clip.notes
    assert clip.frames[0].original is None
    assert clip.frames[0].original_kind == ""


def test_a_rotated_jpeg_is_not_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path, "a.jpg", format="JPEG", exif=exif)
    clip = only_clip(tmp_path)
    assert clip.notes == ("rotated by EXIF",)
    assert clip.frames[0].rgb.shape == (24, 20, 3)
    assert clip.frames[0].original is None


def test_an_animation_is_not_kept(tmp_path: Path) -> None:
    pages = [Image.fromarray(pixels(f"{number}")) for number in range(2)]
    pages[0].save(tmp_path / "a.webp", save_all=True, append_images=pages[1:], lossless=True)
    assert only_clip(tmp_path).frames[0].original is None


def test_others_are_rejected_and_hidden_files_passed_over(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    save(tmp_path, ".hidden.png")
    save(tmp_path, ".hidden/b.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    listing = listed(tmp_path)
    assert [item.name for item in listing.items] == ["a.png"]
    assert reasons(listing) == {
        "README": "not a picture by its ending (none)",
        "notes.txt": "not a picture by its ending (.txt)",
        "gone.png": "a link to a file that does not exist",
        "pipe.png": "not a regular file",
    }


def test_names_that_are_not_utf_8_survive(tmp_path: Path) -> None:
    names = ["ü é.png", os.fsdecode(b"caf\xe9.png"), "日本/語.png"]
    for name in names:
        save(tmp_path, name)
    listing = listed(tmp_path)
    assert {item.name for item in listing.items} == set(names)
    assert all(item.stamp() and list(item.clips()) for item in listing.items)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    save(tmp_path / "data", "a/one.png")
    save(tmp_path / "outside", "two.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "outside")
    (tmp_path / "data" / "a" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "outside" / "self").symlink_to(tmp_path / "outside")
    listing = listed(tmp_path / "data")
    assert [item.name for item in listing.items] == ["a/one.png", "b/two.png"]
    assert reasons(listing) == {
        "a/loop": "a link to a folder that is already listed (.)",
        "b/self": "a link to a folder that is already listed (b)",
    }


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "a.png")
    save(tmp_path, "locked/b.png")
    save(tmp_path, "closed/c.png")
    save(tmp_path, "mine.png")
    scandir, stat = os.scandir, Path.stat

    def refuse_listing(folder: str) -> object:  # As the superuser a test may read everything.
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    def refuse_entering(path: Path, **options: bool) -> os.stat_result:
        if path.name in ("closed", "mine.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "scandir", refuse_listing)
    monkeypatch.setattr(Path, "stat", refuse_entering)
    listing = listed(tmp_path)
    assert [item.name for item in listing.items] == ["a.png"]
    reason = "folder cannot be listed (Permission denied)"
    assert reasons(listing) == {
        "locked": reason,
        "closed": reason,
        "mine.png": "cannot be read: Permission denied",
    }


def test_a_damaged_picture_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (item,) = listed(tmp_path).items
    assert item.estimated_bytes() > 0
    with pytest.raises(UnusablePictureError, match="not a picture by its content"):
        list(item.clips())


def test_a_folder_of_sequences_works_as_single_pictures(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path, f"000/{number:08d}.png")
    assert [item.name for item in listed(tmp_path).items] == [f"000/{number:08d}.png" for number in range(3)]


def test_div2k_is_split_by_its_folders_and_its_small_pictures_are_no_truth(tmp_path: Path) -> None:
    for name in ("train_HR/0001", "valid_HR/0801", "train_LR_bicubic/X4/0001x4"):
        save(tmp_path, f"DIV2K_{name}.png")
    listing = listed(tmp_path)
    assert listing.splits == {"DIV2K_train_HR/0001.png": "train", "DIV2K_valid_HR/0801.png": "val"}
    assert "DIV2K_train_HR" in listing.split_rule
    assert [item.name for item in listing.items] == list(listing.splits)
    assert "paired" in reasons(listing)["DIV2K_train_LR_bicubic/X4/0001x4.png"]


def test_half_of_div2k_leaves_the_splits_to_the_user(tmp_path: Path) -> None:
    for name in ("train_HR/0001", "train_LR_bicubic/X4/0001x4"):
        save(tmp_path, f"DIV2K_{name}.png")
    listing = listed(tmp_path)
    assert (listing.splits, listing.split_rule) == ({}, "")
    assert [item.name for item in listing.items] == ["DIV2K_train_HR/0001.png"]


def test_folders_that_sound_degraded_are_warned_of_once(tmp_path: Path) -> None:
    for name in ("set/LR_bicubic/a.png", "set/LR_bicubic/blur/b.png", "set/HR/a.png", "flower/blurred/c.png"):
        save(tmp_path, name)
    listing = listed(tmp_path)
    assert len(listing.items) == 4
    assert [warning.split(":")[0] for warning in listing.warnings] == ["flower/blurred", "set/LR_bicubic"]


def test_pans_move_by_whole_pixels_over_the_photographs_of_their_split() -> None:
    listing = SOURCES["photo-pans"].list(None, SourceOptions())
    assert {item.source for item in listing.items} == set(listing.splits)
    moved = 0
    for item in listing.items[::7]:
        (clip,) = item.clips()
        frames = [frame.rgb.astype(int) for frame in clip.frames]
        assert len(frames) == 7
        shifts = {
            (y, x): abs(shifted(frames[0], y, x) - shifted(frames[1], 0, 0)).max()
            for y in range(-4, 5)
            for x in range(-4, 5)
        }
        (best, error) = min(shifts.items(), key=lambda pair: pair[1])
        assert error == 0
        moved += best != (0, 0)
        # The motion is even: the same step leads to the last frame.
        assert np.array_equal(shifted(frames[5], *best), shifted(frames[6], 0, 0))
    assert moved > 8


def shifted(frame: np.ndarray, y: int, x: int) -> np.ndarray:
    return frame[4 + y : frame.shape[0] - 4 + y, 4 + x : frame.shape[1] - 4 + x]
