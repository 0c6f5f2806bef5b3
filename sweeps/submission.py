"""Hands a sweep to a scheduler; never twice at once, whoever asks from wherever."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cluster.records import JobRecord, records_in
from sr.configfile import ConfigError
from sr.files import write_atomically
from sr.lock import exclusive
from sweeps import slurm_submission
from sweeps.cluster_section import ClusterSection
from sweeps.overview import JobView, driver_of, look_at_jobs, records_of
from sweeps.spec import SweepConfig
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep, create, folder_of, plan, reopen

Target = Literal["slurm", "ray"]

_SECTION = "cluster-section"
"""File with what was asked for the last time; records are the files that end in .json."""


def ready(config: SweepConfig, *, store: Path, command: str) -> Sweep:
    """The sweep of this configuration, made now or long ago.

    Raises:
        ValueError: A data set is missing or damaged, or the configuration is not valid.
    """
    folder = folder_of(config, plan(config), store=store)
    return reopen(folder) if folder.exists() else create(config, store=store, command=command)


def submit(sweep: Sweep, *, to: Target, section: ClusterSection) -> list[JobRecord]:
    """Submits what is unfinished of a sweep; trials that failed or were cancelled are tried again.

    Raises:
        ValueError: It is submitted already, or being run; or the scheduler refuses it.
        ConnectionError: A scheduler does not answer, so that nobody knows.
    """
    meeting = sweep.folder.path / "jobs"
    meeting.mkdir(exist_ok=True)
    with exclusive(meeting, timeout_s=30, what="this sweep is being submitted"):
        jobs = jobs_of(sweep.folder)
        if told := [job for job in jobs if job.is_active]:
            listed = "; ".join(f"{in_words(job.record)} is {job.status.state}" for job in told if job.status)
            raise ValueError(
                f"sweep {sweep.folder.sweep_id} is submitted already: {listed}. See: srloss status "
                f"{sweep.folder.sweep_id}; to stop it: srloss cancel {sweep.folder.sweep_id}"
            )
        if driver := driver_of(sweep.folder, jobs):
            raise ValueError(
                f"sweep {sweep.folder.sweep_id} is being run by {driver} already; see: srloss status "
                f"{sweep.folder.sweep_id}"
            )
        sweep.try_again()
        if to == "slurm":
            records = slurm_submission.submit(sweep, section)
        else:
            from sweeps import ray_submission

            records = [ray_submission.submit_sweep(sweep.folder, section)]
        # Only now: what was refused is nothing to ask for again.
        write_atomically(meeting / _SECTION, section.model_dump_json(indent=1).encode())
        return records


def jobs_of(folder: SweepFolder) -> list[JobView]:
    """The jobs of a sweep and where they stand.

    Raises:
        ConnectionError: A scheduler does not answer, so that nobody knows.
    """
    problems: list[str] = []
    jobs = look_at_jobs(records_of(folder), problems)
    if problems:
        raise ConnectionError("; ".join(problems))
    return jobs


def last_section(sweep: Sweep) -> ClusterSection:
    """What the sweep's jobs asked for the last time; what its file says where it was never submitted."""
    path = sweep.folder.path / "jobs" / _SECTION
    return ClusterSection.model_validate_json(path.read_bytes()) if path.exists() else sweep.config.cluster


def last_target(folder: SweepFolder) -> Target | None:
    """Where the sweep was submitted to the last time; None where it never was."""
    targets: list[Target] = [r.launcher for r in records_in(folder.path) if r.launcher != "local"]
    return targets[-1] if targets else None


def in_words(record: JobRecord) -> str:
    """A job as one would name it."""
    names = {"slurm": "SLURM job", "ray": "Ray job", "local": "the process behind"}
    return f"{names[record.launcher]} {record.job_id}"


def target_of(name: str, *, option: str = "--to") -> Target:
    """The scheduler with this name.

    Raises:
        ConfigError: There is none.
    """
    if name not in ("slurm", "ray"):
        raise ConfigError([f"{option}: unknown '{name}'; known: slurm, ray"])
    return name
