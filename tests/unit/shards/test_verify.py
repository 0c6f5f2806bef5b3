"""Whatever is damaged is found, and where it is."""

import hashlib
import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shards.export import export_index
from shards.foreign import IndexOptions, index_foreign
from shards.index import Index, tables_to_bytes
from shards.manifest import DamagedError, Dataset, load, save
from shards.reader import read_clip
from shards.records import Sample
from shards.tars import sha256_of
from shards.verify import Finding, VerifyProgress, verify
from tests.unit.shards.conftest import array_item, noise_clip
from tests.unit.shards.tar_maker import clip, clips, write_tar


@pytest.fixture
def copy(mixed: Dataset, tmp_path: Path) -> Dataset:
    shutil.copytree(mixed.root, tmp_path / "copy")
    return load(tmp_path / "copy")


def findings(dataset: Dataset, *, deep: bool = False) -> list[Finding]:
    return verify(dataset.root, deep=deep, on_progress=lambda _: None)


def shard_path(dataset: Dataset) -> Path:
    return dataset.root / "train-000000.tar"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_data_set_has_no_findings(mixed: Dataset, deep: bool) -> None:
    calls: list[VerifyProgress] = []
    assert verify(mixed.root, deep=deep, on_progress=calls.append) == []
    assert [(call.done, call.total) for call in calls] == [(1, 3), (2, 3), (3, 3)]


def flip_data(dataset: Dataset) -> None:
    flip(shard_path(dataset), dataset.samples[2].members[0].offset + 60)


def flip_header_checksum(dataset: Dataset) -> None:
    flip(shard_path(dataset), dataset.samples[2].members[0].offset - 512 + 3)


def flip_json(dataset: Dataset) -> None:
    path = shard_path(dataset)
    flip(path, path.read_bytes().index(b'"source"') + 12)


def flip_padding(dataset: Dataset) -> None:
    flip(shard_path(dataset), shard_path(dataset).read_bytes().index(b"}\n\0") + 4)


def flip_end(dataset: Dataset) -> None:
    flip(shard_path(dataset), shard_path(dataset).stat().st_size - 1)


def cut_in_data(dataset: Dataset) -> None:
    data = shard_path(dataset).read_bytes()
    shard_path(dataset).write_bytes(data[: dataset.samples[3].members[0].offset + 100])


def cut_in_header(dataset: Dataset) -> None:
    data = shard_path(dataset).read_bytes()
    shard_path(dataset).write_bytes(data[: dataset.samples[3].members[0].offset - 100])


def cut_at_member(dataset: Dataset) -> None:
    data = shard_path(dataset).read_bytes()
    shard_path(dataset).write_bytes(data[: dataset.samples[3].members[0].offset - 512])


def cut_end_mark(dataset: Dataset) -> None:
    data = shard_path(dataset).read_bytes()
    shard_path(dataset).write_bytes(data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512))


def grow(dataset: Dataset) -> None:
    shard_path(dataset).write_bytes(shard_path(dataset).read_bytes() + b"more")


def empty(dataset: Dataset) -> None:
    shard_path(dataset).write_bytes(b"")


def remove_shard(dataset: Dataset) -> None:
    shard_path(dataset).unlink()


def add_shard(dataset: Dataset) -> None:
    shutil.copy(shard_path(dataset), dataset.root / "train-000001.tar")


def rewrite(dataset: Dataset, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> None:
    """Unpacks a shard, changes its list of members and packs it again as any tool would."""
    with tarfile.open(shard_path(dataset)) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    change(members)
    with tarfile.open(shard_path(dataset), "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))


def remove_member(dataset: Dataset) -> None:
    rewrite(dataset, lambda members: members.pop(4))


def remove_tail(dataset: Dataset) -> None:
    rewrite(dataset, lambda members: members.pop(5))


def add_member(dataset: Dataset) -> None:
    rewrite(dataset, lambda members: members.append((tarfile.TarInfo("extra.im1.png"), b"")))


def repeat_member(dataset: Dataset) -> None:
    rewrite(dataset, lambda members: members.append(members[0]))


def reverse_members(dataset: Dataset) -> None:
    rewrite(dataset, lambda members: members.reverse())


def swap_contents(dataset: Dataset) -> None:
    def swap(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        (first, a), (second, b) = members[0], members[2]
        first.size, second.size = len(b), len(a)
        members[0], members[2] = (first, b), (second, a)

    rewrite(dataset, swap)


def edit_index(dataset: Dataset) -> None:
    path = dataset.root / "index.bin"
    path.write_bytes(path.read_bytes().replace(b"test/", b"toas/"))


def cut_index(dataset: Dataset) -> None:
    path = dataset.root / "index.bin"
    path.write_bytes(path.read_bytes()[:-100])


def empty_index(dataset: Dataset) -> None:
    (dataset.root / "index.bin").write_bytes(b"")


def remove_index(dataset: Dataset) -> None:
    (dataset.root / "index.bin").unlink()


def break_head(dataset: Dataset) -> None:
    (dataset.root / "dataset.json").write_text("{")


def edit_head(name: str, value: object) -> Callable[[Dataset], None]:
    def edit(dataset: Dataset) -> None:
        path = dataset.root / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    edit.__name__ = f"edit_{name}"
    return edit


def drop_sample(dataset: Dataset) -> None:
    save(dataset.root, dataset.description, dataset.shards, list(dataset.samples)[1:])


DAMAGES = [
    (flip_data, "train-000000.tar: train_2.im1.png", "CRC32 is"),
    (flip_header_checksum, "train-000000.tar", "damaged tar header at byte"),
    (flip_json, "train-000000.tar: train_0.json", "CRC32 is"),
    (flip_padding, "train-000000.tar", "its sha256 is not the one"),
    (flip_end, "train-000000.tar", "bytes follow the end mark"),
    (cut_in_data, "train-000000.tar", "of 51200 bytes"),
    (cut_in_data, "train-000000.tar", "truncated inside member train_3.im1.png"),
    (cut_in_data, "train-000000.tar: train_3.im1.png", "truncated: reaches to byte"),
    (cut_in_header, "train-000000.tar", "truncated inside the tar header"),
    (cut_at_member, "train-000000.tar", "without the end mark"),
    (cut_end_mark, "train-000000.tar", "without the end mark"),
    (grow, "train-000000.tar", "too long"),
    (empty, "train-000000.tar", "truncated: 0 of 51200 bytes"),
    (remove_shard, "train-000000.tar", "missing"),
    (add_shard, "train-000001.tar", "extra: dataset.json does not know it"),
    (remove_member, "train-000000.tar", "missing member: train_2.im1.png"),
    (remove_tail, "train-000000.tar", "missing member: train_2.json"),
    (add_member, "train-000000.tar", "extra member: extra.im1.png"),
    (repeat_member, "train-000000.tar", "train_0.im1.png is there twice"),
    (reverse_members, "train-000000.tar", "members in another order"),
    (swap_contents, "train-000000.tar: train_0.im1.png", "the index says"),
    (edit_index, "index.bin", "its sha256 is not the one"),
    (cut_index, "index.bin", "its sha256 is not the one"),
    (empty_index, "index.bin", "its sha256 is not the one"),
    (remove_index, "index.bin", "missing"),
    (break_head, "dataset.json", "not valid JSON"),
    (edit_head("num_samples", 11), "dataset.json", "num_samples is 11, the index lists 10"),
    (edit_head("fingerprint", "0" * 64), "dataset.json", "the fingerprint is not that of the samples"),
    (edit_head("shardlist", 5), "dataset.json", "damaged"),
    (edit_head("rejected", [1]), "dataset.json", "damaged"),
    (drop_sample, "train-000000.tar", "the index lists 6 samples of it, dataset.json 7"),
    (drop_sample, "train-000000.tar", "extra member: train_0.im1.png"),
]


@pytest.mark.parametrize(
    ("damage", "where", "what"), DAMAGES, ids=lambda value: getattr(value, "__name__", "")
)
def test_every_damage_is_found(
    copy: Dataset, damage: Callable[[Dataset], None], where: str, what: str
) -> None:
    damage(copy)
    found = findings(copy)
    hits = [f for f in found if f.where.removeprefix(f"{copy.root}/") == where and what in f.what]
    assert len(hits) == 1, found
    assert all(f.fix for f in found)


def test_one_flipped_byte_is_one_finding(copy: Dataset) -> None:
    flip_data(copy)
    assert len(findings(copy)) == 1
    assert len(findings(copy, deep=True)) == 1


def test_a_flip_of_any_byte_is_found(copy: Dataset) -> None:
    path = copy.root / "test-000000.tar"
    whole = path.read_bytes()
    for offset in [*range(0, len(whole), 197), len(whole) - 1]:
        flip(path, offset)
        assert findings(copy), offset
        path.write_bytes(whole)


@pytest.mark.parametrize("file", ["index.bin", "dataset.json"])
def test_a_flip_of_any_byte_of_a_sidecar_is_found_or_harmless(copy: Dataset, file: str) -> None:
    path = copy.root / file
    whole = path.read_bytes()
    for offset in range(0, len(whole), 257):
        flip(path, offset)
        try:
            found = findings(copy)
        except ValueError:
            found = [Finding("", "", "")]
        if not found:  # Texts that nothing depends on may say anything.
            assert file == "dataset.json"
            assert load(copy.root).samples == copy.samples
        path.write_bytes(whole)


def test_damage_of_two_shards_is_found_in_both(copy: Dataset) -> None:
    remove_shard(copy)
    flip(copy.root / "val-000000.tar", 512 + 60)
    assert {f.where for f in findings(copy)} == {"train-000000.tar", "val-000000.tar: val_7.im1.png"}


def test_several_processes_find_the_same(copy: Dataset) -> None:
    remove_shard(copy)
    flip(copy.root / "val-000000.tar", 512 + 60)
    alone = findings(copy, deep=True)
    assert verify(copy.root, deep=True, jobs=2, on_progress=lambda _: None) == alone


def test_shards_are_still_checked_without_an_index(copy: Dataset) -> None:
    remove_index(copy)
    flip_data(copy)
    assert any(f.where == "train-000000.tar" and "sha256" in f.what for f in findings(copy))


def disguised(copy: Dataset, junk: bytes, **changes: object) -> Sample:
    """Replaces the bytes of a picture, and makes all checksums agree."""
    sample = copy.samples[2]
    member = sample.members[0]
    assert len(junk) == member.size
    path = copy.root / sample.shard
    data = path.read_bytes()
    path.write_bytes(data[: member.offset] + junk + data[member.offset + member.size :])
    bad = replace(member, crc32=zlib.crc32(junk), **changes)  # type: ignore[arg-type]
    save_again(copy, replace(sample, members=(bad, *sample.members[1:])))
    return sample


def save_again(copy: Dataset, changed: Sample) -> None:
    """Writes the sidecars anew, with one sample changed and all checksums right."""
    samples = [changed if s.key == changed.key else s for s in copy.samples]
    shards = [replace(s, sha256=sha256_of(copy.root / s.file)) for s in copy.shards]
    save(copy.root, copy.description, shards, samples)


def test_what_is_no_picture_is_found_even_if_all_checksums_agree(copy: Dataset) -> None:
    sample = disguised(copy, b"x" * copy.samples[2].members[0].size, band_height=0, bands=())
    (found,) = findings(copy)
    assert found.where == f"{sample.shard}: {sample.members[0].name}"
    assert "not a PNG" in found.what


def test_an_undecodable_picture_is_found_by_decoding(copy: Dataset) -> None:
    member = copy.samples[2].members[0]
    data = (copy.root / copy.samples[2].shard).read_bytes()[member.offset : member.offset + member.size]
    sample = disguised(copy, data[:80] + b"x" * (member.size - 92) + data[-12:], band_height=0, bands=())
    assert findings(copy) == []
    (found,) = findings(copy, deep=True)
    assert found.where == f"{sample.shard}: {sample.members[0].name}"


@pytest.mark.parametrize("change", [{"width": 41}, {"height": 31}, {"channels": 1}, {"kind": "jpg"}], ids=str)
def test_a_wrong_size_in_the_index_is_found(copy: Dataset, change: dict[str, object]) -> None:
    sample = copy.samples[2]
    bad = replace(sample.members[0], **change)  # type: ignore[arg-type]
    save_again(copy, replace(sample, members=(bad, *sample.members[1:])))
    (found,) = findings(copy)
    assert "the index says" in found.what


def test_a_wrong_band_in_the_index_is_found(copy: Dataset) -> None:
    sample = copy.samples[2]
    member = sample.members[0]
    band = member.bands[0]
    for bad in (replace(band, crc32=band.crc32 ^ 1), replace(band, start=band.start + 1)):
        save_again(copy, replace(sample, members=(replace(member, bands=(bad,)), *sample.members[1:])))
        (found,) = findings(copy)
        assert "another checksum for the band" in found.what


def test_other_bands_than_the_picture_has_are_found_by_decoding(copy: Dataset) -> None:
    sample = copy.samples[2]
    member = sample.members[0]
    bad = replace(member, band_height=member.height * 2)
    save_again(copy, replace(sample, members=(bad, *sample.members[1:])))
    assert findings(copy) == []
    (found,) = findings(copy, deep=True)
    assert "other bands" in found.what


@pytest.mark.parametrize("change", [{"source": "other.png"}, {"notes": ("made up",)}], ids=str)
def test_a_json_that_says_something_else_is_found_by_the_deep_check(
    copy: Dataset, change: dict[str, object]
) -> None:
    save_again(copy, replace(copy.samples[2], **change))  # type: ignore[arg-type]
    assert findings(copy) == []
    (found,) = findings(copy, deep=True)
    assert (found.where, found.what) == (
        "train-000000.tar: train_2.json",
        "its JSON is not what the index says of the sample",
    )


def test_an_index_that_points_elsewhere_is_found_even_with_a_right_sha256(copy: Dataset) -> None:
    index = copy.samples
    members = index.members.copy()
    members["offset"][0] += 512
    members["offset"][2] = 10**14
    tables = {"samples": index.rows, "members": members, "bands": index.bands, "strings": index.strings}
    changed = Index(tables_to_bytes(tables), [shard.file for shard in copy.shards])
    save(copy.root, copy.description, copy.shards, changed)
    all_found = findings(copy)
    found = {f.where.split(": ")[-1]: f.what for f in all_found}
    assert len(found) == len(all_found), "one damage was told twice"
    assert any("another order" in what for what in found.values()) or len(found) == 2
    assert "reaches to byte" in found["train_1.im1.png"] or "the index says" in found["train_1.im1.png"]


@pytest.mark.parametrize(
    ("column", "value"), [("height", 2**32 - 1), ("width", 2**31), ("size", 2**40), ("offset", 2**45)]
)
def test_an_index_that_asks_for_terabytes_gets_none(copy: Dataset, column: str, value: int) -> None:
    index = copy.samples
    members = index.members.copy()
    members[column][0] = value
    tables = {"samples": index.rows, "members": members, "bands": index.bands, "strings": index.strings}
    changed = Index(tables_to_bytes(tables), [shard.file for shard in copy.shards])
    save(copy.root, copy.description, copy.shards, changed)
    assert findings(copy)
    with pytest.raises(DamagedError):
        read_clip(load(copy.root), load(copy.root).samples[0])


def test_frames_of_several_sizes_are_found(tmp_path: Path, pack_items: Callable[..., Dataset]) -> None:
    packed = pack_items(*(array_item(f"{n}", noise_clip(f"{n}", frames=2)) for n in range(8)))
    assert findings(packed, deep=True) == []
    index = packed.samples
    members = index.members.copy()
    members["width"][1] += 1
    tables = {"samples": index.rows, "members": members, "bands": index.bands, "strings": index.strings}
    save(
        packed.root,
        packed.description,
        packed.shards,
        Index(tables_to_bytes(tables), [s.file for s in packed.shards]),
    )
    assert any("frames of several sizes" in f.what for f in findings(packed))


def test_a_member_twice_in_the_index_is_found(copy: Dataset) -> None:
    sample = copy.samples[2]
    save_again(copy, replace(sample, members=(sample.members[0], *sample.members)))
    assert any(f.what == "the index lists member train_2.im1.png twice" for f in findings(copy))


def test_a_key_twice_is_found(copy: Dataset) -> None:
    index = copy.samples
    rows = index.rows.copy()
    rows["key"][1] = rows["key"][0]
    tables = {"samples": rows, "members": index.members, "bands": index.bands, "strings": index.strings}
    data = tables_to_bytes(tables)
    (copy.root / "index.bin").write_bytes(data)
    edit_head("index_sha256", hashlib.sha256(data).hexdigest())(copy)
    assert any("a key is there twice" in f.what for f in findings(copy))


def test_tars_of_others_are_verified_by_their_index(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", [*clips(3), ("../bad.png", b"x"), *clip("odd", 1, seed=9)])
    (tmp_path / "README.md").write_text("theirs")
    options = IndexOptions()
    dataset = index_foreign(tmp_path, options, on_progress=lambda _: None)
    assert findings(dataset, deep=True) == []
    shutil.copy(tmp_path / "train-0.tar", tmp_path / "train-1.tar")
    flip(tmp_path / "train-0.tar", dataset.samples[1].members[1].offset + 30)
    found = findings(dataset)
    assert {f.where for f in found if "CRC32" in f.what or "extra" in f.what} == {
        "train-0.tar: clip1.im2.png",
        "train-1.tar",
    }
    assert "srloss shard index with --force" in found[-1].fix


def test_exported_indexes_are_no_extra_files(copy: Dataset) -> None:
    for layout in ("dali", "energon"):
        export_index(copy, layout)
    assert findings(copy) == []


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no dataset.json"):
        verify(tmp_path, on_progress=lambda _: None)


def test_a_place_on_the_network_is_refused() -> None:
    with pytest.raises(ValueError, match="only a data set on a local disk can be verified"):
        verify("http://localhost:1/data", on_progress=lambda _: None)


def test_large_members_are_not_held_in_memory(copy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.proof.MAX_PICTURE_BYTES", 100)
    assert {f.what.partition(" ")[2] for f in findings(copy)} == {"bytes are too many for a picture"}
