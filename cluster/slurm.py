"""The only door to submitit: calls of functions as jobs of SLURM."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_S = 60
_OF_A_JOB = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SUBMITIT_", "PMI", "PMIX_")


@dataclass(frozen=True, slots=True)
class Call:
    """A function that can be imported by name, and its arguments."""

    fn: Callable[..., object]
    arguments: Mapping[str, object]


def submit(calls: Sequence[Call], *, folder: Path, parameters: Mapping[str, Any]) -> str:
    """Submits a job that makes this call, or an array with an element for each of several; its id.

    Args:
        calls: In the order of the array's indices.
        folder: For submitit's files and the logs, on a file system that the nodes share.
        parameters: In submitit's vocabulary (`timeout_min`, `slurm_partition`, ...).

    Raises:
        ValueError: SLURM is not here, or refuses the job; with its words.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _as_from_outside():
        text = script(calls, folder=folder, parameters=parameters)
        if refused := mistake(text) or refusal(text):
            raise ValueError(refused)
        executor = _executor(folder, parameters)
        with executor.batch():
            jobs = [executor.submit(call.fn, **call.arguments) for call in calls]
    return jobs[0].job_id.partition("_")[0]


def script(calls: Sequence[Call], *, folder: Path, parameters: Mapping[str, Any]) -> str:
    """The batch script that `submit` would hand to sbatch."""
    slurm = _executor(folder, parameters)._executor
    if len(calls) > 1:
        slurm.parameters["map_count"] = len(calls)
    return slurm._make_submission_file_text(slurm._submitit_command_str, "")


def mistake(text: str) -> str:
    """What a shell cannot read in this batch script, which holds lines of the user; empty where it can. Runs nothing."""
    read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if read.returncode == 0:
        return ""
    why = read.stderr.strip().partition("\n")[0].removeprefix("bash: ")
    return f"cluster: bash cannot read the batch script ({why}); look for quotes in cluster.slurm_setup, slurm_python and slurm_srun_args"


def refusal(text: str) -> str:
    """Why SLURM would not take this batch script, in its own words; empty where it would. Submits nothing."""
    try:
        tested = subprocess.run(
            ["sbatch", "--test-only"],
            input=text,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        return "SLURM: there is no sbatch on this machine; submit from a login node of the cluster"
    except subprocess.TimeoutExpired:
        return (
            f"SLURM: sbatch has not answered within {_TIMEOUT_S} s; is slurmctld running? See: scontrol ping"
        )
    if tested.returncode == 0:
        return ""
    lines = [line.partition("error: ")[2] or line for line in tested.stderr.splitlines()]
    told = [line for line in lines if line.strip()]
    if re.search("timed out|Unable to contact", tested.stderr):
        return f"SLURM does not answer: {told[-1]}; try again later"
    return f"SLURM refuses the job: {'; '.join(dict.fromkeys(told)) or f'exit code {tested.returncode}'}"


def python_command(python: str | None = None) -> str:
    """The command line of the Python that runs jobs, quoted for a shell.

    The working folder is kept out of its path: a stranger's folder `sr` there would be imported instead of ours.
    """
    return f"{python or shlex.quote(sys.executable)} -P -m cluster.hold_signals"


def _executor(folder: Path, parameters: Mapping[str, Any]) -> Any:  # noqa: ANN401 - submitit is imported late
    import submitit

    given = {name: value for name, value in parameters.items() if value is not None}
    python = given.pop("slurm_python", None)
    if submitit.SlurmExecutor.affinity() <= 0:
        raise ValueError("SLURM: there is no srun on this machine; submit from a login node of the cluster")
    if odd := re.search(r"[%\n]", str(folder)):
        raise ValueError(
            f"{folder}: {odd[0]!r} in a path has a meaning of its own for sbatch; choose another --store"
        )
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_python=python_command(python))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        executor.update_parameters(**given)
    # submitit names itself there, which sites that keep such keys would refuse.
    executor._executor.parameters.setdefault("wckey", None)
    return executor


@contextmanager
def _as_from_outside() -> Iterator[None]:
    """Without what SLURM has told this process, where that is itself a job: it would be taken for the new one's."""
    told = {name: value for name, value in os.environ.items() if name.startswith(_OF_A_JOB)}
    for name in told:
        del os.environ[name]
    # The new job finds SLURM as this process does.
    os.environ.update({name: told[name] for name in ("SLURM_CONF",) if name in told})
    try:
        yield
    finally:
        os.environ.update(told)
