"""Serves the report of a sweep on this machine, and nobody else's business: one address, one secret, only reading.

/            to the sweep that was asked for, or to the latest
/sweeps      the list of all sweeps
/sweeps/ID   a sweep's report; /sweeps/ID/events tells when it has changed (server-sent events)
/pictures/N  a picture of a page that is shown
"""

from __future__ import annotations

import asyncio
import errno
import getpass
import hmac
import logging
import os
import secrets
import shlex
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweeps.dashboard_pages import list_page, sweep_page
from sweeps.live import LOOK_S, LivePage
from sweeps.store import SweepFolder, find_sweep, sweeps_in

FIRST_PORT = 8550
_NUM_PORTS = 50
_ALIVE_S = 15.0
"""A page that hears nothing for longer knows that it is cut off."""
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; img-src 'self' data:; media-src 'self' data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_NOT_ALLOWED = "403: open the address that srloss dashboard has printed, with its token.\n"


@dataclass(slots=True)
class Guard:
    """Lets in who has the token: by the printed address once, by a cookie from then on."""

    app: ASGIApp
    token: str
    cookie: str
    """Its name: browsers keep one jar for all ports of a machine."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (self._answer(Request(scope)) or self.app)(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """None: the application shall answer."""
        if _host(request.headers) not in _HOSTS:
            # Some page elsewhere has made its own name point to this machine.
            return PlainTextResponse("403: this dashboard answers to 127.0.0.1 and localhost only.\n", 403)
        given = request.query_params.get("token")
        if given is None:
            is_known = _is_same(request.cookies.get(self.cookie, ""), self.token)
            return None if is_known else PlainTextResponse(_NOT_ALLOWED, 403)
        if not _is_same(given, self.token):
            return PlainTextResponse(_NOT_ALLOWED, 403)
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        place = "/" + request.url.path.lstrip("/") + (f"?{urlencode(rest)}" if rest else "")
        answer = RedirectResponse(place, 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        return answer


def _host(headers: Headers) -> str:
    host = headers.get("host", "").lower()
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


@dataclass(slots=True)
class Pages:
    """The pages of one run store; those that nobody has asked for cost nothing."""

    store: Path
    first: SweepFolder | None
    """What was asked for by name; it may lie outside the store. None: whatever is the latest."""
    _list: LivePage = field(init=False)
    _sweeps: dict[Path, LivePage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._list = list_page(self.store)

    async def start(self, _: Request) -> Response:
        """Leads to the sweep that was asked for."""
        folder = self.first or next(reversed(sweeps_in(self.store)), None)
        return RedirectResponse("/sweeps" if folder is None else f"/sweeps/{folder.sweep_id}", 303)

    async def page(self, request: Request) -> Response:
        """A page as it stands."""
        served = await self._find(request).current()
        return Response(served.page, media_type="text/html", headers={"srloss-version": served.version})

    async def events(self, request: Request) -> Response:
        """The version of a page whenever it changes, as long as somebody listens."""
        return StreamingResponse(told(self._find(request)), media_type="text/event-stream")

    async def picture(self, request: Request) -> Response:
        """A picture by its content's hash: it never changes."""
        for page in (*self._sweeps.values(), self._list):
            if (found := page.picture(request.path_params["name"])) is not None:
                kept = {"cache-control": "private, max-age=31536000, immutable"}
                return Response(found[1], media_type=found[0], headers=kept)
        raise HTTPException(404, "no picture of a page that is shown")

    def _find(self, request: Request) -> LivePage:
        name = request.path_params.get("sweep_id")
        if name is None:
            return self._list
        folders = {folder.sweep_id: folder for folder in sweeps_in(self.store)}
        if self.first is not None:
            folders[self.first.sweep_id] = self.first
        if name not in folders:
            raise HTTPException(404, "no sweep of this run store has this name")
        folder = folders[name]
        if folder.path not in self._sweeps:
            self._sweeps[folder.path] = sweep_page(folder)
        return self._sweeps[folder.path]


async def told(page: LivePage) -> AsyncIterator[str]:
    """Server-sent events: the page's version at first and at each change, and now and then that all is well."""
    yield "retry: 2000\n\n"
    version, problem, spoke = "", "", time.monotonic()
    while True:
        now = (await page.current()).version
        if now != version or time.monotonic() - spoke > _ALIVE_S:
            kind = "" if now != version else "event: alive\n"
            version, spoke = now, time.monotonic()
            yield f"{kind}data: {version}\n\n"
        if page.problem != problem:
            problem = page.problem
            yield f"event: problem\ndata: {problem}\n\n"
        await asyncio.sleep(LOOK_S)


def application(store: Path, first: SweepFolder | None, *, token: str, cookie: str) -> Starlette:
    """The dashboard as an ASGI application."""
    pages = Pages(store, first)
    return Starlette(
        routes=[
            Route("/", pages.start),
            Route("/sweeps", pages.page),
            Route("/sweeps/{sweep_id}", pages.page),
            Route("/sweeps/{sweep_id}/events", pages.events),
            Route("/events", pages.events),
            Route("/pictures/{name}", pages.picture),
        ],
        middleware=[
            Middleware(Guard, token=token, cookie=cookie),
            Middleware(GZipMiddleware, minimum_size=2000, compresslevel=4),
        ],
    )


class _Server(uvicorn.Server):
    """Ends at the first request to: pages listen for changes without end, and are no reason to wait."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = True
        # That listening pages are cut off is no news.
        logging.getLogger("uvicorn.error").disabled = True
        super().handle_exit(sig, frame)


def serve(
    store: Path, sweep_id: str | None, *, port: int | None, token: str | None, say: Callable[[str], None]
) -> int:
    """Serves until Ctrl-C; the exit code.

    Args:
        store: The run store.
        sweep_id: The sweep to begin with; None: the latest.
        port: None: the first that is free from `FIRST_PORT` on.
        token: None: a random one.
        say: Prints a line.

    Raises:
        ValueError: There is no such sweep, the token is too short, or the port is taken.
    """
    found = find_sweep(store, sweep_id)
    token = secrets.token_urlsafe(24) if token is None else token
    if len(token) < 16:
        raise ValueError("SRLOSS_DASHBOARD_TOKEN: too short to be a secret; give 16 characters or more")
    with listening(port) as listener:
        own_port: int = listener.getsockname()[1]
        app = application(
            store, found if sweep_id is not None else None, token=token, cookie=f"srloss-{own_port}"
        )
        say(f"sweep {found.sweep_id}: http://127.0.0.1:{own_port}/?{urlencode({'token': token})}")
        if line := ssh_line(own_port):
            say(f"from your own machine, first: {line}")
        say("Ctrl-C ends the dashboard; the sweep goes on")
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
        )
        # What is no HTTP, a port scan say, is no news for whoever reads this terminal.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        try:
            _Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            sys.stdout.flush()
            # At once: a page that is being drawn in a thread needs no farewell, and nothing was written.
            os._exit(128 + signal.SIGINT)
    return 0


def listening(port: int | None) -> socket.socket:
    """A socket on this port of this machine alone; None: on the first that is free.

    Raises:
        ValueError: It is taken.
    """
    tried = range(FIRST_PORT, FIRST_PORT + _NUM_PORTS) if port is None else [port]
    for place in tried:
        listener = socket.socket()
        # A dashboard that was just ended does not keep its port; one that lives does.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", place))
            listener.listen(128)
        except OSError as error:
            listener.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES) or port is not None:
                raise ValueError(
                    f"--port {place}: {error.strerror}; choose another one, or leave --port out for the next free one"
                ) from None
            continue
        return listener
    raise ValueError(f"the ports {tried[0]} to {tried[-1]} are all taken; name a free one with --port")


def ssh_line(port: int) -> str:
    """The command that brings the page to the machine that one came from by ssh; empty where one did not."""
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if len(connection) != 4:
        return ""
    # The name by which people reach this machine is best; its address, which they have reached it by, always works.
    name = socket.getfqdn()
    host = name if "." in name and not name.startswith("localhost") else connection[2]
    other_port = ["-p", connection[3]] if connection[3] != "22" else []
    words = ["ssh", "-N", "-L", f"{port}:127.0.0.1:{port}", *other_port, f"{getpass.getuser()}@{host}"]
    return shlex.join(words)
