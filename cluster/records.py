"""What was submitted, kept with what it works on: anybody can ask the scheduler about it later, from any machine.

FOLDER/jobs/0001.json, 0002.json, ...: one file per submission, written once.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cluster.api import JobState

Kind = Literal["sweep", "array", "finish"]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One submission."""

    launcher: Literal["slurm", "ray", "local"]
    job_id: str
    """The scheduler's: of SLURM without array indices; of Ray the submission id; of a detached process its folder."""
    kind: Kind
    """sweep: a driver and all trials. array: element i trains `trials[i]`. finish: what comes after an array."""
    name: str
    submitted: str
    """Time, ISO 8601 with the offset from UTC."""
    log_folder: str
    """Where its output goes, as the machines of the cluster see it."""
    address: str = ""
    """Of the Ray cluster's dashboard."""
    trials: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What the scheduler says of a job, or of one element of an array."""

    state: JobState
    words: str
    """The scheduler's own word, such as `PENDING`, `REQUEUED`, `NODE_FAIL`."""
    reason: str = ""
    """Why it waits or failed, as the scheduler says it."""
    nodes: str = ""
    """Where it runs or ran."""
    elapsed_s: float | None = None
    left_s: float | None = None
    """Until its time limit."""
    starts_at: str = ""
    """When the scheduler expects to start it; empty where it does not say."""
    restarts: int = 0


def now() -> str:
    """The time as records have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def write_record(folder: Path, record: JobRecord) -> Path:
    """Adds a record to those of `folder`, under the next free number; two submitters never take the same one."""
    place = folder / "jobs"
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(record), indent=1)
    temporary = place / f".{os.uname().nodename}-{os.getpid()}.tmp"
    temporary.write_text(text, encoding="utf-8")
    number = len(list(place.glob("*.json"))) + 1
    try:
        while True:
            path = place / f"{number:04}.json"
            try:
                # Unlike a rename this fails where the name is taken, on network file systems too.
                os.link(temporary, path)
            except FileExistsError:
                number += 1
            else:
                return path
    finally:
        temporary.unlink()


def records_in(folder: Path) -> list[JobRecord]:
    """All records of `folder`, the latest last."""
    plain = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "jobs").glob("*.json"))
    ]
    return [JobRecord(**record | {"trials": tuple(record["trials"])}) for record in plain]
