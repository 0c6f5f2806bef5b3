"""The door to W&B, as far as it does without W&B's client: who we are, and how many rows there are."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sr import track
from sr.track import ask, num_rows_on_server

KEY = "k" * 40


class StandIn(ThreadingHTTPServer):
    """Stands in for W&B's server: one answer to everything."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.reply: Callable[[BaseHTTPRequestHandler], None] = lambda handler: answer(handler, b"{}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def says(self, content: object, *, status: int = 200) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.reply = lambda handler: answer(handler, body, status=status)


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.headers["Authorization"], json.loads(body)))
        self.server.reply(self)

    def log_message(self, *_arguments: object) -> None:
        pass


def answer(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(track, "_server", lambda: (server.url, KEY))
        yield server
        server.shutdown()
        thread.join()


def viewer(**values: object) -> dict[str, Any]:
    return {"data": {"viewer": values or None}}


@pytest.mark.parametrize(
    ("known", "who"),
    [({"entity": "lab", "username": "me"}, "lab"), ({"entity": None, "username": "me"}, "me")],
)
def test_a_server_that_knows_the_key_is_well(server: StandIn, known: dict[str, Any], who: str) -> None:
    server.says(viewer(**known))
    found = ask()
    assert (found.state, found.words, found.is_well) == ("well", who, True)
    ((authorization, question),) = server.asked
    assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == f"api:{KEY}"
    assert "viewer" in question["query"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_wrong(server: StandIn, status: int) -> None:
    server.says(b"no", status=status)
    found = ask()
    assert (found.state, found.is_well) == ("wrong_key", False)
    assert found.words.endswith("does not accept the API key of this machine (wandb login --relogin)")


def test_a_key_of_nobody_is_wrong(server: StandIn) -> None:
    server.says(viewer())
    assert ask().state == "wrong_key"


@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_a_server_in_trouble_is_unreachable(server: StandIn, status: int) -> None:
    server.says(b"<html>", status=status)
    found = ask()
    assert (found.state, found.words) == ("unreachable", f"{server.url[7:]} answers with HTTP {status}")


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Please log in to the hotel's network</html>",
        b"",
        b"\xff\xfe",
        [],
        "x",
        {"data": None},
        {"errors": []},
        {"data": {}},
        {"data": {"viewer": "me"}},
        {"data": {"viewer": 3}},
    ],
)
def test_an_answer_of_somebody_else_is_none(server: StandIn, content: object) -> None:
    server.says(content)
    found = ask()
    assert found.state == "unreachable"
    assert found.words == f"{server.url[7:]} answers, but not as W&B does; is it the page of a proxy?"


def test_something_that_speaks_no_http_is_no_server(server: StandIn) -> None:
    server.reply = lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n")  # type: ignore[func-returns-value]
    assert ask().state == "unreachable"


def test_a_server_that_hangs_up_is_unreachable(server: StandIn) -> None:
    server.reply = lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)
    found = ask()
    assert found.state == "unreachable"
    assert "cannot be reached" in found.words


@pytest.mark.parametrize("is_dripping", [False, True])
def test_a_server_that_takes_forever_is_given_up_in_time(server: StandIn, *, is_dripping: bool) -> None:
    let_go = threading.Event()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not let_go.wait(0.02):
            if is_dripping:
                handler.wfile.write(b" ")

    server.reply = reply
    began = time.monotonic()
    found = ask(timeout_s=0.2)
    assert time.monotonic() - began < 1.0
    let_go.set()
    assert (found.state, found.words) == ("unreachable", f"{server.url[7:]} does not answer within 0.2 s")


def test_a_name_that_is_looked_up_forever_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(track, "_server", lambda: ("http://wandb.example", KEY))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_more: let_go.wait(5) and [])
    began = time.monotonic()
    assert ask(timeout_s=0.2).state == "unreachable"
    assert time.monotonic() - began < 1.0
    let_go.set()


def test_a_closed_port_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(track, "_server", lambda: (f"http://127.0.0.1:{port}", KEY))
    found = ask()
    assert (found.state, found.words) == (
        "unreachable",
        f"127.0.0.1:{port} cannot be reached (Connection refused)",
    )


def test_without_a_key_nobody_is_asked(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "_server", lambda: (server.url, None))
    assert ask().state == "no_key"
    assert server.asked == []


def test_rows_are_counted_by_the_server(server: StandIn) -> None:
    server.says({"data": {"model": {"bucket": {"historyLineCount": 12}}}})
    assert num_rows_on_server("abc", project="p", entity=None, timeout_s=2) == 12
    assert server.asked[0][1]["variables"] == {"project": "p", "entity": None, "name": "abc"}


@pytest.mark.parametrize(
    "content", [{"data": {"model": {"bucket": None}}}, {"data": {"model": None}}, {"data": None}, b"<html>"]
)
def test_a_count_that_does_not_come_is_none(server: StandIn, content: object) -> None:
    server.says(content)
    assert num_rows_on_server("abc", project="p", entity=None, timeout_s=2) == -1
    server.says(b"", status=500)
    assert num_rows_on_server("abc", project="p", entity=None, timeout_s=2) == -1


# --- where the key comes from, as W&B's own settings have it ---

_SHOW = "from sr import track; print(track._server())"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "HOME": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path / "config")}


def shown(environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", _SHOW], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, (done.stdout or done.stderr).strip().splitlines()[-1]


def test_the_key_is_that_of_the_environment_or_of_netrc_for_this_host(home: dict[str, str]) -> None:
    Path(home["HOME"], ".netrc").write_text(f"machine wandb.lab\n  login user\n  password {'n' * 40}\n")
    Path(home["HOME"], ".netrc").chmod(0o600)
    there = home | {"WANDB_BASE_URL": "https://wandb.lab/"}
    assert shown(there) == (0, str(("https://wandb.lab", "n" * 40)))
    assert shown(there | {"WANDB_API_KEY": KEY}) == (0, str(("https://wandb.lab", KEY)))
    # A setting that makes no sense is told in a line.
    code, words = shown(home | {"WANDB_BASE_URL": "nonsense"})
    assert code == 1
    assert words.startswith("ValueError: W&B's setting base_url ($WANDB_BASE_URL): ")
    assert words.endswith("got 'nonsense'")
