"""The cache: what is kept is what the server has, within the limit, whatever happens to processes and disk."""

import logging
import os
import resource
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from shards.storage.blocks import BlockFolder
from shards.storage.cache import CachedStorage, CacheSettings
from shards.storage.errors import StorageError
from shards.storage.http import HttpStorage, WebAddress
from shards.storage.remote import Version
from tests.unit.shards.unkind_server import UnkindServer

DATA = np.random.default_rng(8).bytes(1_000_003)
BLOCK = 100_000
PARTS = [(0, 10), (99_990, 100_010), (250_000, 777_777), (999_000, len(DATA)), (0, len(DATA)), (5, 5)]


@pytest.fixture
def server() -> Iterator[UnkindServer]:
    with UnkindServer({"/a.tar": DATA}) as server:
        yield server


def cached(server: UnkindServer, folder: Path | None, *, cap_bytes: int = 10**9) -> CachedStorage:
    return CachedStorage(HttpStorage(WebAddress(server.url)), CacheSettings(folder, cap_bytes, BLOCK))


def blocks(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.block"))


def used(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def test_what_was_read_once_is_not_asked_for_again(server: UnkindServer, tmp_path: Path) -> None:
    storage = cached(server, tmp_path)
    for start, stop in PARTS:
        assert storage.read("a.tar", start, stop) == DATA[start:stop]
    assert len(blocks(tmp_path)) == 11
    server.ranges()
    for start, stop in PARTS:
        assert cached(server, tmp_path).read("a.tar", start, stop) == DATA[start:stop]
    assert server.ranges() == []


def test_missing_neighbours_are_asked_for_at_once(server: UnkindServer, tmp_path: Path) -> None:
    storage = cached(server, tmp_path)
    assert storage.size("a.tar") == len(DATA)
    assert storage.read("a.tar", 450_000, 460_000) == DATA[450_000:460_000]
    assert server.ranges() == ["400000-499999"]
    assert storage.read("a.tar", 150_000, 999_999) == DATA[150_000:999_999]
    assert server.ranges() == ["100000-399999", "500000-999999"]
    with pytest.raises(StorageError, match="truncated: ends at byte 1000003, 1000004 are needed"):
        storage.read("a.tar", 1_000_000, 1_000_004)


def test_threads_that_need_the_same_blocks_fetch_them_once(server: UnkindServer, tmp_path: Path) -> None:
    server.delay_s = 0.1
    storage = cached(server, tmp_path)
    storage.size("a.tar")
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(lambda number: storage.read("a.tar", number, 900_000 - number), range(16)))
    assert parts == [DATA[number : 900_000 - number] for number in range(16)]
    assert server.ranges() == ["0-899999"]


def test_an_error_reaches_all_who_wait_and_is_forgotten(server: UnkindServer, tmp_path: Path) -> None:
    server.delay_s = 0.1
    storage = cached(server, tmp_path)
    storage.size("a.tar")
    server.always = "403"
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(storage.read, "a.tar", 0, 1000) for _ in range(4)]
        assert all("403 Forbidden" in str(future.exception()) for future in futures)
    assert server.ranges() == ["0-99999"]
    server.always = ""
    assert storage.read("a.tar", 0, 1000) == DATA[:1000]


class Interrupted:
    """A remote place; the first reader is interrupted, as by Ctrl-C."""

    url = "test://place"

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.reads = 0

    def identity(self, file: str) -> str:
        return file

    def version(self, file: str) -> Version:
        return Version(len(DATA), '"1"')

    def read(self, file: str, start: int, stop: int) -> bytes:
        self.reads += 1
        if self.reads == 1:
            assert self.waiting.wait(10)
            time.sleep(0.1)
            raise KeyboardInterrupt
        return DATA[start:stop]


def test_those_who_wait_for_an_interrupted_reader_fetch_themselves(tmp_path: Path) -> None:
    remote = Interrupted()
    storage = CachedStorage(remote, CacheSettings(tmp_path, 10**9, BLOCK))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(storage.read, "a.tar", 0, 1000)
        while not remote.reads:
            time.sleep(0.001)
        second = pool.submit(storage.read, "a.tar", 0, 1000)
        remote.waiting.set()
        assert isinstance(first.exception(10), KeyboardInterrupt)
        assert second.result(10) == DATA[:1000]


def test_damage_of_any_kind_is_healed(
    server: UnkindServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = cached(server, tmp_path)
    storage.read("a.tar", 0, len(DATA))
    draw = np.random.default_rng(0)
    for number in range(60):
        path = blocks(tmp_path)[number % 11]
        content = bytearray(path.read_bytes())
        match number % 4:
            case 0:
                content[int(draw.integers(len(content)))] ^= 1 << int(draw.integers(8))
            case 1:
                del content[int(draw.integers(len(content))) :]
            case 2:
                content += b"x"
            case _:
                content[: int(draw.integers(40))] = draw.bytes(40)
        path.write_bytes(content)
        server.ranges()
        assert storage.read("a.tar", 0, len(DATA)) == DATA
        assert len(server.ranges()) == 1
    assert "a damaged block of the cache is deleted and fetched again" in caplog.text
    assert storage.read("a.tar", 0, len(DATA)) == DATA
    assert server.ranges() == []


def test_only_the_part_that_is_read_is_checked_and_no_damage_passes(
    server: UnkindServer, tmp_path: Path
) -> None:
    storage = cached(server, tmp_path)
    storage.read("a.tar", 0, BLOCK)
    (path,) = blocks(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    server.ranges()
    assert storage.read("a.tar", 0, 60_000) == DATA[:60_000]
    assert server.ranges() == []
    assert storage.read("a.tar", 60_000, 70_000) == DATA[60_000:70_000]
    assert server.ranges() == ["0-99999"]


def test_a_new_version_is_fetched_anew(server: UnkindServer, tmp_path: Path) -> None:
    assert cached(server, tmp_path).read("a.tar", 0, 10) == DATA[:10]
    server.files["/a.tar"] = DATA[::-1]
    assert cached(server, tmp_path).read("a.tar", 0, 10) == DATA[::-1][:10]


def test_what_has_no_tag_is_kept_for_one_reader_only(server: UnkindServer, tmp_path: Path) -> None:
    server.tags = "none"
    storage = cached(server, tmp_path)
    assert storage.read("a.tar", 0, 10) == storage.read("a.tar", 0, 10) == DATA[:10]
    assert server.ranges() == ["0-99999"]
    server.files["/a.tar"] = DATA[::-1]
    assert cached(server, tmp_path).read("a.tar", 0, 10) == DATA[::-1][:10]


def test_the_blocks_used_longest_ago_go_first(server: UnkindServer, tmp_path: Path) -> None:
    storage = cached(server, tmp_path, cap_bytes=6 * 101_000)
    before: set[Path] = set()
    for number in range(6):
        storage.read("a.tar", number * BLOCK, number * BLOCK + 1)
        (newest,) = set(blocks(tmp_path)) - before
        before.add(newest)
        os.utime(newest, (time.time() - 5000 + number, time.time() - 5000 + number))
    # Reading the first marks it as used.
    storage.read("a.tar", 0, 1)
    for number in range(6, 10):
        storage.read("a.tar", number * BLOCK, number * BLOCK + 1)
        assert used(tmp_path) <= 6 * 101_000 + 100
    server.ranges()
    for number in (0, 6, 7, 8, 9):
        storage.read("a.tar", number * BLOCK, number * BLOCK + 1)
    assert server.ranges() == []


def test_foreign_files_and_links_are_left_alone(server: UnkindServer, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    cache = tmp_path / "cache"
    (cache / "blocks" / "ab").mkdir(parents=True)
    (cache / "blocks" / "cd").symlink_to(outside)
    name = "ab" * 16 + ".block"
    kept = [
        outside / ("cd" * 16 + ".block"),
        outside / ".srloss-1-0123456789abcdef.tmp",
        cache / "blocks" / "ab" / "notes.txt",
        cache / "blocks" / "mine.block",
    ]
    for path in kept:
        path.write_bytes(bytes(500_000))
        os.utime(path, (0, 0))
    (cache / "blocks" / "ab" / name).symlink_to(kept[0])
    stale = cache / "blocks" / "ab" / ".srloss-1-0123456789abcdef.tmp"
    fresh = cache / "blocks" / "ab" / ".srloss-2-0123456789abcdef.tmp"
    for path in (stale, fresh):
        path.write_bytes(b"torn")
    os.utime(stale, (0, 0))
    storage = cached(server, cache, cap_bytes=250_000)
    assert storage.read("a.tar", 0, len(DATA)) == DATA
    assert all(path.exists() for path in kept)
    assert (cache / "blocks" / "ab" / name).is_symlink()
    assert (stale.exists(), fresh.exists()) == (False, True)


def test_a_linked_block_is_not_followed(server: UnkindServer, tmp_path: Path) -> None:
    storage = cached(server, tmp_path)
    storage.read("a.tar", 0, 10)
    (path,) = blocks(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert storage.read("a.tar", 0, 10) == DATA[:10]
    assert len([text for text in server.ranges() if text == "0-99999"]) == 2


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_folder_that_cannot_be_used_costs_one_warning(
    server: UnkindServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = cached(server, tmp_path / "file" / "cache")
    for start, stop in PARTS:
        assert storage.read("a.tar", start, stop) == DATA[start:stop]
    (warning,) = warnings(caplog)
    assert "nothing more is kept in the cache (Not a directory)" in warning
    assert "SRLOSS_CACHE" in warning
    # What is not kept is not fetched in whole blocks either.
    assert server.ranges()[1:] == ["99990-100009", "250000-777776", "999000-1000002", "0-1000002"]


def test_a_full_disk_costs_one_warning_and_what_is_there_is_still_used(
    server: UnkindServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = cached(server, tmp_path)
    storage.read("a.tar", 0, 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As good as a full disk: no file can grow beyond this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        for start, stop in PARTS:
            assert storage.read("a.tar", start, stop) == DATA[start:stop]
        server.ranges()
        assert storage.read("a.tar", 3, 40_000) == DATA[3:40_000]
        assert server.ranges() == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(warnings(caplog)) == 1
    assert len(list(tmp_path.rglob("*.tmp"))) == 0


def test_without_a_cache_only_what_is_needed_is_read(server: UnkindServer) -> None:
    storage = cached(server, None)
    assert storage.read("a.tar", 10, 20) == DATA[10:20]
    assert server.ranges() == ["10-19"]
    copy = storage.local_copy("a.tar")
    assert copy.read_bytes() == DATA
    assert storage.local_copy("a.tar") == copy
    del storage
    assert not copy.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 16, b"x" * 1000, struct.pack("<Qd", 0, time.time() - 1000)],
    ids=["empty", "huge", "long", "old"],
)
def test_a_damaged_count_is_taken_anew(server: UnkindServer, tmp_path: Path, content: bytes) -> None:
    storage = cached(server, tmp_path, cap_bytes=450_000)
    storage.read("a.tar", 0, 400_000)
    (tmp_path / "blocks" / "count").write_bytes(content)
    storage.read("a.tar", 400_000, 800_000)
    assert 300_000 < used(tmp_path / "blocks") <= 450_000 + 1000


def test_a_block_that_comes_twice_counts_once(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, 2500)
    for key in ("aa" * 16, "bb" * 16, "bb" * 16, "bb" * 16):
        folder.store(key, bytes(1000))
    count = (tmp_path / "count").read_bytes()
    assert struct.unpack("<Qd", count)[0] == used(tmp_path) - len(count)


def test_the_folder_may_be_deleted_while_it_is_used(
    server: UnkindServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = cached(server, tmp_path / "cache")
    storage.read("a.tar", 0, len(DATA))
    shutil.rmtree(tmp_path / "cache")
    assert storage.read("a.tar", 0, len(DATA)) == DATA
    assert len(blocks(tmp_path)) == 11
    assert storage.local_copy("a.tar").read_bytes() == DATA
    assert warnings(caplog) == []


def test_a_forked_process_reads_on(server: UnkindServer, tmp_path: Path) -> None:
    storage = cached(server, tmp_path)
    storage.read("a.tar", 0, 10)
    child = os.fork()
    if child == 0:
        os._exit(0 if storage.read("a.tar", 0, len(DATA)) == DATA else 1)
    assert storage.read("a.tar", 0, len(DATA)) == DATA
    assert os.waitpid(child, 0)[1] == 0
