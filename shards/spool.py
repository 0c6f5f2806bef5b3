"""Encoded clips that wait for their place in a shard, in a folder that outlives a killed process.

Each item of a source becomes one part: piece files with the bytes of its clips, one behind another, and a JSON file
that describes them. A part appears complete or not at all, under a name made of everything that decides its content,
so that a later process knows what it may take over.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from shards.inflate import crc32
from shards.leaks import thumbnail
from shards.picture import MAX_PIXELS, UnusablePictureError
from shards.profiles import PROFILES
from shards.records import Band, Member, Rejected
from shards.sources.base import Item, RawClip, RawFrame, SourceOptions

SPOOL_VERSION = 1
"""Of the content of parts; those of another version are not taken over."""
PIECE_BYTES = 64 * 2**20
"""A piece is closed when it has grown to this. Small, since pieces are deleted one by one to free the disk."""


@dataclass(frozen=True)
class PartSettings:
    """What decides the content of parts, besides the items."""

    profile: str
    clips: SourceOptions
    lr_scale: int
    place: str
    """Where the source is; never part of the result."""


@dataclass(frozen=True, slots=True)
class SpooledClip:
    """A clip in the spool. Its members are named without the key, and lie at `offset` of the piece."""

    name: str
    piece: int
    members: tuple[Member, ...]
    notes: tuple[str, ...]
    digest: str
    """Equal for two clips when all pixels of all frames are."""
    thumbnails: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """All that an item gave."""

    stamp: str
    clips: tuple[SpooledClip, ...]
    rejected: tuple[Rejected, ...]
    pieces: tuple[int, ...]
    """Size of each piece, in bytes."""


@dataclass(frozen=True, slots=True)
class ClipSummary:
    """What has to be known of a clip to choose its place; small, since all of them are in memory."""

    name: str
    digest: str
    piece: int
    thumbnails: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PartSummary:
    """What has to be known of a part to go on."""

    stamp: str
    source: str
    clips: tuple[ClipSummary, ...]
    rejected: tuple[Rejected, ...]
    num_bytes: int
    taken_over: bool
    missing: tuple[int, ...]
    """Pieces that are gone or damaged; mostly an earlier process has written their clips to shards already."""


@dataclass(frozen=True)
class PartTask:
    """One item to encode; can be sent to another process."""

    item: Item
    settings: PartSettings
    folder: Path
    anew: bool = False
    """Encode it even where a part is there, because pieces of it are gone."""


@dataclass
class _PartWriter:
    """Writes the clips of one item to pieces with temporary names."""

    folder: Path
    stamp: str
    sizes: list[int] = field(default_factory=list)
    file: BinaryIO | None = None

    def add(self, data: bytes) -> tuple[int, int]:
        """Appends; returns the piece and the offset in it."""
        if self.file is None:
            self.file = self._temporary(len(self.sizes)).open("wb")
            self.sizes.append(0)
        offset = self.sizes[-1]
        self.file.write(data)
        self.sizes[-1] += len(data)
        return len(self.sizes) - 1, offset

    def end_clip(self) -> None:
        """Closes a piece that is large enough: a clip never spans two."""
        if self.sizes and self.sizes[-1] >= PIECE_BYTES:
            self._close()

    def finish(self, description: bytes) -> None:
        """Gives everything its final name, the description last."""
        self._close()
        for number in range(len(self.sizes)):
            self._temporary(number).rename(piece_file(self.folder, self.stamp, number))
        temporary = self.folder / f"{self.stamp}.json.{os.getpid()}.tmp"
        temporary.write_bytes(description)
        temporary.rename(part_file(self.folder, self.stamp))

    def abandon(self) -> None:
        """Removes what was written."""
        if self.file is not None:
            self.file.close()
        for number in range(len(self.sizes)):
            self._temporary(number).unlink(missing_ok=True)

    def _close(self) -> None:
        # Not synced, which takes longer than encoding a small picture: who takes a piece over checks its content.
        if self.file is not None:
            self.file.close()
            self.file = None

    def _temporary(self, number: int) -> Path:
        return self.folder / f"{self.stamp}.{number:06d}.{os.getpid()}.tmp"


def part_file(folder: Path, stamp: str) -> Path:
    """The description of a part."""
    return folder / f"{stamp}.json"


def piece_file(folder: Path, stamp: str, number: int) -> Path:
    """The bytes of some clips of a part."""
    return folder / f"{stamp}.{number:06d}.bin"


def stamp_of_part(item: Item, settings: PartSettings) -> str:
    """A name for the part of an item: another one for everything that could change its content. Hex digits."""
    decisive = [SPOOL_VERSION, item.name, item.source, item.stamp(), asdict(settings)]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]


def make_part(task: PartTask) -> PartSummary:
    """Encodes an item into the spool, unless its part is there already.

    Raises:
        OSError: The spool cannot be written, as on a full disk.
        ValueError: Encoded pixels do not come back.
    """
    stamp = stamp_of_part(task.item, task.settings)
    part = None if task.anew else read_part(task.folder, stamp)
    taken_over = part is not None
    if part is None:
        part = _encode_item(task, stamp)
    return PartSummary(
        stamp,
        task.item.source,
        tuple(ClipSummary(clip.name, clip.digest, clip.piece, clip.thumbnails) for clip in part.clips),
        part.rejected,
        sum(part.pieces),
        taken_over,
        _missing(task.folder, part) if taken_over else (),
    )


def read_part(folder: Path, stamp: str) -> Part | None:
    """The description of a part; None where there is none, or it did not reach the disk whole."""
    try:
        text, checksum = part_file(folder, stamp).read_bytes().split(b"\n")[:2]
    except (FileNotFoundError, ValueError):
        return None
    if hashlib.sha256(text).hexdigest().encode() != checksum:
        return None
    row = json.loads(text)
    return Part(
        stamp,
        tuple(_parse_clip(clip) for clip in row["clips"]),
        tuple(Rejected(*pair) for pair in row["rejected"]),
        tuple(row["pieces"]),
    )


def clear(folder: Path, *, keep: set[str] | None = None) -> None:
    """Removes unfinished files, and the parts that are not among those to keep; None: keeps all parts."""
    for file in folder.iterdir():
        is_foreign = keep is not None and file.name.partition(".")[0] not in keep
        if is_foreign or file.suffix == ".tmp":
            file.unlink(missing_ok=True)


def _encode_item(task: PartTask, stamp: str) -> Part:
    writer = _PartWriter(task.folder, stamp)
    clips: list[SpooledClip] = []
    rejected: list[Rejected] = []
    try:
        for found in _clips_of(task.item, task.settings.place):
            try:
                if isinstance(found, Rejected):
                    rejected.append(found)
                else:
                    clips.append(_encode_clip(found, task.settings, writer))
            except UnusablePictureError as error:
                rejected.append(Rejected(_name_of(found), str(error)))
            except ValueError as error:
                raise ValueError(f"{_name_of(found)}: {error}") from error
        part = Part(stamp, tuple(clips), tuple(rejected), tuple(writer.sizes))
        writer.finish(_describe(part))
    except BaseException:
        writer.abandon()
        raise
    return part


def _name_of(found: RawClip | Rejected) -> str:
    return found.name if isinstance(found, RawClip) else found.source


def _clips_of(item: Item, place: str) -> Iterator[RawClip | Rejected]:
    """The clips of an item; whatever goes wrong with it, it is named, and the others are packed."""
    try:
        yield from item.clips()
    except MemoryError:
        raise
    except UnusablePictureError as error:
        yield Rejected(item.name, str(error))
    except OSError as error:
        yield Rejected(item.name, f"cannot be read: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - Decoders raise nearly anything; the manifest says it.
        # Paths and addresses differ between machines and runs, and the manifest must not.
        text = re.sub(r" at 0x[0-9a-f]+", "", str(error).replace(f"{place}/", ""))
        yield Rejected(item.name, f"cannot be read: {type(error).__name__}: {text}")


def _encode_clip(clip: RawClip, settings: PartSettings, writer: _PartWriter) -> SpooledClip:
    _check_sizes(clip, settings.lr_scale)
    members: list[Member] = []
    notes = list(clip.notes)
    piece = 0
    for role, letters, frames in (("frame", "im", clip.frames), ("lr", "lr", clip.lr_frames)):
        for number, frame in enumerate(frames, start=1):
            encoded = PROFILES[settings.profile](frame)
            if encoded.note and encoded.note not in notes:
                notes.append(encoded.note)
            piece, offset = writer.add(encoded.data)
            members.append(
                Member(
                    f".{letters}{number}.{encoded.ending}",
                    offset,
                    len(encoded.data),
                    crc32(encoded.data),
                    encoded.kind,
                    role,
                    encoded.width,
                    encoded.height,
                    encoded.channels,
                    encoded.band_height,
                    encoded.bands,
                )
            )
    writer.end_clip()
    shown = sorted({0, len(clip.frames) // 2, len(clip.frames) - 1})
    thumbnails = (thumbnail(clip.frames[number].rgb) for number in shown)
    return SpooledClip(
        clip.name,
        piece,
        tuple(members),
        tuple(notes),
        _digest(clip.frames),
        tuple(data for data in thumbnails if data),
    )


def _check_sizes(clip: RawClip, lr_scale: int) -> None:
    """Raises UnusablePictureError where the frames, or the low-resolution partners, do not fit together."""
    if not clip.frames:
        raise UnusablePictureError("no frames")
    height, width = _one_size(clip.frames, "frames")
    if not lr_scale and not clip.lr_frames:
        return
    if not lr_scale:
        raise UnusablePictureError("low-resolution partners of an unknown scale")
    if len(clip.lr_frames) != len(clip.frames):
        counts = f"{len(clip.frames)} frames have {len(clip.lr_frames)}"
        raise UnusablePictureError(f"{counts} low-resolution partners")
    lr_height, lr_width = _one_size(clip.lr_frames, "low-resolution partners")
    if (lr_height * lr_scale, lr_width * lr_scale) != (height, width):
        sizes = f"low-resolution partners of {lr_width}x{lr_height} for frames of {width}x{height}"
        raise UnusablePictureError(f"{sizes}: not a scale of {lr_scale}")


def _one_size(frames: tuple[RawFrame, ...], what: str) -> tuple[int, int]:
    """Height and width, which must be the same for all, and not more than a reader decodes."""
    sizes = [frame.rgb.shape[:2] for frame in frames]
    if len(set(sizes)) > 1:
        shown = ", ".join(sorted({f"{width}x{height}" for height, width in sizes}))
        raise UnusablePictureError(f"{what} of different sizes ({shown})")
    height, width = sizes[0]
    if height * width > MAX_PIXELS:
        raise UnusablePictureError(f"more than {MAX_PIXELS // 10**6} Mpx ({width}x{height})")
    return height, width


def _digest(frames: tuple[RawFrame, ...]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        height, width, _ = frame.rgb.shape
        digest.update(f"{width}x{height} ".encode())
        digest.update(frame.rgb.tobytes())
    return digest.hexdigest()


def _missing(folder: Path, part: Part) -> tuple[int, ...]:
    """The pieces that are gone or damaged, as a loss of power leaves them."""
    damaged: set[int] = set()
    for number in range(len(part.pieces)):
        try:
            with piece_file(folder, part.stamp, number).open("rb") as file:
                members = (m for clip in part.clips if clip.piece == number for m in clip.members)
                if any(crc32(_read_at(file, member)) != member.crc32 for member in members):
                    damaged.add(number)
        except FileNotFoundError:
            damaged.add(number)
    return tuple(sorted(damaged))


def _read_at(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def _describe(part: Part) -> bytes:
    """The content of a part's JSON file: one line, and one with its checksum."""
    row = {
        "clips": [_plain_clip(clip) for clip in part.clips],
        "rejected": [[rejected.source, rejected.reason] for rejected in part.rejected],
        "pieces": part.pieces,
    }
    text = json.dumps(row, separators=(",", ":")).encode()
    return text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"


def _plain_clip(clip: SpooledClip) -> list[Any]:
    members = [[*astuple(replace(member, bands=())), _plain_bands(member)] for member in clip.members]
    thumbnails = [base64.b64encode(data).decode() for data in clip.thumbnails]
    return [clip.name, clip.piece, members, clip.notes, clip.digest, thumbnails]


def _plain_bands(member: Member) -> list[tuple[int, int]]:
    return [(band.start, band.crc32) for band in member.bands]


def _parse_clip(row: list[Any]) -> SpooledClip:
    name, piece, members, notes, digest, thumbnails = row
    return SpooledClip(
        name,
        piece,
        tuple(_parse_member(member) for member in members),
        tuple(notes),
        digest,
        tuple(base64.b64decode(data) for data in thumbnails),
    )


def _parse_member(row: list[Any]) -> Member:
    *plain, _, bands = row
    return Member(*plain, bands=tuple(Band(start, crc32) for start, crc32 in bands))
