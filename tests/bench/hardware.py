"""What a benchmark ran on, for its JSON line."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def described() -> dict[str, str]:
    """Commit and hardware."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    cpu = models[0].partition(":")[2].strip() if models else platform.machine()
    return {
        "commit": commit,
        "hardware": f"{os.cpu_count()} x {cpu}, Python {platform.python_version()}",
    }
