"""Reading a data set back: what is wrong is said, with what to do."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shards.manifest import Dataset, fingerprint_of, load, read_clip


@pytest.fixture
def copy(mixed: Dataset, tmp_path: Path) -> Dataset:
    shutil.copytree(mixed.root, tmp_path / "copy")
    return replace(mixed, root=tmp_path / "copy")


def edit_head(dataset: Dataset, **changes: object) -> None:
    path = dataset.root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_load_gives_what_was_packed(mixed: Dataset) -> None:
    assert load(mixed.root) == mixed
    assert [sample.split for sample in mixed.of_split("val")] == ["val", "val"]
    keys = [sample.key for sample in mixed.of_split("train")]
    assert keys == sorted(keys)
    assert len(mixed.fingerprint) == 64


def test_an_unknown_split_is_refused(mixed: Dataset) -> None:
    with pytest.raises(ValueError, match="unknown 'dev'; use one of train, val, test"):
        mixed.of_split("dev")


def test_the_fingerprint_ignores_order_but_not_split_or_key(mixed: Dataset) -> None:
    assert fingerprint_of(reversed(mixed.samples)) == mixed.fingerprint
    first, *others = mixed.samples
    assert fingerprint_of([replace(first, split="test"), *others]) != mixed.fingerprint
    assert fingerprint_of([replace(first, key="other"), *others]) != mixed.fingerprint
    assert fingerprint_of(others) != mixed.fingerprint


def test_what_is_no_data_set_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such folder; pack .*srloss shard pack"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"it has no dataset.json; pack .*srloss shard pack"):
        load(tmp_path)
    (tmp_path / "dataset.json").write_text('{"shards": []}')
    with pytest.raises(ValueError, match=r"not written by srloss; .*srloss shard pack"):
        load(tmp_path)


def test_a_newer_format_is_refused(copy: Dataset) -> None:
    edit_head(copy, format_version=2)
    with pytest.raises(ValueError, match=r"format 2 is newer than 1.*update srloss"):
        load(copy.root)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("dataset.json", "{", "[", "not valid JSON"),
        ("dataset.json", '"name"', '"nom"', "KeyError: 'name'"),
        ("dataset.json", '"format_version": 1', '"format_version": "1"', "format_version is '1'"),
        ("dataset.json", '"fingerprint": "', '"fingerprint": "0', "fingerprint is not that of the samples"),
        ("dataset.json", '"train-000000.tar"', '"../train.tar"', "not a plain file name"),
        ("index.jsonl", '"width": 40', '"width": 41', "its sha256 is not the one"),
        ("index.jsonl", '"width": 40', '"width": "40"', "line 1: damaged .*width is str, not int"),
        ("index.jsonl", '{"height', '"height', "line 1: damaged"),
        ("index.jsonl", '"split": "test"', '"split": "dev"', "line 10: damaged .*split is 'dev'"),
    ],
)
def test_damage_is_named(copy: Dataset, name: str, old: str, new: str, message: str) -> None:
    path = copy.root / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as caught:
        load(copy.root)
    assert f"srloss shard verify {copy.root}" in str(caught.value)


def test_a_missing_index_is_named(copy: Dataset) -> None:
    (copy.root / "index.jsonl").unlink()
    with pytest.raises(ValueError, match=r"index.jsonl: missing; .*srloss shard verify"):
        load(copy.root)


def test_an_empty_data_set_is_refused(copy: Dataset) -> None:
    (copy.root / "index.jsonl").write_bytes(b"")
    edit_head(copy, index_sha256=hashlib.sha256(b"").hexdigest(), fingerprint=fingerprint_of([]))
    with pytest.raises(ValueError, match="holds no pictures; pack it again"):
        load(copy.root)


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
    [(damage_byte, "CRC32 is"), (cut, "truncated: "), (remove, "cannot be opened .No such file")],
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


def test_a_picture_of_another_size_than_indexed_is_refused(copy: Dataset) -> None:
    sample = replace(copy.samples[0], width=copy.samples[0].width + 1)
    with pytest.raises(ValueError, match="the picture is 40x32, not 41x32"):
        read_clip(copy, sample)
