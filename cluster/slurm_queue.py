"""What SLURM says of jobs, asked by its own commands: from any machine that has them, with and without accounting."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence

from cluster.api import JobState
from cluster.records import JobStatus

_TIMEOUT_S = 10.0
"""How long a command may take; squeue itself gives up on a controller that is down after 9 s."""

_STATES = {
    JobState.PENDING: "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD",
    JobState.RUNNING: "RUNNING COMPLETING SUSPENDED STOPPED RESIZING SIGNALING STAGE_OUT",
    JobState.SUCCEEDED: "COMPLETED",
    JobState.FAILED: "FAILED TIMEOUT NODE_FAIL OUT_OF_MEMORY BOOT_FAIL DEADLINE PREEMPTED LAUNCH_FAILED RECONFIG_FAIL",
    JobState.CANCELLED: "CANCELLED REVOKED",
}
STATE_OF = {word: state for state, words in _STATES.items() for word in words.split()}
"""SLURM's words for a job's state, in ours."""

GONE = "GONE"
"""In place of SLURM's word where it does not know a job any more."""
_GONE = JobStatus(JobState.FAILED, GONE, "SLURM does not know it any more")

_QUEUE_FIELDS = (
    "JobArrayID", "State", "NodeList", "TimeUsed", "TimeLeft", "StartTime", "RestartCnt", "exit_code", "Reason",
)  # fmt: skip
_SACCT_FIELDS = ("JobID", "State", "NodeList", "ElapsedRaw", "ExitCode")
_NOTHING = frozenset({"", "None", "(null)", "N/A", "n/a", "Unknown", "None assigned", "INVALID", "NOT_SET"})

_has_accounting = True
"""Until sacct has said that there is none, or that its database does not answer."""


def is_here() -> bool:
    """Whether SLURM's commands exist on this machine."""
    return all(shutil.which(name) for name in ("squeue", "scancel", "sinfo"))


def look(job_ids: Sequence[str]) -> dict[str, JobStatus]:
    """Where jobs stand.

    Args:
        job_ids: Without array indices.

    Returns:
        By id; of an array by the ids of its elements such as `77_3`. See also `of_element`. A job that SLURM does not
        know any more counts as failed, with the word `GONE`.

    Raises:
        ConnectionError: SLURM does not answer, or is not on this machine.
    """
    if not job_ids:
        return {}
    found = _in_queue(job_ids)
    # Elements of an array are forgotten one by one.
    asked = [job for job in job_ids if job not in found]
    found = (_in_accounting(asked) if asked else {}) | found
    known = {job.partition("_")[0] for job in found}
    return found | {job: _GONE for job in job_ids if job not in known}


def of_element(found: dict[str, JobStatus], job_id: str, index: int) -> JobStatus:
    """Where an element of an array stands, by what `look` has found."""
    # Elements that are cancelled before they begin are told of as one job.
    return found.get(f"{job_id}_{index}") or found.get(job_id, _GONE)


def cancel(job_ids: Sequence[str], element: int | None = None) -> None:
    """Ends jobs, or one element of each; those that are over stay as they are.

    Raises:
        ConnectionError: SLURM does not answer, or is not on this machine.
        PermissionError: SLURM refuses; in its own words.
    """
    suffix = "" if element is None else f"_{element}"
    done = run("scancel", *(f"{job}{suffix}" for job in job_ids))
    if done.returncode != 0:
        raise PermissionError(f"scancel: {_words_of(done)}")


def partitions() -> dict[str, float | None]:
    """The partitions that one may name, with the time limit of each in seconds; None: unlimited.

    Raises:
        ConnectionError: SLURM does not answer, or is not on this machine.
    """
    done = run("sinfo", "--noheader", "--format=%R|%l")
    if done.returncode != 0:
        raise _silence(done)
    lines = [line.rpartition("|") for line in done.stdout.splitlines() if line]
    return {name.strip(): _seconds(limit) for name, _, limit in lines}


def _in_queue(job_ids: Sequence[str]) -> dict[str, JobStatus]:
    """What slurmctld knows: what waits, what runs, and what has ended in the last minutes."""
    fields = ",".join(f"{name}:|" for name in _QUEUE_FIELDS)
    done = run(
        "squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(job_ids)}", f"--Format={fields}"
    )
    if done.returncode != 0:
        # So it says where it knows none of them.
        if "Invalid job id" in done.stderr:
            return {}
        raise _silence(done)
    found = {}
    for line in done.stdout.splitlines():
        job, state, nodes, elapsed, left, start, restarts, code, reason = line.split(
            "|", len(_QUEUE_FIELDS) - 1
        )
        status = _state(state)
        found[job.strip()] = JobStatus(
            state=status,
            words=state,
            reason=_reason(state, _known(reason.removesuffix("|")), _exit_in_words(int(code or 0))),
            nodes=_known(nodes),
            elapsed_s=_seconds(elapsed),
            left_s=_seconds(left) if status is JobState.RUNNING else None,
            starts_at=_known(start) if status is JobState.PENDING else "",
            restarts=int(restarts or 0),
        )
    return found


def _in_accounting(job_ids: Sequence[str]) -> dict[str, JobStatus]:
    """What the accounting's database knows; nothing where there is none."""
    global _has_accounting
    if not _has_accounting:
        return {}
    try:
        done = run(
            "sacct",
            "--allocations",
            "--noheader",
            "--parsable2",
            f"--jobs={','.join(job_ids)}",
            f"--format={','.join(_SACCT_FIELDS)}",
        )
    except ConnectionError:
        done = None
    if done is None or done.returncode != 0:
        _has_accounting = False
        return {}
    found = {}
    for line in done.stdout.splitlines():
        job, state, nodes, elapsed, code = line.split("|")
        exit_code, _, number = code.partition(":")
        ending = _exit_in_words((int(exit_code or 0) << 8) + int(number or 0))
        status = JobStatus(
            state=_state(state),
            words=state,
            reason=_reason(state, "", ending),
            nodes=_known(nodes),
            elapsed_s=float(elapsed) if elapsed.isdecimal() else None,
        )
        found |= dict.fromkeys(_elements(job), status)
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of SLURM, with nothing of the user's environment in what it prints."""
    theirs = ("SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    environment |= {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise ConnectionError(
            f"SLURM's command {command[0]} is not on this machine; ask from one that can submit jobs"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConnectionError(
            f"SLURM does not answer: {command[0]} took more than {_TIMEOUT_S:g} s; try again later"
        ) from None


def _silence(done: subprocess.CompletedProcess[str]) -> ConnectionError:
    return ConnectionError(f"SLURM does not answer: {done.args[0]}: {_words_of(done)}; try again later")


def _words_of(done: subprocess.CompletedProcess[str]) -> str:
    """The last thing that a command complained about, without the names before it."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return re.sub(r"^(\w+: )?(fatal|error|slurm_\w+ error): ", "", lines[-1]) if lines else "no word of why"


def _state(words: str) -> JobState:
    # `CANCELLED by 1000`. Of a word that is newer than this list nothing is known but that SLURM has the job.
    return STATE_OF.get(words.split()[0].rstrip("+"), JobState.RUNNING)


def _reason(words: str, told: str, ending: str) -> str:
    """Why a job waits or failed; what SLURM tells of others is only why they once waited."""
    if words == "FAILED":
        return ", ".join(part for part in (told.replace("NonZeroExitCode", ""), ending) if part)
    return told if _state(words) in (JobState.PENDING, JobState.FAILED) else ""


def _exit_in_words(status: int) -> str:
    """A process's end from what `wait` returns; empty where it is well."""
    code, number = status >> 8, status & 127
    if code > 128:
        # As shells tell of a signal.
        number = code - 128
    elif code:
        return f"exit code {code}"
    if not number:
        return ""
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def _known(text: str) -> str:
    return "" if text.strip() in _NOTHING else text.strip()


def _seconds(text: str) -> float | None:
    """Of SLURM's `days-hours:minutes:seconds`; None where it is no time, or unlimited."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _elements(job: str) -> list[str]:
    """The elements that accounting has in one line, `77_[1-3,5%2]`."""
    found = re.fullmatch(r"(\d+)_\[([\d,-]+)(?::\d+)?(?:%\d+)?\]", job)
    if found is None:
        return [job]
    elements = []
    for part in found[2].split(","):
        first, _, last = part.partition("-")
        elements += [f"{found[1]}_{index}" for index in range(int(first), int(last or first) + 1)]
    return elements
