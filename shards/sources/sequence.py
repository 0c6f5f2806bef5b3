"""Runs of frames that lie as picture files in one folder, with or without low-resolution partners."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.picture import UnusablePictureError
from shards.records import Rejected
from shards.sources.base import RawClip, RawFrame
from shards.sources.files import picture_size, raw_bytes, read_frame, stamp_of
from shards.sources.window import ClipWindow, clip_name, num_clips


@dataclass(frozen=True)
class Partners:
    """The low-resolution partners of a sequence."""

    folder: str
    """Relative to the root of the source."""
    runs: tuple[tuple[str, ...], ...]
    """File names, one for each frame of the sequence."""
    scale: int
    """How many times larger the frames are."""


@dataclass(frozen=True)
class _Read:
    index: int
    """Of the frame in its sequence."""
    frame: RawFrame
    partner: RawFrame | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SequenceItem:
    """A sequence of frames; a single picture with a partner is one of one frame."""

    name: str
    root: Path
    folder: str
    """Where the frames lie, relative to the root; "" for the root itself."""
    runs: tuple[tuple[str, ...], ...]
    """File names of consecutive frames, in the order of time; no clip spans two runs."""
    frames: int
    """Of a clip."""
    stride: int
    """From the start of a clip to the start of the next."""
    partners: Partners | None = None

    @property
    def source(self) -> str:
        """Each sequence is an original of its own."""
        return self.name

    @property
    def num_clips(self) -> int:
        """As far as all frames can be read."""
        return sum(num_clips(len(run), self.frames, self.stride) for run in self.runs)

    def stamp(self) -> str:
        """Changes with any of the files, and with the length and stride of clips."""
        files = _labels(self.folder, self.runs)
        if self.partners:
            files += _labels(self.partners.folder, self.partners.runs)
        settings = (self.name, self.frames, self.stride, self.partners and self.partners.scale)
        return stamp_of(((label, self.root / label) for label in files), *settings)

    def estimated_bytes(self) -> int:
        """By the header of the first frame."""
        first = raw_bytes(self.root / _label(self.folder, self.runs[0][0]))
        if self.partners:
            first += first // self.partners.scale**2
        return first * self.frames * self.num_clips

    def clips(self) -> Iterator[RawClip | Rejected]:
        """The clips in order; a damaged frame is named, and no clip spans it.

        Raises:
            UnusablePictureError: The frames differ in size, or a partner's size does not fit.
        """
        _check_sizes(self.root, self.folder, self.runs)
        before = 0
        for number, run in enumerate(self.runs):
            window: ClipWindow[_Read] = ClipWindow(self.frames, self.stride)
            for place in range(len(run)):
                if window.skip():
                    continue
                read = self._read(number, place, before + place)
                if isinstance(read, Rejected):
                    yield read
                    window.restart()
                elif clip := window.push(read):
                    yield self._clip(clip)
            before += len(run)

    def _read(self, run: int, place: int, index: int) -> _Read | Rejected:
        label = _label(self.folder, self.runs[run][place])
        try:
            frame, notes = read_frame(self.root / label)
            if self.partners is None:
                return _Read(index, frame, None, notes)
            label = _label(self.partners.folder, self.partners.runs[run][place])
            partner, partner_notes = read_frame(self.root / label)
        except UnusablePictureError as error:
            return Rejected(label, str(error))
        height, width, _ = frame.rgb.shape
        low_height, low_width, _ = partner.rgb.shape
        scale = self.partners.scale
        if (low_width * scale, low_height * scale) != (width, height):
            raise UnusablePictureError(
                f"{label} is {low_width}x{low_height}, not 1/{scale} of {width}x{height}"
            )
        return _Read(index, frame, partner, (*notes, *(f"low resolution: {note}" for note in partner_notes)))

    def _clip(self, reads: tuple[_Read, ...]) -> RawClip:
        sizes = {read.frame.rgb.shape for read in reads}
        if len(sizes) > 1:  # Their headers agree, so some are rotated by EXIF.
            raise UnusablePictureError("its frames differ in size once they are upright")
        return RawClip(
            clip_name(self.name, reads[0].index) if self.num_clips > 1 else self.name,
            tuple(read.frame for read in reads),
            tuple(read.partner for read in reads if read.partner is not None),
            tuple(dict.fromkeys(note for read in reads for note in read.notes)),
        )


def _label(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder else file


def _labels(folder: str, runs: tuple[tuple[str, ...], ...]) -> list[str]:
    return [_label(folder, file) for run in runs for file in run]


def _check_sizes(root: Path, folder: str, runs: tuple[tuple[str, ...], ...]) -> None:
    """Before the first clip is made: a sequence with frames of several sizes is two that got mixed."""
    first: tuple[str, tuple[int, int]] | None = None
    for label in _labels(folder, runs):
        size = picture_size(root / label)
        if size is None:  # Reading it will say why.
            continue
        if first is None:
            first = (label, size)
        elif size != first[1]:
            (name, (width, height)) = first
            raise UnusablePictureError(
                f"its frames differ in size: {name} is {width}x{height}, {label} is {size[0]}x{size[1]}"
            )
