"""How a sweep stands, seen from outside: from its files and its scheduler, with no need of a running driver.

What it reads may be written at this very moment, half written or missing; it then tells what can be known.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster import slurm_queue
from cluster.api import JobState
from cluster.jobfolder import JOB, PROCESS, read_json
from cluster.localjobs import ProcessJob
from cluster.records import JobRecord, JobStatus, records_in
from sr.holder import Holder
from sr.lock import holder
from sweeps.store import SweepFolder
from sweeps.trial_view import Memory, TrialView, view_of

ALIVE_S = 45.0
"""A trial that beat within this time is running, whatever else is known."""
_ACTIVE = (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class JobView:
    """One submission and what its scheduler says of it."""

    record: JobRecord
    status: JobStatus | None
    """None where the scheduler does not answer. Of an array that of its liveliest element."""
    elements: dict[str, JobStatus] = field(default_factory=dict)
    """Of an array, by trial."""

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs, as far as is known."""
        return self.status is not None and self.status.state in _ACTIVE


@dataclass(frozen=True, slots=True)
class Overview:
    """How a sweep stands."""

    sweep_id: str
    folder: Path
    metric: str
    goal: str
    jobs: tuple[JobView, ...]
    trials: tuple[TrialView, ...]
    driver: str
    """Which process runs the sweep; empty where none does."""
    left_s: float | None
    """Estimate of what the training of all trials still takes."""
    report: Path | None
    """None where it is not written yet."""
    problems: tuple[str, ...]
    """What could not be found out, and why."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials by state."""
        return dict(Counter(trial.state for trial in self.trials))

    @property
    def best(self) -> TrialView | None:
        """The trial with the best validation so far."""
        measured = [trial for trial in self.trials if trial.best is not None]
        sign = 1 if self.goal == "maximize" else -1
        return max(measured, key=lambda trial: sign * (trial.best or 0.0), default=None)

    @property
    def is_active(self) -> bool:
        """Whether anything works on it, or is about to."""
        return (
            bool(self.driver)
            or any(job.is_active for job in self.jobs)
            or any(trial.state == "running" for trial in self.trials)
        )

    @property
    def exit_code(self) -> int:
        """What the sweep's own command would end with: 0, 1 all failed, 3 some failed, 130 unfinished."""
        failed = sum(trial.state in ("failed", "cancelled") for trial in self.trials)
        if not all(trial.has_ended for trial in self.trials):
            return 130
        if failed:
            return 1 if failed == len(self.trials) else 3
        return 0 if all(trial.is_evaluated or trial.state != "finished" for trial in self.trials) else 3


def overview(folder: SweepFolder, memory: Memory | None = None, *, asks_schedulers: bool = True) -> Overview:
    """Looks at a sweep.

    Args:
        folder: The sweep's.
        memory: Of earlier looks at the same sweep.
        asks_schedulers: Whether to ask what has become of the jobs; what waits in a queue is not known else.

    Raises:
        ValueError: There is no sweep in the folder.
    """
    memory = memory or Memory()
    try:
        plan = folder.read_plan()
        metric, goal = plan["sweep"]["metric"]["name"], plan["sweep"]["metric"]["goal"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder.path}: not a sweep that can be shown ({error})") from None
    problems: list[str] = []
    jobs = look_at_jobs(records_of(folder), problems) if asks_schedulers else []
    driver = driver_of(folder, jobs)
    trials = [
        view_of(folder.path, number + 1, *trial, metric=metric, goal=goal, memory=memory)
        for number, trial in enumerate(plan["trials"])
    ]
    trials = [_placed(trial, jobs, is_driven=driver is not None) for trial in trials]
    return Overview(
        sweep_id=folder.sweep_id,
        folder=folder.path.absolute(),
        metric=metric.removeprefix("val/"),
        goal=goal,
        jobs=tuple(jobs),
        trials=tuple(trials),
        driver="" if driver is None else str(driver),
        left_s=_left(trials),
        report=folder.report if folder.report.exists() else None,
        problems=tuple(dict.fromkeys(problems)),
    )


# --- jobs ---


def records_of(folder: SweepFolder) -> list[JobRecord]:
    """What was submitted for a sweep, detached processes of a machine included, the latest last."""
    records = records_in(folder.path)
    known = {record.job_id for record in records}
    local = []
    # The name of a job's folder holds its job's name; which may hold what a pattern would take for its own.
    for path in sorted((folder.path.parent.parent / "jobs").glob(f"*/{PROCESS}")):
        place = path.parent.absolute()
        if f"-{folder.sweep_id}-" not in place.name or str(place) in known:
            continue
        with contextlib.suppress(OSError, ValueError, KeyError):
            if read_json(place / JOB)["name"] == folder.sweep_id:
                began = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(path.stat().st_mtime))
                local.append(
                    JobRecord("local", str(place), "sweep", folder.sweep_id, began, log_folder=str(place))
                )
    return sorted(records + local, key=lambda record: record.submitted)


def look_at_jobs(records: Sequence[JobRecord], problems: list[str]) -> list[JobView]:
    """Asks the schedulers; adds a line to `problems` for each that does not answer."""
    slurm: dict[str, JobStatus] | None = {}
    try:
        slurm = slurm_queue.look([record.job_id for record in records if record.launcher == "slurm"])
    except ConnectionError as error:
        slurm = None
        problems.append(str(error))
    return [
        _slurm_view(record, slurm)
        if record.launcher == "slurm"
        else JobView(record, _other_status(record, problems))
        for record in records
    ]


def _slurm_view(record: JobRecord, found: dict[str, JobStatus] | None) -> JobView:
    if found is None:
        return JobView(record, None)
    if record.kind != "array":
        return JobView(record, found[record.job_id])
    elements = {
        trial: slurm_queue.of_element(found, record.job_id, index)
        for index, trial in enumerate(record.trials)
    }
    order = [JobState.RUNNING, JobState.PENDING, JobState.FAILED, JobState.CANCELLED, JobState.SUCCEEDED]
    status = min(elements.values(), key=lambda status: order.index(status.state), default=None)
    return JobView(record, status, elements)


def _other_status(record: JobRecord, problems: list[str]) -> JobStatus | None:
    try:
        if record.launcher == "local":
            state = ProcessJob.open(Path(record.job_id)).state
            return JobStatus(state, str(state))
        from cluster import ray_jobs

        return ray_jobs.look(record)
    except (ValueError, OSError, KeyError) as error:
        problems.append(str(error))
        return None


# --- what trials and jobs say together ---


def driver_of(folder: SweepFolder, jobs: Sequence[JobView]) -> Holder | None:
    """The living process that runs a sweep, if there is one.

    What was killed is believed to live until it was silent for long; not where SLURM says that its job is over.
    """
    found = holder(folder.path)
    if found is None:
        return None
    own = [job for job in jobs if job.record.launcher == "slurm" and job.record.job_id == found.job_shown]
    return None if any(job.status and not job.is_active for job in own) else found


def _placed(trial: TrialView, jobs: Sequence[JobView], *, is_driven: bool) -> TrialView:
    """A trial's state by what is known of who works on it."""
    if trial.has_ended:
        return replace(trial, where="", left_s=None)
    own = [job.elements[trial.trial_id] for job in jobs if trial.trial_id in job.elements]
    # A finishing job trains nothing.
    shared = [job.status for job in jobs if job.status and job.record.kind == "sweep"]
    status = next((status for status in (own[-1:] or shared[-1:]) if status.state in _ACTIVE), None)
    has_fresh_beat = trial.silent_s is not None and trial.silent_s < ALIVE_S
    is_run = is_driven or (status is not None and status.state is JobState.RUNNING)
    if trial.state == "running" and (is_run or has_fresh_beat):
        return trial
    trial = replace(trial, where="", left_s=None)
    if status is not None and status.state is JobState.PENDING:
        # One that was requeued still says that it runs.
        return replace(trial, state="pending", reason=status.reason or status.words)
    if is_run:
        return replace(trial, state="pending")
    if trial.attempt or trial.state == "running":
        return replace(trial, state="interrupted", reason=trial.reason or "its process ended without a word")
    return trial


def _left(trials: Sequence[TrialView]) -> float | None:
    """As if those that wait took as long as those that run now, as many at a time."""
    running = [trial for trial in trials if trial.state == "running" and trial.left_s is not None]
    rates = [trial.rate for trial in running if trial.rate]
    if not rates:
        return None
    own = [trial.left_s or 0.0 for trial in running]
    waiting = sum(max(0, trial.steps - trial.step) for trial in trials if trial.state == "pending")
    return max(max(own), (sum(own) + waiting / (sum(rates) / len(rates))) / len(running))
