"""What an embedded Ray cluster stands on: processes without which nothing goes on, and nothing would say so.

Without its raylet, Ray starts no process any more, and those that run never hear of it; without its GCS it waits for a
minute and then aborts. So this process watches both and ends on the spot, as if it were killed itself: the trials go on
from their checkpoints when the sweep is resumed.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
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
    words, code = on_lost(f"Ray's {name} (process {process.pid}) {_in_words(process.returncode)}")
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
