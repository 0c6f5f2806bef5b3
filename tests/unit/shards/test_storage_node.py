"""A shared folder read by way of a disk of the node: filled once, and never in the way."""

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from shards import manifest
from shards.manifest import DamagedError, Dataset
from shards.reader import read_clip
from shards.storage import open_storage
from shards.storage.cache import BLOCK_BYTES
from shards.storage.errors import MissingError, StorageError
from shards.storage.local import LocalStorage
from shards.storage.node import NodeCachedFolder, _usable

DATA = np.random.default_rng(3).bytes(6 * BLOCK_BYTES + 12_345)

READER = """
import hashlib, sys, time
from shards.storage import local, open_storage
original = []
read = local.LocalStorage.read
def counted(self, file, start, stop):
    if type(self) is local.LocalStorage:
        original.append(stop - start)
        time.sleep(0.02)
    return read(self, file, start, stop)
local.LocalStorage.read = counted
storage = open_storage(sys.argv[1])
size = storage.size("a.tar")
print("ready", flush=True)
sys.stdin.readline()
digest = hashlib.sha256()
for start in range(0, size, 70_001):
    digest.update(storage.read("a.tar", start, min(start + 70_001, size)))
print(digest.hexdigest(), sum(original), flush=True)
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "a.tar").write_bytes(DATA)
    (folder / "dataset.json").write_bytes(b"{}")
    return folder


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that this user's parts go to."""
    monkeypatch.delenv("SRLOSS_CACHE_BYTES", raising=False)
    monkeypatch.setenv("LOCAL_DISK", str(tmp_path / "disk of the node"))
    monkeypatch.setenv("SRLOSS_NODE_CACHE", "$LOCAL_DISK/srloss")
    return tmp_path / "disk of the node" / "srloss" / f"srloss-{os.getuid()}"


def blocks(node: Path) -> list[Path]:
    return sorted(node.rglob("*.block"))


def start(shared: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", READER, shared], text=True, stdin=-1, stdout=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_without_the_variable_nothing_is_copied(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRLOSS_NODE_CACHE", raising=False)
    assert type(open_storage(shared)) is LocalStorage


@pytest.mark.parametrize("written", ["{}", "file://{}"])
def test_the_second_reader_needs_the_shared_folder_no_more(
    shared: Path, node: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    root = written.format(shared)
    assert open_storage(root).read("a.tar", 5, 2 * BLOCK_BYTES) == DATA[5 : 2 * BLOCK_BYTES]
    assert len(blocks(node)) == 2
    assert node.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(LocalStorage, "read", None)
    storage = open_storage(root)
    assert isinstance(storage, NodeCachedFolder)
    assert storage.url == str(shared)
    assert storage.read("a.tar", 5, 2 * BLOCK_BYTES) == DATA[5 : 2 * BLOCK_BYTES]


def test_what_describes_a_data_set_is_always_the_original(shared: Path, node: Path) -> None:
    storage = open_storage(shared)
    assert storage.read("dataset.json", 0, 2) == b"{}"
    stat = (shared / "dataset.json").stat()
    (shared / "dataset.json").write_bytes(b"[]")
    os.utime(shared / "dataset.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert storage.read("dataset.json", 0, 2) == b"[]"
    assert storage.local_copy("dataset.json") == shared / "dataset.json"
    assert not blocks(node)


def test_two_processes_fill_it_once(shared: Path, node: Path) -> None:
    readers = [start(shared) for _ in range(2)]
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write("\n")
        reader.stdin.flush()
    outputs = [reader.communicate(timeout=30)[0].split() for reader in readers]
    assert {digest for digest, _ in outputs} == {hashlib.sha256(DATA).hexdigest()}
    assert sum(int(count) for _, count in outputs) == len(DATA)


def test_a_killed_reader_leaves_nothing_half_done(shared: Path, node: Path) -> None:
    for _ in range(3):
        victim = start(shared)
        known = len(blocks(node))
        assert victim.stdin is not None
        victim.stdin.write("\n")
        victim.stdin.flush()
        until = time.monotonic() + 10
        while len(blocks(node)) == known < 7 and time.monotonic() < until:
            time.sleep(0.001)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    assert blocks(node)
    digest, _ = start(shared).communicate("\n", timeout=30)[0].split()
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert len(blocks(node)) == 7


def test_a_damaged_part_is_copied_anew(shared: Path, node: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_storage(shared).read("a.tar", 0, 10)
    [part] = blocks(node)
    content = bytearray(part.read_bytes())
    content[-5] ^= 1
    part.write_bytes(content)
    assert open_storage(shared).read("a.tar", 0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
    assert f"{part}: a damaged block of the cache is deleted" in caplog.text


def test_a_data_set_packed_anew_is_another(shared: Path, node: Path) -> None:
    storage = open_storage(shared)
    assert storage.read("a.tar", 0, 10) == DATA[:10]
    (shared / "new").write_bytes(DATA[::-1])
    stat = (shared / "a.tar").stat()
    os.utime(shared / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    (shared / "new").replace(shared / "a.tar")
    # Whoever has begun with the old one gets nothing of the new one.
    assert storage.read("a.tar", 0, 10) == DATA[:10]
    with pytest.raises(StorageError, match="was replaced"):
        storage.read("a.tar", 3 * BLOCK_BYTES, 4 * BLOCK_BYTES)
    assert open_storage(shared).read("a.tar", 0, 10) == DATA[::-1][:10]


def test_errors_are_those_of_the_folder(shared: Path, node: Path) -> None:
    storage = open_storage(shared)
    with pytest.raises(MissingError):
        storage.read("b.tar", 0, 1)
    with pytest.raises(StorageError, match=f"{shared}/a.tar: truncated: ends at byte {len(DATA)}"):
        storage.read("a.tar", 0, len(DATA) + 1)


def test_a_data_set_is_read_with_the_same_pixels_and_its_damage_found(
    mixed: Dataset, tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = shutil.copytree(mixed.root, tmp_path / "packed")
    dataset = manifest.load(packed)
    sample = dataset.of_split("train")[0]
    assert isinstance(dataset.storage, NodeCachedFolder)
    pixels = read_clip(dataset, sample)
    assert blocks(node)
    with monkeypatch.context() as without:
        without.delenv("SRLOSS_NODE_CACHE")
        plain = manifest.load(packed)
        assert np.array_equal(read_clip(plain, sample), pixels)
        assert (plain.fingerprint, plain.url, plain.root) == (dataset.fingerprint, dataset.url, dataset.root)
    with (packed / sample.shard).open("r+b") as file:
        file.truncate(sample.members[0].offset + 10)
    with pytest.raises(DamagedError, match=f"{sample.shard}: .*truncated.*srloss shard verify {packed}"):
        read_clip(manifest.load(packed), sample)


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("$NO_SUCH_VARIABLE/x", "NO_SUCH_VARIABLE is not set on"),
        ("{tmp}/file/x", "Not a directory"),
        ("/proc/x", "No such file or directory"),
        ("{tmp}/theirs", "is somebody else's"),
    ],
)
def test_a_place_that_cannot_be_used_is_told_once_and_the_folder_read(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    named: str,
    why: str,
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / f"srloss-{os.getuid()}").symlink_to(tmp_path)
    monkeypatch.setenv("SRLOSS_NODE_CACHE", named.format(tmp=tmp_path))
    _usable.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert open_storage(shared).read("a.tar", 0, 10) == DATA[:10]
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"SRLOSS_NODE_CACHE={named.format(tmp=tmp_path)}: cannot be used (")
    assert why in message


def test_a_full_disk_is_told_and_the_folder_read(
    shared: Path, node: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shards.storage.blocks.write_whole", full)
    storage = open_storage(shared)
    for start_at in (0, BLOCK_BYTES, 2 * BLOCK_BYTES):
        assert storage.read("a.tar", start_at, start_at + 9) == DATA[start_at : start_at + 9]
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        f"{node / 'blocks'}: nothing more is kept in the cache (No space left on device)"
    )
    assert message.endswith("with SRLOSS_NODE_CACHE")


def test_it_takes_no_more_than_it_may(shared: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRLOSS_CACHE_BYTES", "1200KiB")
    storage = open_storage(shared)
    assert storage.read("a.tar", 0, len(DATA)) == DATA
    assert 0 < sum(part.stat().st_size for part in blocks(node)) <= 1200 * 1024
    monkeypatch.setenv("SRLOSS_CACHE_BYTES", "0")
    assert type(open_storage(shared)) is LocalStorage
