"""One cache, several processes: what is needed is fetched once, and one that is killed breaks nothing."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shards.storage.cache import CachedStorage, CacheSettings
from shards.storage.http import HttpStorage, WebAddress
from tests.unit.shards.unkind_server import UnkindServer

DATA = np.random.default_rng(12).bytes(1_000_003)
BLOCK = 100_000
CAP_BYTES = 450_000


@pytest.fixture
def server() -> Iterator[UnkindServer]:
    with UnkindServer({"/a.tar": DATA}) as server:
        yield server


def cached(server: UnkindServer, folder: Path) -> CachedStorage:
    return CachedStorage(HttpStorage(WebAddress(server.url)), CacheSettings(folder, CAP_BYTES, 100_000))


def used(folder: Path) -> int:
    """Bytes of all files."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


READER = """
import sys, hashlib, random
from pathlib import Path
from shards.storage.cache import CachedStorage, CacheSettings
from shards.storage.http import HttpStorage, WebAddress
url, folder, cap, seed, rounds = sys.argv[1:]
storage = CachedStorage(HttpStorage(WebAddress(url)), CacheSettings(Path(folder), int(cap), 100_000))
draw = random.Random(int(seed))
digest = hashlib.sha256()
size = storage.size("a.tar")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(rounds)):
    start = draw.randrange(size)
    stop = min(size, start + draw.randrange(300_000))
    digest.update(storage.read("a.tar", start, stop))
digest.update(storage.local_copy("a.tar").read_bytes())
print(digest.hexdigest())
"""


def expected_digest(seed: int, rounds: int) -> str:
    draw = random.Random(seed)
    digest = hashlib.sha256()
    for _ in range(rounds):
        start = draw.randrange(len(DATA))
        digest.update(DATA[start : min(len(DATA), start + draw.randrange(300_000))])
    digest.update(DATA)
    return digest.hexdigest()


def start_reader(
    server: UnkindServer, folder: Path, cap: int, seed: int, rounds: int
) -> "subprocess.Popen[str]":
    arguments = [server.url, str(folder), str(cap), str(seed), str(rounds)]
    return subprocess.Popen(
        [sys.executable, "-c", READER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def go(processes: "list[subprocess.Popen[str]]") -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_processes_that_need_the_same_blocks_fetch_them_once(server: UnkindServer, tmp_path: Path) -> None:
    server.delay_s = 0.05
    # The same seed: trials of a sweep read the same samples at the same time.
    processes = [start_reader(server, tmp_path, 10**9, 1, 30) for _ in range(3)]
    go(processes)
    outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert outputs == [expected_digest(1, 30)] * 3
    whole = f"0-{len(DATA) - 1}"
    asked = server.ranges()
    assert asked.count(whole) == 1
    fetched = [text for text in asked if text != whole]
    starts = [
        start
        for text in fetched
        for start in range(int(text.split("-")[0]), int(text.split("-")[1]) + 1, BLOCK)
    ]
    assert len(starts) == len(set(starts)) <= 11


def test_a_killed_process_breaks_nothing_and_the_limit_holds(server: UnkindServer, tmp_path: Path) -> None:
    processes = [start_reader(server, tmp_path, CAP_BYTES, seed, 80) for seed in range(4)]
    go(processes)
    most = 0
    for _ in range(15):
        time.sleep(0.02)
        most = max(most, used(tmp_path / "blocks"))
    processes[0].kill()
    while any(process.poll() is None for process in processes):
        most = max(most, used(tmp_path / "blocks"))
        time.sleep(0.005)
    outputs = [process.communicate()[0].strip() for process in processes]
    assert processes[0].returncode == -signal.SIGKILL
    assert outputs[1:] == [expected_digest(seed, 80) for seed in range(1, 4)]
    # Each process has at most four blocks of a read in flight, and one of them in a temporary file.
    assert 0 < most <= CAP_BYTES + 4 * 101_000
    # What the killed one left behind does not count for ever.
    for path in tmp_path.rglob("*.tmp"):
        os.utime(path, (0, 0))
    (tmp_path / "blocks" / "count").unlink()
    storage = cached(server, tmp_path)
    assert storage.read("a.tar", 0, len(DATA)) == DATA
    assert list((tmp_path / "blocks").rglob("*.tmp")) == []
    assert used(tmp_path / "blocks") <= CAP_BYTES + 100
