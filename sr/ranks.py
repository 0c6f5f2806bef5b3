"""How the processes of a trial find each other, and how they part."""

from __future__ import annotations

import gc
import logging
import os
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from sr.rollcall import OtherRankFailedError, RankLostError, RollCall
from sr.world import World, device_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one process stands among its trial's ranks, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    """Of rank 0's machine."""
    port: int


def place_from_environment() -> Place | None:
    """This process's place as `torchrun`, or `srun` with several tasks, tells it; None for a process by itself.

    Raises:
        ValueError: The launcher's variables are incomplete.
    """
    # Half of it is an error too: by themselves, several processes would each train the whole trial.
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        rank, world_size, local_rank, port = _numbers("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        return Place(rank, world_size, local_rank, os.environ["MASTER_ADDR"], port)
    # A shell inside an allocation has SLURM_NTASKS too; only a step that srun started has its own number of tasks.
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1" or "SLURM_PROCID" not in os.environ:
        return None
    rank, tasks, local_rank, job, step = _numbers(
        "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_ID"
    )
    address = os.environ.get("MASTER_ADDR") or _first_host(os.environ["SLURM_STEP_NODELIST"])
    # The same on all ranks without a word between them, and another one for each step.
    port = int(os.environ.get("MASTER_PORT") or 20000 + (job * 16 + step) % 20000)
    return Place(rank, tasks, local_rank, address, port)


def _numbers(*names: str) -> list[int]:
    """These variables of the environment, which a launcher sets all or none of, like that with the address."""
    wanted = [*names, "MASTER_ADDR" if "RANK" in names else "SLURM_STEP_NODELIST"]
    missing = [name for name in wanted if not os.environ.get(name)]
    if missing:
        present = [name for name in wanted if name not in missing]
        raise ValueError(
            f"environment: {' and '.join(present)} set but not {', '.join(missing)}; start with torchrun or srun, or "
            f"unset {' and '.join(present)}"
        )
    odd = [f"{name}={os.environ[name]}" for name in names if not os.environ[name].isdecimal()]
    if odd:
        raise ValueError(
            f"environment: {', '.join(odd)}: not a number; start with torchrun or srun, or unset it"
        )
    return [int(os.environ[name]) for name in names]


def _first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it, e.g. `gpu[03-05,9],login`."""
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True, timeout=30
        )
        return listed.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", re.sub(r",(?![^\[]*\]).*", "", nodes))


@contextmanager
def joined(place: Place, *, device: str, timeout_s: float) -> Iterator[World]:
    """A world of several ranks, for as long as the block lasts.

    What goes wrong on one rank ends the block on all: there with its own error, on the others with `OtherRankFailedError`
    or `RankLostError`, by connections that close or after `timeout_s` at the latest.

    Args:
        place: Of this process.
        device: `auto`, `cpu` or `cuda`; NCCL connects GPUs, gloo CPUs.
        timeout_s: How long ranks wait for each other.

    Raises:
        ValueError: There is no such device.
        RankLostError: Not all ranks came, or one died or does not answer.
        OtherRankFailedError: Another rank failed.
    """
    own_device = device_of(device, local_rank=place.local_rank)
    timeout = timedelta(seconds=timeout_s)
    try:
        store = dist.TCPStore(
            place.address,
            place.port,
            is_master=place.rank == 0 and not _is_served_by_launcher(),
            wait_for_workers=False,
            timeout=timeout,
        )
        # torchrun keeps its store when it starts all ranks again; what the dead left there is not for the new ones.
        attempt = f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        store = dist.PrefixStore(attempt, store)
        roll = RollCall(
            place.address,
            place.port,
            prefix=attempt,
            rank=place.rank,
            world_size=place.world_size,
            timeout_s=timeout_s,
        )
    except dist.DistError as error:
        raise RankLostError(
            f"rank {place.rank} could not meet the others at {place.address}:{place.port} ({error})"
        ) from None
    trace = None
    try:
        try:
            with _group(place, own_device, store, timeout) as control:
                yield World(place.rank, place.world_size, own_device, place.local_rank, control, roll)
                roll.at("the end")
                # Together, or the first would take the store away while others still look into it.
                dist.barrier(group=control)
        except (OtherRankFailedError, RankLostError):
            raise
        except Exception as error:
            trace = error.__traceback__
            if is_of_communication(error):
                raise roll.explain(error) from error
            roll.tell(
                f"rank {place.rank}: {in_words(error)}",
                is_own_fault=not isinstance(error, OSError | MemoryError),
            )
            raise
    finally:
        # The connections close when nothing holds the group any more, the frames of an error included; only then
        # do the others hear of it.
        if trace is not None:
            traceback.clear_frames(trace)
            gc.collect()
        roll.leave()
        del store


@contextmanager
def _group(
    place: Place, device: torch.device, store: dist.Store, timeout: timedelta
) -> Iterator[dist.ProcessGroup]:
    """The process groups: one for the devices, one on the CPU for what ranks decide."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=timeout,
        )
        control = (
            dist.group.WORLD if device.type == "cpu" else dist.new_group(backend="gloo", timeout=timeout)
        )
        assert isinstance(control, dist.ProcessGroup)
        yield control
    finally:
        # DeepSpeed keeps groups of its own, and would hold on to those of the trial before in a process that goes on.
        if "sr.engines.zero" in sys.modules:
            sys.modules["sr.engines.zero"].forget_groups()
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_served_by_launcher() -> bool:
    """Whether torchrun holds the store already."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def is_of_communication(error: BaseException) -> bool:
    """Whether an error came out of a collective operation because another rank was not there."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(mark in text for mark in _MARKS)


_MARKS = (
    "gloo/transport",
    "Application timeout caused pair closure",
    "Connection closed by peer",
    "NCCL",
    "ProcessGroup",
    "Socket Timeout",
    "store->get",
)


def in_words(error: BaseException) -> str:
    """An error in words: what speaks for itself is its message, anything else has its type before it."""
    if isinstance(error, ValueError | RankLostError | OtherRankFailedError):
        return str(error)
    return traceback.format_exception_only(error)[-1].strip()


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]
