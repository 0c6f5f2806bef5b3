"""What a sweep's driver does when it is asked to stop before it has begun."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sweeps import driver
from sweeps.cli.follow import Follow
from sweeps.interrupt import listening
from sweeps.tune import Machines
from tests.made_sweep import planned


def test_a_request_to_stop_while_machines_join_is_no_fault_of_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = planned(tmp_path, ranks=2)

    @contextmanager
    def half_a_cluster(*_: object) -> Iterator[Machines]:
        os.kill(os.getpid(), signal.SIGUSR2)
        deadline = time.monotonic() + 10
        while not interruption.reason() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield Machines(cpus=1, gpus=0, memory_bytes=8e9)

    monkeypatch.setattr(driver, "_ray", half_a_cluster)
    with listening() as interruption:
        driver.run(sweep, progress=Follow(sweep), ray_address="nowhere:1")
        assert interruption.reason() == "SIGUSR2"
