"""How much processor time a training sample costs, with the loaders that people use and with ours.

Run with: python tests/bench/loaders.py (about 25 minutes; the others' packages: pip install -e '.[bench]')
A sample is seven frames of 448x256, of which one random square is cut, the same for all loaders: a batch is
(8, 7, 3, P, P). The first figure is the processor time of the whole process by sample, all in one thread; it hardly
depends on what else the machine does, as samples per second do. Each loader's pixels are compared with the source
files first. Every loader of every round runs in a fresh process, and the rounds take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.hardware import described
from tests.bench.peers import large, measuring, verdict
from tests.bench.peers.ours import OUR_STORES, OURS
from tests.bench.peers.readers import PEERS
from tests.bench.peers.stores import STORES
from tests.bench.peers.synthesis import write_all
from tests.bench.peers.work import FRAMES, HEIGHT, WIDTH, Work, folder_bytes

LOADERS = {loader.name: loader for loader in (*OURS, *PEERS)}
ALL_STORES = {**STORES, **OUR_STORES}
SUB_IMAGES, PICTURE, CRC = "sub-images", "2K picture", "crc"
PACKAGES = {
    "webdataset": "webdataset",
    "lmdb": "lmdb",
    "streaming": "mosaicml-streaming",
    "litdata": "litdata",
    "cv2": "opencv-python-headless",
}
"""What to install for the modules that loaders need."""
VERSIONS = ("numpy", "torch", "pillow", *PACKAGES.values(), "isal", "pyspng")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class StepError(Exception):
    """A process of one loader failed; its text is the last that it wrote."""


def main() -> None:
    """Prints one JSON line."""
    arguments = _arguments()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="loaders-"))
    work = Work(folder.resolve() / f"{arguments.samples}-septuplets", arguments.samples)
    if arguments.step:
        with contextlib.redirect_stdout(sys.stderr):
            result = _step(work, arguments.step, arguments.name, arguments.timed)
        print(json.dumps(result))
        return
    try:
        print(json.dumps(_compared(work, arguments)))
    finally:
        if not arguments.folder:
            shutil.rmtree(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=100, help="septuplets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timed", type=int, default=64, help="samples timed in each case, for each worker")
    parser.add_argument("--folder", type=Path, help="keeps the data here for the next run")
    parser.add_argument("--only", default="", help="only loaders whose name this pattern finds")
    parser.add_argument("--step", choices=("build", "check", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _compared(work: Work, arguments: argparse.Namespace) -> dict[str, Any]:
    load_before = os.getloadavg()
    _say("making the data")
    work.root.mkdir(parents=True, exist_ok=True)
    write_all(work)
    for store in OUR_STORES:  # Another version of this program may have written them.
        shutil.rmtree(work.store(store), ignore_errors=True)
    missing = {name: _missing(loader.needs) for name, loader in LOADERS.items()}
    chosen = [name for name in LOADERS if re.search(arguments.only, name) and not missing[name]]
    failed = _prepared(work, chosen)
    names = [name for name in chosen if name not in failed]
    with_picture = "ours png-banded" in names and importlib.util.find_spec("cv2") is not None
    extra = [PICTURE, CRC] if with_picture else []
    rounds: dict[str, list[Any]] = {name: [] for name in [*names, *extra]}
    for number in range(arguments.rounds):
        order = random.Random(number).sample([*names, *extra], len(rounds))
        for name in order:
            _say(f"round {number + 1} of {arguments.rounds}: {name}")
            try:
                rounds[name].append(_in_a_process(work, "measure", name, arguments.timed))
            except StepError as error:
                failed.setdefault(name, str(error))
                _say(f"{name} failed: {error}")
    # Ratios are taken within rounds: what missed one is not judged.
    rounds = {name: measured for name, measured in rounds.items() if name not in failed}
    return {
        "bench": "loaders",
        "samples": work.samples,
        "rounds": arguments.rounds,
        "png_share_of_raw": round(_png_share(work), 3),
        "timed_samples": arguments.timed,
        **_results(work, rounds),
        "not_installed": {name: f"needs {', '.join(needs)}" for name, needs in missing.items() if needs},
        "failed": failed,
        "load_before": [round(value, 2) for value in load_before],
        "load_after": [round(value, 2) for value in os.getloadavg()],
        "versions": _versions(),
        **described(),
    }


def _results(work: Work, rounds: dict[str, list[Any]]) -> dict[str, Any]:
    by_loader = {name: measured for name, measured in rounds.items() if name in LOADERS}
    source = folder_bytes(work.vimeo / "sequences")
    table, goals = verdict.rows(by_loader), verdict.goals(by_loader)
    for name, row in table.items():
        folder = work.store(LOADERS[name].store)
        clips = folder / "clips"
        share = folder_bytes(clips if clips.exists() else folder) / source if LOADERS[name].store else 1.0
        row |= {"disk": round(share, 3), "note": LOADERS[name].note}
    found: dict[str, Any] = {"loaders": table}
    if PICTURE in rounds:
        sizes, times = large.sizes(work), rounds[PICTURE]
        decode = {name: round(statistics.median(one[name] for one in times), 2) for name in times[0]}
        disk = {name: round(size, 2) for name, size in sizes.items()}
        found[PICTURE] = {"decode_ms": decode, "disk": disk}
        goals += verdict.goals_2k(times, sizes)
    if CRC in rounds and verdict.OURS in table:
        crc = {patch: statistics.median(one[patch] for one in rounds[CRC]) for patch in rounds[CRC][0]}
        found["crc32_ms"] = {patch: round(ms, 3) for patch, ms in crc.items()}
        goals += [verdict.goal_size(table[verdict.OURS]["disk"]), verdict.goal_crc(crc, by_loader)]
    return found | {"goals": goals}


def _prepared(work: Work, names: list[str]) -> dict[str, str]:
    """Writes what is missing and compares pixels; returns what failed and why."""
    failed: dict[str, str] = {}
    for name in names:
        store = LOADERS[name].store
        try:
            if store and not work.store(store).exists():
                _say(f"writing for {name}")
                _in_a_process(work, "build", store, 0)
            _say(f"comparing the pixels of {name}")
            _in_a_process(work, "check", name, 0)
        except StepError as error:
            failed[name] = str(error)
            _say(f"{name} failed: {error}")
    if verdict.OURS in names and not work.store(SUB_IMAGES).exists():
        _in_a_process(work, "build", SUB_IMAGES, 0)
    return failed


def _in_a_process(work: Work, step: str, name: str, timed: int) -> Any:
    command = [sys.executable, __file__, "--folder", str(work.root.parent), "--samples", str(work.samples)]
    command += ["--timed", str(timed), "--step", step, "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
    if done.returncode:
        (work.root / "failed.log").write_text(done.stderr)
        lines = done.stderr.strip().splitlines()
        raise StepError(f"{lines[-1] if lines else 'no message'} ({step}, exit code {done.returncode})")
    return json.loads(done.stdout.splitlines()[-1])


def _step(work: Work, step: str, name: str, timed: int) -> Any:
    """What one process does."""
    if step == "build":
        _build(work, name)
        return None
    if name == PICTURE:
        return large.measure(work)
    if name == CRC:
        return measuring.measure_crc(work)
    if step == "check":
        return measuring.check(LOADERS[name], work)
    return measuring.measure(LOADERS[name], work, timed)


def _build(work: Work, name: str) -> None:
    if name == SUB_IMAGES:
        large.write_sub_images(work)
        return
    # Complete or not at all: a run that is broken off leaves nothing that the next one would take.
    part = work.store(name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    ALL_STORES[name](work, part)
    part.rename(work.store(name))


def _png_share(work: Work) -> float:
    return folder_bytes(work.vimeo / "sequences") / (work.samples * FRAMES * HEIGHT * WIDTH * 3)


def _missing(modules: tuple[str, ...]) -> list[str]:
    return [PACKAGES.get(name, name) for name in modules if importlib.util.find_spec(name) is None]


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
