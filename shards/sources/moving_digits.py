"""Sequences in the way of Moving MNIST from real digits: without network, and the same everywhere.

Two digits of 28 x 28 pixels move in a square of 64 x 64 over 20 frames, straight on, and are reflected by the
walls; where they overlap the brighter value shows. Each digit image is in one sequence only, so that no
split sees those of another.
Source of the way: Srivastava, Mansimov, Salakhutdinov, "Unsupervised Learning of Video Representations using
LSTMs" (2015); the speed is fixed here.
"""

import gzip
import importlib.util
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from shards.picture import UnusablePictureError
from shards.sources.base import Listing, RawClip, SourceOptions
from shards.sources.files import clip_length, refuse_options, stamp_of
from shards.sources.moving_mnist import FRAMES, GREY, SIDE, grey_frame

DIGIT = 28
"""Pixels of a digit's side."""
DIGITS_PER_SEQUENCE = 2
MOST_SEQUENCES = 10_000
STEP = 0.1
"""How far a digit moves in a frame, as a share of the way that it has between the walls."""
SEED = 20150216
VERSION = 1
"""Of what is made from the same digits."""
UNIT = 1 << 32
"""Places are whole numbers of 1/UNIT of the way between the walls: floats could differ between machines."""
IDX_NAMES = tuple(
    f"{folder}{part}-images{dash}idx3-ubyte{ending}"
    for folder in ("", "raw/", "MNIST/raw/")
    for part in ("train", "t10k")
    for dash in ("-", ".")
    for ending in ("", ".gz")
)
IDX_IMAGES = 0x00000803
MOST_DIGITS = 1_000_000
BUNDLED = Path("datasets", "data", "digits.csv.gz")
"""Inside the scikit-learn package: 1797 digits of 8 x 8 pixels with values from 0 to 16."""
BUNDLED_SIDE = 8
BUNDLED_WHITE = 16


@dataclass(frozen=True)
class MovingDigits:
    """One sequence, made when it is read."""

    name: str
    file: Path
    """With the digits."""
    digits: tuple[int, ...]
    """Which of them."""
    number: int
    """Of the sequence: with the seed it decides how they move."""
    frames: int

    @property
    def source(self) -> str:
        """Each sequence is an original of its own."""
        return self.name

    def stamp(self) -> str:
        """Changes with the file of digits and with the way that sequences are made."""
        return stamp_of([(self.file.name, self.file)], self.digits, self.number, self.frames, SEED, VERSION)

    def estimated_bytes(self) -> int:
        """Exactly."""
        return self.frames * SIDE * SIDE * 3

    def clips(self) -> Iterator[RawClip]:
        """The one clip.

        Raises:
            UnusablePictureError: The file of digits has changed since it was listed.
        """
        try:
            chosen = _digits(self.file, _time(self.file))[list(self.digits)]
        except (ValueError, IndexError, OSError) as error:
            raise UnusablePictureError("the file of digits has changed since it was listed") from error
        random = _random(self.number, 3 * len(self.digits))
        canvas = np.zeros((self.frames, SIDE, SIDE), np.uint8)
        for digit, (x, y, angle) in zip(chosen, random.reshape(-1, 3), strict=True):
            _draw(canvas, digit, float(x), float(y), 2 * math.pi * float(angle))
        yield RawClip(self.name, tuple(grey_frame(frame) for frame in canvas))


def list_moving_digits(path: Path | None, options: SourceOptions) -> Listing:
    """Sequences of moving digits, one for every two digits there are and at most 10 000.

    Args:
        path: An IDX file of MNIST images, or a folder with one; None for the digits inside scikit-learn.
        options: `frames` is the length of the sequences.

    Raises:
        ValueError: There are no digits, or an option is wrong or has no effect.
    """
    refuse_options("moving-digits", options, ("stride",), "each sequence is a clip")
    frames, _ = clip_length(options, FRAMES)
    file = _bundled_file() if path is None else _idx_file(path)
    count = len(_digits(file, _time(file)))
    sequences = min(count // DIGITS_PER_SEQUENCE, MOST_SEQUENCES)
    if not sequences:
        raise ValueError(f"{file}: holds {count} digits; a sequence needs {DIGITS_PER_SEQUENCE}")
    order = np.argsort(_raw(0, count), kind="stable")[: sequences * DIGITS_PER_SEQUENCE]
    pairs = order.reshape(sequences, DIGITS_PER_SEQUENCE).tolist()
    items = tuple(
        MovingDigits(f"{number:05d}", file, tuple(pair), number, frames)
        for number, pair in enumerate(pairs, start=1)
    )
    return Listing("moving-digits", items, warnings=(GREY,))


def _bundled_file() -> Path:
    spec = importlib.util.find_spec("sklearn")  # Only finds it: importing scikit-learn takes seconds.
    if spec is not None and spec.origin is not None and (Path(spec.origin).parent / BUNDLED).is_file():
        return Path(spec.origin).parent / BUNDLED
    raise ValueError(
        "source 'moving-digits': no path was given, and scikit-learn, which brings 1797 real digits, is not "
        "installed; name "
        "an MNIST file such as train-images-idx3-ubyte.gz, or: pip install scikit-learn"
    )


def _idx_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = [path / name for name in IDX_NAMES if (path / name).is_file()]
    if not found:
        raise ValueError(
            f"{path}: no MNIST file of images there; name train-images-idx3-ubyte, "
            "train-images-idx3-ubyte.gz or the "
            "folder that holds it"
        )
    return found[0]


def _time(file: Path) -> int:
    return file.stat().st_mtime_ns


@lru_cache(maxsize=1)
def _digits(file: Path, _mtime_ns: int) -> np.ndarray:
    """All digits, uint8, shape (N, 28, 28); kept while the file stays the same: every sequence needs them.

    Raises:
        ValueError: The file holds no digits.
    """
    if file.name == BUNDLED.name:
        return _read_bundled(file)
    try:
        with file.open("rb") as opened:
            packed = opened.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else file.open("rb") as opened:
            header = opened.read(16)
            if len(header) < 16:
                raise ValueError(f"{file}: not an IDX file of images (too short)")
            magic, count, rows, columns = struct.unpack(">IIII", header)
            if magic != IDX_IMAGES or (rows, columns) != (DIGIT, DIGIT) or count > MOST_DIGITS:
                raise ValueError(
                    f"{file}: not an IDX file of {DIGIT}x{DIGIT} images (magic {magic:#010x}, {count} of "
                    f"{rows}x{columns})"
                    "; name train-images-idx3-ubyte of MNIST"
                )
            data = opened.read(count * DIGIT * DIGIT)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: cannot be read ({error}); download it again") from error
    if len(data) < count * DIGIT * DIGIT:
        raise ValueError(
            f"{file}: cut off after {len(data) // DIGIT**2} of {count} images; download it again"
        )
    return np.frombuffer(data, np.uint8).reshape(count, DIGIT, DIGIT)


def _read_bundled(file: Path) -> np.ndarray:
    try:
        with gzip.open(file, "rt", encoding="ascii") as opened:
            values = np.loadtxt(opened, delimiter=",", dtype=np.float64)[:, : BUNDLED_SIDE**2]
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); reinstall scikit-learn") from error
    small = np.round(values * (255 / BUNDLED_WHITE)).astype(np.uint8).reshape(-1, BUNDLED_SIDE, BUNDLED_SIDE)
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((DIGIT, DIGIT), Image.Resampling.BICUBIC)) for one in small]
    )


def _raw(stream: int, count: int) -> np.ndarray:
    """Random uint64. Only the raw output of Philox is promised to stay the same in all versions of numpy."""
    return np.random.Philox(key=np.array([SEED, stream], np.uint64)).random_raw(count)


def _random(stream: int, count: int) -> np.ndarray:
    """Random numbers in [0, 1)."""
    return (_raw(stream, count) >> np.uint64(11)) * 2.0**-53


def _draw(canvas: np.ndarray, digit: np.ndarray, x: float, y: float, angle: float) -> None:
    """Moves a digit from a place (shares of the way between the walls) into a direction, in all frames."""
    columns = _places(x, math.cos(angle), len(canvas))
    rows = _places(y, math.sin(angle), len(canvas))
    for frame, row, column in zip(canvas, rows, columns, strict=True):
        part = frame[row : row + DIGIT, column : column + DIGIT]
        np.maximum(part, digit, out=part)


def _places(start: float, direction: float, count: int) -> list[int]:
    """Pixels of the digit's edge along one axis, frame by frame."""
    position, velocity = int(start * UNIT), round(direction * STEP * UNIT)
    places: list[int] = []
    for _ in range(count):
        places.append(position * (SIDE - DIGIT) // UNIT)
        position += velocity
        if not 0 <= position <= UNIT:
            position = -position if position < 0 else 2 * UNIT - position
            velocity = -velocity
    return places
