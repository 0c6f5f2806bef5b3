"""Whole copies of remote files, and where the cache is."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shards.storage import copies
from shards.storage.cache import CachedStorage, CacheSettings, parse_bytes
from shards.storage.errors import StorageError
from shards.storage.http import HttpStorage, WebAddress
from tests.unit.shards.unkind_server import UnkindServer

DATA = np.random.default_rng(11).bytes(1_000_003)


@pytest.fixture
def server() -> Iterator[UnkindServer]:
    with UnkindServer({"/a.tar": DATA}) as server:
        yield server


def cached(server: UnkindServer, folder: Path) -> CachedStorage:
    return CachedStorage(HttpStorage(WebAddress(server.url)), CacheSettings(folder, 10**9, 100_000))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_local_copy_is_used_again_until_the_file_changes(server: UnkindServer, tmp_path: Path) -> None:
    first = cached(server, tmp_path).local_copy("a.tar")
    assert first.read_bytes() == DATA
    server.ranges()
    assert cached(server, tmp_path).local_copy("a.tar") == first
    assert len(server.requests) == 1
    assert server.ranges() == []
    server.files["/a.tar"] = DATA[::-1]
    second = cached(server, tmp_path).local_copy("a.tar")
    assert (first.read_bytes(), second.read_bytes()) == (DATA, DATA[::-1])


def test_a_damaged_local_copy_is_fetched_again(server: UnkindServer, tmp_path: Path) -> None:
    copy = cached(server, tmp_path).local_copy("a.tar")
    for damage in (DATA[:-1], DATA[:500] + b"x" + DATA[501:], b""):
        copy.write_bytes(damage)
        assert cached(server, tmp_path).local_copy("a.tar").read_bytes() == DATA


def test_local_copies_have_a_limit_of_their_own(
    server: UnkindServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "CAP_BYTES", 2_500_000)
    for number in range(4):
        server.files[f"/{number}"] = bytes([number]) * 1_000_000
    kept: list[Path] = []
    for number in range(4):
        kept.append(cached(server, tmp_path).local_copy(str(number)))
        os.utime(kept[-1], (number, number))
    assert [path.exists() for path in kept] == [False, False, True, True]
    server.files["/large"] = bytes(3_000_000)
    assert cached(server, tmp_path).local_copy("large").read_bytes() == bytes(3_000_000)


def test_a_copy_that_cannot_be_kept_in_the_cache_is_kept_privately(
    server: UnkindServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = cached(server, tmp_path / "file" / "cache")
    copy = storage.local_copy("a.tar")
    assert copy.read_bytes() == DATA
    assert storage.local_copy("a.tar") == copy
    (warning,) = warnings(caplog)
    assert "cannot keep copies there (Not a directory); they are kept for this process only" in warning


def test_a_download_that_fails_leaves_nothing(server: UnkindServer, tmp_path: Path) -> None:
    storage = cached(server, tmp_path)
    storage.size("a.tar")
    server.always = "403"
    with pytest.raises(StorageError, match="403 Forbidden"):
        storage.local_copy("a.tar")
    assert [path.name for path in (tmp_path / "copies").iterdir() if path.name != "claims"] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("20GB", 20 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("123", 123), ("7 B", 7)],
)
def test_bytes_are_parsed(text: str, count: int) -> None:
    assert parse_bytes(text, where="here") == count


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "nan", "inf", "1e30", "20 GX", "GB"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"here: .* is no number of bytes; write for example 20GB, 500MB or 0"
    ):
        parse_bytes(text, where="here")


def test_settings_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SRLOSS_CACHE", "SRLOSS_CACHE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    assert CacheSettings.from_environment() == CacheSettings(
        Path("/somewhere/.cache/srloss/shards"), 20 * 10**9
    )
    monkeypatch.setenv("SRLOSS_CACHE", str(tmp_path))
    monkeypatch.setenv("SRLOSS_CACHE_BYTES", "500MB")
    assert CacheSettings.from_environment() == CacheSettings(tmp_path, 5 * 10**8)
    monkeypatch.setenv("SRLOSS_CACHE_BYTES", "0")
    assert CacheSettings.from_environment().folder is None
    monkeypatch.setenv("SRLOSS_CACHE_BYTES", "all")
    with pytest.raises(ValueError, match="SRLOSS_CACHE_BYTES: 'all' is no number"):
        CacheSettings.from_environment()
