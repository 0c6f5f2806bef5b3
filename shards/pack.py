"""A source into a packed data set: encoded in parallel, split, checked for leaks, written to tar shards.

Three phases, each of which goes on where a killed process left it: *reading* encodes every item into a spool
(`shards.spool`), *checking* decides which clip goes where (`shards.selection`), *writing* moves the clips into shards
(`shards.writing`). The folder appears when all is done (`shards.staging`). What is written depends on the source and
the options alone: not on time, machine, number of processes, or interruptions.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

from shards.manifest import DATASET_FILE, Dataset, Description, load, save
from shards.profiles import PROFILES
from shards.records import Rejected, Sample
from shards.selection import Selection, select
from shards.sources import SOURCES, Listing, SourceOptions
from shards.splits import DEFAULT_FRACTIONS, SplitPlan, plan
from shards.spool import PartSettings, PartSummary, PartTask, clear, make_part
from shards.staging import NEW, SPOOL, commit, staged
from shards.workers import WorkerDiedError, refuse_in_a_starting_worker, run_all
from shards.writing import Journal, ShardPlan, write_shards

SIZES = {"png-banded": 0.58, "png-keep": 0.3, "raw": 1.0, "webp": 0.39}
"""About how large pictures become, as a share of 8-bit RGB. Measured on 100 photographs of BSDS500, where the PNGs
differ from 0.3 to 0.8; kept files are 0.16 as JPEG and about 0.5 as PNG."""
MEASURED_ITEMS = 500
"""So many items, evenly spread, are asked for their size; the others are taken to be alike."""
BYTES_PER_JOB = 16 * 2**20
"""Of uncompressed pictures: with less for each, starting another process takes longer than it saves."""


@dataclass(frozen=True)
class PackOptions:
    """What the user may choose."""

    split: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_FRACTIONS))
    """Share of the sources in each split, adding up to 1."""
    split_lists: dict[str, Path] = field(default_factory=dict)
    """Split to a text file with one relative path a line; sources in no list are rejected."""
    shard_bytes: int = 256 * 2**20
    """A shard is closed before it would grow beyond this; a single larger sample gets its own."""
    force: bool = False
    """Replace a data set that is already there."""
    profile: str = "png-banded"
    """How pictures are stored, a name of `PROFILES`."""
    clips: SourceOptions = field(default_factory=SourceOptions)
    """How a source is cut into clips."""
    jobs: int | None = None
    """Processes that encode; None: one for each processor that this one may use, fewer for little work."""
    drop_leaks: bool = False
    """Leave out clips of train and val that are nearly the same as one that is held out from them."""


@dataclass(frozen=True)
class PackProgress:
    """How far it is."""

    phase: str
    """"reading", "checking" or "writing"."""
    done: int
    """Items read, percent checked, or clips written."""
    total: int
    bytes_written: int
    """By this phase, encoded; those of earlier processes included."""
    rate: float
    """Items or clips a second, without those of earlier processes; 0 until it is known."""
    seconds_left: float | None
    """Of this phase; None until it can be told."""
    current: str
    """The item or clip just done."""
    taken_over: int
    """How many of those done an earlier, killed process had done already."""


class PackInterrupted(KeyboardInterrupt):
    """Stopped by the user. Its text says how to go on."""


def pack(
    kind: str,
    path: Path | None,
    out: Path,
    options: PackOptions,
    *,
    on_progress: Callable[[PackProgress], None],
    on_warning: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """Packs a source into the folder `out`, which appears complete or not at all.

    After a kill, an interrupt or a full disk the same call goes on with what was done.

    Args:
        kind: A name in `SOURCES`.
        path: Where the source's files are; None for a source that needs no path.
        out: The folder to create.
        options: Clips, profile, splits, shard size, processes, and whether to replace.
        on_progress: Called after each item, comparison and clip.
        on_warning: Called with what the user should know, before the work it concerns; it is in the description too.

    Raises:
        ValueError: An option or path is wrong, `out` exists, the disk is too full, or no picture is usable; or a
            process was killed for want of memory.
        PackInterrupted: The user pressed Ctrl-C.
    """
    refuse_in_a_starting_worker()
    _check_options(kind, options)
    out = out.resolve()
    _check_place(path, out, force=options.force)
    listing = SOURCES[kind].list(path, options.clips)
    for text in listing.warnings:
        on_warning(text)
    splits = plan(listing, options.split, options.split_lists)
    raw_bytes = _raw_bytes(splits)
    place = "" if path is None else str(path.resolve())
    settings = PartSettings(options.profile, options.clips, listing.lr_scale, place)
    _check_space(out, int(raw_bytes * SIZES.get(options.profile, 1.0)), options.shard_bytes)
    with staged(out, json.dumps([kind, asdict(settings)], sort_keys=True)) as folder:
        _check_place(path, out, force=options.force)  # Again: a killed replacement may have been undone.
        work = _Packing(listing, splits, settings, options, folder, on_progress, raw_bytes)
        with _explained(out, work):
            parts = work.read()
            rejected = [*listing.rejected, *splits.rejected, *(r for part in parts for r in part.rejected)]
            if not any(part.clips for part in parts):
                clear(folder / SPOOL, keep=set())
                raise ValueError(_nothing_usable(kind, path, sorted(rejected, key=_order)))
            selection = work.check(parts)
            for text in selection.warnings:
                on_warning(text)
            work.write(parts, selection, sorted([*rejected, *selection.rejected], key=_order))
            commit(folder, out)
    return load(out)


class _Ticker:
    """Makes the progress of one phase."""

    def __init__(self, phase: str, total: int, on_progress: Callable[[PackProgress], None]) -> None:
        self.phase, self.total, self.on_progress = phase, total, on_progress
        self.started = monotonic()
        self.done = self.taken_over = self.num_bytes = 0

    def tick(self, current: str, *, num_bytes: int = 0, taken_over: bool = False) -> None:
        """One more is done."""
        self.taken_over += taken_over
        self.num_bytes += num_bytes
        self.jump(self.done + 1, current)

    def jump(self, done: int, current: str) -> None:
        """So many are done."""
        self.done = done
        seconds = monotonic() - self.started
        own = done - self.taken_over
        rate = own / seconds if own and seconds > 0 else 0.0
        left = (self.total - done) / rate if rate else None
        self.on_progress(
            PackProgress(self.phase, done, self.total, self.num_bytes, rate, left, current, self.taken_over)
        )


@dataclass
class _Packing:
    """One packing and its phases, in the order of its methods."""

    listing: Listing
    splits: SplitPlan
    settings: PartSettings
    options: PackOptions
    folder: Path
    on_progress: Callable[[PackProgress], None]
    raw_bytes: int
    kept: int = 0
    """Items whose parts are in the spool."""

    @property
    def jobs(self) -> int:
        """Processes to encode with."""
        items = max(1, len(self.splits.items))
        if self.options.jobs is not None:
            return min(self.options.jobs, items)
        return min(available_cpus(), items, 1 + self.raw_bytes // BYTES_PER_JOB)

    def read(self) -> list[PartSummary]:
        """Encodes every item that is not in the spool yet."""
        spool = self.folder / SPOOL
        clear(spool)
        tasks = [PartTask(item, self.settings, spool) for item in self.splits.items]
        ticker = _Ticker("reading", len(tasks), self.on_progress)
        parts = self._encode(tasks, ticker)
        clear(spool, keep={part.stamp for part in parts})
        return parts

    def check(self, parts: Sequence[PartSummary]) -> Selection:
        """Decides what goes where."""
        ticker = _Ticker("checking", 100, self.on_progress)
        return select(
            parts,
            self.splits,
            self.options.split,
            drop_leaks=self.options.drop_leaks,
            on_compared=lambda share: ticker.jump(round(100 * share), ""),
        )

    def write(self, parts: Sequence[PartSummary], selection: Selection, rejected: Sequence[Rejected]) -> None:
        """Writes the shards and describes them."""
        new, spool = self.folder / NEW, self.folder / SPOOL
        shard_plan = ShardPlan(selection.clips, spool, self.options.shard_bytes)
        journal = Journal(self.folder, new, selection.clips, self.options.shard_bytes)
        self._encode_missing(parts, shard_plan, journal)
        ticker = _Ticker("writing", len(selection.clips), self.on_progress)

        def on_sample(sample: Sample, written: bool) -> None:
            num_bytes = sum(member.size for member in sample.members)
            ticker.tick(sample.key, num_bytes=num_bytes, taken_over=not written)

        shards = write_shards(shard_plan, new, journal, on_sample=on_sample)
        description = Description(
            self.listing.name,
            selection.split_rule,
            self.options.profile,
            self.listing.lr_scale,
            tuple(rejected),
            selection.near_duplicates,
            (*self.listing.warnings, *selection.warnings),
        )
        save(new, description, shards, (placed.sample for placed in shard_plan.samples()))

    def _encode(self, tasks: Sequence[PartTask], ticker: _Ticker) -> list[PartSummary]:
        parts: dict[int, PartSummary] = {}
        for number, part in run_all(make_part, tasks, jobs=self.jobs):
            parts[number] = part
            self.kept = max(self.kept, len(parts))
            ticker.tick(tasks[number].item.name, num_bytes=part.num_bytes, taken_over=part.taken_over)
        return [parts[number] for number in range(len(tasks))]

    def _encode_missing(self, parts: Sequence[PartSummary], shard_plan: ShardPlan, journal: Journal) -> None:
        """Encodes anew what an earlier process has removed from the spool, and this one cannot find in a shard.

        That is so if it wrote other shards, because other options were given or the source was another.
        """
        missing = {(part.stamp, piece) for part in parts for piece in part.missing}
        if not missing:
            return
        wanted = {
            placed.clip.stamp
            for placed in shard_plan.samples()
            if placed.sample.shard not in journal.done and (placed.clip.stamp, placed.clip.piece) in missing
        }
        pairs = [(p, item) for p, item in zip(parts, self.splits.items, strict=True) if p.stamp in wanted]
        tasks = [PartTask(item, self.settings, self.folder / SPOOL, anew=True) for _, item in pairs]
        again = self._encode(tasks, _Ticker("reading", len(tasks), self.on_progress))
        for (before, item), after in zip(pairs, again, strict=True):
            if (before.stamp, before.clips) != (after.stamp, after.clips):
                raise ValueError(f"{item.name}: changed while it was packed; run the same command again")


def available_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_options(kind: str, options: PackOptions) -> None:
    if kind not in SOURCES:
        raise ValueError(f"source: unknown {kind!r}; use one of {', '.join(sorted(SOURCES))}")
    if options.profile not in PROFILES:
        raise ValueError(f"profile: unknown {options.profile!r}; use one of {', '.join(PROFILES)}")
    if options.shard_bytes < 1:
        raise ValueError(f"shard_bytes: must be positive, got {options.shard_bytes}; 268435456 is usual")
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"jobs: must be 1 or more, got {options.jobs}; leave it out to use all processors")


def _check_place(path: Path | None, out: Path, *, force: bool) -> None:
    if path is not None:
        source = path.resolve()
        if out.is_relative_to(source) or source.is_relative_to(out):
            raise ValueError(
                f"{out}: it and the packed folder {source} lie inside each other; choose another place for it"
            )
    if not out.exists():
        return
    if not force:
        raise ValueError(f"{out}: exists already; choose another place, or replace it with --force")
    if not out.is_dir() or (any(out.iterdir()) and not (out / DATASET_FILE).is_file()):
        raise ValueError(
            f"{out}: exists and is not a packed data set, so it is not replaced; remove it yourself"
        )


def _raw_bytes(splits: SplitPlan) -> int:
    """About how many bytes all clips have uncompressed."""
    step = -(-len(splits.items) // MEASURED_ITEMS) or 1
    measured = splits.items[::step]
    known = sum(item.estimated_bytes() for item in measured)
    return known * len(splits.items) // max(1, len(measured))


def _check_space(out: Path, expected: int, shard_bytes: int) -> None:
    """A rough estimate beforehand is better than a full disk after an hour."""
    leftover = out.parent / f".{out.name}.packing"
    there = sum(file.stat().st_size for file in leftover.rglob("*") if file.is_file())
    # One copy, and a shard that is written while its clips are still in the spool.
    needed = expected + min(expected, shard_bytes) - there
    parent = next(folder for folder in out.parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise ValueError(
            f"{out}: about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
            "free some or choose another disk"
        )


@contextmanager
def _explained(out: Path, work: _Packing) -> Iterator[None]:
    """Turns what stops a packing from outside into words that say how to go on."""
    kept = f"{work.folder} keeps what is done"
    try:
        yield
    except KeyboardInterrupt:
        raise PackInterrupted(
            f"{out}: stopped with {work.kept} of {len(work.splits.items)} items encoded; {kept}, "
            "and the same command goes on from there"
        ) from None
    except WorkerDiedError:
        raise ValueError(
            f"{out}: a process that encodes was killed with {work.kept} of {len(work.splits.items)} items done, "
            f"mostly a sign of too little memory; {kept}: run the same command again, with fewer processes "
            f"(--jobs {max(1, work.jobs // 2)})"
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        what, fix = f"cannot be written ({reason}: {error.filename or work.folder})", "correct that"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what, fix = f"the disk is full ({reason})", "free some space"
        raise ValueError(f"{out}: {what}; {kept}: {fix} and run the same command again") from error


def _order(rejected: Rejected) -> tuple[str, str]:
    return rejected.source, rejected.reason


def _nothing_usable(kind: str, path: Path | None, rejected: Sequence[Rejected]) -> str:
    reasons = "; ".join(f"{r.source}: {r.reason}" for r in rejected[:5]) or "it holds no files"
    more = f" and {len(rejected) - 5} more" if len(rejected) > 5 else ""
    layout = SOURCES[kind].layout
    return f"{path or kind}: no usable picture ({reasons}{more}); the source '{kind}' reads: {layout}"
