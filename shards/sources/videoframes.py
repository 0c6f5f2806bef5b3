"""The frames of a video file, as upright 8-bit RGB. PyAV (FFmpeg) decodes them.

Colours: libswscale makes 8-bit RGB with the matrix and range that the file names; where it names none, BT.709
for frames of at least 720 rows and BT.601 for smaller ones, and limited range. Chroma is enlarged
bicubically, and rounding is exact and the same on every processor. Transfer functions and primaries are left as
they are: HDR is noted, and not mapped to SDR.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from shards.picture import MAX_PIXELS, MIN_SIDE, UnusablePictureError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""Of FFmpeg. Others, such as playlists, would open further files and addresses."""
HD_ROWS = 720
BT601, BT709 = 5, 1
MATRICES = {1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: 9, 10: 9}
"""FFmpeg's numbers of colour spaces to those of libswscale."""
LIMITED, FULL = 1, 2
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
BT2020_PRIMARIES = 9
BITS = 8
LATE_S = 0.5
"""A video may end so much before the time that its header names."""


class DamagedVideoError(Exception):
    """The video cannot be read any further. Its text says from when on, and why."""


@dataclass(frozen=True)
class VideoPicture:
    """One frame."""

    rgb: np.ndarray
    """uint8, shape (H, W, 3)."""
    time_s: float
    """Since the start of the video."""
    notes: tuple[str, ...]
    """What was converted, in words."""


def pyav() -> ModuleType:
    """The package, imported only where a video is read.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError("source 'video': PyAV is not installed; install it with: pip install av") from error
    return av


@contextmanager
def opened(file: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """The file and its main video stream.

    Raises:
        UnusablePictureError: It holds no video that can be decoded, or one that is too large or too small.
    """
    av = pyav()
    try:
        # A file that Python opens can have any name, and none is taken for an address.
        with file.open("rb") as data:
            if not data.read(1):
                raise UnusablePictureError("empty file (0 bytes)")
            data.seek(0)
            options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
            with av.open(data, options=options, metadata_errors="replace") as container:
                yield container, _main_stream(container)
    except av.FFmpegError as error:
        raise UnusablePictureError(f"not a video that can be read ({error.strerror})") from error
    except OSError as error:
        raise UnusablePictureError(f"cannot be read: {error.strerror or error}") from error


def _main_stream(container: "InputContainer") -> "VideoStream":
    """The largest; a cover picture is none."""
    from av.stream import Disposition

    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not streams:
        raise UnusablePictureError("holds no video")
    stream = max(streams, key=lambda one: (one.width * one.height, -one.index))
    _check_size(stream.width, stream.height)
    # Otherwise a decoder paints over what is damaged, and says nothing. Some (VP8, VP9) cannot tell at all.
    stream.codec_context.options = {"err_detect": "crccheck+explode"}
    return stream


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusablePictureError(f"more than {MAX_PIXELS // 10**6} Mpx ({width}x{height})")
    if min(width, height) < MIN_SIDE:
        raise UnusablePictureError(f"smaller than {MIN_SIDE} px ({width}x{height})")


def pictures(container: "InputContainer", stream: "VideoStream") -> Iterator[VideoPicture]:
    """All frames, upright 8-bit RGB.

    Raises:
        DamagedVideoError: The video is damaged or cut off from some time on.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    start_s = _seconds(stream.start_time or 0, stream)
    end_s = 0.0
    for frame in _decoded(container, stream, start_s):
        _check_size(frame.width, frame.height)
        time_s = max(0.0, frame.time - start_s) if frame.pts is not None else end_s
        yield VideoPicture(_upright(frame, _to_rgb(frame, reformatter)), time_s, _notes(frame))
        end_s = time_s + (1 / float(stream.average_rate) if stream.average_rate else 0.0)
    whole_s = duration_s(container, stream)
    if whole_s - end_s > LATE_S:
        raise DamagedVideoError(f"cut off at {end_s:.2f} s of {whole_s:.2f} s")


def _decoded(container: "InputContainer", stream: "VideoStream", start_s: float) -> "Iterator[VideoFrame]":
    """All frames in the order of time.

    Raises:
        DamagedVideoError: A packet is cut off, or cannot be decoded.
    """
    av = pyav()
    reached_s = 0.0
    try:
        for packet in container.demux(stream):
            if packet.pts is not None:
                reached_s = max(0.0, _seconds(packet.pts, stream) - start_s)
            if packet.is_corrupt:
                raise DamagedVideoError(f"cut off at {reached_s:.2f} s")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise DamagedVideoError(f"damaged at {reached_s:.2f} s")
                yield frame
    except (av.FFmpegError, OSError) as error:
        raise DamagedVideoError(f"damaged at {reached_s:.2f} s ({error.strerror})") from error


def _seconds(ticks: int, stream: "VideoStream") -> float:
    return float(ticks * stream.time_base) if stream.time_base else 0.0


def duration_s(container: "InputContainer", stream: "VideoStream") -> float:
    """Of the video by the header; 0 where it names none."""
    if stream.duration:
        return _seconds(stream.duration, stream)
    match = re.match(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if match:
        return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
    # That of the whole file may be that of its sound.
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _to_rgb(frame: "VideoFrame", reformatter: "VideoReformatter") -> np.ndarray:
    """uint8, shape (H, W, 3), as it is stored."""
    from av.video.reformatter import Interpolation

    guessed = BT709 if frame.height >= HD_ROWS else BT601
    rgb = reformatter.reformat(
        frame,
        format="rgb24",
        src_colorspace=MATRICES.get(frame.colorspace, guessed),
        dst_colorspace=BT601,
        src_color_range=FULL if frame.color_range == FULL else LIMITED,
        dst_color_range=FULL,
        interpolation=Interpolation.BICUBIC
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.ACCURATE_RND
        | Interpolation.BITEXACT,
        threads=1,
    )
    return rgb.to_ndarray()


def _upright(frame: "VideoFrame", rgb: np.ndarray) -> np.ndarray:
    """Turned and mirrored as the file asks for, where that is by quarters."""
    across, down, transposed = turn_of(frame)
    if transposed:
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(rgb[::down, ::across])


def turn_of(frame: "VideoFrame") -> tuple[int, int, bool]:
    """Steps along columns and rows, -1 for mirrored, after exchanging the two where the last is true."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 1, False
    # A place (x, y) of the stored frame is shown at (a x + c y, b x + d y).
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    if a == d == 0 and b and c:
        return (1 if c > 0 else -1), (1 if b > 0 else -1), True
    if b == c == 0:
        return (-1 if a < 0 else 1), (-1 if d < 0 else 1), False
    return 1, 1, False


def _notes(frame: "VideoFrame") -> tuple[str, ...]:
    """What was converted, or should have been, in words."""
    notes: list[str] = []
    bits = max(component.bits for component in frame.format.components)
    if bits > BITS:
        notes.append(f"{bits}-bit to 8-bit")
    if turn_of(frame) != (1, 1, False):
        notes.append("turned as its metadata asks")
    elif frame.rotation:
        notes.append(f"not turned by the {frame.rotation} degrees of its metadata")
    if frame.color_trc in HDR_TRANSFERS:
        notes.append(f"HDR ({HDR_TRANSFERS[frame.color_trc]}) values, not mapped to SDR")
    elif frame.color_primaries == BT2020_PRIMARIES:
        notes.append("BT.2020 primaries, not mapped to BT.709")
    if frame.interlaced_frame:
        notes.append("interlaced: each frame holds two fields")
    return tuple(notes)
