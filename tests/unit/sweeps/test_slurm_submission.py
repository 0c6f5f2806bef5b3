"""What jobs of SLURM ask for, and what comes after an array. In SLURM's place are lists of what was submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import slurm, slurm_queue
from cluster.records import records_in
from sr.configfile import ConfigError
from sr.ledger import State, Status
from sweeps import driver, jobs, slurm_far_side
from sweeps.cluster_section import ClusterSection
from sweeps.interrupt import listening
from sweeps.slurm_submission import check, finish_array, parameters_of, scripts, submit
from sweeps.spec import expand, parse_sweep
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep

PARTITIONS = {"short": 3600.0, "long": None, "half": 1800.0}
LOSSES = {"loss": ["l1", "mse"], "seed": [0, 1]}
Submitted = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def submitted(monkeypatch: pytest.MonkeyPatch) -> Submitted:
    """What SLURM was given: `calls`, `folder`, `parameters`; its jobs are 101, 102, ..."""
    given: Submitted = []

    def take(calls: list[slurm.Call], **more: Any) -> str:
        given.append({"calls": calls, **more})
        return str(100 + len(given))

    monkeypatch.setattr(slurm, "submit", take)
    monkeypatch.setattr(slurm_queue, "partitions", lambda: PARTITIONS)
    return given


def sweep_in(store: Path, **changes: Any) -> Sweep:
    plain = {
        "name": "odd",
        "trial": {"data": {"path": "nowhere"}, "engine": {"threads": 3}},
        "parameters": LOSSES,
        "ranks": 4,
        **changes,
    }
    config = parse_sweep(plain, where="test")
    sweep = Sweep(config, list(expand(config)), SweepFolder(store / "sweeps" / "odd-1"), "test")
    for trial in sweep.trials:
        sweep.ledger(trial).create(trial.config, command="test")
    trials = [[trial.trial_id, trial.candidate, trial.variant] for trial in sweep.trials]
    sweep.folder.write_plan({"sweep": config.model_dump(mode="json"), "trials": trials, "command": "test"})
    return sweep


def end(sweep: Sweep, *numbers: int, state: State = State.FINISHED) -> None:
    for number in numbers:
        sweep.ledger(sweep.trials[number]).set_status(Status(state))


def asked(sweep: Sweep, submitted: Submitted, **section: Any) -> list[dict[str, Any]]:
    """What each job asks for that is not null."""
    submit(sweep, ClusterSection(**section))
    return [{name: v for name, v in job["parameters"].items() if v is not None} for job in submitted]


def faults(sweep: Sweep, **section: Any) -> list[str]:
    try:
        check(sweep.config, sweep.trials, ClusterSection(**section))
    except ConfigError as error:
        return list(error.faults)
    return []


# --- what cannot be ---


def test_a_block_that_fits_has_no_faults(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    assert faults(sweep) == []
    assert faults(sweep, mode="array", nodes=2) == []
    assert faults(sweep, slurm_partition="short", timeout_min=60) == []
    assert faults(sweep, slurm_partition="long", timeout_min=10**6) == []
    assert faults(sweep, nodes=2, cpus_per_node=6) == []
    assert faults(sweep, timeout_min=1, slurm_signal_delay_s=59) == []


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (
            {"slurm_partition": "shrt"},
            "cluster.slurm_partition: unknown partition 'shrt'. Did you mean 'short'?",
        ),
        ({"slurm_partition": "short,nope"}, "cluster.slurm_partition: unknown partition 'nope'."),
        (
            {"slurm_partition": "short,half", "timeout_min": 31},
            "cluster.timeout_min: 31, but partition half allows 30 minutes; lower it",
        ),
        (
            {"mode": "array", "nodes": 3},
            "cluster.nodes: 4 ranks cannot be spread evenly over 3 nodes; use as many nodes as divide the ranks",
        ),
        ({"mode": "array", "nodes": 8}, "cluster.nodes: 4 ranks cannot be spread evenly over 8 nodes"),
        (
            {"nodes": 2, "cpus_per_node": 5},
            "cluster.cpus_per_node: one trial needs 12 CPUs (ranks x engine.threads), and 2 nodes with 5 have fewer",
        ),
        (
            {"timeout_min": 2, "slurm_signal_delay_s": 120},
            "cluster.slurm_signal_delay_s: 120 s before the end is before the beginning of 2 minutes; lower it",
        ),
        (
            {"slurm_comment": "two\nrm lines"},
            "cluster.slurm_comment: a line break would be a line of the batch script",
        ),
    ],
)
def test_what_a_cluster_cannot_carry_is_told_before(
    section: dict[str, Any], told: str, tmp_path: Path, submitted: Submitted
) -> None:
    sweep = sweep_in(tmp_path)
    assert [fault[: len(told)] for fault in faults(sweep, **section)] == [told]
    with pytest.raises(ConfigError):
        submit(sweep, ClusterSection(**section))
    with pytest.raises(ConfigError):
        scripts(sweep.config, sweep.trials, sweep.folder, ClusterSection(**section))
    assert submitted == []
    assert records_in(sweep.folder.path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {
            "method": "bayes",
            "run_cap": 16,
            "parameters": {**LOSSES, "optimizer.learning_rate": {"values": [0.1, 0.2, 0.3, 0.4]}},
        },
        {"early_terminate": {"type": "asha", "min_steps": 10}},
        {"population": {"perturb_every": 200, "parameters": {"optimizer.learning_rate": {}}}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_needs_to_see_all_trials_is_no_array(changes: dict[str, Any], tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, **changes)
    told = faults(sweep, mode="array", nodes=3)
    assert "goes with method grid or random" in told[0]
    assert len(told) == 2, "all faults at once"
    assert faults(sweep) == []


# --- what is asked for ---


def test_a_sweep_asks_for_one_task_on_each_node_with_what_its_trials_need(
    tmp_path: Path, submitted: Submitted
) -> None:
    sweep = sweep_in(tmp_path, max_concurrent_trials=2, gpus_per_rank=1.0)
    (job,) = asked(sweep, submitted, nodes=5, mem_gb=7.5, slurm_account="lab", slurm_srun_args=("--x",))
    assert job["nodes"] == 5
    assert job["tasks_per_node"] == 1
    # Two trials of four ranks on five nodes: 24 CPUs and 8 GPUs.
    assert (job["cpus_per_task"], job["gpus_per_node"]) == (5, 2)
    assert job["slurm_srun_args"] == ["--x", "--cpus-per-task=5", "--kill-on-bad-exit=0"]
    assert (job["name"], job["timeout_min"], job["mem_gb"], job["slurm_account"]) == ("odd", 60, 7.5, "lab")
    assert job["slurm_signal_delay_s"] == 120
    assert job["slurm_stderr_to_stdout"] is True
    assert job["slurm_additional_parameters"] == {"requeue": True}
    assert not {"slurm_partition", "slurm_exclusive", "slurm_setup", "mode", "address"} & job.keys()


def test_one_trial_at_a_time_is_what_a_sweep_asks_for_else(tmp_path: Path, submitted: Submitted) -> None:
    (job,) = asked(sweep_in(tmp_path), submitted)
    assert job["cpus_per_task"] == 12
    assert "gpus_per_node" not in job


@pytest.mark.parametrize("mode", ["ray", "array"])
def test_what_is_given_goes_before_what_is_reckoned(mode: str, tmp_path: Path, submitted: Submitted) -> None:
    sweep = sweep_in(tmp_path, gpus_per_rank=1.0)
    job = asked(sweep, submitted, mode=mode, cpus_per_node=20, gpus_per_node=8)[0]
    assert job["gpus_per_node"] == 8
    # Of an array each rank has its own.
    assert job["cpus_per_task"] == (20 if mode == "ray" else 3)
    submitted.clear()
    assert asked(sweep, submitted, mode=mode, gpus_per_node=0)[0]["gpus_per_node"] == 0
    submitted.clear()
    for job in asked(sweep, submitted, mode=mode, slurm_gres="gpu:a100:4"):
        assert job["slurm_gres"] == "gpu:a100:4"
        assert "gpus_per_node" not in job


def test_an_array_asks_for_a_task_for_each_rank_and_then_for_little(
    tmp_path: Path, submitted: Submitted
) -> None:
    sweep = sweep_in(tmp_path, gpus_per_rank=1.0)
    array, finish = asked(
        sweep,
        submitted,
        mode="array",
        nodes=2,
        timeout_min=600,
        slurm_srun_args=("--x",),
        slurm_nodelist="a,b",
    )
    assert (array["nodes"], array["tasks_per_node"], array["cpus_per_task"], array["gpus_per_node"]) == (
        2,
        2,
        3,
        2,
    )
    assert array["slurm_srun_args"] == ["--x", "--cpus-per-task=3"]
    assert array["slurm_array_parallelism"] == 4
    assert "slurm_dependency" not in array
    assert (finish["nodes"], finish["tasks_per_node"], finish["cpus_per_task"], finish["gpus_per_node"]) == (
        1,
        1,
        3,
        1,
    )
    assert (finish["name"], finish["timeout_min"]) == ("odd-finish", 60)
    assert finish["slurm_dependency"] == "afterany:101"
    assert finish["slurm_use_srun"] is True, "a container comes with srun"
    assert finish["slurm_srun_args"] == ["--x"]
    assert "slurm_nodelist" not in finish
    assert finish["slurm_additional_parameters"] == {"requeue": True, "kill-on-invalid-dep": "yes"}
    assert "slurm_array_parallelism" not in finish


def test_what_comes_after_a_short_array_is_no_longer_than_that(tmp_path: Path, submitted: Submitted) -> None:
    finish = asked(sweep_in(tmp_path), submitted, mode="array", timeout_min=10)[1]
    assert finish["timeout_min"] == 10
    assert finish["slurm_use_srun"] is False


def test_trials_at_once(tmp_path: Path, submitted: Submitted) -> None:
    sweep = sweep_in(tmp_path, max_concurrent_trials=3)
    assert asked(sweep, submitted, mode="array")[0]["slurm_array_parallelism"] == 3
    submitted.clear()
    assert asked(sweep, submitted, mode="array", slurm_array_parallelism=2)[0]["slurm_array_parallelism"] == 2


def test_other_options_of_sbatch_are_handed_on() -> None:
    section = ClusterSection(
        slurm_additional_parameters={"reservation": "x", "requeue": False},
        slurm_setup=("module load x",),
        slurm_exclusive=True,
        slurm_python="my python",
    )
    job = parameters_of(section, name="n")
    assert job["slurm_additional_parameters"] == {"reservation": "x"}, "sbatch has no --requeue=False"
    assert (job["slurm_setup"], job["slurm_exclusive"], job["slurm_python"]) == (
        ["module load x"],
        True,
        "my python",
    )


# --- what is called, and kept ---


def test_a_sweep_is_one_job_that_is_kept(
    tmp_path: Path, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = sweep_in(Path("store"))
    section = ClusterSection(node_cache="$SLURM_TMPDIR/x", slurm_signal_delay_s=99)
    records = submit(sweep, section)
    assert records == records_in(sweep.folder.path)
    (record,) = records
    logs = tmp_path / "store" / "sweeps" / "odd-1" / "jobs" / "slurm"
    assert (record.launcher, record.job_id, record.kind, record.name) == ("slurm", "101", "sweep", "odd")
    assert record.log_folder == str(logs)
    (call,) = submitted[0]["calls"]
    assert call.fn is slurm_far_side.sweep
    assert call.arguments == {
        "folder": str(tmp_path / "store" / "sweeps" / "odd-1"),
        "meeting": str(logs),
        "signal_delay_s": 99,
        "environment": {"SRLOSS_NODE_CACHE": "$SLURM_TMPDIR/x"},
    }
    assert submitted[0]["folder"] == logs


def test_an_array_has_an_element_for_each_unfinished_trial(tmp_path: Path, submitted: Submitted) -> None:
    sweep = sweep_in(tmp_path)
    end(sweep, 0)
    end(sweep, 2, state=State.RUNNING)
    records = submit(sweep, ClusterSection(mode="array"), attempt=2)
    todo = [sweep.trials[number] for number in (1, 2, 3)]
    assert [(record.job_id, record.kind) for record in records] == [("101", "array"), ("102", "finish")]
    assert records[0].trials == tuple(trial.trial_id for trial in todo)
    assert records == records_in(sweep.folder.path)
    calls = submitted[0]["calls"]
    assert {call.fn for call in calls} == {slurm_far_side.trial}
    assert [call.arguments["folder"] for call in calls] == [str(sweep.ledger(trial).folder) for trial in todo]
    assert submitted[0]["parameters"]["slurm_array_parallelism"] == 3
    (finish,) = submitted[1]["calls"]
    assert finish.fn is slurm_far_side.finish
    assert finish.arguments["attempt"] == 2
    assert ClusterSection.model_validate(finish.arguments["section"]) == ClusterSection(mode="array")


def test_where_all_is_trained_only_the_end_is_left(tmp_path: Path, submitted: Submitted) -> None:
    sweep = sweep_in(tmp_path)
    end(sweep, 0, 1, 2, 3)
    (record,) = submit(sweep, ClusterSection(mode="array"))
    assert record.kind == "finish"
    assert submitted[0]["parameters"]["slurm_dependency"] is None
    assert submitted[0]["parameters"]["slurm_additional_parameters"] == {"requeue": True}


def test_scripts_are_those_of_the_jobs(
    tmp_path: Path, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: Submitted = []
    monkeypatch.setattr(
        slurm, "script", lambda calls, **more: shown.append({"calls": calls, **more}) or "the script"
    )
    sweep = sweep_in(tmp_path)
    for mode, kinds in (("ray", ["sweep"]), ("array", ["array", "finish"])):
        section = ClusterSection(mode=mode)
        assert list(scripts(sweep.config, sweep.trials, sweep.folder, section)) == kinds
        submit(sweep, section)
    shown[2]["parameters"]["slurm_dependency"] = "afterany:102"
    assert shown == submitted


# --- what comes after an array ---


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the job after an array does where nothing is submitted again."""
    done: list[str] = []
    monkeypatch.setattr(driver, "finish", lambda sweep, progress: done.append("evaluated"))
    monkeypatch.setattr(jobs, "conclude", lambda sweep: done.append("reported") or 3)
    monkeypatch.setattr(jobs, "sweep_interrupted", lambda sweep, reason: done.append(reason) or 143)
    return done


def test_trials_that_ended_too_early_are_submitted_again(
    tmp_path: Path, submitted: Submitted, ended: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_in(tmp_path, max_failures=2)
    end(sweep, 0, 1)
    end(sweep, 2, state=State.FAILED)
    end(sweep, 3, state=State.RUNNING)
    section = ClusterSection(mode="array", timeout_min=5, slurm_setup=("module load x",))
    assert finish_array(sweep.folder.path, section=section.model_dump(), attempt=2) == 0
    assert [len(job["calls"]) for job in submitted] == [1, 1]
    assert submitted[0]["calls"][0].arguments["folder"] == str(sweep.ledger(sweep.trials[3]).folder)
    assert submitted[0]["parameters"]["slurm_setup"] == ["module load x"]
    assert submitted[1]["calls"][0].arguments["attempt"] == 3
    assert ended == []
    said = capsys.readouterr().out
    assert "1 of 4 trials ended before they were done; submitted again" in said
    assert "SLURM job 101: odd\n" in said
    assert "SLURM job 102: odd-finish\n" in said


@pytest.mark.parametrize("is_complete", [True, False])
def test_the_end_comes_when_all_is_trained_or_was_tried_often_enough(
    is_complete: bool, tmp_path: Path, submitted: Submitted, ended: list[str]
) -> None:
    sweep = sweep_in(tmp_path, max_failures=2)
    if is_complete:
        end(sweep, 0, 1, 2, 3)
    section = ClusterSection(mode="array").model_dump()
    assert finish_array(sweep.folder.path, section=section, attempt=1 if is_complete else 3) == 3
    assert ended == ["evaluated", "reported"]
    assert submitted == []


def test_an_interrupted_end_reports_nothing(
    tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_in(tmp_path)
    end(sweep, 0, 1, 2, 3)
    with listening() as interruption:
        interruption.heed(lambda: "SIGUSR2")
        assert finish_array(sweep.folder.path, section=ClusterSection().model_dump(), attempt=1) == 143
    assert ended == ["evaluated", "SIGUSR2"]
