"""Which original goes to train, val or test; all clips of it go with it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.keys import path_digest
from shards.records import SPLITS, Rejected
from shards.sources.base import Item, Listing

DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLIT_FOLDER = re.compile(r"(?:div2k[_-])?(train|validation|valid|val|test)(?:[_-].*)?")
"""A top folder, in lower case, that names a split: `test`, `train_sharp`, `DIV2K_valid_HR`."""


@dataclass(frozen=True)
class SplitPlan:
    """How the splits will be chosen."""

    rule: str
    fixed: dict[str, str] | None
    """Source to split; None where fractions decide, once the usable sources are known."""
    items: tuple[Item, ...]
    """Those that have a place in some split."""
    rejected: tuple[Rejected, ...] = ()


def plan(listing: Listing, fractions: Mapping[str, float], lists: Mapping[str, Path]) -> SplitPlan:
    """Chooses between the source's own splits, folders named train and test or val, lists, and fractions.

    Raises:
        ValueError: A fraction or list is wrong, or would have no effect.
    """
    _check_fractions(fractions)
    sources = list(dict.fromkeys(item.source for item in listing.items))
    folders = {} if listing.splits else _by_folder(sources)
    has_own = f"the source gives its own splits ({listing.split_rule})" if listing.splits else None
    if folders:
        has_own = "the top folders train, val and test already give the splits"
    if has_own and (lists or dict(fractions) != DEFAULT_FRACTIONS):
        raise ValueError(
            f"split: {has_own}; leave out the split lists and fractions, which would have no effect"
        )
    if lists and dict(fractions) != DEFAULT_FRACTIONS:
        raise ValueError(
            f"split: both lists and fractions {dict(fractions)} were given; leave out the fractions, "
            "which would have no effect"
        )
    if listing.splits:
        rule = listing.split_rule or "fixed by the source"
        return _fixed(listing.items, listing.splits, rule, "in no split of the source")
    if folders:
        outside = "outside of the top folders train, val and test"
        return _fixed(listing.items, folders, _folder_rule(sources), outside)
    if lists:
        names = ", ".join(f"{split} by {file.name}" for split, file in sorted(lists.items()))
        return _fixed(
            listing.items, _by_lists(listing, lists), f"by split lists ({names})", "in no split list"
        )
    shares = ", ".join(f"{split} {fractions.get(split, 0):g}" for split in SPLITS)
    return SplitPlan(f"by sha256 of the relative path ({shares})", None, listing.items)


def settle(
    chosen: SplitPlan, sources: Sequence[str], fractions: Mapping[str, float]
) -> tuple[dict[str, str], str]:
    """The split of every usable source, and in words how it came about, without their numbers."""
    if chosen.fixed is not None:
        return {source: chosen.fixed[source] for source in sources}, chosen.rule
    assigned = {source: by_fraction(source, fractions) for source in sources}
    moved = _fill_empty(assigned, fractions)
    return assigned, "; ".join([chosen.rule, *moved])


def with_counts(rule: str, splits: Iterable[str]) -> str:
    """The rule, and how many of the given splits are of each kind."""
    given = list(splits)
    return f"{rule}; " + ", ".join(f"{given.count(split)} in {split}" for split in SPLITS)


def by_fraction(source: str, fractions: Mapping[str, float]) -> str:
    """The split of a relative path: it depends on no other picture."""
    point = int.from_bytes(path_digest(source)[:8], "big") / 2**64
    wanted = [split for split in SPLITS if fractions.get(split, 0) > 0]
    reached = 0.0
    for split in wanted:
        reached += fractions[split]
        if point < reached:
            return split
    return wanted[-1]  # Fractions such as 0.7 + 0.1 + 0.2 can add up to a little less than 1.


def _fill_empty(assigned: dict[str, str], fractions: Mapping[str, float]) -> list[str]:
    """Moves a picture from the largest split to each empty one, as far as there are any; says which."""
    moved: list[str] = []
    for split in ("train", "test", "val"):
        if fractions.get(split, 0) == 0 or split in assigned.values():
            continue
        members = {s: [source for source, given in assigned.items() if given == s] for s in SPLITS}
        donor = max(SPLITS, key=lambda s: len(members[s]))
        if len(members[donor]) < 2:
            continue
        source = min(members[donor], key=path_digest)
        assigned[source] = split
        moved.append(f"{source} moved from {donor} to {split}, which was empty")
    return moved


def _check_fractions(fractions: Mapping[str, float]) -> None:
    unknown = sorted(set(fractions) - set(SPLITS))
    if unknown:
        raise ValueError(f"split: unknown {', '.join(unknown)}; use {', '.join(SPLITS)}")
    total = sum(fractions.values())
    if min(fractions.values(), default=-1) < 0 or not abs(total - 1) < 1e-6:
        raise ValueError(
            f"split: got fractions {dict(fractions)} (sum {total:g}); "
            "choose numbers of 0 or more that add up to 1"
        )


def _fixed(items: Iterable[Item], splits: Mapping[str, str], rule: str, otherwise: str) -> SplitPlan:
    """A plan with the items that have a split; the others are rejected with the reason `otherwise`."""
    kept = tuple(item for item in items if item.source in splits)
    rejected = tuple(Rejected(item.name, otherwise) for item in items if item.source not in splits)
    return SplitPlan(rule, {item.source: splits[item.source] for item in kept}, kept, rejected)


def _by_folder(sources: Iterable[str]) -> dict[str, str]:
    """Source to split by its top folder; empty unless train and one more are there."""
    found: dict[str, str] = {}
    for source in sources:
        match = SPLIT_FOLDER.fullmatch(_top_folder(source).lower())
        if match:
            found[source] = SPLIT_FOLDERS[match[1]]
    return found if "train" in found.values() and len(set(found.values())) > 1 else {}


def _folder_rule(sources: Sequence[str]) -> str:
    """Names the folders where that says more than the splits do."""
    tops = {_top_folder(source): split for source, split in _by_folder(sources).items()}
    if all(top.lower() in SPLIT_FOLDERS for top in tops):
        return "by top folder"
    pairs = sorted(tops.items(), key=lambda pair: (SPLITS.index(pair[1]), pair[0]))
    return f"by top folder ({', '.join(f'{split} by {top}' for top, split in pairs)})"


def _top_folder(source: str) -> str:
    return PurePosixPath(source).parts[0] if "/" in source else ""


def _by_lists(listing: Listing, lists: Mapping[str, Path]) -> dict[str, str]:
    """Source to split; a line names a source, or one of its items."""
    sources = {rejected.source: rejected.source for rejected in listing.rejected}
    sources |= {item.name: item.source for item in listing.items}
    sources |= {item.source: item.source for item in listing.items}
    fixed: dict[str, str] = {}
    for split, file in lists.items():
        if split not in SPLITS:
            raise ValueError(f"split list {file}: unknown split {split!r}; use {', '.join(SPLITS)}")
        for name in _read_list(file):
            if name not in sources:
                raise ValueError(
                    f"split list {file}: no file {name!r} in the packed folder; correct or remove the line"
                )
            source = sources[name]
            if fixed.setdefault(source, split) != split:
                raise ValueError(
                    f"split list {file}: {source!r} is in {fixed[source]} too; leave it in one list"
                )
    return fixed


def _read_list(file: Path) -> list[str]:
    try:
        text = file.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise ValueError(f"split list {file}: cannot be read ({error.strerror}); check the path") from error
    return [PurePosixPath(line.strip()).as_posix() for line in text.splitlines() if line.strip()]
