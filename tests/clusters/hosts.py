"""Hosts on one machine: each with its own name, address, processes, /tmp and /dev/shm; all else they share.

    with hosts("n1", "n2") as cluster:
        cluster["n1"].run(["hostname"])          # n1
        cluster["n1"].kill()                     # the machine is gone, with all that ran on it
        cluster["n1"].revive()                   # it is back, empty, at the same address

They are Linux namespaces. The machine outside is the login node: it reaches the hosts at `host.address`, they reach it
at `cluster.login_address`, and each other also by name. The network is a bridge in a namespace of its own, and every
process ends with the one that called `hosts` (more exactly: with its thread), so that nothing can stay behind.
Folders under /tmp that the hosts are to see (a run store, say) are named in `share`; all other folders they see anyway.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
NETWORKS = [f"10.77.{number}" for number in range(1, 255)]
"""Each cluster takes one that nobody has: hosts are .1, .2, ..., the machine outside is .254."""
DIES_WITH_ITS_PARENT = ["setpriv", "--pdeathsig", "KILL"]

# Runs as the first process of a host. /tmp is built in the host's own /dev/shm and moved to its place at the end, since
# what is shared may itself lie in /tmp. As SIGCHLD is ignored, orphans leave no zombies.
BOOT = """
set -e
hostname "$NAME"
mount -t tmpfs -o size="$MEMORY",mode=1777 shm /dev/shm
mkdir /dev/shm/tmp
mount -t tmpfs -o size="$MEMORY",mode=1777 tmp /dev/shm/tmp
{binds}
mount --move /dev/shm/tmp /tmp
rmdir /dev/shm/tmp
ip link set lo up
echo booted
exec env --ignore-signal=CHLD sleep infinity
"""


class NoHosts(RuntimeError):  # noqa: N818 - it is what the reader wants to know
    """This machine can't make hosts; says why."""


class HostFailed(RuntimeError):  # noqa: N818
    """A host did not come up, or a command that had to work on it did not; carries what it printed."""


@dataclass(frozen=True)
class Process:
    """One process on a host."""

    pid: int
    """As seen from outside: os.kill(pid, ...) reaches it."""
    pid_inside: int
    """As the host itself, and what runs on it, calls it."""
    command: list[str]


class Host:
    """One machine of a cluster; made by `hosts`."""

    def __init__(self, cluster: Cluster, name: str, number: int, mounts: Mapping[Path, Path]) -> None:
        self.name = name
        self.address = f"{cluster.network}.{number}"
        self._cluster = cluster
        # The same after a revival, else the others would go on sending to the dead one.
        self._mac = "02:" + ":".join(f"{int(part):02x}" for part in f"0.{self.address}".split("."))
        self._mounts = mounts
        self._boot: subprocess.Popen[str] | None = None
        self._started: list[subprocess.Popen[Any]] = []
        self._init = 0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._boot is not None and self._boot.poll() is None

    @property
    def root(self) -> Path:
        """Its file system, as seen from outside: host.root / "tmp"."""
        assert self.alive, f"{self.name} is dead"
        return Path(f"/proc/{self._init}/root")

    def revive(self) -> None:
        """Boots it again after `kill`; nothing runs on it, /tmp and /dev/shm are empty."""
        assert not self.alive, f"{self.name} runs already"
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        script = BOOT.format(binds="\n".join(self._binds()))
        self._boot = subprocess.Popen(
            [*DIES_WITH_ITS_PARENT, "unshare", *namespaces, "sh", "-c", script],
            env=os.environ | {"NAME": self.name, "MEMORY": self._cluster.memory},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        _wait_for_line(self._boot, "booted", f"host {self.name}")
        self._init = psutil.Process(self._boot.pid).children()[0].pid
        self._plug_in()

    def _binds(self) -> Iterator[str]:
        for folder in self._cluster.share:
            place = f"/dev/shm/tmp/{folder.relative_to('/tmp')}"
            yield f"mkdir -p {shlex.quote(place)}; mount --bind {shlex.quote(str(folder))} {shlex.quote(place)}"
        for source, place in self._mounts.items():
            yield f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(place))}"

    def _plug_in(self) -> None:
        port = f"port{self.address.rsplit('.', 1)[1]}"
        self._cluster.switch(
            f"link add name {port} type veth peer name eth0 netns {self._init}",
            f"link set {port} master br0 up",
        )
        _ip(
            self._init,
            f"link set eth0 address {self._mac} up",
            f"addr add {self.address}/24 dev eth0",
            f"route add default via {self._cluster.login_address}",
        )

    def kill(self) -> None:
        """Ends it at once, as a power cut does: every process on it is killed, its address is gone."""
        if self._boot is None:
            return
        if self._init and self.alive:
            os.kill(self._init, signal.SIGKILL)
            self._boot.wait(timeout=30)  # the kernel lets it end when all others on the host have ended
        _end(self._boot)
        self._init = 0
        for process in self._started:
            _end(process)
        self._started.clear()

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` here; it ends with whoever started it."""
        assert self.alive, f"{self.name} is dead"
        enter = ["nsenter", "--target", str(self._init), "--mount", "--uts", "--ipc", "--net", "--pid"]
        # It starts in this process's folder, where the host has it.
        folder = Path.cwd()
        seen = not folder.is_relative_to("/tmp") or any(map(folder.is_relative_to, self._cluster.share))
        where = folder if seen else "/"
        return [*enter, f"--wd={where}", *DIES_WITH_ITS_PARENT, *map(str, command)]

    def run(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> str:
        """Runs it here, to its end.

        Args:
            command: Program and arguments.
            env: Added to the environment of this process.
            timeout_s: How long it may take.

        Returns:
            What it printed to stdout.

        Raises:
            HostFailed: It failed; with all that it printed.
        """
        return run_command(self.inside(command), env=env, timeout_s=timeout_s)

    def start(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **popen: Any
    ) -> subprocess.Popen[Any]:
        """Starts it here and returns at once. To end the returned process is to SIGKILL the one inside."""
        popen = {"stdin": subprocess.DEVNULL, **popen}
        process = subprocess.Popen(self.inside(command), env={**os.environ, **(env or {})}, **popen)
        self._started.append(process)
        return process

    def processes(self) -> list[Process]:
        """What runs here, but for the host's own first process."""
        if not self.alive:
            return []
        here, found = _pid_namespace(self._init), []
        for pid in psutil.pids():
            try:
                if pid != self._init and _pid_namespace(pid) == here:
                    status = Path(f"/proc/{pid}/status").read_text().splitlines()
                    inside = next(line for line in status if line.startswith("NSpid:")).split()[-1]
                    found.append(Process(pid, int(inside), psutil.Process(pid).cmdline()))
            except (OSError, psutil.Error):  # ended meanwhile
                continue
        return found

    def listening(self) -> set[tuple[str, int]]:
        """Addresses and ports that something on it listens at: ("0.0.0.0", 6818), ("127.0.0.1", 8265), ("::", 22)."""
        lines = self.run(["ss", "--no-header", "--listening", "--tcp", "--numeric"]).splitlines()
        ends = [line.split()[3].rpartition(":") for line in lines]
        return {(address.strip("[]").replace("*", "::"), int(port)) for address, _, port in ends}


class Cluster:
    """Hosts by name; made by `hosts`."""

    def __init__(self, network: str, folder: Path, share: Sequence[Path], memory: str) -> None:
        self.network = network
        """The first three numbers of all addresses."""
        self.login_address = f"{network}.254"
        self.folder = folder
        """All hosts and the machine outside see it; goes away with the cluster where `hosts` made it."""
        self.share = share
        self.memory = memory
        self.hosts: dict[str, Host] = {}
        self._switch: subprocess.Popen[str] | None = None

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def switch(self, *lines: str) -> None:
        """Lines for `ip -batch` in the network's own namespace."""
        assert self._switch is not None
        _ip(self._switch.pid, *lines)

    def plug_in(self, cable: str) -> None:
        """Makes the network, and the interface `cable` to it on the machine outside."""
        self._switch = subprocess.Popen(
            [*DIES_WITH_ITS_PARENT, "unshare", "--net", "sh", "-c", "echo booted; exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        _wait_for_line(self._switch, "booted", "the network")
        pid = self._switch.pid
        run_command(
            ["ip", "link", "add", "name", cable, "type", "veth", "peer", "name", "login", "netns", str(pid)]
        )
        self.switch("link add name br0 type bridge", "link set br0 up", "link set login master br0 up")
        run_command(["ip", "addr", "add", f"{self.login_address}/24", "dev", cable])
        run_command(["ip", "link", "set", cable, "up"])

    def unplug(self, cable: str) -> None:
        """Ends the network; with its namespace all cables go."""
        if self._switch is not None:
            _end(self._switch)
        deadline = time.monotonic() + 10  # the kernel tidies up a moment later
        while Path(f"/sys/class/net/{cable}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)


@contextmanager
def hosts(
    *names: str,
    prefix: str | None = None,
    folder: Path | None = None,
    share: Sequence[Path] = (),
    mounts: Mapping[str, Mapping[Path, Path]] | None = None,
    memory: str = "1g",
) -> Iterator[Cluster]:
    """Hosts with these names; they are gone after the block, with all that runs on them.

    Args:
        names: Names of the hosts; other clusters may have hosts of the same names.
        prefix: Name of the network interface on the machine outside; other than any other cluster's, by default random.
        folder: Shared by all hosts and the machine outside; by default a new one, removed at the end.
        share: Folders that the hosts see too, where they lie in /tmp.
        mounts: Per host: what it finds, instead of what is there, at a place: {"n1": {file: place}}.
        memory: Size of each host's /tmp, and of its /dev/shm; memory is taken only as it is filled.

    Raises:
        NoHosts: This machine does not permit it; says why.
    """
    require_hosts()
    prefix = prefix or "sr" + secrets.token_hex(3)
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{prefix}-")))
        shared = sorted({path.resolve() for path in (REPOSITORY, folder, *share)})
        cluster = _connected(
            prefix, folder, [path for path in shared if path.is_relative_to("/tmp")], memory, stack
        )
        known, no_names = folder / "hosts", folder / "resolv.conf"
        no_names.touch()
        for number, name in enumerate(names, start=1):
            own = {known: Path("/etc/hosts"), **(mounts or {}).get(name, {})}
            if Path("/etc/resolv.conf").exists():  # without a name server an unknown name fails at once
                own[no_names] = Path("/etc/resolv.conf")
            cluster.hosts[name] = Host(cluster, name, number, own)
        lines = [f"{host.address} {host.name}" for host in cluster]
        known.write_text(
            "\n".join(["127.0.0.1 localhost", f"{cluster.login_address} {socket.gethostname()}", *lines, ""])
        )
        for host in cluster:
            stack.callback(host.kill)
            host.revive()
        yield cluster


def _connected(prefix: str, folder: Path, share: Sequence[Path], memory: str, stack: ExitStack) -> Cluster:
    with Path(tempfile.gettempdir(), "srloss-test-networks.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others may look for a free network too
        taken = run_command(["ip", "-4", "route", "show", "table", "all"])
        network = next((network for network in NETWORKS if f"{network}." not in taken), None)
        if network is None:
            raise NoHosts("all of 10.77.1.0/24 ... 10.77.254.0/24 are taken (see `ip route`)")
        cluster = Cluster(network, folder, share, memory)
        stack.callback(cluster.unplug, prefix)
        cluster.plug_in(prefix)
    return cluster


@cache
def _obstacle() -> str | None:
    if os.geteuid() != 0:
        return "it needs root"
    for tool in ("unshare", "nsenter", "setpriv", "ip", "ss", "mount"):
        if shutil.which(tool) is None:
            return f"the command {tool} is missing; apt-get install util-linux iproute2 mount"
    bridge = "ip link add name br0 type bridge && ip link add name v0 type veth peer name v1 && ip link set v0 master br0"
    tries = {
        "namespaces": [
            "unshare",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "true",
        ],
        "a bridge and a pair of virtual cables": ["unshare", "--net", "sh", "-c", bridge],
    }
    for what, command in tries.items():
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            return f"the kernel or the container does not permit {what}: {tried.stderr.strip()}"
    return None


def require_hosts() -> None:
    """Raises NoHosts, with the reason, where this machine can't make hosts."""
    if obstacle := _obstacle():
        raise NoHosts(f"hosts made of namespaces can't be made here: {obstacle}")


def run_command(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = 60, text: str = ""
) -> str:
    """Runs it on the machine outside, with `text` for stdin; what it printed to stdout.

    Raises:
        HostFailed: It failed; with all that it printed.
    """
    ran = subprocess.run(
        command,
        input=text,
        env={**os.environ, **(env or {})},
        timeout=timeout_s,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        raise HostFailed(f"{shlex.join(command)}\nended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def _ip(pid: int, *lines: str) -> None:
    run_command(["nsenter", "--target", str(pid), "--net", "ip", "-batch", "-"], text="\n".join(lines) + "\n")


def _wait_for_line(process: subprocess.Popen[str], line: str, what: str) -> None:
    assert process.stdout is not None
    printed = []
    for got in process.stdout:
        if got.strip() == line:
            return
        printed.append(got)
    raise HostFailed(f"{what} did not come up:\n{''.join(printed)}")


def _pid_namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/pid")


def _end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait(timeout=30)
    if process.stdout is not None:
        process.stdout.close()
