"""Checkpoints that are whole or not there: written aside, synced, renamed, and verified by hash when read.

The only module that calls torch.load, always with weights_only=True: a checkpoint is data, never code.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_NAME = re.compile(r"^step-(\d{8})\.pt$")


def save(folder: Path, *, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes `folder/step-NNNNNNNN.pt` and its `.sha256`, then deletes all but the `keep` newest.

    Args:
        folder: The trial's checkpoint folder; made if missing.
        step: Optimizer updates done.
        state: Tensors, numbers, strings, lists and dictionaries of these.
        keep: How many of the newest to keep, this one included.

    Raises:
        OSError: The disk is full or the folder cannot be written; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    buffer = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSION, "step": step, **state}, buffer)
    content = buffer.getvalue()
    # The hash first: a checkpoint is complete when its own name appears, so its hash must be there already.
    write_atomically(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode())
    write_atomically(path, content)
    for old in _checkpoints(folder)[:-keep]:
        old.unlink()
        old.with_suffix(".sha256").unlink(missing_ok=True)
    return path


def load(path: Path) -> dict[str, Any]:
    """Returns the state in one checkpoint, on the CPU.

    Raises:
        ValueError: The file is missing, damaged, or not one of ours; says which and what to do.
    """
    try:
        content = path.read_bytes()
        expected = path.with_suffix(".sha256").read_text().strip()
    except OSError as error:
        raise ValueError(
            f"checkpoint {path}: cannot be read ({error.strerror}); give a checkpoint with its .sha256 beside it"
        ) from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(
            f"checkpoint {path}: damaged, its sha256 differs from {path.stem}.sha256; use an older one or train again"
        )
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if state.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {path}: format {state.get('format_version')}, this srloss reads {FORMAT_VERSION}; update srloss"
        )
    return state


def load_weights(path: Path) -> dict[str, Any]:
    """Returns what a file of published weights holds, on the CPU: data only, never code. Its hash is the caller's to check.

    Raises:
        ValueError: The file cannot be read, or is no file of weights.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"weights {path}: cannot be read ({first_line}); fetch the file again") from None
    tensors = state if isinstance(state, dict) else None
    if tensors is None:
        raise ValueError(
            f"weights {path}: holds a {type(state).__name__}, not tensors by name; give another file"
        )
    return tensors


def latest(folder: Path, *, on_damaged: Callable[[str], None]) -> dict[str, Any] | None:
    """Returns the newest sound checkpoint's state, or None where there is none.

    Args:
        folder: The trial's checkpoint folder.
        on_damaged: Told about each damaged one that was passed over.
    """
    for path in reversed(_checkpoints(folder)):
        try:
            return load(path)
        except ValueError as error:
            on_damaged(f"{error}; falling back to the one before")
    return None


def newest_path(folder: Path) -> Path | None:
    """Path of the newest checkpoint, sound or not."""
    paths = _checkpoints(folder)
    return paths[-1] if paths else None


def _checkpoints(folder: Path) -> list[Path]:
    return (
        sorted(path for path in folder.glob("step-*.pt") if _NAME.match(path.name)) if folder.is_dir() else []
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that readers see the old content or the new, and a power cut leaves one of them."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    # The rename itself is only durable once the folder is synced.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
