"""Upscaling a video: decode, upscale, encode, frame by frame, with the sound and the timestamps of the source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr.upscale.model import Upscaler
from sr.upscale.output import refuse_to_replace, whole_or_nothing
from sr.upscale.reading import Frame, Source, open_source
from sr.upscale.writing import Sink, VideoOptions


@dataclass(frozen=True)
class Written:
    """What became of a video."""

    frames: int
    width: int
    height: int
    copied: int
    """Streams of sound and subtitles."""
    damage: list[str]
    """What of the source could not be used; empty if all is well."""
    notes: list[str]
    """What was converted, or not copied."""


def upscale_video(
    source: Path,
    out: Path,
    upscaler: Upscaler,
    *,
    options: VideoOptions = VideoOptions(),  # noqa: B008 - frozen
    force: bool = False,
    on_progress: Callable[[int, int], None],
) -> Written:
    """Upscales a video in bounded memory, whatever its length.

    Frame rate, timestamps, sound, subtitles, chapters and tags are those of the source. `out` appears when it is
    complete. Frames that cannot be decoded are left out and counted; the others keep their times.

    Args:
        source: A video file.
        out: Its container is known by its ending, one of CONTAINERS.
        upscaler: What upscales.
        options: Codec, quality, and a part to cut out.
        force: Replace `out` if it is there.
        on_progress: Called with the frames written and their number, 0 if unknown.

    Raises:
        ValueError: `source` holds no video, or `out` cannot be written.
    """
    options.checked_for(out)
    refuse_to_replace(out, force=force)
    with open_source(source) as opened:
        with whole_or_nothing(out, force=force) as temporary:
            sink = Sink(temporary, out, opened, options)
            try:
                frames, height, width = _run(opened, sink, upscaler, options, on_progress)
            except BaseException:
                sink.abandon()
                raise
        notes = [*opened.notes, *sink.notes]
        return Written(frames, width, height, len(sink.copied), opened.damage.in_words(), notes)


def _run(
    source: Source,
    sink: Sink,
    upscaler: Upscaler,
    options: VideoOptions,
    on_progress: Callable[[int, int], None],
) -> tuple[int, int, int]:
    """Returns the number of frames written, their height and their width."""
    total = max(0, source.count - options.start)
    if options.frames is not None:
        total = min(total or options.frames, options.frames)
    times: deque[tuple[int, int]] = deque()

    def pixels() -> Iterator[np.ndarray]:
        size: tuple[int, ...] | None = None
        frames = source.frames(
            start=options.start, count=options.frames, others=sink.copied, on_packet=sink.copy
        )
        for number, frame in enumerate(frames):
            if size not in (None, frame.rgb.shape):
                raise ValueError(_resized(source, options.start + number, frame))
            size = frame.rgb.shape
            times.append((frame.pts, frame.duration))
            yield frame.rgb

    written, shape = 0, (0, 0)
    for rgb in upscaler.frames(pixels()):
        assert source.colours is not None
        pts, duration = times.popleft()
        sink.write(rgb, source.colours, pts=pts, duration=duration)
        written, shape = written + 1, rgb.shape[:2]
        on_progress(written, total)
    if not written:
        raise ValueError(_nothing(source, options))
    sink.finish()
    return written, shape[0], shape[1]


def _resized(source: Source, number: int, frame: Frame) -> str:
    return (
        f"{source.file}: frame {number} is {frame.rgb.shape[1]} x {frame.rgb.shape[0]} px, unlike those before it; "
        "upscale the parts one by one, with --start and --frames"
    )


def _nothing(source: Source, options: VideoOptions) -> str:
    if options.start:
        return f"{source.file}: has no frame {options.start}; give a smaller --start"
    why = "; ".join(source.damage.in_words()) or "it holds no frames"
    return f"{source.file}: not one frame could be decoded ({why}); give a sound video"
