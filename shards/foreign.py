"""Makes a data set of WebDataset tars that others wrote: the index beside them, the tars untouched.

Truncation, damage, repeated keys, missing frames, unsafe names and bombs are found here, once and by name, instead
of in the middle of a training run.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from shards.agreement import (
    SplitChoice,
    agreeing,
    check_choice,
    distinct,
    found_in,
    listed,
    near_duplicates,
    shape_of,
    split_in_name,
    unequal,
    with_splits,
)
from shards.grouping import RoleChoice
from shards.manifest import DATASET_FILE, INDEX_FILE, Dataset, Description, load, save
from shards.records import SPLITS, NearDuplicate, Rejected, Sample, Shard
from shards.scan import COMPRESSED
from shards.survey import Survey, damage_of, packed_profile, survey
from shards.workers import WorkerDiedError, refuse_in_a_starting_worker, run_all

FOREIGN = "foreign"
"""The profile of tars that were not written here."""
COMPRESSED_ENDINGS = (
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz2",
    ".tar.xz",
    ".txz",
    ".tar.zst",
    ".tar.lz4",
    ".zip",
)
SMALL_BYTES = 64 * 2**20
"""Tars that take less are read in one process: starting others takes longer."""
MAX_NAMED = 5


@dataclass(frozen=True)
class IndexOptions:
    """What the user may choose."""

    splits: SplitChoice = field(default_factory=SplitChoice)
    roles: RoleChoice = field(default_factory=RoleChoice)
    force: bool = False
    """Replace the index that is there."""
    keep_going: bool = False
    """Of a damaged tar, use what stands in front of the damage."""
    jobs: int | None = None
    """Processes; None: as many as there are cores, one where there is little to read."""
    check_leaks: bool = True
    """Compare all clips of different splits, which takes hours for a million of them."""


@dataclass(frozen=True)
class IndexProgress:
    """Bytes of tars done of all, and what was just done."""

    phase: str
    """"reading" tars, or "checking" the splits for leaks."""
    done: int
    total: int
    current: str


def index_foreign(
    root: Path, options: IndexOptions, *, on_progress: Callable[[IndexProgress], None]
) -> Dataset:
    """Writes `dataset.json` and `index.bin` for the tars of a folder. They appear complete or not at all.

    Every picture is decoded once. A sample that is not usable is among the `rejected`, with its reason: broken or
    too large pictures, frames that are missing or of different sizes, members that are not side by side, unsafe
    names; so is one that has another number of frames, or another scale, than most have. What each picture is for
    is decided as `shards.grouping` says. A sample's source is what its JSON calls "source", else its key.

    Args:
        root: Folder with the tars, not in subfolders.
        options: Splits, roles, and what to do about damage.
        on_progress: Called after each tar and block of comparisons.

    Raises:
        ValueError: There are no tars, or compressed or damaged ones, or an index already, or no usable sample.
    """
    refuse_in_a_starting_worker()
    root = root.resolve()
    check_choice(options.splits)
    tars = _tars(root, force=options.force)
    jobs = _jobs(tars, options.jobs)
    try:
        if not options.keep_going:
            _refuse_damage(tars, jobs)
        surveys = _survey_all(tars, options.roles, jobs, on_progress)
    except WorkerDiedError:
        raise ValueError(
            f"{root}: a process that read tars was killed, mostly for want of memory; try again with --jobs 1"
        ) from None
    rejected = [row for one in surveys for row in one.rejected]
    rejected += [
        Rejected(one.file, "an empty tar") for one in surveys if not one.samples and not one.rejected
    ]
    found = [sample for one in surveys for sample in found_in(one)]
    for step in (agreeing, distinct, partial(unequal, choice=options.splits)):
        found, more = step(found)
        rejected += more
    rejected.sort(key=lambda row: (row.source, row.reason))
    if not found:
        raise ValueError(_nothing_usable(root, rejected))
    found, rule = with_splits(found, options.splits)
    size = sum(one.size for one in surveys)
    leaks = ()
    if options.check_leaks:
        leaks = near_duplicates(
            found, on_compared=lambda what: on_progress(IndexProgress("checking", size, size, what))
        )
    return _write(root, surveys, [one.sample for one in found], rejected, leaks, rule)


def _tars(root: Path, *, force: bool) -> list[Path]:
    """All tars of the folder, by name."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; name the one that holds the tars")
    there = [name for name in (DATASET_FILE, INDEX_FILE) if (root / name).exists()]
    if there and not force:
        raise ValueError(
            f"{root}: has a file {there[0]} already; replace it with --force, which leaves the tars as they are"
        )
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    compressed = [name for name in names if name.lower().endswith(COMPRESSED_ENDINGS)]
    if compressed:
        tools = ", ".join(tool for _, tool in COMPRESSED.values())
        raise ValueError(
            f"{root}: {listed(compressed)} compressed, so no member can be read alone; uncompress to plain .tar "
            f"files ({tools}), or move away what is no part of the data set"
        )
    tars = [root / name for name in names if name.lower().endswith(".tar") and (root / name).is_file()]
    unprintable = [path.name for path in tars if not path.name.isprintable()]
    if unprintable:
        raise ValueError(
            f"{root}: the name {unprintable[0]!a} holds letters that cannot be shown; rename that tar"
        )
    if tars:
        return tars
    nested = sorted({path.parent.name for path in root.glob("*/*.tar")})
    if nested:
        raise ValueError(
            f"{root}: {listed(nested)} where its tars lie; index each of these, or move all tars into one folder, "
            "with the split in front of their names as in train-000000.tar"
        )
    raise ValueError(f"{root}: holds no .tar files; make some with: srloss shard pack folder PICTURES OUT")


def _jobs(tars: Sequence[Path], jobs: int | None) -> int:
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: must be 1 or more, got {jobs}")
    if jobs is None:
        is_small = sum(path.stat().st_size for path in tars) < SMALL_BYTES
        jobs = 1 if is_small else len(os.sched_getaffinity(0))
    return min(jobs, len(tars))


def _refuse_damage(tars: Sequence[Path], jobs: int) -> None:
    """All tars by their headers first: an hour of decoding before the first complaint helps nobody."""
    damages = sorted(
        (tars[number].name, what) for number, what in run_all(damage_of, tars, jobs=jobs) if what
    )
    if damages:
        named = "; ".join(f"{name}: {what}" for name, what in damages[:MAX_NAMED])
        more = f"; and {len(damages) - MAX_NAMED} more tars" if len(damages) > MAX_NAMED else ""
        raise ValueError(
            f"{tars[0].parent}: {named}{more}; copy or write these again, or use what stands in front of the "
            "damage with --keep-going"
        )


def _survey_all(
    tars: Sequence[Path], roles: RoleChoice, jobs: int, on_progress: Callable[[IndexProgress], None]
) -> list[Survey]:
    surveys: dict[int, Survey] = {}
    total, done = sum(path.stat().st_size for path in tars), 0
    for number, one in run_all(partial(survey, choice=roles), tars, jobs=jobs):
        surveys[number] = one
        done += one.size
        on_progress(IndexProgress("reading", done, total, one.file))
    return [surveys[number] for number in range(len(tars))]


def _write(
    root: Path,
    surveys: Sequence[Survey],
    samples: Sequence[Sample],
    rejected: Sequence[Rejected],
    leaks: tuple[NearDuplicate, ...],
    rule: str,
) -> Dataset:
    counts = Counter((sample.shard, sample.split) for sample in samples)
    shards = [_shard(one, {split: counts[one.file, split] for split in SPLITS}) for one in surveys]
    shards.sort(key=lambda shard: (SPLITS.index(shard.split), shard.file))
    packed_here = not rejected and all(sample.split for one in surveys for sample in one.samples)
    description = Description(
        name=root.name or "root",
        split_rule=rule,
        profile=packed_profile(samples) if packed_here else FOREIGN,
        lr_scale=shape_of(samples[0])[1],
        rejected=tuple(rejected),
        near_duplicates=leaks,
        warnings=tuple(remark for one in surveys for remark in one.remarks[:MAX_NAMED]),
    )
    try:
        _replace_sidecars(root, description, shards, samples)
    except OSError as error:
        raise ValueError(
            f"{root}: the index cannot be written ({error.strerror}); check permissions and space"
        ) from error
    return load(root)


def _shard(one: Survey, counts: dict[str, int]) -> Shard:
    # With splits by hash a tar holds samples of several; it is called after the one with the most.
    split = max(SPLITS, key=lambda split: (counts[split], split == split_in_name(one.file)))
    return Shard(one.file, split, one.size, one.sha256, sum(counts.values()))


def _replace_sidecars(
    root: Path, description: Description, shards: Sequence[Shard], samples: Sequence[Sample]
) -> None:
    folder = Path(tempfile.mkdtemp(prefix=".indexing-", dir=root))
    try:
        save(folder, description, shards, samples)
        # Rather no data set for a moment than one whose two files do not agree.
        (root / DATASET_FILE).unlink(missing_ok=True)
        (folder / INDEX_FILE).rename(root / INDEX_FILE)
        (folder / DATASET_FILE).rename(root / DATASET_FILE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    descriptor = os.open(root, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _nothing_usable(root: Path, rejected: Sequence[Rejected]) -> str:
    reasons = "; ".join(f"{row.source}: {row.reason}" for row in rejected[:MAX_NAMED])
    more = f"; and {len(rejected) - MAX_NAMED} more" if len(rejected) > MAX_NAMED else ""
    return (
        f"{root}: no usable sample ({reasons}{more}); give tars with pictures such as KEY.png or KEY.im1.png"
    )
