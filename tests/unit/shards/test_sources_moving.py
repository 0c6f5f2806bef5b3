"""Moving MNIST as published, and sequences like it that are made from real digits."""

import gzip
import hashlib
import io
import struct
import sys
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from shards.picture import UnusablePictureError
from shards.sources import SOURCES, Listing, RawClip, SourceOptions
from shards.sources.moving_digits import MovingDigits

NOTHING = SourceOptions()


def published(root: Path, sequences: int = 5) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (20, sequences, 64, 64), np.uint8)
    np.save(root / "mnist_test_seq.npy", values)
    return values


def clips_of(listing: Listing) -> list[RawClip]:
    clips = [clip for item in listing.items for clip in item.clips()]
    assert all(isinstance(clip, RawClip) for clip in clips)
    return [clip for clip in clips if isinstance(clip, RawClip)]


def array_of(clip: RawClip) -> np.ndarray:
    frames = np.stack([frame.rgb for frame in clip.frames])
    assert np.array_equal(frames, np.repeat(frames[..., :1], 3, axis=3))
    return frames[..., 0]


@pytest.mark.parametrize("name", ["mnist_test_seq.npy", ""])
def test_every_sequence_of_the_array_is_a_clip(tmp_path: Path, name: str) -> None:
    values = published(tmp_path)
    listing = SOURCES["moving-mnist"].list(tmp_path / name, NOTHING)
    assert listing.name == "moving-mnist"
    assert [item.source for item in listing.items] == ["00000", "00001", "00002", "00003", "00004"]
    clips = clips_of(listing)
    assert [clip.name for clip in clips] == [item.name for item in listing.items]
    for number, clip in enumerate(clips):
        assert np.array_equal(array_of(clip), values[:, number])
        assert clip.notes == ()
    assert "grey" in listing.warnings[0]


def test_sequences_can_be_divided(tmp_path: Path) -> None:
    values = published(tmp_path, 1)
    listing = SOURCES["moving-mnist"].list(tmp_path, SourceOptions(frames=8, stride=6))
    clips = clips_of(listing)
    assert [clip.name for clip in clips] == ["00000/000000", "00000/000006", "00000/000012"]
    assert np.array_equal(array_of(clips[1]), values[6:14, 0])
    assert listing.items[0].estimated_bytes() == 3 * 8 * 64 * 64 * 3
    with pytest.raises(ValueError, match="frames: got 21"):
        SOURCES["moving-mnist"].list(tmp_path, SourceOptions(frames=21))


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


class Evil:
    """Unpickling it would end the process."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return sys.exit, ("a pickle was run",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(np.zeros((5, 20, 64, 64), np.uint8)), r"holds uint8 of shape \(5, 20, 64, 64\)"),
        (npy(np.zeros((20, 5, 64, 64), np.float32)), "holds float32"),
        (npy(np.zeros((20, 5, 64), np.uint8)), r"shape \(20, 5, 64\)"),
        (npy(np.zeros((20, 5, 64, 64), np.uint8))[:-1], "cannot be read as a numpy array"),
        (npy(np.array([Evil()], object)), "cannot be read as a numpy array"),
        (npz(), "several arrays"),
        (b"", "cannot be read as a numpy array"),
        (b"hello", "cannot be read as a numpy array"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "mnist_test_seq.npy").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        SOURCES["moving-mnist"].list(tmp_path, NOTHING)


def test_the_array_is_not_read_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "mnist_test_seq.npy"
    shape = (20, 10_000, 64, 64)
    header = npy(np.zeros((20, 1, 64, 64), np.uint8))[:128].replace(
        b"(20, 1, 64, 64), }    ", b"(20, 10000, 64, 64), }"
    )
    with path.open("wb") as file:  # 819 MB, sparse: no disk is used.
        file.write(header)
        file.truncate(len(header) + int(np.prod(shape)))
    listing = SOURCES["moving-mnist"].list(tmp_path, NOTHING)
    assert len(listing.items) == 10_000
    import tracemalloc

    tracemalloc.start()
    for item in listing.items[::1000]:
        assert len(list(item.clips())) == 1
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def idx(count: int = 20) -> bytes:
    """Digits as MNIST has them: bright in the middle of 28 x 28, black at the edges."""
    values = np.zeros((count, 28, 28), np.uint8)
    values[:, 4:24, 4:24] = (np.arange(count * 400).reshape(count, 20, 20) * 7919 % 255 + 1).astype(np.uint8)
    return struct.pack(">IIII", 0x803, count, 28, 28) + values.tobytes()


def made(path: Path, **options: int) -> Listing:
    return SOURCES["moving-digits"].list(path, SourceOptions(**options))


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "MNIST/raw/t10k-images-idx3-ubyte.gz"])
def test_digits_move_as_in_moving_mnist(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(idx()) if name.endswith("gz") else idx())
    listing = made(tmp_path)
    assert [item.source for item in listing.items] == [f"{number:05d}" for number in range(1, 11)]
    for clip in clips_of(listing):
        frames = array_of(clip)
        assert frames.shape == (20, 64, 64)
        assert ((frames > 0).sum((1, 2)) <= 800).all()  # Two digits of 20 x 20.
        assert ((frames > 0).sum((1, 2)) >= 400).all()
        assert not any(np.array_equal(a, b) for a, b in pairwise(frames))


def test_a_lonely_digit_moves_straight_and_stays_inside(tmp_path: Path) -> None:
    data = bytearray(idx(4))
    data[16 + 784 :] = bytes(3 * 784)  # All but the first digit are black.
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    (clip,) = [clip for clip in clips_of(made(tmp_path, frames=60)) if array_of(clip).any()]
    corners = np.array([[axis.min() for axis in np.nonzero(frame)] for frame in array_of(clip)]) - 4
    assert (corners >= 0).all()
    assert (corners <= 36).all()
    steps = np.abs(np.diff(corners, axis=0))
    assert steps.max() <= 4  # A tenth of the 36 pixels between the walls.
    for axis in range(2):
        turns = np.count_nonzero(np.diff(np.sign(np.diff(corners[:, axis]))[np.diff(corners[:, axis]) != 0]))
        assert 1 <= turns <= 6
    values = struct.unpack_from(">784B", data, 16)
    for frame, (row, column) in zip(array_of(clip), corners, strict=True):
        assert np.array_equal(frame[row : row + 28, column : column + 28].ravel(), values)


def test_each_digit_is_in_one_sequence_only(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(101))
    listing = made(tmp_path)
    used = [digit for item in listing.items if isinstance(item, MovingDigits) for digit in item.digits]
    assert len(listing.items) == 50
    assert len(set(used)) == 100


def test_what_is_made_is_the_same_everywhere(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx())
    digest = hashlib.sha256()
    for clip in clips_of(made(tmp_path)):
        digest.update(array_of(clip).tobytes())
    assert digest.hexdigest() == "5419dd3366858694cf008529773a59210cc957e4d48bd0235c00ee25f99d0f5b"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too short"),
        (b"hello" * 10, "not an IDX file of 28x28 images"),
        (struct.pack(">II", 0x801, 20) + bytes(20), "not an IDX file"),
        (struct.pack(">IIII", 0x803, 2**31, 28, 28), "not an IDX file"),
        (idx()[:-1], "cut off after 19 of 20 images"),
        (idx(1), "holds 1 digits"),
        (gzip.compress(idx())[:-100], "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        made(tmp_path)


def test_a_folder_without_digits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no MNIST file of images there; name train-images-idx3-ubyte"):
        made(tmp_path)


def test_digits_that_change_after_listing_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx())
    listing = made(tmp_path)
    assert len(clips_of(listing)) == 10
    path.write_bytes(idx(3))
    with pytest.raises(UnusablePictureError, match="has changed"):
        clips_of(listing)


def test_the_digits_inside_scikit_learn_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    data = tmp_path / "sklearn" / "datasets" / "data"
    data.mkdir(parents=True)
    small = np.random.default_rng(0).integers(0, 17, (6, 8, 8))
    small[0, :, :4], small[0, :, 4:] = 16, 0
    rows = [",".join(f"{value:.18e}" for value in (*digit.ravel(), 7)) for digit in small]
    (data / "digits.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    spec = ModuleSpec("sklearn", None, origin=str(tmp_path / "sklearn" / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "sklearn" else None)
    listing = SOURCES["moving-digits"].list(None, NOTHING)
    assert len(listing.items) == 3
    values = np.unique(np.concatenate([array_of(clip).ravel() for clip in clips_of(listing)]))
    assert values.max() == 255
    assert len(values) > 17  # Enlarged smoothly.
    assert "sklearn" not in sys.modules
