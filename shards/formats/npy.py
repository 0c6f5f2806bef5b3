"""NumPy arrays of uint8, shape (H, W, 3) or (H, W), in the order of C: pixels that need no decoding."""

import re

import numpy as np

from shards.picture import UnusablePictureError

MAGIC = b"\x93NUMPY"
HEADER = re.compile(
    rb"\{\s*'descr':\s*('[^']*'|\[.*\]),\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([0-9, ]*)\),?\s*\}\s*"
)
"""All that writers make of it. NumPy itself evaluates the header, with an interpreter that any text may reach."""
BYTE = b"|u1"
MAX_HEADER = 4096
"""Bytes. Those of pictures have 128."""


def read_header(data: memoryview) -> tuple[int, int, int]:
    """Width, height and channels.

    Raises:
        UnusablePictureError: It is damaged there, or no array of such pixels.
    """
    return read_layout(data)[:3]


def read_layout(data: memoryview) -> tuple[int, int, int, int]:
    """Width, height and channels, and the byte where the pixels begin, which reach to the end of the file.

    Raises:
        UnusablePictureError: It is damaged there, or no array of such pixels.
    """
    shape, fortran, dtype, start = _parse(data)
    if dtype != BYTE or fortran:
        order = " in the order of Fortran" if fortran else ""
        shown = dtype.decode("ascii", "replace")
        raise UnusablePictureError(f"array of type {shown!r}{order}; only uint8 in the order of C is read")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3):
        raise UnusablePictureError(f"array of shape {shape}; only (H, W, 3) and (H, W) are read")
    height, width, channels = (*shape, 1)[:3]
    if min(height, width) < 1 or start + height * width * channels != len(data):
        raise UnusablePictureError(f"damaged array: {len(data)} bytes for the shape {shape}")
    return width, height, channels, start


def decode(data: memoryview, rows: int) -> np.ndarray:
    """All pixels, uint8, shape (H, W, 3) or (H, W, 1), a view of `data`; `rows` is not used.

    Raises:
        UnusablePictureError: It is damaged, or no array of such pixels.
    """
    del rows
    width, height, channels, start = read_layout(data)
    return np.frombuffer(data, np.uint8, offset=start).reshape(height, width, channels)


def decoder_name() -> str:
    """What decodes these files here."""
    return "numpy"


def _parse(data: memoryview) -> tuple[tuple[int, ...], bool, bytes, int]:
    """Shape, whether the order is Fortran's, type, and where the pixels begin. Nothing is ever unpickled."""
    version = tuple(data[6:8])
    if bytes(data[:6]) != MAGIC or version not in ((1, 0), (2, 0)):
        raise UnusablePictureError("does not begin as a NumPy array of version 1.0 or 2.0")
    length_bytes = 2 if version == (1, 0) else 4
    length = int.from_bytes(data[8 : 8 + length_bytes], "little")
    start = 8 + length_bytes + length
    if length > MAX_HEADER or start > len(data):
        raise UnusablePictureError(f"damaged array: its header has {length} bytes")
    found = HEADER.fullmatch(data[8 + length_bytes : start])
    if found is None:
        raise UnusablePictureError("damaged array: its header cannot be read")
    dtype, fortran, sizes = found.groups()
    shape = tuple(int(size) for size in sizes.split(b",") if size.strip().isdigit())
    return shape, fortran == b"True", dtype.strip(b"'"), start
