"""Reads that are under way end with the program.

Without this, a program that was interrupted would wait for its reading threads, and these for a stalled server's
deadlines.
"""

import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Callable

from shards.storage.errors import StorageError

_ending = threading.Event()
_sockets: dict[int, weakref.WeakSet[socket.socket]] = {}
_registered: list[Callable[[], None]] = []


def end_reads_with_program() -> None:
    """From now on, threads that read do not keep a program that ends from ending."""
    if not _registered:
        _registered.append(_end)
        # The one hook that runs before the interpreter waits for the threads of executors; there is no public one.
        register: Callable[[Callable[[], None]], None] | None = getattr(threading, "_register_atexit", None)
        if register is not None:
            # Too late where the program is ending already.
            with contextlib.suppress(RuntimeError):
                register(_end)


def watch(sock: socket.socket) -> None:
    """Whoever waits for this socket is woken when the program ends."""
    # By process: shutting down a socket that a fork inherited would cut the parent's connection.
    _sockets.setdefault(os.getpid(), weakref.WeakSet()).add(sock)


def pause(seconds: float) -> None:
    """Sleeps.

    Raises:
        StorageError: The program is ending.
    """
    if _ending.wait(seconds):
        raise StorageError("the program is ending")


def _end() -> None:
    _ending.set()
    for sock in list(_sockets.get(os.getpid(), ())):
        with contextlib.suppress(OSError):
            # Not the socket's own method: for TLS it would also free what another thread is reading with.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
