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

from shards.manifest import Dataset, fingerprint_of, save
from shards.tars import sha256_of
from shards.verify import Finding, VerifyProgress, verify


@pytest.fixture
def copy(mixed: Dataset, tmp_path: Path) -> Dataset:
    shutil.copytree(mixed.root, tmp_path / "copy")
    return replace(mixed, root=tmp_path / "copy")


def findings(dataset: Dataset) -> list[Finding]:
    return verify(dataset.root, on_progress=lambda _: None)


def shard_path(dataset: Dataset) -> Path:
    return dataset.root / "train-000000.tar"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def test_a_sound_data_set_has_no_findings(mixed: Dataset) -> None:
    calls: list[VerifyProgress] = []
    assert verify(mixed.root, on_progress=calls.append) == []
    assert [(call.done, call.total) for call in calls] == [(1, 3), (2, 3), (3, 3)]


def flip_data(dataset: Dataset) -> None:
    flip(shard_path(dataset), dataset.samples[2].members[0].offset + 60)


def flip_header_checksum(dataset: Dataset) -> None:
    flip(shard_path(dataset), dataset.samples[2].members[0].offset - 512 + 3)


def flip_json(dataset: Dataset) -> None:
    path = shard_path(dataset)
    flip(path, path.read_bytes().index(b'"source"') + 12)


def flip_padding(dataset: Dataset) -> None:
    flip(shard_path(dataset), shard_path(dataset).stat().st_size - 1)


def cut_in_data(dataset: Dataset) -> None:
    data = shard_path(dataset).read_bytes()
    shard_path(dataset).write_bytes(data[: dataset.samples[3].members[0].offset + 100])


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
        members = [(info, tar.extractfile(info).read()) for info in tar]  # pyright: ignore[reportOptionalMemberAccess]
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


def edit_index(dataset: Dataset) -> None:
    path = dataset.root / "index.jsonl"
    path.write_text(path.read_text().replace('"source": "test/', '"source": "toast/'))


def drop_index_line(dataset: Dataset) -> None:
    path = dataset.root / "index.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def break_index(dataset: Dataset) -> None:
    (dataset.root / "index.jsonl").write_text("{\n")


def remove_index(dataset: Dataset) -> None:
    (dataset.root / "index.jsonl").unlink()


def break_head(dataset: Dataset) -> None:
    (dataset.root / "dataset.json").write_text("{")


DAMAGES = [
    (flip_data, "train-000000.tar: train_2.im1.png", "CRC32 is"),
    (flip_header_checksum, "train-000000.tar", "damaged tar header at byte"),
    (flip_json, "train-000000.tar: train_0.json", "differs from index.jsonl"),
    (flip_padding, "train-000000.tar", "its sha256 is not the one"),
    (cut_in_data, "train-000000.tar", "of 51200 bytes"),
    (cut_in_data, "train-000000.tar", "truncated: member train_3.im1.png"),
    (cut_in_data, "train-000000.tar: train_3.im1.png", "truncated: reaches to byte"),
    (cut_at_member, "train-000000.tar", "without the end mark"),
    (cut_end_mark, "train-000000.tar", "without the end mark"),
    (grow, "train-000000.tar", "too long"),
    (empty, "train-000000.tar", "truncated: 0 of 51200 bytes"),
    (remove_shard, "train-000000.tar", "missing"),
    (add_shard, "train-000001.tar", "extra: dataset.json does not know it"),
    (remove_member, "train-000000.tar", "missing member: train_2.im1.png"),
    (remove_tail, "train-000000.tar", "missing member: train_2.json"),
    (add_member, "train-000000.tar", "extra member: extra.im1.png"),
    (repeat_member, "train-000000.tar", "extra member: train_0.im1.png"),
    (reverse_members, "train-000000.tar", "members in another order"),
    (edit_index, "index.jsonl", "its sha256 is not the one"),
    (drop_index_line, "train-000000.tar", "the index lists 6 samples of it, dataset.json 7"),
    (break_index, "index.jsonl line 1", "damaged"),
    (remove_index, "index.jsonl", "missing"),
    (break_head, "dataset.json", "not valid JSON"),
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


def test_a_flip_of_any_byte_is_found(copy: Dataset) -> None:
    path = copy.root / "test-000000.tar"
    whole = path.read_bytes()
    for offset in [*range(0, len(whole), 97), len(whole) - 1]:
        flip(path, offset)
        assert findings(copy), offset
        path.write_bytes(whole)


def test_damage_of_two_shards_is_found_in_both(copy: Dataset) -> None:
    remove_shard(copy)
    flip(copy.root / "val-000000.tar", 512 + 60)
    assert {f.where for f in findings(copy)} == {"train-000000.tar", "val-000000.tar: val_7.im1.png"}


def test_shards_are_still_checked_without_an_index(copy: Dataset) -> None:
    remove_index(copy)
    flip_data(copy)
    assert any(f.where == "train-000000.tar" and "sha256" in f.what for f in findings(copy))


def test_an_undecodable_png_is_found_even_if_all_checksums_agree(copy: Dataset) -> None:
    path = shard_path(copy)
    sample = copy.samples[2]
    member = sample.members[0]
    data = path.read_bytes()
    junk = b"x" * member.size
    path.write_bytes(data[: member.offset] + junk + data[member.offset + member.size :])
    bad = replace(sample, members=(replace(member, crc32=zlib.crc32(junk)),))
    samples = tuple(bad if s is sample else s for s in copy.samples)
    shards = tuple(replace(s, sha256=sha256_of(copy.root / s.file)) for s in copy.shards)
    save(replace(copy, samples=samples, shards=shards, fingerprint=fingerprint_of(samples)))
    (found,) = findings(copy)
    assert found.where == f"{sample.shard}: {member.name}"
    assert "cannot be decoded as PNG" in found.what


def test_an_index_that_points_elsewhere_is_found_even_with_a_right_sha256(copy: Dataset) -> None:
    path = copy.root / "index.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["members"][0]["offset"] += 512
    rows[1]["members"][0]["offset"] = 10**15
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = json.loads((copy.root / "dataset.json").read_text())
    head["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy.root / "dataset.json").write_text(json.dumps(head))
    assert [f.where.split(": ")[-1] for f in findings(copy)] == ["train_0.im1.png", "train_1.im1.png"]


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no dataset.json"):
        verify(tmp_path, on_progress=lambda _: None)
