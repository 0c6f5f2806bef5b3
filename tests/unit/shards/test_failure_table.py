"""One test for each way in which WebDataset 1.0.2 was seen to fail: here it ends in an error or a named rejection.

The tars have ten clips of seven frames, as those of the table. Where damage comes to an indexed data set, reading and
verifying must say so; where it is there before, indexing must. The rows on HTTP (404, cut half-way, stall) are
tested in test_storage_http.py.
"""

import io
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.agreement import SplitChoice
from shards.foreign import IndexOptions, index_foreign
from shards.manifest import DamagedError, Dataset, load
from shards.reader import read_clip
from shards.storage import open_storage
from shards.storage.errors import StorageError
from shards.verify import verify
from tests.unit.shards.tar_maker import Members, clip, header_at, picture, tar_bytes, write_tar

TEN = [member for number in range(10) for member in clip(f"clip{number}", 7, seed=number)]
KEYS = [f"clip{number}" for number in range(10)]


def indexed(root: Path, *, keep_going: bool = False, force: bool = False) -> Dataset:
    options = IndexOptions(SplitChoice(split="train"), keep_going=keep_going, force=force)
    return index_foreign(root, options, on_progress=lambda _: None)


def of_members(root: Path, members: Members) -> Dataset:
    write_tar(root / "some.tar", members)
    return indexed(root)


def outcome(dataset: Dataset) -> tuple[list[str], dict[str, str]]:
    """The usable keys, each of which can be read whole, and the reasons for the others."""
    for sample in dataset.samples:
        assert read_clip(dataset, sample).shape == (7, 3, 20, 24)
    reasons = {row.source: row.reason for row in dataset.description.rejected}
    assert len(reasons) == len(dataset.description.rejected)
    return [sample.key for sample in dataset.samples], reasons


def replaced(name: str, data: bytes) -> Members:
    return [(n, data if n == name else d) for n, d in TEN]


def ends_in_error(root: Path, data: bytes, what: str) -> None:
    """The damage is refused before indexing; after it, verifying names it and reading fails where it is."""
    path = root / "some.tar"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"some.tar: .*{what}.*copy or write these again"):
        indexed(root)
    kept, reasons = outcome(indexed(root, keep_going=True))
    assert kept == KEYS[: len(kept)]
    assert what in reasons["some.tar"]
    path.write_bytes(tar_bytes(TEN))
    dataset = indexed(root, force=True)
    path.write_bytes(data)
    assert any(f.where == "some.tar" and what in f.what for f in verify(root, on_progress=lambda _: None))
    for sample in load(root).samples:
        try:
            pixels = read_clip(load(root), sample)
        except DamagedError as error:
            assert error.where.startswith(f"some.tar: {sample.key}.im")  # noqa: PT017 - It may also not be raised.
        else:
            assert sample.key in kept or len(data) > sample.members[-1].offset + sample.members[-1].size
            assert pixels.shape == (7, 3, 20, 24)
    assert len(dataset.samples) == 10


def test_truncated_inside_a_member(tmp_path: Path) -> None:
    data = tar_bytes(TEN)
    ends_in_error(
        tmp_path, data[: header_at(data, "clip5.im3.png") + 700], "truncated inside member clip5.im3.png"
    )


def test_truncated_inside_a_header(tmp_path: Path) -> None:
    data = tar_bytes(TEN)
    ends_in_error(
        tmp_path, data[: header_at(data, "clip5.im3.png") + 200], "truncated inside the tar header at byte"
    )


def test_truncated_at_a_member_boundary(tmp_path: Path) -> None:
    data = tar_bytes(TEN)
    ends_in_error(tmp_path, data[: header_at(data, "clip5.im1.png")], "truncated at a member boundary")


def test_flipped_byte_in_a_tar_header(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(TEN))
    data[header_at(bytes(data), "clip5.im3.png") + 2] ^= 1
    ends_in_error(tmp_path, bytes(data), "damaged tar header at byte")


def rejects_one_and_is_noticed_later(root: Path, bad: bytes, reason: str) -> None:
    """A bad picture: rejected when it is there at indexing; named by reading and verifying when it comes later."""
    kept, reasons = outcome(of_members(root, replaced("clip5.im3.png", bad)))
    assert kept == [key for key in KEYS if key != "clip5"]
    assert reasons.keys() == {"some.tar: clip5"}
    assert reasons["some.tar: clip5"].startswith("clip5.im3.png: ")
    assert reason in reasons["some.tar: clip5"]
    write_tar(root / "some.tar", TEN)
    dataset = indexed(root, force=True)
    place = dataset.samples[5].members[2]
    data = bytearray((root / "some.tar").read_bytes())
    data[place.offset : place.offset + place.size] = bad[: place.size].ljust(place.size, b"\0")
    (root / "some.tar").write_bytes(data)
    with pytest.raises(
        DamagedError, match=r"some\.tar: clip5\.im3\.png: .*find all damage with: srloss shard verify"
    ):
        read_clip(load(root), load(root).samples[5])
    (finding,) = verify(root, on_progress=lambda _: None)
    assert finding.where == "some.tar: clip5.im3.png"


GOOD = dict(TEN)["clip5.im3.png"]


def test_corrupt_png(tmp_path: Path) -> None:
    rejects_one_and_is_noticed_later(tmp_path, GOOD[:100] + b"x" * 600 + GOOD[700:], "")


def test_truncated_png(tmp_path: Path) -> None:
    rejects_one_and_is_noticed_later(tmp_path, GOOD[:-300], "")


@pytest.mark.parametrize("byte", [3, 14, 18, 25, 30, 60, 500, len(GOOD) - 14])
def test_bit_flipped_png(tmp_path: Path, byte: int) -> None:
    # pyspng alone would decode some of these without a word.
    rejects_one_and_is_noticed_later(tmp_path, GOOD[:byte] + bytes([GOOD[byte] ^ 1]) + GOOD[byte + 1 :], "")


def test_a_flip_behind_all_pixels_changes_none(tmp_path: Path) -> None:
    flipped = GOOD[:-2] + bytes([GOOD[-2] ^ 1]) + GOOD[-1:]
    dataset = of_members(tmp_path / "a", replaced("clip5.im3.png", flipped))
    kept, _ = outcome(dataset)
    if "clip5" in kept:
        sound = of_members(tmp_path / "b", TEN)
        assert np.array_equal(read_clip(dataset, dataset.samples[5]), read_clip(sound, sound.samples[5]))


def test_bit_flip_where_nothing_is_decoded(tmp_path: Path) -> None:
    members = [
        *TEN,
        *[(f"last{n}.im{k}.png", d) for n in range(1) for k, (_, d) in enumerate(clip("x", 7, seed=77), 1)],
    ]
    dataset = of_members(tmp_path, [*members, ("last0.cls", b"7"), ("last0.json", b'{"a": 1}')])
    for name in ("last0.cls", "last0.json"):
        place = next(m for m in dataset.samples[10].members if m.name == name)
        data = bytearray((tmp_path / "some.tar").read_bytes())
        data[place.offset] ^= 1
        (tmp_path / "some.tar").write_bytes(data)
        assert name in [
            f.where.removeprefix("some.tar: ") for f in verify(tmp_path, on_progress=lambda _: None)
        ]


def test_same_member_twice(tmp_path: Path) -> None:
    twice = [*TEN[: 7 * 5 + 3], TEN[7 * 5 + 2], *TEN[7 * 5 + 3 :]]
    kept, reasons = outcome(of_members(tmp_path, twice))
    assert kept == [key for key in KEYS if key != "clip5"]
    assert "clip5.im3.png is there twice, at bytes" in reasons["some.tar: clip5"]


def test_key_repeated_not_side_by_side(tmp_path: Path) -> None:
    again = [(name.replace("im", "again"), data) for name, data in clip("clip0", 7, seed=50)]
    kept, reasons = outcome(of_members(tmp_path, [*TEN, *again]))
    assert kept == KEYS[1:]
    assert "its members are not side by side" in reasons["some.tar: clip0"]


def test_missing_frame(tmp_path: Path) -> None:
    members = [
        (name, data) for name, data in TEN if name not in ("clip2.im4.png", "clip6.im7.png", "clip8.im1.png")
    ]
    kept, reasons = outcome(of_members(tmp_path, members))
    assert kept == [key for key in KEYS if key not in ("clip2", "clip6", "clip8")]
    assert reasons["some.tar: clip2"].startswith("frame 4 is missing")
    assert reasons["some.tar: clip6"] == "has 6 frames, most samples have 7 frames"
    assert reasons["some.tar: clip8"] == "has 6 frames, most samples have 7 frames"


def test_unsorted_tar(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(TEN))
    with pytest.raises(
        ValueError, match=r"no usable sample \(.*not side by side.*write the tar anew, sorted by name"
    ):
        of_members(tmp_path, [TEN[number] for number in order])


def test_names_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    bad = [*clip("../../up", 7, seed=70), *clip("/etc/abs", 7, seed=71), *clip("a/../../b", 7, seed=72)]
    dataset = of_members(tmp_path / "data", [*TEN, *bad])
    kept, reasons = outcome(dataset)
    assert kept == KEYS
    assert {key.removeprefix("some.tar: ") for key in reasons} == {"../../up", "/etc/abs", "a/../../b"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "data",
        "dataset.json",
        "index.bin",
        "some.tar",
    ]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", ["pyd", "pkl", "pickle", "pth"])
def test_pickles_do_not_run(tmp_path: Path, ending: str) -> None:
    evil = pickle.dumps(Trap(tmp_path / "ran"))
    dataset = of_members(tmp_path / "data", [*TEN, (f"clip9.{ending}", evil)])
    assert outcome(dataset) == (KEYS, {})
    assert any(f"clip9.{ending}" in text for text in dataset.description.warnings)
    assert verify(tmp_path / "data", deep=True, on_progress=lambda _: None) == []
    assert not (tmp_path / "ran").exists()


def test_arrays_of_objects_do_not_run(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap(tmp_path / "ran")], dtype=object), allow_pickle=True)
    members: Members = []
    for number in range(3):
        members += [(f"ok{number}.npy", array_bytes(np.full((20, 24, 3), number, np.uint8)))]
    dataset = of_members(tmp_path / "data", [*members, ("evil.npy", buffer.getvalue())])
    assert [sample.key for sample in dataset.samples] == ["ok0", "ok1", "ok2"]
    assert "only uint8" in dataset.description.rejected[0].reason
    assert verify(tmp_path / "data", deep=True, on_progress=lambda _: None) == []
    assert not (tmp_path / "ran").exists()


def array_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("url", ["pipe:touch {}", "pipe: touch {}", "PIPE:touch {}", "file:touch {}|"])
def test_no_address_runs_a_shell(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        load(url.format(tmp_path / "ran"))
    with pytest.raises((ValueError, StorageError)):
        open_storage(url.format(tmp_path / "ran")).read("dataset.json", 0, 1)
    assert not (tmp_path / "ran").exists()


def bomb(side: int) -> bytes:
    """A whole, valid PNG of black pixels, a thousand times smaller than they are."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    # Behind a full flush the same zeros give the same bytes; Adler-32 of zeros is 1 and their number.
    hundred_rows = compressor.compress(bytes(100 * (1 + 3 * side))) + compressor.flush(zlib.Z_FULL_FLUSH)
    adler32 = struct.pack(">HH", side * (1 + 3 * side) % 65521, 1)
    content = b"\x78\x9c" + hundred_rows * (side // 100) + compressor.flush() + adler32

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_pictures_that_would_fill_the_memory(tmp_path: Path, side: int) -> None:
    data = bomb(side)
    assert len(data) < 3 * side**2 / 500
    kept, reasons = outcome(of_members(tmp_path, replaced("clip5.im3.png", data)))
    assert kept == [key for key in KEYS if key != "clip5"]
    assert f"more than 64 Mpx ({side}x{side})" in reasons["some.tar: clip5"]


def test_a_png_that_holds_more_than_it_says(tmp_path: Path) -> None:
    content = zlib.compress(bytes(200 * 2**20), 9)
    data = picture(1)
    bad = data[:33] + struct.pack(">I", len(content)) + b"IDAT" + content
    bad += struct.pack(">I", zlib.crc32(b"IDAT" + content)) + data[-12:]
    tracemalloc.start()
    try:
        kept, reasons = outcome(of_members(tmp_path, replaced("clip5.im3.png", bad)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * 2**20
    assert "clip5" in kept or "some.tar: clip5" in reasons
