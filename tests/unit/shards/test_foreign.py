"""Tars that others wrote become a data set: the same pixels as WebDataset reads, and every bad sample by name."""

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from shards.agreement import SplitChoice
from shards.foreign import IndexOptions, IndexProgress, index_foreign
from shards.grouping import RoleChoice, split_name
from shards.manifest import Dataset, load
from shards.reader import read_clip
from shards.records import Rejected
from shards.verify import verify
from tests.unit.shards.conftest import array_item, noise_clip
from tests.unit.shards.tar_maker import Members, clip, clips, header_at, info, picture, tar_bytes, write_tar

ALL_TRAIN = SplitChoice(split="train")


def indexed(root: Path, *, splits: SplitChoice = ALL_TRAIN, **options: object) -> Dataset:
    chosen = IndexOptions(splits=splits, **options)  # type: ignore[arg-type]
    return index_foreign(root, chosen, on_progress=lambda _: None)


def of_members(root: Path, members: Members, **options: object) -> Dataset:
    """The data set of one tar."""
    write_tar(root / "some.tar", members)
    return indexed(root, **options)  # type: ignore[arg-type]


def keys(dataset: Dataset) -> list[str]:
    return [sample.key for sample in dataset.samples]


def reasons(dataset: Dataset) -> dict[str, str]:
    assert all(isinstance(row, Rejected) for row in dataset.description.rejected)
    return {row.source: row.reason for row in dataset.description.rejected}


def test_the_pixels_are_those_that_webdataset_reads(tmp_path: Path) -> None:
    members = [*clips(5), *clip("folder.d/x.y", 3, seed=9)]
    # A key ends at the first dot of the base name, wherever folders have theirs.
    dataset = of_members(tmp_path, members)
    stream = webdataset.WebDataset(str(tmp_path / "some.tar"), shardshuffle=False)
    read = {sample["__key__"]: sample for sample in stream}
    assert sorted(keys(dataset)) == sorted(read)
    assert "folder.d/x" in read
    for sample in dataset.samples:
        for frame, member in zip(read_clip(dataset, sample), sample.frames, strict=True):
            with Image.open(io.BytesIO(read[sample.key][member.name[len(sample.key) + 1 :]])) as image:
                assert np.array_equal(np.asarray(image).transpose(2, 0, 1), frame)


@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        "a.im1.png",
        "d/a.im1.png",
        "d.e/a.png",
        "./a.png",
        "a.",
        "a..png",
        "A.PNG",
        "__a__b.png",
        "a b.c d",
    ],
)
def test_names_are_divided_as_webdataset_does(name: str) -> None:
    assert split_name(name) == webdataset.tariterators.base_plus_ext(name)


@pytest.mark.parametrize("name", ["a", "d.e/a", ".hidden", "d/._a.png", "__meta__/a.png", "__index__"])
def test_what_webdataset_passes_over_is_in_no_sample(name: str) -> None:
    assert split_name(name) is None


def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    members = sorted(clip("a", 11))
    assert [name for name, _ in members][:3] == ["a.im1.png", "a.im10.png", "a.im11.png"]
    dataset = of_members(tmp_path, members)
    assert [m.name for m in dataset.samples[0].frames] == [f"a.im{n}.png" for n in range(1, 12)]
    expected = dict(members)
    for number, frame in enumerate(read_clip(dataset, dataset.samples[0]), start=1):
        with Image.open(io.BytesIO(expected[f"a.im{number}.png"])) as image:
            assert np.array_equal(np.asarray(image).transpose(2, 0, 1), frame)


ROLES: list[tuple[list[str], list[str], list[str]]] = [
    (["png"], ["png"], []),
    (["jpg", "cls", "txt", "json"], ["jpg"], []),
    (["0001.png", "0002.png"], ["0001.png", "0002.png"], []),
    (["frame_2.png", "frame_1.png"], ["frame_1.png", "frame_2.png"], []),
    (["frame000.png", "frame010.png", "frame020.png"], ["frame000.png", "frame010.png", "frame020.png"], []),
    (["hr.png", "lr.png"], ["hr.png"], ["lr.png"]),
    (["lr2.png", "im2.png", "lr1.png", "im1.png"], ["im1.png", "im2.png"], ["lr1.png", "lr2.png"]),
    (["LQ.PNG", "GT.PNG"], ["GT.PNG"], ["LQ.PNG"]),
    (["1.lr.png", "1.hr.png", "2.lr.png", "2.hr.png"], ["1.hr.png", "2.hr.png"], ["1.lr.png", "2.lr.png"]),
    (["png", "mask.png"], ["png"], []),
    (["left.png"], ["left.png"], []),
]


@pytest.mark.parametrize(("suffixes", "frames", "lr"), ROLES, ids=lambda value: " ".join(value))
def test_suffixes_tell_what_a_picture_is_for(
    tmp_path: Path, suffixes: list[str], frames: list[str], lr: list[str]
) -> None:
    members = [
        (f"a.{suffix}", picture(n, 24, 20) if f"{suffix}" not in lr else picture(n, 12, 10))
        for n, suffix in enumerate(suffixes)
    ]
    dataset = of_members(tmp_path, members)
    (sample,) = dataset.samples
    assert [m.name for m in sample.frames] == [f"a.{suffix}" for suffix in frames]
    assert [m.name for m in sample.lr_frames] == [f"a.{suffix}" for suffix in lr]
    assert dataset.description.lr_scale == (2 if lr else 0)
    assert sorted(m.name for m in sample.members) == sorted(name for name, _ in members)


UNCLEAR: list[tuple[list[str], str]] = [
    (["txt", "cls"], "holds no picture"),
    (["left.png", "right.png"], "holds several kinds of pictures: 'left', 'right'"),
    (["lr.png"], "holds low-resolution pictures only"),
    (["im1.png", "im2.png", "lr1.png"], "has 2 frames and 1 low-resolution partners"),
    (["im1.png", "im3.png"], "frame 2 is missing: there are 2 from 1 to 3"),
    (["im1.png", "im2.png", "im3.png", "im5.png"], "frame 4 is missing"),
    (["0.png", "10.png", "20.png", "40.png"], "frame 30 is missing"),
    (["im1.png", "im01.png"], "are both frame 1"),
    (["jpg", "png"], "has no number"),
]


@pytest.mark.parametrize(("suffixes", "reason"), UNCLEAR, ids=lambda value: str(value))
def test_a_sample_of_unclear_pictures_is_rejected_by_name(
    tmp_path: Path, suffixes: list[str], reason: str
) -> None:
    members = [(f"bad.{suffix}", picture(n)) for n, suffix in enumerate(suffixes)]
    dataset = of_members(tmp_path, [*clips(2, 1), *members])
    assert keys(dataset) == ["clip0", "clip1"]
    assert reason in reasons(dataset)["some.tar: bad"]


def test_the_user_can_say_which_pictures_are_which(tmp_path: Path) -> None:
    members = [("a.left.png", picture(1)), ("a.right.png", picture(2)), ("a.small.png", picture(3, 12, 10))]
    dataset = of_members(tmp_path, members, roles=RoleChoice(frames="right", lr="small"))
    assert [m.name for m in dataset.samples[0].frames] == ["a.right.png"]
    assert dataset.description.lr_scale == 2


@pytest.mark.parametrize(
    ("frames", "expected"), [(2, "has 2 frames, most samples have 3 frames"), (4, "has 4 frames")]
)
def test_another_number_of_frames_than_most_is_rejected(tmp_path: Path, frames: int, expected: str) -> None:
    dataset = of_members(tmp_path, [*clip("odd", frames, seed=9), *clips(3)])
    assert len(dataset.samples) == 3
    assert expected in reasons(dataset)["some.tar: odd"]


def test_another_scale_than_most_is_rejected(tmp_path: Path) -> None:
    def pair(key: str, seed: int, lr: tuple[int, int]) -> Members:
        return [(f"{key}.hr.png", picture(seed)), (f"{key}.lr.png", picture(seed + 50, *lr))]

    members = [
        *pair("a", 1, (12, 10)),
        *pair("b", 2, (12, 10)),
        *pair("c", 3, (6, 5)),
        *pair("d", 4, (11, 10)),
    ]
    dataset = of_members(tmp_path, members)
    assert keys(dataset) == ["a", "b"]
    assert "most samples have 1 frame with partners of scale 2" in reasons(dataset)["some.tar: c"]
    assert "no whole factor" in reasons(dataset)["some.tar: d"]


def test_frames_of_different_sizes_are_rejected(tmp_path: Path) -> None:
    members = [("bad.im1.png", picture(1)), ("bad.im2.png", picture(2, 25, 20)), *clips(2, 2)]
    assert "has 25x20 pixels" in reasons(of_members(tmp_path, members))["some.tar: bad"]


def test_grey_pictures_are_repeated_to_rgb(tmp_path: Path) -> None:
    dataset = of_members(tmp_path, [("a.png", picture(1, mode="L"))])
    pixels = read_clip(dataset, dataset.samples[0])
    assert dataset.samples[0].frames[0].channels == 1
    assert (pixels[:, 0] == pixels[:, 2]).all()
    assert pixels.shape == (1, 3, 20, 24)


def test_a_tar_of_other_formats_keeps_its_bytes(tmp_path: Path) -> None:
    members = [
        ("a.jpg", picture(1, kind="JPEG")),
        ("b.webp", picture(2, kind="WEBP")),
        ("c.jpeg", picture(3, kind="PNG")),
    ]
    dataset = of_members(tmp_path, members)
    assert [sample.frames[0].kind for sample in dataset.samples] == ["jpg", "webp", "png"]
    assert [len(read_clip(dataset, sample)) for sample in dataset.samples] == [1, 1, 1]


def test_a_repeated_key_is_rejected_whole(tmp_path: Path) -> None:
    again = [("clip0.im4.png", picture(99))]
    dataset = of_members(tmp_path, [*clips(3), *again])
    assert keys(dataset) == ["clip1", "clip2"]
    assert (
        "not side by side: the key comes at byte 0 and again at byte" in reasons(dataset)["some.tar: clip0"]
    )


def test_a_member_that_is_there_twice_rejects_its_sample(tmp_path: Path) -> None:
    bad = clip("bad", 3, seed=7)
    dataset = of_members(
        tmp_path, [*bad, bad[1], *clips(2), *clip("case", 3, seed=8), ("case.IM2.png", picture(5))]
    )
    assert keys(dataset) == ["clip0", "clip1"]
    assert "bad.im2.png is there twice" in reasons(dataset)["some.tar: bad"]
    assert "case.IM2.png is there twice" in reasons(dataset)["some.tar: case"]


def test_unsafe_names_are_rejected(tmp_path: Path) -> None:
    dataset = of_members(tmp_path, [*clips(2), *clip("../up", 3, seed=5), *clip("/abs", 3, seed=6)])
    assert keys(dataset) == ["clip0", "clip1"]
    assert "climbs out" in reasons(dataset)["some.tar: ../up"]
    assert "absolute" in reasons(dataset)["some.tar: /abs"]


def test_links_and_folders_are_named_and_never_followed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(info("folder", 0, tarfile.DIRTYPE))
        for name, data in clips(2):
            tar.addfile(info(name, len(data)), io.BytesIO(data))
        tar.addfile(info("bad.im1.png", 0, tarfile.SYMTYPE, str(tmp_path / "outside.png")))
    (tmp_path / "outside.png").write_bytes(picture(1))
    (tmp_path / "some.tar").write_bytes(buffer.getvalue())
    dataset = indexed(tmp_path)
    assert keys(dataset) == ["clip0", "clip1"]
    assert "a symbolic link" in reasons(dataset)["some.tar: bad.im1.png"]
    assert "a folder" in reasons(dataset)["some.tar: folder/"]


def test_pickles_are_kept_shut_and_told_once(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    import pickle

    evil = pickle.dumps(Evil())
    members = [
        pair
        for n in range(3)
        for pair in [*clip(f"c{n}", 1, seed=n), (f"c{n}.pyd", evil), (f"c{n}.pth", evil)]
    ]
    dataset = of_members(tmp_path, members)
    assert keys(dataset) == ["c0", "c1", "c2"]
    (warning,) = dataset.description.warnings
    assert "some.tar: some readers would run code from c0.pyd and 5 more members" in warning
    assert {m.kind for m in dataset.samples[0].members} == {"png", "other"}
    assert not (tmp_path / "ran").exists()


def test_hidden_members_and_those_without_a_suffix_are_named(tmp_path: Path) -> None:
    dataset = of_members(tmp_path, [("._clip0.im1.png", b"mac"), *clips(1), ("README", b"text")])
    assert reasons(dataset).keys() == {"some.tar: ._clip0.im1.png", "some.tar: README"}


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BAD_PICTURES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"hello", "not a PNG"),
    "cut": (picture(3)[:-40], ""),
    "flipped": (picture(3)[:200] + bytes([picture(3)[200] ^ 1]) + picture(3)[201:], ""),
    "huge": (bomb(20_000, 20_000), "Mpx"),
    "large": (bomb(12_000, 12_000), "Mpx"),
    "lying": (bomb(2000, 2000), ""),
    "tiny": (picture(3, 8, 8), "smaller than 16 px"),
    "zero": (bomb(0, 10), ""),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_rejects_its_sample(tmp_path: Path, name: str) -> None:
    data, reason = BAD_PICTURES[name]
    dataset = of_members(tmp_path, [*clips(2, 2), ("bad.im1.png", picture(1)), ("bad.im2.png", data)])
    assert keys(dataset) == ["clip0", "clip1"]
    assert reasons(dataset)["some.tar: bad"].startswith("bad.im2.png: ")
    assert reason in reasons(dataset)["some.tar: bad"]


def test_the_source_is_what_the_json_says(tmp_path: Path) -> None:
    tails = {
        "a": b'{"source": "video 1"}',
        "b": b"not json",
        "c": b'{"source": 5}',
        "d": b"[" * 100_000,
        "e": b'{"source": "\\ud800"}',
        "g": b'{"source": "\\u001b[2J"}',
        "f": b'{"source": "x", "pad": "' + b"x" * 2**20 + b'"}',
    }
    members = [
        pair for n, key in enumerate(tails) for pair in [*clip(key, 1, seed=n), (f"{key}.json", tails[key])]
    ]
    dataset = of_members(tmp_path, members)
    assert [sample.source for sample in dataset.samples] == ["video 1", "b", "c", "d", "e", "f", "g"]
    assert [text.split(": ")[1] for text in dataset.description.warnings] == ["b.json", "d.json", "g.json"]


def with_damage(data: bytes) -> dict[str, bytes]:
    at = header_at(data, "clip2.im2.png")
    flipped = bytearray(data)
    flipped[at + 3] ^= 1
    return {
        "truncated inside member clip2.im2.png": data[: at + 700],
        "truncated inside the tar header": data[: at + 100],
        "truncated at a member boundary": data[:at],
        "damaged tar header": bytes(flipped),
    }


@pytest.mark.parametrize("what", with_damage(tar_bytes(clips(4))))
def test_a_damaged_tar_is_an_error_or_gives_what_stands_in_front(tmp_path: Path, what: str) -> None:
    (tmp_path / "some.tar").write_bytes(with_damage(tar_bytes(clips(4)))[what])
    with pytest.raises(
        ValueError, match=f"some.tar: {what}.*; copy or write these again, or use .* --keep-going"
    ):
        indexed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["some.tar"]
    dataset = indexed(tmp_path, keep_going=True)
    assert keys(dataset) == ["clip0", "clip1"]
    assert "may be incomplete" in reasons(dataset)["some.tar: clip2"]
    assert what in reasons(dataset)["some.tar"]


def test_what_stands_in_front_of_the_end_mark_is_whole(tmp_path: Path) -> None:
    (tmp_path / "some.tar").write_bytes(tar_bytes(clips(2)) + tar_bytes(clip("lost", 3, seed=9)))
    with pytest.raises(ValueError, match=r"bytes follow the end mark.*tars joined"):
        indexed(tmp_path)
    dataset = indexed(tmp_path, keep_going=True)
    assert keys(dataset) == ["clip0", "clip1"]
    assert reasons(dataset).keys() == {"some.tar"}


def test_all_damaged_tars_are_named_at_once(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"0\.tar: truncated.*; 4\.tar: truncated.*; and 2 more tars"):
        indexed(tmp_path)


def test_an_unsorted_tar_has_no_usable_sample_and_says_why(tmp_path: Path) -> None:
    members = [
        member
        for group in zip(*[clip(f"c{n}", 7, seed=n) for n in range(10)], strict=True)
        for member in group
    ]
    with pytest.raises(
        ValueError, match=r"no usable sample .*c0: its members are not side by side.*sorted by name"
    ):
        of_members(tmp_path, members)


def test_an_empty_tar_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "empty.tar", [])
    dataset = of_members(tmp_path, clips(2))
    assert reasons(dataset) == {"empty.tar": "an empty tar"}
    assert [(shard.file, shard.num_samples) for shard in dataset.shards] == [
        ("empty.tar", 0),
        ("some.tar", 2),
    ]


def test_keys_that_several_tars_use_get_the_name_of_the_tar(tmp_path: Path) -> None:
    for number in range(2):
        members = [member for n in range(2) for member in clip(f"000{n}", 1, seed=10 * number + n)]
        write_tar(tmp_path / f"part{number}.tar", [*members, *clip(f"only{number}", 1, seed=50 + number)])
    dataset = indexed(tmp_path)
    assert keys(dataset) == ["only0", "only1", "part0/0000", "part0/0001", "part1/0000", "part1/0001"]
    assert [sample.source for sample in dataset.samples] == keys(dataset)
    assert read_clip(dataset, dataset.samples[5]).shape == (1, 3, 20, 24)
    assert verify(tmp_path, on_progress=lambda _: None) == []


def test_the_same_pictures_twice_are_kept_once(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", [*clip("a", 1, seed=1), *clip("b", 1, seed=2)])
    write_tar(tmp_path / "test-0.tar", [*clip("x", 1, seed=2), *clip("y", 1, seed=3)])
    dataset = indexed(tmp_path, splits=SplitChoice())
    # Benchmarks stay complete: it is the train sample that goes.
    assert keys(dataset) == ["a", "x", "y"]
    assert reasons(dataset) == {"train-0.tar: b": "the same pictures as test-0.tar: x"}


def test_near_duplicates_across_splits_are_named(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    image = Image.fromarray(rows).resize((120, 100), Image.Resampling.BICUBIC)
    files: list[bytes] = []
    for quality in (95, 60):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    write_tar(tmp_path / "train-0.tar", [("a.jpg", files[0]), *clip("b", 1, seed=5)])
    write_tar(tmp_path / "test-0.tar", [("c.jpg", files[1])])
    (pair,) = indexed(tmp_path, splits=SplitChoice()).description.near_duplicates
    assert (pair.first, pair.second) == ("a", "c")
    unchecked = indexed(tmp_path, splits=SplitChoice(), check_leaks=False, force=True)
    assert unchecked.description.near_duplicates == ()


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-0.tar", "val-0.tar", "test-0.tar"], ["train", "val", "test"]),
        (["x_train_1.tar", "x_validation_1.tar"], ["train", "val"]),
        (["Train-0.tar", "valid-0.tar"], ["train", "val"]),
    ],
)
def test_names_of_tars_tell_the_split(tmp_path: Path, names: list[str], splits: list[str]) -> None:
    for number, name in enumerate(names):
        write_tar(tmp_path / name, clip(f"k{number}", 1, seed=number))
    dataset = indexed(tmp_path, splits=SplitChoice())
    assert {sample.shard: sample.split for sample in dataset.samples} == dict(zip(names, splits, strict=True))
    assert "by the names of the tars" in dataset.description.split_rule
    assert {shard.file: shard.split for shard in dataset.shards} == dict(zip(names, splits, strict=True))


def test_names_that_tell_the_split_of_some_tars_only_are_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", clip("a", 1, seed=1))
    write_tar(tmp_path / "more.tar", clip("b", 1, seed=2))
    with pytest.raises(ValueError, match=r"more\.tar is without a split in the name .* --split train"):
        indexed(tmp_path, splits=SplitChoice())
    assert {sample.split for sample in indexed(tmp_path).samples} == {"train"}


def test_without_names_sources_are_split_by_hash_and_stay_together(tmp_path: Path) -> None:
    members: Members = []
    for number in range(60):
        tail = json.dumps({"source": f"video{number // 3}"}).encode()
        members += [*clip(f"k{number}", 1, seed=number), (f"k{number}.json", tail)]
    dataset = of_members(tmp_path, members, splits=SplitChoice())
    by_source: dict[str, set[str]] = {}
    for sample in dataset.samples:
        by_source.setdefault(sample.source, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in by_source.values())
    assert {split for splits in by_source.values() for split in splits} == {"train", "val", "test"}
    other = indexed(tmp_path, splits=SplitChoice(fractions={"train": 0.5, "test": 0.5}), force=True)
    assert {sample.split for sample in other.samples} == {"train", "test"}
    assert verify(tmp_path, on_progress=lambda _: None) == []


@pytest.mark.parametrize(
    "choice",
    [
        SplitChoice("train", {"train": 1.0}),
        SplitChoice("training"),
        SplitChoice(fractions={"train": 0.5}),
        SplitChoice(fractions={"train": 2.0, "val": -1.0}),
        SplitChoice(fractions={"dev": 1.0}),
        SplitChoice(fractions={"train": float("nan"), "val": 1.0}),
    ],
)
def test_a_wrong_choice_of_splits_is_an_error(tmp_path: Path, choice: SplitChoice) -> None:
    with pytest.raises(ValueError, match=r"^split: "):
        of_members(tmp_path, clips(1), splits=choice)


@pytest.mark.parametrize("profile", ["png-banded", "png-keep", "raw", "webp"])
@pytest.mark.parametrize("lr_scale", [0, 2])
def test_a_packed_data_set_gets_its_lost_index_back(
    tmp_path: Path, pack_items: Callable[..., Dataset], profile: str, lr_scale: int
) -> None:
    items = [
        array_item(
            f"video {n}/ü.mp4",
            *(
                noise_clip(f"video {n}/{c}", frames=3, width=40, height=150, lr_scale=lr_scale)
                for c in range(2)
            ),
        )
        for n in range(6)
    ]
    listing = {"lr_scale": lr_scale}
    packed = pack_items(*items, listing=listing, profile=profile, shard_bytes=300_000)
    assert len(packed.shards) > 3
    copy = tmp_path / "copy"
    shutil.copytree(packed.root, copy)
    (copy / "dataset.json").unlink()
    (copy / "index.bin").unlink()
    rebuilt = indexed(copy, splits=SplitChoice())
    assert rebuilt.fingerprint == packed.fingerprint
    assert rebuilt.samples == packed.samples
    assert rebuilt.shards == packed.shards
    assert rebuilt.description.lr_scale == packed.description.lr_scale
    # These frames have no original bytes to keep, so they are banded too.
    assert rebuilt.description.profile == ("png-banded" if profile == "png-keep" else profile)
    assert (copy / "index.bin").read_bytes() == (packed.root / "index.bin").read_bytes()
    assert verify(copy, deep=True, on_progress=lambda _: None) == []


def test_notes_of_a_packed_sample_come_back(
    tmp_path: Path, save: Callable[..., object], pack_folder: Callable[..., Dataset]
) -> None:
    save("a.png")
    save("b.png")
    Image.new("L", (30, 30), 9).save(tmp_path / "pictures" / "grey.png")
    packed = pack_folder()
    rebuilt = indexed(packed.root, splits=SplitChoice(), force=True)
    assert rebuilt.samples == packed.samples
    assert any(sample.notes for sample in rebuilt.samples)


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(
            tmp_path / f"train-{number}.tar",
            [*clip(f"k{number}", 2, seed=number), (f"bad{number}.png", b"x")],
        )
    calls: list[IndexProgress] = []
    alone = indexed(tmp_path, splits=SplitChoice())
    options = IndexOptions(jobs=2, force=True)
    together = index_foreign(tmp_path, options, on_progress=calls.append)
    assert together.samples == alone.samples
    assert together.description == alone.description
    reading = [call.current for call in calls if call.phase == "reading"]
    assert sorted(reading) == [f"train-{number}.tar" for number in range(3)]
    assert calls[-1].done == calls[-1].total == sum(shard.size for shard in alone.shards)


def test_tars_are_never_changed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "some.tar", clips(2))
    path.chmod(0o444)
    before = path.read_bytes(), path.stat().st_mtime_ns
    indexed(tmp_path)
    indexed(tmp_path, force=True)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset.json", "index.bin", "some.tar"]


def test_an_index_is_replaced_only_by_force(tmp_path: Path) -> None:
    of_members(tmp_path, clips(2))
    with pytest.raises(ValueError, match=r"has a file dataset.json already; replace it with --force"):
        indexed(tmp_path)
    write_tar(tmp_path / "some.tar", clips(3))
    assert len(indexed(tmp_path, force=True).samples) == 3
    assert len(load(tmp_path).samples) == 3


def test_a_lone_index_file_counts_as_one_too(tmp_path: Path) -> None:
    (tmp_path / "index.bin").write_bytes(b"somebody's")
    with pytest.raises(ValueError, match=r"has a file index.bin already"):
        of_members(tmp_path, clips(2))
    assert (tmp_path / "index.bin").read_bytes() == b"somebody's"


def test_a_failure_leaves_the_old_index(tmp_path: Path) -> None:
    of_members(tmp_path, clips(2))
    before = (tmp_path / "dataset.json").read_bytes()
    (tmp_path / "some.tar").write_bytes(tar_bytes(clips(2))[:3000])
    with pytest.raises(ValueError, match="truncated"):
        indexed(tmp_path, force=True)
    assert (tmp_path / "dataset.json").read_bytes() == before


def test_folders_without_usable_tars_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        indexed(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no \.tar files"):
        indexed(tmp_path)
    write_tar(tmp_path / "train" / "0.tar", clips(1))
    write_tar(tmp_path / "val" / "0.tar", clips(1))
    with pytest.raises(ValueError, match="train, val are where its tars lie"):
        indexed(tmp_path)
    (tmp_path / "more.tar.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(ValueError, match=r"more\.tar\.gz is compressed.*gunzip"):
        indexed(tmp_path)


def test_a_tar_with_an_unprintable_name_is_a_clear_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "a\x1b[2Jb.tar", clips(1))
    with pytest.raises(ValueError, match=r"rename that tar") as caught:
        indexed(tmp_path)
    assert "\x1b" not in str(caught.value)


def test_jobs_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs: must be 1 or more, got 0"):
        of_members(tmp_path, clips(1), jobs=0)
