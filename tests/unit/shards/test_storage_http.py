"""Reading ranges over HTTP: from any server, the right bytes or a clear error within a bounded time."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.storage.errors import MissingError, StorageError
from shards.storage.http import HttpStorage, WebAddress, redirected_url
from shards.storage.retry import Limits
from tests.unit.shards.unkind_server import UnkindServer

DATA = np.random.default_rng(7).bytes(300_000)
QUICK = Limits(
    connect_s=2.0,
    stall_s=0.2,
    total_s=0.4,
    min_bytes_per_s=1e6,
    tries=3,
    first_wait_s=0.01,
    max_wait_s=0.02,
    max_retry_after_s=0.05,
    give_up_s=5.0,
)
BOUND_S = 8.0
"""More than all tries can take; without deadlines the server keeps a reader for 20 s and longer."""


@pytest.fixture
def server() -> Iterator[UnkindServer]:
    with UnkindServer({"/a.tar": DATA, "/empty": b"", "/one byte": b"x"}) as server:
        yield server


def storage_of(server: UnkindServer, limits: Limits = QUICK, path: str = "") -> HttpStorage:
    return HttpStorage(WebAddress(server.url + path), limits)


def error_of(storage: HttpStorage, start: int = 1000, stop: int = 61_000) -> str:
    """The text of the error of a read, which must come in time."""
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        storage.read("a.tar", start, stop)
    assert time.monotonic() - started < BOUND_S
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_ranges_are_read_over_few_connections(server: UnkindServer) -> None:
    storage = storage_of(server)
    assert storage.read("a.tar", 1000, 61_000) == DATA[1000:61_000]
    assert storage.read("a.tar", 0, len(DATA)) == DATA
    assert storage.read("a.tar", len(DATA) - 1, len(DATA)) == DATA[-1:]
    assert storage.read("a.tar", 5, 5) == b""
    assert storage.version("a.tar").size == len(DATA)
    assert storage.read("one byte", 0, 1) == b"x"
    assert storage.version("empty").size == 0
    assert len({request.connection for request in server.requests}) == 1
    assert {request.headers["Accept-Encoding"] for request in server.requests} == {"identity"}


def test_many_threads_read_at_once(server: UnkindServer) -> None:
    storage = storage_of(server)
    starts = [(number * 7919) % 250_000 for number in range(400)]
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(lambda start: storage.read("a.tar", start, start + start % 40_000), starts))
    assert all(
        part == DATA[start : start + start % 40_000] for start, part in zip(starts, parts, strict=True)
    )
    assert len({request.connection for request in server.requests}) <= 32


FAULTS = [
    *("stall", "stall_in_body", "cut", "close", "reset", "reset_in_body", "garbage", "drip", "drip_in_head"),
    *(
        "short_length",
        "long_length",
        "wrong_range",
        "no_range",
        "chunked:5",
        "500",
        "502",
        "503",
        "429",
        "408",
    ),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_overcome(server: UnkindServer, fault: str) -> None:
    storage = storage_of(server)
    server.faults.extend([fault, fault])
    started = time.monotonic()
    assert storage.read("a.tar", 1000, 61_000) == DATA[1000:61_000]
    assert time.monotonic() - started < BOUND_S
    assert [request.fault for request in server.requests] == [fault.partition(":")[0]] * 2 + [""]


REASONS = {
    "stall": "no byte came for 0.2 s",
    "stall_in_body": "no byte came for 0.2 s after 30000 of 60000 bytes",
    "cut": "the answer was cut after 30000 of 60000 bytes",
    "close": "the connection broke (the server closed it)",
    "reset": "the connection broke (Connection reset by peer)",
    "garbage": "that was no HTTP answer",
    "short_length": "60000 bytes were asked for, the answer has 30000",
    "long_length": "60000 bytes were asked for, the answer has 60007",
    "wrong_range": "bytes 1000-60999 were asked for, the answer holds bytes 997-60996/300001",
    "no_range": "does not say which bytes it holds (Content-Range: None)",
    "drip": "the answer came too slowly and was given up after",
    "drip_in_head": "the answer came too slowly and was given up",
    "500": "the server answered 500 Internal Server Error",
    "503": "the server answered 503 Service Unavailable",
    "chunked:5": "goes on after the 60000 bytes",
}


@pytest.mark.parametrize("fault", REASONS)
def test_a_lasting_fault_is_named_with_place_reason_and_tries(server: UnkindServer, fault: str) -> None:
    server.always = fault
    text = error_of(storage_of(server))
    assert text.startswith(f"{server.url}/a.tar: ")
    assert REASONS[fault] in text
    assert "(tried 3 times in " in text
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("403", "403 Forbidden; check the user and password"),
        ("401", "401 Unauthorized; check the user and password"),
        ("400", "the server refused: 400 Bad Request"),
        ("501", "the server refused: 501 Not Implemented"),
        ("416", "truncated: ends earlier, 61000 are needed"),
        ("gzip", "compressed (gzip), although it was asked not to"),
        ("whole", "ignores Range requests and sends the whole file; use one that honours them"),
        ("redirect", "more than 5 redirects"),
        ("redirect:file:///etc/passwd", "redirects to a file: URL, which is not followed"),
        ("redirect:ftp://127.0.0.1/a.tar", "redirects to a ftp: URL, which is not followed"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(server: UnkindServer, fault: str, reason: str) -> None:
    server.always = fault
    text = error_of(storage_of(server))
    assert reason in text
    assert len(server.requests) == (6 if fault == "redirect" else 1)


def test_a_missing_file_is_told_apart(server: UnkindServer) -> None:
    with pytest.raises(MissingError, match=r"/other.tar: no such file \(404 Not Found\)"):
        storage_of(server).version("other.tar")
    with pytest.raises(StorageError, match="not the name of a file of this folder"):
        storage_of(server).read("../a.tar", 0, 1)


def test_a_file_that_ends_too_early_is_truncated(server: UnkindServer) -> None:
    assert f"truncated: ends at byte {len(DATA)}, 300001 are needed" in error_of(
        storage_of(server), 10, 300_001
    )
    assert f"truncated: ends at byte {len(DATA)}" in error_of(storage_of(server), 300_005, 300_009)
    known = storage_of(server)
    known.version("a.tar")
    assert f"truncated: ends at byte {len(DATA)}" in error_of(known, 10, 300_001)


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    text = error_of(HttpStorage(WebAddress(f"http://127.0.0.1:{port}/x"), QUICK))
    assert f"cannot connect to 127.0.0.1:{port} (Connection refused) (tried 3 times" in text
    # The reserved name never resolves.
    assert "its name is unknown" in error_of(HttpStorage(WebAddress("http://nowhere.invalid/x"), QUICK))


def test_whole_files_may_come_from_a_server_without_ranges(server: UnkindServer) -> None:
    server.always = "whole"
    storage = storage_of(server)
    assert storage.version("a.tar").size == len(DATA)
    assert storage.read("a.tar", 0, len(DATA)) == DATA
    assert "ignores Range requests" in error_of(storage, 0, 299_999)


@pytest.mark.parametrize("fault", ["chunked", "until_closed", "as_200", "extra"])
def test_odd_but_right_answers_are_taken(server: UnkindServer, fault: str) -> None:
    server.always = fault
    storage = storage_of(server)
    assert storage.version("a.tar").size == len(DATA)
    for start in range(0, 250_000, 50_000):
        assert storage.read("a.tar", start, start + 40_000) == DATA[start : start + 40_000]


@pytest.mark.parametrize("tags", ["strong", "weak", "modified"])
def test_a_file_that_changes_is_never_mixed(server: UnkindServer, tags: str) -> None:
    server.tags = tags
    storage = storage_of(server)
    assert storage.read("a.tar", 0, 1000) == DATA[:1000]
    server.faults.append("change")
    # A server that knows If-Match refuses before it sends anything.
    assert ("(412 Precondition Failed)" in error_of(storage)) == (tags == "strong")
    assert "the file changed while it was read" in error_of(storage)
    assert "open the data set again" in error_of(storage)
    assert storage_of(server).read("a.tar", 0, 1000) == DATA[::-1][:1000]


@pytest.mark.parametrize("fault", ["other_tag", "other_size"])
def test_an_answer_of_another_version_is_refused_where_the_server_ignores_if_match(
    server: UnkindServer, fault: str
) -> None:
    storage = storage_of(server)
    storage.version("a.tar")
    server.faults.append(fault)
    assert "the file changed while it was read" in error_of(storage)


def test_a_file_that_got_shorter_has_changed(server: UnkindServer) -> None:
    server.tags = "none"
    storage = storage_of(server)
    storage.version("a.tar")
    server.files["/a.tar"] = DATA[:50_000]
    assert "changed while it was read: it is shorter now" in error_of(storage)
    assert "changed while it was read: it is shorter now" in error_of(storage, 60_000, 61_000)


def test_a_file_without_any_tag_is_warned_about_once(
    server: UnkindServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.tags = "none"
    storage = storage_of(server)
    storage.version("a.tar")
    storage.read("a.tar", 0, 10)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"{server.url}/a.tar: the server tells neither ETag nor Last-Modified; only checksums would show a change "
        "while reading"
    ]


def test_a_pause_that_the_server_asks_for_is_kept_up_to_a_limit(server: UnkindServer) -> None:
    server.faults.extend(["429:100000", "503:Fri, 01 Jan 2100 00:00:00 GMT", "429:0"])
    storage = storage_of(server, replace(QUICK, tries=4, max_retry_after_s=0.3, give_up_s=30.0))
    started = time.monotonic()
    assert storage.read("a.tar", 0, 10) == DATA[:10]
    assert 0.6 < time.monotonic() - started < BOUND_S


def test_no_new_try_begins_after_the_time_to_give_up(server: UnkindServer) -> None:
    server.always = "503"
    storage = storage_of(server, replace(QUICK, tries=1000, first_wait_s=0.2, max_wait_s=0.2, give_up_s=0.7))
    assert "tried " in error_of(storage)
    assert len(server.requests) < 10


def test_redirects_are_followed_and_remembered_until_they_fail(server: UnkindServer) -> None:
    with UnkindServer({"/signed": DATA}) as other:
        storage = HttpStorage(WebAddress(f"http://me:secret@127.0.0.1:{server.port}"), QUICK)
        server.always = f"redirect:{other.url}/signed?signature=geheim"
        assert storage.read("a.tar", 0, 1000) == DATA[:1000]
        assert storage.read("a.tar", 1000, 2000) == DATA[1000:2000]
        assert (len(server.requests), len(other.requests)) == (1, 2)
        # A login is for the server it was given for.
        assert "authorization" in server.requests[0].headers
        assert "authorization" not in other.requests[0].headers
        other.faults.append("403")
        assert storage.read("a.tar", 2000, 3000) == DATA[2000:3000]
        assert (len(server.requests), len(other.requests)) == (2, 4)
        other.always = "403"
        assert "403 Forbidden" in error_of(storage)


def test_redirects_never_leave_encryption() -> None:
    assert redirected_url("http://host/x/a?s=1", "https://other/b") == "https://other/b"
    assert redirected_url("https://host/x/a?s=1", "b#here") == "https://host/x/b"
    with pytest.raises(StorageError, match="from https to http, which is not followed"):
        redirected_url("https://host/x/a", "http://host/x/a")


def test_credentials_are_sent_and_never_shown(server: UnkindServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.login = "Basic bWU6c2VjciN0"
    root = f"http://me:secr%23t@127.0.0.1:{server.port}/?sig=geheim"
    storage = HttpStorage(WebAddress(root), QUICK)
    assert storage.read("a.tar", 0, 10) == DATA[:10]
    assert server.requests[0].path == "/a.tar?sig=geheim"
    server.faults.extend(["cut", "503", "403"])
    shown = error_of(storage) + storage.url + storage.identity("a.tar") + caplog.text
    assert "503" in caplog.text
    for secret in ("secr", "geheim", "bWU6"):
        assert secret not in shown


@pytest.mark.parametrize("root", ["http://", "https:///x", "http://host:port/x", "http://[::1/x"])
def test_a_url_without_a_host_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        WebAddress(root)


def test_a_forked_process_uses_connections_of_its_own(server: UnkindServer) -> None:
    storage = storage_of(server)
    storage.read("a.tar", 0, 10)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(storage.read("a.tar", n, n + 1000) == DATA[n : n + 1000] for n in range(50)) else 1)
    for n in range(50):
        assert storage.read("a.tar", n, n + 1000) == DATA[n : n + 1000]
    assert os.waitpid(child, 0)[1] == 0
    assert len({request.connection for request in server.requests}) == 2


@pytest.mark.parametrize("fault", ["stall", "stall_in_body", "503:60"])
@pytest.mark.parametrize("threads", [0, 3])
def test_ctrl_c_ends_all_reads(server: UnkindServer, fault: str, threads: int) -> None:
    server.always = fault
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from shards.storage.http import HttpStorage, WebAddress\n"
        f"storage = HttpStorage(WebAddress({server.url!r}))\n"
        "print('reading', flush=True)\n"
        f"pool = ThreadPoolExecutor({threads} or 1)\n"
        f"waiting = [pool.submit(storage.read, 'a.tar', n, 1000) for n in range({threads})]\n"
        "waiting[0].result() if waiting else storage.read('a.tar', 0, 10)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path.cwd(),
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    while len(server.requests) < max(threads, 1):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert "KeyboardInterrupt" in errors


def test_under_many_faults_every_byte_is_right(server: UnkindServer) -> None:
    server.chance = 0.3
    storage = storage_of(server, replace(QUICK, tries=12))

    def wrong(seed: int) -> int:
        draw = np.random.default_rng(seed)
        spans = np.sort(draw.integers(0, len(DATA), (40, 2)), axis=1).tolist()
        return sum(storage.read("a.tar", start, stop) != DATA[start:stop] for start, stop in spans)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(wrong, range(8))) == [0] * 8
    assert len({request.fault for request in server.requests}) == len(server.chances) + 1
