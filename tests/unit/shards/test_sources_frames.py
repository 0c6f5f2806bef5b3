"""Sequences of frames: numbering, gaps, sizes, damage, clips."""

import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards.picture import UnusablePictureError
from shards.records import Rejected
from shards.sources import SOURCES, Item, Listing, RawClip, SourceOptions
from shards.sources.numbering import find_runs
from shards.sources.window import ClipWindow, num_clips


def save(root: Path, name: str, width: int = 24, height: int = 20, mode: str = "RGB") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(values).convert(mode).save(path)


def sequence(root: Path, folder: str, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        save(root, f"{folder}/{number:08d}.png")


def listed(root: Path, **options: int) -> Listing:
    return SOURCES["frames"].list(root, SourceOptions(**options))


def reasons(listing: Listing) -> list[tuple[str, str]]:
    return [(one.source, one.reason) for one in listing.rejected]


def first_values(clip: RawClip | Rejected) -> list[int]:
    assert isinstance(clip, RawClip)
    return [int(frame.rgb[0, 0, 0]) for frame in clip.frames]


def value_of(name: str) -> int:
    return int(
        np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (20, 24, 3), np.uint8)[0, 0, 0]
    )


def frames_of(item: Item) -> list[tuple[str, list[int]]]:
    return [(clip.name, first_values(clip)) for clip in item.clips() if isinstance(clip, RawClip)]


@pytest.mark.parametrize(
    ("options", "starts", "length"),
    [
        ({}, [0, 7], 7),
        ({"frames": 5}, [0, 5, 10], 5),
        ({"frames": 5, "stride": 2}, [0, 2, 4, 6, 8, 10], 5),
        ({"frames": 3, "stride": 6}, [0, 6, 12], 3),
        ({"frames": 1, "stride": 1}, list(range(16)), 1),
        ({"frames": 16}, [0], 16),
    ],
)
def test_clips_are_consecutive_frames(
    tmp_path: Path, options: dict[str, int], starts: list[int], length: int
) -> None:
    sequence(tmp_path, "000", 16)
    (item,) = listed(tmp_path, **options).items
    assert (item.name, item.source) == ("000", "000")
    expected = [
        [value_of(f"000/{number:08d}.png") for number in range(start, start + length)] for start in starts
    ]
    names = [f"000/{start:06d}" for start in starts] if len(starts) > 1 else ["000"]
    assert frames_of(item) == list(zip(names, expected, strict=True))


def test_names_are_sorted_by_their_numbers(tmp_path: Path) -> None:
    for number in range(1, 12):
        save(tmp_path, f"walk/im{number}.png")
    (item,) = listed(tmp_path, frames=11).items
    assert frames_of(item) == [("walk", [value_of(f"walk/im{number}.png") for number in range(1, 12)])]


def test_no_clip_spans_a_missing_frame(tmp_path: Path) -> None:
    sequence(tmp_path, "000", 4)
    sequence(tmp_path, "000", 7, start=5)
    listing = listed(tmp_path, frames=3)
    (item,) = listing.items
    assert [name for name, _ in frames_of(item)] == ["000/000000", "000/000004", "000/000007"]
    assert reasons(listing) == [
        ("000", "frames are missing between 00000003.png and 00000005.png; no clip spans them")
    ]
    assert "2 of 11 frames are in no clip" in listing.warnings[0]


def test_short_runs_and_lonely_pictures_are_rejected(tmp_path: Path) -> None:
    sequence(tmp_path, "a", 5)
    sequence(tmp_path, "b", 7)
    save(tmp_path, "c/one.png")
    save(tmp_path, "d.png")
    listing = listed(tmp_path)
    assert [item.name for item in listing.items] == ["b"]
    assert reasons(listing) == [
        ("d.png", "a single picture in its folder, no sequence"),
        (
            "a",
            "only 5 consecutive frames (00000000.png to 00000004.png), where a clip has 7; choose frames=5",
        ),
        ("c/one.png", "a single picture in its folder, no sequence"),
    ]


def test_a_sequence_of_several_sizes_is_rejected_as_a_whole(tmp_path: Path) -> None:
    sequence(tmp_path, "000", 8)
    save(tmp_path, "000/00000007.png", width=30)
    (item,) = listed(tmp_path).items
    with pytest.raises(UnusablePictureError, match=r"000/00000000.png is 24x20, 000/00000007.png is 30x20"):
        next(item.clips())


def test_frames_that_differ_once_they_are_upright_are_rejected(tmp_path: Path) -> None:
    sequence(tmp_path, "000", 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 20)).save(tmp_path / "000" / "00000006.png", exif=exif)
    (item,) = listed(tmp_path).items
    with pytest.raises(UnusablePictureError, match="differ in size once they are upright"):
        list(item.clips())


def test_a_damaged_frame_is_named_and_no_clip_spans_it(tmp_path: Path) -> None:
    sequence(tmp_path, "000", 9)
    path = tmp_path / "000" / "00000004.png"
    path.write_bytes(path.read_bytes()[:200])
    (item,) = listed(tmp_path, frames=3).items
    clips = list(item.clips())
    assert [
        clip.name if isinstance(clip, RawClip) else (clip.source, clip.reason[:14]) for clip in clips
    ] == [
        "000/000000",
        ("000/00000004.png", "cannot be read"),
        "000/000005",
    ]


def test_frames_between_clips_are_not_even_read(tmp_path: Path) -> None:
    sequence(tmp_path, "000", 9)
    (tmp_path / "000" / "00000004.png").write_bytes(b"")
    (item,) = listed(tmp_path, frames=3, stride=6).items
    assert [name for name, _ in frames_of(item)] == ["000/000000", "000/000006"]


def test_what_was_converted_is_noted_once_and_bytes_are_kept(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path, f"000/{number}.png", mode="L" if number else "RGB")
    (item,) = listed(tmp_path, frames=3).items
    (clip,) = item.clips()
    assert isinstance(clip, RawClip)
    assert clip.notes == ("grey to RGB",)
    assert [frame.original_kind for frame in clip.frames] == ["png", "", ""]
    assert clip.frames[0].original == (tmp_path / "000" / "0.png").read_bytes()


def test_a_folder_that_is_itself_a_sequence_has_its_name(tmp_path: Path) -> None:
    sequence(tmp_path, "walk", 7)
    (item,) = listed(tmp_path / "walk").items
    assert item.name == "walk"
    assert len(list(item.clips())) == 1


def test_a_sequence_named_like_a_clip_of_another_is_rejected(tmp_path: Path) -> None:
    sequence(tmp_path, "a", 14)
    sequence(tmp_path, "a/000007", 7)
    sequence(tmp_path, "a/b", 7)
    listing = listed(tmp_path)
    assert [item.name for item in listing.items] == ["a", "a/b"]
    assert reasons(listing) == [("a/000007", "its name is that of a clip of a; rename the folder")]


def test_irregular_numbers_and_no_numbers_are_warned_of(tmp_path: Path) -> None:
    for number in (3, 10, 14, 29, 31, 50):
        save(tmp_path, f"a/{number}.png")
    for letter in "xyz":
        save(tmp_path, f"b/{letter}.png")
    listing = listed(tmp_path, frames=3)
    assert [len(frames_of(item)) for item in listing.items] == [2, 1]
    assert listing.warnings[0].startswith("2 sequences have no regular frame numbers (first: a/3.png)")


@pytest.mark.parametrize("top", ["", "train/"])
def test_reds_is_split_by_its_folders_and_blur_is_no_truth(tmp_path: Path, top: str) -> None:
    sequence(tmp_path, f"{top}train_sharp/000", 7)
    sequence(tmp_path, f"{top}train_blur/000", 7)
    sequence(tmp_path, "train_sharp_bicubic/X4/000", 7)
    assert listed(tmp_path).splits == {}
    sequence(tmp_path, f"{top}val_sharp/000", 7)
    listing = listed(tmp_path)
    assert listing.splits == {f"{top}train_sharp/000": "train", f"{top}val_sharp/000": "val"}
    assert [item.name for item in listing.items] == list(listing.splits)
    assert {source for source, _ in reasons(listing)} == {
        f"{top}train_blur/000",
        "train_sharp_bicubic/X4/000",
    }
    assert "REDS" in listing.split_rule


def test_folders_that_sound_degraded_are_warned_of(tmp_path: Path) -> None:
    sequence(tmp_path, "walk/blur", 7)
    assert "walk/blur: by its name it holds degraded pictures" in listed(tmp_path).warnings[0]


@pytest.mark.parametrize(
    ("names", "runs"),
    [
        (["0001x4.png", "0002x4.png", "0003x4.png"], [["0001x4.png", "0002x4.png", "0003x4.png"]]),
        (
            ["c1_0.png", "c1_1.png", "c2_0.png", "c2_1.png"],
            [["c1_0.png", "c1_1.png"], ["c2_0.png", "c2_1.png"]],
        ),
        (
            ["0_left.png", "0_right.png", "1_left.png", "1_right.png"],
            [["0_left.png", "1_left.png"], ["0_right.png", "1_right.png"]],
        ),
        (["0.png", "2.png", "4.png", "8.png"], [["0.png", "2.png", "4.png"], ["8.png"]]),
        (["f1_t0.png", "f2_t40.png", "f3_t80.png"], [["f1_t0.png", "f2_t40.png", "f3_t80.png"]]),
        (["f9_t3.png", "f10_t40.png", "f1_t0.png"], [["f1_t0.png", "f9_t3.png", "f10_t40.png"]]),
        (["9.png", "10.png", "11.png"], [["9.png", "10.png", "11.png"]]),
        (["0.png", "1.png", "3.png", "5.png"], [["0.png", "1.png"], ["3.png"], ["5.png"]]),
        (["a.png", "a1.png", "a2.png"], [["a.png"], ["a1.png", "a2.png"]]),
        (["٣.png", "٤.png"], [["٣.png", "٤.png"]]),
    ],
)
def test_runs_by_names(names: list[str], runs: list[list[str]]) -> None:
    found = sorted(map(list, find_runs(names).runs))
    assert found == sorted(runs)
    assert sorted(map(list, find_runs(reversed(names)).runs)) == found


def test_two_files_of_one_number_are_no_neighbours() -> None:
    found = find_runs(["1.png", "01.png", "1.jpg", "2.png"])
    assert found.runs == (("01.png", "2.png"),)
    assert found.repeated == (("1.jpg", "01.png"), ("1.png", "01.png"))


@given(
    st.sets(st.integers(0, 60), min_size=2),
    st.sampled_from(["{:08d}.png", "im{}.png", "v2_{:03d}x4.png", "{} (copy).jpg"]),
)
def test_every_file_is_in_one_run_and_runs_have_no_gap(numbers: set[int], pattern: str) -> None:
    names = {pattern.format(number): number for number in numbers}
    found = find_runs(names)
    assert sorted(name for run in found.runs for name in run) == sorted(names)
    if not found.irregular:
        steps = {names[b] - names[a] for run in found.runs for a, b in pairwise(run)}
        assert len(steps) <= 1
        assert len(found.gaps) == len(found.runs) - 1


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 12), st.sets(st.integers(0, 39), max_size=3))
def test_a_window_gives_every_clip_between_two_cuts(
    count: int, frames: int, stride: int, cuts: set[int]
) -> None:
    window: ClipWindow[int] = ClipWindow(frames, stride)
    clips: list[tuple[int, ...]] = []
    for number in range(count):
        if number in cuts:
            window.restart()
        if not window.skip() and (clip := window.push(number)):
            clips.append(clip)
    borders = [0, *sorted(cut for cut in cuts if 0 < cut < count), count]
    expected = [
        tuple(range(start, start + frames))
        for first, last in pairwise(borders)
        for start in range(first, last - frames + 1, stride)
    ]
    assert clips == expected
    assert num_clips(count, frames, stride) == len(range(0, count - frames + 1, stride))
