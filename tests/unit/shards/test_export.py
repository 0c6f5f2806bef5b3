"""Other loaders find the same samples by the indexes that are written for them.

What DALI and Energon read was confirmed with DALI 2.4.0 and Energon 7.4.1 themselves, which are too large to be
installed for tests; here their layouts are read back by what their sources say.
"""

import io
import json
import re
import sqlite3
import struct
import tarfile
from pathlib import Path

import pytest
import wids
import yaml

from shards.agreement import SplitChoice
from shards.export import LAYOUTS, export_index
from shards.foreign import IndexOptions, index_foreign
from shards.manifest import Dataset
from tests.unit.shards.tar_maker import Members, clip, clips, write_tar


def foreign(
    root: Path, tars: dict[str, Members], form: int = tarfile.PAX_FORMAT, **options: object
) -> Dataset:
    for name, members in tars.items():
        write_tar(root / name, members, form)
    chosen = IndexOptions(splits=SplitChoice(**options))  # type: ignore[arg-type]
    return index_foreign(root, chosen, on_progress=lambda _: None)


@pytest.fixture
def two(tmp_path: Path) -> Dataset:
    """Two tars with a bad sample in the middle of the first, and a name that needs a PAX header."""
    long = "x" * 120
    first = [*clips(2, 2), *clip("bad", 1, seed=9), ("bad.txt", b"bad"), *clip(long, 2, seed=5)]
    tars = {"train-0.tar": first, "train-1.tar": clip("other", 2, seed=6), "val-0.tar": clip("v", 2, seed=7)}
    return foreign(tmp_path / "data", tars)


def parts_by_tarfile(path: Path) -> list[tuple[str, str, int, int, int]]:
    """Key, suffix, header, offset and size of each member."""
    with tarfile.open(path) as tar:
        return [(*m.name.split(".", 1), m.offset, m.offset_data, m.size) for m in tar]  # type: ignore[misc]


def test_dali_gets_suffix_offset_size_and_name_of_each_member(two: Dataset, tmp_path: Path) -> None:
    files = export_index(two, "dali", tmp_path / "idx")
    assert [path.name for path in files] == ["train-0.idx", "train-1.idx", "val-0.idx"]
    head, *lines = files[0].read_text().splitlines()
    assert head == "v1.2 3"
    expected = parts_by_tarfile(two.root / "train-0.tar")
    words = [word for line in lines for word in line.split(" ")]
    found = list(zip(words[::4], words[1::4], words[2::4], words[3::4], strict=True))
    assert found == [
        (suffix, str(offset), str(size), f"{key}.{suffix}")
        for key, suffix, _, offset, size in expected
        if key != "bad"
    ]
    assert [len(line.split(" ")) for line in lines] == [8, 8, 8]


def test_dali_cannot_have_blanks_in_names(tmp_path: Path) -> None:
    dataset = foreign(tmp_path, {"a.tar": clip("a b", 1)}, split="train")
    with pytest.raises(ValueError, match=r"a b\.im1\.png: DALI's index divides by blanks"):
        export_index(dataset, "dali")


def test_energon_gets_the_place_of_each_sample(two: Dataset) -> None:
    files = {str(path.relative_to(two.root)): path for path in export_index(two, "energon")}
    expected = parts_by_tarfile(two.root / "train-0.tar")
    starts = struct.unpack("<5Q", files["train-0.tar.idx"].read_bytes())
    keys = [key for key, suffix, *_ in expected if suffix == "im1.png"]
    assert starts[:4] == tuple(header for _, suffix, header, *_ in expected if suffix == "im1.png")
    # It reads members from a start until it reaches the next one, and raises where the key changes.
    for key, start, stop in zip(keys, starts, starts[1:], strict=False):
        assert {k for k, _, header, *_ in expected if start <= header < stop} == {key}
    assert starts[4] == expected[-1][3] + -(-expected[-1][4] // 512) * 512
    assert json.loads(files[".nv-meta/.info.json"].read_text()) == {
        "shard_counts": {"train-0.tar": 4, "train-1.tar": 1, "val-0.tar": 1}
    }
    assert yaml.safe_load(files[".nv-meta/split.yaml"].read_text()) == {
        "split_parts": {"train": ["train-0.tar", "train-1.tar"], "val": ["val-0.tar"]},
        "exclude": ["train-0.tar/bad"],
    }
    assert yaml.safe_load(files[".nv-meta/dataset.yaml"].read_text()) == {
        "__module__": "megatron.energon",
        "__class__": "CrudeWebdataset",
    }
    assert re.fullmatch(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", files[".nv-meta/index.uuid"].read_text()
    )


def test_energon_finds_members_in_its_tables(two: Dataset) -> None:
    export_index(two, "energon")
    connection = sqlite3.connect(two.root / ".nv-meta" / "index.sqlite")
    rows = connection.execute(
        "SELECT sample_key, part_name, content_byte_offset, content_byte_size, byte_offset, byte_size FROM "
        "samples JOIN sample_parts USING (tar_file_id, sample_index) WHERE tar_file_id = 0 ORDER BY 3"
    ).fetchall()
    connection.close()
    expected = parts_by_tarfile(two.root / "train-0.tar")
    assert [row[:4] for row in rows] == [
        (key, suffix, offset, size) for key, suffix, _, offset, size in expected
    ]
    for (_, _, offset, size, start, length), (_, _, header, *_) in zip(rows, expected, strict=True):
        assert start <= header < offset + size <= start + length


def test_energon_knows_a_key_once_and_splits_by_tars(tmp_path: Path) -> None:
    dataset = foreign(tmp_path / "a", {f"{n}.tar": clip("same", 1, seed=n) for n in range(2)}, split="train")
    with pytest.raises(ValueError, match=r"same is in 1\.tar too, and energon takes a key once"):
        export_index(dataset, "energon")
    mixed = foreign(tmp_path / "b", {"0.tar": clips(40, 1)})
    for layout in ("energon", "wids"):
        with pytest.raises(
            ValueError, match=f"0.tar: holds samples of train, val, test, and {layout} splits by tars"
        ):
            export_index(mixed, layout)


def test_wids_reads_the_samples_of_a_split(mixed: Dataset, tmp_path: Path) -> None:
    files = export_index(mixed, "wids", tmp_path / "out")
    assert [path.name for path in files] == ["train.wids.json", "val.wids.json", "test.wids.json"]
    for split, path in zip(("train", "val", "test"), files, strict=True):
        # It compares the number of samples and the md5sum by itself.
        read = wids.ShardListDataset(
            str(path), cache_dir=str(tmp_path / "cache"), keep=True, transformations=[]
        )
        assert [sample["__key__"] for sample in read] == [s.key for s in mixed.of_split(split)]  # type: ignore[attr-defined]
        for sample, ours in zip(read, mixed.of_split(split), strict=True):  # type: ignore[call-overload]
            data = (
                sample[".im1.png"].getvalue()
                if isinstance(sample[".im1.png"], io.BytesIO)
                else sample[".im1.png"]
            )
            member = ours.members[0]
            whole = (mixed.root / ours.shard).read_bytes()
            assert data == whole[member.offset : member.offset + member.size]


def test_wids_cannot_leave_out_a_sample_or_read_long_names(two: Dataset, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"train-0\.tar: bad is not usable .* wids cannot leave out a sample"
    ):
        export_index(two, "wids")
    long = foreign(tmp_path / "b", {"0.tar": clip("x" * 120, 1)}, split="train")
    with pytest.raises(ValueError, match="wids reads names of up to 100 bytes"):
        export_index(long, "wids")


@pytest.mark.parametrize("layout", ["energon", "wids"])
def test_what_another_loader_would_take_for_a_sample_is_refused(tmp_path: Path, layout: str) -> None:
    dataset = foreign(tmp_path, {"0.tar": [*clips(2, 1), ("../up.png", b"x")]}, split="train")
    with pytest.raises(
        ValueError, match=r"\.\./up\.png belongs to no sample, and that loader would take it for one"
    ):
        export_index(dataset, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_overwritten_and_tars_stay(mixed: Dataset, tmp_path: Path, layout: str) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in mixed.root.iterdir()}
    files = export_index(mixed, layout, tmp_path / "out")
    assert files
    assert sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file()) == sorted(files)
    files[0].write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists already"):
        export_index(mixed, layout, tmp_path / "out")
    assert files[0].read_bytes() == b"mine"
    assert {path.name: path.stat().st_mtime_ns for path in mixed.root.iterdir()} == before


def test_an_unknown_layout_is_an_error(mixed: Dataset) -> None:
    with pytest.raises(ValueError, match="layout: unknown 'ffcv'; use one of dali, energon, wids"):
        export_index(mixed, "ffcv")
