"""The clusters for tests: their hosts are apart from each other, they work, and nothing of them stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.clusters.fixtures import demand
from tests.clusters.hosts import hosts, require_hosts
from tests.clusters.slurm import SlurmCluster, require_slurm

PREFIX = f"t{os.getpid()}"
CONNECT = """
import socket, sys, time
for _ in range(300):
    try:
        sys.exit(socket.create_connection((sys.argv[1], 8000), timeout=1).close())
    except OSError:
        time.sleep(0.1)
sys.exit(1)
"""


def traces() -> set[str]:
    """What a cluster may leave behind."""
    found = {f"interface {path.name}" for path in Path("/sys/class/net").glob(f"{PREFIX}*")}
    found |= {f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"freezer/{PREFIX}*")}
    found |= {f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines()}
    children = psutil.Process().children(recursive=True)
    return found | {f"process {child.pid}" for child in children}


def test_hosts_are_apart_die_whole_and_leave_nothing(tmp_path: Path) -> None:
    demand(require_hosts)
    before = traces()
    with pytest.raises(KeyError), hosts("n1", "n2", prefix=PREFIX, share=[tmp_path]) as cluster:  # noqa: PT012
        one, two = cluster["n1"], cluster["n2"]
        one.run(["sh", "-c", f"echo mine > /tmp/file; echo ours > {tmp_path}/file; hostname > /dev/shm/file"])
        assert (
            two.run(["sh", "-c", f"hostname; ls /tmp/file /dev/shm/file; cat {tmp_path}/file; true"])
            == "n2\nours\n"
        )
        assert one.run(["getent", "hosts", "n2"]).split() == [two.address, "n2"]

        escaped = two.start(["sh", "-c", "setsid setsid sleep 600 & sleep 600"])
        server = two.start([sys.executable, "-m", "http.server", "8000"], stderr=subprocess.DEVNULL)
        ask = [sys.executable, "-c", CONNECT, two.address]
        for asking in (ask, one.inside([*ask[:-1], "n2"])):
            subprocess.run(asking, check=True, timeout=40)
        assert (two.listening(), one.listening()) == ({("0.0.0.0", 8000)}, set())
        inside = {process.pid for process in two.processes()}
        assert len(inside) == 4
        two.kill()
        assert [escaped.wait(5), server.wait(5), two.processes()] == [-9, -9, []]
        assert not any(psutil.pid_exists(pid) for pid in inside)
        two.revive()
        assert two.run(["sh", "-c", "touch /tmp/again; ls /tmp /dev/shm | grep -E 'again|file'"]) == "again\n"
        assert one.run(["cat", "/tmp/file"]) == "mine\n"
        raise KeyError
    assert traces() - before == set()


def test_slurm_runs_on_both_nodes_and_leaves_nothing(tmp_path: Path) -> None:
    demand(require_hosts, require_slurm)
    before = traces()
    with SlurmCluster(prefix=PREFIX, share=[tmp_path]) as slurm:
        assert traces() > before
        assert sorted(slurm.run("srun", "-N2", "hostname").split()) == ["n1", "n2"]
        job = slurm.run(
            "sbatch", "--parsable", "--output=/dev/null", "--wrap=setsid sleep 600 & sleep 1"
        ).strip()
        node = slurm.wait_for_job(job, "COMPLETED")["NodeList"]
        slurm.wait_until_idle()
        if slurm.proctrack == "cgroup":  # also the one that called setsid went with its job
            assert not [process for process in slurm.host(node).processes() if "sleep" in process.command]
    assert traces() - before == set()


@pytest.mark.slow
def test_slurm_queues_again_what_a_dead_node_had(tmp_path: Path) -> None:
    demand(require_hosts, require_slurm)
    script, printed = tmp_path / "job.sh", tmp_path / "printed.txt"
    script.write_text("#!/bin/sh\necho $(hostname) start ${SLURM_RESTART_COUNT:-0}\nsleep 600\n")
    with SlurmCluster(share=[tmp_path]) as slurm:
        options = ["--parsable", "--requeue", "--open-mode=append", f"--output={printed}"]
        job = slurm.run("sbatch", *options, script).strip()
        died = slurm.wait_for_job(job, "RUNNING")["NodeList"]
        slurm.wait_for(lambda: printed.exists() and "start" in printed.read_text(), "the job's first line")
        slurm.kill_node(died)
        slurm.wait_for_node(died, "down*", "down")
        again = slurm.wait_for_job(job, "RUNNING")["NodeList"]
        assert {died, again} == {"n1", "n2"}
        slurm.wait_for(
            lambda: printed.read_text() == f"{died} start 0\n{again} start 1\n", "the job's second line"
        )
        slurm.revive_node(died)
        slurm.wait_for_node(died, "idle")
