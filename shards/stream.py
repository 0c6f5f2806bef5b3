"""An endless, exactly repeatable stream of crops."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shards.manifest import Dataset, read_clip
from shards.order import permutation, sample_generator

START_OF_HASH = "0" * 64
TRANSFORMS = 8
"""The symmetries of a square: four turns, each with and without a mirror."""


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's part of a global batch."""

    hr: np.ndarray
    """uint8, shape (B, T, 3, P, P)."""
    keys: tuple[str, ...]
    epochs: tuple[int, ...]
    """The epoch of each sample; a batch may cross the border between two."""


@dataclass(frozen=True, slots=True)
class _Visit:
    """One visit of one sample: which one, when, and what was drawn for it."""

    epoch: int
    index: int
    y: int
    x: int
    transform: int


class Stream:
    """Crops of one split, epoch after epoch, every sample exactly once in each.

    What comes at a position depends on the data set, the data seed and the position only: not on rank, world
    size, batch size or restart. A global batch is the next `global_batch_size` positions; rank r takes every
    `world_size`-th of them from the r-th on.

    Args:
        dataset: The packed data.
        split: "train", "val" or "test".
        data_seed: Chooses the order and all crops.
        global_batch_size: Samples in a step, over all ranks.
        patch_size: Side of a crop in pixels. A smaller picture is mirrored at its borders up to it.
        augment: Whether crops are turned and mirrored.
        rank: Of this process.
        world_size: Number of ranks.
        cache_bytes: Decoded clips are kept up to this much.

    Raises:
        ValueError: The split is empty or uneven, or a number does not fit.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str = "train",
        *,
        data_seed: int,
        global_batch_size: int,
        patch_size: int,
        augment: bool,
        rank: int = 0,
        world_size: int = 1,
        cache_bytes: int = 512 * 2**20,
    ) -> None:
        """Checks the settings; reads no pixels yet."""
        _check_numbers(global_batch_size, patch_size, rank, world_size)
        self._dataset = dataset
        self._samples = dataset.of_split(split)
        if not self._samples:
            raise ValueError(
                f"{dataset.root}: no pictures in split {split!r} ({dataset.split_rule}); "
                "pack it again with other splits"
            )
        lengths = sorted({len(sample.members) for sample in self._samples})
        if len(lengths) > 1:
            raise ValueError(
                f"{dataset.root}: clips of {lengths} frames in split {split!r}; pack each length by itself"
            )
        self._split = split
        self._data_seed = data_seed
        self._global_batch_size = global_batch_size
        self._patch_size = patch_size
        self._augment = augment
        self._rank = rank
        self._world_size = world_size
        self._cache = _ClipCache(cache_bytes)
        self._cursor = 0
        self._hash = START_OF_HASH
        self._order: tuple[int, np.ndarray] | None = None
        self.small = tuple(s.source for s in self._samples if min(s.width, s.height) < patch_size)
        """Sources smaller than a crop in some dimension, which are padded by mirroring."""

    @property
    def samples_seen(self) -> int:
        """By all ranks together."""
        return self._cursor

    @property
    def epoch(self) -> float:
        """How many times all samples were seen, with the fraction."""
        return self._cursor / len(self._samples)

    @property
    def stream_hash(self) -> str:
        """64 hex digits over every sample, crop and transform so far, of all ranks: equal for equal data."""
        return self._hash

    def next_batch(self) -> Batch:
        """This rank's part of the next global batch.

        Raises:
            ValueError: A shard is missing or damaged. The stream then stays where it was.
        """
        positions = range(self._cursor, self._cursor + self._global_batch_size)
        visits = [self._visit(position) for position in positions]
        mine = visits[self._rank :: self._world_size]
        hr = np.ascontiguousarray(np.stack([self._crop(visit) for visit in mine]))
        self._cursor += self._global_batch_size
        for visit in visits:
            self._hash = _chained(self._hash, visit, self._samples[visit.index].key)
        return Batch(hr, tuple(self._samples[v.index].key for v in mine), tuple(v.epoch for v in mine))

    def state_dict(self) -> dict[str, int | str]:
        """The cursor, and what it is a cursor into; the same on all ranks."""
        return {**self._identity(), "cursor": self._cursor, "stream_hash": self._hash}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Goes on where `state` was taken; batch size and world size may be others.

        Raises:
            ValueError: The state is of another data set, split, seed or kind of crop, or is not a state.
        """
        expected = {*self._identity(), "cursor", "stream_hash"}
        if set(state) != expected:
            raise ValueError(
                f"stream state: has {sorted(state)}, needs {sorted(expected)}; use one of this version"
            )
        for name, wanted in self._identity().items():
            if state[name] != wanted:
                raise ValueError(
                    f"stream state: {name} is {state[name]!r}, but this stream has {wanted!r}; "
                    "resume with the data and settings of the checkpoint, or start a new trial"
                )
        cursor = state["cursor"]
        if not isinstance(cursor, int) or cursor < 0:
            raise ValueError(
                f"stream state: cursor is {cursor!r}, not a count of samples; use an undamaged checkpoint"
            )
        self._cursor = cursor
        self._hash = str(state["stream_hash"])

    def _identity(self) -> dict[str, int | str]:
        return {
            "fingerprint": self._dataset.fingerprint,
            "split": self._split,
            "data_seed": self._data_seed,
            "patch_size": self._patch_size,
            "augment": int(self._augment),
        }

    def _visit(self, position: int) -> _Visit:
        epoch, place = divmod(position, len(self._samples))
        index = int(self._order_of(epoch)[place])
        sample = self._samples[index]
        draw = sample_generator(self._dataset.fingerprint, self._data_seed, epoch, index)
        y = int(draw.integers(max(sample.height - self._patch_size, 0) + 1))
        x = int(draw.integers(max(sample.width - self._patch_size, 0) + 1))
        transform = int(draw.integers(TRANSFORMS)) if self._augment else 0
        return _Visit(epoch, index, y, x, transform)

    def _order_of(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            order = permutation(self._dataset.fingerprint, self._data_seed, epoch, len(self._samples))
            self._order = (epoch, order)
        return self._order[1]

    def _crop(self, visit: _Visit) -> np.ndarray:
        """uint8, shape (T, 3, P, P)."""
        clip = self._cache.get(visit.index)
        if clip is None:
            clip = pad_to(read_clip(self._dataset, self._samples[visit.index]), self._patch_size)
            self._cache.put(visit.index, clip)
        rows = slice(visit.y, visit.y + self._patch_size)
        columns = slice(visit.x, visit.x + self._patch_size)
        return dihedral(clip[..., rows, columns], visit.transform)


def dihedral(clip: np.ndarray, transform: int) -> np.ndarray:
    """One of the 8 symmetries of a square, the same for all frames.

    Args:
        clip: Shape (..., P, P).
        transform: 0 is none; + 1 a turn by 90 degrees; + 4 a mirror.
    """
    turned = np.rot90(clip, transform % 4, axes=(-2, -1))
    return turned[..., ::-1] if transform >= 4 else turned


def pad_to(clip: np.ndarray, side: int) -> np.ndarray:
    """Mirrors a clip of shape (T, 3, H, W) at its borders, evenly, until H and W are at least `side`."""
    missing = [max(side - length, 0) for length in clip.shape[-2:]]
    if not any(missing):
        return clip
    widths = [(0, 0), (0, 0), *((less // 2, less - less // 2) for less in missing)]
    return np.pad(clip, widths, mode="symmetric")


class _ClipCache:
    """The most recently used clips, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._clips: OrderedDict[int, np.ndarray] = OrderedDict()

    def get(self, index: int) -> np.ndarray | None:
        if index in self._clips:
            self._clips.move_to_end(index)
        return self._clips.get(index)

    def put(self, index: int, clip: np.ndarray) -> None:
        if clip.nbytes > self._limit:
            return
        self._clips[index] = clip
        self._bytes += clip.nbytes
        while self._bytes > self._limit:
            self._bytes -= self._clips.popitem(last=False)[1].nbytes


def _chained(before: str, visit: _Visit, key: str) -> str:
    text = f"{before} {visit.epoch} {key} {visit.y} {visit.x} {visit.transform}"
    return hashlib.sha256(text.encode()).hexdigest()


def _check_numbers(global_batch_size: int, patch_size: int, rank: int, world_size: int) -> None:
    if patch_size < 1:
        raise ValueError(f"patch_size: must be 1 or more, got {patch_size}; 64 is usual")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: must be in 0..{world_size - 1}, got {rank}; check world_size")
    if global_batch_size < 1 or global_batch_size % world_size:
        below = global_batch_size // world_size * world_size
        nearest = [size for size in (below, below + world_size) if size > 0]
        raise ValueError(
            f"global_batch_size: {global_batch_size} is not a positive multiple of {world_size} ranks; "
            f"nearest possible: {' or '.join(str(size) for size in nearest)}"
        )
