"""How the pictures of a data set are stored. A new profile is one function and one line in `PROFILES`.

All are lossless, and each picture is decoded again and compared before it is handed out.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shards.banded import BAND_HEIGHT, encode_banded, find_bands, raw_bands
from shards.decode import decode_member, picture_header
from shards.formats.webp import MAX_SIDE
from shards.inflate import crc32
from shards.picture import MAX_PIXELS, UnusablePictureError
from shards.records import Band, Member
from shards.sources.base import RawFrame

_FIX = "reinstall Pillow, isal, pyspng and simplejpeg, or choose another profile"
WEBP_METHOD = 1
WEBP_EFFORT = 30
"""Chosen by measurement: 32 % smaller than PNG. More would save another 3 % and take three times as long."""


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A frame as it goes into a tar; the fields mean what they mean in `shards.records.Member`."""

    data: bytes
    ending: str
    """Of the member's name, without the dot."""
    kind: str
    width: int
    height: int
    channels: int
    band_height: int = 0
    bands: tuple[Band, ...] = ()
    note: str = ""
    """Where it is not stored as the profile says: how and why."""


def png_banded(frame: RawFrame) -> EncodedPicture:
    """A PNG that any reader reads, and ours in parts.

    Raises:
        ValueError: The pixels do not come back, or are no frame.
    """
    height, width = _size(frame.rgb)
    band_height = min(BAND_HEIGHT, height)
    data, bands = encode_banded(frame.rgb, band_height=band_height)
    encoded = EncodedPicture(data, "png", "png", width, height, 3, band_height, bands)
    _prove(frame.rgb, encoded, _by_pillow(data))
    return encoded


def png_keep(frame: RawFrame) -> EncodedPicture:
    """The bytes of the source's file, untouched; where there are none, or none that are read here, as `png_banded`.

    Raises:
        ValueError: The pixels do not come back, or are no frame.
    """
    if frame.original is None:
        return _instead(frame, "it has no file of its own that holds just these pixels")
    data = frame.original
    try:
        kind, width, height, channels = picture_header(data)
        band_height, bands = (find_bands(data) if kind == "png" else None) or (0, ())
        encoded = EncodedPicture(data, kind, kind, width, height, channels, band_height, bands)
        decoded = _decode(encoded)
    except UnusablePictureError as error:
        return _instead(frame, str(error))
    _compare(kind, frame.rgb, decoded)
    return encoded


def raw(frame: RawFrame) -> EncodedPicture:
    """A NumPy file: more than twice the disk, and nearly no time to decode.

    Raises:
        ValueError: The pixels do not come back, or are no frame.
    """
    height, width = _size(frame.rgb)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(frame.rgb), version=(1, 0), allow_pickle=False)
    data = buffer.getvalue()
    band_height, bands = raw_bands(data)
    encoded = EncodedPicture(data, "npy", "npy", width, height, 3, band_height, bands)
    _prove(frame.rgb, encoded, np.load(io.BytesIO(data), allow_pickle=False))
    return encoded


def webp(frame: RawFrame) -> EncodedPicture:
    """Lossless WebP: a third less disk than PNG, and no parts of it can be decoded alone.

    Equal pixels give equal bytes with one version of libwebp; another may make other bytes of the same pixels.

    Raises:
        ValueError: The pixels do not come back, or are no frame, or this Pillow cannot write WebP.
    """
    from PIL import Image, features

    height, width = _size(frame.rgb)
    if max(height, width) > MAX_SIDE:
        return _instead(frame, f"WebP holds {MAX_SIDE} px a side, and this is {width}x{height}")
    if not features.check("webp"):
        raise ValueError(
            "profile 'webp': this Pillow cannot write WebP; install it with: pip install --upgrade pillow, "
            "or choose another profile"
        )
    buffer = io.BytesIO()
    Image.fromarray(frame.rgb).save(buffer, "WEBP", lossless=True, quality=WEBP_EFFORT, method=WEBP_METHOD)
    encoded = EncodedPicture(buffer.getvalue(), "webp", "webp", width, height, 3)
    _prove(frame.rgb, encoded)
    return encoded


Profile = Callable[[RawFrame], EncodedPicture]

PROFILES: dict[str, Profile] = {"png-banded": png_banded, "png-keep": png_keep, "raw": raw, "webp": webp}
"""By name; the first is the default."""


def _size(rgb: np.ndarray) -> tuple[int, int]:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise ValueError(
            f"a frame is {rgb.dtype} of shape {rgb.shape}, not uint8 of (H, W, 3); convert it first"
        )
    height, width, _channels = rgb.shape
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"a frame has {width}x{height} pixels, more than {MAX_PIXELS // 10**6} Mpx, which no reader here "
            "decodes; cut it into parts first"
        )
    return height, width


def _instead(frame: RawFrame, why: str) -> EncodedPicture:
    return replace(png_banded(frame), note=f"stored as png-banded: {why}")


def _by_pillow(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def _prove(rgb: np.ndarray, encoded: EncodedPicture, *others: np.ndarray) -> None:
    """Compares with what our reader decodes, and with what `others` decoded."""
    try:
        decoded = _decode(encoded)
    except UnusablePictureError as error:
        raise ValueError(f"{encoded.kind} encoder: its bytes cannot be decoded ({error}); {_FIX}") from error
    _compare(encoded.kind, rgb, decoded, *others)


def _compare(kind: str, rgb: np.ndarray, *decoded: np.ndarray) -> None:
    if not all(np.array_equal(rgb, found) for found in decoded):
        raise ValueError(f"{kind}: other pixels came back than were stored; {_FIX}")


def _decode(encoded: EncodedPicture) -> np.ndarray:
    member = Member(
        name="frame",
        offset=0,
        size=len(encoded.data),
        crc32=crc32(encoded.data),
        kind=encoded.kind,
        role="frame",
        width=encoded.width,
        height=encoded.height,
        channels=encoded.channels,
        band_height=encoded.band_height,
        bands=encoded.bands,
    )
    return decode_member(encoded.data, member, None)
