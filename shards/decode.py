"""Bytes of a member into pixels: every byte is checked before it is decoded, and no more is decoded than is needed.

Which decoders are installed changes the time only, never the pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shards.formats import jpeg, npy, png, webp
from shards.inflate import crc32, inflate
from shards.picture import PNG_SIGNATURE, UnusablePictureError, check_size
from shards.records import Member

FORMATS = {"png": png, "jpg": jpeg, "webp": webp, "npy": npy}
"""By kind of member; each has `read_header`, `decode` and `decoder_name`."""
BEGINNINGS = {PNG_SIGNATURE: "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", npy.MAGIC: "npy"}
"""First bytes of a file to its kind."""
PNG_END_BYTES = 12
"""Of the IEND chunk, behind the last band."""
FILTER_NONE, FILTER_UP = 0, 2
"""How a row of a PNG is stored: as it is, or as differences from the row above."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a frame, in pixels; must lie inside of it."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class _Band:
    """One band that is needed: its bytes, and rows [first, stop) of the picture that it begins with and are needed."""

    data: memoryview
    number: int
    first: int
    stop: int


def span_of(member: Member, window: Window | None) -> tuple[int, int]:
    """The bytes [start, stop) of a member that `decode_member` needs: of certified bands only those of the window.

    Raises:
        ValueError: The window does not lie inside of the frame.
    """
    if window is None:
        return 0, member.size
    _require_inside(member, window)
    # Bands that do not fit are a damaged index: `decode_member` says so.
    if not member.bands or not _bands_fit(member):
        return 0, member.size
    first, last = _bands_of(member, window)
    return member.bands[first].start, _band_stop(member, last)


def decode_member(data: bytes | memoryview, member: Member, window: Window | None) -> np.ndarray:
    """Decodes a picture, or a window of it.

    Args:
        data: Exactly the bytes of `span_of`.
        member: Its CRC32 is checked, or that of each band where only some are given.
        window: None: all of the picture.

    Returns:
        uint8, shape (H, W, 3), perhaps a read-only view of `data`. Grey is repeated; a rotation by EXIF, a profile
        or a gamma is not applied.

    Raises:
        UnusablePictureError: The bytes are damaged, or of another size than the member says, or of a kind that is not
            read, or more than `MAX_PIXELS`.
        ValueError: The window does not lie inside of the frame.
    """
    data = memoryview(data)
    if member.kind not in FORMATS:
        raise UnusablePictureError(f"no picture but of kind {member.kind!r}")
    check_size(member.width, member.height)
    start, stop = span_of(member, window)
    if len(data) != stop - start:
        raise UnusablePictureError(f"{len(data)} bytes instead of {stop - start}")
    if window is None or not member.bands:
        _check_crc(data, member.crc32, "")
    if window is None:
        _check_header(data, member)
        window = Window(0, 0, member.height, member.width)
    pixels = _decode_bands(data, start, member, window) if member.bands else _decode(data, member, window)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def picture_header(data: bytes | memoryview) -> tuple[str, int, int, int]:
    """Kind, width, height and channels of a picture file, from its first bytes; nothing is decoded.

    Raises:
        UnusablePictureError: It is of no kind that is read, or damaged there, or has more than `MAX_PIXELS`.
    """
    data = memoryview(data)
    if not len(data):
        raise UnusablePictureError("empty (0 bytes)")
    for beginning, kind in BEGINNINGS.items():
        if bytes(data[: len(beginning)]) == beginning:
            width, height, channels = FORMATS[kind].read_header(data)
            check_size(width, height)
            return kind, width, height, channels
    raise UnusablePictureError("not a PNG, JPEG, WebP or NumPy file by its content")


def available_decoders() -> dict[str, str]:
    """What decodes each kind here, by name."""
    inflater = png.decoder_name().partition(" ")[0]
    return {"banded png": f"{inflater} + numpy"} | {
        kind: module.decoder_name() for kind, module in FORMATS.items()
    }


def _require_inside(member: Member, window: Window) -> None:
    bottom, right = window.top + window.height, window.left + window.width
    inside = 0 <= window.top < bottom <= member.height and 0 <= window.left < right <= member.width
    if not inside:
        raise ValueError(
            f"{member.name}: the window of {window.width}x{window.height} pixels at ({window.left}, {window.top}) "
            f"does not lie inside of the frame of {member.width}x{member.height}; ask for a smaller patch"
        )


def _check_crc(data: memoryview, expected: int, what: str) -> None:
    found = crc32(data)
    if found != expected:
        raise UnusablePictureError(f"damaged: the CRC32 {what}is {found:08x}, not {expected:08x}")


def _check_header(data: memoryview, member: Member) -> None:
    found = picture_header(data)
    if found != (member.kind, member.width, member.height, member.channels):
        kind, width, height, channels = found
        raise UnusablePictureError(
            f"{kind} of {width}x{height} pixels and {channels} channels, where the index says {member.kind} of "
            f"{member.width}x{member.height} and {member.channels}"
        )


def _decode(data: memoryview, member: Member, window: Window) -> np.ndarray:
    """Decodes a file as a whole, as far as its format demands."""
    _check_header(data, member)
    pixels = FORMATS[member.kind].decode(data, window.top + window.height)
    if pixels.shape[0] < window.top + window.height or pixels.shape[1] != member.width:
        raise UnusablePictureError(
            f"decoded to {pixels.shape[1]}x{pixels.shape[0]} pixels, not {member.width}x{member.height}"
        )
    return pixels[window.top : window.top + window.height, window.left : window.left + window.width]


def _bands_fit(member: Member) -> bool:
    """Whether the index is plausible; it may be anybody's."""
    starts = [band.start for band in member.bands]
    stop = _band_stop(member, len(starts) - 1)
    return (
        member.kind in ("png", "npy")
        and member.channels in (1, 3)
        and member.band_height > 0
        and len(starts) == -(-member.height // member.band_height)
        and all(a < b for a, b in zip(starts, [*starts[1:], stop], strict=True))
    )


def _bands_of(member: Member, window: Window) -> tuple[int, int]:
    """Number of the first and last band that the rows of a window touch."""
    return window.top // member.band_height, (window.top + window.height - 1) // member.band_height


def _band_stop(member: Member, number: int) -> int:
    if number + 1 < len(member.bands):
        return member.bands[number + 1].start
    return member.size - PNG_END_BYTES if member.kind == "png" else member.size


def _decode_bands(data: memoryview, start: int, member: Member, window: Window) -> np.ndarray:
    """Decodes only the bands that are needed, and of each only as far as needed; `start` is where `data` begins."""
    if not _bands_fit(member):
        raise UnusablePictureError("the bands in the index do not fit its size")
    if member.kind == "npy":
        return _window_of_array(data, start, member, window)
    row_bytes = member.width * member.channels
    columns = slice(window.left * member.channels, (window.left + window.width) * member.channels)
    out = np.empty((window.height, columns.stop - columns.start), np.uint8)
    for band in _needed(data, start, member, window):
        lines = np.frombuffer(_inflate_band(band, row_bytes), np.uint8).reshape(-1, 1 + row_bytes)
        if lines[0, 0] != FILTER_NONE or (lines[1:, 0] != FILTER_UP).any():
            raise UnusablePictureError(
                "no banded PNG: a row is not stored as the difference from the one above"
            )
        sums = _running_sums(lines[:, 1:][:, columns])
        above = max(0, window.top - band.first)
        at = band.first + above - window.top
        out[at : at + len(sums) - above] = sums[above:]
    return out.reshape(window.height, window.width, member.channels)


def _needed(data: memoryview, start: int, member: Member, window: Window) -> Iterator[_Band]:
    """The bands of a window, each checked."""
    first, last = _bands_of(member, window)
    for number in range(first, last + 1):
        part = data[member.bands[number].start - start : _band_stop(member, number) - start]
        top = number * member.band_height
        stop = min(top + member.band_height, window.top + window.height)
        _check_crc(part, member.bands[number].crc32, f"of the rows from {top} on ")
        yield _Band(part, number, top, stop)


def _inflate_band(band: _Band, row_bytes: int) -> bytes:
    chunk = band.data
    if len(chunk) < 14 or bytes(chunk[4:8]) != b"IDAT" or int.from_bytes(chunk[:4], "big") != len(chunk) - 12:
        raise UnusablePictureError("no banded PNG: a band is not one IDAT chunk")
    # The first one has the two bytes of zlib's header in front.
    bare = chunk[10:-4] if band.number == 0 else chunk[8:-4]
    return inflate([bare], (band.stop - band.first) * (1 + row_bytes), wrapped=False)


def _running_sums(rows: np.ndarray) -> np.ndarray:
    """Each row plus all above it, modulo 256."""
    # A few passes over all rows are faster than one row after another, and take the interpreter's lock less often.
    sums, spare = np.array(rows), np.empty(rows.shape, np.uint8)
    step = 1
    while step < len(sums):
        spare[:step] = sums[:step]
        np.add(sums[step:], sums[:-step], out=spare[step:])
        sums, spare = spare, sums
        step *= 2
    return sums


def _window_of_array(data: memoryview, start: int, member: Member, window: Window) -> np.ndarray:
    row_bytes = member.width * member.channels
    for number, band in enumerate(member.bands):
        rows = min(member.band_height, member.height - number * member.band_height)
        if _band_stop(member, number) - band.start != rows * row_bytes:
            raise UnusablePictureError("the bands in the index do not fit its size")
    bands = list(_needed(data, start, member, window))
    rows = np.frombuffer(data, np.uint8, offset=member.bands[bands[0].number].start - start)
    pixels = rows.reshape(-1, member.width, member.channels)[window.top - bands[0].first :]
    return pixels[: window.height, window.left : window.left + window.width]
