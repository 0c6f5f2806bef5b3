"""The loaders of this project, on the same septuplets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.peers.work import BATCH, Batch, Batches, Case, Loader, Work

PREFIX = "ours "
PROFILES = ("png-banded", "png-keep", "webp", "raw")
SOURCE = "vimeo-septuplet"


def writer(profile: str) -> Callable[[Work, Path], None]:
    """Packs the septuplets, and beside them the large picture."""

    def write(work: Work, out: Path) -> None:
        from shards.pack import PackOptions, pack

        for source, folder, name in ((SOURCE, work.vimeo, "clips"), ("folder", work.picture, "picture")):
            options = PackOptions(profile=profile, jobs=1)
            pack(source, folder, out / name, options, on_progress=lambda _: None, on_warning=_tell)

    return write


def _tell(warning: str) -> None:
    print(f"pack: {warning}", file=sys.stderr)


def _streamed(profile: str) -> Batches:
    def batches(work: Work, case: Case) -> Iterator[Batch]:
        from shards.manifest import load
        from shards.stream import Stream

        stream = Stream(
            load(work.store(PREFIX + profile) / "clips"),
            data_seed=0,
            global_batch_size=BATCH,
            patch_size=case.patch,
            augment=False,
            threads=case.workers,
            cache_bytes=0,  # Every sample is read and decoded, as the peers do it.
        )
        while True:
            batch = stream.next_batch()
            yield torch.from_numpy(batch.hr), [work.number(key) for key in batch.keys]

    return batches


def _clips(work: Work, case: Case) -> Iterator[Batch]:
    """The reader below the stream, cutting where the peers cut."""
    from shards.decode import Window
    from shards.manifest import load
    from shards.reader import read_clip

    dataset = load(work.store(PREFIX + "png-banded") / "clips")
    samples = dataset.of_split("train")
    corners = work.corners(case.patch)
    draw = np.random.default_rng(0)
    while True:
        chosen = draw.integers(0, len(samples), BATCH).tolist()
        clips: list[np.ndarray] = []
        numbers: list[int] = []
        for at in chosen:
            sample = samples[at]
            numbers.append(work.number(sample.key))
            y, x = (int(side) for side in corners[numbers[-1]])
            clips.append(read_clip(dataset, sample, Window(y, x, case.patch, case.patch)))
        yield torch.from_numpy(np.stack(clips)), numbers


def _memory_copy(work: Work, case: Case) -> Iterator[Batch]:
    """The limit: the same crops, copied from pixels that lie decoded in memory."""
    from tests.bench.peers.synthesis import reference

    clips = np.stack([np.ascontiguousarray(reference(work, number)) for number in range(work.samples)])
    corners = work.corners(case.patch)
    draw = np.random.default_rng(0)
    while True:
        numbers = draw.integers(0, work.samples, BATCH).tolist()
        batch = np.empty((BATCH, *clips.shape[1:3], case.patch, case.patch), np.uint8)
        for place, number in enumerate(numbers):
            y, x = corners[number]
            batch[place] = clips[number, :, :, y : y + case.patch, x : x + case.patch]
        yield torch.from_numpy(batch), numbers


NOTES = {
    "png-banded": "the default: bands of a standard PNG that can be decoded alone",
    "png-keep": "the bytes of the PNG files: what anybody's own tars give",
    "webp": "lossless WebP",
    "raw": "uncompressed",
}
OURS = (
    *(
        Loader(f"ours {name}", _streamed(name), (), PREFIX + name, NOTES[name], own_corners=True)
        for name in PROFILES
    ),
    Loader(
        "ours png-banded, reader",
        _clips,
        (),
        PREFIX + "png-banded",
        "read_clip in one thread, at the corners that the peers use",
        parallel=False,
    ),
    Loader(
        "memory copy", _memory_copy, (), "", "the limit: crops copied from decoded pixels", parallel=False
    ),
)
OUR_STORES: dict[str, Callable[[Work, Path], Any]] = {PREFIX + name: writer(name) for name in PROFILES}
