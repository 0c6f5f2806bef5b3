"""HTTP connections that cannot hang: every byte that is waited for counts against a deadline."""

import http.client
import io
import logging
import os
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

import urllib3
import urllib3.connection
import urllib3.connectionpool
from urllib3.exceptions import HTTPError, IncompleteRead, LocationParseError, NewConnectionError, ProxyError

from shards.storage.ending import watch
from shards.storage.errors import StorageError
from shards.storage.retry import Limits, TransientError

CONNECTIONS = 32
"""Kept open to one host."""
_PIECE_BYTES = 256 * 1024
_TEXT_BYTES = 4096


class _Waiting(threading.local):
    """How long this thread's request may still wait; urllib3 knows no deadline for a whole answer."""

    stall_s = 20.0
    until = float("inf")


_waiting = _Waiting()


class StalledError(OSError):
    """No byte came for too long."""


class OverdueError(OSError):
    """Bytes came, but too slowly."""


class _TimedReader(io.RawIOBase):
    """Reads from a socket, each time only as long as both deadlines allow."""

    def __init__(self, raw: Any, sock: socket.socket) -> None:  # noqa: ANN401
        super().__init__()
        self._raw = raw
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:  # noqa: ANN401
        left_s = _waiting.until - time.monotonic()
        if left_s <= 0:
            raise OverdueError
        self._sock.settimeout(min(left_s, _waiting.stall_s))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            raise (OverdueError if left_s < _waiting.stall_s else StalledError) from None

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _TimedSocket:
    """What http.client wants of a socket to read an answer from."""

    def __init__(self, sock: Any) -> None:  # noqa: ANN401 - a socket, or TLS in TLS
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock.makefile(mode, buffering=0), self._sock))


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(_TimedSocket(sock), *args, **settings)  # type: ignore[arg-type]


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        super().connect()
        watch(self.sock)


class _SecureConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response

    def connect(self) -> None:
        super().connect()
        watch(self.sock)


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls: ClassVar[Any] = _Connection


class _SecurePool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls: ClassVar[Any] = _SecureConnection


class _HideQueries(logging.Filter):
    """Cuts queries, which may hold signatures, out of what urllib3 logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(re.sub(r"\?\S*", "?...", a) if isinstance(a, str) else a for a in record.args)
        return True


_hide_queries = _HideQueries()


class Transport:
    """Pools of connections, kept alive and shared by the threads of a process; a forked one gets its own."""

    def __init__(self, limits: Limits, *, ca_certs: str | None = None) -> None:
        """Connects to nothing yet. `ca_certs` is a file of certificates to trust; None: those of the system."""
        self._limits = limits
        self._ca_certs = ca_certs
        self._pools: tuple[int, dict[str, urllib3.PoolManager]] = (os.getpid(), {})
        for name in ("urllib3.connectionpool", "urllib3.connection"):
            logging.getLogger(name).addFilter(_hide_queries)

    def open(self, url: str, headers: Mapping[str, str], deadline: float) -> urllib3.BaseHTTPResponse:
        """Sends a GET request and reads the head of the answer, which `body` or `text` must then read.

        Raises:
            TransientError: No answer came.
            StorageError: None ever will.
        """
        limits = self._limits
        _waiting.stall_s, _waiting.until = limits.stall_s, deadline
        left_s = max(0.001, deadline - time.monotonic())
        try:
            return self._pool_for(url).urlopen(
                "GET",
                url,
                headers=headers,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=min(limits.connect_s, left_s), read=limits.stall_s),
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError, http.client.HTTPException) as error:
            raise self._translated(error, host=urlsplit(url).netloc) from None

    def body(self, response: urllib3.BaseHTTPResponse, size: int) -> bytes:
        """The body of an answer, which must have `size` bytes; the connection is then free for the next request.

        Raises:
            TransientError: It has fewer or more, or stopped coming.
        """
        pieces: list[bytes] = []
        received = 0
        try:
            while received < size:
                piece = response.read1(min(size - received, _PIECE_BYTES), decode_content=False)
                if not piece:
                    raise TransientError(_cut(received, size))
                pieces.append(piece)
                received += len(piece)
            # One more, which must not be there.
            if response.read1(1, decode_content=False):
                raise TransientError(f"the answer goes on after the {size} bytes that were asked for")
        except (HTTPError, OSError, http.client.HTTPException) as error:
            self.drop(response)
            raise self._translated(error, received=received, size=size) from None
        except BaseException:
            # Also when interrupted: what is left of this answer must not be taken for the next one.
            self.drop(response)
            raise
        response.release_conn()
        return b"".join(pieces)

    def text(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """The beginning of a body that explains a failure; empty where it does not come."""
        text = b""
        try:
            while len(text) < _TEXT_BYTES:
                piece = response.read1(_TEXT_BYTES - len(text), decode_content=False)
                if not piece:
                    return text
                text += piece
        except (HTTPError, OSError, http.client.HTTPException):
            pass
        finally:
            self.drop(response)
        return text

    def drop(self, response: urllib3.BaseHTTPResponse) -> None:
        """Ends an answer, and its connection with it unless it was read to its end."""
        response.close()
        response.release_conn()

    def _pool_for(self, url: str) -> urllib3.PoolManager:
        process, pools = self._pools
        if process != os.getpid():
            # Two processes that read from one socket would each get parts of an answer.
            pools = {}
            self._pools = (os.getpid(), pools)
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        pool = pools.get(origin)
        if pool is None:
            settings: dict[str, Any] = {"maxsize": CONNECTIONS}
            if self._ca_certs:
                settings["ca_certs"] = self._ca_certs
            proxy = _proxy_for(parts.scheme, parts.netloc)
            pool = urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)
            pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
            # Of two threads that come here at once, both take the one that was put first.
            pool = pools.setdefault(origin, pool)
        return pool

    def _translated(
        self, error: Exception, *, host: str = "", received: int = 0, size: int = 0
    ) -> StorageError:
        causes = _causes(error)
        kinds = tuple(type(cause) for cause in causes)
        so_far = f" after {received} of {size} bytes" if size else ""
        if OverdueError in kinds:
            return TransientError(f"the answer came too slowly and was given up{so_far}")
        if StalledError in kinds:
            return TransientError(f"no byte came for {self._limits.stall_s:g} s{so_far}")
        if any(isinstance(cause, IncompleteRead | http.client.IncompleteRead) for cause in causes):
            return TransientError(_cut(received, size))
        if LocationParseError in kinds:
            return StorageError("not a valid URL")
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return StorageError(
                    f"the server's certificate is not trusted ({cause.verify_message}); "
                    "to trust an authority of your own, name its file in SSL_CERT_FILE"
                )
        if host and any(
            isinstance(cause, NewConnectionError | ProxyError | TimeoutError) for cause in causes
        ):
            return TransientError(f"cannot connect to {host} ({_reason(causes[-1])})")
        return TransientError(f"the connection broke{so_far} ({_reason(causes[-1])})")


def _proxy_for(scheme: str, netloc: str) -> str:
    """The proxy that the environment names for a place; empty for none."""
    if urllib.request.proxy_bypass(netloc):
        return ""
    return urllib.request.getproxies().get(scheme, "")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and all that it wraps, from outside to inside; urllib3 wraps in two ways."""
    found: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        item = todo.pop(0)
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            todo += [*item.args, item.__cause__]
    return found


def _reason(inner: BaseException) -> str:
    """In words, without a URL."""
    if isinstance(inner, socket.gaierror):
        return "its name is unknown"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return {
        "RemoteDisconnected": "the server closed it",
        "BadStatusLine": "that was no HTTP answer",
        "TimeoutError": "timed out",
    }.get(type(inner).__name__, type(inner).__name__)


def _cut(received: int, size: int) -> str:
    return f"the answer was cut after {received} of {size} bytes"
