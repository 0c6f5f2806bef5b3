"""A Ray cluster inside one allocation of SLURM, which comes and goes with the job.

One task runs on each node. The first starts Ray's head and later the work; the others start a node of Ray each and wait.
They meet in a folder of the shared file system: `token` (mode 0600), `head.json` (where the head is), `joined-K`, `left-K`
and `done`. Ray's processes listen on a single node on loopback only; with several, those that Ray cannot bind to one
interface ask for the token.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.jobfolder import read_json, write_atomically, write_json
from cluster.machine import num_gpus
from cluster.ray_node import ENVIRONMENT, RayNode

_MEET_S = 300.0
"""How long nodes wait for each other: file systems and prologues of large allocations take their time."""
_LEAVE_S = 20.0
_POLL_S = 0.25
_TRIES = 3
"""Between finding a port free and using it, somebody else may take it."""
_RESERVED = range(10002, 20000)
"""Ray refuses these for its own ports."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """One node's view of a job that runs one task on each of its nodes."""

    folder: Path
    """Where they meet; this start's own, on the shared file system."""
    node: int
    hosts: tuple[str, ...]
    cpus: int
    gpus: int
    memory_bytes: int | None
    """None: Ray finds out."""

    @classmethod
    def from_environment(cls, folder: Path) -> Allocation:
        """As SLURM tells it to a task.

        Args:
            folder: Of the job; each start of it meets in a folder of its own, since a requeued job keeps its number.
        """
        start = f"{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
        memory = os.environ.get("SLURM_MEM_PER_NODE")
        return cls(
            folder / f"ray-{start}",
            int(os.environ["SLURM_NODEID"]),
            tuple(_hosts(os.environ["SLURM_JOB_NODELIST"])),
            int(os.environ.get("SLURM_CPUS_PER_TASK") or os.environ["SLURM_CPUS_ON_NODE"]),
            num_gpus(),
            # SLURM counts in MiB; 0: all of it.
            int(memory) * 2**20 if memory and int(memory) else None,
        )

    @property
    def is_first(self) -> bool:
        """Whether the head, and the work, are here."""
        return self.node == 0


@contextmanager
def head(
    allocation: Allocation,
    *,
    say: Callable[[str], None],
    stop: Callable[[], str],
    last_words: Callable[[], str],
) -> Iterator[str]:
    """A Ray cluster over the allocation, for the block; gives the address of its head. To be entered by the first node.

    Args:
        allocation: As this node sees it.
        say: Told what a person should know.
        stop: Says why not to wait for the other nodes any more, if so.
        last_words: Called where Ray's head is lost, which ends this process; returns what else there is to say.

    Raises:
        OSError: Ray does not start here.
    """
    folder = allocation.folder
    # What starts of this job have left that were killed; those of another one may be in use.
    for old in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*"):
        _clear(old)
    folder.mkdir(parents=True, mode=0o700)
    token = folder / "token"
    descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    has_met = False
    try:
        own_ip = "127.0.0.1" if len(allocation.hosts) == 1 else _own_ip(allocation.hosts[1])
        with _authenticated(token), _started_head(allocation, own_ip) as (node, address):
            write_json(folder / "head.json", {"address": address})
            missing = _wait_for_all(allocation, node, stop)
            has_met = True
            if missing and not stop():
                say(
                    f"warning: {', '.join(missing)} did not join Ray within {_MEET_S:.0f} s; going on without"
                )

            def part_and_tell() -> str:
                # The other nodes clean up before SLURM hears that it is over.
                _part(allocation, has_met=True)
                return last_words()

            with node.watched(f"Ray's head on {socket.gethostname()}", last_words=part_and_tell):
                yield address
    finally:
        _part(allocation, has_met=has_met)


def serve(allocation: Allocation, *, say: Callable[[str], None]) -> None:
    """A node of the cluster, until the head is done with it; what all nodes but the first do.

    It never fails: the head goes on without this node, and what happened here is told in its log.
    """
    # SLURM tells every task to stop; that is for the first, whose trials still need this node.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    try:
        _serve(allocation)
    except OSError as error:
        say(f"error: {error}")
    finally:
        with suppress(OSError):
            write_atomically(allocation.folder / f"left-{allocation.node}", b"")


def _serve(allocation: Allocation) -> None:
    folder = allocation.folder
    address = _wait_for_head(folder)
    if address is None:
        return
    own_ip = _own_ip(address.rpartition(":")[0])
    with _ray_node(allocation, [f"--address={address}", f"--node-ip-address={own_ip}"]) as node:
        write_atomically(folder / f"joined-{allocation.node}", b"")
        while not _is_done(folder):
            if node.has_ended:
                raise OSError(f"Ray ended on {socket.gethostname()} before the sweep did\n{node.tail()}")
            time.sleep(_POLL_S)


def _ray_node(allocation: Allocation, arguments: list[str]) -> RayNode:
    return RayNode(
        arguments,
        name=f"{allocation.folder.name}-{allocation.node}",
        token=allocation.folder / "token",
        cpus=allocation.cpus,
        gpus=allocation.gpus,
        memory_bytes=allocation.memory_bytes,
    )


@contextmanager
def _started_head(allocation: Allocation, own_ip: str) -> Iterator[tuple[RayNode, str]]:
    for attempt in range(_TRIES):
        address = f"{own_ip}:{_free_port(own_ip)}"
        arguments = [
            "--head",
            f"--node-ip-address={own_ip}",
            f"--port={address.rpartition(':')[2]}",
            "--include-dashboard=false",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={_free_port('127.0.0.1')}",
            "--no-monitor",
            f"--ray-client-server-port={_free_port(own_ip)}",
        ]
        node = _ray_node(allocation, arguments)
        try:
            node.__enter__()
        except OSError:
            if attempt == _TRIES - 1:
                raise
            continue
        try:
            yield node, address
        finally:
            node.__exit__()
        return


@contextmanager
def _authenticated(token: Path) -> Iterator[None]:
    """This process's connections to Ray show the token while the block lasts."""
    added = ENVIRONMENT | {"RAY_AUTH_TOKEN_PATH": str(token)}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait_for_all(allocation: Allocation, node: RayNode, stop: Callable[[], str]) -> list[str]:
    """Waits until every other node has joined; the hosts that have not."""
    deadline = time.monotonic() + _MEET_S
    while True:
        present = set(_listed(allocation.folder))
        missing = [
            host
            for number, host in enumerate(allocation.hosts)
            if number and f"joined-{number}" not in present
        ]
        if not missing or node.has_ended or stop() or time.monotonic() > deadline:
            return missing
        time.sleep(_POLL_S)


def _part(allocation: Allocation, *, has_met: bool) -> None:
    """Ends the meeting, and leaves nothing of it, when the other nodes have had time to read the last word.

    Those that have joined, that is; where they have not met yet, also those that are about to.
    """
    folder = allocation.folder
    with suppress(OSError):
        write_atomically(folder / "done", b"")
    deadline = time.monotonic() + _LEAVE_S
    while time.monotonic() < deadline:
        present = set(_listed(folder))
        others = range(1, len(allocation.hosts))
        if all(f"left-{n}" in present for n in others if not has_met or f"joined-{n}" in present):
            break
        time.sleep(_POLL_S)
    _clear(folder)


def _wait_for_head(folder: Path) -> str | None:
    """Address of the head; None where it is all over already."""
    deadline = time.monotonic() + _MEET_S
    while "head.json" not in (listed := _listed(folder)):
        if "done" in listed:
            return None
        if time.monotonic() > deadline:
            raise OSError(
                f"{folder}/head.json: not seen on {socket.gethostname()} within {_MEET_S:.0f} s; Ray did not start on the "
                "first node (see its log), or the run store is not on a file system that all nodes share"
            )
        time.sleep(_POLL_S)
    return read_json(folder / "head.json")["address"]


def _is_done(folder: Path) -> bool:
    """Whether the head is done, or has cleared up already."""
    listed = _listed(folder)
    return "done" in listed or "head.json" not in listed


def _listed(folder: Path) -> list[str]:
    # Listing a folder has NFS look at the server, where asking for a single file may be answered from memory.
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _hosts(nodes: str) -> list[str]:
    listed = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True, timeout=30
    )
    return listed.stdout.split()


def _own_ip(other: str) -> str:
    """This machine's address as another one reaches it. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))
        return probe.getsockname()[0]


def _free_port(address: str) -> int:
    while True:
        with socket.socket() as found:
            found.bind((address, 0))
            port = found.getsockname()[1]
        if port not in _RESERVED:
            return port
