"""Folders of frame sequences: every folder that directly holds at least two pictures is one."""

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from shards.records import Rejected
from shards.sources.base import Listing, SourceOptions
from shards.sources.files import clip_length, degraded_warnings, folder_name, require_folder
from shards.sources.numbering import Runs, find_runs
from shards.sources.sequence import SequenceItem
from shards.sources.walk import find_files

DEFAULT_FRAMES = 7
REDS_FOLDERS = {"train_sharp": "train", "val_sharp": "val"}
"""Of the published REDS; its other folders hold blurred, compressed and low-resolution versions."""


@dataclass
class RunReport:
    """Collects what the runs of many sequences leave out, so that thousands of folders give one line each."""

    rejected: list[Rejected] = field(default_factory=list)
    irregular: list[str] = field(default_factory=list)
    unused: int = 0
    frames: int = 0

    def usable(self, name: str, found: Runs, frames: int, stride: int) -> tuple[tuple[str, ...], ...]:
        """The runs that are long enough for a clip; the others are rejected."""
        gap_before = {after: before for before, after in found.gaps}
        for file, other in found.repeated:
            self.rejected.append(Rejected(f"{name}/{file}", f"has the same frame number as {other}"))
        self.irregular += [f"{name}/{file}" for file in found.irregular]
        for run in found.runs:
            if run[0] in gap_before:
                reason = f"frames are missing between {gap_before[run[0]]} and {run[0]}; no clip spans them"
                self.rejected.append(Rejected(name, reason))
            self._count(name, run, frames, stride)
        return tuple(run for run in found.runs if len(run) >= frames)

    def warnings(self, frames: int) -> tuple[str, ...]:
        """What the user should know, in one line each."""
        lines: list[str] = []
        if self.irregular:
            lines.append(
                f"{len(self.irregular)} sequences have no regular frame numbers (first: "
                f"{self.irregular[0]}): their files "
                "are taken as consecutive frames in the order of their names"
            )
        if self.unused:
            lines.append(
                f"{self.unused} of {self.frames} frames are in no clip: they lie between clips, or too few "
                "are left at "
                f"the end of a sequence for another clip of {frames}"
            )
        return tuple(lines)

    def _count(self, name: str, run: tuple[str, ...], frames: int, stride: int) -> None:
        self.frames += len(run)
        if len(run) < frames:
            which = run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}"
            reason = f"only {len(run)} consecutive frames ({which}), where a clip has {frames}"
            self.rejected.append(Rejected(name, f"{reason}; choose frames={len(run)}"))
            return
        clips = (len(run) - frames) // stride + 1
        self.unused += len(run) - (frames * clips if stride >= frames else (clips - 1) * stride + frames)


def list_frames(path: Path | None, options: SourceOptions) -> Listing:
    """All frame sequences below a folder, at any depth.

    Raises:
        ValueError: There is no such folder, or an option is wrong.
    """
    frames, stride = clip_length(options, DEFAULT_FRAMES)
    root = require_folder("frames", path, "folders of frames")
    found = find_files(root)
    folders: dict[str, list[str]] = defaultdict(list)
    for label in found.files:
        folder, _, file = label.rpartition("/")
        folders[folder].append(file)
    report = RunReport(list(found.rejected))
    items: list[SequenceItem] = []
    for folder, files in sorted(folders.items()):
        name = folder or folder_name(root)
        if len(files) < 2:
            label = f"{folder}/{files[0]}" if folder else files[0]
            report.rejected.append(Rejected(label, "a single picture in its folder, no sequence"))
        elif runs := report.usable(name, find_runs(files), frames, stride):
            items.append(SequenceItem(name, root, folder, runs, frames, stride))
    listing = Listing(
        folder_name(root), *_named_apart(items, report.rejected), warnings=report.warnings(frames)
    )
    if any(_reds_split(item.name) for item in items):
        return reds_splits(listing)
    return replace(listing, warnings=(*listing.warnings, *degraded_warnings("frames", found.files)))


def _named_apart(
    items: list[SequenceItem], rejected: list[Rejected]
) -> tuple[tuple[SequenceItem, ...], tuple[Rejected, ...]]:
    """Without sequences inside of others whose names are those of the others' clips."""
    names = {item.name for item in items}
    kept: list[SequenceItem] = []
    for item in sorted(items, key=lambda item: item.name):
        parent, _, last = item.name.rpartition("/")
        if parent in names and re.fullmatch(r"[0-9]{6,}", last):
            rejected.append(Rejected(item.name, f"its name is that of a clip of {parent}; rename the folder"))
        else:
            kept.append(item)
    return tuple(kept), tuple(rejected)


def _reds_split(name: str) -> str | None:
    """The split of a sequence by the published folders, which lie at the top or one below."""
    return next((REDS_FOLDERS[part] for part in name.split("/")[:2] if part in REDS_FOLDERS), None)


def reds_splits(listing: Listing) -> Listing:
    """Only the sharp frames of REDS, split by its folders where both are there."""
    inside = tuple(item for item in listing.items if _reds_split(item.name))
    reason = "outside of REDS' train_sharp and val_sharp; degraded partners need the source 'paired'"
    outside = (Rejected(item.name, reason) for item in listing.items if not _reds_split(item.name))
    listing = replace(listing, items=inside, rejected=(*listing.rejected, *outside))
    splits = {item.source: split for item in inside if (split := _reds_split(item.name))}
    if len(set(splits.values())) < len(REDS_FOLDERS):
        return listing
    words = ", ".join(f"{split} is {folder}" for folder, split in REDS_FOLDERS.items())
    return replace(listing, splits=splits, split_rule=f"by REDS' folders ({words})")
