"""A Ray cluster to run on, and plain tasks on it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sweeps.tune.head import OnLost, watching_far_head, watching_head

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Trials keep the driver's working folder: paths on its command line stay valid.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_EMBEDDED = {
    # How long what is left of a cluster looks for its head before it ends; on one machine, that is not away for a while.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
}


_TRIES = 3
_TRY_AGAIN_S = 3.0
_AWAY_S = 30.0
"""Ray that tried for so long itself need not be asked again."""


@dataclass(frozen=True, slots=True)
class Machines:
    """What a cluster has for trials."""

    cpus: float
    gpus: float
    memory_bytes: float


@contextmanager
def existing_ray(address: str, *, on_lost: OnLost = lambda what: (f"error: {what}", 1)) -> Iterator[Machines]:
    """A Ray cluster that is there already; left as it was when the block ends.

    Args:
        address: Of its head, e.g. `10.0.0.1:6379`, or `auto` for the one that this machine belongs to.
        on_lost: Told when its head is gone; returns this process's last words and exit code.

    Raises:
        ValueError: It does not answer.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    import ray

    _keep_quiet_about_deaths()
    _connect(address)
    with watching_far_head(ray.get_runtime_context().gcs_address, on_lost):
        try:
            has = ray.cluster_resources()
            yield Machines(has.get("CPU", 0), has.get("GPU", 0), has.get("memory", 0))
        finally:
            # Without its head this may never return.
            ray.shutdown()


def _connect(address: str) -> None:
    """Joins a cluster.

    Raises:
        ValueError: It does not answer, or is of another version.
    """
    import ray

    for attempt in range(1, _TRIES + 1):
        began = time.monotonic()
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # Its workers were not started with this process's environment.
                runtime_env={"env_vars": {name: os.environ[name] for name in _QUIET}},
            )
            return
        except (ConnectionError, RuntimeError) as error:
            ray.shutdown()
            if "Version mismatch" in str(error):
                raise ValueError(f"Ray at {address}: {' '.join(str(error).split())}") from None
            if attempt == _TRIES or time.monotonic() - began > _AWAY_S:
                raise ValueError(
                    f"Ray at {address}: does not answer ({str(error).strip().splitlines()[0]}); check the address, and that "
                    "RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH are those of the cluster"
                ) from None
            # One that has only just started on a busy machine may not know all of itself yet.
            time.sleep(_TRY_AGAIN_S)


def end_process(pid: int, *, host: str, node_id: str | None = None) -> None:
    """Kills a process of Ray that does not answer, on whatever machine of the cluster it is.

    Args:
        pid: Of the process. Nothing is done where it is no process of Ray any more.
        host: Name of its machine.
        node_id: Ray's name of its machine; found by `host` where it is not given.
    """
    if host == os.uname().nodename:
        _kill_worker(pid)
        return
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerHostname"] == host]
    if node_id is not None:
        nodes = [node for node in nodes if node == node_id]
    for node in nodes[:1]:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        task = (
            ray.remote(num_cpus=0, max_retries=0)(_kill_worker).options(scheduling_strategy=there).remote(pid)
        )
        # A machine that is just going away takes the process with it.
        with contextlib.suppress(RayError):
            ray.get(task, timeout=10)


def _kill_worker(pid: int) -> None:
    # Process numbers are given again; what Ray starts is called "ray::Something".
    with contextlib.suppress(OSError):
        if b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


@contextmanager
def embedded_ray(
    *, cpus: int, gpus: int, on_lost: OnLost = lambda what: (f"error: {what}", 1)
) -> Iterator[Machines]:
    """A Ray cluster that lives in this process's children and ends with the block; needs no network.

    Args:
        cpus: For its tasks.
        gpus: Likewise.
        on_lost: Told when Ray's own processes die, without which nothing goes on; returns this process's last words
            and exit code.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in (_QUIET | _EMBEDDED).items()})
    import ray

    _keep_quiet_about_deaths()
    # address="local": never join a cluster that some killed process left an address file of.
    # SLURM sends these to all processes of a job; Ray's would die of it before any trial has left a checkpoint.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=128 * 2**20,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        with watching_head(on_lost):
            yield Machines(cpus, gpus, ray.cluster_resources().get("memory", 0))
    finally:
        ray.shutdown()


def _keep_quiet_about_deaths() -> None:
    """Ray prints several lines into the terminal for each process that dies; whose process it was and why is said elsewhere."""
    from ray._private import worker

    worker.listen_error_messages = lambda *_: None


def run_tasks(
    task: Callable[[Path], int],
    folders: Sequence[Path],
    *,
    cpus: float,
    gpus: float,
    on_done: Callable[[Path, str], None],
    stop: Callable[[], str] = lambda: "",
) -> None:
    """Runs `task` on each folder, as many at once as the cluster carries.

    Args:
        task: An importable function.
        folders: Its arguments, one call each.
        cpus: CPUs of one call.
        gpus: GPUs of one call.
        on_done: Called with each folder as it is done, and with what went wrong, empty if nothing.
        stop: Says why to leave the rest undone, if so.
    """
    import ray

    def call(folder: Path) -> int:
        return task(folder)

    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=2)(call)
    pending = {remote.remote(folder.resolve()): folder for folder in folders}
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1, timeout=0.5)
        if stop():
            for task_of_folder in pending:
                ray.cancel(task_of_folder, force=True)
            return
        if not done:
            continue
        folder = pending.pop(done[0])
        try:
            ray.get(done[0])
        except Exception as error:  # noqa: BLE001 - handed to the caller, and the other folders go on
            cause = getattr(error, "cause", None) or error
            on_done(folder, str(cause).strip().splitlines()[-1])
        else:
            on_done(folder, "")
