"""How long `srloss --help` takes, beside a bare interpreter in the same run. Run: python tests/bench/startup.py"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.hardware import described

RUNS = 15
SRLOSS = str(Path(sys.executable).with_name("srloss"))


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    bare, srloss = [sys.executable, "-c", "pass"], [SRLOSS, "--help"]
    seconds(bare), seconds(srloss)
    # In turn, so that a machine that slows down slows both.
    pairs = [(seconds(srloss), seconds(bare)) for _ in range(RUNS)]
    result = {
        "benchmark": "startup",
        "help_s": round(statistics.median(a for a, _ in pairs), 3),
        "python_s": round(statistics.median(b for _, b in pairs), 3),
        "ratio": round(statistics.median(a / b for a, b in pairs), 1),
        "runs": RUNS,
        **described(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
