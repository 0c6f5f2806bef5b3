"""What goes in comes out, in plain tars, the same every time; what does not go in is named."""

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from shards import pack as pack_module
from shards.keys import keys_for
from shards.manifest import Dataset, load
from shards.pack import PackInterrupted, PackOptions, PackProgress, pack
from shards.picture import UnusablePictureError
from shards.profiles import PROFILES
from shards.reader import read_clip
from shards.records import Rejected
from shards.sources.base import RawClip
from tests.unit.shards.conftest import array_item, noise_clip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def reasons(dataset: Dataset) -> dict[str, str]:
    return {rejected.source: rejected.reason for rejected in dataset.description.rejected}


def test_pixels_come_back_bit_for_bit(save: Callable, pack_folder: Callable) -> None:
    written = {f"{n}/p{n}.png": save(f"{n}/p{n}.png", 20 + n, 40 - n) for n in range(9)}
    dataset = pack_folder()
    assert {sample.source for sample in dataset.samples} == set(written)
    for sample in dataset.samples:
        clip = read_clip(dataset, sample)
        assert clip.dtype == np.uint8
        assert np.array_equal(clip, written[sample.source].transpose(2, 0, 1)[None])
        assert (sample.height, sample.width) == clip.shape[2:]


def test_the_same_input_gives_the_same_bytes(save: Callable, pack_folder: Callable, tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "ä/c.png", "d.png"):
        save(name)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no")
    (tmp_path / "pictures" / "cut.png").write_bytes((tmp_path / "pictures" / "a.png").read_bytes()[:400])
    pack_folder("one")
    copy = tmp_path / "elsewhere" / "pictures"
    shutil.copytree(tmp_path / "pictures", copy)
    for path in copy.rglob("*.png"):
        os.utime(path, (1, 1))
    pack("folder", copy, tmp_path / "two", PackOptions(), on_progress=lambda _: None)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert str(tmp_path).encode() not in b"".join(contents(tmp_path / "one").values())


def test_one_pixel_changes_the_fingerprint(save: Callable, pack_folder: Callable, tmp_path: Path) -> None:
    pixels = save("a.png")
    save("b.png")
    before = pack_folder("one").fingerprint
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "pictures" / "a.png")
    assert pack_folder("two").fingerprint != before


def test_pythons_tarfile_reads_plain_ustar(save: Callable, pack_folder: Callable, tmp_path: Path) -> None:
    for number in range(12):
        save(f"{number}.png")
    save("Z.png")  # As a path before, as a key behind the next one.
    save("a.png")
    dataset = pack_folder(split={"train": 1.0})
    (shard,) = dataset.shards
    names: list[str] = []
    with tarfile.open(dataset.root / shard.file, "r:") as tar:
        assert not tar.pax_headers
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (
                0,
                0,
                0,
                "",
                "",
                0o644,
            )
            assert info.isreg()
            names.append(info.name)
        for sample in dataset.samples:
            assert tar.getmember(sample.members[0].name).offset_data == sample.members[0].offset
            assert [tar.getmember(m.name).size for m in sample.members] == [m.size for m in sample.members]
            tail = tar.extractfile(f"{sample.key}.json")
            assert tail is not None
            row = json.load(tail)
            assert (row["source"], row["split"], row["width"], row["frames"]) == (
                sample.source,
                "train",
                24,
                1,
            )
    assert names == [name for s in dataset.samples for name in (f"{s.key}.im1.png", f"{s.key}.json")]
    assert [s.key for s in dataset.samples] == sorted(s.key for s in dataset.samples)
    assert (dataset.root / shard.file).read_bytes()[257:265] == b"ustar\x0000"


def test_webdataset_reads_every_sample(save: Callable, pack_folder: Callable) -> None:
    written = {f"ü {n}.png": save(f"ü {n}.png") for n in range(7)}
    dataset = pack_folder(split={"train": 1.0}, shard_bytes=6000)
    assert len(dataset.shards) > 1
    urls = [str(dataset.root / shard.file) for shard in dataset.shards]
    seen: list[str] = []
    for row in webdataset.WebDataset(  # pyright: ignore[reportAttributeAccessIssue]
        urls, shardshuffle=False
    ).decode("rgb8"):
        source = row["json"]["source"]
        assert np.array_equal(row["im1.png"], written[source])
        seen.append(row["__key__"])
    assert seen == [sample.key for sample in dataset.samples]


def test_shards_stay_below_their_limit_and_count_their_samples(save: Callable, pack_folder: Callable) -> None:
    for number in range(10):
        save(f"{number}.png")
    dataset = pack_folder(split={"train": 1.0}, shard_bytes=8000)
    assert [shard.file for shard in dataset.shards] == [
        f"train-{n:06d}.tar" for n in range(len(dataset.shards))
    ]
    assert sum(shard.num_samples for shard in dataset.shards) == 10
    ends = {s.shard: s.members[-1].offset + s.members[-1].size for s in dataset.samples}
    assert max(ends.values()) <= 8000
    for shard in dataset.shards:
        assert shard.size == (dataset.root / shard.file).stat().st_size


def test_every_file_that_is_not_packed_is_named(
    save: Callable, pack_folder: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    save("good.png", seed=1)
    save("sub/again.PNG", seed=1)
    save("tiny.png", 15, 40)
    save("no ending")
    for name in (".hidden.png", ".folder/a.png"):
        save(name)
    (folder / "notes.txt").write_text("hello")
    (folder / "text.png").write_text("hello")
    (folder / "zero.jpg").touch()
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:300])
    (folder / "nowhere.png").symlink_to(folder / "not there")
    os.mkfifo(folder / "pipe.png")
    found = reasons(pack_folder())
    cut = found.pop("cut.png")
    assert cut.startswith("cannot be read: ")
    assert found == {
        "no ending": "not a picture by its ending (none)",
        "notes.txt": "not a picture by its ending (.txt)",
        "nowhere.png": "a link to a file that does not exist",
        "pipe.png": "not a regular file",
        "sub/again.PNG": "same pixels as good.png",
        "text.png": "not a picture by its content",
        "tiny.png": "smaller than 16 px (15x40)",
        "zero.jpg": "empty file (0 bytes)",
    }


def test_notes_reach_the_index_and_the_tar(pack_folder: Callable, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100).save(
        tmp_path / "pictures" / "a.png"
    )
    dataset = pack_folder()
    assert dataset.samples[0].notes == ("16-bit to 8-bit", "grey to RGB")
    with tarfile.open(dataset.root / dataset.shards[0].file) as tar:
        tail = tar.extractfile("a.json")
        assert tail is not None
        assert json.load(tail)["notes"] == ["16-bit to 8-bit", "grey to RGB"]


@pytest.mark.parametrize(
    "name",
    ["日本語.png", "a b\tc.png", "x.y.z.PNG", "Ünï/ćödé.png", "-.png", "n" * 200 + ".png", "q'\"\n.png"],
)
def test_odd_names_are_kept_as_sources_and_tamed_as_keys(
    save: Callable, pack_folder: Callable, name: str
) -> None:
    save(name)
    (sample,) = pack_folder().samples
    assert sample.source == name
    assert len(sample.key) <= 69
    assert set(sample.key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


def test_names_that_are_not_utf_8_do_no_harm(pack_folder: Callable, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    raw = os.fsencode(tmp_path / "pictures") + b"/caf\xe9.png"
    with Path(os.fsdecode(raw)).open("wb") as file:
        Image.new("RGB", (20, 20)).save(file, "PNG")
    dataset = pack_folder()
    assert dataset.samples[0].source == os.fsdecode(b"caf\xe9.png")
    assert load(dataset.root).samples == dataset.samples


def test_keys_are_stable_plain_and_unique() -> None:
    names = ["a.png", "b/c.png", "DSC_1.JPG", "é.png", "x.y.png", "two.png", "two.jpg", "p/q.png", "p_q.png"]
    keys = keys_for(names)
    assert [keys[name] for name in names[:3]] == ["a", "b_c", "dsc_1"]
    assert len(set(keys.values())) == len(names)
    for name in names[3:]:
        assert keys[name][-9] == "-", name
    assert keys["é.png"].startswith("e-")
    assert keys_for(["é.png"])["é.png"] == keys["é.png"]


def test_keys_of_clips_keep_the_order_of_time_and_tell_videos_apart() -> None:
    names = [f"Trip/one.mp4/{start:06d}" for start in (0, 7, 1400)]
    keys = keys_for(names)
    assert list(keys.values()) == ["trip_one_000000", "trip_one_000007", "trip_one_001400"]
    both = keys_for(["a.mp4/000000", "a.mkv/000000", "b.mp4/000000"])
    assert len(set(both.values())) == 3
    assert both["b.mp4/000000"] == "b_000000"


def test_links_are_followed_but_not_in_circles(save: Callable, pack_folder: Callable, tmp_path: Path) -> None:
    save("a/one.png")
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("RGB", (20, 20)).save(outside / "two.png")
    (tmp_path / "pictures" / "b").symlink_to(outside)
    (tmp_path / "pictures" / "a" / "loop").symlink_to(tmp_path / "pictures")
    (outside / "self").symlink_to(outside)
    dataset = pack_folder()
    assert {sample.source for sample in dataset.samples} == {"a/one.png", "b/two.png"}
    assert set(reasons(dataset)) == {"a/loop", "b/self"}


def test_nothing_usable_says_why(pack_folder: Callable, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match=r"no usable picture .it holds no files"):
        pack_folder()
    (tmp_path / "pictures" / "a.txt").write_text("x")
    (tmp_path / "pictures" / "b.png").write_text("x")
    with pytest.raises(
        ValueError, match=r"a.txt: not a picture by its ending .*b.png: not a picture by its content"
    ):
        pack_folder()
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_an_existing_place_is_replaced_only_by_force(
    save: Callable, pack_folder: Callable, tmp_path: Path
) -> None:
    save("a.png")
    first = pack_folder()
    save("b.png")
    with pytest.raises(ValueError, match=r"exists already.*--force"):
        pack_folder()
    assert load(first.root).fingerprint == first.fingerprint
    assert len(pack_folder(force=True).samples) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pictures"]


def test_force_never_replaces_what_is_not_a_data_set(
    save: Callable, pack_folder: Callable, tmp_path: Path
) -> None:
    save("a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not a packed data set, so it is not replaced"):
        pack_folder(force=True)
    assert (tmp_path / "out" / "thesis.txt").exists()


@pytest.mark.parametrize("out", ["pictures", "pictures/out", "."])
def test_source_and_place_may_not_lie_inside_each_other(
    save: Callable, pack_folder: Callable, out: str
) -> None:
    save("a.png")
    with pytest.raises(ValueError, match="lie inside each other"):
        pack_folder(out, force=True)


def test_an_interrupted_pack_leaves_the_old_data_and_goes_on_where_it_was(
    save: Callable, pack_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("a.png")
    first = pack_folder()
    save("b.png")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("select", "save", "commit"):
        with monkeypatch.context() as patch:
            patch.setattr(pack_module, name, interrupt)
            with pytest.raises(PackInterrupted, match=r"2 of 2 items encoded.*the same command goes on"):
                pack_folder(force=True)
        assert contents(first.root) == contents(load(first.root).root)
        assert len(load(first.root).samples) == 1
        assert (tmp_path / ".out.packing").is_dir()
    calls: list[PackProgress] = []
    pack("folder", tmp_path / "pictures", first.root, PackOptions(force=True), on_progress=calls.append)
    assert max(call.taken_over for call in calls if call.phase == "reading") == 2
    assert len(load(first.root).samples) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pictures"]


def test_a_replacement_that_was_cut_off_is_undone(
    save: Callable, pack_folder: Callable, tmp_path: Path
) -> None:
    save("a.png")
    first = pack_folder()
    before = contents(first.root)
    leftover = tmp_path / ".out.packing"
    (leftover / "spool").mkdir(parents=True)
    (leftover / "spool" / "000000007.png").write_bytes(b"old")
    (leftover / "new").mkdir()
    first.root.rename(leftover / "old")  # Killed between the two renames of a replacement.
    with pytest.raises(ValueError, match="no usable picture"):
        pack("folder", _empty(tmp_path), first.root, PackOptions(force=True), on_progress=lambda _: None)
    assert contents(first.root) == before
    assert not leftover.exists()


def test_a_replacement_that_was_cut_off_is_not_taken_for_a_free_place(
    save: Callable, pack_folder: Callable, tmp_path: Path
) -> None:
    save("a.png")
    first = pack_folder()
    (tmp_path / ".out.packing").mkdir()
    first.root.rename(tmp_path / ".out.packing" / "old")
    with pytest.raises(ValueError, match=r"exists already.*--force"):
        pack_folder()
    assert len(load(first.root).samples) == 1


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_two_packs_into_one_place_do_not_mix(save: Callable, pack_folder: Callable) -> None:
    save("a.png")
    seen: list[str] = []

    def during(_: PackProgress) -> None:
        with pytest.raises(ValueError, match="another process is packing it") as caught:
            pack_folder()
        seen.append(str(caught.value))

    folder = Path(pack_folder("other").root).parent
    pack("folder", folder / "pictures", folder / "out", PackOptions(), on_progress=during)
    assert len(seen) > 1


def test_a_full_disk_is_noticed_before_the_start(
    save: Callable, pack_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("a.png")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 0, 100))
    with pytest.raises(ValueError, match=r"GB are needed and 0\.0 GB are free"):
        pack_folder()
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_progress_counts_to_the_end(save: Callable, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(name)
    (tmp_path / "pictures" / "d.png").write_text("x")
    calls: list[PackProgress] = []
    pack("folder", tmp_path / "pictures", tmp_path / "out", PackOptions(), on_progress=calls.append)
    reading = [call for call in calls if call.phase == "reading"]
    assert [(call.done, call.total, call.current) for call in reading] == [
        (1, 4, "a.png"), (2, 4, "b.png"), (3, 4, "c.png"), (4, 4, "d.png"),
    ]  # fmt: skip
    first, second, third, last = reading
    assert 0 < first.bytes_written < second.bytes_written < third.bytes_written == last.bytes_written
    assert last.seconds_left == 0 < last.rate
    writing = [call for call in calls if call.phase == "writing"]
    assert [(call.done, call.total) for call in writing] == [(1, 3), (2, 3), (3, 3)]
    assert [call.phase for call in calls] == sorted(
        (call.phase for call in calls), key=["reading", "checking", "writing"].index
    )
    checking = [call.done for call in calls if call.phase == "checking"]
    assert checking == sorted(checking)
    assert checking[-1] == 100
    assert not any(call.taken_over for call in calls)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("film", "pictures", "unknown 'film'; use one of .*folder, .*photos"),
        ("folder", None, "no path was given"),
        ("folder", "nowhere", "not a folder"),
        ("photos", "pictures", "takes no path"),
    ],
)
def test_wrong_sources_are_refused(
    save: Callable, tmp_path: Path, kind: str, name: str | None, message: str
) -> None:
    save("a.png")
    path = None if name is None else tmp_path / name
    with pytest.raises(ValueError, match=message):
        pack(kind, path, tmp_path / "out", PackOptions(), on_progress=lambda _: None)


def test_the_bundled_photos_need_no_network_and_do_not_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("network"))
    dataset = pack("photos", None, tmp_path / "out", PackOptions(), on_progress=lambda _: None)
    test = dataset.of_split("test")
    assert (len(dataset.of_split("train")), len(dataset.of_split("val")), len(test)) == (6, 2, 8)
    assert sum((sample.width // 128) * (sample.height // 128) for sample in test) >= 24
    assert all(sample.width >= 128 <= sample.height for sample in dataset.samples)
    assert not any("right" in sample.source for sample in dataset.samples)
    assert dataset.description.rejected == ()
    assert dataset.description.near_duplicates == ()
    assert dataset.description.split_rule.startswith("fixed by the source; ")


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, shards.pack, shards.stream; "
        "print(sorted({'torch', 'ray', 'skimage', 'webdataset', 'scipy', 'cv2', 'av'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_the_bundled_photos_are_read_without_scikit_images_own_readers(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from shards.pack import PackOptions, pack; "
        "pack('photos', None, Path(sys.argv[1]), PackOptions(), on_progress=lambda _: None); "
        "sys.exit('skimage.io' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=True, timeout=120)


def clip_of(dataset: Dataset, key: str, role: str = "frame") -> np.ndarray:
    (sample,) = [sample for sample in dataset.samples if sample.key == key]
    return read_clip(dataset, sample, role=role)


def test_clips_of_several_frames_and_sources_come_back(pack_items: Callable) -> None:
    clips = [noise_clip(f"film/{n:04d}", frames=7, width=32, height=24) for n in range(5)]
    dataset = pack_items(array_item("film", *clips), array_item("short"), split={"train": 1.0})
    assert [sample.key for sample in dataset.samples] == [*(f"film_{n:04d}" for n in range(5)), "short"]
    for n, clip in enumerate(clips):
        wanted = np.stack([frame.rgb for frame in clip.frames]).transpose(0, 3, 1, 2)
        assert np.array_equal(clip_of(dataset, f"film_{n:04d}"), wanted)
    sample = dataset.samples[0]
    assert sample.source == "film"
    assert [member.name for member in sample.members] == [
        *(f"film_0000.im{n}.png" for n in range(1, 8)),
        "film_0000.json",
    ]
    assert [(m.kind, m.role) for m in sample.members[-2:]] == [("png", "frame"), ("json", "other")]


def test_given_partners_follow_the_frames(pack_items: Callable) -> None:
    clip = noise_clip("a", frames=2, width=64, height=48, lr_scale=4)
    dataset = pack_items(array_item("a", clip), listing={"lr_scale": 4})
    assert dataset.description.lr_scale == 4
    assert [member.name for member in dataset.samples[0].members] == [
        "a.im1.png", "a.im2.png", "a.lr1.png", "a.lr2.png", "a.json",
    ]  # fmt: skip
    wanted = np.stack([frame.rgb for frame in clip.lr_frames]).transpose(0, 3, 1, 2)
    assert np.array_equal(clip_of(dataset, "a", "lr"), wanted)
    member = dataset.samples[0].members[-1]
    with (dataset.root / dataset.shards[0].file).open("rb") as file:
        file.seek(member.offset)
        row = json.loads(file.read(member.size))
    assert (row["lr_width"], row["lr_height"], row["frames"], row["width"]) == (16, 12, 2, 64)


def test_clips_that_do_not_fit_together_are_named(pack_items: Callable) -> None:
    good = noise_clip("good", frames=2, width=64, height=48, lr_scale=4)
    other = noise_clip("other", frames=3, width=64, height=32, lr_scale=4)
    items = [
        array_item("good", good),
        array_item("sizes", replace(good, name="sizes", frames=(good.frames[0], other.frames[0]))),
        array_item("counts", replace(other, name="counts", lr_frames=other.lr_frames[:2])),
        array_item("none", replace(other, name="none", lr_frames=())),
        array_item("scale", replace(other, name="scale", lr_frames=good.lr_frames[:1] * 3)),
        array_item("nothing", replace(other, name="nothing", frames=())),
    ]
    assert reasons(pack_items(*items, listing={"lr_scale": 4})) == {
        "sizes": "frames of different sizes (64x32, 64x48)",
        "counts": "3 frames have 2 low-resolution partners",
        "none": "3 frames have 0 low-resolution partners",
        "scale": "low-resolution partners of 16x12 for frames of 64x32: not a scale of 4",
        "nothing": "no frames",
    }


def test_a_broken_item_is_named_and_what_came_before_is_kept(pack_items: Callable) -> None:
    errors = {
        "a": (UnusablePictureError("cut off"), "cut off"),
        "b": (FileNotFoundError(2, "No such file or directory", "/home/me/x"), "No such file or directory"),
        "c": (ValueError("bad header at 0x7f00"), "ValueError: bad header"),
        "d": (struct.error("unpack requires 4 bytes"), "error: unpack requires 4 bytes"),
    }
    items = [
        array_item(
            name, noise_clip(f"{name}/0"), Rejected(f"{name}/1", "a cut"), noise_clip(f"{name}/2"), error
        )
        for name, (error, _) in errors.items()
    ]
    for jobs in (1, 2):
        dataset = pack_items(*items, jobs=jobs, force=True)
        assert [s.key for s in dataset.samples if s.source == "a"] == ["a_0", "a_2"]
        assert len(dataset.samples) == 8
        found = reasons(dataset)
        assert all(found.pop(f"{name}/1") == "a cut" for name in errors)
        assert found == {
            name: reason if name == "a" else f"cannot be read: {reason}"
            for name, (_, reason) in errors.items()
        }


def test_the_number_of_processes_changes_nothing(pack_items: Callable, tmp_path: Path) -> None:
    clips = [
        noise_clip(f"{n:03d}", frames=3, width=40, height=40, seed=n // 2 if n < 8 else n) for n in range(24)
    ]
    items = [array_item(clip.name, clip, version=n) for n, clip in enumerate(clips)]
    alone = pack_items(*items, jobs=1, shard_bytes=60_000)
    assert len(alone.shards) > 4
    assert len(alone.description.rejected) == 4
    pack_items(*items, out="two", jobs=2, shard_bytes=60_000)
    assert contents(tmp_path / "out") == contents(tmp_path / "two")


def test_equal_clips_are_found_across_items_and_pieces(
    pack_items: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.spool.PIECE_BYTES", 3000)
    film = [noise_clip(f"film/{n}", frames=2, seed=n) for n in range(6)]
    copy = [noise_clip(f"copy/{n}", frames=2, seed=n) for n in (1, 4)]
    one_frame = RawClip("one", film[0].frames[:1])
    dataset = pack_items(array_item("film", *film), array_item("copy", *copy), array_item("one", one_frame))
    assert reasons(dataset) == {"film/1": "same pixels as copy/1", "film/4": "same pixels as copy/4"}
    for sample in dataset.samples:
        read_clip(dataset, sample)


def test_an_encoder_that_loses_pixels_stops_everything(
    pack_items: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(frame: object) -> object:
        raise ValueError("other pixels came back")

    monkeypatch.setitem(pack_module.PROFILES, "png-banded", broken)
    with pytest.raises(ValueError, match="a: other pixels came back"):
        pack_items(array_item("a"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs: must be 1 or more, got 0"),
        ({"profile": "gif"}, "profile: unknown 'gif'; use one of png-banded"),
        ({"shard_bytes": 0}, "shard_bytes: must be positive, got 0"),
    ],
)
def test_wrong_options_are_refused(pack_items: Callable, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_items(array_item("a"), **options)


def test_warnings_are_told_at_once_and_written_down(pack_items: Callable, tmp_path: Path) -> None:
    text = "the frames of input/ were compressed"
    dataset = pack_items(array_item("a"), listing={"warnings": (text,)})
    assert dataset.description.warnings == (text,)
    told: list[str] = []
    pack(
        "arrays", None, tmp_path / "two", PackOptions(), on_warning=told.append,
        on_progress=lambda _: told.append("progress") if "progress" not in told else None,
    )  # fmt: skip
    assert told == [text, "progress"]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_gives_the_same_pixels_back(pack_items: Callable, profile: str) -> None:
    clip = noise_clip("a", frames=3, width=70, height=90, lr_scale=2)
    dataset = pack_items(array_item("a", clip), listing={"lr_scale": 2}, profile=profile)
    assert dataset.description.profile == profile
    for role, frames in (("frame", clip.frames), ("lr", clip.lr_frames)):
        wanted = np.stack([frame.rgb for frame in frames]).transpose(0, 3, 1, 2)
        assert np.array_equal(clip_of(dataset, "a", role), wanted)
    (note,) = dataset.samples[0].notes if profile == "png-keep" else ("stored as png-banded",)
    assert note.startswith("stored as png-banded")


def test_kept_files_are_kept_to_the_byte(save: Callable, pack_folder: Callable, tmp_path: Path) -> None:
    save("a.png")
    dataset = pack_folder(profile="png-keep")
    member = dataset.samples[0].members[0]
    with (dataset.root / dataset.shards[0].file).open("rb") as file:
        file.seek(member.offset)
        assert file.read(member.size) == (tmp_path / "pictures" / "a.png").read_bytes()


def test_a_disk_that_fills_up_is_explained_and_the_rest_is_kept(
    pack_items: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [array_item(name) for name in "abc"]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shards.tars.ShardWriter.add", full)
        with pytest.raises(ValueError, match=r"disk is full .*\.out\.packing keeps .*run the same command"):
            pack_items(*items)
    assert len(list((tmp_path / ".out.packing" / "spool").glob("*.bin"))) == 3
    assert len(pack_items(*items).samples) == 3


def test_other_errors_of_the_disk_are_told_from_a_full_one(
    pack_items: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("shards.tars.ShardWriter.add", broken)
    with pytest.raises(ValueError, match=r"cannot be written .Input/output error: .*run the same command"):
        pack_items(array_item("a"))


def test_a_place_that_cannot_be_made_is_refused(pack_items: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"its folder cannot be written .Not a directory"):
        pack_items(array_item("a"), out="file/out")
