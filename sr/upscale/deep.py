"""Pictures of 16 bits per channel. Pillow has no 16-bit colour; FFmpeg, through PyAV, has."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

ENCODERS = {".png": "png", ".tif": "tiff", ".tiff": "tiff"}
"""File endings that can hold 16 bits."""
_FORMATS = {1: "gray16", 3: "rgb48", 4: "rgba64"}


def read_deep(path: Path) -> np.ndarray:
    """Pixels of a PNG or TIFF as they are stored; uint16, shape (H, W, 1), (H, W, 3) or (H, W, 4).

    Raises:
        ValueError: FFmpeg cannot read it; without the path.
    """
    import av

    try:
        with path.open("rb") as data, av.open(data, "r", options={"protocol_whitelist": "file"}) as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration) as error:
        raise ValueError(f"16-bit picture that cannot be read ({error})") from error
    channels = {1: 1, 2: 4, 3: 3, 4: 4}[len(frame.format.components)]
    pixels = frame.reformat(format=f"{_FORMATS[channels]}le").to_ndarray()
    return pixels.reshape(frame.height, frame.width, channels)


def write_deep(path: Path, pixels: np.ndarray) -> None:
    """Writes uint16 of shape (H, W, 1), (H, W, 3) or (H, W, 4) as PNG or TIFF, by the ending of `path`."""
    import av

    layout = _FORMATS[pixels.shape[2]]
    encoder = ENCODERS[path.suffix.lower()]
    order = "be" if encoder == "png" else "le"
    values = np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    frame = av.VideoFrame.from_ndarray(values, format=f"{layout}le").reformat(format=layout + order)
    context = av.CodecContext.create(encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = frame.width, frame.height, layout + order
    context.time_base = Fraction(1)
    if encoder == "tiff":
        context.options = {"compression_algo": "deflate"}
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))
