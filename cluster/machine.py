"""How much of this machine the process may use: affinity and cgroup limits count, not only what is built in."""

import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def available_cpus(*, root: Path = _ROOT) -> float:
    """CPU cores this process may keep busy: its affinity, or less where a cgroup has a quota (Docker, Kubernetes).

    Args:
        root: Where /proc and /sys are found.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(float(affinity), *(_cpu_quota(group) for group in _cgroups("cpu", root)), math.inf)


def available_memory_bytes(*, root: Path = _ROOT) -> int:
    """Bytes this process can still allocate without swapping or being killed: the machine's, or its cgroup's if less.

    Args:
        root: Where /proc and /sys are found.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    meminfo = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    rooms = (_memory_room(group) for group in _cgroups("memory", root))
    return int(max(0, min(float(meminfo["MemAvailable"]), *rooms, math.inf)))


def oom_kills(*, root: Path = _ROOT) -> int:
    """How many processes the kernel has ended here for want of memory; only its growth means something.

    Counted are those of the machine and those of this process's cgroup, where either can be seen.

    Args:
        root: Where /proc and /sys are found.
    """
    files = [root / "proc/vmstat"]
    files += [
        group / name for group in _cgroups("memory", root) for name in ("memory.events", "memory.oom_control")
    ]
    return sum(_counter(path, "oom_kill") for path in files)


def _counter(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def num_gpus(*, root: Path = _ROOT) -> int:
    """NVIDIA GPUs that a CUDA program started here would see, found without loading CUDA.

    Args:
        root: Where /proc is found.
    """
    installed = _installed_gpus(root)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not installed:
        return installed
    names = [name.strip() for name in visible.split(",")]
    # CUDA ignores everything from the first invalid entry on; "-1" is the usual way to write "none".
    names = names[: next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))]
    if any(name.startswith("MIG-") for name in names):
        return len(names)
    return min(installed, len(names))


def _installed_gpus(root: Path) -> int:
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        folder = root / "proc/driver/nvidia/gpus"
        return len(list(folder.iterdir())) if folder.is_dir() else 0
    return sum(line.startswith("GPU ") for line in listing.splitlines())


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of this process's cgroup and of all above it, whose limits hold too; version 1 and 2."""
    mounts = root / "sys/fs/cgroup"
    listing = root / "proc/self/cgroup"
    for line in listing.read_text().splitlines() if listing.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            bases = [mounts / controllers, mounts / controller]
        else:
            continue
        # Inside a container the path may be the host's and not exist here; the parents then still lead to the mount.
        own = Path(path.lstrip("/"))
        yield from (
            base / level for base in bases for level in (own, *own.parents) if (base / level).is_dir()
        )


def _cpu_quota(group: Path) -> float:
    """Cores' worth of CPU time that the cgroup may use; inf without a limit."""
    if (group / "cpu.max").is_file():
        quota, period = (group / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    if (group / "cpu.cfs_quota_us").is_file():
        microseconds = int((group / "cpu.cfs_quota_us").read_text())
        return (
            math.inf if microseconds <= 0 else microseconds / int((group / "cpu.cfs_period_us").read_text())
        )
    return math.inf


def _memory_room(group: Path) -> float:
    """Bytes left under the cgroup's limit; inf without a limit. File cache that can be dropped counts as free."""
    for limit_file, usage_file, cache_field in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        if not (group / limit_file).is_file():
            continue
        limit = (group / limit_file).read_text().strip()
        if limit == "max":
            return math.inf
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(limit) - int((group / usage_file).read_text()) + int(statistics.get(cache_field, 0))
    return math.inf
