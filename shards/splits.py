"""Which picture goes to train, val or test."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.keys import path_digest
from shards.records import SPLITS, Rejected
from shards.sources import Listing

DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class SplitPlan:
    """How the splits will be chosen; `fixed` is None where fractions decide, once the pictures are known."""

    rule: str
    fixed: dict[str, str] | None
    rejected: tuple[Rejected, ...] = ()


def plan(listing: Listing, fractions: Mapping[str, float], lists: Mapping[str, Path]) -> SplitPlan:
    """Chooses between the source's own splits, folders named train and test or val, lists, and fractions.

    Raises:
        ValueError: A fraction or list is wrong, or would have no effect.
    """
    _check_fractions(fractions)
    has_own = "source 'photos' fixes its own splits" if listing.splits else None
    if not has_own and _by_folder(listing.files):
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
        return SplitPlan("fixed by the source", listing.splits)
    if has_own:
        fixed = _by_folder(listing.files)
        outside = [
            Rejected(f, "outside of the top folders train, val and test")
            for f in listing.files
            if f not in fixed
        ]
        return SplitPlan("by top folder", fixed, tuple(outside))
    if lists:
        return _by_lists(listing, lists)
    shares = ", ".join(f"{split} {fractions.get(split, 0):g}" for split in SPLITS)
    return SplitPlan(f"by sha256 of the relative path ({shares})", None)


def settle(
    chosen: SplitPlan, sources: Iterable[str], fractions: Mapping[str, float]
) -> tuple[dict[str, str], str]:
    """The split of every usable picture, and in words how it came about."""
    moved: list[str] = []
    if chosen.fixed is not None:
        assigned = {source: chosen.fixed[source] for source in sources}
    else:
        assigned = {source: by_fraction(source, fractions) for source in sources}
        moved = _fill_empty(assigned, fractions)
    counts = {split: sum(given == split for given in assigned.values()) for split in SPLITS}
    words = [chosen.rule, *moved, ", ".join(f"{count} in {split}" for split, count in counts.items())]
    return assigned, "; ".join(words)


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


def _by_folder(files: Iterable[str]) -> dict[str, str]:
    """Relative path to split by its top folder; empty unless train and one more are there."""
    tops = {source: PurePosixPath(source).parts[0].lower() for source in files if "/" in source}
    found = {source: SPLIT_FOLDERS[top] for source, top in tops.items() if top in SPLIT_FOLDERS}
    return found if "train" in found.values() and len(set(found.values())) > 1 else {}


def _by_lists(listing: Listing, lists: Mapping[str, Path]) -> SplitPlan:
    fixed: dict[str, str] = {}
    known = {*listing.files, *(rejected.source for rejected in listing.rejected)}
    for split, file in lists.items():
        if split not in SPLITS:
            raise ValueError(f"split list {file}: unknown split {split!r}; use {', '.join(SPLITS)}")
        for source in _read_list(file):
            if source not in known:
                raise ValueError(
                    f"split list {file}: no file {source!r} in the packed folder; correct or remove the line"
                )
            if fixed.setdefault(source, split) != split:
                raise ValueError(
                    f"split list {file}: {source!r} is in {fixed[source]} too; leave it in one list"
                )
    rejected = tuple(Rejected(source, "in no split list") for source in listing.files if source not in fixed)
    names = ", ".join(f"{split} by {file.name}" for split, file in sorted(lists.items()))
    return SplitPlan(
        f"by split lists ({names})", {s: split for s, split in fixed.items() if s in listing.files}, rejected
    )


def _read_list(file: Path) -> list[str]:
    try:
        text = file.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise ValueError(f"split list {file}: cannot be read ({error.strerror}); check the path") from error
    return [PurePosixPath(line.strip()).as_posix() for line in text.splitlines() if line.strip()]
