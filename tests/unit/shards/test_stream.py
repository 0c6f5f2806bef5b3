"""The stream is a function of data set, seed and position: of nothing else."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import crop as crop_module
from shards import index as index_module
from shards.crop import dihedral, pad_to
from shards.decode import Window
from shards.index import Index, IndexBuilder
from shards.manifest import Dataset, load
from shards.order import sample_generator
from shards.reader import read_clip
from shards.records import Sample
from shards.storage.errors import StorageError
from shards.stream import DamagePolicy, Stream
from shards.visits import Plan, Shapes

PATCH = 24


def make(dataset: Dataset, batch: int = 4, **options: Any) -> Stream:
    chosen = {"data_seed": 5, "patch_size": PATCH, "augment": True} | options
    return Stream(dataset, global_batch_size=batch, **chosen)


def with_samples(dataset: Dataset, samples: Iterable[Sample]) -> Dataset:
    """The data set with other samples in its index."""
    names = [shard.file for shard in dataset.shards]
    builder = IndexBuilder(names)
    for sample in samples:
        builder.add(sample)
    return replace(dataset, samples=Index(builder.to_bytes(), names))


def taken(dataset: Dataset, count: int, **options: Any) -> tuple[np.ndarray, list[str], list[int], str]:
    """The first `count` samples, one at a time: pixels, keys, epochs and the hash."""
    stream = make(dataset, 1, **options)
    batches = [stream.next_batch() for _ in range(count)]
    hr = np.concatenate([batch.hr for batch in batches])
    return hr, [b.keys[0] for b in batches], [b.epochs[0] for b in batches], stream.stream_hash


def global_batch(streams: list[Stream]) -> tuple[np.ndarray, list[str]]:
    """The parts of all ranks, put back into the global order."""
    parts = [stream.next_batch() for stream in streams]
    count = sum(len(part.keys) for part in parts)
    hr = np.empty((count, *parts[0].hr.shape[1:]), np.uint8)
    keys = [""] * count
    for rank, part in enumerate(parts):
        hr[rank :: len(parts)] = part.hr
        keys[rank :: len(parts)] = part.keys
    return hr, keys


def test_a_batch_has_the_promised_shape(mixed: Dataset) -> None:
    batch = make(mixed, 6, world_size=2, rank=1).next_batch()
    assert batch.hr.shape == (3, 1, 3, PATCH, PATCH)
    assert batch.hr.dtype == np.uint8
    assert batch.hr.flags.c_contiguous
    assert len(batch.keys) == len(batch.epochs) == 3


def test_every_sample_comes_exactly_once_an_epoch(mixed: Dataset) -> None:
    stream = make(mixed, 5)  # Seven samples: batches cross the border of epochs.
    seen: Counter[tuple[int, str]] = Counter()
    for _ in range(21):
        batch = stream.next_batch()
        seen.update(zip(batch.epochs, batch.keys, strict=True))
    keys = [sample.key for sample in mixed.of_split("train")]
    assert seen == Counter({(epoch, key): 1 for epoch in range(15) for key in keys})
    assert stream.samples_seen == 105
    assert stream.epoch == 15.0


def test_a_batch_may_hold_several_epochs(mixed: Dataset) -> None:
    batch = make(mixed, 16).next_batch()
    assert Counter(batch.epochs) == {0: 7, 1: 7, 2: 2}


def test_epochs_differ_in_order_and_crops(mixed: Dataset) -> None:
    hr, keys, _, _ = taken(mixed, 14)
    assert keys[:7] != keys[7:]
    first, second = keys.index("train_2"), 7 + keys[7:].index("train_2")
    assert not np.array_equal(hr[first], hr[second])


@pytest.mark.parametrize(("batch", "world"), [(1, 1), (6, 1), (6, 2), (6, 3), (6, 6), (12, 4), (16, 2)])
def test_pixels_and_hash_do_not_depend_on_batch_size_or_world_size(
    mixed: Dataset, batch: int, world: int
) -> None:
    count = 48
    expected_hr, expected_keys, _, expected_hash = taken(mixed, count)
    streams = [make(mixed, batch, rank=rank, world_size=world) for rank in range(world)]
    parts = [global_batch(streams) for _ in range(count // batch)]
    assert np.array_equal(np.concatenate([hr for hr, _ in parts]), expected_hr)
    assert [key for _, keys in parts for key in keys] == expected_keys
    assert {stream.stream_hash for stream in streams} == {expected_hash}
    assert len({json.dumps(stream.state_dict()) for stream in streams}) == 1


@pytest.mark.parametrize(
    "history",
    [pytest.param(number, marks=[pytest.mark.slow] if number >= 20 else []) for number in range(60)],
)
def test_any_history_of_restarts_gives_the_same_samples(mixed: Dataset, history: int) -> None:
    choose = random.Random(history)
    state = None
    got_hr: list[np.ndarray] = []
    got_keys: list[str] = []
    final_hash = ""
    while len(got_keys) < 60:
        world = choose.choice([1, 2, 3, 4])
        batch = world * choose.choice([1, 2, 3])
        options = {"cache_bytes": choose.choice([0, 2**20]), "threads": choose.choice([0, 1, 3])}
        streams = [make(mixed, batch, rank=rank, world_size=world, **options) for rank in range(world)]
        for stream in streams:
            if state is not None:
                stream.load_state_dict(state)
        for _ in range(choose.randint(1, 4)):
            hr, keys = global_batch(streams)
            got_hr.append(hr)
            got_keys += keys
        state = json.loads(json.dumps(streams[choose.randrange(world)].state_dict()))
        final_hash = streams[0].stream_hash
    expected_hr, expected_keys, _, expected_hash = taken(mixed, len(got_keys))
    assert got_keys == expected_keys
    assert np.array_equal(np.concatenate(got_hr), expected_hr)
    assert final_hash == expected_hash


def test_the_state_is_small(mixed: Dataset) -> None:
    stream = make(mixed)
    for _ in range(10):
        stream.next_batch()
    state = stream.state_dict()
    assert len(json.dumps(state)) < 500
    assert state["cursor"] == 40
    assert all(type(value) in (int, str) for value in state.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_seed": 6}, "data_seed is 5, but this stream has 6"),
        ({"patch_size": 16}, "patch_size is 24"),
        ({"augment": False}, "augment is 1"),
        ({"split": "val"}, "split is 'train'"),
    ],
)
def test_the_state_of_another_stream_is_refused(mixed: Dataset, change: dict[str, Any], message: str) -> None:
    state = make(mixed).state_dict()
    with pytest.raises(ValueError, match=message):
        make(mixed, **change).load_state_dict(state)


def test_the_state_of_other_data_is_refused(mixed: Dataset) -> None:
    other = replace(mixed, fingerprint="0" * 64)
    with pytest.raises(ValueError, match="fingerprint is '000"):
        make(mixed).load_state_dict(make(other).state_dict())


def test_what_is_not_a_state_is_refused(mixed: Dataset) -> None:
    stream = make(mixed)
    with pytest.raises(ValueError, match="stream state: has"):
        stream.load_state_dict({"cursor": 3})
    with pytest.raises(ValueError, match="cursor is -1"):
        stream.load_state_dict(stream.state_dict() | {"cursor": -1})


def test_data_seeds_differ_in_order_crops_and_hash(mixed: Dataset) -> None:
    one, two = taken(mixed, 21), taken(mixed, 21, data_seed=6)
    assert one[1] != two[1]
    assert one[3] != two[3]
    assert not np.array_equal(one[0], two[0])


@pytest.mark.parametrize(
    "change", [{"data_seed": 6}, {"patch_size": 20}, {"augment": False}, {"split": "val"}]
)
def test_the_hash_tells_streams_apart(mixed: Dataset, change: dict[str, Any]) -> None:
    assert taken(mixed, 14)[3] != taken(mixed, 14, **change)[3]


def test_without_augmentation_a_patch_is_a_plain_crop(mixed: Dataset) -> None:
    hr, keys, _, _ = taken(mixed, 35, augment=False)
    clips = {s.key: pad_to(read_clip(mixed, s), PATCH) for s in mixed.of_split("train")}
    for patch, key in zip(hr, keys, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(clips[key], (PATCH, PATCH), axis=(2, 3))
        assert (windows.transpose(2, 3, 0, 1, 4, 5) == patch).all(axis=(2, 3, 4, 5)).any()


def test_the_place_of_a_crop_is_drawn_for_seed_epoch_and_sample(mixed: Dataset) -> None:
    samples = mixed.of_split("train")
    hr, keys, epochs, _ = taken(mixed, 21, augment=False)
    for patch, key, epoch in zip(hr, keys, epochs, strict=True):
        index = [sample.key for sample in samples].index(key)
        draw = sample_generator(mixed.fingerprint, 5, epoch, index)
        y = draw.integers(max(samples[index].height - PATCH, 0) + 1)
        x = draw.integers(max(samples[index].width - PATCH, 0) + 1)
        clip = pad_to(read_clip(mixed, samples[index]), PATCH)
        assert np.array_equal(patch, clip[..., y : y + PATCH, x : x + PATCH])


def test_crops_reach_every_border(mixed: Dataset) -> None:
    big = with_samples(mixed, [s for s in mixed.samples if s.key == "train_4"])  # 32x32.
    clip = read_clip(big, big.samples[0])
    hr = taken(big, 200, augment=False, patch_size=28)[0]
    places = {
        (y, x)
        for y in range(5)
        for x in range(5)
        if (hr == clip[..., y : y + 28, x : x + 28]).all((1, 2, 3, 4)).any()
    }
    assert len(places) == 25


def test_all_eight_transforms_are_drawn(mixed: Dataset) -> None:
    square = with_samples(mixed, [s for s in mixed.samples if s.key == "train_4"])
    clip = read_clip(square, square.samples[0])
    hr = taken(square, 200, patch_size=32)[0]
    drawn = {t for t in range(8) if (hr == dihedral(clip, t)).all((1, 2, 3, 4)).any()}
    assert drawn == set(range(8))
    assert len({dihedral(clip, t).tobytes() for t in range(8)}) == 8


def test_small_pictures_are_named_and_mirrored(mixed: Dataset) -> None:
    stream = make(mixed)
    assert stream.small == ("train/3.png",)  # 17 pixels wide.
    hr, keys, _, _ = taken(mixed, 7, augment=False)
    patch = hr[keys.index("train_3")]
    clip = read_clip(mixed, next(s for s in mixed.samples if s.key == "train_3"))
    assert any(np.array_equal(patch[..., 3:20], clip[..., y : y + PATCH, :]) for y in range(17))
    assert np.array_equal(patch[..., :3], patch[..., 3:6][..., ::-1])
    assert np.array_equal(patch[..., 20:], patch[..., 16:20][..., ::-1])


def test_padding_goes_far_beyond_the_picture() -> None:
    clip = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    padded = pad_to(clip, 33)
    assert padded.shape == (2, 3, 33, 33)
    assert np.array_equal(padded[..., 14:18, 14:19], clip)
    assert pad_to(clip, 4) is clip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 7, "world_size": 4}, "7 is not a positive multiple of 4 ranks; nearest possible: 4 or 8"),
        ({"batch": 3, "world_size": 4}, "nearest possible: 4$"),
        ({"batch": 0}, "nearest possible: 1$"),
        ({"rank": 2, "world_size": 2}, r"rank: must be in 0\.\.1, got 2"),
        ({"patch_size": 0}, "patch_size: must be 1 or more"),
        ({"split": "dev"}, "unknown 'dev'"),
    ],
)
def test_wrong_settings_are_refused(mixed: Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(mixed, **options)


def test_an_empty_split_is_refused(mixed: Dataset) -> None:
    empty = with_samples(mixed, mixed.of_split("train"))
    with pytest.raises(ValueError, match=r"no pictures in split 'val' .by top folder.*pack it again"):
        make(empty, split="val")


def test_clips_of_several_lengths_are_refused(mixed: Dataset) -> None:
    first, *others = mixed.samples
    uneven = with_samples(mixed, [replace(first, members=first.members * 2), *others])
    with pytest.raises(ValueError, match=r"clips of \[1, 2\] frames"):
        make(uneven)


def test_all_frames_of_a_clip_are_cut_and_turned_alike(mixed: Dataset) -> None:
    batch = make(
        with_samples(mixed, [replace(s, members=s.members * 3) for s in mixed.samples]), 8
    ).next_batch()
    assert batch.hr.shape == (8, 3, 3, PATCH, PATCH)
    assert (batch.hr == batch.hr[:, :1]).all()


@pytest.mark.parametrize(("cache_bytes", "reads"), [(2**20, 7), (0, 28)])
def test_clips_are_decoded_once_while_they_fit(
    mixed: Dataset, monkeypatch: pytest.MonkeyPatch, cache_bytes: int, reads: int
) -> None:
    calls: list[str] = []

    def counted(*arguments: Any, **options: Any) -> np.ndarray:
        calls.append("read")
        return read_clip(*arguments, **options)

    monkeypatch.setattr(crop_module, "read_clip", counted)
    taken(mixed, 28, cache_bytes=cache_bytes)
    assert len(calls) == reads


def test_a_damaged_clip_stops_the_stream_where_it_was(mixed: Dataset, tmp_path: Path, save: Callable) -> None:
    shutil.copytree(mixed.root, tmp_path / "copy")
    damaged = load(tmp_path / "copy")
    (damaged.root / "train-000000.tar").unlink()
    stream = make(damaged)
    before = stream.state_dict()
    with pytest.raises(ValueError, match=r"train-000000.tar: .*srloss shard verify"):
        stream.next_batch()
    assert stream.state_dict() == before
    shutil.copy(mixed.root / "train-000000.tar", damaged.root)
    assert np.array_equal(stream.next_batch().hr, make(mixed).next_batch().hr)


def streams_of(dataset: Dataset, world: int, per_rank: int, **options: Any) -> list[Stream]:
    return [make(dataset, world * per_rank, rank=rank, world_size=world, **options) for rank in range(world)]


@pytest.mark.parametrize("histories", [range(100), pytest.param(range(100, 300), marks=pytest.mark.slow)])
@pytest.mark.parametrize("epoch_end", ["carry", "drop", "pad"])
def test_every_history_keeps_its_promise_at_the_ends_of_epochs(epoch_end: str, histories: range) -> None:
    for history in histories:
        check_history(random.Random(history), epoch_end)


def check_history(choose: random.Random, epoch_end: str) -> None:
    """Only the plan, without pixels: what comes, over random changes of batch size and restarts."""
    num_samples = choose.randint(5, 40)
    sides = np.full(num_samples, 64)
    shapes = Shapes(np.ones(num_samples, int), np.zeros(num_samples, int), sides, sides)
    position, seen = 0, Counter[tuple[int, int]]()
    sizes = [size for size in (1, 2, 3, 4, 6, 8, 12) if size <= num_samples]
    skipped = Counter[int]()
    for _ in range(60):
        plan = Plan(
            "f" * 64, shapes, data_seed=3, patch_size=16, augment=True, multiple=1, epoch_end=epoch_end
        )
        size = choose.choice(sizes)
        before = position
        visits, position = plan.batch(position, size)
        assert len(visits) == size
        if epoch_end == "drop" and before // num_samples != visits[0].epoch:
            skipped[before // num_samples] = num_samples - before % num_samples
            assert skipped[before // num_samples] < size
        if epoch_end != "carry":
            assert len({visit.epoch for visit in visits}) == 1
        if epoch_end != "pad":
            assert all(visit.is_valid for visit in visits)
        seen.update((visit.epoch, visit.index) for visit in visits if visit.is_valid)
    assert set(seen.values()) == {1}
    last = position // num_samples
    for epoch in range(last):
        assert sum(of == epoch for of, _ in seen) == num_samples - skipped[epoch]


def test_a_padded_epoch_has_every_sample_once_and_marks_the_rest(mixed: Dataset) -> None:
    for world, per_rank in [(1, 3), (2, 2), (3, 3), (1, 16)]:
        streams = streams_of(mixed, world, per_rank, epoch_end="pad", split="train")
        steps = -(-7 // (world * per_rank))
        batches = [stream.next_batch() for _ in range(steps) for stream in streams]
        valid = [key for b in batches for key, is_valid in zip(b.keys, b.valid, strict=True) if is_valid]
        assert sorted(valid) == sorted(sample.key for sample in mixed.of_split("train"))
        assert {len(batch.keys) for batch in batches} == {per_rank}
        assert {stream.samples_seen for stream in streams} == {7}
        assert {stream.epoch for stream in streams} == {1.0}


def test_a_dropped_end_is_not_counted_as_seen(mixed: Dataset) -> None:
    stream = make(mixed, 3, epoch_end="drop")
    keys = [key for _ in range(4) for key in stream.next_batch().keys]
    assert len(set(keys[:6])) == len(set(keys[6:])) == 6
    assert stream.samples_seen == 12
    with pytest.raises(ValueError, match=r"8 is more than the 7 samples.*'carry'"):
        make(mixed, 8, epoch_end="drop")
    with pytest.raises(ValueError, match="unknown 'stop'; use one of carry, drop, pad"):
        make(mixed, epoch_end="stop")


def test_a_resumed_end_of_epoch_goes_on(mixed: Dataset) -> None:
    for epoch_end in ("drop", "pad"):
        whole, first = make(mixed, 3, epoch_end=epoch_end), make(mixed, 3, epoch_end=epoch_end, threads=2)
        expected = [whole.next_batch() for _ in range(7)]
        got = [first.next_batch() for _ in range(3)]
        second = make(mixed, 3, epoch_end=epoch_end)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        got += [second.next_batch() for _ in range(4)]
        assert all(np.array_equal(a.hr, b.hr) for a, b in zip(expected, got, strict=True))
        assert whole.state_dict() == second.state_dict()


def test_what_threads_read_ahead_is_not_consumed(mixed: Dataset) -> None:
    stream = make(mixed, 2, threads=3)
    first = stream.next_batch()
    assert stream.samples_seen == 2
    other = make(mixed, 2)
    other.load_state_dict(make(mixed, 2).state_dict())
    assert np.array_equal(first.hr, other.next_batch().hr)
    other.load_state_dict(stream.state_dict())
    assert np.array_equal(stream.next_batch().hr, other.next_batch().hr)
    # Going back also forgets what was read ahead.
    stream.load_state_dict(make(mixed, 2).state_dict())
    assert np.array_equal(stream.next_batch().hr, first.hr)
    stream.close()


def test_only_the_window_is_read_of_what_does_not_fit_into_memory(
    mixed: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[Window | None] = []

    def seen(dataset: Dataset, sample: Sample, window: Window | None = None, **options: Any) -> np.ndarray:
        windows.append(window)
        return read_clip(dataset, sample, window, **options)

    monkeypatch.setattr(crop_module, "read_clip", seen)
    small = taken(mixed, 14, cache_bytes=0)
    assert (
        sum(window is None for window in windows) == 2
    )  # The one that is smaller than a crop, in both epochs.
    assert {(w.height, w.width) for w in windows if w} == {(PATCH, PATCH)}
    assert np.array_equal(small[0], taken(mixed, 14)[0])


@pytest.fixture
def broken(mixed: Dataset, tmp_path: Path) -> tuple[Dataset, str]:
    """A copy in which one training clip has a flipped bit, and its key."""
    shutil.copytree(mixed.root, tmp_path / "broken")
    sample = mixed.of_split("train")[2]
    path = tmp_path / "broken" / sample.shard
    data = bytearray(path.read_bytes())
    data[sample.frames[0].offset + sample.frames[0].size // 2] ^= 4
    path.write_bytes(data)
    return load(tmp_path / "broken"), sample.key


def test_damage_is_raised_unless_substitution_is_asked_for(broken: tuple[Dataset, str]) -> None:
    dataset, key = broken
    for threads in (0, 2):
        stream = make(dataset, 7, threads=threads)
        with pytest.raises(ValueError, match=rf"{key}.*CRC32.*srloss shard verify"):
            stream.next_batch()


def test_a_damaged_clip_is_replaced_by_the_same_one_everywhere(
    broken: tuple[Dataset, str], tmp_path: Path
) -> None:
    dataset, key = broken
    policy = DamagePolicy("substitute", budget=0.2, report=tmp_path / "damage.jsonl")
    expected_hr, expected_keys, _, expected_hash = taken(dataset, 24, damage=policy)
    assert key not in expected_keys
    rows = [json.loads(line) for line in (tmp_path / "damage.jsonl").read_text().splitlines()]
    assert {row["key"] for row in rows} == {key}
    assert len(rows) in (3, 4)  # Once an epoch of the three and a half.
    assert all("CRC32" in row["what"] for row in rows)
    for world, threads in [(2, 0), (3, 2)]:
        streams = streams_of(dataset, world, 2, damage=policy, threads=threads)
        parts = [global_batch(streams) for _ in range(24 // (2 * world))]
        assert np.array_equal(np.concatenate([hr for hr, _ in parts]), expected_hr)
        assert {stream.stream_hash for stream in streams} == {expected_hash}
        assert set().union(*(stream.damaged for stream in streams)) == {key}


def test_a_network_that_is_down_is_no_damage(mixed: Dataset) -> None:
    class Down:
        """Stands for a network storage that has given up."""

        url = "https://data.lab/mixed"

        def read(self, file: str, start: int, stop: int) -> bytes:
            raise StorageError("no answer in 30 s, tried 5 times")

    unreachable = replace(mixed, storage=Down())
    for threads in (0, 2):
        stream = make(unreachable, 7, threads=threads, damage=DamagePolicy("substitute", budget=1.0))
        with pytest.raises(
            ValueError, match=r"train-000000.tar: .*no answer in 30 s.*the same command continues"
        ):
            stream.next_batch()
        assert not stream.damaged


def test_more_damage_than_the_budget_is_raised(broken: tuple[Dataset, str]) -> None:
    dataset, key = broken
    stream = make(dataset, 7, damage=DamagePolicy("substitute", budget=0.1))
    before = stream.state_dict()
    with pytest.raises(
        ValueError, match=rf"1 damaged clips in split 'train', the budget of 0.1 allows 0 of 7: .*{key}"
    ):
        stream.next_batch()
    assert stream.state_dict() == before


def test_a_million_samples_open_and_resume_at_once(mixed: Dataset) -> None:
    first = mixed.of_split("train")[2]
    names = [shard.file for shard in mixed.shards]
    index = Index(many_times(first, 1_000_000, names), names)
    huge = replace(mixed, samples=index)
    stream = make(huge, 8, cache_bytes=0)
    stream.load_state_dict(stream.state_dict() | {"cursor": 777_777, "samples_seen": 777_777})
    assert stream.next_batch().hr.shape == (8, 1, 3, PATCH, PATCH)


def many_times(sample: Sample, count: int, shards: list[str]) -> bytes:
    """An index of `count` samples that all are the same bytes; made from tables, since a loop takes half a minute."""
    builder = IndexBuilder(shards)
    builder.add(sample)
    one = Index(builder.to_bytes(), shards)
    rows = np.repeat(one.rows, count)
    return index_module.tables_to_bytes(
        {"samples": rows, "members": one.members, "bands": one.bands, "strings": one.strings}
    )
