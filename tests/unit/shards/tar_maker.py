"""Small tars as others would write them, sound and broken."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

Members = list[tuple[str, bytes]]


@cache
def picture(seed: int = 0, width: int = 24, height: int = 20, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A file of random pixels."""
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind)
    return buffer.getvalue()


def clip(key: str, frames: int = 3, *, seed: int = 0, **options: int) -> Members:
    """The members of one sample."""
    return [(f"{key}.im{n}.png", picture(1000 * seed + n, **options)) for n in range(1, frames + 1)]  # type: ignore[arg-type]


def clips(count: int, frames: int = 3) -> Members:
    """The members of several samples, side by side."""
    return [member for number in range(count) for member in clip(f"clip{number}", frames, seed=number)]


def tar_bytes(members: Sequence[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar as Python's tarfile writes it, padded to 10240 bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in members:
            tar.addfile(info(name, len(data)), io.BytesIO(data))
    return buffer.getvalue()


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """A member's header."""
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, target
    return made


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    """Writes a tar, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(list(members), form))
    return path


def header_at(data: bytes, name: str) -> int:
    """Where the header of a member begins that has a short name."""
    at = 0
    while not data[at:].startswith(name.encode() + b"\0"):
        at += 512
        assert at < len(data), f"no {name}"
    return at


def with_checksum(header: bytes) -> bytes:
    """A header block whose checksum is right again."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]
