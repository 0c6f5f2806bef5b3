"""A sweep is handed to a scheduler once, whoever asks; the schedulers are stand-ins that say what a test has them say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import slurm_queue
from cluster.api import JobState
from cluster.records import JobRecord, JobStatus, write_record
from sr.configfile import ConfigError
from sr.holder import this_process
from sr.ledger import State, Status
from sr.lock import exclusive, is_held
from sweeps import ray_submission, slurm_submission, submission
from sweeps.cluster_section import ClusterSection
from sweeps.spec import SweepConfig, expand, parse_sweep
from sweeps.store import SweepFolder
from sweeps.submission import in_words, jobs_of, last_section, last_target, ready, submit, target_of
from sweeps.sweep import Sweep

Say = Callable[[JobState | None], None]
SECTION = ClusterSection()


def record(job: str, launcher: Any = "slurm", *, when: str = "2026-01-01T00:00:00+0000") -> JobRecord:
    return JobRecord(launcher, job, "sweep", "odd", when, "/logs")


def config_of(**changes: Any) -> SweepConfig:
    plain = {"name": "odd", "trial": {"data": {"path": "nowhere"}}, "parameters": {"loss": ["l1", "mse"]}}
    return parse_sweep(plain | changes, where="test")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    config = config_of()
    sweep = Sweep(config, list(expand(config)), SweepFolder(tmp_path / "sweeps" / "odd-1"), "test")
    for trial in sweep.trials:
        sweep.ledger(trial).create(trial.config, command="test")
    trials = [[trial.trial_id, trial.candidate, trial.variant] for trial in sweep.trials]
    sweep.folder.write_plan({"sweep": config.model_dump(mode="json"), "trials": trials, "command": "test"})
    return sweep


@pytest.fixture(autouse=True)
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The sweeps that SLURM was given; each becomes job 101, 102, ..."""
    given: list[Path] = []

    def take(sweep: Sweep, section: ClusterSection) -> list[JobRecord]:
        if section.slurm_partition == "nope":
            raise ValueError("refused")
        assert is_held(sweep.folder.path / "jobs"), "nobody else can submit it meanwhile"
        given.append(sweep.folder.path)
        new = record(str(100 + len(given)))
        write_record(sweep.folder.path, new)
        return [new]

    monkeypatch.setattr(slurm_submission, "submit", take)
    return given


@pytest.fixture(autouse=True)
def slurm_says(monkeypatch: pytest.MonkeyPatch) -> Say:
    """Has SLURM say this of all jobs; None: it does not answer."""

    def says(state: JobState | None) -> None:
        def look(jobs: list[str]) -> dict[str, JobStatus]:
            if state is None:
                raise ConnectionError("SLURM does not answer")
            return {job: JobStatus(state, state.name) for job in jobs}

        monkeypatch.setattr(slurm_queue, "look", look)

    says(JobState.RUNNING)
    return says


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING])
def test_what_waits_or_runs_is_not_submitted_again(
    state: JobState, sweep: Sweep, submitted: list[Path], slurm_says: Say
) -> None:
    assert [job.job_id for job in submit(sweep, to="slurm", section=SECTION)] == ["101"]
    slurm_says(state)
    with pytest.raises(
        ValueError,
        match=rf"^sweep odd-1 is submitted already: SLURM job 101 is {state}\. See: srloss status odd-1; to stop it: srloss "
        "cancel odd-1$",
    ):
        submit(sweep, to="slurm", section=SECTION)
    assert len(submitted) == 1


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_what_is_over_can_be_submitted_again(
    state: JobState, sweep: Sweep, submitted: list[Path], slurm_says: Say
) -> None:
    submit(sweep, to="slurm", section=SECTION)
    slurm_says(state)
    assert not any(job.is_active for job in jobs_of(sweep.folder))
    submit(sweep, to="slurm", section=SECTION)
    assert len(submitted) == 2


def test_one_that_ended_does_not_hide_one_that_runs(
    sweep: Sweep, submitted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {"1": JobState.FAILED, "2": JobState.RUNNING, "3": JobState.SUCCEEDED}
    for job in states:
        write_record(sweep.folder.path, record(job))
    monkeypatch.setattr(
        slurm_queue, "look", lambda jobs: {job: JobStatus(states[job], states[job].name) for job in jobs}
    )
    assert [job.record.job_id for job in jobs_of(sweep.folder) if job.is_active] == ["2"]
    with pytest.raises(ValueError, match="SLURM job 2 is running"):
        submit(sweep, to="slurm", section=SECTION)
    assert submitted == []


def test_a_scheduler_that_is_silent_is_not_taken_for_one_that_knows_nothing(
    sweep: Sweep, submitted: list[Path], slurm_says: Say
) -> None:
    submit(sweep, to="slurm", section=SECTION)
    slurm_says(None)
    with pytest.raises(ConnectionError, match=r"^SLURM does not answer$"):
        submit(sweep, to="slurm", section=SECTION)
    assert len(submitted) == 1
    assert not is_held(sweep.folder.path / "jobs")


def test_what_somebody_runs_by_hand_is_not_submitted(sweep: Sweep, submitted: list[Path]) -> None:
    with (
        exclusive(sweep.folder.path, timeout_s=0, what="this sweep is being run"),
        pytest.raises(ValueError, match=rf"sweep odd-1 is being run by process {os.getpid()} on .* already"),
    ):
        submit(sweep, to="slurm", section=SECTION)
    assert submitted == []


def test_what_slurm_has_ended_is_not_waited_for_like_one_that_may_live(
    sweep: Sweep, submitted: list[Path], slurm_says: Say
) -> None:
    submit(sweep, to="slurm", section=SECTION)
    place = sweep.folder.path / ".lease"
    place.mkdir()

    def hold(job: str) -> None:
        elsewhere = replace(this_process(), pid_namespace="another", job=f"c:{job}", job_shown=job)
        (place / "00000001.json").write_bytes(elsewhere.to_bytes())

    slurm_says(JobState.FAILED)
    hold("77")
    with pytest.raises(ValueError, match=r"is being run by process \d+ on \S+ \(SLURM job 77\) already"):
        submit(sweep, to="slurm", section=SECTION)
    hold("101")
    submit(sweep, to="slurm", section=SECTION)
    assert len(submitted) == 2


def test_what_failed_or_was_cancelled_is_tried_again_and_nothing_else(sweep: Sweep) -> None:
    first, second = (sweep.ledger(trial) for trial in sweep.trials)
    first.set_status(Status(State.CANCELLED, step=5))
    (first.folder / "cancel").write_text("by a person")
    second.set_status(Status(State.FINISHED, step=9))
    submit(sweep, to="slurm", section=SECTION)
    assert (first.status().state, first.status().step) == (State.PENDING, 5)
    assert not (first.folder / "cancel").exists()
    assert second.status().state is State.FINISHED


def test_a_refused_sweep_keeps_what_failed_as_it_was(sweep: Sweep, slurm_says: Say) -> None:
    submit(sweep, to="slurm", section=SECTION)
    ledger = sweep.ledger(sweep.trials[0])
    ledger.set_status(Status(State.FAILED))
    with pytest.raises(ValueError, match="is submitted already"):
        submit(sweep, to="slurm", section=SECTION)
    assert ledger.status().state is State.FAILED


def test_ray_gets_what_is_its_own(
    sweep: Sweep, submitted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        ray_submission,
        "submit_sweep",
        lambda folder, section: given.update(folder=folder, section=section) or record("r", "ray"),
    )
    section = ClusterSection(address="http://head:8265", ship_code=True, node_cache="/local")
    assert [job.job_id for job in submit(sweep, to="ray", section=section)] == ["r"]
    assert given == {"folder": sweep.folder, "section": section}
    assert submitted == []


def test_a_sweep_that_exists_is_continued(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    store = sweep.folder.path.parent.parent
    made: list[str] = []
    monkeypatch.setattr(submission, "plan", lambda config: list(expand(config)))
    monkeypatch.setattr(submission, "create", lambda config, **_: made.append(config.name) or sweep)
    sweep.folder.path.rename(submission.folder_of(sweep.config, sweep.trials, store=store).path)
    other = sweep.config.model_copy(update={"cluster": ClusterSection(nodes=5)})
    found = ready(other, store=store, command="again")
    assert made == []
    assert (found.command, found.trials) == ("test", sweep.trials)
    ready(config_of(parameters={"loss": ["mse"]}), store=store, command="again")
    assert made == ["odd"]


def test_what_was_asked_for_the_last_time_is_remembered_but_no_refusal(sweep: Sweep, slurm_says: Say) -> None:
    assert last_section(sweep) == sweep.config.cluster
    asked = ClusterSection(nodes=5, slurm_setup=("a", "b"), slurm_additional_parameters={"x": 1})
    submit(sweep, to="slurm", section=asked)
    assert last_section(sweep) == asked
    slurm_says(JobState.FAILED)
    with pytest.raises(ValueError, match="refused"):
        submit(sweep, to="slurm", section=ClusterSection(slurm_partition="nope"))
    assert last_section(sweep) == asked


def test_the_last_place_is_remembered(sweep: Sweep) -> None:
    assert last_target(sweep.folder) is None
    for job, launcher in (("1", "ray"), ("2", "slurm"), ("/jobs/3", "local")):
        write_record(sweep.folder.path, record(job, launcher))
    assert last_target(sweep.folder) == "slurm"


def test_names() -> None:
    assert in_words(record("r1", "ray")) == "Ray job r1"
    assert in_words(record("/jobs/3", "local")) == "the process behind /jobs/3"
    assert (target_of("slurm"), target_of("ray")) == ("slurm", "ray")
    with pytest.raises(ConfigError, match=r"^--on: unknown 'slrum'; known: slurm, ray$"):
        target_of("slrum", option="--on")
