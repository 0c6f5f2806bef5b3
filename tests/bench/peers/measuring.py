"""What happens inside the process of one loader: is it right, and how long does it take."""

from __future__ import annotations

import resource
import time
from contextlib import suppress

import numpy as np
import psutil

from tests.bench.peers.ours import PREFIX
from tests.bench.peers.synthesis import reference
from tests.bench.peers.work import Batch, Case, Loader, Work

PATCHES = (256, 128)
CHECKED_BATCHES = 2


def check(loader: Loader, work: Work) -> None:
    """Raises AssertionError where the first batches are not exactly the pixels of the source files."""
    for patch in PATCHES:
        batches = loader.batches(work, Case(patch, 0))
        for _ in range(CHECKED_BATCHES):
            pixels, numbers = next(batches)
            assert len(pixels) == len(numbers) > 0
            for crop, number in zip(_as_uint8(pixels), numbers, strict=True):
                clip = reference(work, number)
                corner = _found(crop, clip) if loader.own_corners else work.corners(patch)[number]
                y, x = corner
                assert np.array_equal(crop, clip[:, :, y : y + patch, x : x + patch]), (
                    f"clip {number} differs"
                )


def _as_uint8(pixels: Batch | object) -> np.ndarray:
    array = np.asarray(pixels)
    return array if array.dtype == np.uint8 else np.rint(array * 255).astype(np.uint8)


def _found(crop: np.ndarray, clip: np.ndarray) -> tuple[int, int]:
    """Where a crop was cut; its first row is looked for."""
    patch = crop.shape[-1]
    rows = np.lib.stride_tricks.sliding_window_view(clip[0], patch, axis=2)
    rows = rows[:, : clip.shape[2] - patch + 1]
    equal = (rows == crop[0, :, 0][:, None, None]).all(axis=(0, 3))
    assert equal.any(), "the crop is nowhere in the clip"
    y, x = np.argwhere(equal)[0]
    return int(y), int(x)


def measure(loader: Loader, work: Work, timed: int) -> list[dict[str, float]]:
    """Each case once, after a warm-up."""
    cases = [Case(patch, 0) for patch in PATCHES]
    if loader.parallel:
        cases += [Case(PATCHES[0], workers) for workers in (1, 2)]
    return [_timed(loader, work, case, timed * max(1, case.workers)) for case in cases]


def _timed(loader: Loader, work: Work, case: Case, timed: int) -> dict[str, float]:
    batches = loader.batches(work, case)
    for _ in range(1 + case.workers):  # By then every worker has delivered, so none is ahead of the clock.
        next(batches)
    done, wall, cpu = 0, time.perf_counter(), _cpu_seconds()
    while done < timed:
        done += len(next(batches)[1])
    cpu, wall = _cpu_seconds() - cpu, time.perf_counter() - wall
    return {
        "patch": case.patch,
        "workers": case.workers,
        "core_ms": cpu / done * 1e3,
        "per_s": done / wall,
    }


def _cpu_seconds() -> float:
    """Of this process with all its threads, its children that run, and those that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            seconds += times.user + times.system
    return seconds


def measure_crc(work: Work) -> dict[str, float]:
    """Milliseconds of checking the bytes that a crop needs, the mean over all clips, by size of crop."""
    from shards.decode import Window, span_of
    from shards.inflate import crc32
    from shards.manifest import load

    dataset = load(work.store(PREFIX + "png-banded") / "clips")
    found = {}
    for patch in PATCHES:
        parts = []
        for sample in dataset.of_split("train"):
            y, x = (int(side) for side in work.corners(patch)[work.number(sample.key)])
            for member in sample.frames:
                start, stop = span_of(member, Window(y, x, patch, patch))
                parts.append(dataset.storage.read(sample.shard, member.offset + start, member.offset + stop))
        started = time.process_time()
        for part in parts:
            crc32(part)
        found[str(patch)] = (time.process_time() - started) / work.samples * 1e3
    return found
