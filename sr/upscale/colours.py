"""What the numbers of a video's pixels mean: its matrix, range, depth and chroma; into RGB and back.

Both ways go through libswscale with every choice named: its defaults guess, and differ between the two ways. Where
it is not exact, for full range and for more than 8 bits, the matrix is applied here. The
matrix and range are those that the file names. Where it names none, limited range is assumed and BT.709 for frames
of at least 720 rows, else BT.601; the result always names its own. Transfer function and primaries are carried over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shards.sources.videoframes import BT601, FULL, HD_ROWS, LIMITED, MATRICES

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

_UNSPECIFIED = 2
_TAG_OF_BT601, _TAG_OF_BT709 = 6, 1
_RGB = 0
_BITS = 8
_DEEP_WHITE = 1023
_WEIGHTS = {
    1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
    9: (0.2627, 0.0593), 10: (0.2627, 0.0593),
}  # fmt: skip
"""Of red and blue in luma, by AVColorSpace (ITU-T H.273, table 4)."""


@dataclass(frozen=True)
class Colours:
    """Of a video, by its first frame."""

    is_rgb: bool
    is_full: bool
    """Range: 0 to 255, and not 16 to 235."""
    matrix: int
    """FFmpeg's AVColorSpace of the source, or 2 where it names none."""
    primaries: int
    transfer: int
    bits: int
    """8 or 10 (for all that is deeper than 8)."""
    chroma: str
    """420, 422 or 444."""

    def matrix_for(self, rows: int) -> int:
        """AVColorSpace for frames of so many rows: the source's own, or the usual one."""
        if self.matrix in MATRICES:
            return self.matrix
        return _TAG_OF_BT709 if rows >= HD_ROWS else _TAG_OF_BT601


def colours_of(frame: VideoFrame) -> Colours:
    """Reads them from a decoded frame."""
    components = frame.format.components
    is_rgb = frame.format.is_rgb or frame.colorspace == _RGB
    across = frame.format.chroma_width(64) if len(components) >= 3 else 32
    down = frame.format.chroma_height(64) if len(components) >= 3 else 32
    chroma = {(64, 64): "444", (32, 64): "422"}.get((across, down), "420")
    return Colours(
        is_rgb=is_rgb,
        is_full=frame.color_range == FULL or frame.format.name.startswith("yuvj"),
        matrix=frame.colorspace,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        bits=8 if max(component.bits for component in components) <= _BITS else 10,
        chroma="444" if is_rgb else chroma,
    )


def to_rgb(frame: VideoFrame, colours: Colours, reformatter: VideoReformatter) -> np.ndarray:
    """A decoded frame as (H, W, 3); uint8, or uint16 over its whole range for deeper video."""
    matrix = colours.matrix_for(frame.height)
    if colours.bits != _BITS:
        return _deep_to_rgb(frame, colours, matrix, reformatter)
    rgb = reformatter.reformat(
        frame,
        format="rgb24",
        src_colorspace=MATRICES[matrix],
        dst_colorspace=BT601,
        src_color_range=FULL if colours.is_full or colours.is_rgb else LIMITED,
        dst_color_range=FULL,
        interpolation=_exact(),
        threads=1,
    )
    return rgb.to_ndarray()


def to_yuv(rgb: np.ndarray, colours: Colours, pixel_format: str, reformatter: VideoReformatter) -> VideoFrame:
    """(H, W, 3) uint8 or uint16 as a frame for the encoder, with the meaning of its numbers attached."""
    import av

    matrix = colours.matrix_for(rgb.shape[0])
    is_rgb = pixel_format.startswith(("gbr", "bgr"))
    is_full = colours.is_full or is_rgb
    if is_rgb and rgb.dtype != np.uint8:
        made = av.VideoFrame.from_ndarray(_scaled(rgb, _DEEP_WHITE), format=pixel_format)
    elif is_rgb or (rgb.dtype == np.uint8 and not is_full):
        made = reformatter.reformat(
            av.VideoFrame.from_ndarray(rgb, format="rgb24"),
            format=pixel_format,
            src_colorspace=BT601,
            dst_colorspace=BT601 if is_rgb else MATRICES[matrix],
            src_color_range=FULL,
            dst_color_range=FULL if is_full else LIMITED,
            interpolation=_exact(),
            threads=1,
        )
    else:
        # libswscale makes chroma of full range half a level too small, and scales 16 bits by 256 for 257.
        made = _with_chroma(_to_planes(rgb, matrix, is_full=is_full), pixel_format, matrix, reformatter)
    made.colorspace = _RGB if is_rgb else matrix
    made.color_range = FULL if is_full else LIMITED
    made.color_primaries, made.color_trc = colours.primaries, colours.transfer
    return made


def _deep_to_rgb(
    frame: VideoFrame, colours: Colours, matrix: int, reformatter: VideoReformatter
) -> np.ndarray:
    if colours.is_rgb:
        values = reformatter.reformat(frame, format="gbrp10le", interpolation=_exact(), threads=1)
        return _scaled(values.to_ndarray(), 65535, white=_DEEP_WHITE)
    planes = _repacked(frame, "yuv444p16le", matrix, reformatter).to_ndarray()
    # PyAV gives no array of 10 bits; those of 16 are the same, moved up by 6.
    black, luma, chroma = _codes(16, is_full=colours.is_full)
    y, cb, cr = np.moveaxis(planes.astype(np.float32), -1, 0)
    y, cb, cr = (y - black) / luma, (cb - 32768.0) / chroma, (cr - 32768.0) / chroma
    kr, kb = _WEIGHTS[matrix]
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    rgb = np.stack([red, green, blue], axis=-1)
    return np.rint(rgb.clip(0, 1) * 65535).astype(np.uint16)


def _to_planes(rgb: np.ndarray, matrix: int, *, is_full: bool) -> np.ndarray:
    """Y, Cb and Cr of every pixel, shape (3, H, W): 8 bits of uint8, 10 of uint16."""
    bits = _BITS if rgb.dtype == np.uint8 else 10
    black, luma, chroma = _codes(bits, is_full=is_full)
    red, green, blue = np.moveaxis(rgb.astype(np.float32) / np.iinfo(rgb.dtype).max, -1, 0)
    kr, kb = _WEIGHTS[matrix]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    middle = 2.0 ** (bits - 1)
    cb, cr = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    planes = np.stack([black + luma * y, middle + chroma * cb, middle + chroma * cr])
    return np.rint(planes).clip(0, 2**bits - 1).astype(rgb.dtype)


def _with_chroma(
    planes: np.ndarray, pixel_format: str, matrix: int, reformatter: VideoReformatter
) -> VideoFrame:
    """Only brings chroma down to what the format holds."""
    import av

    if planes.dtype == np.uint8:
        frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
    else:
        moved_up = np.ascontiguousarray(np.moveaxis(planes, 0, -1) << np.uint16(6))
        frame = av.VideoFrame.from_ndarray(moved_up, format="yuv444p16le")
    return _repacked(frame, pixel_format, matrix, reformatter)


def _repacked(frame: VideoFrame, pixel_format: str, matrix: int, reformatter: VideoReformatter) -> VideoFrame:
    """Another layout of the same numbers."""
    return reformatter.reformat(
        frame,
        format=pixel_format,
        src_colorspace=MATRICES[matrix],
        dst_colorspace=MATRICES[matrix],
        # Also of full range: as such 10 bits would be stretched to 16, and not moved up by 6.
        src_color_range=LIMITED,
        dst_color_range=LIMITED,
        interpolation=_exact(),
        threads=1,
    )


def _codes(bits: int, *, is_full: bool) -> tuple[float, float, float]:
    """Luma of black, and the reach of luma and of chroma, in levels (ITU-R BT.709, section 4; BT.2100, table 9)."""
    step = 2.0 ** (bits - 8)
    if is_full:
        # Deeper values than 10 bits are 10 moved up: white is 1023 of them.
        reach = (2.0 ** min(bits, 10) - 1) * 2.0 ** max(0, bits - 10)
        return 0.0, reach, reach
    return 16 * step, 219 * step, 224 * step


def _scaled(values: np.ndarray, to: int, *, white: int = 65535) -> np.ndarray:
    return np.rint(values.astype(np.float32) * (to / white)).astype(np.uint16)


def _exact() -> int:
    from av.video.reformatter import Interpolation

    return (
        Interpolation.BICUBIC
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.ACCURATE_RND
        | Interpolation.BITEXACT
    )
