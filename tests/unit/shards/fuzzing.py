"""Random damage, and what must hold for all of it. Run by test_fuzz.py in a process with little memory.

To repeat a case: `python -m tests.unit.shards.fuzzing TARGET SEED 0`.
"""

import contextlib
import copy
import hashlib
import io
import json
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.agreement import SplitChoice
from shards.banded import encode_banded, find_bands
from shards.decode import Window, decode_member, picture_header, span_of
from shards.foreign import IndexOptions, index_foreign
from shards.index import BANDS, MEMBERS, SAMPLES, tables_to_bytes
from shards.manifest import DamagedError, Dataset, load
from shards.picture import UnusablePictureError
from shards.reader import read_clip
from shards.records import Member
from shards.verify import verify
from tests.unit.shards.tar_maker import Members, clip, picture, tar_bytes, with_checksum

MEMORY_BYTES = 1500 * 2**20
"""64 Mpx of RGB take 192 MB, and a decoder may hold them a few times."""
SECONDS_A_CASE = 20
NAME = "train-0.tar"


def main(target: str, first_seed: int, seconds: float) -> int:
    """Cases of consecutive seeds until the time is over, one at least; returns their number."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _too_long)
    stop = time.monotonic() + seconds
    seed = first_seed
    with tempfile.TemporaryDirectory() as folder:
        while seed == first_seed or time.monotonic() < stop:
            signal.alarm(SECONDS_A_CASE)
            root = Path(folder) / "a" / "data"
            root.mkdir(parents=True)
            try:
                TARGETS[target](random.Random(seed), root)
            except BaseException:
                print(f"repeat with: python -m tests.unit.shards.fuzzing {target} {seed} 0", file=sys.stderr)
                raise
            signal.alarm(0)
            beside = {path.name for path in (*Path(folder).iterdir(), *root.parent.iterdir())}
            assert beside == {"a", "data"}, f"seed {seed}: written outside of the folder: {beside}"
            shutil.rmtree(root.parent)
            seed += 1
    return seed - first_seed


def _too_long(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"a case took more than {SECONDS_A_CASE} s")


# --- Damage -----------------------------------------------------------------------------------------------------


def damaged(random: random.Random, data: bytes, changes: int = 3) -> bytes:
    """Bytes after one or some random changes."""
    for _ in range(random.randint(1, changes)):
        data = random.choice(CHANGES)(random, data)
    return data


def _flip(random: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8])):
        if out:
            out[random.randrange(len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def _truncate(random: random.Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def _splice(random: random.Random, data: bytes) -> bytes:
    """A piece of it, somewhere else: over what is there, or in between."""
    start, length = random.randint(0, len(data)), random.choice([1, 16, 512, 2048])
    at = random.randint(0, len(data))
    if random.random() < 0.5:  # Tars are made of blocks.
        start, length, at = start // 512 * 512, -(-length // 512) * 512, at // 512 * 512
    behind = at + (length if random.random() < 0.5 else 0)
    return data[:at] + data[start : start + length] + data[behind:]


def _insert(random: random.Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    piece = random.choice([b"\0", b"\xff" * 4, bytes(512), random.randbytes(7), b"\x7f\xff\xff\xff"])
    return data[:at] + piece + data[at:]


def _remove(random: random.Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + data[at + random.choice([1, 4, 512]) :]


def _edit_header(random: random.Random, data: bytes) -> bytes:
    """A field of a tar header, with a checksum that is right again: so the damage is believed."""
    heads = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not heads:
        return data
    at = random.choice(heads)
    header = bytearray(data[at : at + 512])
    start, stop = random.choice([(0, 100), (124, 136), (156, 157), (157, 257), (257, 265), (345, 500)])
    value = random.choice(
        [
            b"",
            b"\0",
            b"7" * 11,
            b"\x80" + random.randbytes(11),
            b"\xff" * 12,
            b"-1",
            b"00000000010",
            b"../../../../tmp/x.png",
            b"/abs/x.im1.png",
            b"c0.im1.png",
            b"c1.im2.png",
            random.choice([b"L", b"K", b"x", b"g", b"S", b"5", b"2", b"1", b"0", b"7", b"Z"]),
            random.randbytes(stop - start),
        ]
    )[: stop - start]
    header[start:stop] = (
        value.ljust(stop - start, b"\0")
        if random.random() < 0.8
        else value + header[start + len(value) : stop]
    )
    return data[:at] + with_checksum(bytes(header)) + data[at + 512 :]


CHANGES: list[Callable[[random.Random, bytes], bytes]] = [
    _flip,
    _truncate,
    _splice,
    _insert,
    _remove,
    _edit_header,
]


# --- Tars -------------------------------------------------------------------------------------------------------


@cache
def _tars() -> tuple[bytes, ...]:
    """Sound tars of several kinds."""
    pixels = np.random.default_rng(3).integers(0, 256, (70, 20, 3), dtype=np.uint8)
    array = io.BytesIO()
    np.save(array, pixels)
    mixed: Members = [
        *clip("c0", 2, seed=1),
        ("c0.json", b'{"source": "v"}'),
        *clip("c1", 2, seed=2),
        ("c1.pkl", b"x"),
        ("c2.im1.jpg", picture(1, kind="JPEG")),
        ("c2.im2.jpg", picture(2, kind="JPEG")),
    ]
    banded = [(f"c{n}.png", encode_banded(np.roll(pixels, n, 0), band_height=16)[0]) for n in range(3)]
    long = [*clip("d/" * 60 + "c0", 1, seed=4), *clip("c1", 1, seed=5)]
    others = [("a.webp", picture(7, kind="WEBP")), ("b.npy", array.getvalue())]
    pairs = [
        pair
        for n in range(2)
        for pair in [(f"c{n}.hr.png", picture(n)), (f"c{n}.lr.png", picture(n, 12, 10))]
    ]
    return (
        tar_bytes(mixed),
        tar_bytes(banded),
        tar_bytes(long, tarfile.PAX_FORMAT),
        tar_bytes(long, tarfile.GNU_FORMAT),
        tar_bytes(others),
        tar_bytes(pairs),
    )


def _index(root: Path, *, keep_going: bool = False) -> Dataset:
    options = IndexOptions(SplitChoice(split="train"), keep_going=keep_going, force=True, jobs=1)
    return index_foreign(root, options, on_progress=lambda _: None)


def fuzz_tar(random: random.Random, root: Path) -> None:
    """A damaged tar: indexing refuses it, or what it accepts is sound and has the pixels that Pillow sees."""
    path = root / NAME
    data = damaged(random, random.choice(_tars()))
    path.write_bytes(data)
    try:
        dataset = _index(root, keep_going=random.random() < 0.7)
    except ValueError:
        return
    finally:
        assert path.read_bytes() == data, "the tar was changed"
    assert verify(root, deep=True, on_progress=lambda _: None) == []
    for sample in dataset.samples:
        pixels = read_clip(dataset, sample)
        for frame, member in zip(pixels, sample.frames, strict=True):
            _compare(data[member.offset : member.offset + member.size], member, frame.transpose(1, 2, 0))


def _compare(data: bytes, member: Member, pixels: np.ndarray) -> None:
    """Lossless pictures have one right answer."""
    assert pixels.shape == (member.height, member.width, 3)
    if member.kind not in ("png", "npy"):
        return
    seen = _by_another(data, member.kind)
    assert seen is None or np.array_equal(seen, pixels), "other pixels than another decoder sees"


def _by_another(data: bytes, kind: str) -> np.ndarray | None:
    """What numpy or Pillow see; None where they refuse it, or it is of a kind that is converted in several ways."""
    with contextlib.suppress(Exception):
        if kind == "npy":
            array = np.load(io.BytesIO(data), allow_pickle=False)
            return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode in ("RGB", "L") and "transparency" not in image.info:
                return np.asarray(image.convert("RGB"))
    return None


def fuzz_reading(random: random.Random, root: Path) -> None:
    """A tar that is damaged after it was indexed: reading gives the right pixels or an error, verifying sees it."""
    path = root / NAME
    sound = random.choice(_tars())
    path.write_bytes(sound)
    dataset = _index(root)
    right = {sample.key: read_clip(dataset, sample) for sample in dataset.samples}
    data = damaged(random, sound, 1)
    path.write_bytes(data)
    dataset = load(root)
    for sample in dataset.samples:
        window = _window(random, sample.height, sample.width)
        with contextlib.suppress(DamagedError):
            assert np.array_equal(read_clip(dataset, sample), right[sample.key])
        with contextlib.suppress(DamagedError):
            cut = right[sample.key][:, :, window.top :, window.left :][:, :, : window.height, : window.width]
            assert np.array_equal(read_clip(dataset, sample, window), cut)
    findings = verify(root, deep=random.random() < 0.5, on_progress=lambda _: None)
    assert bool(findings) == (data != sound), findings
    assert all(finding.where and finding.what and finding.fix for finding in findings)


def _window(random: random.Random, height: int, width: int) -> Window:
    top, left = random.randrange(height), random.randrange(width)
    return Window(top, left, random.randint(1, height - top), random.randint(1, width - left))


# --- Index ------------------------------------------------------------------------------------------------------

EXTREMES = [0, 1, 2, 3, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**47, 2**48, 2**62, 2**63, 2**64 - 1]


def fuzz_index(random: random.Random, root: Path) -> None:
    """A damaged index, half of the time with checksums that agree: nothing but errors that say so."""
    (root / NAME).write_bytes(random.choice(_tars()))
    dataset = _index(root)
    path = root / "index.bin"
    sound = path.read_bytes()
    data = _edited_tables(random, dataset) if random.random() < 0.6 else damaged(random, sound)
    path.write_bytes(data)
    if data != sound:
        with contextlib.suppress(DamagedError):
            load(root)
            raise AssertionError("a changed index was not noticed")
    if random.random() < 0.9:
        head = json.loads((root / "dataset.json").read_text())
        head["index_sha256"] = hashlib.sha256(data).hexdigest()
        (root / "dataset.json").write_text(json.dumps(head))
    _use(random, root)


def _edited_tables(random: random.Random, dataset: Dataset) -> bytes:
    index = dataset.samples
    tables = {"samples": index.rows, "members": index.members, "bands": index.bands, "strings": index.strings}
    tables = {name: table.copy() for name, table in tables.items()}
    for _ in range(random.randint(1, 3)):
        name, dtype = random.choice([("samples", SAMPLES), ("members", MEMBERS), ("bands", BANDS)])
        column = random.choice(dtype.names or ())
        if not len(tables[name]):
            continue
        cells, kind = tables[name][column], dtype[column]
        if kind.names:
            part = random.choice(kind.names)
            cells, kind = cells[part], kind[part]
        row = random.randrange(len(cells))
        limit = np.iinfo(kind).max
        near = int(cells[row]) + random.choice([-1, 1, 12, 512])
        cells[row] = min(limit, max(0, random.choice([*EXTREMES, near, near])))
    return tables_to_bytes(tables)


def _use(random: random.Random, root: Path) -> None:
    """All that a stranger's data set may do is raise ValueError."""
    with contextlib.suppress(ValueError):
        dataset = load(root)
        for split in ("train", "val", "test"):
            for sample in dataset.of_split(split):
                for role in ("frame", "lr"):
                    if not [member for member in sample.members if member.role == role]:
                        continue
                    with contextlib.suppress(ValueError):
                        pixels = read_clip(dataset, sample, role=role)
                        assert pixels.dtype == np.uint8
                        assert pixels.ndim == 4
                    with contextlib.suppress(ValueError):
                        window = Window(random.randrange(9), random.randrange(9), 8, 8)
                        assert read_clip(dataset, sample, window, role=role).shape[2:] == (8, 8)
    with contextlib.suppress(ValueError):
        verify(root, deep=random.random() < 0.5, on_progress=lambda _: None)


# --- dataset.json -----------------------------------------------------------------------------------------------


def fuzz_head(random: random.Random, root: Path) -> None:
    """A damaged dataset.json."""
    (root / NAME).write_bytes(random.choice(_tars()))
    _index(root, keep_going=True)
    path = root / "dataset.json"
    if random.random() < 0.5:
        path.write_bytes(damaged(random, path.read_bytes()))
    else:
        head = json.loads(path.read_text())
        for _ in range(random.randint(1, 3)):
            _edit_json(random, head)
        path.write_text(json.dumps(head))
    if random.random() < 0.05:
        path.write_bytes(
            random.choice([b"[" * 10**6, b"", b"\xff\xfe", b"9" * 10**5, b'{"a":' * 10**5, b"null"])
        )
    _use(random, root)


ODD_VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2, 10**30, 1.5, float("nan"), float("inf"), [], {}, {"a": {"b": 1}}, [[]] * 50),
    *("", "x" * 5000, "../up.tar", "/etc/passwd", "a\0b", "\ud800", "train", "test", "0" * 64),
    json.loads("[" * 300 + "]" * 300),
]


def _edit_json(random: random.Random, value: Any) -> None:
    """Replaces, removes or repeats something in it, at any depth."""
    places = list(_places(value))
    container, key = random.choice(places)
    match random.randrange(4):
        case 0:
            del container[key]
        case 1 if isinstance(container, list):
            container.insert(key, container[key])
        case _:
            container[key] = copy.deepcopy(random.choice(ODD_VALUES))


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    if depth > 20:
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner, depth + 1)


# --- Pictures ---------------------------------------------------------------------------------------------------


@cache
def _pictures() -> tuple[bytes, ...]:
    random = np.random.default_rng(5)
    smooth = np.add.outer(np.arange(70), np.arange(20))[..., None].repeat(3, 2).astype(np.uint8)
    noise = random.integers(0, 256, (70, 20, 3), dtype=np.uint8)
    arrays = []
    for array in (noise, noise[..., 0]):
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array))
        arrays.append(buffer.getvalue())
    palette = io.BytesIO()
    Image.fromarray(smooth).convert("P").save(palette, "PNG")
    deep = io.BytesIO()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(deep, "PNG")
    progressive = io.BytesIO()
    Image.fromarray(smooth).save(progressive, "JPEG", progressive=True)
    lossless = io.BytesIO()
    Image.fromarray(noise).save(lossless, "WEBP", lossless=True)
    return (
        *arrays,
        *(
            encode_banded(pixels, band_height=height)[0]
            for pixels in (smooth, noise)
            for height in (16, 64, 128)
        ),
        *(picture(1, kind=kind) for kind in ("PNG", "JPEG", "WEBP")),
        picture(1, mode="L"),
        picture(1, mode="RGBA"),
        *(buffer.getvalue() for buffer in (palette, deep, progressive, lossless)),
    )


def fuzz_picture(random: random.Random, root: Path) -> None:
    """A damaged picture whose checksum is right: another decoder sees the same, or it is refused."""
    del root
    data = damaged(random, random.choice(_pictures()))
    if random.random() < 0.7:
        data = _with_png_checksums(random, data)
    claimed = ("png", random.choice([20, 24, 2**20]), random.choice([20, 70, 2**20]), 3)
    with contextlib.suppress(UnusablePictureError):
        claimed = picture_header(data)
    member = Member("a", 0, len(data), zlib.crc32(data), claimed[0], "frame", *claimed[1:])
    whole = None
    with contextlib.suppress(UnusablePictureError):
        whole = decode_member(data, member, None)
        _compare(data, member, whole)
    found = find_bands(data)
    if found is None:
        return
    assert whole is not None, "bands of what cannot be decoded"
    member = replace(member, band_height=found[0], bands=found[1])
    assert np.array_equal(decode_member(data, member, None), whole), "bands give other pixels"
    window = _window(random, member.height, member.width)
    start, stop = span_of(member, window)
    part = decode_member(data[start:stop], member, window)
    assert np.array_equal(part, whole[window.top :, window.left :][: window.height, : window.width])


def _with_png_checksums(random: random.Random, data: bytes) -> bytes:
    """A PNG whose chunks have right checksums again, and perhaps a field of its header changed."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = bytearray(data[at + 4 : at + 8 + length])
        if bytes(body[:4]) == b"IHDR" and len(body) >= 17 and random.random() < 0.4:
            body[random.randint(4, 16)] = random.choice([0, 1, 2, 3, 4, 6, 8, 16, 20, 70, 127, 255])
        out += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out)


TARGETS: dict[str, Callable[[random.Random, Path], None]] = {
    "tar": fuzz_tar,
    "reading": fuzz_reading,
    "index": fuzz_index,
    "head": fuzz_head,
    "picture": fuzz_picture,
}

if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
