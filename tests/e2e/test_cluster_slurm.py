"""Sweeps on a real SLURM of two nodes: whatever befalls their jobs, they end as a sweep on this machine does."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sr import checkpoint
from tests.clusters.slurm import SlurmCluster
from tests.conftest import tiny_trial

SRLOSS = str(Path(sys.executable).with_name("srloss"))
STORE = """it's a "store"; touch $HOME"""
"""A name that a shell would not take for one."""
SWEEP = "odd-6"
pytestmark = pytest.mark.timeout(600)


def srloss(slurm: SlurmCluster, *arguments: str | Path, store: Path, code: int = 0) -> str:
    """What a command prints, on either stream."""
    done = subprocess.run(
        [SRLOSS, *map(str, arguments), "--store", str(store)],
        env=os.environ | slurm.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def wait_for(what: Callable[[], Any], *, seconds: float = 150) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    pytest.fail(f"not seen within {seconds} s")


def folder_of(store: Path) -> Path:
    return next(store.glob("sweeps/*"))


def states(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder_of(store).glob("trials/*/state.json"))]


def steps(store: Path) -> int:
    """Steps that all trials have taken, as far as their ledgers tell."""
    rows = [
        json.loads(line)
        for path in folder_of(store).glob("trials/*/metrics.jsonl")
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return len({(row["attempt"], row["step"]) for row in rows if row["kind"] == "train"})


def table(store: Path) -> dict[str, Any]:
    done = subprocess.run(
        [SRLOSS, "report", "--store", str(store), "--json"], capture_output=True, text=True, check=True
    )
    plain = json.loads(done.stdout)
    return {key: plain[key] for key in ("verdict", "ranking", "bicubic")}


def weights(store: Path) -> dict[str, str]:
    """Hashes of what each trial's last checkpoint holds but for the time it took."""
    found = {}
    for path in folder_of(store).glob("trials/*/checkpoints/step-*1200.pt"):
        content = checkpoint.load(path)
        digest = hashlib.sha256()
        for name, value in tensors_of({key: content[key] for key in ("engine", "ema")}):
            digest.update(name.encode() + value.numpy().tobytes())
        found[path.parts[-3]] = digest.hexdigest()
    return found


def tensors_of(content: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from tensors_of(value, f"{name}.{key}")


@pytest.fixture(scope="module")
def sweep_file(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    training = {
        "steps": 1200,
        "global_batch_size": 4,
        "validate_every": 200,
        "checkpoint_every": 100,
        "log_every": 10,
    }
    trial = {**tiny_trial(photos), "training": training, "tracking": {"wandb": "disabled"}}
    plain = {
        "parameters": {"loss": ["l1", "mse"], "seed": [0]},
        "ranks": 2,
        "memory_gb_per_rank": 0.5,
        "trial": trial,
        # One CPU a node: the two ranks of a trial are on two nodes.
        "cluster": {"nodes": 2, "cpus_per_node": 1, "slurm_signal_delay_s": 50},
    }
    path = tmp_path_factory.mktemp("sweep") / "odd.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


@pytest.fixture(scope="module")
def undisturbed(sweep_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the same sweep, run on this machine."""
    store = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(
        [SRLOSS, "sweep", sweep_file, "--store", store], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return store


def expect_the_same(store: Path, undisturbed: Path) -> None:
    assert table(store) == table(undisturbed)
    assert weights(store) == weights(undisturbed)
    assert len(weights(store)) == 2


def expect_nothing_left(slurm: SlurmCluster, store: Path) -> None:
    slurm.wait_until_idle(timeout_s=60)
    for name in slurm.nodes:
        host = slurm.host(name)
        running = [process.command for process in host.processes()]
        assert [command[0] for command in running] == ["slurmd"], running
        assert {port for _, port in host.listening()} == {6818}
        assert host.run(["sh", "-c", "ls /tmp /dev/shm"]).split() == [
            "/dev/shm:",
            "/tmp:",
        ] or "srl-" not in host.run(["sh", "-c", "ls /tmp /dev/shm"])
    assert not list(folder_of(store).glob("jobs/slurm/ray-*"))


def test_time_limit_preemption_and_a_dead_node(
    slurm_cluster: SlurmCluster, sweep_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    slurm, store = slurm_cluster, tmp_path / STORE
    asked = ["submit", sweep_file, "cluster.slurm_partition=low"]
    told = srloss(slurm, *asked, "--to", "slurm", "cluster.timeout_min=1", store=store)
    folder = folder_of(store)
    for command in ("status", "logs", "cancel"):
        assert f"srloss {command} {folder.name}" in told
    job = json.loads((folder / "jobs" / "0001.json").read_text())["job_id"]
    assert f"is submitted already: SLURM job {job} is running" in srloss(slurm, *asked, store=store, code=1)

    def requeued(times: int) -> bool:
        return int(slurm.job(job).get("Restarts", 0)) == times

    def trained() -> None:
        before = steps(store)
        wait_for(lambda: steps(store) >= before + 4)

    # The time is soon up: SLURM signals, everything is saved, and the job puts itself in the queue again.
    wait_for(lambda: requeued(1))
    slurm.run("scontrol", "update", f"jobid={job}", "TimeLimit=30")
    trained()
    # Somebody more important comes.
    urgent = ["sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null"]
    slurm.wait_for_job(slurm.run(*urgent, "--wrap", "sleep 1").strip(), "COMPLETED")
    wait_for(lambda: requeued(2))
    trained()
    slurm.kill_node("n2")
    wait_for(lambda: requeued(3))
    slurm.revive_node("n2")
    slurm.wait_for_job(job, "COMPLETED", timeout_s=240)

    log = next(folder.glob("jobs/slurm/*_0_log.out")).read_text()
    assert "interrupted by SIGUSR2" in log
    assert "interrupted by SIGTERM" in log
    assert log.count(f"requeued as SLURM job {job}") == 2
    assert "Traceback" not in log
    expect_the_same(store, undisturbed)
    expect_nothing_left(slurm, store)


def test_an_array_whose_rank_is_killed_and_that_is_cancelled_and_resumed(
    accounting_slurm_cluster: SlurmCluster, sweep_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    slurm, store = accounting_slurm_cluster, tmp_path / STORE
    told = srloss(
        slurm,
        "submit",
        sweep_file,
        "cluster.mode=array",
        "cluster.nodes=1",
        "cluster.cpus_per_node=null",
        store=store,
    )
    assert "an array of 2 trials" in told
    wait_for(lambda: steps(store) >= 4)
    told = srloss(slurm, "cancel", store=store)
    slurm.wait_until_idle(timeout_s=60)
    assert not any(state["state"] == "finished" for state in states(store))
    shown = json.loads(srloss(slurm, "status", "--json", store=store))
    assert {trial["state"] for trial in shown["trials"]} <= {"pending", "interrupted", "cancelled"}

    before = steps(store)
    told = srloss(slurm, "resume", store=store)
    assert "an array of 2 trials" in told
    wait_for(lambda: steps(store) >= before + 4)
    ranks = [
        process
        for name in slurm.nodes
        for process in slurm.host(name).processes()
        if "submitit.core._submit" in process.command and "srun" not in process.command[0]
    ]
    os.kill(ranks[-1].pid, signal.SIGKILL)
    wait_for(lambda: (folder_of(store) / "report.html").exists(), seconds=240)
    logs = "".join(path.read_text() for path in folder_of(store).glob("jobs/slurm/*.out"))
    assert "ended before they were done; submitted again" in logs
    expect_the_same(store, undisturbed)
    expect_nothing_left(slurm, store)


@pytest.mark.slow
def test_a_lost_head_and_a_killed_driver(
    slurm_cluster: SlurmCluster, sweep_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    slurm, store = slurm_cluster, tmp_path / STORE

    def kill(word: str) -> None:
        found = [
            process
            for name in slurm.nodes
            for process in slurm.host(name).processes()
            if word in " ".join(process.command[:6]) and "srun" not in process.command[0]
        ]
        os.kill(found[0].pid, signal.SIGKILL)

    def trained() -> None:
        before = steps(store)
        wait_for(lambda: steps(store) >= before + 4)

    srloss(slurm, "submit", sweep_file, store=store)
    job = json.loads((folder_of(store) / "jobs" / "0001.json").read_text())["job_id"]
    trained()
    kill("gcs_server")
    wait_for(lambda: int(slurm.job(job).get("Restarts", 0)) == 1)
    trained()
    # Nobody is left who could ask for another start; a person can, at once.
    kill("submitit.core._submit")
    slurm.wait_for_job(job, "FAILED", timeout_s=120)
    srloss(slurm, "resume", store=store)
    again = json.loads((folder_of(store) / "jobs" / "0002.json").read_text())["job_id"]
    slurm.wait_for_job(again, "COMPLETED", timeout_s=240)
    expect_the_same(store, undisturbed)
    expect_nothing_left(slurm, store)


def test_what_slurm_would_refuse_is_refused_before(
    slurm_cluster: SlurmCluster, sweep_file: Path, tmp_path: Path
) -> None:
    def told(*changes: str, code: int = 2) -> str:
        return srloss(slurm_cluster, "submit", sweep_file, *changes, store=tmp_path, code=code)

    assert "cluster.slurm_partition: unknown partition 'hgih'. Did you mean 'high'?" in told(
        "cluster.slurm_partition=hgih"
    )
    assert "unknown key 'slurm_partitio'" in told("cluster.slurm_partitio=high")
    assert "goes with method grid or random" in told(
        "cluster.mode=array", "early_terminate={type: asha, min_steps: 10}"
    )
    assert "SLURM refuses the job" in told("cluster.nodes=9", code=1)
    script = told("--dry-run", "cluster.slurm_account=lab", "cluster.slurm_setup=['module load x']", code=0)
    assert "#SBATCH --account=lab" in script
    assert "\nmodule load x\n" in script
    assert slurm_cluster.run("squeue", "--noheader") == ""
