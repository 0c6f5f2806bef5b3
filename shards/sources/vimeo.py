"""Vimeo-90K as it is published: septuplets, triplets, and the test sets with their degraded versions.

Layout (toflow.csail.mit.edu, readme files of the archives): `sequences/00001/0001/im1.png` ... in the data
sets for training; `target/`, `input/` and `low_resolution/` with the same folders in the test sets. `target` is
the ground truth. `input` is what a network is given there: noisy, compressed, or for super-resolution frames
that were made four times smaller and then larger again. `low_resolution` holds the small frames themselves.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from shards.keys import path_digest
from shards.records import Rejected
from shards.sources.base import Listing, SourceOptions
from shards.sources.files import folder_name, refuse_options, require_folder
from shards.sources.sequence import Partners, SequenceItem

LOW_RESOLUTION = "low_resolution"
SCALE = 4
"""Of the published low-resolution frames."""
VAL_SHARE = 0.01
"""Of the train list; at least one of its folders."""


@dataclass(frozen=True)
class _Layout:
    kind: str
    """Name of the source."""
    prefix: str
    """Of the list files."""
    length: int
    """Frames of a sequence."""

    @property
    def frames(self) -> tuple[str, ...]:
        return tuple(f"im{number}.png" for number in range(1, self.length + 1))

    @property
    def lists(self) -> dict[str, str]:
        return {"train": f"{self.prefix}_trainlist.txt", "test": f"{self.prefix}_testlist.txt"}


SEPTUPLET = _Layout("vimeo-septuplet", "sep", 7)
TRIPLET = _Layout("vimeo-triplet", "tri", 3)


def list_septuplets(path: Path | None, options: SourceOptions) -> Listing:
    """Vimeo-90K's sequences of seven frames.

    Raises:
        ValueError: The folder or its list files are not there, or an option has no effect.
    """
    return _list_vimeo(SEPTUPLET, path, options)


def list_triplets(path: Path | None, options: SourceOptions) -> Listing:
    """Vimeo-90K's sequences of three frames.

    Raises:
        ValueError: The folder or its list files are not there, or an option has no effect.
    """
    return _list_vimeo(TRIPLET, path, options)


def _list_vimeo(layout: _Layout, path: Path | None, options: SourceOptions) -> Listing:
    refuse_options(layout.kind, options, ("frames", "stride"), f"each sequence is a clip of {layout.length}")
    root = require_folder(layout.kind, path, f"sequences and of {' and '.join(layout.lists.values())}")
    lists = _read_lists(root, layout)
    truth, warnings = _ground_truth(root, layout)
    lr = LOW_RESOLUTION if truth != "sequences" and (root / LOW_RESOLUTION).is_dir() else ""
    there, rejected = _sequences_below(root / truth)
    splits, rule, more = _splits(lists, there)
    items: list[SequenceItem] = []
    for name in sorted({name for names in lists.values() for name in names}):
        reasons = _reasons_against(root, name, there, [truth, lr] if lr else [truth], layout)
        rejected += [Rejected(name, reason) for reason in reasons]
        if not reasons:
            partners = Partners(f"{lr}/{name}", (layout.frames,), SCALE) if lr else None
            frames = layout.length
            items.append(
                SequenceItem(name, root, f"{truth}/{name}", (layout.frames,), frames, frames, partners)
            )
    listed = splits.keys()
    names = " or ".join(layout.lists[split] for split in lists)
    rejected += [Rejected(name, f"not in {names}") for name in sorted(there - listed)]
    return Listing(
        folder_name(root),
        tuple(items),
        tuple(rejected),
        {item.source: splits[item.source] for item in items},
        rule,
        SCALE if lr else 0,
        (*warnings, *more),
    )


def _read_lists(root: Path, layout: _Layout) -> dict[str, list[str]]:
    """Names of sequences by list; a list file that is not there has no entry.

    Raises:
        ValueError: Neither list is there, or one cannot be read or names no sequence.
    """
    lists: dict[str, list[str]] = {}
    for split, file in layout.lists.items():
        if not (root / file).is_file():
            continue
        try:
            text = (root / file).read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        except OSError as error:
            raise ValueError(f"{root / file}: cannot be read ({error.strerror})") from error
        names = [line.strip().strip("/") for line in text.splitlines() if line.strip()]
        for name in names:
            if not re.fullmatch(r"[^/.][^/]*/[^/.][^/]*", name):
                raise ValueError(
                    f"{root / file}: {name!r} is no sequence such as 00001/0266; correct or remove the line"
                )
        lists[split] = names
    if lists:
        return lists
    files = " and ".join(layout.lists.values())
    below = [folder.name for folder in sorted(root.iterdir()) if _holds_list(folder, layout)]
    hint = f"it is in {below[0]}/: give that folder" if below else f"give the folder that holds {files}"
    raise ValueError(f"{root}: {files} are not there; {hint}")


def _holds_list(folder: Path, layout: _Layout) -> bool:
    return any((folder / file).is_file() for file in layout.lists.values())


def _ground_truth(root: Path, layout: _Layout) -> tuple[str, tuple[str, ...]]:
    """The folder to take as ground truth, and warnings.

    Raises:
        ValueError: There is none.
    """
    there = [name for name in ("sequences", "target", "input") if (root / name).is_dir()]
    if not there:
        raise ValueError(
            f"{root}: neither sequences/ nor target/ is there; the source '{layout.kind}' needs one of them "
            "beside the "
            "list files"
        )
    if there[0] == "input":
        return "input", (
            "input/ is taken as ground truth, because neither sequences/ nor target/ is there. In the "
            "published test sets "
            "input/ holds degraded frames (noisy, compressed, or bicubic times 1/4 and 4): models would "
            "learn to "
            "make those. Unpack target/ beside it",
        )
    if there[:2] == ["sequences", "target"]:
        return "sequences", (
            "sequences/ is taken as ground truth; target/, input/ and low_resolution/ beside it are not "
            "used. To pack a "
            "published test set with its low-resolution frames give a folder without sequences/",
        )
    return there[0], ()


def _sequences_below(folder: Path) -> tuple[set[str], list[Rejected]]:
    """Names of the folders two levels below."""
    names: set[str] = set()
    rejected: list[Rejected] = []
    try:
        videos = _folders(folder)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be listed ({error.strerror})") from error
    for video in videos:
        try:
            names |= {f"{video}/{sequence}" for sequence in _folders(folder / video)}
        except OSError as error:
            rejected.append(Rejected(video, f"folder cannot be listed ({error.strerror})"))
    return names, rejected


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _reasons_against(
    root: Path, name: str, there: set[str], folders: list[str], layout: _Layout
) -> list[str]:
    """Why a listed sequence cannot be packed; empty where it can."""
    if name not in there:
        return [f"listed, but there is no folder {folders[0]}/{name}"]
    reasons: list[str] = []
    for folder in folders:
        try:
            with os.scandir(root / folder / name) as entries:
                files = {entry.name for entry in entries}
        except OSError as error:
            reasons.append(f"{folder}/{name} cannot be listed ({error.strerror})")
            continue
        missing = [frame for frame in layout.frames if frame not in files]
        if missing:
            reasons.append(f"missing {', '.join(missing)} in {folder}/{name}")
        more = sorted(file for file in files.difference(layout.frames) if not file.startswith("."))
        if more:
            reasons.append(
                f"{folder}/{name} holds {', '.join(more)} too, so it is no sequence of {layout.length}"
            )
    return reasons


def _splits(lists: dict[str, list[str]], there: set[str]) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """The split of every listed sequence, the rule in words, and warnings."""
    test = set(lists.get("test", ()))
    train = sorted(set(lists.get("train", ())) - test)
    splits = dict.fromkeys(test, "test")
    warnings: list[str] = []
    both = len(set(lists.get("train", ())) & test)
    if both:
        warnings.append(f"{both} sequences are in the train list and in the test list: they are only in test")
    if not train:
        return splits, "test by the test list; there is no train list", tuple(warnings)
    val_folders = _val_folders(train)
    for name in train:
        splits[name] = "val" if name.split("/")[0] in val_folders else "train"
    if not any(name in there for name, split in splits.items() if split == "val"):
        which = (
            f"its folders {', '.join(val_folders)} are not there"
            if val_folders
            else "the train list has one folder"
        )
        warnings.append(f"val is empty: {which}; shorten the train list to what is there")
    rule = (
        "train and test by the published lists; val: of the train list's folders those with the smallest "
        "sha256, "
        f"together at least {VAL_SHARE:.0%} of it ({', '.join(val_folders) or 'none'})"
    )
    return splits, rule, tuple(warnings)


def _val_folders(train: list[str]) -> list[str]:
    """Whole folders: neighbouring sequences come from one video."""
    sizes = Counter(name.split("/")[0] for name in train)
    chosen: list[str] = []
    for folder in sorted(sizes, key=path_digest)[: len(sizes) - 1]:
        if sum(sizes[one] for one in chosen) >= VAL_SHARE * len(train):
            break
        chosen.append(folder)
    return chosen
