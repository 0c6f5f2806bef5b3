"""What a camera and its files do to a picture: noise, JPEG, H.264. None of them changes the size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sr.degrade.draws import Draws, check_bounds


class Noise:
    """Gaussian noise, white, of a random strength.

    Strengths are standard deviations in grey levels of 0..255, drawn evenly between the two of `sigma`. The noise itself
    is another one in every frame; `per_frame` draws the strength anew for each as well. `grey` adds the same noise to
    all three channels.
    """

    reduces = False

    def __init__(
        self, *, sigma: Sequence[float] = (0.0, 25.0), grey: bool = False, per_frame: bool = False
    ) -> None:
        check_bounds("sigma", sigma, least=0, most=255)
        self.sigma = sigma
        self.grey = grey
        self.per_frame = per_frame

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Adds noise; not clipped."""
        _, frames, channels, height, width = clips.shape
        strength = draws.uniform("noise.sigma", self.sigma, frames=frames, per_frame=self.per_frame)
        factor = torch.from_numpy((strength / 255).astype(np.float32)).to(clips.device)
        field = draws.normal(
            "noise.field", (frames, 1 if self.grey else channels, height, width), device=clips.device
        )
        return clips + factor[..., None, None, None] * field


class Jpeg:
    """A real JPEG file, written and read again by Pillow, of a random quality.

    Qualities are whole numbers from 1 to 100 drawn evenly between the two of `quality`. The picture is rounded to 8 bits
    first, as any file is. 4:2:0 halves the resolution of colour, as cameras do.
    """

    reduces = False

    def __init__(
        self,
        *,
        quality: Sequence[int] = (30, 95),
        subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0",
        per_frame: bool = False,
    ) -> None:
        check_bounds("quality", quality, least=1, most=100)
        self.quality = quality
        self.subsampling = subsampling
        self.per_frame = per_frame

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Compresses each frame by itself."""
        qualities = draws.integers(
            "jpeg.quality", self.quality, frames=clips.shape[1], per_frame=self.per_frame
        )
        pixels = _to_bytes(clips)
        for clip, frame in np.ndindex(*pixels.shape[:2]):
            pixels[clip, frame] = self._through_file(pixels[clip, frame], int(qualities[clip, frame]))
        return _to_unit(pixels, clips.device)

    def _through_file(self, pixels: np.ndarray, quality: int) -> np.ndarray:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=self.subsampling)
        with Image.open(file) as image:
            return np.asarray(image)


class H264:
    """A real H.264 stream, written and read again by FFmpeg, of a random quality.

    The frames of a clip are one video, so that its artefacts hang together in time. `crf` is x264's constant rate factor:
    0 is nearly lossless, 23 its default, 51 the worst; a whole number is drawn evenly between the two. The picture is
    rounded to 8 bits first; colour is 4:2:0.
    """

    reduces = False

    def __init__(self, *, crf: Sequence[int] = (18, 35), preset: str = "medium") -> None:
        check_bounds("crf", crf, least=0, most=51)
        if preset not in _PRESETS:
            raise ValueError(f"preset: got {preset!r}; use one of x264's: {', '.join(_PRESETS)}")
        self.crf = crf
        self.preset = preset

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Compresses each clip as a video."""
        factors = draws.integers("h264.crf", self.crf, frames=1, per_frame=False)[:, 0]
        pixels = _to_bytes(clips)
        for clip, crf in enumerate(factors):
            pixels[clip] = self._through_stream(pixels[clip], int(crf))
        return _to_unit(pixels, clips.device)

    def _through_stream(self, frames: np.ndarray, crf: int) -> np.ndarray:
        import av

        height, width = frames.shape[1:3]
        # 4:2:0 needs even sides.
        even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        encoder = av.CodecContext.create("libx264", "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.height, encoder.width = even.shape[1:3]
        encoder.pix_fmt = "yuv420p"
        encoder.time_base = Fraction(1, 25)
        encoder.framerate = Fraction(25)
        # One thread: with several, x264 decides otherwise, and the result would depend on the machine.
        encoder.options = {"crf": str(crf), "preset": self.preset, "threads": "1"}
        packets = []
        for number, pixels in enumerate(even):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            packets += encoder.encode(frame)
        packets += encoder.encode(None)
        decoder = av.CodecContext.create("h264", "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        assert len(decoded) == len(frames), (len(decoded), len(frames))
        return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])[:, :height, :width]


_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)


def _to_bytes(clips: Tensor) -> np.ndarray:
    """uint8, shape (B, T, H, W, 3), writable."""
    rounded = clips.clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(rounded.movedim(-3, -1).cpu().numpy())


def _to_unit(pixels: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(pixels).to(device).movedim(-1, -3).float().div(255)
