"""`srloss doctor --on slurm` on a real SLURM of two nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.slurm import SlurmCluster

SRLOSS = str(Path(sys.executable).with_name("srloss"))
pytestmark = pytest.mark.timeout(200)


def examined(slurm: SlurmCluster, store: Path, *, code: int) -> dict[str, Any]:
    """What is told of both nodes, by the name of the check."""
    done = subprocess.run(
        [SRLOSS, "doctor", "--on", "slurm", "--json", "--store", str(store), "cluster.nodes=2"],
        env=os.environ | slurm.env,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "SLURM job" in done.stderr
    return {check["name"]: check for check in json.loads(done.stdout)}


def test_both_nodes_are_examined_and_meet(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    store = tmp_path / """it's a "store"; $HOME"""
    found = examined(slurm_cluster, store, code=0)
    assert (
        "debug (default): 2 of 2 nodes up, 2 CPUs each, no time limit" in found["slurm partitions"]["found"]
    )
    assert "low: a preempted job is requeued, told by SIGTERM, 20 s" in found["slurm preemption"]["found"]
    for name in ("same srloss", "store", "clock", "open files", "between nodes"):
        assert found[name]["nodes"] == ["n1", "n2"], found[name]
        assert found[name]["status"] == "ok", found[name]
    assert found["between nodes"]["found"].startswith("gloo over 2 nodes: 16 MB summed in ")
    assert "cannot reach api." in found["wandb server"]["found"]
    assert not store.exists()


def test_a_store_that_the_nodes_do_not_see_is_told(slurm_cluster: SlurmCluster) -> None:
    # Each host has a /dev/shm of its own.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        found = examined(slurm_cluster, Path(folder), code=1)
        assert found["store"]["status"] == "problem"
        assert found["store"]["found"].startswith(f"does not see {folder}")
        assert found["store"]["nodes"] == ["n1"]
        assert not list(Path(folder).iterdir())
    assert slurm_cluster.run("squeue", "--noheader") == ""
