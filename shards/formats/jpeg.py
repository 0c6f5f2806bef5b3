"""JPEG: baseline and progressive, 8 bits, grey or colour, as it is stored (a rotation noted in EXIF is not applied).

A decoder gets only what decides the pixels: no EXIF, no profiles, no further pictures.
"""

import functools
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shards.picture import UnusablePictureError

START = b"\xff\xd8"
FRAMES = {0xC0: "baseline", 0xC1: "sequential", 0xC2: "progressive"}
"""Markers of the frames that are read."""
OTHER_FRAMES = {0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xDE}
"""Lossless, hierarchical and arithmetically coded ones: some decoders read them, others do not."""
SCAN = 0xDA
JFIF, ADOBE, COMMENT = 0xE0, 0xEE, 0xFE
MAX_SCANS = 100
"""Each costs the time of a whole picture and may have a few bytes only. Usual are about ten."""
FAST_SAMPLINGS = ("11", "11,11,11", "21,11,11", "22,11,11")
"""Where simplejpeg is compared with Pillow before it is used."""


@dataclass(frozen=True, slots=True)
class _Frame:
    width: int
    height: int
    channels: int
    sampling: str
    """Horizontal and vertical factor of each channel."""


def read_header(data: memoryview) -> tuple[int, int, int]:
    """Width, height and channels.

    Raises:
        UnusablePictureError: It is damaged there, or none that is read here.
    """
    frame = _read(data)[0]
    return frame.width, frame.height, frame.channels


def decode(data: memoryview, rows: int) -> np.ndarray:
    """All pixels, uint8, shape (H, W, 3); `rows` is not used: no part of a JPEG can be decoded alone.

    Raises:
        UnusablePictureError: It is damaged, or none that is read here.
    """
    del rows
    frame, bare = _read(data)
    scans = bare.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise UnusablePictureError(f"JPEG of {scans} scans; more than {MAX_SCANS} are not decoded")
    # One value of grey is one value everywhere: only colour differs between decoders.
    fast = simplejpeg_decoder() if frame.sampling in FAST_SAMPLINGS else None
    if fast is not None:
        try:
            return fast(bare)
        except ValueError:
            pass  # What it complains of, Pillow decides: the result must not depend on what is installed.
    return _by_pillow(bare)


def decoder_name() -> str:
    """What decodes these files here."""
    return "Pillow" if simplejpeg_decoder() is None else "simplejpeg"


@functools.cache
def simplejpeg_decoder() -> Callable[[bytes], np.ndarray] | None:
    """simplejpeg, if it is there and decodes trial pictures to exactly the pixels of this Pillow.

    Decoders may differ by one level or so within the standard, and some builds do.
    """
    try:
        import simplejpeg
    except ImportError:
        return None

    def fast(data: bytes) -> np.ndarray:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)

    return fast if all(np.array_equal(fast(data), _by_pillow(data)) for data in _trials()) else None


def _read(data: memoryview) -> tuple[_Frame, bytes]:
    """The frame, and the file without what does not decide its pixels."""
    frame, kept = None, [START]
    for marker, segment in _segments(data):
        if marker in FRAMES:
            if frame is not None:
                raise UnusablePictureError("damaged JPEG: it has two frames")
            frame = _parse_frame(segment[4:])
        elif marker in OTHER_FRAMES:
            raise UnusablePictureError(f"JPEG of an uncommon kind (marker {marker:02x})")
        if marker == SCAN:
            if frame is None:
                raise UnusablePictureError("damaged JPEG: a scan precedes its frame header")
            return frame, b"".join([*kept, segment])
        if marker in (JFIF, ADOBE) or not (0xE0 <= marker <= 0xEF or marker == COMMENT):
            kept.append(bytes(segment))
    raise UnusablePictureError("damaged JPEG: no scan follows its header")


def _segments(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Marker and all bytes of each segment; that of the first scan reaches to the end of the file."""
    if bytes(data[:2]) != START:
        raise UnusablePictureError("does not begin as a JPEG")
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise UnusablePictureError(f"damaged JPEG: no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # Filling.
            at += 1
            continue
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or stop < at + 4:
            raise UnusablePictureError(f"damaged JPEG: a marker {marker:02x} at byte {at}")
        if stop > len(data):
            break
        yield marker, data[at:] if marker == SCAN else data[at:stop]
        at = stop
    raise UnusablePictureError(f"truncated JPEG: {len(data)} bytes end within its header")


def _parse_frame(content: memoryview) -> _Frame:
    if len(content) < 6 or len(content) != 6 + 3 * content[5]:
        raise UnusablePictureError("damaged JPEG: its frame header has a wrong length")
    depth, height, width, channels = struct.unpack(">BHHB", content[:6])
    if depth != 8:
        raise UnusablePictureError(f"JPEG with {depth} bits a channel; only 8-bit pictures are read")
    if channels not in (1, 3):
        raise UnusablePictureError(f"JPEG with {channels} channels (CMYK?); only grey and colour are read")
    factors = [content[7 + 3 * number] for number in range(channels)]
    # The factors of a single channel mean nothing.
    sampling = ",".join(f"{f >> 4}{f & 15}" for f in factors) if channels > 1 else "11"
    return _Frame(width, height, channels, sampling)


def _by_pillow(bare: bytes) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(bare), formats=("JPEG",)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UnusablePictureError(f"damaged JPEG ({error})") from error


def _trials() -> Iterator[bytes]:
    from PIL import Image

    waves = np.sin(np.arange(61 * 83 * 3).reshape(61, 83, 3) ** 1.5 * [0.01, 0.013, 0.017])
    image = Image.fromarray((waves * 127 + 128).astype(np.uint8))
    for progressive in (False, True):
        for mode, sampling in (("L", 0), ("RGB", 0), ("RGB", 1), ("RGB", 2)):
            buffer = io.BytesIO()
            image.convert(mode).save(
                buffer, "JPEG", quality=90, subsampling=sampling, progressive=progressive
            )
            yield buffer.getvalue()
