"""Picture files of every kind, and decoding as if optional decoders were missing."""

import io
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from PIL import Image

from shards import inflate
from shards.banded import encode_banded, raw_bands
from shards.decode import Window, decode_member, picture_header
from shards.formats import jpeg, png
from shards.records import Band, Member

PHOTOS = Path(skimage.__file__).parent / "data"
OPTIONAL = ("isal", "pyspng", "simplejpeg")


def forget_decoders() -> None:
    """What is installed is looked up again."""
    for function in (inflate.backend, png._pyspng, jpeg.simplejpeg_decoder):
        function.cache_clear()


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """As if some optional decoders were not installed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in modules:
            patch.setitem(sys.modules, name, None)
        forget_decoders()
        yield
    forget_decoders()


def photo(height: int = 150, width: int = 190) -> np.ndarray:
    with Image.open(PHOTOS / "coffee.png") as image:
        return np.asarray(image.convert("RGB"))[100 : 100 + height, 150 : 150 + width]


def saved(rgb: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def member_of(data: bytes, *, bands: tuple[int, tuple[Band, ...]] = (0, ())) -> Member:
    kind, width, height, channels = picture_header(data)
    return Member("a", 0, len(data), zlib.crc32(data), kind, "frame", width, height, channels, *bands)


def decoded(data: bytes, window: Window | None = None) -> np.ndarray:
    return decode_member(data, member_of(data), window)


def jpeg_pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def example(name: str) -> tuple[bytes, Member, np.ndarray]:
    """A file, its member, and its pixels as somebody else decodes them."""
    rgb = photo()
    grey = rgb[..., 0]
    bands: tuple[int, tuple[Band, ...]] = (0, ())
    if name == "banded":
        data, found = encode_banded(rgb, band_height=32)
        bands = (32, found)
    elif name == "raw":
        data = npy(rgb)
        bands = raw_bands(data)
    elif name == "raw grey":
        data = npy(grey)
        bands = raw_bands(data)
    else:
        make: dict[str, Callable[[], bytes]] = {
            "png": lambda: saved(rgb, "PNG"),
            "png grey": lambda: saved(grey, "PNG"),
            "jpg": lambda: saved(rgb, "JPEG", quality=90),
            "jpg grey": lambda: saved(grey, "JPEG", quality=90),
            "webp": lambda: saved(rgb, "WEBP", lossless=True),
            "webp lossy": lambda: saved(rgb, "WEBP", quality=70),
            "npy": lambda: npy(rgb),
            "npy 2.0 grey": lambda: npy(grey, (2, 0)),
        }
        data = make[name]()
    if name.startswith(("jpg", "webp")):
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), flags)[..., ::-1]
    else:
        expected = np.repeat(grey[..., None], 3, axis=2) if name.endswith("grey") else rgb
    return data, member_of(data, bands=bands), expected


EXAMPLES = (
    *("banded", "raw", "raw grey", "png", "png grey", "jpg", "jpg grey"),
    *("webp", "webp lossy", "npy", "npy 2.0 grey"),
)
