"""Frames in order, cut into the windows that a generator takes; few are held at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Window(Generic[F]):
    """What a generator is given at once."""

    frames: tuple[F, ...]
    kept: slice
    """Which of the generator's outputs for them are used."""


def batches(frames: Iterable[F], size: int) -> Iterator[Window[F]]:
    """For generators that treat each frame by itself."""
    rest = iter(frames)
    while batch := tuple(islice(rest, size)):
        yield Window(batch, slice(0, len(batch)))


def around_each(frames: Iterable[F], size: int) -> Iterator[Window[F]]:
    """For generators that see `size` frames (odd) and give the middle one: a window for each frame.

    Before the first frame and after the last one time runs backwards: ... 2 1 0 1 2 ...
    """
    reach = size // 2
    held: deque[F] = deque(maxlen=size)
    first_held, centre, seen = 0, 0, 0
    for frame in frames:
        if len(held) == size:
            first_held += 1
        held.append(frame)
        seen += 1
        if seen > centre + reach:
            yield _around(held, first_held, centre, reach, end=None)
            centre += 1
    for index in range(centre, seen):
        yield _around(held, first_held, index, reach, end=seen)


def _around(held: deque[F], first_held: int, centre: int, reach: int, *, end: int | None) -> Window[F]:
    indices = [_mirrored(index, end) for index in range(centre - reach, centre + reach + 1)]
    return Window(tuple(held[index - first_held] for index in indices), slice(0, 1))


def _mirrored(index: int, end: int | None) -> int:
    """Of 0 .. end - 1, back and forth; `end` is None where it is not reached."""
    if end is None:
        return abs(index)
    period = max(2 * end - 2, 1)
    return min(index % period, period - index % period) if end > 1 else 0


def overlapping(frames: Iterable[F], length: int, warm_up: int) -> Iterator[Window[F]]:
    """For recurrent generators: `length` frames at a time, with `warm_up` more on both sides that are dropped.

    On both sides, because some networks also run backwards in time. At the two ends there is nothing to warm up on.
    """
    rest = iter(frames)
    before: tuple[F, ...] = ()
    now = tuple(islice(rest, length))
    while now:
        # The frames of the next window, or at least as many as this one looks ahead.
        ahead = tuple(islice(rest, max(length, warm_up)))
        yield Window((*before, *now, *ahead[:warm_up]), slice(len(before), len(before) + len(now)))
        before = (*before, *now)[-warm_up:] if warm_up else ()
        now = ahead
