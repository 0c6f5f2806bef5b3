"""A stand-in for the W&B server on 127.0.0.1: it speaks the protocol of the real client, and is not the W&B product.

Tests stream to it with the wandb client that is installed, look at what arrived, and break it while a run is alive.
By hand: `python -m tests.wandb_server_standin [PORT] [--fault X]` prints what to export, then a line per event.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.wandb_standin_answers import Answers, BadRequestError, StandinRun

FAULTS = ("error500", "hang", "close", "lost_answer", "slow", "garbage", "too_many")
"""What the server can do instead of answering; `lost_answer` keeps what was sent and closes without a word."""

_FAULTY_ANSWERS = {
    "error500": (500, b'{"error":"out of order"}', "application/json"),
    "too_many": (429, b'{"error":"rate limit exceeded"}', "application/json"),
    "garbage": (200, b"<html><body>Welcome to our network. Please sign in.</body></html>", "text/html"),
}


class WandbServerStandin:
    """The stand-in; use it in a `with`, or between `start` and `stop`. What it got outlives a stop."""

    def __init__(self, port: int = 0, on_event: Callable[[str], None] = lambda _line: None) -> None:
        self.key = "standin0" * 5
        self.port = port
        self.fault: str | None = None
        """One of FAULTS, or None; may be set at any time, and holds for all requests then."""
        self.slow_s = 2.0
        """How long every answer takes under the fault `slow`."""
        self.operations: list[tuple[str, dict[str, Any]]] = []
        """In order: GraphQL's operations and their variables, "file_stream" and its body, "upload" and its size."""
        self.documents: dict[str, str] = {}
        """The text of each GraphQL operation, as last asked."""
        self.refused = 0
        """Requests with another key, or none."""
        self.faulty: list[str] = []
        """Paths of the requests that were answered as the fault says."""
        self.on_event = on_event
        self._answers = Answers(lambda: self.url)
        self._http: _Http | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> dict[str, StandinRun]:
        """By run id."""
        return self._answers.runs

    @property
    def views(self) -> list[dict[str, Any]]:
        """The variables of every saved workspace or report, `spec` parsed."""
        return self._answers.views

    @property
    def unknown(self) -> list[str]:
        """GraphQL operations that it had no answer to."""
        return self._answers.unknown

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to send here, each second rather than every 15."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": self.key,
            "WANDB_ENTITY": self._answers.entity,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
        }

    def start(self) -> WandbServerStandin:
        self._http = _Http(("127.0.0.1", self.port), self)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Ends all connections; from now on they are refused, until `start` opens the same port again."""
        if self._http:
            http, self._http = self._http, None
            http.shutdown()
            http.server_close()
            http.hang_up()

    def __enter__(self) -> WandbServerStandin:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def is_down(self) -> bool:
        return self._http is None

    def handle(self, method: str, path: str, body: bytes) -> object:
        """Takes in one request and gives what to answer as JSON; BadRequestError where it makes no sense."""
        if method == "PUT":
            name = self._answers.upload(unquote(path), body)
            self._note("upload", {"name": name, "size": len(body)})
            return {}
        sent = json.loads(body)
        if path == "/graphql":
            name = _operation_name(sent["query"])
            variables = sent.get("variables") or {}
            self.documents[name] = sent["query"]
            self._note(name, variables)
            return {"data": self._answers.graphql(name, variables)}
        if found := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            self._note("file_stream", sent, found[3])
            self._answers.file_stream(found[3], sent)
            return {"exitcode": None, "limits": {}}
        raise BadRequestError(f"the stand-in for W&B has nothing at {method} {path}")

    def _note(self, name: str, what: dict[str, Any], run: str = "") -> None:
        self.operations.append((name, what))
        self.on_event(f"{name} {run or _shortened(what)}")


def _operation_name(query: str) -> str:
    found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
    if not found:
        raise BadRequestError(f"a GraphQL document without an operation's name: {query[:200]}")
    return found[1]


def _shortened(what: dict[str, Any]) -> str:
    text = json.dumps(what)
    return text if len(text) <= 160 else f"{text[:159]}…"


class _Http(ThreadingHTTPServer):
    """Knows its open connections, so that a stop ends them as a dead server would."""

    daemon_threads = True
    block_on_close = False
    # 40 runs of one client connect at once.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], standin: WandbServerStandin) -> None:
        self.standin = standin
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _standin(self) -> WandbServerStandin:
        assert isinstance(self.server, _Http)
        return self.server.standin

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """The server's events say it."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        standin = self._standin
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        fault = standin.fault
        if fault in ("hang", "slow"):
            self._wait(fault)
        if fault in _FAULTY_ANSWERS:
            standin.faulty.append(self.path)
            self._answer(*_FAULTY_ANSWERS[fault])
        elif fault in ("hang", "close"):
            self.close_connection = True
        else:
            status, answer = self._answer_of(body)
            if fault == "lost_answer":
                self.close_connection = True
            else:
                self._answer(status, json.dumps(answer).encode(), "application/json")

    def _wait(self, fault: str) -> None:
        """Until the fault or the server ends; a slow one answers then."""
        standin = self._standin
        started = time.monotonic()
        while standin.fault == fault and not standin.is_down():
            if fault == "slow" and time.monotonic() - started >= standin.slow_s:
                return
            time.sleep(0.02)

    def _answer_of(self, body: bytes) -> tuple[int, object]:
        standin = self._standin
        if not self._knows_the_key():
            standin.refused += 1
            standin.on_event(f"refused {self.path}: wrong key")
            return 401, {"errors": [{"message": "user is not logged in"}]}
        try:
            return 200, standin.handle(self.command, self.path, body)
        except BadRequestError as problem:
            message = str(problem)
        except (KeyError, IndexError, TypeError, ValueError) as problem:
            message = (
                f"the stand-in for W&B cannot read {self.command} {self.path}: {problem!r}: {body[:500]!r}"
            )
            standin.unknown.append(message)
        standin.on_event(message)
        return 400, {"errors": [{"message": message}]}

    def _knows_the_key(self) -> bool:
        # What is uploaded goes to a signed address, without a key.
        if self.command == "PUT":
            return True
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        return given == base64.b64encode(f"api:{self._standin.key}".encode()).decode()

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A stand-in for the W&B server on 127.0.0.1, for tests.")
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--fault", choices=FAULTS)
    options = parser.parse_args()
    with WandbServerStandin(options.port, on_event=lambda line: print(line, flush=True)) as server:
        server.fault = options.fault
        for name, value in server.environment().items():
            print(f"export {name}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
