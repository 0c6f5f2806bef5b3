"""Pictures and sequences with given low-resolution partners: which folders, which files, which scale."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.picture import UnusablePictureError
from shards.records import Rejected
from shards.sources import SOURCES, Listing, RawClip, SourceOptions


def pixels(name: str, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (height, width, 3), np.uint8)


def save(root: Path, name: str, width: int = 64, height: int = 48) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(name, width, height)).save(path, format="PNG")


def pair(root: Path, high: str, low: str, scale: int = 2, width: int = 96, height: int = 72) -> None:
    save(root, high, width, height)
    save(root, low, width // scale, height // scale)


def listed(root: Path, **options: int) -> Listing:
    return SOURCES["paired"].list(root, SourceOptions(**options))


def reasons(listing: Listing) -> dict[str, str]:
    return {one.source: one.reason for one in listing.rejected}


@pytest.mark.parametrize("high", ["HR", "hr", "gt", "GT", "target", "high"])
@pytest.mark.parametrize("low", ["LR", "lr", "LQ", "low", "input", "low_resolution", "LR_bicubic"])
def test_usual_names_are_understood(tmp_path: Path, high: str, low: str) -> None:
    pair(tmp_path, f"{high}/a.png", f"{low}/a.png")
    listing = listed(tmp_path)
    (item,) = listing.items
    assert (item.name, item.source, listing.lr_scale) == ("a.png", "a.png", 2)
    (clip,) = item.clips()
    assert isinstance(clip, RawClip)
    assert clip.name == "a.png"
    assert np.array_equal(clip.frames[0].rgb, pixels(f"{high}/a.png", 96, 72))
    assert np.array_equal(clip.lr_frames[0].rgb, pixels(f"{low}/a.png", 48, 36))
    assert clip.lr_frames[0].original == (tmp_path / low / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ("0001.png", "0001x4.png"),
        ("0001.png", "0001X4.png"),
        ("0001.png", "0001_x4.png"),
        ("0001.png", "0001.jpg"),
        ("Canon_001_HR.png", "Canon_001_LR4.png"),
        ("Canon_001_HR.png", "Canon_001_LR.png"),
        ("photo_x2.png", "photo_x2.png"),
        ("photo_gt.png", "photo_gtx4.png"),
        ("photo_x2.png", "photo_x2x4.png"),
        ("train/0001.png", "train/0001x4.png"),
    ],
)
def test_files_are_matched_with_and_without_what_tells_them_apart(
    tmp_path: Path, high: str, low: str
) -> None:
    pair(tmp_path, f"HR/{high}", f"LR/{low}", 4, 128, 96)
    listing = listed(tmp_path)
    assert [item.name for item in listing.items] == [high]
    assert listing.rejected == ()
    assert listing.lr_scale == 4


def test_files_without_a_partner_are_rejected(tmp_path: Path) -> None:
    pair(tmp_path, "HR/a.png", "LR/a.png")
    save(tmp_path, "HR/b.png")
    save(tmp_path, "LR/c.png")
    save(tmp_path, "LR/ax2.png")
    (tmp_path / "LR" / "notes.txt").write_text("x")
    listing = listed(tmp_path)
    assert [item.name for item in listing.items] == ["a.png"]
    assert reasons(listing) == {
        "HR/b.png": "no partner in LR",
        "LR/c.png": "no partner in HR, or another one is taken",
        "LR/ax2.png": "no partner in HR, or another one is taken",
        "LR/notes.txt": "not a picture by its ending (.txt)",
    }


def test_two_pictures_do_not_share_a_partner(tmp_path: Path) -> None:
    pair(tmp_path, "HR/a.png", "LR/a.png")
    save(tmp_path, "HR/a.jpg", 96, 72)
    assert list(reasons(listed(tmp_path)).values()) == ["LR/a.png is the partner of HR/a.jpg already"]


def test_the_commonest_scale_counts_and_others_are_named(tmp_path: Path) -> None:
    for name in "abc":
        pair(tmp_path, f"HR/{name}.png", f"LR/{name}.png", 3)
    pair(tmp_path, "HR/d.png", "LR/d.png", 2)
    save(tmp_path, "HR/e.png", 97, 72)
    save(tmp_path, "LR/e.png", 32, 24)
    listing = listed(tmp_path)
    assert listing.lr_scale == 3
    assert [item.name for item in listing.items] == ["a.png", "b.png", "c.png"]
    assert reasons(listing) == {
        "HR/d.png": "96x72 is not 3 times the 48x36 of LR/d.png",
        "HR/e.png": "97x72 is not 3 times the 32x24 of LR/e.png",
    }


def test_no_whole_scale_at_all_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, "HR/a.png", 97, 72)
    save(tmp_path, "LR/a.png", 32, 24)
    with pytest.raises(ValueError, match=r"whole number of times .*HR/a.png is 97x72, LR/a.png is 32x24"):
        listed(tmp_path)
    (tmp_path / "LR" / "a.png").rename(tmp_path / "LR" / "b.png")
    with pytest.raises(ValueError, match=r"HR/a.png: no partner in LR"):
        listed(tmp_path)


def test_equal_sizes_are_scale_one_and_said(tmp_path: Path) -> None:
    pair(tmp_path, "HR/a.png", "LR/a.png", 1)
    listing = listed(tmp_path)
    assert listing.lr_scale == 1
    assert "scale 1" in listing.warnings[0]


def test_a_damaged_half_is_named(tmp_path: Path) -> None:
    pair(tmp_path, "HR/a.png", "LR/a.png")
    pair(tmp_path, "HR/b.png", "LR/b.png")
    (tmp_path / "LR" / "b.png").write_bytes(b"x")
    listing = listed(tmp_path)
    assert [list(item.clips()) for item in listing.items][1] == [
        Rejected("LR/b.png", "not a picture by its content")
    ]


def test_a_partner_turned_by_exif_does_not_fit(tmp_path: Path) -> None:
    pair(tmp_path, "HR/a.png", "LR/a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 36)).save(tmp_path / "LR" / "a.png", exif=exif)
    (item,) = listed(tmp_path).items
    with pytest.raises(UnusablePictureError, match=r"LR/a.png is 36x48, not 1/2 of 96x72"):
        list(item.clips())


def test_div2k_as_published(tmp_path: Path) -> None:
    for part, number in (("train", "0001"), ("valid", "0801")):
        for scale in (2, 4):
            low = f"DIV2K_{part}_LR_bicubic/X{scale}/{number}x{scale}.png"
            pair(tmp_path, f"DIV2K_{part}_HR/{number}.png", low, scale)
        save(tmp_path, f"DIV2K_{part}_LR_unknown/X4/{number}x4.png")
    listing = listed(tmp_path)
    assert listing.lr_scale == 4
    assert listing.splits == {"DIV2K_train_HR/0001.png": "train", "DIV2K_valid_HR/0801.png": "val"}
    assert listing.warnings[:2] == (
        "DIV2K_train_LR_bicubic is used, and not DIV2K_train_LR_unknown beside it",
        "DIV2K_train_LR_bicubic/X4 is used; for another scale (X2) move the folders of the other scales away",
    )
    assert listing.rejected == ()


def test_splits_may_lie_above_the_two_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pair(tmp_path, f"{split}/HR/a.png", f"{split}/LR/a.png")
    save(tmp_path, "other/HR/a.png")
    assert [item.name for item in listed(tmp_path).items] == ["train/a.png", "val/a.png"]


def test_folders_called_as_splits_hold_single_pictures(tmp_path: Path) -> None:
    names = [f"{split}/{number}.png" for split in ("Train", "valid") for number in range(8)]
    for name in names:
        pair(tmp_path, f"HR/{name}", f"LR/{name}")
    listing = listed(tmp_path)
    assert [item.name for item in listing.items] == names
    assert listing.warnings == ()


def test_folders_that_are_not_used_are_named(tmp_path: Path) -> None:
    pair(tmp_path, "HR/a.png", "LR/a.png")
    save(tmp_path, "input/a.png")
    save(tmp_path, "masks/a.png")
    save(tmp_path, "Flickr2K_HR/a.png")
    assert set(listed(tmp_path).warnings) == {
        "LR is used, and not input beside it",
        "Flickr2K_HR: not used, there is no folder of low resolution beside it",
        "masks: not used, by their names of neither high nor low resolution",
    }


def test_two_folders_are_asked_for(tmp_path: Path) -> None:
    save(tmp_path, "HR/a.png")
    with pytest.raises(ValueError, match=r"no two folders .*it holds HR.*; call them HR and LR"):
        listed(tmp_path)


def sequences(root: Path, high: str, low: str, count: int, scale: int = 2) -> None:
    for number in range(count):
        pair(root, f"{high}/{number:08d}.png", f"{low}/{number:08d}.png", scale)


def test_folders_below_are_sequences(tmp_path: Path) -> None:
    sequences(tmp_path, "GT/000", "LQ/000", 7)
    sequences(tmp_path, "GT/001", "LQ/001", 16)
    save(tmp_path, "GT/001/00000016.png", 96, 72)
    listing = listed(tmp_path)
    assert [item.name for item in listing.items] == ["000", "001"]
    clips = [clip for item in listing.items for clip in item.clips()]
    assert [clip.name for clip in clips if isinstance(clip, RawClip)] == ["000", "001/000000", "001/000007"]
    assert isinstance(clips[2], RawClip)
    assert [frame.rgb.shape for frame in clips[2].lr_frames] == [(36, 48, 3)] * 7
    assert np.array_equal(clips[2].frames[3].rgb, pixels("GT/001/00000010.png", 96, 72))
    assert np.array_equal(clips[2].lr_frames[3].rgb, pixels("LQ/001/00000010.png", 48, 36))
    assert reasons(listing) == {"GT/001/00000016.png": "no partner in LQ"}
    assert "2 folders of pictures (first: 000) are taken as sequences of frames" in listing.warnings[0]


def test_no_clip_spans_a_frame_whose_partner_is_missing(tmp_path: Path) -> None:
    sequences(tmp_path, "GT/000", "LQ/000", 7)
    (tmp_path / "LQ" / "000" / "00000003.png").unlink()
    listing = listed(tmp_path, frames=3)
    (item,) = listing.items
    assert [clip.name for clip in item.clips() if isinstance(clip, RawClip)] == ["000/000000", "000/000003"]
    assert "frames are missing between 00000002.png and 00000004.png" in reasons(listing)["000"]


def test_single_frames_of_folders_are_asked_for_by_their_number(tmp_path: Path) -> None:
    sequences(tmp_path, "GT/000", "LQ/000", 2)
    listing = listed(tmp_path, frames=1)
    assert len(list(listing.items[0].clips())) == 2
    assert listing.warnings == ()


def test_reds_as_published(tmp_path: Path) -> None:
    for part in ("train", "val"):
        sequences(tmp_path, f"{part}_sharp/000", f"{part}_sharp_bicubic/X4/000", 7, 4)
    listing = listed(tmp_path)
    assert listing.splits == {"train_sharp/000": "train", "val_sharp/000": "val"}
    assert listing.lr_scale == 4
