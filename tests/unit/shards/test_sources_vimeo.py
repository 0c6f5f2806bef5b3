"""Vimeo-90K: the published layouts, their lists, and which folder is the ground truth."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.picture import UnusablePictureError
from shards.records import Rejected
from shards.sources import SOURCES, Listing, RawClip, SourceOptions

NOTHING = SourceOptions()


def pixels(name: str, width: int = 64, height: int = 32) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (height, width, 3), np.uint8)


def sequence(root: Path, name: str, frames: int = 7, width: int = 64, height: int = 32) -> None:
    (root / name).mkdir(parents=True)
    for number in range(1, frames + 1):
        Image.fromarray(pixels(f"{name}{number}", width, height)).save(root / name / f"im{number}.png")


def data_set(root: Path, train: list[str], test: list[str], folder: str = "sequences") -> Path:
    for name in [*train, *test]:
        sequence(root, f"{folder}/{name}")
    (root / "sep_trainlist.txt").write_text("".join(f"{name}\n" for name in train))
    (root / "sep_testlist.txt").write_text("".join(f"{name}\n" for name in test))
    return root


def published_test(root: Path, names: list[str], *folders: str) -> Path:
    for name in names:
        for folder in folders:
            size = (32, 16) if folder == "low_resolution" else (128, 64)
            sequence(root, f"{folder}/{name}", 7, *size)
    (root / "sep_testlist.txt").write_text("\n".join(names))
    return root


def listed(root: Path, kind: str = "vimeo-septuplet") -> Listing:
    return SOURCES[kind].list(root, NOTHING)


def reasons(listing: Listing) -> dict[str, str]:
    return {one.source: one.reason for one in listing.rejected}


def test_lists_give_the_splits_and_a_whole_folder_is_val(tmp_path: Path) -> None:
    train = [f"0000{folder}/000{number}" for folder in (1, 2, 3) for number in (1, 2)]
    listing = listed(data_set(tmp_path / "vimeo", train, ["00001/0009", "00004/0001"]))
    splits = listing.splits
    assert [item.source for item in listing.items] == [item.name for item in listing.items] == sorted(splits)
    assert {name for name, split in splits.items() if split == "test"} == {"00001/0009", "00004/0001"}
    val = {name for name, split in splits.items() if split == "val"}
    assert val == {"00002/0001", "00002/0002"}  # By its sha256 the folder 00002 comes first.
    assert listing.rejected == ()
    assert "val: of the train list's folders" in listing.split_rule
    assert "(00002)" in listing.split_rule
    assert (listing.lr_scale, listing.warnings) == (0, ())


def test_val_is_about_a_hundredth_and_does_not_depend_on_what_is_there(tmp_path: Path) -> None:
    train = [f"{folder:05d}/{number:04d}" for folder in range(1, 97) for number in range(1, 6)]
    root = data_set(tmp_path / "few", [], ["00001/0001"])
    (root / "sep_trainlist.txt").write_text("\n".join(train))
    listing = listed(root)
    assert "val is empty: its folders " in listing.warnings[-1]
    chosen = listing.warnings[-1].split("folders ")[1].split(" are")[0].split(", ")
    assert len(chosen) == 1
    sequence(root, f"sequences/{chosen[0]}/0003")
    listing = listed(root)
    assert listing.splits[f"{chosen[0]}/0003"] == "val"
    assert not any("val is empty" in warning for warning in listing.warnings)


def test_one_folder_is_never_divided(tmp_path: Path) -> None:
    listing = listed(data_set(tmp_path, ["00001/0001", "00001/0002"], ["00002/0001"]))
    assert set(listing.splits.values()) == {"train", "test"}
    assert listing.warnings == (
        "val is empty: the train list has one folder; shorten the train list to what is there",
    )


def test_clips_are_the_published_frames_in_order(tmp_path: Path) -> None:
    (item,) = listed(data_set(tmp_path, [], ["00001/0266"])).items
    (clip,) = item.clips()
    assert isinstance(clip, RawClip)
    assert clip.name == "00001/0266"
    for number, frame in enumerate(clip.frames, start=1):
        assert np.array_equal(frame.rgb, pixels(f"sequences/00001/0266{number}"))
        assert frame.original == (tmp_path / "sequences" / "00001/0266" / f"im{number}.png").read_bytes()


def test_lists_may_have_blank_lines_carriage_returns_and_marks(tmp_path: Path) -> None:
    root = data_set(tmp_path, ["00001/0001"], ["00002/0001"])
    (root / "sep_trainlist.txt").write_bytes(b"\xef\xbb\xbf\r\n00001/0001\r\n\r\n  00001/0001 \r\n")
    listing = listed(root)
    assert listing.splits == {"00001/0001": "train", "00002/0001": "test"}


def test_what_is_listed_but_incomplete_is_rejected(tmp_path: Path) -> None:
    root = data_set(tmp_path, ["00001/0001", "00001/0002", "00002/0001"], ["00003/0001", "00003/0002"])
    (root / "sequences/00001/0001/im4.png").unlink()
    (root / "sequences/00001/0001/im6.png").unlink()
    (root / "sep_trainlist.txt").write_text("00001/0001\n00002/0001\n00009/0001")
    sequence(root, "sequences/.hidden/0001")
    sequence(root, "sequences/00007/0001")
    Image.fromarray(pixels("x")).save(root / "sequences/00003/0002/im8.png")
    listing = listed(root)
    assert reasons(listing) == {
        "00001/0001": "missing im4.png, im6.png in sequences/00001/0001",
        "00009/0001": "listed, but there is no folder sequences/00009/0001",
        "00003/0002": "sequences/00003/0002 holds im8.png too, so it is no sequence of 7",
        "00001/0002": "not in sep_trainlist.txt or sep_testlist.txt",
        "00007/0001": "not in sep_trainlist.txt or sep_testlist.txt",
    }
    assert set(listing.splits) == {"00002/0001", "00003/0001"} == {item.source for item in listing.items}


def test_a_sequence_in_both_lists_is_only_tested(tmp_path: Path) -> None:
    root = data_set(tmp_path, ["00001/0001", "00002/0001"], ["00003/0001"])
    (root / "sep_testlist.txt").write_text("00003/0001\n00001/0001")
    listing = listed(root)
    assert listing.splits["00001/0001"] == "test"
    assert "1 sequences are in the train list and in the test list" in listing.warnings[0]


def test_target_is_the_truth_and_low_resolution_its_partner(tmp_path: Path) -> None:
    names = ["00001/0266", "00001/0268"]
    listing = listed(published_test(tmp_path, names, "target", "input", "low_resolution"))
    assert listing.lr_scale == 4
    assert listing.splits == dict.fromkeys(names, "test")
    assert listing.split_rule == "test by the test list; there is no train list"
    assert (listing.rejected, listing.warnings) == ((), ())
    (clip,) = listing.items[0].clips()
    assert isinstance(clip, RawClip)
    for number in range(1, 8):
        high = pixels(f"target/00001/0266{number}", 128, 64)
        low = pixels(f"low_resolution/00001/0266{number}", 32, 16)
        assert np.array_equal(clip.frames[number - 1].rgb, high)
        assert np.array_equal(clip.lr_frames[number - 1].rgb, low)


def test_low_resolution_must_be_complete_and_a_quarter(tmp_path: Path) -> None:
    names = ["00001/0001", "00001/0002", "00001/0003"]
    root = published_test(tmp_path, names, "target", "low_resolution")
    (root / "low_resolution/00001/0002/im3.png").unlink()
    for number in range(1, 8):
        Image.new("RGB", (64, 16)).save(root / f"low_resolution/00001/0003/im{number}.png")
    listing = listed(root)
    assert reasons(listing) == {"00001/0002": "missing im3.png in low_resolution/00001/0002"}
    assert len(list(listing.items[0].clips())) == 1
    with pytest.raises(
        UnusablePictureError, match=r"low_resolution/00001/0003/im1.png is 64x16, not 1/4 of 128x64"
    ):
        list(listing.items[1].clips())


def test_degraded_input_as_truth_is_warned_of(tmp_path: Path) -> None:
    listing = listed(published_test(tmp_path, ["00001/0266"], "input", "low_resolution"))
    assert listing.warnings[0].startswith("input/ is taken as ground truth")
    (clip,) = listing.items[0].clips()
    assert isinstance(clip, RawClip)
    assert np.array_equal(clip.frames[0].rgb, pixels("input/00001/02661", 128, 64))


def test_target_without_low_resolution_has_no_partners(tmp_path: Path) -> None:
    listing = listed(published_test(tmp_path, ["00001/0266"], "target", "input"))
    assert (listing.lr_scale, listing.warnings) == (0, ())


def test_sequences_go_before_a_test_set_beside_them(tmp_path: Path) -> None:
    root = data_set(tmp_path, ["00001/0001", "00002/0001"], ["00003/0001"])
    sequence(root, "target/00003/0001")
    sequence(root, "low_resolution/00003/0001", 7, 16, 16)
    listing = listed(root)
    assert len(listing.items) == 3
    assert listing.lr_scale == 0
    assert "target/, input/ and low_resolution/ beside it are not used" in listing.warnings[0]


def test_triplets_have_three_frames(tmp_path: Path) -> None:
    sequence(tmp_path, "sequences/00001/0001", 3)
    (tmp_path / "tri_testlist.txt").write_text("00001/0001\n")
    (item,) = listed(tmp_path, "vimeo-triplet").items
    (clip,) = item.clips()
    assert isinstance(clip, RawClip)
    assert len(clip.frames) == 3


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    root = data_set(tmp_path, [], ["00001/0001"])
    (root / "sequences/00001/0001/im4.png").write_bytes(b"x")
    (rejected,) = listed(root).items[0].clips()
    assert rejected == Rejected("sequences/00001/0001/im4.png", "not a picture by its content")


def test_missing_lists_and_folders_are_explained(tmp_path: Path) -> None:
    root = data_set(tmp_path / "outer" / "vimeo", ["00001/0001"], ["00002/0001"])
    with pytest.raises(
        ValueError, match=r"sep_trainlist.txt and sep_testlist.txt are not there; it is in vimeo/"
    ):
        listed(tmp_path / "outer")
    with pytest.raises(
        ValueError, match=r"tri_trainlist.txt and tri_testlist.txt are not there; give the folder"
    ):
        listed(root, "vimeo-triplet")
    (root / "sequences").rename(root / "other")
    with pytest.raises(ValueError, match="neither sequences/ nor target/ is there"):
        listed(root)


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc", "00001", "a/b/c", "00001/.."])
def test_lines_that_name_no_sequence_are_refused(tmp_path: Path, line: str) -> None:
    root = data_set(tmp_path, ["00001/0001"], ["00002/0001"])
    (root / "sep_testlist.txt").write_text(f"00002/0001\n{line}\n")
    with pytest.raises(ValueError, match=r"sep_testlist.txt: .* is no sequence such as 00001/0266"):
        listed(root)
