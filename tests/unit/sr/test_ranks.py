"""A process finds its place from what torchrun and srun say."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr.ranks import Place, place_from_environment

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29400",
}
SRUN = {
    "SLURM_JOB_ID": "4321",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[03-05,9],login",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in {*TORCHRUN, *SRUN}:
        monkeypatch.delenv(name, raising=False)
    # Without scontrol, on whatever machine this runs.
    monkeypatch.setenv("PATH", str(tmp_path))
    return monkeypatch


def put(environment: pytest.MonkeyPatch, variables: dict[str, str], **changes: str | None) -> None:
    for name, value in {**variables, **changes}.items():
        if value is not None:
            environment.setenv(name, value)


def test_a_process_by_itself_has_no_place(environment: pytest.MonkeyPatch) -> None:
    assert place_from_environment() is None


def test_torchrun(environment: pytest.MonkeyPatch) -> None:
    put(environment, TORCHRUN)
    assert place_from_environment() == Place(3, 4, 1, "10.0.0.7", 29400)


@pytest.mark.parametrize("missing", TORCHRUN)
def test_incomplete_variables_of_torchrun(environment: pytest.MonkeyPatch, missing: str) -> None:
    put(environment, TORCHRUN, **{missing: None})
    with pytest.raises(ValueError, match=f"not {missing}; start with torchrun or srun, or unset"):
        place_from_environment()


def test_a_rank_that_is_no_number(environment: pytest.MonkeyPatch) -> None:
    put(environment, TORCHRUN, RANK="first")
    with pytest.raises(ValueError, match="RANK=first: not a number"):
        place_from_environment()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,9],login", "gpu03"),
        ("node7", "node7"),
        ("a,b[1-2]", "a"),
        ("a[1-2],b[3-4]", "a1"),
        ("rack[1-2]-node[30-31]", "rack1-node30"),
    ],
)
def test_srun_meets_on_the_first_node(environment: pytest.MonkeyPatch, nodes: str, first: str) -> None:
    put(environment, SRUN, SLURM_STEP_NODELIST=nodes)
    place = place_from_environment()
    assert place is not None
    assert (place.rank, place.world_size, place.local_rank, place.address) == (5, 8, 1, first)


def test_srun_asks_scontrol_where_there_is_one(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(environment, SRUN)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[03-05,9],login" ] && echo told\n')
    scontrol.chmod(0o755)
    place = place_from_environment()
    assert place is not None
    assert place.address == "told"


def test_all_tasks_of_a_step_meet_at_one_port_and_other_steps_elsewhere(
    environment: pytest.MonkeyPatch,
) -> None:
    ports = {}
    for step in ("0", "1"):
        for rank in ("0", "7"):
            put(environment, SRUN, SLURM_STEP_ID=step, SLURM_PROCID=rank)
            place = place_from_environment()
            assert place is not None
            ports.setdefault(step, set()).add(place.port)
    assert all(len(found) == 1 for found in ports.values())
    assert ports["0"] != ports["1"]
    put(environment, SRUN, MASTER_PORT="1234")
    place = place_from_environment()
    assert place is not None
    assert place.port == 1234


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "SLURM_LOCALID", "SLURM_STEP_NODELIST"])
def test_incomplete_variables_of_srun(environment: pytest.MonkeyPatch, missing: str) -> None:
    put(environment, SRUN, **{missing: None})
    with pytest.raises(ValueError, match=f"not {missing}; start with torchrun or srun"):
        place_from_environment()


@pytest.mark.parametrize("changes", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": None}])
def test_a_shell_or_a_single_task_in_an_allocation_is_a_process_by_itself(
    environment: pytest.MonkeyPatch, changes: dict[str, str | None]
) -> None:
    put(environment, SRUN, **changes)
    environment.setenv("SLURM_NTASKS", "8")
    assert place_from_environment() is None


def test_torchrun_in_a_step_of_srun(environment: pytest.MonkeyPatch) -> None:
    put(environment, SRUN)
    put(environment, TORCHRUN)
    assert place_from_environment() == Place(3, 4, 1, "10.0.0.7", 29400)
