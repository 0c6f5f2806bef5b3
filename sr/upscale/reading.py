"""Reading a video to be upscaled: its frames in order as upright RGB, and all its other streams as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.sources.video import ENDINGS
from shards.sources.videoframes import BT2020_PRIMARIES, FORMATS, HDR_TRANSFERS, duration_s, pyav, turn_of
from sr.upscale.colours import Colours, colours_of, to_rgb

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

VIDEO_ENDINGS = ENDINGS
_AFTER_END_S = 1.0
"""How far the sound that belongs to a frame may lie behind it in the file."""
_LATE_S = 0.5
"""A video may end so much before the time that its header names."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a video."""

    rgb: np.ndarray
    """(H, W, 3), upright; uint8, or uint16 for video of more than 8 bits."""
    pts: int
    """When it is shown, in ticks of the stream's time base."""
    duration: int
    """In ticks; 0 where the file does not say."""


@dataclass
class Damage:
    """What of a video could not be decoded."""

    packets: int = 0
    first_s: float = 0.0
    reason: str = ""
    cut_off: str = ""
    """Says so where the file ends too early."""

    def count(self, time_s: float, reason: str) -> None:
        """Of one packet."""
        if not self.packets:
            self.first_s, self.reason = time_s, reason
        self.packets += 1

    def in_words(self) -> list[str]:
        """What to tell the user."""
        lines = [self.cut_off] if self.cut_off else []
        if self.packets:
            what = "1 frame was" if self.packets == 1 else f"{self.packets} frames were"
            lines.insert(0, f"{what} damaged and left out (the first at {self.first_s:.2f} s: {self.reason})")
        return lines


@dataclass
class Source:
    """An open video."""

    file: Path
    container: InputContainer
    stream: VideoStream
    damage: Damage = field(default_factory=Damage)
    notes: Counter[str] = field(default_factory=Counter)
    """What was converted, or should have been, in words."""
    colours: Colours | None = None
    """Known from the first frame on."""
    turned: bool = False
    """Whether width and height were exchanged."""
    first_s: float | None = None
    """When the first frame is shown that was asked for; None until it is decoded."""
    reached_s: float = 0.0
    """When the latest decoded frame is shown."""
    end_s: float = float("inf")
    """When the last frame ends that was asked for; known once it is decoded."""

    @property
    def time_base(self) -> Fraction:
        """Seconds of a tick of its timestamps."""
        return self.stream.time_base or Fraction(1, 1000)

    @property
    def count(self) -> int:
        """Frames, by the header; 0 where it names neither that nor a duration."""
        by_time = duration_s(self.container, self.stream) * float(self.stream.average_rate or 0)
        return self.stream.frames or round(by_time)

    def frames(
        self, *, start: int, count: int | None, others: list[Stream], on_packet: Callable[[Packet], None]
    ) -> Iterator[Frame]:
        """Decodes the frames from number `start` on, in the order of time; at most `count`.

        Args:
            start: Frames to pass over.
            count: None: all there are.
            others: Streams whose packets are handed to `on_packet` as they come, until the end of what is decoded.
            on_packet: Takes a packet.
        """
        from av.video.reformatter import VideoReformatter

        reformatter = VideoReformatter()
        last, given = -1, 0
        for index, frame in enumerate(self._decoded(others, on_packet)):
            pts = frame.pts if frame.pts is not None else last + self._usual_duration()
            if index and pts <= last:
                self.notes["timestamps that did not rise were moved"] += 1
                pts = last + 1
            last = pts
            self.reached_s = float(pts * self.time_base)
            if index < start or (count is not None and given == count):
                continue
            self.first_s = self.reached_s if self.first_s is None else self.first_s
            yield self._converted(frame, pts, reformatter)
            given += 1
            if given == count:
                self.end_s = float((pts + (frame.duration or self._usual_duration())) * self.time_base)

    def _usual_duration(self) -> int:
        return max(1, round(1 / (self.stream.average_rate or 25) / self.time_base))

    def _converted(self, frame: VideoFrame, pts: int, reformatter: Any) -> Frame:  # noqa: ANN401 - of PyAV
        if self.colours is None:
            self.colours = colours_of(frame)
            self.notes.update(dict.fromkeys(_notes(frame), 1))
        across, down, transposed = turn_of(frame)
        self.turned = transposed
        rgb = to_rgb(frame, self.colours, reformatter)
        upright = (rgb.transpose(1, 0, 2) if transposed else rgb)[::down, ::across]
        return Frame(np.ascontiguousarray(upright), pts, frame.duration or 0)

    def _decoded(self, others: list[Stream], on_packet: Callable[[Packet], None]) -> Iterator[VideoFrame]:
        """All frames; what cannot be decoded is counted and passed over. After `end_s` only other streams are read."""
        import av

        reached_s, shown_s = 0.0, 0.0
        try:
            for packet in self.container.demux([self.stream, *others]):
                if packet.stream is not self.stream and packet.stream.index != self.stream.index:
                    if packet.dts is not None:
                        on_packet(packet)
                    continue
                if packet.dts is not None:
                    reached_s = float(packet.dts * self.time_base)
                if reached_s > self.end_s + _AFTER_END_S:
                    return
                for frame in self._frames_of(packet, reached_s):
                    shown_s = max(shown_s, (frame.time or 0.0) - self._start_s())
                    yield frame
        except (av.FFmpegError, OSError) as error:
            self.damage.cut_off = f"the file cannot be read beyond {reached_s:.2f} s ({error.strerror})"
            return
        whole_s = duration_s(self.container, self.stream)
        if whole_s - shown_s > _LATE_S + 2 * self._usual_duration() * self.time_base:
            self.damage.cut_off = f"the video ends at {shown_s:.2f} s of {whole_s:.2f} s"

    def _start_s(self) -> float:
        return float((self.stream.start_time or 0) * self.time_base)

    def _frames_of(self, packet: Packet, time_s: float) -> Iterator[VideoFrame]:
        import av

        if packet.is_corrupt:
            self.damage.count(time_s, "cut off")
            return
        try:
            decoded = packet.decode()
        except av.FFmpegError as error:
            self.damage.count(time_s, error.strerror or type(error).__name__)
            return
        for frame in decoded:
            if frame.is_corrupt:
                self.damage.count(time_s, "damaged data")
            else:
                yield frame


@contextmanager
def open_source(file: Path) -> Iterator[Source]:
    """Opens a video file; its main stream is the largest.

    Raises:
        ValueError: It is no video that can be decoded.
    """
    pyav()
    import av

    what_to_do = f"give a sound video ({', '.join(VIDEO_ENDINGS)}), a picture, or a folder of pictures"
    try:
        # A file that Python opens can have any name, and none is taken for an address.
        with file.open("rb") as data:
            options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
            try:
                container = av.open(data, "r", options=options, metadata_errors="replace")
            except (av.FFmpegError, OSError) as error:
                raise ValueError(
                    f"{file}: not a video that can be read ({error.strerror}); {what_to_do}"
                ) from error
            with container:
                yield Source(file, container, _main_stream(container, file, what_to_do))
    except FileNotFoundError as error:
        if error.filename and Path(error.filename) == file:
            raise ValueError(f"{file}: no such file; {what_to_do}") from None
        raise


def _main_stream(container: InputContainer, file: Path, what_to_do: str) -> VideoStream:
    from av.stream import Disposition

    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    # Without a codec there is no width either.
    streams = [one for one in streams if getattr(one, "codec_context", None) and one.width]
    if not streams:
        raise ValueError(f"{file}: holds no video that can be decoded; {what_to_do}")
    stream = max(streams, key=lambda one: (one.width * one.height, -one.index))
    # Otherwise a decoder paints over what is damaged, and says nothing. Some (VP8, VP9, FFV1) cannot tell at all.
    stream.codec_context.options = {"err_detect": "crccheck+explode"}
    return stream


def _notes(frame: VideoFrame) -> list[str]:
    notes: list[str] = []
    if turn_of(frame) != (1, 1, False):
        notes.append("turned as its metadata asks, and written upright")
    elif frame.rotation:
        notes.append(f"not turned by the {frame.rotation} degrees of its metadata")
    if frame.color_trc in HDR_TRANSFERS:
        notes.append(f"HDR ({HDR_TRANSFERS[frame.color_trc]}) values are upscaled as they are")
    elif frame.color_primaries == BT2020_PRIMARIES:
        notes.append("BT.2020 values are upscaled as they are")
    if frame.interlaced_frame:
        notes.append("interlaced: the two fields of a frame are upscaled as one picture")
    if frame.format.name.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap")):
        notes.append("transparency is dropped")
    return notes
