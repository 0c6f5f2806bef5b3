"""An endless, exactly repeatable stream of crops."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.crop import Cutter
from shards.manifest import DamagedError, Dataset
from shards.storage.local import LocalStorage
from shards.visits import EPOCH_ENDS, Plan, Shapes, Visit, shapes_of

START_OF_HASH = "0" * 64
REMOTE_THREADS = 16
"""Requests in flight over a network, where waiting costs more than threads."""
BATCHES_AHEAD = 2
SUBSTITUTES_TRIED = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's part of a global batch."""

    hr: np.ndarray
    """uint8, shape (B, T, 3, P, P)."""
    lr: np.ndarray | None
    """The source's own low-resolution partner, uint8, shape (B, T, 3, P/scale, P/scale); None unless `paired`."""
    keys: tuple[str, ...]
    epochs: tuple[int, ...]
    """The epoch of each sample; a batch may cross the border between two."""
    valid: np.ndarray
    """bool, shape (B,): False for what only fills up the last batch of an epoch."""


@dataclass(frozen=True)
class DamagePolicy:
    """What a stream does about a damaged clip."""

    action: str = "raise"
    """"raise", or "substitute": another sample takes its place, the same one on every machine, and a line tells it."""
    budget: float = 0.001
    """Share of the split's samples that may be damaged before the stream raises all the same."""
    report: Path | None = None
    """A file to which a JSON line is appended for each substitution."""


@dataclass(frozen=True, slots=True)
class _Crop:
    """One sample of a batch."""

    key: str
    hr: np.ndarray
    lr: np.ndarray | None
    damage: tuple[tuple[str, str], ...] = ()
    """Keys of the damaged clips that this one stands for, and what was wrong with each."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A global batch that is being read."""

    visits: list[Visit]
    crops: list[Future[_Crop]]
    end: int


class Stream:
    """Crops of one split, epoch after epoch, every sample exactly once in each.

    What comes at a position depends on the data set, the data seed and the position only: not on rank, world
    size, batch size, threads or restart. A global batch is the next `global_batch_size` positions; rank r takes every
    `world_size`-th of them from the r-th on.

    Args:
        dataset: The packed data.
        split: "train", "val" or "test".
        data_seed: Chooses the order and all crops.
        global_batch_size: Samples in a step, over all ranks.
        patch_size: Side of a crop in pixels. A smaller picture is mirrored at its borders up to it.
        augment: Whether crops are turned and mirrored.
        paired: Whether to deliver the low-resolution partners that the source gives, cut at the same place.
        rank: Of this process.
        world_size: Number of ranks.
        epoch_end: Where the global batch does not divide the split: "carry" goes on with the next epoch in the same
            batch; "drop" leaves out what is left; "pad" fills up with samples that are marked not valid.
        threads: Read and decode ahead of the caller; 0: only when asked. Over a network there are at least 16.
        cache_bytes: A split that takes no more than this, decoded, is kept in memory.
        damage: What to do about damaged clips.

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
        paired: bool = False,
        rank: int = 0,
        world_size: int = 1,
        epoch_end: str = "carry",
        threads: int = 0,
        cache_bytes: int = 512 * 2**20,
        damage: DamagePolicy = DamagePolicy(),
    ) -> None:
        """Checks the settings; reads no pixels yet."""
        _check_numbers(global_batch_size, patch_size, rank, world_size)
        self._samples = dataset.of_split(split)
        if not len(self._samples):
            raise ValueError(
                f"{dataset.url}: no pictures in split {split!r} ({dataset.description.split_rule}); "
                "pack it again with other splits"
            )
        shapes = shapes_of(self._samples)
        _check_shapes(dataset, split, shapes, paired=paired)
        _check_ends(epoch_end, global_batch_size, len(self._samples), split)
        self._scale = dataset.description.lr_scale if paired else 1
        if patch_size % self._scale:
            nearest = patch_size // self._scale * self._scale or self._scale
            raise ValueError(
                f"patch_size: {patch_size} is no multiple of the data set's own scale {self._scale}; nearest: {nearest}"
            )
        self._dataset = dataset
        self._split = split
        self._data_seed = data_seed
        self._global_batch_size = global_batch_size
        self._patch_size = patch_size
        self._augment = augment
        self._paired = paired
        self._epoch_end = epoch_end
        self._rank = rank
        self._world_size = world_size
        self._plan = Plan(
            dataset.fingerprint,
            shapes,
            data_seed=data_seed,
            patch_size=patch_size,
            augment=augment,
            multiple=self._scale,
            epoch_end=epoch_end,
        )
        self._policy = damage
        self._damaged: dict[str, str] = {}
        self._cutter = Cutter(
            dataset,
            self._samples,
            patch_size=patch_size,
            lr_scale=self._scale if paired else 0,
            # All or nothing: of a larger split, what was kept would mostly be dropped before it comes again.
            keeps_clips=shapes.total_bytes <= cache_bytes,
        )
        if threads and not isinstance(dataset.storage, LocalStorage):
            threads = max(threads, REMOTE_THREADS)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "srloss-read") if threads else None
        self._ahead: deque[_Ahead] = deque()
        self._cursor = 0
        self._seen = 0
        self._hash = START_OF_HASH
        small = np.flatnonzero(np.minimum(shapes.heights, shapes.widths) < patch_size)
        self.small = tuple(self._samples[int(i)].source for i in small)
        """Sources smaller than a crop in some dimension, which are padded by mirroring."""

    @property
    def samples_seen(self) -> int:
        """By all ranks together, without what only filled up a batch."""
        return self._seen

    @property
    def epoch(self) -> float:
        """How many epochs have passed, with the fraction."""
        return self._cursor / len(self._samples)

    @property
    def stream_hash(self) -> str:
        """64 hex digits over every sample, crop and transform so far, of all ranks: equal for equal data."""
        return self._hash

    @property
    def damaged(self) -> Mapping[str, str]:
        """Key of each clip that was found damaged, and what was wrong with it."""
        return self._damaged

    def note_damage(self, found: Mapping[str, str]) -> None:
        """Adds what other ranks have found, for the budget is that of all together.

        Raises:
            ValueError: It is used up.
        """
        self._damaged |= {key: what for key, what in found.items() if key not in self._damaged}
        self._check_budget()

    def next_batch(self) -> Batch:
        """This rank's part of the next global batch.

        Raises:
            ValueError: A shard is missing or damaged beyond what the policy allows. The stream then stays where it was.
        """
        try:
            batch = self._take_ahead() if self._pool else self._read_now()
            crops = [crop.result() for crop in batch.crops]
            self._count_damage(crops)
        except BaseException:
            self._forget_ahead()
            raise
        self._cursor = batch.end
        self._seen += sum(visit.is_valid for visit in batch.visits)
        for visit in batch.visits:
            self._hash = visit.chained(self._hash)
        mine = batch.visits[self._rank :: self._world_size]
        return Batch(
            hr=np.stack([crop.hr for crop in crops]),
            lr=np.stack([crop.lr for crop in crops if crop.lr is not None]) if self._paired else None,
            keys=tuple(crop.key for crop in crops),
            epochs=tuple(visit.epoch for visit in mine),
            valid=np.array([visit.is_valid for visit in mine]),
        )

    def state_dict(self) -> dict[str, int | str]:
        """The cursor, and what it is a cursor into; the same on all ranks."""
        return {
            **self._identity(),
            "cursor": self._cursor,
            "samples_seen": self._seen,
            "stream_hash": self._hash,
        }

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Goes on where `state` was taken; batch size and world size may be others.

        Raises:
            ValueError: The state is of another data set, split, seed or kind of crop, or is not a state.
        """
        expected = set(self.state_dict())
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
        for name in ("cursor", "samples_seen"):
            value = state[name]
            if not isinstance(value, int) or value < 0:
                raise ValueError(
                    f"stream state: {name} is {value!r}, not a count of samples; use an undamaged checkpoint"
                )
        self._forget_ahead()
        self._cursor = int(state["cursor"])
        self._seen = int(state["samples_seen"])
        self._hash = str(state["stream_hash"])

    def close(self) -> None:
        """Ends the threads; the stream is of no use afterwards."""
        self._forget_ahead()
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __del__(self) -> None:
        # Also runs where __init__ has raised.
        if pool := getattr(self, "_pool", None):
            pool.shutdown(wait=False, cancel_futures=True)

    def _identity(self) -> dict[str, int | str]:
        return {
            "fingerprint": self._dataset.fingerprint,
            "split": self._split,
            "data_seed": self._data_seed,
            "patch_size": self._patch_size,
            "augment": int(self._augment),
            "paired": int(self._paired),
            "epoch_end": self._epoch_end,
        }

    def _read_now(self) -> _Ahead:
        visits, end = self._plan.batch(self._cursor, self._global_batch_size)
        return _Ahead(visits, [_done(self._load, visit) for visit in self._mine(visits)], end)

    def _take_ahead(self) -> _Ahead:
        """The next batch, after asking for those behind it."""
        assert self._pool is not None
        per_rank = self._global_batch_size // self._world_size
        depth = max(BATCHES_AHEAD, -(-2 * self._threads // per_rank))
        while len(self._ahead) <= depth:
            start = self._ahead[-1].end if self._ahead else self._cursor
            visits, end = self._plan.batch(start, self._global_batch_size)
            crops = [self._pool.submit(self._load, visit) for visit in self._mine(visits)]
            self._ahead.append(_Ahead(visits, crops, end))
        return self._ahead.popleft()

    def _mine(self, visits: list[Visit]) -> list[Visit]:
        return visits[self._rank :: self._world_size]

    def _forget_ahead(self) -> None:
        for batch in self._ahead:
            for crop in batch.crops:
                crop.cancel()
        self._ahead.clear()

    def _load(self, visit: Visit) -> _Crop:
        """One sample; runs in a thread."""
        damage: list[tuple[str, str]] = []
        chosen = visit
        while True:
            try:
                hr, lr = self._cutter.cut(chosen)
                return _Crop(self._samples[chosen.index].key, hr, lr, tuple(damage))
            except DamagedError as error:
                if self._policy.action == "raise" or len(damage) == SUBSTITUTES_TRIED:
                    raise
                damage.append((self._samples[chosen.index].key, str(error)))
                chosen = self._plan.substitute(visit, len(damage))

    def _count_damage(self, crops: list[_Crop]) -> None:
        for crop in crops:
            for key, what in crop.damage:
                self._damaged.setdefault(key, what)
                if self._policy.report is not None:
                    _append(self._policy.report, {"key": key, "substitute": crop.key, "what": what})
        self._check_budget()

    def _check_budget(self) -> None:
        allowed = int(self._policy.budget * len(self._samples))
        if len(self._damaged) > allowed:
            some = "; ".join(list(self._damaged.values())[:3])
            raise ValueError(
                f"{self._dataset.url}: {len(self._damaged)} damaged clips in split {self._split!r}, the budget of "
                f"{self._policy.budget:g} allows {allowed} of {len(self._samples)}: {some}"
            )


def _done(load: Callable[[Visit], _Crop], visit: Visit) -> Future[_Crop]:
    future: Future[_Crop] = Future()
    future.set_result(load(visit))
    return future


def _append(path: Path, row: dict[str, str]) -> None:
    # One write of one line: several ranks may share the file.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (json.dumps(row) + "\n").encode())
    finally:
        os.close(descriptor)


def _check_shapes(dataset: Dataset, split: str, shapes: Shapes, *, paired: bool) -> None:
    lengths = np.unique(shapes.num_frames).tolist()
    if len(lengths) > 1 or lengths == [0]:
        raise ValueError(
            f"{dataset.url}: clips of {lengths} frames in split {split!r}; pack each length by itself"
        )
    if paired and (not dataset.description.lr_scale or (shapes.num_lr_frames != shapes.num_frames).any()):
        missing = int((shapes.num_lr_frames != shapes.num_frames).sum())
        raise ValueError(
            f"{dataset.url}: {missing} of {len(shapes.num_frames)} clips of split {split!r} have no low-resolution "
            "partners; use a degradation that makes them, or pack the pairs: srloss shard pack paired"
        )


def _check_ends(epoch_end: str, global_batch_size: int, num_samples: int, split: str) -> None:
    if epoch_end not in EPOCH_ENDS:
        raise ValueError(f"epoch_end: unknown {epoch_end!r}; use one of {', '.join(EPOCH_ENDS)}")
    if epoch_end == "drop" and global_batch_size > num_samples:
        raise ValueError(
            f"global_batch_size: {global_batch_size} is more than the {num_samples} samples of split {split!r}, all of "
            "which epoch_end 'drop' would leave out; choose a smaller one, or 'carry'"
        )


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
