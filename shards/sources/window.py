"""Clips of T consecutive frames out of a stream of frames."""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class ClipWindow(Generic[T]):
    """Holds the frames of the clip that is being filled, and never more."""

    def __init__(self, frames: int, stride: int) -> None:
        """A clip has `frames`; `stride` frames after the start of one the next one starts."""
        self._frames = frames
        self._stride = stride
        self._waiting: deque[T] = deque()
        self._to_skip = 0

    def skip(self) -> bool:
        """Whether the next frame lies between two clips and is not to be pushed; then it counts as passed."""
        if not self._to_skip:
            return False
        self._to_skip -= 1
        return True

    def push(self, frame: T) -> tuple[T, ...] | None:
        """Takes the next frame; gives the clip that it completes."""
        self._waiting.append(frame)
        if len(self._waiting) < self._frames:
            return None
        clip = tuple(self._waiting)
        for _ in range(min(self._stride, self._frames)):
            self._waiting.popleft()
        self._to_skip = max(0, self._stride - self._frames)
        return clip

    def restart(self) -> None:
        """After a cut or a missing frame: no clip spans it."""
        self._waiting.clear()
        self._to_skip = 0


def num_clips(count: int, frames: int, stride: int) -> int:
    """Clips in a run of `count` frames."""
    return max(0, (count - frames) // stride + 1)


def clip_name(item: str, start: int) -> str:
    """Of one of several clips of an item, by its first frame; sorted by name they are in order."""
    return f"{item}/{start:06d}"
