"""What `srloss submit` and `srloss resume` make of what is typed, and of the `cluster:` block."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cluster.records import JobRecord, write_record
from sr.configfile import ConfigError
from sweeps import slurm_submission, submission
from sweeps import sweep as sweep_on_disk
from sweeps.cli.app import app
from sweeps.cluster_section import ClusterSection
from sweeps.spec import SweepConfig, expand, parse_sweep, sweep_id
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep

PLAIN: dict[str, Any] = {
    "name": "odd",
    "trial": {"data": {"path": "nowhere"}},
    "parameters": {"loss": ["l1", "mse"]},
    "cluster": {"slurm_partition": "short", "slurm_setup": ["module load x"]},
}
Submitted = list[tuple[str, str, ClusterSection]]


def make(store: Path, *, name: str = "odd-1", **changes: Any) -> Sweep:
    config = parse_sweep(PLAIN | changes, where="test")
    sweep = Sweep(config, list(expand(config)), SweepFolder(store / "sweeps" / name), "test")
    for trial in sweep.trials:
        sweep.ledger(trial).create(trial.config, command="test")
    trials = [[trial.trial_id, trial.candidate, trial.variant] for trial in sweep.trials]
    sweep.folder.write_plan({"sweep": config.model_dump(mode="json"), "trials": trials, "command": "test"})
    return sweep


@pytest.fixture(autouse=True)
def submitted(monkeypatch: pytest.MonkeyPatch) -> Submitted:
    """What would have been submitted: sweep, where to, what it asks for."""
    given: Submitted = []

    def take(sweep: Sweep, *, to: str, section: ClusterSection) -> list[JobRecord]:
        given.append((sweep.folder.sweep_id, to, section))
        return [
            JobRecord("slurm", "8", "array", "odd", "now", "/logs", trials=("a", "b")),
            JobRecord("slurm", "9", "finish", "odd-finish", "now", "/logs"),
        ]

    monkeypatch.setattr(submission, "submit", take)
    return given


def said(*arguments: str | Path) -> str:
    """What a command prints.

    Raises:
        ConfigError: As the command does.
    """
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def submitted_to(sweep: Sweep, *launchers: str) -> None:
    for launcher in launchers:
        write_record(sweep.folder.path, JobRecord(launcher, "7", "sweep", "odd", "now", "/logs"))


# --- resume ---


def test_resume_goes_where_the_sweep_went_the_last_time(tmp_path: Path, submitted: Submitted) -> None:
    sweep = make(tmp_path)
    submitted_to(sweep, "slurm", "ray")
    said("resume", "odd", "--store", tmp_path)
    said("resume", "odd-1", "--to", "slurm", "--store", tmp_path)
    expected = ClusterSection(slurm_partition="short", slurm_setup=("module load x",))
    assert submitted == [("odd-1", "ray", expected), ("odd-1", "slurm", expected)]


def test_resume_takes_the_latest_where_only_changes_are_given(tmp_path: Path, submitted: Submitted) -> None:
    submitted_to(make(tmp_path), "slurm")
    changes = ["cluster.timeout_min=5", "cluster.slurm_partition=null", "cluster.slurm_setup=[a b, c]"]
    said("resume", *changes, "--address", "http://h:1", "--store", tmp_path)
    said("resume", "odd-1", *changes, "--store", tmp_path)
    expected = ClusterSection(timeout_min=5, slurm_setup=("a b", "c"))
    assert submitted == [
        ("odd-1", "slurm", expected.model_copy(update={"address": "http://h:1"})),
        ("odd-1", "slurm", expected),
    ]


def test_resume_asks_for_what_was_asked_for_the_last_time(tmp_path: Path, submitted: Submitted) -> None:
    sweep = make(tmp_path)
    submitted_to(sweep, "slurm")
    (sweep.folder.path / "jobs" / "cluster-section").write_text(ClusterSection(nodes=7).model_dump_json())
    said("resume", "cluster.timeout_min=5", "--store", tmp_path)
    assert submitted[0][2] == ClusterSection(nodes=7, timeout_min=5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "slrum"], "--to: unknown 'slrum'; known: slurm, ray"),
        (
            ["odd", "training.steps=5"],
            "resume: training.steps=5: only what the job asks for (cluster.NAME=value) can",
        ),
        (["ranks=5"], "resume: ranks=5: only what the job asks for"),
        (["odd", "stray"], "resume: stray: only what the job asks for"),
        (
            ["cluster.timeout_mni=5"],
            "cluster: timeout_mni: unknown key 'timeout_mni'. Did you mean 'timeout_min'?",
        ),
        (["cluster.timeout_min=0"], "cluster: timeout_min: "),
        (["odd", "cluster.nodes"], "override #1 'cluster.nodes': expected a.b=value"),
    ],
)
def test_a_mistake_is_told_and_nothing_submitted(
    arguments: list[str], told: str, tmp_path: Path, submitted: Submitted
) -> None:
    submitted_to(make(tmp_path), "slurm")
    with pytest.raises(ConfigError) as error:
        said("resume", *arguments, "--store", tmp_path)
    assert str(error.value).startswith(told)
    assert submitted == []


def test_a_sweep_that_was_never_submitted_needs_a_place(tmp_path: Path, submitted: Submitted) -> None:
    make(tmp_path)
    with pytest.raises(
        ConfigError, match="odd-1 was never submitted; give --to slurm or --to ray, or run it on"
    ) as error:
        said("resume", "--store", tmp_path)
    assert f"srloss sweep --resume odd-1 --store {tmp_path}" in str(error.value)
    said("resume", "--to", "slurm", "--store", tmp_path)
    assert len(submitted) == 1


def test_how_to_go_on_is_told(tmp_path: Path) -> None:
    store = tmp_path / "it's a store"
    submitted_to(make(store), "slurm")
    text = said("resume", "--store", store)
    assert "  SLURM job 8: an array of 2 trials\n  SLURM job 9: evaluation and report" in text
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("  srloss ")]
    assert commands == [
        ["srloss", *words, "--store", str(store)]
        for words in (["status", "odd-1", "-w"], ["logs", "odd-1", "-f"], ["cancel", "odd-1"])
    ]
    plain = json.loads(said("resume", "--store", store, "--json"))
    assert (plain["sweep"], [job["job_id"] for job in plain["jobs"]]) == ("odd-1", ["8", "9"])


# --- submit ---


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep file; its data set need not be there."""
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    monkeypatch.setattr(sweep_on_disk, "plan", lambda config: list(expand(config)))

    def ready(config: SweepConfig, *, store: Path, command: str) -> Sweep:
        return make(store, name="odd-2", trial=config.trial)

    monkeypatch.setattr(submission, "ready", ready)
    return path


def test_what_is_typed_goes_before_the_file(file: Path, submitted: Submitted, tmp_path: Path) -> None:
    said(
        "submit", file, "cluster.nodes=2", "training.steps=5", "--address", "http://h:1", "--store", tmp_path
    )
    expected = ClusterSection(
        slurm_partition="short", slurm_setup=("module load x",), nodes=2, address="http://h:1"
    )
    assert submitted == [("odd-2", "slurm", expected)]
    said("submit", file, "--to", "ray", "--store", tmp_path)
    assert submitted[1][1] == "ray"
    assert submitted[1][2].address is None


def test_a_dry_run_submits_and_makes_nothing(
    file: Path, submitted: Submitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_submission, "scripts", lambda *_: {"sweep": "#!/bin/bash\n"})
    text = said("submit", file, "--dry-run", "--store", tmp_path / "store")
    assert (
        text == "2 trials of 2 losses; nothing is submitted\n--- sweep: the script for sbatch\n#!/bin/bash\n"
    )
    text = said(
        "submit", file, "--to", "ray", "--address", "http://h:1", "--dry-run", "--store", tmp_path / "store"
    )
    assert (
        f"one job on the Ray cluster at http://h:1; results in {tmp_path / 'store' / 'sweeps' / 'odd-'}"
        in text
    )
    assert submitted == []
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "cluster.slurm_partitio=x",
            "odd.yaml: cluster.slurm_partitio: unknown key 'slurm_partitio'. Did you mean",
        ),
        ("cluster.mode=aray", "odd.yaml: cluster.mode: input should be 'ray' or 'array', got 'aray'"),
        ("cluster.slurm_signal_delay_s=9", "odd.yaml: cluster.slurm_signal_delay_s: "),
    ],
)
def test_an_odd_block_is_told(
    change: str, told: str, file: Path, submitted: Submitted, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        said("submit", file, change, "--store", tmp_path)
    assert str(error.value).startswith(told)
    assert submitted == []


def test_where_a_sweep_runs_does_not_change_its_id() -> None:
    ids = {
        sweep_id(config, list(expand(config)))
        for block in ({}, PLAIN["cluster"], {"mode": "array", "nodes": 3, "node_cache": "/local"})
        for config in [parse_sweep(PLAIN | {"cluster": block}, where="test")]
    }
    assert len(ids) == 1


def test_a_block_goes_through_a_plan_unchanged() -> None:
    block = {
        "slurm_setup": ["a", "b"],
        "slurm_srun_args": ["--c=d"],
        "slurm_additional_parameters": {"reservation": "x", "requeue": False},
    }
    config = parse_sweep(PLAIN | {"cluster": block}, where="test")
    again = parse_sweep(json.loads(json.dumps(config.model_dump(mode="json"))), where="test")
    assert again.cluster == config.cluster
    assert again.cluster.slurm_setup == ("a", "b")
