"""Pictures or sequences with low-resolution partners that are given, not made."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from shards.records import Rejected
from shards.sources.base import Listing, SourceOptions
from shards.sources.files import clip_length, folder_name, picture_size, refuse_options, require_folder
from shards.sources.frames import DEFAULT_FRAMES, REDS_FOLDERS, RunReport, reds_splits
from shards.sources.numbering import find_runs
from shards.sources.pictures import DIV2K_FOLDERS, div2k_splits
from shards.sources.sequence import Partners, SequenceItem
from shards.sources.walk import find_files

HIGH_NAMES = ("hr", "gt", "target", "high", "high_resolution")
LOW_NAMES = ("lr", "lq", "low_resolution", "low", "lr_bicubic", "bix4", "input")
"""The earlier ones are taken where several are there."""
HIGH_PATTERN = re.compile(r"(.+)_(?:HR|sharp)", re.IGNORECASE)
LOW_PATTERN = re.compile(r"(.+)_(?:LR|LR_.+|sharp_bicubic)", re.IGNORECASE)
"""As in DIV2K_train_HR and DIV2K_train_LR_bicubic, and as in REDS' train_sharp and train_sharp_bicubic."""
SPLIT_NAMES = ("train", "val", "valid", "validation", "test")
USUAL_SCALE = "x4"
HIGH_SUFFIX = re.compile(r"[_-]?(hr|gt)$", re.IGNORECASE)
LOW_SUFFIX = re.compile(r"[_-]?(x[0-9]|lr[0-9]?|lq)$", re.IGNORECASE)

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class _Sides:
    """Two folders that belong together, relative to the root of the source."""

    prefix: str
    """Of the names of items."""
    high: str
    low: str


@dataclass(frozen=True)
class _Pair:
    name: str
    """Of the item, where it is a single picture."""
    high: str
    """Both relative to the root of the source."""
    low: str


def list_paired(path: Path | None, options: SourceOptions) -> Listing:
    """Pictures and sequences of a high-resolution folder with their partners of a low-resolution folder.

    A folder below the high-resolution one that directly holds at least two pictures is a sequence, unless it
    is called train, val or test; all else are single pictures.

    Raises:
        ValueError: There are no such folders, nothing fits together, or an option is wrong or has no effect.
    """
    frames, stride = clip_length(options, DEFAULT_FRAMES)
    root = require_folder("paired", path, "folders HR and LR")
    sides, warnings = _find_sides(root)
    rejected: list[Rejected] = []
    pairs = [pair for side in sides for pair in _match(root, side, rejected)]
    pairs, scale = _with_one_scale(root, pairs, rejected)
    singles, sequences = _sorted_apart(pairs, sides)
    if not sequences:
        refuse_options(
            "paired", options, ("frames", "stride"), "it holds single pictures, no sequences of frames"
        )
    report = RunReport(rejected)
    items = [_single(root, pair, scale) for pair in singles]
    for name, members in sequences.items():
        by_file = {pair.high.rpartition("/")[2]: pair for pair in members}
        if runs := report.usable(name, find_runs(by_file), frames, stride):
            low_runs = tuple(tuple(by_file[file].low.rpartition("/")[2] for file in run) for run in runs)
            partners = Partners(members[0].low.rpartition("/")[0], low_runs, scale)
            high_folder = members[0].high.rpartition("/")[0]
            items.append(SequenceItem(name, root, high_folder, runs, frames, stride, partners))
    if scale == 1:
        warnings.append(
            "the low-resolution pictures have the size of the others (scale 1): nothing to upscale"
        )
    if sequences and options.frames is None:
        first = next(iter(sequences))
        warnings.append(
            f"{len(sequences)} folders of pictures (first: {first}) are taken as sequences of frames, in "
            f"clips of {frames}; "
            "choose frames=1 where they hold single pictures"
        )
    listing = Listing(
        folder_name(root),
        tuple(sorted(items, key=lambda item: item.name)),
        tuple(report.rejected),
        lr_scale=scale,
        warnings=(*warnings, *report.warnings(frames)),
    )
    highs = {side.high for side in sides}
    if highs & set(DIV2K_FOLDERS):
        return div2k_splits(listing)
    return reds_splits(listing) if highs & set(REDS_FOLDERS) else listing


def _find_sides(root: Path) -> tuple[list[_Sides], list[str]]:
    """The folders that belong together, at the top or in folders called train, val and test; and warnings."""
    warnings: list[str] = []
    sides = _sides_in(root, "", warnings)
    if not sides:
        for folder in _subfolders(root):
            if folder.lower() in SPLIT_NAMES:
                sides += _sides_in(root, f"{folder}/", warnings)
    if sides:
        return sides, warnings
    there = ", ".join(_subfolders(root)[:10]) or "no folders"
    raise ValueError(
        f"{root}: no two folders for high and low resolution (it holds {there}); call them HR and LR, or as "
        "in DIV2K: "
        "DIV2K_train_HR and DIV2K_train_LR_bicubic/X4"
    )


def _sides_in(root: Path, top: str, warnings: list[str]) -> list[_Sides]:
    highs: dict[str, list[str]] = defaultdict(list)
    lows: dict[str, list[str]] = defaultdict(list)
    unused: list[str] = []
    for folder in _subfolders(root / top):
        high, low = _key(folder, HIGH_NAMES, HIGH_PATTERN), _key(folder, LOW_NAMES, LOW_PATTERN)
        if high is not None:
            highs[high].append(folder)
        elif low is not None:
            lows[low].append(folder)
        elif folder.lower() not in SPLIT_NAMES:
            unused.append(f"{top}{folder}")
    sides: list[_Sides] = []
    for key, candidates in highs.items():
        if key not in lows:
            warnings.append(f"{top}{candidates[0]}: not used, there is no folder of low resolution beside it")
            continue
        high = _preferred(top, candidates, HIGH_NAMES, warnings)
        low = _preferred(top, lows[key], LOW_NAMES, warnings)
        low = _scale_folder(root, f"{top}{low}", warnings)
        sides.append(_Sides(f"{high}/" if key else top, f"{top}{high}", low))
    warnings += [
        f"{top}{folders[0]}: not used, there is no folder of high resolution beside it"
        for key, folders in lows.items()
        if key not in highs
    ]
    if sides and unused:
        warnings.append(f"{', '.join(unused)}: not used, by their names of neither high nor low resolution")
    return sides


def _key(folder: str, names: tuple[str, ...], pattern: re.Pattern[str]) -> str | None:
    """What two folders that belong together share: "DIV2K_train", "" for plain names; None: not such."""
    if folder.lower() in names:
        return ""
    match = pattern.fullmatch(folder)
    return match[1] if match else None


def _preferred(top: str, candidates: list[str], names: tuple[str, ...], warnings: list[str]) -> str:
    """One of several folders: by the order of names, then one that says bicubic, then the first."""

    def rank(folder: str) -> tuple[int, bool, str]:
        place = names.index(folder.lower()) if folder.lower() in names else len(names)
        return place, "bicubic" not in folder.lower(), folder

    chosen, *others = sorted(candidates, key=rank)
    if others:
        warnings.append(f"{top}{chosen} is used, and not {', '.join(others)} beside it")
    return chosen


def _scale_folder(root: Path, low: str, warnings: list[str]) -> str:
    """The folder X2, X3, X4 ... below a low-resolution folder, where it holds such."""
    scales = [folder for folder in _subfolders(root / low) if re.fullmatch(r"x[0-9]+", folder.lower())]
    if not scales:
        return low
    usual = [folder for folder in scales if folder.lower() == USUAL_SCALE]
    chosen = (usual or sorted(scales))[-1]
    if len(scales) > 1:
        others = ", ".join(folder for folder in scales if folder != chosen)
        warnings.append(
            f"{low}/{chosen} is used; for another scale ({others}) move the folders of the other scales away"
        )
    return f"{low}/{chosen}"


def _subfolders(folder: Path) -> list[str]:
    try:
        return sorted(one.name for one in folder.iterdir() if not one.name.startswith(".") and one.is_dir())
    except OSError as error:
        raise ValueError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def _match(root: Path, sides: _Sides, rejected: list[Rejected]) -> list[_Pair]:
    """The files of both folders by relative name, with and without what tells them apart; rejects others."""
    highs = _labels(root, sides.high, rejected)
    lows = _labels(root, sides.low, rejected)
    exact = {_stem(label): label for label in lows}
    loose: dict[str, str] = {}
    for label in lows:
        loose.setdefault(LOW_SUFFIX.sub("", _stem(label)), label)
    pairs: dict[str, _Pair] = {}
    for label in highs:
        stem = _stem(label)
        bare = HIGH_SUFFIX.sub("", stem)
        low = exact.get(stem) or loose.get(stem) or exact.get(bare) or loose.get(bare)
        if low is None:
            rejected.append(Rejected(f"{sides.high}/{label}", f"no partner in {sides.low}"))
        elif low in pairs:
            reason = f"{sides.low}/{low} is the partner of {pairs[low].high} already"
            rejected.append(Rejected(f"{sides.high}/{label}", reason))
        else:
            pairs[low] = _Pair(f"{sides.prefix}{label}", f"{sides.high}/{label}", f"{sides.low}/{low}")
    reason = f"no partner in {sides.high}, or another one is taken"
    rejected += [Rejected(f"{sides.low}/{label}", reason) for label in lows if label not in pairs]
    return list(pairs.values())


def _labels(root: Path, side: str, rejected: list[Rejected]) -> list[str]:
    """Names of pictures relative to one of the folders."""
    found = find_files(root / side)
    rejected += [Rejected(f"{side}/{one.source}", one.reason) for one in found.rejected]
    return list(found.files)


def _stem(label: str) -> str:
    folder, slash, file = label.rpartition("/")
    return f"{folder}{slash}{file.rpartition('.')[0]}"


def _with_one_scale(root: Path, pairs: list[_Pair], rejected: list[Rejected]) -> tuple[list[_Pair], int]:
    """The pairs of the commonest scale; others are rejected.

    Raises:
        ValueError: No pair has a whole number as its scale.
    """
    sizes = {pair: (picture_size(root / pair.high), picture_size(root / pair.low)) for pair in pairs}
    scales = {pair: _scale(high, low) for pair, (high, low) in sizes.items() if high and low}
    common = Counter(scale for scale in scales.values() if scale)
    if not common:
        raise ValueError(
            f"{root}: no picture is a whole number of times as large as its partner"
            f"{_example(rejected, sizes)}; check which files belong together"
        )
    scale = min(common, key=lambda one: (-common[one], one))
    kept: list[_Pair] = []
    for pair, (high, low) in sizes.items():
        if high and low and scales[pair] != scale:
            reason = f"{high[0]}x{high[1]} is not {scale} times the {low[0]}x{low[1]} of {pair.low}"
            rejected.append(Rejected(pair.high, reason))
        else:  # Where a header cannot be read, reading the file says why.
            kept.append(pair)
    return kept, scale


def _scale(high: Size, low: Size) -> int | None:
    scale = high[0] // low[0]
    return scale if scale and (low[0] * scale, low[1] * scale) == high else None


def _example(rejected: list[Rejected], sizes: dict[_Pair, tuple[Size | None, Size | None]]) -> str:
    for pair, (high, low) in sizes.items():
        if high and low:
            return f" ({pair.high} is {high[0]}x{high[1]}, {pair.low} is {low[0]}x{low[1]})"
    return f" ({rejected[0].source}: {rejected[0].reason})" if rejected else " (there are no pictures)"


def _sorted_apart(pairs: list[_Pair], sides: list[_Sides]) -> tuple[list[_Pair], dict[str, list[_Pair]]]:
    """Single pictures, and sequences by name."""
    tops = {side.high for side in sides}
    folders: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        folders[pair.high.rpartition("/")[0]].append(pair)
    singles: list[_Pair] = []
    sequences: dict[str, list[_Pair]] = {}
    for folder, members in sorted(folders.items()):
        parent, _, last = folder.rpartition("/")
        if folder in tops or len(members) < 2 or (parent in tops and last.lower() in SPLIT_NAMES):
            singles += members
        else:
            sequences[members[0].name.rpartition("/")[0]] = members
    return singles, sequences


def _single(root: Path, pair: _Pair, scale: int) -> SequenceItem:
    high_folder, _, high = pair.high.rpartition("/")
    low_folder, _, low = pair.low.rpartition("/")
    return SequenceItem(
        pair.name, root, high_folder, ((high,),), 1, 1, Partners(low_folder, ((low,),), scale)
    )
