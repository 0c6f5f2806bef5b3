"""Checkpoints that are whole or not there: written aside, synced, renamed, and verified by hash when read.

step-NNNNNNNN.pt        all that a trial needs to go on after that step, in one format for every engine and number of ranks
step-NNNNNNNN.sha256    hash of that file
best.pt                 link to the one with the best validation so far, which is kept whatever its age

The only module that calls torch.load, always with weights_only=True: a checkpoint is data, never code.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sr.files import write_atomically

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
BEST = "best.pt"
_NAME = re.compile(r"^step-(\d{8})\.pt$")
_UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError)
"""What torch.load raises for files of other kinds."""
_TRY_FOR_S = 20.0
"""How long a checkpoint is tried to be written anew, in case a full disk has room again soon."""


def save(folder: Path, *, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes `folder/step-NNNNNNNN.pt` and its `.sha256`, then deletes all but the `keep` newest and the best.

    Args:
        folder: The trial's checkpoint folder; made if missing.
        step: Optimizer updates done.
        state: Tensors, numbers, strings, lists and dictionaries of these.
        keep: How many of the newest to keep, this one included.

    Raises:
        OSError: The disk is full or the folder cannot be written; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, step)
    buffer = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSION, "step": step, **state}, buffer)
    content = buffer.getvalue()
    # The hash first: a checkpoint is complete when its own name appears, so its hash must be there already.
    write_atomically(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode())
    write_atomically(path, content)
    best = (folder / BEST).resolve()
    for old in _checkpoints(folder)[:-keep]:
        if old.resolve() != best:
            old.unlink()
            old.with_suffix(".sha256").unlink(missing_ok=True)
    return path


def mark_best(folder: Path, *, step: int) -> None:
    """Makes `best.pt` point to the checkpoint of this step, which is there."""
    temporary = folder / f".{BEST}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"step-{step:08d}.pt")
    temporary.replace(folder / BEST)


class Writer:
    """Writes checkpoints while the training goes on.

    Args:
        folder: The trial's checkpoint folder.
        keep: How many of the newest to keep.
        on_problem: Told, once for each checkpoint, why it cannot be written; it is tried again for a while.
    """

    def __init__(self, folder: Path, *, keep: int, on_problem: Callable[[str], None]) -> None:
        self._folder = folder
        self._keep = keep
        self._on_problem = on_problem
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        self.step: int | None = None
        """Of the newest checkpoint that was given to be written, or that the trial began from."""

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copies the state, then writes it in the background; waits for the one before if that is not done yet."""
        self.finish()
        self._error, self.step = None, step
        copied = _copied(state)
        self._thread = threading.Thread(target=self._write, args=(step, copied), name="srloss-checkpoint")
        self._thread.start()

    def finish(self) -> OSError | None:
        """Waits until the newest checkpoint is on the disk; returns why it is not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._error

    def mark_best(self) -> None:
        """Makes the newest checkpoint the best one, once it is written."""
        if self.finish() is None and self.step is not None:
            mark_best(self._folder, step=self.step)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        deadline = time.monotonic() + _TRY_FOR_S
        is_told = False
        while True:
            try:
                save(self._folder, step=step, state=state, keep=self._keep)
                return
            except OSError as error:
                if not is_told:
                    self._on_problem(
                        f"checkpoint of step {step} in {self._folder}: {error.strerror}; trying again"
                    )
                    is_told = True
                if time.monotonic() > deadline:
                    self._error = error
                    return
                time.sleep(1)


class NoWriter(Writer):
    """Of the ranks that leave writing to the first."""

    def __init__(self) -> None:
        super().__init__(Path(), keep=1, on_problem=lambda _problem: None)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Only remembers the step."""
        del state
        self.step = step


def _copied(value: Any) -> Any:  # noqa: ANN401 - what a state is made of
    """The value with every tensor copied to the CPU, so that the next step does not change it."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def load(path: Path) -> dict[str, Any]:
    """Returns the state in one checkpoint, on the CPU.

    Raises:
        ValueError: The file is missing, damaged, or not one of ours; says which and what to do.
    """
    path = path.resolve()
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
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"checkpoint {path}: not one of srloss ({first_line}); give a checkpoint of a trial"
        ) from None
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {path}: format {version}, this srloss reads {FORMAT_VERSION}; use the srloss that wrote it"
        )
    return state


def load_weights(path: Path) -> dict[str, Any]:
    """Returns what a file of published weights holds, on the CPU: data only, never code. Its hash is the caller's to check.

    Raises:
        ValueError: The file cannot be read, or is no file of weights.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
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


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies, if it is there."""
    return folder / f"step-{step:08d}.pt"


def newest_step(folder: Path) -> int:
    """Step of the newest checkpoint, sound or not; 0 where there is none."""
    path = newest_path(folder)
    return 0 if path is None else int(path.stem.removeprefix("step-"))


def copy(source: Path, folder: Path, *, step: int) -> None:
    """Puts the checkpoint of a step in another trial's folder into this one's, in place of its own of that step.

    Raises:
        ValueError: It is missing or damaged.
        OSError: It cannot be written.
    """
    path = path_of(source, step)
    load(path)
    copied = folder / path.name
    write_atomically(copied.with_suffix(".sha256"), path.with_suffix(".sha256").read_bytes())
    write_atomically(copied, path.read_bytes())


def newest_path(folder: Path) -> Path | None:
    """Path of the newest checkpoint, sound or not."""
    paths = _checkpoints(folder)
    return paths[-1] if paths else None


def _checkpoints(folder: Path) -> list[Path]:
    return (
        sorted(path for path in folder.glob("step-*.pt") if _NAME.match(path.name)) if folder.is_dir() else []
    )
