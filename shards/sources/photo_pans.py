"""Clips of a camera that moves over the photographs inside scikit-image: video for trying things out, without network.

The photographs are real, the motion is made: straight and even, by whole pixels, which after a reduction are fractions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from shards.sources.base import Listing, RawClip, RawFrame, SourceOptions
from shards.sources.files import clip_length, read_frame, refuse_options, stamp_of
from shards.sources.pictures import list_photos, photos_folder

FRAMES = 7
"""As a clip of Vimeo-90K has."""
CLIPS_PER_PHOTO = 6
LARGEST_SIDE = 256
FASTEST = 4
"""Pixels from frame to frame along each axis, at most."""
SEED = 20150217
VERSION = 1
"""Of what is made from the same photographs."""
MADE_MOTION = "the motion is made: a window moves over still photographs, so occlusions and blur of real video are missing"


@dataclass(frozen=True)
class PhotoPan:
    """One clip, made when it is read."""

    photo: str
    folder: Path
    number: int
    """Of the clip over its photograph: it decides where the window starts and which way it goes."""
    stream: int
    """Of random numbers; another for each photograph."""
    frames: int

    @property
    def name(self) -> str:
        """The photograph and the number."""
        return f"{Path(self.photo).stem}/{self.number}"

    @property
    def source(self) -> str:
        """The photograph: no split sees parts of another's."""
        return self.photo

    def stamp(self) -> str:
        """Changes with the file and with the way that clips are made."""
        file = (self.photo, self.folder / self.photo)
        return stamp_of([file], self.number, self.stream, self.frames, SEED, VERSION)

    def estimated_bytes(self) -> int:
        """Exactly, by the photograph's header."""
        with Image.open(self.folder / self.photo) as picture:
            return self.frames * _window(picture.size, self.frames) ** 2 * 3

    def clips(self) -> Iterator[RawClip]:
        """The one clip.

        Raises:
            UnusablePictureError: The photograph cannot be read.
        """
        picture = read_frame(self.folder / self.photo)[0].rgb
        key = np.array([SEED, self.stream * CLIPS_PER_PHOTO + self.number], np.uint64)
        # Only the raw output of Philox is promised to stay the same in all versions of numpy.
        draws = (np.random.Philox(key=key).random_raw(4) >> np.uint64(11)) * 2.0**-53
        rows = _places(picture.shape[0], self.frames, float(draws[0]), float(draws[1]))
        columns = _places(picture.shape[1], self.frames, float(draws[2]), float(draws[3]))
        side = _window(picture.shape[:2], self.frames)
        cut = (picture[y : y + side, x : x + side] for y, x in zip(rows, columns, strict=True))
        yield RawClip(self.name, tuple(RawFrame(np.ascontiguousarray(frame)) for frame in cut))


def list_photo_pans(path: Path | None, options: SourceOptions) -> Listing:
    """Six clips over each of the photographs inside scikit-image, with the splits of the source `photos`.

    Raises:
        ValueError: A path or an option without effect was given, or scikit-image lacks a picture.
    """
    if path is not None:
        raise ValueError(f"source 'photo-pans': takes no path, got {path}; leave it out")
    refuse_options("photo-pans", options, ("stride",), "each pan is a clip")
    frames, _ = clip_length(options, FRAMES)
    photos = list_photos(None, SourceOptions())
    folder = photos_folder()
    items = tuple(
        PhotoPan(photo.name, folder, number, stream, frames)
        for stream, photo in enumerate(photos.items)
        for number in range(CLIPS_PER_PHOTO)
    )
    items = tuple(sorted(items, key=lambda item: item.name))
    return replace(photos, name="photo-pans", items=items, warnings=(MADE_MOTION,))


def _window(lengths: tuple[int, ...], frames: int) -> int:
    """Side of the square that moves over a photograph of these sides."""
    return min(_side(length, frames) for length in lengths)


def _side(length: int, frames: int) -> int:
    """Side of the window along an axis of so many pixels: room is left for the fastest motion, if it is not too much."""
    return min(LARGEST_SIDE, max(length * 2 // 3, length - FASTEST * (frames - 1))) // 16 * 16


def _places(length: int, frames: int, where: float, way: float) -> list[int]:
    """The window's edge along one axis, frame by frame."""
    room = length - _side(length, frames)
    speed = round((2 * way - 1) * min(FASTEST, room / max(1, frames - 1)))
    travel = speed * (frames - 1)
    start = int(where * (room - abs(travel) + 1)) + max(0, -travel)
    return [start + speed * frame for frame in range(frames)]
