"""Video files, cut into clips of consecutive frames that no cut divides."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.picture import UnusablePictureError
from shards.records import Rejected
from shards.sources.base import Listing, RawClip, RawFrame, SourceOptions
from shards.sources.cuts import Thumbnail, is_cut, thumbnail
from shards.sources.files import clip_length, folder_name, stamp_of
from shards.sources.videoframes import DamagedVideoError, VideoPicture, duration_s, opened, pictures, pyav
from shards.sources.walk import find_files
from shards.sources.window import ClipWindow, clip_name, num_clips

ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
DEFAULT_FRAMES = 7


@dataclass(frozen=True)
class VideoItem:
    """A video file."""

    name: str
    root: Path
    """Of the source: the name is relative to it."""
    frames: int
    """Of a clip."""
    stride: int
    """From the start of a clip to the start of the next."""

    @property
    def source(self) -> str:
        """Each video is an original of its own."""
        return self.name

    def stamp(self) -> str:
        """Changes with the file, and with the length and stride of clips."""
        return stamp_of([(self.name, self.root / self.name)], self.frames, self.stride)

    def estimated_bytes(self) -> int:
        """By the size, length and rate in the header; cuts make it less."""
        try:
            with opened(self.root / self.name) as (container, stream):
                count = stream.frames or int(duration_s(container, stream) * float(stream.average_rate or 0))
                return (
                    num_clips(count, self.frames, self.stride)
                    * self.frames
                    * stream.width
                    * stream.height
                    * 3
                )
        except UnusablePictureError:
            return 0

    def clips(self) -> Iterator[RawClip | Rejected]:
        """The clips in order, named by the number of their first frame.

        Where the video is damaged it ends, and the time is named. Shots too short for a clip are counted.

        Raises:
            UnusablePictureError: It is no video that can be read.
        """
        with opened(self.root / self.name) as (container, stream):
            shots = _Shots(self)
            index = -1
            try:
                for index, picture in enumerate(pictures(container, stream)):
                    if clip := shots.push(index, picture):
                        yield clip
            except DamagedVideoError as damage:
                yield Rejected(self.name, f"{damage}; used up to there")
            else:
                if index < 0:
                    raise UnusablePictureError("holds no frames")
            shots.end()
            if shots.short:
                yield Rejected(self.name, shots.what_is_short())


class _Shots:
    """Makes the clips of one video: looks for cuts, and counts shots that are too short."""

    def __init__(self, item: VideoItem) -> None:
        self._item = item
        self._window: ClipWindow[tuple[int, VideoPicture]] = ClipWindow(item.frames, item.stride)
        self._last: tuple[tuple[int, ...], Thumbnail] | None = None
        self._length = 0
        self._start_s = 0.0
        self.short = 0
        self._first_short_s = 0.0

    def push(self, index: int, picture: VideoPicture) -> RawClip | None:
        """Takes the next frame; gives the clip that it completes."""
        shape, small = picture.rgb.shape, thumbnail(picture.rgb)
        if self._last is not None and (shape != self._last[0] or is_cut(self._last[1], small)):
            self.end()
        self._last = shape, small
        if self._length == 0:
            self._start_s = picture.time_s
        self._length += 1
        if self._window.skip():
            return None
        filled = self._window.push((index, picture))
        if filled is None:
            return None
        return RawClip(
            clip_name(self._item.name, filled[0][0]),
            tuple(RawFrame(one.rgb) for _, one in filled),
            notes=tuple(dict.fromkeys(note for _, one in filled for note in one.notes)),
        )

    def end(self) -> None:
        """Of a shot."""
        if 0 < self._length < self._item.frames:
            self._first_short_s = self._first_short_s if self.short else self._start_s
            self.short += 1
        self._length = 0
        self._window.restart()

    def what_is_short(self) -> str:
        shots = "1 shot is" if self.short == 1 else f"{self.short} shots are"
        return (
            f"{shots} shorter than a clip of {self._item.frames} frames and left out "
            f"(the first at {self._first_short_s:.2f} s)"
        )


def list_video(path: Path | None, options: SourceOptions) -> Listing:
    """A video file, or all below a folder.

    Raises:
        ValueError: There is none, PyAV is not installed, or an option is wrong.
    """
    frames, stride = clip_length(options, DEFAULT_FRAMES)
    pyav()
    if path is None:
        raise ValueError(
            "source 'video': no path was given; name a video file or a folder of them: srloss shard pack "
            "video FILMS OUT"
        )
    endings = ", ".join(ending[1:] for ending in ENDINGS)
    if path.is_dir():
        found = find_files(path, ENDINGS, "video")
        items = tuple(VideoItem(name, path, frames, stride) for name in found.files)
        return Listing(folder_name(path), items, found.rejected)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file or folder; the source 'video' needs a video ({endings}) or a folder"
        )
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: not a video by its ending; the source 'video' reads {endings}")
    return Listing(path.name, (VideoItem(path.name, path.parent, frames, stride),))
