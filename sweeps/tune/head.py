"""What a Ray cluster stands on: processes without which nothing goes on, and nothing would say so.

Without its raylet, Ray starts no process any more, and those that run never hear of it; without its GCS it waits for a
minute and then aborts. So this process watches both and ends on the spot, as if it were killed itself: the trials go on
from their checkpoints when the sweep is resumed. Of a cluster that others have started it watches the head.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

OnLost = Callable[[str], tuple[str, int]]
"""Told what was lost; returns this process's last words and its exit code."""
_VITAL = ("raylet", "gcs_server")
_LOOK_EVERY_S = 0.25
_LEAVE_WITHIN_S = 10.0
"""How long a process of Ray may go on without its raylet, for a last checkpoint."""
_ASK_EVERY_S = 3.0
_AWAY_S = 45.0
"""How long a head may be away, started anew perhaps; after a minute Ray aborts the process, with a dump of its stack."""


@contextmanager
def watching_head(on_lost: OnLost) -> Iterator[None]:
    """Ends this process as soon as one of Ray's own has died that it cannot do without, for as long as the block lasts."""
    from ray._private import worker

    node = worker._global_node
    assert node is not None, "Ray was not started by this process"
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            _end_if_lost(node, on_lost)

    thread = threading.Thread(target=watch, name="srloss-watch-head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        # What ends the block may be the loss itself, and without its head Ray would not even shut down.
        _end_if_lost(node, on_lost)


def _end_if_lost(node: Any, on_lost: OnLost) -> None:  # noqa: ANN401 - Ray's Node
    # Nobody misses the others, such as the monitor.
    lost = [(name, process) for name, process in node.dead_processes() if name in _VITAL]
    if not lost:
        return
    name, process = lost[0]
    _end(*on_lost(f"Ray's {name} (process {process.pid}) {_in_words(process.returncode)}"))


@contextmanager
def watching_far_head(address: str, on_lost: OnLost) -> Iterator[None]:
    """Ends this process when the head of a cluster is away for too long, for as long as the block lasts.

    Args:
        address: Host and port of its GCS.
        on_lost: As above.
    """
    is_over = threading.Event()
    lost = f"Ray's head at {address} does not answer any more"

    def watch() -> None:
        answered = time.monotonic()
        while not is_over.wait(_ASK_EVERY_S):
            if _answers(address):
                answered = time.monotonic()
            elif time.monotonic() - answered > _AWAY_S:
                _end(*on_lost(lost))

    thread = threading.Thread(target=watch, name="srloss-watch-head", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        # Likely not the fault of whatever failed.
        if not _answers(address):
            _end(*on_lost(lost))
        raise
    finally:
        is_over.set()
        thread.join()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ASK_EVERY_S):
            return True
    except OSError:
        return False


def _end(words: str, code: int) -> None:
    """Says these last words and ends this process."""
    # Kept from becoming an exception of whatever Ray does at the moment: most of it never returns now.
    if sys.stdout.isatty():
        # A progress bar has hidden it.
        sys.stdout.write("\x1b[?25h")
    sys.stdout.flush()
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()
    logging.shutdown()
    os._exit(code)


def _in_words(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def lost_raylet() -> str:
    """In a process of Ray: why to stop, if the raylet that has started it is gone; else empty."""
    raylet = os.environ.get("RAY_RAYLET_PID")
    return "the loss of Ray's raylet" if raylet is not None and os.getppid() != int(raylet) else ""


@functools.cache
def end_with_raylet() -> None:
    """Has this process of Ray end when the raylet that has started it does, which Ray itself leaves to chance."""
    threading.Thread(target=_follow_raylet, name="srloss-follow-raylet", daemon=True).start()


def _follow_raylet() -> None:
    while not lost_raylet():
        time.sleep(_LOOK_EVERY_S)
    time.sleep(_LEAVE_WITHIN_S)
    os._exit(1)
