"""Hands a sweep to a Ray cluster that is there already."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from cluster import ray_jobs
from cluster.records import JobRecord, now, write_record
from sweeps.cluster_section import ClusterSection
from sweeps.code import copy_code, versions
from sweeps.interrupt import GRACE_S
from sweeps.store import SweepFolder

HANDED_ON = (
    "SRLOSS_CACHE",
    "SRLOSS_CACHE_BYTES",
    "SRLOSS_NODE_CACHE",
    "SRLOSS_WEIGHTS",
    "WANDB_BASE_URL",
    "WANDB_ENTITY",
    "WANDB_MODE",
)
"""Variables of whoever submits that the trials get too. Secrets are not among them: Ray's dashboard shows these."""
_STOP_S = 15
"""What Ray waits beyond the grace period before it kills a job that was stopped."""


def submit_sweep(folder: SweepFolder, section: ClusterSection, *, grace_s: float = GRACE_S) -> JobRecord:
    """Submits a sweep to run on a Ray cluster, and keeps a record of it in its folder.

    Args:
        folder: The sweep's, made already, on a file system that all machines of the cluster share.
        section: Where the cluster is, whether srloss is sent with the job, and where its machines keep the data.
        grace_s: How long trials may take to save when the job is stopped.

    Raises:
        ValueError: It is submitted already, or this cluster cannot be used, and why.
        ConnectionError: The cluster does not answer.
    """
    address = ray_jobs.address_of(section.address)
    path = folder.path.absolute()
    arguments = [str(path), "--expect", json.dumps(versions()), "--grace", f"{grace_s:g}"]
    with ExitStack() as stack:
        code = None
        if section.ship_code:
            code = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="srloss-")))
            copy_code(code)
            arguments.append("--ships-code")
        job = ray_jobs.submit(
            on_head("sweeps.ray_far_side", *arguments),
            address=address,
            submission_id=ray_jobs.job_name(f"srloss-{folder.sweep_id}"),
            env=environment(section.node_cache),
            metadata={"sweep": folder.sweep_id, "folder": str(path)},
            working_dir=code,
            grace_s=int(grace_s) + _STOP_S,
        )
    record = JobRecord("ray", job, "sweep", folder.sweep_id, now(), log_folder=str(path), address=address)
    write_record(path, record)
    return record


def on_head(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of srloss there; a head without srloss says so, rather than what Python says."""
    script = (
        f"python -c 'import {module}' 2>/dev/null || {{ "
        'echo "error: the head of the Ray cluster ($(hostname)): its python ($(command -v python)) has no srloss, or another '
        'one; install the same there, or send yours: cluster.ship_code=true" >&2; exit 1; }; '
        f'exec python -m {module} "$@"'
    )
    return ["sh", "-c", script, "srloss", *arguments]


def environment(node_cache: str | None = None) -> dict[str, str]:
    """Variables of whoever submits, for the job.

    Args:
        node_cache: A folder on a disk of each machine, in which the data set is kept; None: $SRLOSS_NODE_CACHE, if set.
    """
    given = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    if node_cache is not None:
        given["SRLOSS_NODE_CACHE"] = node_cache
    for name, value in given.items():
        if "://" in value and "@" in value:
            raise ValueError(
                f"${name}: holds a name or password, which Ray's dashboard would show; set it on the cluster's machines instead"
            )
    # What is a path here is meant from here.
    for name in ("SRLOSS_CACHE", "SRLOSS_WEIGHTS"):
        if name in given:
            given[name] = str(Path(given[name]).expanduser().absolute())
    return given
