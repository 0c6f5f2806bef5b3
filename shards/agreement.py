"""What the samples of many tars must have in common to be one data set: shape, distinct keys, splits."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shards.leaks import compare, merged, stack
from shards.records import SPLITS, NearDuplicate, Rejected, Sample
from shards.scan import shown
from shards.splits import DEFAULT_FRACTIONS, SPLIT_FOLDERS, SplitPlan, settle, with_counts
from shards.survey import Survey, lr_scale

SPLITS_KEPT_FIRST = ("test", "val", "train", "")
"""Of two equal samples the one in the earlier split stays: benchmarks stay complete."""
COMPARISONS = (("val", "test"), ("train", "val"), ("train", "test"))
"""Splits that must not show the same: the first is learnt from, the second held out."""
MAX_LISTED = 5


@dataclass(frozen=True)
class SplitChoice:
    """How the user wants the splits."""

    split: str | None = None
    """All samples are in this one; None: the samples, the names of the tars or the fractions decide."""
    fractions: Mapping[str, float] | None = None
    """Share of the sources in each split, by hash; None: `DEFAULT_FRACTIONS`, where nothing else decides."""


@dataclass(frozen=True)
class Found:
    """A usable sample and what is known of it besides."""

    sample: Sample
    thumbnails: tuple[bytes, ...]
    place: str
    """Its tar and the key that it has there, for messages."""


def check_choice(choice: SplitChoice) -> None:
    """Raises ValueError where it is none."""
    if choice.split is not None and choice.fractions is not None:
        raise ValueError("split: both one split for all and fractions were given; leave out one of them")
    if choice.split is not None and choice.split not in SPLITS:
        raise ValueError(f"split: unknown {choice.split!r}; use one of {', '.join(SPLITS)}")
    shares = choice.fractions
    if shares is None:
        return
    unknown = sorted(set(shares) - set(SPLITS))
    if unknown:
        raise ValueError(f"split: unknown {', '.join(unknown)}; use {', '.join(SPLITS)}")
    total = sum(shares.values())
    if not (min(shares.values(), default=-1) >= 0 and abs(total - 1) < 1e-6):
        raise ValueError(
            f"split: got fractions {dict(shares)} (sum {total:g}); choose numbers of 0 or more that add up to 1"
        )


def found_in(one: Survey) -> list[Found]:
    """The usable samples of a tar."""
    return [
        Found(sample, some, f"{one.file}: {shown(sample.key)}")
        for sample, some in zip(one.samples, one.thumbnails, strict=True)
    ]


def shape_of(sample: Sample) -> tuple[int, int]:
    """What all samples have in common: the number of frames, and the scale of the partners (0: none)."""
    return len(sample.frames), lr_scale(sample.frames, sample.lr_frames)


def agreeing(found: Sequence[Found]) -> tuple[list[Found], list[Rejected]]:
    """Those that have the shape of most, and the others with the reason."""
    if not found:
        return [], []
    shapes = [shape_of(one.sample) for one in found]
    usual, _ = Counter(shapes).most_common(1)[0]
    kept: list[Found] = []
    rejected: list[Rejected] = []
    for one, shape in zip(found, shapes, strict=True):
        if shape == usual:
            kept.append(one)
        else:
            what = f"has {_in_words(shape)}, most samples have {_in_words(usual)}"
            rejected.append(Rejected(one.place, what))
    return kept, rejected


def distinct(found: Sequence[Found]) -> tuple[list[Found], list[Rejected]]:
    """Every key once. Where several tars use one, as where each counts from 0, the tar's name comes in front."""
    counts = Counter(one.sample.key for one in found)
    taken = {key for key, count in counts.items() if count == 1}
    renamed: list[Found] = []
    rejected: list[Rejected] = []
    for one in found:
        sample = one.sample
        if counts[sample.key] == 1:
            renamed.append(one)
            continue
        key = f"{Path(sample.shard).stem}/{sample.key}"
        if key in taken:
            rejected.append(Rejected(one.place, f"another sample is called {shown(key)}"))
            continue
        taken.add(key)
        source = key if sample.source == sample.key else sample.source
        renamed.append(replace(one, sample=replace(sample, key=key, source=source)))
    return renamed, rejected


def unequal(found: Sequence[Found], choice: SplitChoice) -> tuple[list[Found], list[Rejected]]:
    """Those whose pictures no other sample has byte for byte, and the others with the reason."""
    given = _given_splits(found, choice) or [""] * len(found)
    order = sorted(range(len(found)), key=lambda number: SPLITS_KEPT_FIRST.index(given[number]))
    first: dict[tuple[tuple[str, int, int], ...], int] = {}
    rejected: list[Rejected] = []
    for number in order:
        one = found[number]
        pictures = tuple((m.role, m.crc32, m.size) for m in one.sample.members if m.role != "other")
        kept = first.setdefault(pictures, number)
        if kept != number:
            rejected.append(Rejected(one.place, f"the same pictures as {found[kept].place}"))
    return [found[number] for number in sorted(first.values())], rejected


def with_splits(found: Sequence[Found], choice: SplitChoice) -> tuple[list[Found], str]:
    """All samples with their split, and in words how it came about.

    Raises:
        ValueError: Some tars have a split in their names and others have none.
    """
    given = _given_splits(found, choice)
    if given is None:
        fractions = dict(DEFAULT_FRACTIONS if choice.fractions is None else choice.fractions)
        shares = ", ".join(f"{split} {fractions.get(split, 0):g}" for split in SPLITS)
        plan = SplitPlan(f"by sha256 of the source ({shares})", None, ())
        assigned, rule = settle(plan, sorted({one.sample.source for one in found}), fractions)
        given = [assigned[one.sample.source] for one in found]
    elif choice.split is not None:
        rule = f"all in {choice.split}, as chosen"
    elif all(one.sample.split for one in found):
        rule = "as written in the samples when they were packed"
    else:
        rule = "by the names of the tars"
    placed = [
        replace(one, sample=replace(one.sample, split=split)) for one, split in zip(found, given, strict=True)
    ]
    splits = {one.sample.source: one.sample.split for one in placed}
    return placed, with_counts(rule, splits.values())


def split_in_name(shard: str) -> str:
    """The split that a tar's name tells, as train-000000.tar does; "" where it tells none, or several."""
    words = re.split(r"[^a-z]+", Path(shard).stem.lower())
    splits = {SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS}
    return splits.pop() if len(splits) == 1 else ""


def near_duplicates(
    found: Sequence[Found], *, on_compared: Callable[[str], None]
) -> tuple[NearDuplicate, ...]:
    """Clips of different splits that show nearly the same, the most similar ones where there are very many.

    `on_compared` is called with what is compared just now, in words.
    """
    stacks = {}
    for split in SPLITS:
        some = sorted((one for one in found if one.sample.split == split), key=lambda one: one.sample.key)
        stacks[split] = stack([one.sample.key for one in some], [one.thumbnails for one in some])
    leaks = {}
    for learnt, held in COMPARISONS:

        def on_block(done: int, total: int, names: str = f"{learnt} with {held}") -> None:
            on_compared(f"{names}, {done} of {total}")

        leaks[learnt, held] = compare(stacks[learnt], stacks[held], on_block=on_block)
    return merged(leaks)[0]


def listed(names: Sequence[str]) -> str:
    """Some of the names, and "is" or "are"."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"{', '.join(names[:MAX_LISTED])}{more} {'is' if len(names) == 1 else 'are'}"


def _given_splits(found: Sequence[Found], choice: SplitChoice) -> list[str] | None:
    """The split of each sample where something fixes it; None where hashes will decide."""
    if choice.split is not None:
        return [choice.split] * len(found)
    if choice.fractions is not None:
        return None
    if all(one.sample.split for one in found):
        return [one.sample.split for one in found]
    by_name = {shard: split_in_name(shard) for shard in {one.sample.shard for one in found}}
    without = sorted(shard for shard, split in by_name.items() if not split)
    if len(without) == len(by_name):
        return None
    if without:
        raise ValueError(
            f"split: {listed(without)} without a split in the name (train, val or test), which other tars have; "
            "rename them, or choose with --split train or --split train=0.8,val=0.2"
        )
    return [by_name[one.sample.shard] for one in found]


def _in_words(shape: tuple[int, int]) -> str:
    frames, scale = shape
    pictures = "1 frame" if frames == 1 else f"{frames} frames"
    return f"{pictures} with partners of scale {scale}" if scale else pictures
