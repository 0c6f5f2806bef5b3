"""Whatever is done to tars, indexes, heads and pictures: right pixels or a clear error, in bounded time and memory."""

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.shards.fuzzing import TARGETS

ROOT = Path(__file__).parents[3]


def run(target: str, seed: int, seconds: float) -> int:
    """Fuzzes in a process of its own, which has a limit of memory; returns how many cases it did."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.shards.fuzzing", target, str(seed), str(seconds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 60,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return int(done.stdout)


@pytest.mark.parametrize("target", TARGETS)
def test_damage_of_a_few_seconds(target: str) -> None:
    assert run(target, 0, 3) > 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", TARGETS)
def test_damage_of_minutes(target: str) -> None:
    seed = secrets.randbits(40)
    print(f"{target}: first seed {seed}")
    assert run(target, seed, 120) > 100
