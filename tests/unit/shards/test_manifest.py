"""Reading a data set back: what is wrong is said, with what to do."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shards.index import Index
from shards.manifest import Dataset, Description, fingerprint_of, load, save
from shards.reader import read_clip
from shards.records import NearDuplicate, Rejected


@pytest.fixture
def copy(mixed: Dataset, tmp_path: Path) -> Dataset:
    shutil.copytree(mixed.root, tmp_path / "copy")
    return load(tmp_path / "copy")


def edit_head(dataset: Dataset, **changes: object) -> None:
    path = dataset.root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_load_gives_what_was_packed(mixed: Dataset) -> None:
    again = load(mixed.root)
    assert (again.description, again.shards, again.fingerprint) == (
        mixed.description,
        mixed.shards,
        mixed.fingerprint,
    )
    assert again.samples == mixed.samples
    assert [sample.split for sample in mixed.of_split("val")] == ["val", "val"]
    keys = [sample.key for sample in mixed.of_split("train")]
    assert keys == sorted(keys)
    assert len(mixed.fingerprint) == 64


def test_save_and_load_keep_every_field(mixed: Dataset, tmp_path: Path) -> None:
    description = Description(
        "name",
        "a rule",
        "raw",
        4,
        (Rejected("a.png", "cut \udce9 off"),),
        (NearDuplicate("a", "b", 0.987),),
        ("a warning",),
    )
    samples = [replace(sample, notes=("one", "two ü")) for sample in mixed.samples]
    save(tmp_path, description, mixed.shards, samples)
    again = load(tmp_path)
    assert again.description == description
    assert list(again.samples) == samples


def test_an_unknown_split_is_refused(mixed: Dataset) -> None:
    with pytest.raises(ValueError, match="unknown 'dev'; use one of train, val, test"):
        mixed.of_split("dev")


def test_the_fingerprint_is_of_split_key_and_pictures(mixed: Dataset) -> None:
    assert fingerprint_of(mixed.samples) == mixed.fingerprint
    first, *others = mixed.samples
    assert fingerprint_of([replace(first, split="test"), *others]) != mixed.fingerprint
    assert fingerprint_of([replace(first, key="other"), *others]) != mixed.fingerprint
    assert fingerprint_of(others) != mixed.fingerprint
    frame = replace(first.members[0], crc32=first.members[0].crc32 ^ 1)
    assert fingerprint_of([replace(first, members=(frame, *first.members[1:])), *others]) != mixed.fingerprint
    assert fingerprint_of([replace(first, source="other", notes=("x",)), *others]) == mixed.fingerprint


def test_what_is_no_data_set_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such folder; pack .*srloss shard pack"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"it has no dataset.json; pack .*srloss shard pack"):
        load(tmp_path)
    (tmp_path / "dataset.json").write_text('{"shards": []}')
    with pytest.raises(ValueError, match=r"not written by srloss; .*srloss shard pack"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (3, r"format 3 is newer than 2.*srloss shard index .*or update srloss"),
        (1, r"format 1 is older than 2.*srloss shard index .* --force"),
    ],
)
def test_another_format_is_refused(copy: Dataset, version: int, message: str) -> None:
    edit_head(copy, format_version=version)
    with pytest.raises(ValueError, match=message):
        load(copy.root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{", "[", "not valid JSON"),
        ('"name"', '"nom"', "KeyError: 'name'"),
        ('"format_version": 2', '"format_version": "2"', "format_version is '2'"),
        ('"train-000000.tar"', '"../train.tar"', "not a plain file name"),
        ('"lr_scale": 0', '"lr_scale": "0"', "lr_scale is str, not int"),
        ('"warnings": []', '"warnings": "no"', "warnings is str, not list"),
    ],
)
def test_damage_of_the_head_is_named(copy: Dataset, old: str, new: str, message: str) -> None:
    path = copy.root / "dataset.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as caught:
        load(copy.root)
    assert f"srloss shard verify {copy.root}" in str(caught.value)


def test_damage_of_the_index_is_named(copy: Dataset) -> None:
    path = copy.root / "index.bin"
    flip(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"index.bin: its sha256 is not the one.*srloss shard verify"):
        load(copy.root)


def test_an_index_that_is_cut_is_named_even_where_its_sum_is_right(copy: Dataset) -> None:
    path = copy.root / "index.bin"
    data = path.read_bytes()[:-40]
    path.write_bytes(data)
    edit_head(copy, index_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(ValueError, match=r"index.bin: .*damaged.*srloss shard verify"):
        load(copy.root)


def test_a_missing_index_is_named(copy: Dataset) -> None:
    (copy.root / "index.bin").unlink()
    with pytest.raises(ValueError, match=r"index.bin: missing; .*srloss shard verify"):
        load(copy.root)


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    save(tmp_path, Description("name", "rule", "raw"), [], [])
    with pytest.raises(ValueError, match="holds no pictures; pack it again"):
        load(tmp_path)


def test_an_index_that_points_outside_is_refused(mixed: Dataset) -> None:
    data = (mixed.root / "index.bin").read_bytes()
    assert len(Index(data, [shard.file for shard in mixed.shards])) == len(mixed.samples)
    with pytest.raises(ValueError, match="shard points outside of its table"):
        Index(data, [mixed.shards[0].file])


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def damage_byte(dataset: Dataset) -> None:
    member = dataset.samples[0].members[0]
    flip(dataset.root / dataset.samples[0].shard, member.offset + member.size // 2)


def cut(dataset: Dataset) -> None:
    path = dataset.root / dataset.samples[0].shard
    path.write_bytes(path.read_bytes()[:600])


def remove(dataset: Dataset) -> None:
    (dataset.root / dataset.samples[0].shard).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [(damage_byte, "CRC32 is"), (cut, "truncated: "), (remove, "No such file")],
)
def test_reading_a_damaged_clip_names_shard_member_and_command(
    copy: Dataset, damage: Callable[[Dataset], None], message: str
) -> None:
    damage(copy)
    sample = copy.samples[0]
    with pytest.raises(ValueError, match=message) as caught:
        read_clip(copy, sample)
    assert str(caught.value).startswith(f"{sample.shard}: {sample.members[0].name}: ")
    assert str(caught.value).endswith(f"srloss shard verify {copy.root}")
