"""Where the processes of a trial log."""

from __future__ import annotations

import faulthandler
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Everything that is logged goes to the file as well, and so do the last words of a process that crashes."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    was_enabled = faulthandler.is_enabled()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    assert handler.stream is not None
    faulthandler.enable(handler.stream)
    try:
        yield
    finally:
        faulthandler.disable()
        if was_enabled and sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__)
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


def last_lines(path: Path, count: int) -> str:
    """The end of a log; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])
