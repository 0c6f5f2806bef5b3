"""One Ray for several sweeps of a test module: to start one for each takes most of their time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from sweeps import driver, tune

MACHINES = tune.Machines(cpus=2, gpus=0, memory_bytes=8e9)
"""Room for two trials of one rank, whatever this machine has."""


def evaluate_here(
    task: Callable[[Path], int], folders: Sequence[Path], *, on_done: Callable[[Path, str], None], **_: Any
) -> None:
    """Stands for `tune.run_tasks`, whose processes import torch anew."""
    for folder in folders:
        task(folder.resolve())
        on_done(folder, "")


@contextmanager
def one_ray() -> Iterator[None]:
    """Every `driver.run` in the block uses the same Ray, and evaluates in this process."""
    with pytest.MonkeyPatch.context() as patch, tune.embedded_ray(cpus=int(MACHINES.cpus), gpus=0):
        patch.setattr(tune, "embedded_ray", lambda **_: nullcontext(MACHINES))
        patch.setattr(tune, "run_tasks", evaluate_here)
        patch.setattr(driver, "this_machine", lambda: MACHINES)
        yield
