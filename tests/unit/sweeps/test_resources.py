"""What ranks need, and what a machine has for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sr.configfile import ConfigError
from sweeps.resources import concurrency
from sweeps.spec import PlannedTrial, SweepConfig, expand, parse_sweep
from sweeps.tune import Machines

TRIAL: dict[str, Any] = {"data": {"path": "data"}, "training": {"global_batch_size": 8}}


def planned(**changes: Any) -> tuple[SweepConfig, list[PlannedTrial]]:
    trial = TRIAL | changes.pop("trial", {})
    data = {"parameters": {"loss": ["l1", "mse"], "seed": [0, 1, 2]}, "trial": trial, **changes}
    sweep = parse_sweep(data, where="test")
    return sweep, expand(sweep)


def at_once(machines: Machines, **changes: Any) -> int:
    return concurrency(*planned(**changes), machines)


def machine(cpus: float = 64, gpus: float = 0, memory_gb: float = 1000) -> Machines:
    return Machines(cpus, gpus, memory_gb * 1e9)


def test_ranks_of_a_sweep_are_those_of_each_trial() -> None:
    assert {trial.config.engine.ranks for trial in planned(ranks=4)[1]} == {4}
    assert {trial.config.engine.ranks for trial in planned(trial={"engine": {"ranks": 2}})[1]} == {2}
    with pytest.raises(ConfigError, match=r"ranks: 4, but engine.ranks is 2; leave out one"):
        planned(ranks=4, trial={"engine": {"ranks": 2}})


@pytest.mark.parametrize(
    ("machines", "changes", "expected"),
    [
        (machine(), {}, 6),
        (machine(cpus=8), {"ranks": 2}, 4),
        (machine(cpus=8), {"ranks": 2, "trial": {"engine": {"threads": 2}}}, 2),
        (machine(memory_gb=10), {"ranks": 2, "memory_gb_per_rank": 2}, 2),
        (machine(gpus=8), {"ranks": 4, "gpus_per_rank": 1}, 2),
        (machine(gpus=1), {"gpus_per_rank": 0.25}, 4),
        # Two of 0.4 on each GPU; what is left of both is no GPU.
        (machine(gpus=2), {"gpus_per_rank": 0.4}, 4),
        (machine(), {"max_concurrent_trials": 3}, 3),
    ],
)
def test_as_many_trials_run_at_once_as_the_scarcest_carries(
    machines: Machines, changes: dict[str, Any], expected: int
) -> None:
    assert at_once(machines, **changes) == expected


@pytest.mark.parametrize(
    ("machines", "changes", "message"),
    [
        (machine(cpus=3), {"ranks": 4}, r"4 ranks with 1 threads each needs 4 CPUs, of which there are 3"),
        (machine(memory_gb=7.5), {"ranks": 4, "memory_gb_per_rank": 2}, r"needs 8 GB, of which 7.5 GB"),
        (machine(gpus=2), {"ranks": 4, "gpus_per_rank": 1}, r"needs 4, of which there are 2"),
        (machine(), {"gpus_per_rank": 1}, r"needs 1, of which there are 0; set gpus_per_rank: 0"),
    ],
)
def test_a_trial_that_never_fits_is_an_error_that_says_what_it_needs(
    machines: Machines, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        at_once(machines, **changes)


def test_ranks_cannot_share_a_gpu() -> None:
    with pytest.raises(
        ConfigError, match=r"gpus_per_rank: 0.5 with 2 ranks; ranks of one trial cannot share"
    ):
        planned(ranks=2, gpus_per_rank=0.5)


def test_trials_of_one_sweep_compute_alike() -> None:
    with pytest.raises(ConfigError, match=r"parameters.engine.ranks: must be equal in all trials"):
        planned(parameters={"loss": ["l1"], "engine.ranks": [1, 2]})


def test_a_folder_of_proc_shows_what_the_kernel_ended(tmp_path: Path) -> None:
    from cluster.machine import oom_kills

    assert oom_kills(root=tmp_path) == 0
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/vmstat").write_text("nr_free 5\noom_kill 3\n")
    assert oom_kills(root=tmp_path) == 3
    group = tmp_path / "sys/fs/cgroup/mine"
    group.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/mine\n")
    (group / "memory.events").write_text("low 0\noom 2\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(root=tmp_path) == 5
