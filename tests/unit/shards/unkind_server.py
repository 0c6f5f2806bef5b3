"""An HTTP server with ranges, ETags and every bad habit that servers and networks have, on request."""

from __future__ import annotations

import gzip
import hashlib
import random
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

DRIP_S = 0.02
"""Between two bytes of an answer that drips."""


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    fault: str
    connection: int
    """Port of the client: equal for requests over one connection."""


@dataclass
class UnkindServer:
    """Serves `files` by path ("/name"); use as a context manager.

    Each request takes the next of `faults` if there is one, else `always`, else, with a probability of `chance`, one of
    `chances`. An empty fault is a good answer. See `_Handler` for what there is.
    """

    files: dict[str, bytes]
    always: str = ""
    chance: float = 0.0
    chances: tuple[str, ...] = ("503", "cut", "reset", "close", "wrong_range", "short_length", "long_length")
    tags: str = "strong"
    """"strong" or "weak" ETags, "modified" for Last-Modified only, "none"."""
    login: str = ""
    """The Authorization header without which all is refused."""
    faults: deque[str] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        self.released = threading.Event()
        self._random = random.Random(0)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.unkind = self
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> UnkindServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self) -> str:
        with self._lock:
            if self.faults:
                return self.faults.popleft()
            if not self.always and self._random.random() < self.chance:
                return self._random.choice(self.chances)
            return self.always

    def ranges(self) -> list[str]:
        """What was asked for since the last call ("0-9"), without first contacts, which ask for one byte."""
        asked = [request.headers["Range"].removeprefix("bytes=") for request in self.requests]
        self.requests.clear()
        return [text for text in asked if text != "0-0"]

    def tag_headers(self, data: bytes) -> dict[str, str]:
        digest = hashlib.sha256(data).hexdigest()[:16]
        return {
            "strong": {"ETag": f'"{digest}"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            "weak": {"ETag": f'W/"{digest}"'},
            "modified": {"Last-Modified": f"Mon, 01 Jan 2024 00:00:{int(digest[:8], 16) % 60:02d} GMT"},
            "none": {},
        }[self.tags]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    unkind: UnkindServer

    def handle_error(self, *_: object) -> None:
        """Clients that give up are no errors here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        unkind = self.server.unkind
        fault, _, argument = unkind.next_fault().partition(":")
        path = unquote(self.path.partition("?")[0])
        unkind.requests.append(Request(self.path, dict(self.headers.items()), fault, self.client_address[1]))
        time.sleep(unkind.delay_s)
        if unkind.login and self.headers.get("Authorization") != unkind.login:
            return self.refuse(401, {})
        if fault == "change":
            # From this request on, the file is another one of the same size.
            unkind.files[path] = unkind.files[path][::-1]
        data = unkind.files.get(path)
        if data is None:
            return self.refuse(404, {})
        if fault.isdigit():
            return self.refuse(int(fault), {"Retry-After": argument} if argument else {})
        wanted = self.headers.get("If-Match")
        if wanted is not None and wanted != unkind.tag_headers(data).get("ETag"):
            return self.refuse(412, {})
        return getattr(self, f"do_{fault or 'well'}")(data, argument)

    def refuse(self, status: int, headers: dict[str, str]) -> None:
        self.answer(status, headers, b"no")

    def answer(self, status: int, headers: Mapping[str, str | None], body: bytes) -> None:
        """`headers` replace the ones that a good answer has; None removes one."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def part(self, data: bytes) -> tuple[int, int, dict[str, str]]:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        start, stop = int(match[1]), min(int(match[2]) + 1, len(data))
        headers = {
            "Content-Length": str(stop - start),
            "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}",
            **self.server.unkind.tag_headers(data),
        }
        return start, stop, headers

    def do_well(self, data: bytes, _: str = "", **changes: str | None) -> None:
        start, stop, headers = self.part(data)
        if start >= len(data):
            self.answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        else:
            self.answer(
                206, headers | {name.replace("_", "-"): v for name, v in changes.items()}, data[start:stop]
            )

    do_change = do_well

    def do_as_200(self, data: bytes, _: str) -> None:
        """The right bytes with the wrong status, as some object stores answer."""
        start, stop, headers = self.part(data)
        self.answer(200, headers, data[start:stop])

    def do_whole(self, data: bytes, _: str) -> None:
        self.answer(200, self.server.unkind.tag_headers(data), data)

    def do_stall(self, _data: bytes, _: str) -> None:
        self.server.unkind.released.wait(20)
        self.close_connection = True

    def do_stall_in_body(self, data: bytes, _: str) -> None:
        self.half(data)
        self.do_stall(data, "")

    def do_cut(self, data: bytes, _: str) -> None:
        self.half(data)
        self.close_connection = True

    def half(self, data: bytes) -> None:
        start, stop, headers = self.part(data)
        self.answer(206, headers, data[start : (start + stop) // 2])

    def do_close(self, _data: bytes, _: str) -> None:
        self.close_connection = True

    def do_reset(self, _data: bytes, _: str) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def do_reset_in_body(self, data: bytes, _: str) -> None:
        self.half(data)
        self.do_reset(data, "")

    def do_garbage(self, _data: bytes, _: str) -> None:
        self.wfile.write(b"\x00\xffthis is no HTTP\r\n\r\n")
        self.close_connection = True

    def do_short_length(self, data: bytes, _: str) -> None:
        start, stop, _headers = self.part(data)
        self.do_well(data, Content_Length=str((stop - start) // 2))

    def do_long_length(self, data: bytes, _: str) -> None:
        start, stop, _headers = self.part(data)
        self.do_well(data, Content_Length=str(stop - start + 7))
        self.close_connection = True

    def do_wrong_range(self, data: bytes, _: str) -> None:
        start, stop, headers = self.part(data)
        moved = max(0, start - 3)
        headers["Content-Range"] = f"bytes {moved}-{moved + stop - start - 1}/{len(data) + 1}"
        self.answer(206, headers, data[::-1][start:stop])

    def do_no_range(self, data: bytes, _: str) -> None:
        self.do_well(data, Content_Range=None)

    def do_other_size(self, data: bytes, _: str) -> None:
        start, stop, _headers = self.part(data)
        self.do_well(data, Content_Range=f"bytes {start}-{stop - 1}/{len(data) + 5}")

    def do_other_tag(self, data: bytes, _: str) -> None:
        self.do_well(data, ETag='"another"')

    def do_gzip(self, data: bytes, _: str) -> None:
        headers = self.part(data)[2]
        body = gzip.compress(bytes(1_000_000), 1)
        self.answer(206, headers | {"Content-Encoding": "gzip", "Content-Length": str(len(body))}, body)

    def do_chunked(self, data: bytes, argument: str) -> None:
        """Without a length; the argument appends so many bytes more than were asked for."""
        start, stop, headers = self.part(data)
        body = data[start:stop] + bytes(int(argument or 0))
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(body[i : i + 999]), body[i : i + 999]) for i in range(0, len(body), 999)
        )
        self.answer(
            206, headers | {"Content-Length": None, "Transfer-Encoding": "chunked"}, chunks + b"0\r\n\r\n"
        )

    def do_until_closed(self, data: bytes, _: str) -> None:
        """Without a length: the end of the connection is the end of the body."""
        self.do_well(data, Content_Length=None, Connection="close")

    def do_extra(self, data: bytes, _: str) -> None:
        """Bytes after the answer, which must not be taken for the next one's."""
        self.do_well(data)
        self.wfile.write(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nbad")

    def do_drip(self, data: bytes, _: str) -> None:
        start, stop, headers = self.part(data)
        self.answer(206, headers, b"")
        self.drip(data[start:stop])

    def do_drip_in_head(self, _data: bytes, _: str) -> None:
        self.drip(b"HTTP/1.1 206 Partial Content\r\nX-Slow: " + bytes(10_000).replace(b"\0", b"x"))

    def drip(self, body: bytes) -> None:
        for byte in body:
            if self.server.unkind.released.wait(DRIP_S):
                break
            self.wfile.write(bytes([byte]))
        self.close_connection = True

    def do_redirect(self, _data: bytes, argument: str) -> None:
        """To the argument, or to itself."""
        self.answer(302, {"Location": argument or self.path}, b"")

    def do_region(self, data: bytes, argument: str) -> None:
        """As S3 answers where a request is not signed for the bucket's region, which is the argument."""
        if f"/{argument}/s3/" in self.headers.get("Authorization", ""):
            return self.do_well(data)
        return self.answer(
            301, {"x-amz-bucket-region": argument}, b"<Error><Code>PermanentRedirect</Code></Error>"
        )

    def do_denied(self, _data: bytes, _: str) -> None:
        self.answer(403, {}, b"<Error><Code>AccessDenied</Code><AWSAccessKeyId>AKEY</AWSAccessKeyId></Error>")
