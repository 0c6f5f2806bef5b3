"""A page that is drawn anew when what it shows has changed: seldom, in a thread of its own, and once for all who look at it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

LOOK_S = 1.5
"""How often files are looked at while somebody looks at the page."""
LOOKING_SHARE = 0.1
DRAWING_SHARE = 0.2
"""Of the time that may be spent on drawing: a page that takes a second is drawn every five at most."""
T = TypeVar("T")
_AGAIN_S = 5.0
"""After so long a page that could not be drawn is tried again, though no file has changed."""
log = logging.getLogger(__name__)

_PICTURE = re.compile(r'(?<=[ "])(src|poster)="data:((?:image|video)/[a-z0-9.+-]+);base64,([A-Za-z0-9+/=]+)"')


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a page was drawn as."""

    page: str
    lasts_s: float | None = None
    """Draw it again after so long, whatever the files say: time left, and trials that fall silent. None: need not be."""


@dataclass(frozen=True, slots=True)
class Served:
    """A page as it is sent. Its pictures are sent by themselves: a browser asks once for each, whatever else changes."""

    page: bytes
    version: str
    pictures: dict[str, tuple[str, bytes]] = field(repr=False)
    """Name -> (media type, content)."""


@dataclass(slots=True)
class LivePage:
    """One page, shared by all who look at it. Nothing happens while nobody does."""

    stamp: Callable[[], Hashable]
    """Cheap to ask; changes when the page may have."""
    draw: Callable[[], Drawn]
    excuse: Callable[[str], str]
    """The page to be shown while it cannot be drawn: what it shows may be half made."""
    problem: str = ""
    """Why it could not be drawn the last time; empty where it could."""
    _older: Served | None = None
    _served: Served | None = None
    _seen: Hashable = None
    _task: asyncio.Task[None] | None = None
    _next_look: float = 0.0
    _drawn_until: float = float("inf")
    _is_excuse: bool = False

    async def current(self) -> Served:
        """The page as it stands, at most some seconds old."""
        if self._task is None or self._task.done():
            if self._served is not None and time.monotonic() < self._next_look:
                return self._served
            self._task = asyncio.create_task(self._refresh())
        # Whoever leaves does not take the page from the others who wait for it.
        await asyncio.shield(self._task)
        assert self._served is not None
        return self._served

    def picture(self, name: str) -> tuple[str, bytes] | None:
        """A picture of the page, or of the one before, which somebody may be loading."""
        pages = (page for page in (self._served, self._older) if page is not None)
        return next((page.pictures[name] for page in pages if name in page.pictures), None)

    async def _refresh(self) -> None:
        began = time.monotonic()
        seen = await in_thread(self.stamp)
        looked = time.monotonic()
        pause = max(LOOK_S, (looked - began) / LOOKING_SHARE)
        if self._served is None or seen != self._seen or looked >= self._drawn_until:
            # The stamp was taken before the files are read: what changes meanwhile is seen at the next look.
            self._seen = seen
            await self._draw()
            pause = max(pause, (time.monotonic() - looked) * (1 / DRAWING_SHARE - 1))
        self._next_look = time.monotonic() + pause

    async def _draw(self) -> None:
        try:
            drawn = await in_thread(self.draw)
            self.problem = ""
        except Exception as error:  # noqa: BLE001 - files that are being written, damaged or foreign fail in any way
            problem = in_words(error)
            if problem != self.problem:
                log.warning("the page could not be drawn: %s", problem)
            self.problem = problem
            drawn = Drawn(self.excuse(problem), lasts_s=_AGAIN_S)
        self._drawn_until = float("inf") if drawn.lasts_s is None else time.monotonic() + drawn.lasts_s
        if self.problem and self._served is not None and not self._is_excuse:
            # What was seen last says more than an excuse.
            return
        self._is_excuse = bool(self.problem)
        served = _served(drawn.page)
        if self._served is None or served.version != self._served.version:
            self._older, self._served = self._served, served


def in_words(error: Exception) -> str:
    """An error on one line; by its class too where it was not made for people."""
    kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def _served(page: str) -> Served:
    pictures: dict[str, tuple[str, bytes]] = {}

    def apart(found: re.Match[str]) -> str:
        attribute, media_type, text = found.groups()
        content = base64.b64decode(text)
        name = hashlib.sha256(content).hexdigest()[:32]
        pictures[name] = (media_type, content)
        return f'{attribute}="/pictures/{name}"'

    text = _PICTURE.sub(apart, page)
    version = hashlib.sha256(text.encode()).hexdigest()[:16]
    # So that the page itself knows which one it is.
    return Served(text.replace("<body", f'<body data-version="{version}"', 1).encode(), version, pictures)


async def in_thread(work: Callable[[], T]) -> T:
    """Runs it beside the event loop, in a thread that dies with the process: Ctrl-C does not wait for a page."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # pyright: ignore[reportArgumentType]

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, problem)

    threading.Thread(target=run, daemon=True, name="drawing").start()
    return await future
