"""Limits are read from a made-up /proc and /sys, so that every kind of machine can be had here."""

import os
import subprocess

import pytest

from cluster.machine import available_cpus, available_memory_bytes, num_gpus

MIB = 2**20


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    write(tmp_path, {"proc/meminfo": "MemTotal: 8192000 kB\nMemAvailable:  4096000 kB\nHugePages_Total: 0\n"})
    return tmp_path


def test_without_cgroups_affinity_and_meminfo_count(root):
    assert available_cpus(root=root) == 8
    assert available_memory_bytes(root=root) == 4096000 * 1024


def test_limit_of_a_parent_cgroup_holds_v2(root):
    write(
        root,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/memory.max": f"{100 * MIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{80 * MIB}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {30 * MIB}\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
        },
    )
    assert available_cpus(root=root) == 2.5
    assert available_memory_bytes(root=root) == 50 * MIB


def test_container_path_that_exists_only_on_the_host_v1(root):
    write(
        root,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/4f2\n4:memory:/docker/4f2\n3:cpuset:/docker/4f2\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{64 * MIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{60 * MIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {MIB}\n",
        },
    )
    assert available_cpus(root=root) == 1.5
    assert available_memory_bytes(root=root) == 5 * MIB


def test_quota_of_minus_one_and_huge_limit_mean_none_v1(root):
    write(
        root,
        {
            "proc/self/cgroup": "5:cpu:/\n4:memory:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
        },
    )
    assert available_cpus(root=root) == 8
    assert available_memory_bytes(root=root) == 4096000 * 1024


def test_overdrawn_cgroup_has_no_memory_rather_than_less(root):
    write(
        root,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "10\n",
            "sys/fs/cgroup/memory.current": "20\n",
            "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
        },
    )
    assert available_memory_bytes(root=root) == 0


def test_this_machine_has_something():
    assert 0 < available_cpus() <= os.cpu_count()
    assert available_memory_bytes() > 0
    assert num_gpus() >= 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, 2),
        ("0", 1),
        ("0,1", 2),
        ("0,1,2,3", 2),
        ("", 0),
        ("-1", 0),
        ("1,-1,0", 1),
        ("MIG-a,MIG-b,MIG-c", 3),
    ],
)
def test_gpus_are_those_cuda_would_see(tmp_path, monkeypatch, visible, expected):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\necho 'GPU 0: X (UUID: GPU-1)'\necho '  MIG 1g (UUID: MIG-a)'\necho 'GPU 1: X'\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert num_gpus() == expected


def test_gpus_without_nvidia_smi_come_from_the_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert num_gpus(root=tmp_path) == 0
    write(
        tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": "", "proc/driver/nvidia/gpus/b/x": ""}
    )
    assert num_gpus(root=tmp_path) == 2


def test_hanging_nvidia_smi_is_not_waited_for(tmp_path, monkeypatch):
    def hang(*args, timeout, **kwargs):
        raise subprocess.TimeoutExpired(args, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert num_gpus(root=tmp_path) == 0
