"""Pictures into a packed data set: decoded, made 8-bit RGB, split, written to tar shards."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shards.keys import keys_for
from shards.manifest import DATASET_FILE, Dataset, fingerprint_of, load, save
from shards.picture import UnusablePictureError, encode_png, open_picture
from shards.records import SPLITS, Member, Rejected, Sample
from shards.sources import SOURCES, Listing
from shards.splits import DEFAULT_FRACTIONS, SplitPlan, plan, settle
from shards.staging import commit, staged
from shards.tars import ShardWriter

LOSSY_GROWTH = 8
"""About how many times larger a JPEG or WebP becomes as PNG."""
SPLITS_KEPT_FIRST = ("test", "val", "train")
"""Of two equal pictures the one in the earlier split stays: benchmarks stay complete."""


@dataclass(frozen=True)
class PackOptions:
    """What the user may choose."""

    split: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_FRACTIONS))
    """Share of the pictures in each split, adding up to 1."""
    split_lists: dict[str, Path] = field(default_factory=dict)
    """Split to a text file with one relative path a line; pictures in no list are rejected."""
    shard_bytes: int = 256 * 2**20
    """A shard is closed before it would grow beyond this; a single larger sample gets its own."""
    force: bool = False
    """Replace a data set that is already there."""


@dataclass(frozen=True)
class PackProgress:
    """Pictures done of all, bytes of PNG written so far, and the picture just done."""

    done: int
    total: int
    bytes_written: int
    current: str


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A picture that waits as PNG in the spool for its place in a shard."""

    file: Path
    width: int
    height: int
    notes: tuple[str, ...]


def pack(
    kind: str,
    path: Path | None,
    out: Path,
    options: PackOptions,
    *,
    on_progress: Callable[[PackProgress], None],
) -> Dataset:
    """Packs a source into the folder `out`, which appears complete or not at all.

    Args:
        kind: A name in `SOURCES`.
        path: Where the source's files are; None for a source that needs no path.
        out: The folder to create.
        options: Splits, shard size, and whether to replace.
        on_progress: Called after each picture.

    Raises:
        ValueError: An option or path is wrong, `out` exists, the disk is too full, or no picture is usable.
    """
    if kind not in SOURCES:
        raise ValueError(f"source: unknown {kind!r}; use one of {', '.join(sorted(SOURCES))}")
    if options.shard_bytes < 1:
        raise ValueError(f"shard_bytes: must be positive, got {options.shard_bytes}; 268435456 is usual")
    out = out.resolve()
    _check_place(path, out, force=options.force)
    listing = SOURCES[kind](path)
    splits = plan(listing, options.split, options.split_lists)
    _check_space(listing, out)
    with staged(out) as folder:
        encoded, rejected = _encode_all(listing, splits, folder / "spool", on_progress)
        rejected = sorted(
            [*listing.rejected, *splits.rejected, *rejected], key=lambda r: (r.source, r.reason)
        )
        if not encoded:
            raise ValueError(_nothing_usable(path, rejected))
        assigned, rule = settle(splits, encoded, options.split)
        _write(folder / "new", listing.name, encoded, assigned, rejected, rule, options.shard_bytes)
        commit(folder, out)
    return load(out)


def sample_json(sample: Sample) -> bytes:
    """The member that ends a sample in its tar: what a reader that knows only the tar wants to know."""
    row = asdict(sample)
    kept = {name: row[name] for name in ("key", "source", "split", "width", "height", "notes")}
    return (json.dumps(kept | {"frames": len(sample.members)}, sort_keys=True) + "\n").encode()


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


def _check_space(listing: Listing, out: Path) -> None:
    """A rough estimate beforehand is better than a full disk after an hour."""
    needed = 0
    for file in listing.files.values():
        growth = LOSSY_GROWTH if file.suffix.lower() in (".jpg", ".jpeg", ".webp") else 1.2
        needed += int(file.stat().st_size * growth)
    parent = next(folder for folder in out.parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise ValueError(
            f"{out}: about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
            "free some or choose another disk"
        )


def _encode_all(
    listing: Listing, splits: SplitPlan, spool: Path, on_progress: Callable[[PackProgress], None]
) -> tuple[dict[str, _Encoded], list[Rejected]]:
    """Every usable picture as a PNG file in the spool; the others with their reason."""
    spool.mkdir(parents=True)
    sources = sorted(listing.files)
    if splits.fixed is not None:
        fixed = splits.fixed
        chosen = [source for source in sources if source in fixed]
        sources = sorted(chosen, key=lambda source: SPLITS_KEPT_FIRST.index(fixed[source]))
    encoded: dict[str, _Encoded] = {}
    rejected: list[Rejected] = []
    seen: dict[str, str] = {}
    written = 0
    for done, source in enumerate(sources, start=1):
        file = spool / f"{done:09d}.png"
        try:
            encoded[source] = _encode(listing.files[source], source, file, seen)
            written += file.stat().st_size
        except UnusablePictureError as error:
            rejected.append(Rejected(source, str(error)))
        on_progress(PackProgress(done, len(sources), written, source))
    return encoded, rejected


def _encode(picture_file: Path, source: str, file: Path, seen: dict[str, str]) -> _Encoded:
    picture = open_picture(picture_file)
    height, width, _ = picture.rgb.shape
    digest = hashlib.sha256(f"{width}x{height} ".encode() + picture.rgb.tobytes()).hexdigest()
    first = seen.setdefault(digest, source)
    if first != source:
        raise UnusablePictureError(f"same pixels as {first}")
    file.write_bytes(encode_png(picture.rgb))
    return _Encoded(file, width, height, picture.notes)


def _write(
    folder: Path,
    name: str,
    encoded: Mapping[str, _Encoded],
    assigned: Mapping[str, str],
    rejected: list[Rejected],
    split_rule: str,
    shard_bytes: int,
) -> None:
    """Moves the spool into shards, sorted by split and key, and describes them."""
    folder.mkdir()
    keys = keys_for(encoded)
    writers = {split: ShardWriter(folder, split, shard_bytes) for split in SPLITS}
    samples = [
        _write_sample(writers[assigned[source]], source, keys[source], encoded[source], assigned[source])
        for source in sorted(encoded, key=lambda s: (SPLITS.index(assigned[s]), keys[s]))
    ]
    for writer in writers.values():
        writer.close()
    shards = tuple(shard for writer in writers.values() for shard in writer.shards)
    save(Dataset(folder, name, fingerprint_of(samples), shards, tuple(samples), tuple(rejected), split_rule))


def _write_sample(writer: ShardWriter, source: str, key: str, picture: _Encoded, split: str) -> Sample:
    frame = (f"{key}.im1.png", picture.file.read_bytes())
    placeless = Sample(
        key=key,
        split=split,
        source=source,
        shard="",
        members=(Member(frame[0], 0, len(frame[1]), 0),),
        width=picture.width,
        height=picture.height,
        notes=picture.notes,
    )
    shard, members = writer.add([frame], (f"{key}.json", sample_json(placeless)))
    picture.file.unlink()  # So that the disk never holds more than one copy.
    return Sample(key, split, source, shard, members, picture.width, picture.height, picture.notes)


def _nothing_usable(path: Path | None, rejected: list[Rejected]) -> str:
    reasons = "; ".join(f"{r.source}: {r.reason}" for r in rejected[:5]) or "it holds no files"
    more = f" and {len(rejected) - 5} more" if len(rejected) > 5 else ""
    return (
        f"{path}: no usable picture ({reasons}{more}); give a folder of png, jpg, webp, tif or bmp pictures"
    )
