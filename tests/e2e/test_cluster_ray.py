"""Sweeps on a real Ray of two hosts that was there before, by way of Ray Jobs."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobSubmissionClient

from cluster import ray_jobs
from cluster.api import JobState
from cluster.records import JobRecord, JobStatus, records_in
from sr.ledger import State
from sweeps import driver, ray_submission
from sweeps.cli.follow import Follow
from sweeps.cluster_section import ClusterSection
from sweeps.code import versions
from sweeps.ray_submission import submit_sweep
from sweeps.spec import parse_sweep
from sweeps.sweep import Sweep, create
from tests.clusters.ray_cluster import RayCluster
from tests.conftest import tiny_trial
from tests.integration.test_ranks_under_ray import equal, result

pytestmark = pytest.mark.timeout(280)

LONG = {"steps": 400, "global_batch_size": 2, "validate_every": 200, "checkpoint_every": 20, "log_every": 5}


def make(photos: Path, store: Path, *, name: str = "two-losses", **trial: Any) -> Sweep:
    """Two trials of two ranks, each of which takes both hosts."""
    plain = {
        "name": name,
        "ranks": 2,
        "parameters": {"loss": ["l1", "mse"]},
        "trial": {
            **tiny_trial(photos),
            "engine": {"timeout_s": 60},
            "tracking": {"wandb": "disabled"},
            **trial,
        },
        "memory_gb_per_rank": 0.3,
    }
    return create(parse_sweep(plain, where="test"), store=store, command="test")


@pytest.fixture
def cluster(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """The cluster, with its address and token in this process's environment."""
    for name, value in ray_cluster.env.items():
        monkeypatch.setenv(name, value)
    return ray_cluster


def ended(record: JobRecord, *, within_s: float = 240) -> JobStatus:
    deadline = time.monotonic() + within_s
    while (status := ray_jobs.look(record)).state in (JobState.PENDING, JobState.RUNNING):
        assert time.monotonic() < deadline, ray_jobs.logs(record)
        time.sleep(0.5)
    return status


def wait_for_step(sweep: Sweep, step: int, record: JobRecord) -> None:
    deadline = time.monotonic() + 120
    while not any(row["step"] >= step for trial in sweep.trials for row in sweep.ledger(trial).rows("train")):
        assert time.monotonic() < deadline, ray_jobs.logs(record)
        assert ray_jobs.look(record).state in (JobState.PENDING, JobState.RUNNING), ray_jobs.logs(record)
        time.sleep(0.2)


def locally(sweep: Sweep) -> Sweep:
    with pytest.MonkeyPatch.context() as patch, Follow(sweep) as follow:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
            patch.delenv(name, raising=False)
        driver.run(sweep, progress=follow)
    return sweep


def test_a_sweep_ends_there_as_it_does_here(
    cluster: RayCluster, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make(photos, tmp_path / "the lab's store")
    monkeypatch.setenv("SRLOSS_CACHE", str(tmp_path / "it's a cache"))
    record = submit_sweep(sweep.folder, ClusterSection(ship_code=True))
    assert records_in(sweep.folder.path) == [record]
    with pytest.raises(ValueError, match=f"submitted already, as job {record.job_id}"):
        submit_sweep(sweep.folder, ClusterSection(ship_code=True))
    printed = "".join(ray_jobs.follow(record))
    status = ended(record)
    assert status.state is JobState.SUCCEEDED, printed
    assert "2/2 mse" in printed
    assert "Verdict:" in printed
    assert printed in ray_jobs.logs(record) + "\n"
    assert {sweep.ledger(trial).status().state for trial in sweep.trials} == {State.FINISHED}
    here = locally(make(photos, tmp_path / "local"))
    assert equal(result(sweep), result(here))
    assert [sweep.ledger(t).evaluation() for t in sweep.trials] == [
        here.ledger(t).evaluation() for t in here.trials
    ]
    # What Ray shows to everybody.
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    client = JobSubmissionClient(cluster.address, headers={"Authorization": f"Bearer {token}"})
    [shown] = client.list_jobs()
    assert token not in shown.model_dump_json() + printed + (sweep.folder.path / "jobs/0001.json").read_text()
    assert not list(sweep.folder.path.glob(".seen-*"))


def test_another_version_is_told_for_every_node(
    cluster: RayCluster, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = versions()["srloss"]
    monkeypatch.setattr(ray_submission, "versions", lambda: {**versions(), "srloss": "0123456789ab"})
    sweep = make(photos, tmp_path)
    status = ended(record := submit_sweep(sweep.folder, ClusterSection(address=cluster.address)))
    assert status.state is JobState.FAILED
    told = re.findall(r"^error: node (\w+) \(([\d.]+)\): (.*)$", ray_jobs.logs(record), re.MULTILINE)
    assert sorted(told) == [
        (
            name,
            cluster.host(name).address,
            f"has srloss {has}; the sweep was submitted with srloss 0123456789ab; install the same there, or send "
            "yours: cluster.ship_code=true",
        )
        for name in ("head", "worker")
    ]
    assert "Traceback" not in ray_jobs.logs(record)
    assert all(sweep.ledger(trial).status().attempt == 0 for trial in sweep.trials)


def test_a_store_that_only_the_submitter_has_is_told(
    cluster: RayCluster, photos: Path, tmp_path: Path
) -> None:
    # Each host has a /dev/shm of its own.
    place = Path("/dev/shm") / f"{tmp_path.name}-{os.getpid()}"
    try:
        status = ended(submit_sweep(make(photos, place).folder, ClusterSection(address=cluster.address)))
    finally:
        subprocess.run(["rm", "-r", str(place)], check=True)
    assert status.state is JobState.FAILED
    assert status.reason.startswith("the head of the Ray cluster does not see the run store (/dev/shm/")


def test_a_wrong_token_is_told_in_a_line(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    with pytest.raises(
        ValueError, match=f"Ray at {cluster.address}: the token here is not the cluster's; set"
    ):
        ray_jobs.submit(["true"], address=cluster.address, submission_id="x", env={}, metadata={})
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    with pytest.raises(ValueError, match="it wants a token, and there is none here"):
        ray_jobs.submit(["true"], address=cluster.address, submission_id="x", env={}, metadata={})


@pytest.mark.slow
def test_a_stopped_job_saves_and_goes_on_as_another(
    cluster: RayCluster, photos: Path, tmp_path: Path
) -> None:
    sweep = make(photos, tmp_path, training=LONG)
    record = submit_sweep(sweep.folder, ClusterSection())
    wait_for_step(sweep, 50, record)
    status = ray_jobs.stop(record, wait_s=60)
    assert status.state is JobState.CANCELLED
    assert "interrupted by SIGTERM" in ray_jobs.logs(record)
    first = sweep.ledger(sweep.trials[0]).status()
    assert (first.state, first.attempt) == (State.PENDING, 1)
    again = submit_sweep(sweep.folder, ClusterSection())
    assert again.job_id == f"{record.job_id}-2"
    assert ended(again).state is JobState.SUCCEEDED, ray_jobs.logs(again)
    assert equal(result(sweep), result(locally(make(photos, tmp_path / "local", training=LONG))))


@pytest.mark.slow
def test_a_sweep_outlives_a_node_and_not_the_head(cluster: RayCluster, photos: Path, tmp_path: Path) -> None:
    sweep = make(photos, tmp_path, training=LONG)
    record = submit_sweep(sweep.folder, ClusterSection())
    wait_for_step(sweep, 50, record)
    cluster.kill_node("worker")
    cluster.revive_node("worker")
    assert ended(record).state is JobState.SUCCEEDED, ray_jobs.logs(record)
    assert max(sweep.ledger(trial).status().attempt for trial in sweep.trials) == 2
    local = locally(make(photos, tmp_path / "local", training=LONG))
    assert equal(result(sweep), result(local))
    # The head goes, and with it the job. Last, as the cluster is gone then.
    second = make(photos, tmp_path / "second", training=LONG)
    record = submit_sweep(second.folder, ClusterSection())
    wait_for_step(second, 50, record)
    cluster.kill_node("head")
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="does not answer"):
        ray_jobs.look(record)
    assert time.monotonic() - began < 10
    locally(second)
    assert equal(result(second), result(local))
