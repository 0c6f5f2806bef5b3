"""Launchers for this machine: in this process, or in a detached one that outlives its submitter."""

import os
import pickle
import secrets
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from cluster import jobfolder
from cluster.api import Resources, reference_to
from cluster.localjobs import InlineJob, ProcessJob, summary, title
from cluster.machine import available_cpus, num_gpus

T = TypeVar("T")


class InlineLauncher:
    """Runs the function inside submit: for debuggers, tests and machines where nothing else works."""

    def submit(
        self,
        fn: Callable[..., T],
        *args: object,
        resources: Resources,
        name: str,
        folder: Path,
        **kwargs: object,
    ) -> InlineJob[T]:
        """Call `fn` now; see `cluster.api.Launcher`. Its output goes where this process's output goes."""
        reference = reference_to(fn)
        _check_resources(resources, place="InlineLauncher")
        if resources.timeout_s is not None:
            warnings.warn("InlineLauncher cannot enforce timeout_s; use the process launcher.", stacklevel=2)
        folder = _own_folder(folder)
        job: InlineJob[T] = InlineJob(name=name, resources=resources, folder=folder)
        _write_record(folder, job.job_id, name=name, resources=resources, function=reference)
        header = f"{title(job)} runs {reference} inline; its output is on the terminal of the submitter.\n"
        job.log_path.write_text(header, encoding="utf-8")
        job.run(fn, args, kwargs)
        return job


class ProcessLauncher:
    """Runs the function in a detached process of this machine, in a session of its own."""

    def __init__(self, *, grace_s: float = 10.0) -> None:
        """Set up.

        Args:
            grace_s: Time between SIGTERM and SIGKILL when a job is cancelled or has run out of time.
        """
        self.grace_s = grace_s

    def submit(
        self,
        fn: Callable[..., T],
        *args: object,
        resources: Resources,
        name: str,
        folder: Path,
        **kwargs: object,
    ) -> ProcessJob[T]:
        """Start `fn`; see `cluster.api.Launcher`. The job survives this process, and Ctrl-C in its terminal."""
        reference = reference_to(fn)
        _check_resources(resources, place="ProcessLauncher")
        try:
            arguments = pickle.dumps((args, kwargs))
        except Exception as error:
            raise ValueError(
                f"job {name!r}: an argument of {reference} cannot be sent to another process ({summary(error)}); "
                "pass plain data, or a path to it."
            ) from error
        folder = _own_folder(folder)
        job_id = f"process-{secrets.token_hex(4)}"
        jobfolder.write_atomically(folder / jobfolder.ARGUMENTS, arguments)
        _write_record(
            folder, job_id, name=name, resources=resources, function=reference, grace_s=self.grace_s
        )
        log_path = folder / jobfolder.LOG
        log_path.write_text(f"job {name!r} ({job_id}) runs {reference}\n", encoding="utf-8")
        _start(folder, log_path)
        return ProcessJob(folder)


def _start(folder: Path, log_path: Path) -> None:
    """Start the watcher of the job in `folder` and note which process it is."""
    # -P: no module of the current folder may stand in for ours. -u: the log can be read while the job runs.
    command = [sys.executable, "-P", "-u", "-m", "cluster.child", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(_import_path())}
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    jobfolder.write_json(folder / jobfolder.PROCESS, asdict(jobfolder.Process.of(process.pid)))
    # Collects the exit status as soon as there is one: a submitter that never asks must not keep a zombie.
    threading.Thread(target=process.wait, daemon=True, name=f"reap-{process.pid}").start()


def _import_path() -> list[str]:
    """sys.path with the entry for the current folder spelled out."""
    return [str(Path(entry).absolute()) for entry in sys.path]


def _write_record(
    folder: Path, job_id: str, *, name: str, resources: Resources, function: str, grace_s: float = 0.0
) -> None:
    record = {
        "job_id": job_id,
        "name": name,
        "function": function,
        "resources": asdict(resources),
        "grace_s": grace_s,
        "sys_path": _import_path(),
        "pythonpath": os.environ.get("PYTHONPATH"),
    }
    jobfolder.write_json(folder / jobfolder.JOB, record)


def _own_folder(folder: Path) -> Path:
    """Create the job's folder for this user alone; absolute, so that it stays valid after a chdir."""
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(
            f"{folder}: a job needs a folder of its own, and this one is not empty; choose another."
        )
    folder.chmod(0o700)
    return folder


def _check_resources(resources: Resources, *, place: str) -> None:
    """Refuse several nodes; warn where the machine has less than asked for, because nothing will enforce it."""
    if resources.num_nodes > 1:
        raise ValueError(
            f"{place} has one node, but num_nodes is {resources.num_nodes}; use a cluster's launcher."
        )
    if resources.cpus > available_cpus():
        warnings.warn(
            f"{place}: {resources.cpus} CPUs asked for, {available_cpus():g} available.", stacklevel=3
        )
    if resources.gpus and resources.gpus > num_gpus():
        warnings.warn(f"{place}: {resources.gpus} GPUs asked for, {num_gpus()} available.", stacklevel=3)
