"""Files of a folder on a web server or object store, read by ranges."""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import urllib3

from shards.storage.errors import MissingError, StorageError
from shards.storage.remote import Version
from shards.storage.retry import Limits, Retry, TransientError
from shards.storage.transport import Transport

TARGET_S = 60.0
"""How long the target of a redirect is used again without asking."""
_REDIRECTS = (301, 302, 303, 307, 308)
_MISSING = (404, 410)
_PASSING = (408, 425, 429)
_FINAL_5XX = (501, 505)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_logger = logging.getLogger(__name__)
_S3_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")


class Address(Protocol):
    """Where the files of a folder are, and what is sent along to be let in."""

    url: str
    """The folder for messages: without query and credentials."""

    def of(self, file: str) -> str:
        """The URL to ask for; may hold secrets in its query."""
        ...

    def headers(self, url: str) -> Mapping[str, str]:
        """What proves that one may read a URL; none for a URL of another place."""
        ...

    def corrected(self, url: str, sent: Mapping[str, str], received: Mapping[str, str]) -> bool:
        """Whether the headers received told that the files are elsewhere, and `of` and `headers` now know."""
        ...

    def advice(self, status: int) -> str:
        """What to check where the server refuses (401, 403)."""
        ...


class WebAddress:
    """A folder of an http or https URL; its user, password and query are sent with every request, and never shown."""

    def __init__(self, root: str) -> None:
        """`root` is the URL.

        Raises:
            ValueError: It names no host.
        """
        parts = urlsplit(root)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host:
            raise ValueError(
                f"{parts.scheme}://...: not a URL with a host; write for example https://host/folder"
            )
        netloc = f"[{host}]" if ":" in host else host
        netloc += f":{port}" if port else ""
        self._origin = (parts.scheme.lower(), netloc)
        self._query = parts.query
        self._headers: dict[str, str] = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers = urllib3.make_headers(basic_auth=login)
        self.url = urlunsplit((*self._origin, parts.path.rstrip("/"), "", ""))

    def of(self, file: str) -> str:
        """The URL of a file, with the query of the root."""
        return f"{self.url}/{quote(file)}" + (f"?{self._query}" if self._query else "")

    def headers(self, url: str) -> Mapping[str, str]:
        """The login, for this origin only."""
        parts = urlsplit(url)
        return self._headers if (parts.scheme, parts.netloc) == self._origin else {}

    def corrected(self, url: str, sent: Mapping[str, str], received: Mapping[str, str]) -> bool:
        """Never."""
        return False

    def advice(self, status: int) -> str:
        """What to check where the server refuses."""
        return "check the user and password, or the signature, in the URL that you gave"


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is asked for: bytes [start, stop) of a file, of a certain version where one is known."""

    file: str
    start: int
    stop: int
    version: Version | None
    only_head: bool = False


class HttpStorage:
    """Reads ranges over HTTP. Each answer is checked to be exactly what was asked for, of the version seen first."""

    def __init__(
        self, address: Address, limits: Limits | None = None, *, ca_certs: str | None = None
    ) -> None:
        """Connects to nothing yet. `ca_certs` is a file of certificates to trust; None: those of the system."""
        self.url = address.url
        self._address = address
        self._limits = limits or Limits()
        self._transport = Transport(self._limits, ca_certs=ca_certs)
        self._retry = Retry(self._limits)
        self._versions: dict[str, Version] = {}
        self._targets: dict[str, tuple[str, float]] = {}

    def identity(self, file: str) -> str:
        """The URL of a file without its query."""
        return self._address.of(file).partition("?")[0]

    def version(self, file: str) -> Version:
        """Size and ETag of a file when it was first contacted; raises StorageError."""
        known = self._versions.get(file)
        if known is None:
            # One byte rather than HEAD: this also works where only GET is signed or allowed, and the answer's
            # Content-Range tells the size even where the server would compress the whole file.
            self._fetch(_Wish(file, 0, 1, None, only_head=True))
            known = self._versions[file]
        return known

    def read(self, file: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file; raises StorageError."""
        known = self._versions.get(file)
        if known is not None and stop > known.size:
            raise StorageError(
                f"{self._named(file)}: truncated: ends at byte {known.size}, {stop} are needed"
            )
        if start >= stop:
            return b""
        return self._fetch(_Wish(file, start, stop, known))

    def _named(self, file: str) -> str:
        return f"{self.url}/{file}"

    def _fetch(self, wish: _Wish) -> bytes:
        if not wish.file or wish.file.startswith("/") or ".." in wish.file.split("/"):
            raise StorageError(f"{self._named(wish.file)}: not the name of a file of this folder")
        return self._retry.run(self._named(wish.file), lambda: self._attempt(wish))

    def _attempt(self, wish: _Wish) -> bytes:
        """Asks once, following redirects."""
        deadline = self._limits.deadline(wish.stop - wish.start)
        known, until = self._targets.get(wish.file, ("", 0.0))
        remembered = time.monotonic() < until
        url = known if remembered else self._address.of(wish.file)
        try:
            for _ in range(self._limits.redirects + 1):
                headers = self._headers(url, wish)
                response = self._transport.open(url, headers, deadline)
                if self._address.corrected(url, headers, response.headers):
                    self._transport.text(response)
                    url = self._address.of(wish.file)
                elif response.status in _REDIRECTS and "Location" in response.headers:
                    self._transport.text(response)
                    url = redirected_url(url, response.headers["Location"])
                    self._targets[wish.file] = (url, time.monotonic() + TARGET_S)
                else:
                    return self._answer(wish, response)
            raise StorageError(f"more than {self._limits.redirects} redirects")
        except StorageError as error:
            self._targets.pop(wish.file, None)
            if not remembered:
                raise
            # The target of an earlier redirect may have expired: the next try asks the server anew.
            raise TransientError(str(error), retry_after_s=getattr(error, "retry_after_s", None)) from None

    def _headers(self, url: str, wish: _Wish) -> dict[str, str]:
        headers = {
            "Accept-Encoding": "identity",
            "Range": f"bytes={wish.start}-{wish.stop - 1}",
            "User-Agent": "srloss",
            **self._address.headers(url),
        }
        # A weak ETag never matches in If-Match; it is compared when the answer comes.
        if wish.version is not None and wish.version.tag.startswith('"'):
            headers["If-Match"] = wish.version.tag
        return headers

    def _answer(self, wish: _Wish, response: urllib3.BaseHTTPResponse) -> bytes:
        if response.status not in (200, 206):
            return self._refusal(wish, response)
        try:
            version = _version_of(wish, response)
            self._pin(wish.file, version)
            if wish.only_head:
                self._transport.text(response)
                return b""
            _check_length(wish, response)
        except BaseException:
            self._transport.drop(response)
            raise
        return self._transport.body(response, wish.stop - wish.start)

    def _pin(self, file: str, version: Version) -> None:
        # Of two threads that come here first, one sets what the other then compares with.
        if file not in self._versions and not version.tag:
            _logger.warning(
                "%s: the server tells neither ETag nor Last-Modified; only checksums would show a change while reading",
                self._named(file),
            )
        pinned = self._versions.setdefault(file, version)
        if pinned.tag != version.tag:
            raise StorageError(f"the file changed while it was read {_REOPEN}")
        if pinned.size != version.size:
            raise StorageError(
                f"the file changed while it was read: it had {pinned.size} bytes and now has {version.size} {_REOPEN}"
            )

    def _refusal(self, wish: _Wish, response: urllib3.BaseHTTPResponse) -> bytes:
        """What an answer without the bytes means; returns for an empty file only."""
        status = response.status
        text = self._transport.text(response)
        code = _S3_CODE.search(text)
        reason = f"{status} {_printable(response.reason)}".rstrip() + (
            f" ({code[1].decode()})" if code else ""
        )
        if status in _MISSING:
            raise MissingError(f"no such file ({reason})")
        if status in (401, 403):
            raise StorageError(f"{reason}; {self._address.advice(status)}")
        if status == 412:
            raise StorageError(f"the file changed while it was read ({reason}) {_REOPEN}")
        if status == 416:
            return self._beyond_the_end(wish, response)
        if (status < 500 and status not in _PASSING) or status in _FINAL_5XX:
            raise StorageError(f"the server refused: {reason}")
        raise TransientError(f"the server answered {reason}", retry_after_s=_retry_after_s(response))

    def _beyond_the_end(self, wish: _Wish, response: urllib3.BaseHTTPResponse) -> bytes:
        if wish.version is not None:
            raise StorageError(f"the file changed while it was read: it is shorter now {_REOPEN}")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if wish.only_head and (match is None or int(match[3]) == 0):
            # An empty file has no first byte.
            self._pin(wish.file, Version(0, _tag_of(response)))
            return b""
        size = f"ends at byte {match[3]}" if match else "ends earlier"
        raise StorageError(f"truncated: {size}, {wish.stop} are needed")


_REOPEN = "(its ETag or size is not the one seen first); open the data set again"


def redirected_url(url: str, location: str) -> str:
    """Where a redirect leads.

    Raises:
        StorageError: To what is not the web, or from an encrypted connection to an open one.
    """
    target = urljoin(url, location)
    old, new = urlsplit(url).scheme, urlsplit(target).scheme
    if new not in ("http", "https"):
        raise StorageError(f"the server redirects to a {_printable(new)}: URL, which is not followed")
    if old == "https" and new == "http":
        raise StorageError("the server redirects from https to http, which is not followed")
    return target.partition("#")[0]


def _version_of(wish: _Wish, response: urllib3.BaseHTTPResponse) -> Version:
    """The file's size and tag as an answer tells them, once it is sure that it holds the range asked for."""
    headers = response.headers
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise StorageError(
            f"the server sends it compressed ({_printable(encoding)}), although it was asked not to; "
            "switch compression off there for this folder"
        )
    stated = headers.get("Content-Range")
    if stated is None and response.status == 200:
        return Version(_whole_size(wish, response), _tag_of(response))
    match = _CONTENT_RANGE.fullmatch((stated or "").strip())
    if match is None or match[1] is None:
        raise TransientError(
            f"the answer does not say which bytes it holds (Content-Range: {_printable(stated)})"
        )
    first, last, size = int(match[1]), int(match[2]), int(match[3])
    # A server sends fewer bytes where the file ends.
    if first == wish.start and last == size - 1 < wish.stop - 1:
        if wish.version is not None:
            raise StorageError(f"the file changed while it was read: it is shorter now {_REOPEN}")
        raise StorageError(f"truncated: ends at byte {size}, {wish.stop} are needed")
    if (first, last) != (wish.start, wish.stop - 1) or last >= size:
        raise TransientError(
            f"bytes {wish.start}-{wish.stop - 1} were asked for, the answer holds {_printable(stated)}"
        )
    return Version(size, _tag_of(response))


def _whole_size(wish: _Wish, response: urllib3.BaseHTTPResponse) -> int:
    """The size of a file where a server ignores the range and sends everything."""
    length = response.headers.get("Content-Length", "")
    if not length.isascii() or not length.isdigit():
        raise StorageError(
            "the server tells neither the size of the file nor honours ranges; use another server"
        )
    if wish.only_head or (wish.start == 0 and wish.stop == int(length)):
        return int(length)
    raise StorageError(
        "the server ignores Range requests and sends the whole file; use one that honours them (nginx, Apache, "
        "S3 and most others do; python -m http.server does not)"
    )


def _check_length(wish: _Wish, response: urllib3.BaseHTTPResponse) -> None:
    length = response.headers.get("Content-Length")
    if length is not None and length.strip() != str(wish.stop - wish.start):
        raise TransientError(
            f"{wish.stop - wish.start} bytes were asked for, the answer has {_printable(length)} (Content-Length)"
        )


def _tag_of(response: urllib3.BaseHTTPResponse) -> str:
    headers = response.headers
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _retry_after_s(response: urllib3.BaseHTTPResponse) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    if not text:
        return None
    try:
        return (
            float(text)
            if text.isascii() and text.isdigit()
            else parsedate_to_datetime(text).timestamp() - time.time()
        )
    except (ValueError, OverflowError):
        return None


def _printable(text: object) -> str:
    """What a server sent, fit for a message."""
    return re.sub(r"[^ -~]", "?", str(text))[:80]
