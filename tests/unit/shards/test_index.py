"""The index gives back what was put in, whatever the order, and refuses whatever else a file may hold."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shards.index import BANDS, MAGIC, MEMBERS, SAMPLES, STRINGS, Index, IndexBuilder, tables_to_bytes
from shards.records import Band, Member, Sample

SHARDS = ["train-0.tar", "test-0.tar"]


def sample(key: str, split: str = "train", **changes: object) -> Sample:
    bands = (Band(33, 7), Band(90, 8))
    members = (
        Member(f"{key}.im1.png", 512, 100, 2**32 - 1, "png", "frame", 24, 70, 3, 64, bands),
        Member("elsewhere/x.lr1.png", 1536, 50, 1, "png", "lr", 12, 35, 3),
        Member(f"{key}.json", 2560, 2, 3, "json", "other"),
    )
    one = Sample(key, split, "video/ü\udcff.mp4", SHARDS[split == "test"], members, ("grey to RGB",))
    return replace(one, **changes)  # type: ignore[arg-type]


SOME = [sample("b"), sample("a"), sample("z", "test"), sample("c", notes=()), sample("a/b", source="s")]


def built(samples: list[Sample]) -> bytes:
    builder = IndexBuilder(SHARDS)
    for one in samples:
        builder.add(one)
    return builder.to_bytes()


def test_all_comes_back_ordered_by_split_and_key() -> None:
    index = Index(built(SOME), SHARDS)
    assert [one.key for one in index] == ["a", "a/b", "b", "c", "z"]
    assert sorted(index, key=lambda one: one.key) == sorted(SOME, key=lambda one: one.key)
    assert [one.key for one in index.of_split("test")] == ["z"]
    assert len(index.of_split("val")) == 0


def test_the_bytes_do_not_depend_on_the_order_of_adding() -> None:
    assert built(SOME) == built(SOME[::-1]) == built([SOME[2], SOME[0], *SOME[3:], SOME[1]])
    assert built(SOME) != built(SOME[1:])


def test_shards_may_be_named_after_the_builder_was_made() -> None:
    names: list[str] = []
    builder = IndexBuilder(names)
    names.append(SHARDS[0])
    builder.add(sample("a"))
    names.append(SHARDS[1])
    builder.add(sample("b", "test"))
    assert [one.shard for one in Index(builder.to_bytes(), names)] == SHARDS


def test_an_empty_index_is_one() -> None:
    index = Index(built([]), SHARDS)
    assert len(index) == 0
    assert list(index.of_split("train")) == []


@pytest.mark.parametrize(
    "changes",
    [{"band_height": 2**16}, {"size": -1}, {"width": 2**32}, {"crc32": 2**32}, {"bands": (Band(2**32, 0),)}],
    ids=str,
)
def test_what_does_not_fit_is_refused_rather_than_cut(changes: dict[str, object]) -> None:
    member = replace(sample("a").members[0], **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the index has room for"):
        built([sample("a", members=(member,))])


def test_too_many_parts_are_refused() -> None:
    member = replace(sample("a").members[0], bands=(Band(0, 0),) * 2**16)
    for members in ((member,), (sample("a").members[0],) * 2**16):
        with pytest.raises(ValueError, match="more than the index has room for"):
            built([sample("a", members=members)])


def with_header(change: Callable[[dict[str, list[object]]], None]) -> bytes:
    """An index whose header says something else."""
    data = bytearray(built(SOME))
    (length,) = struct.unpack_from("<I", data, len(MAGIC))
    start = len(MAGIC) + 4
    header = json.loads(data[start : start + length])
    change(header)
    text = json.dumps(header).encode()
    assert len(text) <= 300
    data[start : start + 300] = text.ljust(300)
    struct.pack_into("<I", data, len(MAGIC), 300)
    return bytes(data)


HEADERS: list[Callable[[dict[str, list[object]]], None]] = [
    lambda header: header["members"].__setitem__(1, -1),
    lambda header: header["members"].__setitem__(1, 10**30),
    lambda header: header["members"].__setitem__(1, 1e3),
    lambda header: header["members"].__setitem__(1, True),
    lambda header: header["samples"].__setitem__(0, -64),
    lambda header: header["samples"].__setitem__(0, 2**63),
    lambda header: header["samples"].__setitem__(0, "0"),
    lambda header: header["strings"].append(1),
    lambda header: header.__setitem__("bands", None),  # type: ignore[arg-type]
    lambda header: header.__delitem__("bands"),
]


@pytest.mark.parametrize("number", range(len(HEADERS)))
def test_a_header_that_cannot_be_is_damage(number: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        Index(with_header(HEADERS[number]), SHARDS)
    assert len(Index(with_header(lambda header: None), SHARDS)) == len(SOME)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SRLIDX",
        MAGIC,
        MAGIC + b"\xff\xff\xff\xff{}",
        MAGIC + struct.pack("<I", 4000) + b"[" * 4000,
        MAGIC + struct.pack("<I", 2) + b"[]",
        MAGIC
        + struct.pack("<I", 5000)
        + b'{"samples": [0, 0], "members": [0, 0], "bands": [0, 0], "strings": [0, 0]}'.ljust(5000),
        MAGIC + struct.pack("<I", 4) + b"null",
        MAGIC + struct.pack("<I", 2) + b"\xff\xff",
    ],
)
def test_what_is_no_index_is_damage(data: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        Index(data, SHARDS)


def test_every_cut_is_noticed() -> None:
    data = built(SOME)
    end = len(data.rstrip(b"\0"))
    for length in range(0, end, 7):
        with pytest.raises(ValueError, match="damaged"):
            Index(data[:length], SHARDS)


def tables() -> dict[str, np.ndarray]:
    index = Index(built(SOME), SHARDS)
    return {
        "samples": index.rows.copy(),
        "members": index.members.copy(),
        "bands": index.bands.copy(),
        "strings": index.strings.copy(),
    }


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("samples", "split", 3),
        ("samples", "split", 2),
        ("samples", "shard", 2),
        ("samples", "first_member", 2**64 - 1),
        ("samples", "first_member", 14),
        ("samples", "num_members", 2**16 - 1),
        ("members", "kind", 9),
        ("members", "role", 9),
        ("members", "first_band", 2**64 - 2),
        ("members", "num_bands", 2**16 - 1),
        ("members", "offset", 2**63),
        ("members", "size", 2**64 - 1),
        ("members", "width", 0),
        ("members", "kind", 4),
    ],
)
def test_a_pointer_to_the_outside_is_damage(table: str, column: str, value: int) -> None:
    made = tables()
    made[table][column][0] = value
    with pytest.raises(ValueError, match="damaged"):
        Index(tables_to_bytes(made), SHARDS)


@pytest.mark.parametrize(("table", "column"), [("samples", "key"), ("samples", "notes"), ("members", "name")])
@pytest.mark.parametrize(("part", "value"), [("at", 2**64 - 1), ("at", 10**6), ("length", 2**32 - 1)])
def test_a_text_outside_of_the_table_is_damage(table: str, column: str, part: str, value: int) -> None:
    made = tables()
    made[table][column][part][0] = value
    with pytest.raises(ValueError, match="points outside"):
        Index(tables_to_bytes(made), SHARDS)


def test_a_sample_without_a_frame_is_damage() -> None:
    made = tables()
    made["members"]["role"][0] = 2
    with pytest.raises(ValueError, match="a sample has no frame"):
        Index(tables_to_bytes(made), SHARDS)


@pytest.mark.parametrize("notes", [b"[" * 40, b"{}", b"[1]", b'["a"'])
def test_notes_that_are_no_texts_are_damage(notes: bytes) -> None:
    made = tables()
    made["strings"] = np.concatenate([made["strings"], np.frombuffer(notes, STRINGS)])
    made["samples"]["notes"][0] = (len(made["strings"]) - len(notes), len(notes))
    index = Index(tables_to_bytes(made), SHARDS)
    with pytest.raises(ValueError, match="the notes of a are damaged"):
        _ = index[0]


def test_the_tables_are_small() -> None:
    assert (SAMPLES.itemsize, MEMBERS.itemsize, BANDS.itemsize) == (51, 55, 8)
