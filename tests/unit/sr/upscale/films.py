"""Small real videos, made for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import skimage
from av.video.reformatter import VideoReformatter

TICKS = 12800
"""Of a second."""


@dataclass(frozen=True)
class Film:
    """What a video that was read holds."""

    pixels: list[np.ndarray]
    """RGB as FFmpeg's own conversion shows it."""
    times: list[float]
    packets: dict[int, list[tuple[float, bytes]]]
    """Of each stream of sound or subtitles: times and bytes."""
    languages: list[str | None]


def moving(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """A window that moves over a photograph."""
    photo = skimage.data.astronaut()
    return [
        np.ascontiguousarray(photo[100 + i : 100 + i + height, 150 + i : 150 + i + width])
        for i in range(count)
    ]


def write(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    audio: Sequence[str] = (),
    subtitles: str = "",
    durations: Sequence[int] = (512,),
    matrix: int = 2,
    is_full: bool = False,
    rotation: int = 0,
    keyframes: int = 12,
) -> Path:
    """Writes RGB frames; `durations` in ticks, again and again; `audio` are languages of AAC tracks; see also Film."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        assert isinstance(video, av.VideoStream)
        context = video.codec_context
        context.height, context.width = frames[0].shape[:2]
        context.pix_fmt, context.time_base = pixel_format, Fraction(1, TICKS)
        context.colorspace, context.color_range = matrix, 2 if is_full else 1
        if codec == "libx264":
            context.options = {"crf": "4", "g": str(keyframes)}
        if codec == "ffv1":
            context.options = {"level": "3", "slicecrc": "1"}
        if rotation:
            video.set_display_rotation(rotation)
        sounds = [container.add_stream("aac", rate=44100) for _ in audio]
        for sound, language in zip(sounds, audio, strict=True):
            sound.metadata["language"] = language
        texts = container.add_mux_stream(subtitles) if subtitles else None
        container.metadata["title"] = "A film"
        pts, reformatter = 0, VideoReformatter()
        lasts: dict[int, int] = {}
        for i, rgb in enumerate(frames):
            given = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame = reformatter.reformat(
                given, format=pixel_format, src_colorspace=5, dst_colorspace={2: 5}.get(matrix, matrix),
                src_color_range=2, dst_color_range=2 if is_full else 1,
                interpolation="BICUBIC",
            )  # fmt: skip
            frame.pts, frame.time_base = pts, Fraction(1, TICKS)
            lasts[pts] = durations[i % len(durations)]
            pts += lasts[pts]
            _mux(container, video.encode(frame), lasts)
        for pitch, sound in enumerate(sounds, start=1):
            _sing(container, sound, 440.0 * pitch, pts / TICKS)
        _mux(container, video.encode(None), lasts)
        if texts is not None:
            for second in range(max(1, pts // TICKS)):
                packet = av.Packet(f"line {second}".encode())
                packet.stream, packet.time_base = texts, Fraction(1, 1000)
                packet.pts = packet.dts = 1000 * second
                packet.duration = 500
                container.mux(packet)
    return path


def _mux(container: av.container.OutputContainer, packets: list[av.Packet], lasts: dict[int, int]) -> None:
    for packet in packets:
        assert packet.pts is not None
        packet.duration = lasts[packet.pts]
        container.mux(packet)


def _sing(
    container: av.container.OutputContainer, sound: av.AudioStream, hertz: float, seconds: float
) -> None:
    for start in range(0, int(44100 * seconds), 1024):
        wave = 0.3 * np.sin(2 * np.pi * hertz * (start + np.arange(1024)) / 44100)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def read(path: Path) -> Film:
    """Reads a video with PyAV alone."""
    packets: dict[int, list[tuple[float, bytes]]] = {}
    with av.open(str(path)) as container:
        languages = [stream.language for stream in container.streams if stream.type == "audio"]
        for packet in container.demux():
            if packet.stream.type in ("audio", "subtitle") and packet.pts is not None:
                at = float(packet.pts * packet.time_base)
                packets.setdefault(packet.stream.index, []).append((at, bytes(packet)))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return Film(
        [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time or 0.0 for frame in frames],
        packets, languages,
    )  # fmt: skip
