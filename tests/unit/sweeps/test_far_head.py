"""The head of a Ray that others have started: what happens to those who depend on it when it goes."""

from __future__ import annotations

import socket
import time

import pytest

from sweeps.tune import head


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The last words of a process that would have ended."""
    said: list[str] = []

    def end(text: str, code: int) -> None:
        assert code == 7
        said.append(text)

    monkeypatch.setattr(head, "_end", end)
    monkeypatch.setattr(head, "_ASK_EVERY_S", 0.02)
    return said


def last_words(what: str) -> tuple[str, int]:
    return f"error: {what}; go on with X", 7


def listening(port: int = 0) -> tuple[socket.socket, str]:
    server = socket.create_server(("127.0.0.1", port))
    return server, f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_is_gone_ends_the_driver(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_AWAY_S", 0.3)
    server, address = listening()
    with head.watching_far_head(address, last_words):
        time.sleep(0.5)
        assert words == []
        server.close()
        deadline = time.monotonic() + 10
        while not words and time.monotonic() < deadline:
            time.sleep(0.01)
    assert words[0] == f"error: Ray's head at {address} does not answer any more; go on with X"


def test_a_head_that_comes_back_does_not(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_AWAY_S", 1.0)
    server, address = listening()
    with head.watching_far_head(address, last_words):
        for _ in range(2):
            server.close()
            time.sleep(0.7)
            server, _ = listening(int(address.rpartition(":")[2]))
            time.sleep(0.1)
    server.close()
    assert words == []


def test_an_error_is_that_of_the_head_where_it_is_gone(words: list[str]) -> None:
    server, address = listening()
    with pytest.raises(RuntimeError), head.watching_far_head(address, last_words):
        raise RuntimeError("of something else")
    assert words == []
    server.close()
    with pytest.raises(RuntimeError), head.watching_far_head(address, last_words):
        raise RuntimeError("what Ray makes of it")
    assert len(words) == 1
