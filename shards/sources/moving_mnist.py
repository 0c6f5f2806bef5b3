"""Moving MNIST: the published file `mnist_test_seq.npy`, 10 000 grey sequences of 20 frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.picture import UnusablePictureError
from shards.sources.base import Listing, RawClip, RawFrame, SourceOptions
from shards.sources.files import clip_length, stamp_of
from shards.sources.window import clip_name, num_clips

FILE = "mnist_test_seq.npy"
FRAMES = 20
SIDE = 64
SHAPE = (FRAMES, SIDE, SIDE)
"""Of the array, but for the number of sequences, which comes second."""
GREY = "the digits are grey: each value is repeated for red, green and blue"


@dataclass(frozen=True)
class SequenceOfArray:
    """One sequence of the array; only its own 80 kB of the file are read."""

    name: str
    file: Path
    number: int
    frames: int
    stride: int

    @property
    def source(self) -> str:
        """Each sequence is an original of its own."""
        return self.name

    def stamp(self) -> str:
        """Changes with the file, and with the length and stride of clips."""
        return stamp_of([(self.file.name, self.file)], self.number, self.frames, self.stride)

    def estimated_bytes(self) -> int:
        """Exactly, as all frames have one size."""
        return num_clips(FRAMES, self.frames, self.stride) * self.frames * SIDE * SIDE * 3

    def clips(self) -> Iterator[RawClip]:
        """The clips in order.

        Raises:
            UnusablePictureError: The file has changed since it was listed.
        """
        try:
            grey = np.array(_open(self.file)[:, self.number])
        except (ValueError, IndexError) as error:
            raise UnusablePictureError("the file has changed since it was listed") from error
        several = num_clips(FRAMES, self.frames, self.stride) > 1
        for start in range(0, FRAMES - self.frames + 1, self.stride):
            name = clip_name(self.name, start) if several else self.name
            yield RawClip(name, tuple(grey_frame(one) for one in grey[start : start + self.frames]))


def list_moving_mnist(path: Path | None, options: SourceOptions) -> Listing:
    """The sequences of the published array, which is never read as a whole.

    Raises:
        ValueError: The file is not there or not as published, or an option is wrong.
    """
    frames, stride = clip_length(options, FRAMES)
    if frames > FRAMES:
        raise ValueError(f"frames: got {frames}; the sequences of the source 'moving-mnist' have {FRAMES}")
    if path is None:
        raise ValueError(
            f"source 'moving-mnist': no path was given; name {FILE} (from "
            "www.cs.toronto.edu/~nitish/unsupervised_video), "
            "or make such sequences with the source 'moving-digits'"
        )
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"{file}: no such file; the source 'moving-mnist' needs {FILE} or the folder it is in"
        )
    count = _open(file).shape[1]
    items = tuple(SequenceOfArray(f"{number:05d}", file, number, frames, stride) for number in range(count))
    return Listing("moving-mnist", items, warnings=(GREY,))


def grey_frame(grey: np.ndarray) -> RawFrame:
    """A frame from grey values, uint8, shape (H, W)."""
    return RawFrame(np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2)))


def _open(file: Path) -> np.ndarray:
    """The array, mapped; uint8, shape (20, sequences, 64, 64).

    Raises:
        ValueError: It is another one, or damaged.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file}: cannot be read as a numpy array ({error}); download it again") from error
    shape = array.shape if isinstance(array, np.ndarray) else ()
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or _without_count(shape) != SHAPE:
        found = f"{array.dtype} of shape {shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise ValueError(
            f"{file}: holds {found}; the source 'moving-mnist' needs uint8 of shape ({FRAMES}, sequences, "
            f"{SIDE}, {SIDE})"
        )
    return array


def _without_count(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] + shape[2:]
