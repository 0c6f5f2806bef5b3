"""Which of the encoded clips go into the data set, in which split, and under which key."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shards.keys import keys_for
from shards.leaks import Found, compare, merged, stack
from shards.records import SPLITS, NearDuplicate, Rejected
from shards.splits import SplitPlan, settle, with_counts
from shards.spool import ClipSummary, PartSummary
from shards.writing import ChosenClip

SPLITS_KEPT_FIRST = ("test", "val", "train")
"""Of two equal clips the one in the earlier split stays: benchmarks stay complete."""
COMPARISONS = (("val", "test"), ("train", "val"), ("train", "test"))
"""A leak is from the first to the second. In this order, so that what is removed from val counts no more."""


@dataclass(frozen=True)
class Selection:
    """What is to be written, and what has to be said about it."""

    clips: tuple[ChosenClip, ...]
    """Sorted by split and key."""
    split_rule: str
    rejected: tuple[Rejected, ...]
    near_duplicates: tuple[NearDuplicate, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A clip and where it comes from."""

    part: PartSummary
    number: int

    @property
    def clip(self) -> ClipSummary:
        return self.part.clips[self.number]


def select(
    parts: Iterable[PartSummary],
    splits: SplitPlan,
    fractions: Mapping[str, float],
    *,
    drop_leaks: bool,
    on_compared: Callable[[float], None],
) -> Selection:
    """Decides by the content of the clips alone, whatever the order in which they were encoded.

    Args:
        parts: Of all items.
        splits: How the splits are chosen.
        fractions: Share of each split, where fractions decide.
        drop_leaks: Leave out what is nearly the same as a clip that is held out.
        on_compared: Called with the share of comparisons that is done.
    """
    found = [_Candidate(part, number) for part in parts for number in range(len(part.clips))]
    kept, equal = _without_equals(found, splits.fixed)
    assigned, rule = settle(splits, sorted({candidate.part.source for candidate in kept}), fractions)
    keys = keys_for(candidate.clip.name for candidate in kept)
    by_key = {keys[candidate.clip.name]: candidate for candidate in kept}
    assert len(by_key) == len(kept), "two clips of one name"
    split_of = {key: assigned[candidate.part.source] for key, candidate in by_key.items()}
    leaks, dropped = _leaks(by_key, split_of, drop=drop_leaks, on_compared=on_compared)
    pairs, total = merged(leaks)
    chosen = sorted((SPLITS.index(split_of[key]), key) for key in by_key if key not in dropped)
    clips = tuple(_chosen(key, SPLITS[split], by_key[key]) for split, key in chosen)
    sources = {clip.source: clip.split for clip in clips}
    leaked = [Rejected(by_key[key].clip.name, reason) for key, reason in dropped.items()]
    return Selection(
        clips,
        with_counts(rule, sources.values()),
        (*equal, *leaked),
        pairs,
        (_capped(total, len(pairs)),) if total > len(pairs) else (),
    )


def _without_equals(
    found: Sequence[_Candidate], fixed: Mapping[str, str] | None
) -> tuple[list[_Candidate], list[Rejected]]:
    """The first of all clips with the same pixels, and the others with the reason."""

    def rank(candidate: _Candidate) -> tuple[int, str]:
        split = 0 if fixed is None else SPLITS_KEPT_FIRST.index(fixed[candidate.part.source])
        return split, candidate.clip.name

    first: dict[str, _Candidate] = {}
    equal: list[Rejected] = []
    for candidate in sorted(found, key=rank):
        clip = candidate.clip
        before = first.setdefault(clip.digest, candidate)
        if before is not candidate:
            equal.append(Rejected(clip.name, f"same pixels as {before.clip.name}"))
    return list(first.values()), equal


def _leaks(
    by_key: Mapping[str, _Candidate],
    split_of: Mapping[str, str],
    *,
    drop: bool,
    on_compared: Callable[[float], None],
) -> tuple[dict[tuple[str, str], Found], dict[str, str]]:
    """Clips that are nearly the same as one of a later split, and those that are left out for it, with the reason."""
    keys = {split: sorted(key for key in by_key if split_of[key] == split) for split in SPLITS}
    leaks: dict[tuple[str, str], Found] = {}
    dropped: dict[str, str] = {}
    work = [len(keys[learnt]) * len(keys[held]) for learnt, held in COMPARISONS]
    for number, (learnt, held) in enumerate(COMPARISONS):
        first, second = (
            stack(some, [by_key[key].clip.thumbnails for key in some])
            for some in ([key for key in keys[split] if key not in dropped] for split in (learnt, held))
        )

        def on_block(done: int, total: int, number: int = number) -> None:
            on_compared((sum(work[:number]) + work[number] * done / total) / max(1, sum(work)))

        found = compare(first, second, on_block=on_block)
        if drop:
            for key, pair in found.closest.items():
                likeness = f"similarity {pair.similarity:.3f}"
                dropped[key] = f"nearly the same as {pair.second} in {held} ({likeness})"
        else:
            leaks[learnt, held] = found
    on_compared(1.0)
    return leaks, dropped


def _chosen(key: str, split: str, candidate: _Candidate) -> ChosenClip:
    part = candidate.part
    return ChosenClip(split, key, part.source, part.stamp, candidate.number, candidate.clip.piece)


def _capped(total: int, listed: int) -> str:
    return (
        f"{total} pairs of clips in different splits are nearly the same; the {listed} most alike are listed. "
        "Split by larger units, or leave out what leaks with --drop-leaks"
    )
