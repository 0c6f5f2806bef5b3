"""Clips that show nearly the same in different splits, so that a test would measure what was learnt by heart.

Each clip is known by small grey thumbnails of its first, middle and last frame. Two clips are as similar as the most
similar pair of their thumbnails: the correlation, after a plane is taken off each (two skies are not the same sky),
of the one with the other or with its mirror image. That is blind to size, compression, brightness and contrast.

Measured on the 500 photographs of BSDS500: the two most alike different ones reach 0.80 (128x128 tiles of them: 0.97,
once in 4 million pairs); copies as JPEG of quality 30, an eighth in size, with noise or turned grey stay above 0.99,
with 1 % cut off all around above 0.975. Neighbouring frames of a calm video are above 0.97.

All arithmetic behind a result is exact in integers, so that every machine finds the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from shards.records import NearDuplicate

SIDE = 16
"""Cells of a thumbnail along each side."""
THUMBNAIL_BYTES = SIDE * SIDE
THRESHOLD = 0.97
"""Clips are nearly the same from this similarity on."""
FLAT = 4
"""Grey levels (of 255). Thumbnails that deviate less from a plane, as root mean square, are not compared."""
MAX_LISTED = 1000
"""Pairs that are listed; of more only the most similar ones are."""
BLOCK_ROWS, BLOCK_COLUMNS = 1024, 1024
"""Clips that are compared at a time: their similarities stay in the processor's cache."""
LENGTH = 2888
"""Of the integer vectors, which rounding lengthens by 8 at most. Twice the square of that is below 2^24, so that sums
of products are exact in 32-bit floats, whatever adds them up."""
GREY = np.array([77.0, 150.0, 29.0])
"""Weights of red, green and blue; they add up to 256."""
CHUNK_ROWS = 256
"""Rows of a picture that are held as floating point at a time."""
LEVELS = 128
"""Steps of a grey level in which cells are measured."""

# Offsets of the cells from the middle, doubled to be integers: -15, -13, ... 15; and the sum of their squares.
_OFFSETS = 2 * np.arange(SIDE) - (SIDE - 1)
_PLANE_SQUARES = SIDE * int((_OFFSETS**2).sum())


@dataclass
class Thumbnails:
    """Of the clips of one split."""

    keys: Sequence[str]
    cells: np.ndarray
    """uint8, shape (clips, thumbnails of each, 256); all 0 where a clip has fewer."""


@dataclass
class Found:
    """Pairs of clips of two splits that are nearly the same."""

    total: int = 0
    pairs: list[NearDuplicate] = field(default_factory=list)
    """The most similar ones, sorted by keys."""
    closest: dict[str, NearDuplicate] = field(default_factory=dict)
    """For each clip of the first split that is in a pair: its most similar partner."""


def thumbnail(rgb: np.ndarray) -> bytes:
    """A picture as 16x16 grey cells, each the mean of its area, stretched from 0 to 255.

    Args:
        rgb: uint8, shape (H, W, 3).

    Returns:
        256 bytes; none where the picture is so flat that it cannot be told from others.
    """
    height, width, _ = rgb.shape
    # All of these are integers far below 2^53, so that floating point is exact.
    rows = np.zeros((SIDE, 3 * width))
    for top in range(0, height, CHUNK_ROWS):
        some = rgb[top : top + CHUNK_ROWS].reshape(-1, 3 * width)
        rows += _shares(height)[:, top : top + CHUNK_ROWS] @ some.astype(np.float64)
    sums = rows.reshape(SIDE, width, 3) @ GREY @ _shares(width).T
    cells = sums.astype(np.int64) * LEVELS // (256 * height * width)
    lowest, highest = int(cells.min()), int(cells.max())
    if _is_flat(cells):
        return b""
    stretched = ((cells - lowest) * 255 + (highest - lowest) // 2) // (highest - lowest)
    return stretched.astype(np.uint8).tobytes()


def stack(keys: Sequence[str], thumbnails: Sequence[Sequence[bytes]]) -> Thumbnails:
    """The thumbnails of some clips as one array."""
    most = max((len(some) for some in thumbnails), default=0)
    cells = np.zeros((len(keys), max(1, most), THUMBNAIL_BYTES), np.uint8)
    for row, some in zip(cells, thumbnails, strict=True):
        for place, data in zip(row, some, strict=False):
            place[:] = np.frombuffer(data, np.uint8)
    return Thumbnails(keys, cells)


def compare(first: Thumbnails, second: Thumbnails, *, on_block: Callable[[int, int], None]) -> Found:
    """Every clip of one split with every clip of another.

    Args:
        first: Of the split that is learnt from.
        second: Of the split that is held out.
        on_block: Called with the comparisons done and all of them, in blocks.

    Returns:
        The pairs with a similarity of `THRESHOLD` or more.
    """
    found = Found()
    wanted = int(np.ceil(THRESHOLD * 2 * LENGTH**2))
    step = max(1, BLOCK_ROWS // first.cells.shape[1]), max(1, BLOCK_COLUMNS // second.cells.shape[1])
    starts = range(0, len(first.keys), step[0])
    columns = [(at, *_vectors(second.cells[at : at + step[1]])) for at in range(0, len(second.keys), step[1])]
    for done, row in enumerate(starts, start=1):
        even, odd = _vectors(first.cells[row : row + step[0]])
        for column, even_columns, odd_columns in columns:
            scores = odd @ odd_columns.T
            np.abs(scores, out=scores)
            scores += even @ even_columns.T
            if scores.max(initial=0) >= wanted:
                rows = first.keys[row : row + step[0]], second.keys[column : column + step[1]]
                _collect(found, scores, wanted, *rows)
        on_block(done, len(starts))
    found.pairs = sorted(_most_similar(found.pairs), key=lambda pair: (pair.first, pair.second))
    return found


def merged(found: Mapping[tuple[str, str], Found]) -> tuple[tuple[NearDuplicate, ...], int]:
    """The pairs of several comparisons that are listed, sorted by keys, and how many there are in all."""
    pairs = _most_similar([pair for one in found.values() for pair in one.pairs])
    return tuple(sorted(pairs, key=lambda pair: (pair.first, pair.second))), sum(
        one.total for one in found.values()
    )


@lru_cache(maxsize=64)
def _shares(count: int) -> np.ndarray:
    """How much of each of `count` rows lies in each of 16 equal parts of them, in sixteenths; shape (16, count)."""
    starts = np.arange(SIDE)[:, None] * count  # In sixteenths of a row.
    rows = np.arange(count)[None] * SIDE
    overlap = np.minimum(starts + count, rows + SIDE) - np.maximum(starts, rows)
    return overlap.clip(0).astype(np.float64)


def _is_flat(cells: np.ndarray) -> bool:
    squares, total = int((cells**2).sum()), int(cells.sum())
    slopes = int((cells.sum(axis=0) * _OFFSETS).sum()) ** 2 + int((cells.sum(axis=1) * _OFFSETS).sum()) ** 2
    # What a plane leaves over, times both denominators.
    rest = THUMBNAIL_BYTES * _PLANE_SQUARES * squares - _PLANE_SQUARES * total**2 - THUMBNAIL_BYTES * slopes
    return rest < THUMBNAIL_BYTES * _PLANE_SQUARES * THUMBNAIL_BYTES * (FLAT * LEVELS) ** 2


def _vectors(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails without their plane, as integers of length `LENGTH`: the parts a mirror keeps, and turns round.

    The product of the former plus that of the latter is twice that of two thumbnails; the difference is
    twice that of the one with the mirror image of the other.

    Returns:
        Two arrays, float32, shape (clips x thumbnails, 128), of integers.
    """
    grey = cells.reshape(-1, SIDE, SIDE).astype(np.float64)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    across, down = grey.sum(axis=1) @ _OFFSETS, grey.sum(axis=2) @ _OFFSETS
    grey -= across[:, None, None] * (_OFFSETS / _PLANE_SQUARES)[None, None, :]
    grey -= down[:, None, None] * (_OFFSETS / _PLANE_SQUARES)[None, :, None]
    lengths = np.sqrt((grey**2).sum(axis=(1, 2), keepdims=True))
    whole = np.rint(grey * (LENGTH / np.maximum(lengths, 1e-9))).astype(np.float32)
    left, right = whole[:, :, : SIDE // 2], whole[:, :, : SIDE // 2 - 1 : -1]
    even, odd = (left + right).reshape(len(whole), -1), (left - right).reshape(len(whole), -1)
    return even, odd


def _collect(
    found: Found, scores: np.ndarray, wanted: int, first: Sequence[str], second: Sequence[str]
) -> None:
    """Adds the pairs of one block."""
    rows, columns = np.nonzero(scores >= wanted)
    values = scores[rows, columns]
    rows, columns = rows // (len(scores) // len(first)), columns // (scores.shape[1] // len(second))
    order = np.lexsort((-values, columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    # Of the thumbnails of two clips the most similar ones count, which now come first.
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (np.diff(rows) != 0) | (np.diff(columns) != 0)
    found.total += int(is_new.sum())
    for row, column, value in zip(
        rows[is_new].tolist(), columns[is_new].tolist(), values[is_new].tolist(), strict=True
    ):
        pair = NearDuplicate(
            first[int(row)], second[int(column)], round(min(1.0, value / (2 * LENGTH**2)), 3)
        )
        found.pairs.append(pair)
        best = found.closest.get(pair.first)
        if best is None or _likeness(pair) < _likeness(best):
            found.closest[pair.first] = pair
    if len(found.pairs) > 20 * MAX_LISTED:
        found.pairs = _most_similar(found.pairs)


def _likeness(pair: NearDuplicate) -> tuple[float, str, str]:
    """Sorts the most similar pair first."""
    return -pair.similarity, pair.first, pair.second


def _most_similar(pairs: list[NearDuplicate]) -> list[NearDuplicate]:
    return sorted(pairs, key=_likeness)[:MAX_LISTED]
