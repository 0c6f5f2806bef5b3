"""kill -9 in the middle of packing, several times; the result is the undisturbed one, and any reader reads it."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import skimage
import webdataset
import wids
from PIL import Image

from shards.manifest import Dataset, load
from shards.reader import read_clip

pytestmark = pytest.mark.timeout(280)
PICTURES = 60
CODE = """
import sys
from pathlib import Path
from shards.pack import PackOptions, pack

def show(progress):
    print(progress.phase, progress.done, progress.taken_over, flush=True)

try:
    options = PackOptions(shard_bytes=400_000, jobs=2)
    pack("folder", Path(sys.argv[1]), Path(sys.argv[2]), options, on_progress=show)
except KeyboardInterrupt as interrupted:
    sys.exit(f"told: {interrupted}")
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of photographs of several sizes, one of them twice, and some files that are no pictures."""
    folder = tmp_path_factory.mktemp("killed") / "pictures"
    photos = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    choose = np.random.default_rng(5)
    for number in range(PICTURES):
        photo = photos[number % len(photos)]
        height, width = choose.integers(100, 240, 2)
        top, left = choose.integers(0, photo.shape[0] - height), choose.integers(0, photo.shape[1] - width)
        file = folder / f"film {number % 7}" / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[top : top + height, left : left + width]).save(file)
    (folder / "again.png").write_bytes((folder / "film 3" / "003.png").read_bytes())
    (folder / "cut.png").write_bytes((folder / "film 3" / "003.png").read_bytes()[:5000])
    (folder / "notes.txt").write_text("no picture")
    return folder


def start(pictures: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(pictures), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(pictures: Path, out: Path) -> list[list[str]]:
    """Packs to the end; phase, done and taken over of each call."""
    process = start(pictures, out)
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return [line.split() for line in told.splitlines()]


def kill_when(process: subprocess.Popen[str], is_time: Callable[[list[str]], bool]) -> bool:
    """kill -9 as soon as the process tells of such a moment; its workers have to follow. False where it ended."""
    assert process.stdout
    for line in process.stdout:
        if is_time(line.split()):
            workers = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            _, alive = psutil.wait_procs(workers, timeout=20)
            assert not alive, "workers outlive the process that started them"
            return True
    return process.wait() != 0


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(pictures: Path) -> Dataset:
    out = pictures.parent / "undisturbed"
    finish(pictures, out)
    return load(out)


def test_killed_again_and_again_it_ends_as_the_undisturbed_one(
    pictures: Path, undisturbed: Dataset, tmp_path: Path
) -> None:
    assert len(undisturbed.shards) > 5
    choose = random.Random(11)
    out = tmp_path / "out"
    for _ in range(3):
        after = choose.uniform(0.0, 0.6)
        begin = time.monotonic()
        process = start(pictures, out)
        # From the first sign of life on; the moment itself is anywhere between two lines.
        kill_when(process, lambda _, begin=begin, after=after: time.monotonic() - begin > after)
    assert not out.exists()
    for phase, done in (
        ("reading", 45),
        ("writing", 1),
        ("writing", 20),
        ("writing", 41),
        # Not the very last: it may be done before the kill arrives.
        ("writing", PICTURES - 2),
    ):
        process = start(pictures, out)
        assert kill_when(process, lambda told, at=(phase, done): (told[0], int(told[1])) == at)
        assert not out.exists()
    told = finish(pictures, out)
    assert contents(out) == contents(undisturbed.root)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    last = {phase: (int(done), int(taken_over)) for phase, done, taken_over in told}
    assert last["reading"] == (PICTURES + 2, PICTURES + 2)
    assert 30 < last["writing"][1] <= last["writing"][0] == PICTURES


def test_ctrl_c_stops_at_once_keeps_what_is_done_and_says_how_to_go_on(
    pictures: Path, undisturbed: Dataset, tmp_path: Path
) -> None:
    process = start(pictures, tmp_path / "out")
    assert process.stdout
    for line in process.stdout:
        if line.startswith("reading 20 "):
            os.killpg(process.pid, signal.SIGINT)  # A terminal sends it to the workers, too.
            break
    _, errors = process.communicate(timeout=30)
    assert errors.startswith("told: "), errors
    assert "items encoded" in errors
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    told = finish(pictures, tmp_path / "out")
    assert max(int(taken_over) for phase, _, taken_over in told if phase == "reading") >= 19
    assert contents(tmp_path / "out") == contents(undisturbed.root)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def wanted(dataset: Dataset) -> dict[str, np.ndarray]:
    """Pixels of each sample by its key, from the source's own files."""
    return {sample.key: read_clip(dataset, sample)[0].transpose(1, 2, 0) for sample in dataset.samples}


def test_pixels_are_those_of_the_files(pictures: Path, undisturbed: Dataset) -> None:
    found = wanted(undisturbed)
    assert len(found) == PICTURES
    for sample in undisturbed.samples:
        assert np.array_equal(found[sample.key], np.asarray(Image.open(pictures / sample.source)))
    reasons = {rejected.source: rejected.reason for rejected in undisturbed.description.rejected}
    assert sorted(reasons) in (
        ["again.png", "cut.png", "notes.txt"],
        ["cut.png", "film 3/003.png", "notes.txt"],
    )


def test_webdataset_reads_it(undisturbed: Dataset) -> None:
    urls = [str(undisturbed.root / shard.file) for shard in undisturbed.shards]
    rows = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")  # pyright: ignore[reportAttributeAccessIssue]
    found = {row["__key__"]: row for row in rows}
    right = wanted(undisturbed)
    assert set(found) == set(right)
    assert all(np.array_equal(found[key]["im1.png"], right[key]) for key in right)
    assert {row["json"]["source"] for row in found.values()} == {s.source for s in undisturbed.samples}


def test_wids_reads_it(undisturbed: Dataset, tmp_path: Path) -> None:
    rows = wids.ShardListDataset(
        str(undisturbed.root / "dataset.json"), cache_dir=str(tmp_path), keep=True, transformations=[]
    )
    right = wanted(undisturbed)
    assert len(rows) == len(right)
    for number in range(len(rows)):
        row = rows[number]
        assert np.array_equal(pixels(row[".im1.png"].read()), right[row["__key__"]])


def test_tarfile_reads_it(undisturbed: Dataset) -> None:
    right = wanted(undisturbed)
    found: dict[str, np.ndarray] = {}
    for shard in undisturbed.shards:
        with tarfile.open(undisturbed.root / shard.file, "r:") as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                if info.name.endswith(".im1.png"):
                    found[info.name.removesuffix(".im1.png")] = pixels(file.read())
    assert set(found) == set(right)
    assert all(np.array_equal(found[key], right[key]) for key in right)
