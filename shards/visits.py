"""Which sample comes when, and what is drawn for it: pure functions of the data set, the seed and the position."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from shards.index import Samples
from shards.order import permutation, sample_generator, substitute_generator
from shards.records import ROLES

EPOCH_ENDS = ("carry", "drop", "pad")
TRANSFORMS = 8
"""The symmetries of a square: four turns, each with and without a mirror."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit of one sample: which one, when, and what was drawn for it."""

    epoch: int
    index: int
    """Place in the split, by key."""
    y: int
    x: int
    """Corner of the crop, in pixels of the padded frame."""
    transform: int
    is_valid: bool = True
    """False for what only fills up the last batch of an epoch."""

    def chained(self, before: str) -> str:
        """The hash of a stream, one sample longer; hex digits."""
        text = f"{before} {self.epoch} {self.index} {self.y} {self.x} {self.transform}"
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Shapes:
    """Sizes of all clips of a split, as arrays: asking a million samples one by one would take minutes."""

    num_frames: np.ndarray
    num_lr_frames: np.ndarray
    heights: np.ndarray
    widths: np.ndarray

    @property
    def total_bytes(self) -> int:
        """Of all clips, decoded, with three channels."""
        return int((self.num_frames * self.heights * self.widths * 3).sum())


def shapes_of(samples: Samples) -> Shapes:
    """Reads the sizes from the tables of the index; a sample without frames has sizes of 0."""
    index = samples.index
    rows = index.rows[samples.numbers.start : samples.numbers.stop]
    first = rows["first_member"].astype(np.int64)
    last = first + rows["num_members"]
    roles = index.members["role"]
    counts = {}
    for role in ("frame", "lr"):
        before = np.concatenate([[0], np.cumsum(roles == ROLES.index(role), dtype=np.int64)])
        counts[role] = before[last] - before[first]
    places = np.flatnonzero(roles == ROLES.index("frame"))
    # The first frame of each sample: the next frame from its first member on.
    at = places[np.minimum(np.searchsorted(places, first), len(places) - 1)] if len(places) else first * 0
    has_frames = counts["frame"] > 0
    if len(index.members):
        sizes = [
            np.where(has_frames, index.members[name][at], 0).astype(np.int64) for name in ("height", "width")
        ]
    else:
        sizes = [np.zeros(len(rows), np.int64)] * 2
    return Shapes(counts["frame"], counts["lr"], *sizes)


class Plan:
    """The visits of a split, at any position, for one data seed and size of crop.

    A position counts the samples of all epochs: epoch * (samples of the split) + place in the epoch.
    """

    def __init__(
        self,
        fingerprint: str,
        shapes: Shapes,
        *,
        data_seed: int,
        patch_size: int,
        augment: bool,
        multiple: int,
        epoch_end: str,
    ) -> None:
        """`multiple`: the corners of crops are multiples of it."""
        self.num_samples = len(shapes.heights)
        self._fingerprint = fingerprint
        self._shapes = shapes
        self._data_seed = data_seed
        self._patch_size = patch_size
        self._augment = augment
        self._multiple = multiple
        self._epoch_end = epoch_end
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, position: int, size: int) -> tuple[list[Visit], int]:
        """The visits of the global batch that begins at a position, and the position behind it."""
        epoch, place = divmod(position, self.num_samples)
        left = self.num_samples - place
        if self._epoch_end == "carry" or size <= left:
            return [self._visit(at) for at in range(position, position + size)], position + size
        border = (epoch + 1) * self.num_samples
        if self._epoch_end == "drop":
            return [self._visit(at) for at in range(border, border + size)], border + size
        visits = [self._visit(at) for at in range(position, border)]
        fill = [self._visit(epoch * self.num_samples + i % self.num_samples) for i in range(size - left)]
        return [*visits, *(_invalid(visit) for visit in fill)], border

    def substitute(self, visit: Visit, attempt: int) -> Visit:
        """Another sample in place of one that is damaged; the same one on every machine."""
        draw = substitute_generator(self._fingerprint, self._data_seed, visit.epoch, visit.index, attempt)
        return self._drawn(visit.epoch, int(draw.integers(self.num_samples)), draw, visit.is_valid)

    def _visit(self, position: int) -> Visit:
        epoch, place = divmod(position, self.num_samples)
        index = int(self._order_of(epoch)[place])
        draw = sample_generator(self._fingerprint, self._data_seed, epoch, index)
        return self._drawn(epoch, index, draw, is_valid=True)

    def _drawn(self, epoch: int, index: int, draw: np.random.Generator, is_valid: bool) -> Visit:
        y, x = (
            int(draw.integers(max(int(side[index]) - self._patch_size, 0) // self._multiple + 1))
            * self._multiple
            for side in (self._shapes.heights, self._shapes.widths)
        )
        transform = int(draw.integers(TRANSFORMS)) if self._augment else 0
        return Visit(epoch, index, y, x, transform, is_valid)

    def _order_of(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # A batch may cross a border, and a stream reads ahead: two epochs are kept.
            while len(self._orders) > 1:
                del self._orders[next(iter(self._orders))]
            self._orders[epoch] = permutation(self._fingerprint, self._data_seed, epoch, self.num_samples)
        return self._orders[epoch]


def _invalid(visit: Visit) -> Visit:
    return Visit(visit.epoch, visit.index, visit.y, visit.x, visit.transform, is_valid=False)
