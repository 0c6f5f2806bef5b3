"""Chosen clips into tar shards, so that a kill at any moment costs one shard at most.

Where each member will lie follows from the sizes alone. So the shards that an earlier process has completed need
not be read again, and the spool can be freed shard by shard: the disk holds one copy of the data and one shard.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from shards.inflate import crc32
from shards.manifest import FORMAT_VERSION
from shards.records import Member, Sample, Shard, parse_shard, shard_row
from shards.spool import SpooledClip, part_file, piece_file, read_part
from shards.staging import sync_folder
from shards.tars import ShardWriter, offsets

JOURNAL = "journal.jsonl"


@dataclass(frozen=True, slots=True)
class ChosenClip:
    """A clip of the data set to come: its place, and where it is in the spool."""

    split: str
    key: str
    source: str
    stamp: str
    number: int
    """Among the clips of its part."""
    piece: int


@dataclass(frozen=True, slots=True)
class PlacedClip:
    """Where a clip is and where it will be."""

    clip: ChosenClip
    offset: int
    """In its piece: there its members follow one another without gaps."""
    sample: Sample


class Journal:
    """Which shards are complete and on the disk. It belongs to one plan: the same clips in the same order."""

    def __init__(self, folder: Path, new: Path, clips: Sequence[ChosenClip], shard_bytes: int) -> None:
        """Goes on with the journal in `folder`; where it is of another plan, that and the shards in `new` go."""
        self._path = folder / JOURNAL
        self.done: dict[str, Shard] = {}
        """By file name."""
        plan = _digest_of_plan(clips, shard_bytes)
        rows = _whole_lines(self._path)
        if not rows or rows[0] != {"plan": plan}:
            shutil.rmtree(new)
            new.mkdir()
            rows = []
        for row in rows[1:]:
            shard = parse_shard(row)
            path = new / shard.file
            if path.is_file() and path.stat().st_size == shard.size:
                self.done[shard.file] = shard
        # Written anew, since half a line at its end would spoil the next.
        lines = [{"plan": plan}, *(shard_row(shard) for shard in self.done.values())]
        temporary = self._path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        _append(temporary, lines)
        temporary.rename(self._path)
        sync_folder(folder)

    def add(self, shard: Shard) -> None:
        """Notes that a shard is complete, and waits until the disk has the note."""
        _append(self._path, [shard_row(shard)])
        self.done[shard.file] = shard


@dataclass(frozen=True)
class ShardPlan:
    """What is to be written, and where the spool is."""

    clips: Sequence[ChosenClip]
    """Sorted by split and key."""
    spool: Path
    shard_bytes: int

    def samples(self) -> Iterator["PlacedClip"]:
        """Each clip as the sample it will be, with the place of each member. Pure arithmetic: reads no pictures."""
        load = _loader(self.spool)
        for split, clips in groupby(self.clips, key=lambda clip: clip.split):
            number, position = 0, 0
            for clip in clips:
                spooled = load(clip.stamp)[clip.number]
                sample = _sample(clip, spooled)
                sizes = [member.size for member in sample.members]
                if position and offsets(position, sizes)[1] > self.shard_bytes:
                    number, position = number + 1, 0
                places, position = offsets(position, sizes)
                pairs = zip(sample.members, places, strict=True)
                members = tuple(replace(member, offset=place) for member, place in pairs)
                sample = replace(sample, shard=f"{split}-{number:06d}.tar", members=members)
                yield PlacedClip(clip, spooled.members[0].offset, sample)


def sample_json(sample: Sample) -> bytes:
    """The member that ends a sample in its tar: what a reader that knows only the tar wants to know."""
    row = {name: getattr(sample, name) for name in ("key", "source", "split", "width", "height", "notes")}
    row["frames"] = len(sample.frames)
    if sample.lr_frames:
        row |= {"lr_width": sample.lr_frames[0].width, "lr_height": sample.lr_frames[0].height}
    return (json.dumps(row, sort_keys=True) + "\n").encode()


def write_shards(
    plan: ShardPlan, new: Path, journal: Journal, *, on_sample: Callable[[Sample, bool], None]
) -> list[Shard]:
    """Writes the shards that the journal does not know yet, and frees the spool as it goes.

    Args:
        plan: All clips.
        new: The folder of the shards.
        journal: Of the same plan.
        on_sample: Called after each sample, with whether it was written (not taken over).

    Returns:
        All shards, in order.

    Raises:
        ValueError: Bytes in the spool are not the ones that were written; the same command makes them anew.
    """
    waiting = Counter((clip.stamp, clip.piece) for clip in plan.clips)
    _remove_pieces(plan.spool, keep=waiting)
    shards: list[Shard] = []
    for file, group in groupby(plan.samples(), key=lambda placed: placed.sample.shard):
        clips = list(group)
        if file in journal.done:
            for placed in clips:
                on_sample(placed.sample, False)
        else:
            shard = _write_shard(plan.spool, new / file, clips, on_sample)
            sync_folder(new)
            journal.add(shard)
        shards.append(journal.done[file])
        # Only now: until the journal knew the shard, the pieces were all there was.
        for placed in clips:
            piece = placed.clip.stamp, placed.clip.piece
            waiting[piece] -= 1
            if not waiting[piece]:
                piece_file(plan.spool, *piece).unlink(missing_ok=True)
    return shards


def _write_shard(
    spool: Path, path: Path, clips: Sequence[PlacedClip], on_sample: Callable[[Sample, bool], None]
) -> Shard:
    writer = ShardWriter(path)
    try:
        for placed in clips:
            sample = placed.sample
            parts = _read_members(spool, placed)
            for member, data in zip(sample.members, (*parts, sample_json(sample)), strict=True):
                place = writer.add(member.name, data)
                assert place == member.offset, f"{member.name}: at {place}, not at {member.offset}"
            on_sample(sample, True)
        size, sha256 = writer.finish()
    finally:
        writer.close()
    return Shard(path.name, clips[0].sample.split, size, sha256, len(clips))


def _read_members(spool: Path, placed: PlacedClip) -> list[bytes]:
    """The bytes of each member but the last, which is not in the spool."""
    members = placed.sample.members[:-1]
    path = piece_file(spool, placed.clip.stamp, placed.clip.piece)
    with path.open("rb") as file:
        file.seek(placed.offset)
        parts = [file.read(member.size) for member in members]
    if any(crc32(part) != member.crc32 for part, member in zip(parts, members, strict=True)):
        raise ValueError(
            f"{path}: damaged since it was written (is the disk failing?); "
            "run the same command again, which makes it anew"
        )
    return parts


def _sample(clip: ChosenClip, spooled: SpooledClip) -> Sample:
    """The sample without its shard and offsets."""
    members = tuple(replace(member, name=clip.key + member.name) for member in spooled.members)
    without_tail = Sample(clip.key, clip.split, clip.source, "", members, spooled.notes)
    data = sample_json(without_tail)
    tail = Member(f"{clip.key}.json", 0, len(data), crc32(data), "json", "other")
    return replace(without_tail, members=(*members, tail))


def _loader(spool: Path) -> Callable[[str], tuple[SpooledClip, ...]]:
    """Reads the clips of parts; the last few stay in memory, since clips of one part mostly follow one another."""

    @lru_cache(maxsize=4)
    def load(stamp: str) -> tuple[SpooledClip, ...]:
        part = read_part(spool, stamp)
        if part is None:
            raise ValueError(f"{part_file(spool, stamp)}: gone or damaged; run the same command again")
        return part.clips

    return load


def _remove_pieces(spool: Path, *, keep: Counter[tuple[str, int]]) -> None:
    """Removes the pieces of which no clip was chosen."""
    for path in spool.glob("*.bin"):
        stamp, number, _ = path.name.split(".")
        if (stamp, int(number)) not in keep:
            path.unlink()


def _digest_of_plan(clips: Sequence[ChosenClip], shard_bytes: int) -> str:
    digest = hashlib.sha256(f"{FORMAT_VERSION} {shard_bytes}\n".encode())
    for clip in clips:
        digest.update(json.dumps(astuple(clip)).encode())
    return digest.hexdigest()


def _append(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("a") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(path: Path) -> list[dict[str, object]]:
    """The lines of a journal up to one that a kill has cut."""
    if not path.is_file():
        return []
    rows: list[dict[str, object]] = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n") or not isinstance(row, dict):
            break
        rows.append(row)
    return rows
