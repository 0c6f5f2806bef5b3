"""Writing a file so that its name never stands for half of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(out: Path, *, force: bool) -> Iterator[Path]:
    """Gives a temporary name beside `out`, and renames it when the block has ended well; else deletes it.

    Raises:
        ValueError: `out` is there and may not be replaced, or it is a folder.
    """
    refuse_to_replace(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.stem}.{os.getpid()}.part{out.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_to_replace(out: Path, *, force: bool) -> None:
    """Called early, before anything is upscaled.

    Raises:
        ValueError: `out` is there and may not be replaced, or it is a folder.
    """
    if out.is_dir():
        raise ValueError(f"{out}: is a folder; name a file in it")
    if out.exists() and not force:
        raise ValueError(f"{out}: is there already; name another file, or add --force to replace it")
