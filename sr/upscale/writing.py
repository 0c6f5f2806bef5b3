"""Writing an upscaled video: frames are encoded with the source's timestamps, its other streams copied."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sr.upscale.colours import Colours, to_yuv
from sr.upscale.reading import Source

if TYPE_CHECKING:
    from av import Packet
    from av.container import OutputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
"""File endings that can be written."""


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoder of FFmpeg and how it is used."""

    encoder: str
    crf: int | None
    """Constant quality: less is better and larger. None: lossless."""
    options: Mapping[str, str]
    subsampled: bool = True
    """Keeps the chroma of the source; else 4:4:4."""


CODECS: dict[str, Codec] = {
    "h264": Codec("libx264", 18, {"preset": "medium"}),
    "hevc": Codec("libx265", 20, {"preset": "medium", "x265-params": "log-level=error"}),
    "vp9": Codec("libvpx-vp9", 24, {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}),
    "ffv1": Codec("ffv1", None, {"level": "3", "slicecrc": "1"}, subsampled=False),
}
"""By the name of the format. ffv1 is lossless, from 8 or 10 bits on."""


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """What is made of a video."""

    codec: str | None = None
    """Of CODECS; None: vp9 for .webm, else h264."""
    crf: int | None = None
    """None: the codec's own."""
    start: int = 0
    """Frames to pass over."""
    frames: int | None = None
    """How many to upscale; None: all that follow."""

    def checked_for(self, out: Path) -> Codec:
        """The codec, once all is known to fit together.

        Raises:
            ValueError: Something does not.
        """
        if out.suffix.lower() not in CONTAINERS:
            raise ValueError(f"{out}: not a video by its ending; name one of {', '.join(CONTAINERS)}")
        name = self.codec or ("vp9" if out.suffix.lower() == ".webm" else "h264")
        if name not in CODECS:
            raise ValueError(f"--codec {name}: unknown; give one of {', '.join(CODECS)}")
        codec = CODECS[name]
        if self.crf is not None and (codec.crf is None or not 0 <= self.crf <= 51):
            why = f"{name} is lossless" if codec.crf is None else "out of range"
            raise ValueError(f"--crf {self.crf}: {why}; leave it out, or give 0 to 51 with h264, hevc or vp9")
        if self.start < 0 or (self.frames is not None and self.frames < 1):
            raise ValueError(
                f"--start {self.start} --frames {self.frames}: give a start of 0 or more and at least 1 frame"
            )
        return codec


class Sink:
    """An open output video. Packets of other streams may come before the first frame, and are held until then."""

    def __init__(self, path: Path, out: Path, source: Source, options: VideoOptions) -> None:
        """Opens the file and finds which streams can be copied.

        Raises:
            ValueError: The container cannot hold the codec or the sound.
        """
        import av
        from av.video.reformatter import VideoReformatter

        self._out = out
        self._source = source
        self._options = options
        self._codec = options.checked_for(out)
        self._reformatter = VideoReformatter()
        # Muxers write .m4v, an old name of .mp4, as a bare stream.
        form = {".m4v": "mp4", ".mkv": "matroska"}.get(path.suffix.lower(), path.suffix.lower()[1:])
        self._container: OutputContainer = av.open(str(path), "w", format=form)
        self._video: VideoStream | None = None
        self._durations: dict[int, int] = {}
        self._held: deque[Packet] = deque()
        self._shift = 0
        self.notes: list[str] = []
        try:
            self.copied = self._fitting()
        except BaseException:
            self._container.close()
            raise
        self._streams: dict[int, Stream] = {}

    @property
    def _is_cut(self) -> bool:
        return self._options.start > 0 or self._options.frames is not None

    def _fitting(self) -> list[Stream]:
        """The streams of the source that are copied."""
        known = self._container.supported_codecs
        form = self._out.suffix.lower()
        if self._format_name() not in known:
            raise ValueError(
                f"{self._out}: {form} cannot hold {self._format_name()}; name a .mkv, or another --codec"
            )
        fitting: list[Stream] = []
        for stream in self._source.container.streams:
            if stream.index == self._source.stream.index:
                continue
            # Streams of data have no codec.
            context = getattr(stream, "codec_context", None)
            name = context.name if context is not None else "?"
            name = {"mp3float": "mp3", "libdav1d": "av1"}.get(name, name)
            if stream.type in ("audio", "subtitle") and name in known:
                fitting.append(stream)
            elif stream.type == "audio":
                raise ValueError(
                    f"{self._out}: {form} cannot hold the sound ({name}) of the source; name a .mkv"
                )
            else:
                hint = " (a .mkv could hold them)" if stream.type == "subtitle" and form != ".mkv" else ""
                what = {"subtitle": f"subtitles ({name})", "video": "another picture stream"}
                self.notes.append(
                    f"stream {stream.index}, {what.get(stream.type, stream.type)}, is not copied{hint}"
                )
        return fitting

    def _format_name(self) -> str:
        return {"libx264": "h264", "libx265": "hevc", "libvpx-vp9": "vp9"}.get(
            self._codec.encoder, self._codec.encoder
        )

    def _open_video(self, height: int, width: int, colours: Colours) -> VideoStream:
        from av.video.stream import VideoStream

        source = self._source.stream
        crf = self._options.crf if self._options.crf is not None else self._codec.crf
        options = dict(self._codec.options) | ({"crf": str(crf)} if crf is not None else {})
        rate = source.average_rate or source.guessed_rate or Fraction(25)
        stream = self._container.add_stream(self._codec.encoder, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = width, height
        context.pix_fmt = self._pixel_format(height, width, colours)
        context.time_base = self._source.time_base
        stream.time_base = self._source.time_base
        context.colorspace = (
            colours.matrix_for(height) if not context.pix_fmt.startswith(("gbr", "bgr")) else 0
        )
        context.color_range = 2 if colours.is_full or context.pix_fmt.startswith(("gbr", "bgr")) else 1
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        aspect = source.sample_aspect_ratio
        if aspect:
            context.sample_aspect_ratio = 1 / aspect if self._source.turned else aspect
        if self._codec.encoder == "libx265" and self._out.suffix.lower() in (".mp4", ".m4v", ".mov"):
            context.codec_tag = "hvc1"  # What Apple's players insist on.
        stream.metadata.update(_described(source.metadata))
        return stream

    def _pixel_format(self, height: int, width: int, colours: Colours) -> str:
        if not self._codec.subsampled and colours.is_rgb:
            return "bgr0" if colours.bits == 8 else "gbrp10le"
        chroma = colours.chroma if self._codec.subsampled and not colours.is_rgb else "444"
        if colours.is_rgb and self._codec.subsampled:
            chroma = "420"
        if (width % 2 and chroma != "444") or (height % 2 and chroma == "420"):
            chroma = "444"
            self.notes.append(
                f"{width} x {height} px is odd: written with chroma 4:4:4, which some players refuse"
            )
        return f"yuv{chroma}p" if colours.bits == 8 else f"yuv{chroma}p10le"

    def _begin(self, rgb: np.ndarray, colours: Colours) -> VideoStream:
        """Writes the header: only with the first frame all is known that stands in it."""
        video = self._open_video(rgb.shape[0], rgb.shape[1], colours)
        for stream in self.copied:
            twin = self._container.add_stream_from_template(stream)
            twin.metadata.update(_described(stream.metadata))
            twin.disposition = stream.disposition
            self._streams[stream.index] = twin
        if not self._is_cut:
            self._container.set_chapters(self._source.container.chapters())
        self._container.metadata.update(self._source.container.metadata)
        self._container.start_encoding()
        return video

    def write(self, rgb: np.ndarray, colours: Colours, *, pts: int, duration: int) -> None:
        """Encodes a frame; (H, W, 3) uint8 or uint16.

        Raises:
            ValueError: The encoder or the disk refuses it.
        """
        with self._writing():
            if self._video is None:
                self._video = self._begin(rgb, colours)
                self._shift = pts if self._is_cut else 0
            pixel_format = self._video.codec_context.pix_fmt
            assert pixel_format is not None
            frame = to_yuv(rgb, colours, pixel_format, self._reformatter)
            frame.pts, frame.time_base = pts - self._shift, self._source.time_base
            if duration:
                self._durations[frame.pts] = duration
            self._mux_video(self._video.encode(frame))
            self._release()

    def copy(self, packet: Packet) -> None:
        """Takes a packet of another stream; it is held until its place in the file is known."""
        self._held.append(packet)
        if self._is_cut and self._source.first_s is None:
            while self._held and _time_s(self._held[0]) < self._source.reached_s:
                self._held.popleft()
        if self._video is not None:
            with self._writing():
                self._release()

    def finish(self) -> None:
        """Writes what is still held, and closes the file.

        Raises:
            ValueError: The disk refuses it.
        """
        assert self._video is not None
        with self._writing():
            self._mux_video(self._video.encode(None))
            self._release(all_of_them=True)
            self._container.close()

    def abandon(self) -> None:
        """Closes the file without care for what is in it."""
        import av

        try:
            self._container.close()
        except (av.FFmpegError, OSError, ValueError):
            return

    @contextmanager
    def _writing(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise ValueError(
                f"{self._out}: cannot be written ({error.strerror}); look whether the disk is full, and whether the "
                "picture is too large for the codec; another --codec or a .mkv may do"
            ) from error

    def _mux_video(self, packets: list[Packet]) -> None:
        for packet in packets:
            # Without it the last frame of a video of variable rate would be shown for a guessed time.
            if packet.pts is not None and (duration := self._durations.pop(packet.pts, 0)):
                packet.duration = duration
            self._container.mux(packet)

    def _release(self, *, all_of_them: bool = False) -> None:
        """Muxes the held packets; of a part those that are shown before it ends, as far as that is known."""
        until_s = self._source.end_s
        if self._is_cut and not all_of_them:
            until_s = min(until_s, self._source.reached_s)
        held, self._held = self._held, deque()
        begun_s = self._source.first_s or 0.0
        for packet in held:
            if _time_s(packet) >= until_s:
                self._held.append(packet)
            elif not self._is_cut or _time_s(packet) >= begun_s:
                self._mux_copy(packet, begun_s if self._is_cut else 0.0)

    def _mux_copy(self, packet: Packet, shift_s: float) -> None:
        shift = round(shift_s / float(packet.time_base))
        packet.pts = packet.pts - shift if packet.pts is not None else None
        packet.dts = packet.dts - shift if packet.dts is not None else None
        packet.stream = self._streams[packet.stream.index]
        self._container.mux(packet)


def _time_s(packet: Packet) -> float:
    ticks = packet.pts if packet.pts is not None else packet.dts
    return float((ticks or 0) * packet.time_base)


def _described(metadata: Mapping[str, str]) -> dict[str, str]:
    """What is still true of a stream that is copied or upscaled."""
    return {key: metadata[key] for key in ("language", "title", "handler_name") if key in metadata}
