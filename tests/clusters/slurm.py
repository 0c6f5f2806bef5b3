"""A real SLURM on hosts of its own: a controller (`ctl`) and nodes (`n1`, `n2`, ...), each with its own slurmd.

    with SlurmCluster() as slurm:
        subprocess.run(["srun", "-N2", "hostname"], env={**os.environ, **slurm.env})
        slurm.kill_node("n2")        # 10 s later SLURM calls it down and queues its jobs again
        slurm.revive_node("n2")

Everything is the cluster's own: configuration, munge key and socket, state, logs, addresses. All ports are the usual
ones, as each host has its own. Commands run on the machine outside (the login node) or on a node's host.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from tests.clusters.hosts import Host, HostFailed, hosts, run_command

T = TypeVar("T")
CONTROLLER = "ctl"
FREEZER = Path("/sys/fs/cgroup/freezer")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "sinfo")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacctmgr", "sacct", "mariadbd", "mariadb-install-db", "mariadb")
PACKAGES = "slurm-wlm munge"
ACCOUNTING_PACKAGES = "slurmdbd mariadb-server"

SETTINGS = {
    "ClusterName": "test",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "AuthType": "auth/munge",
    "TaskPlugin": "task/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU",  # memory is not counted
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "bf_interval=1,sched_interval=2,batch_sched_delay=0",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "SwitchType": "switch/none",
    "MpiDefault": "none",
    "ReturnToService": "2",  # a node that comes back may work at once
    "JobAcctGatherType": "jobacct_gather/none",
    "AccountingStorageType": "accounting_storage/none",
    "SlurmdParameters": "config_overrides",  # a node has what is written here, not what this machine has
    "SlurmctldTimeout": "30",
    "SlurmdTimeout": "8",
    "KillWait": "10",
    "InactiveLimit": "0",
    "MessageTimeout": "10",
    "TreeWidth": "65533",  # each node is asked directly: a dead one does not delay the others
    "MailProg": "/bin/true",
}
"""slurm.conf, but for names, addresses and folders."""


class NoSlurm(RuntimeError):  # noqa: N818 - it is what the reader wants to know
    """SLURM is not installed; says what to do."""


def require_slurm(*, accounting: bool = False) -> None:
    """Raises NoSlurm where programs are missing."""
    programs = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    packages = f"{PACKAGES} {ACCOUNTING_PACKAGES}" if accounting else PACKAGES
    if missing := [program for program in programs if shutil.which(program) is None]:
        raise NoSlurm(f"no {', '.join(missing)} here; on Debian and Ubuntu: apt-get install {packages}")


def can_track_by_cgroup() -> bool:
    """Whether SLURM can hold a step's processes together by cgroups; else those that call setsid outlive their job."""
    return (FREEZER / "cgroup.procs").exists() and os.access(FREEZER, os.W_OK)


class SlurmCluster:
    """A SLURM with partitions `debug` (the default), `low` and `high`; jobs in `high` preempt those in `low`."""

    def __init__(
        self,
        nodes: Sequence[str] = ("n1", "n2"),
        *,
        cpus: int = 2,
        accounting: bool = False,
        preempt_send_user_signal: bool = False,
        grace_s: int = 20,
        requeue_hold_s: int = 5,
        settings: Mapping[str, str] | None = None,
        prefix: str | None = None,
        share: Sequence[Path] = (),
    ) -> None:
        """Describes it; `start`, or a `with` block, makes it.

        Args:
            nodes: Names of the nodes.
            cpus: CPUs that SLURM believes each node to have.
            accounting: Whether `sacct` works: with slurmdbd and MariaDB.
            preempt_send_user_signal: Whether a preempted job gets its --signal, rather than SIGTERM alone.
            grace_s: How long a preempted job may go on.
            requeue_hold_s: How long a requeued job waits before it starts again (120 on SLURM's own).
            settings: More lines of slurm.conf, or others than SETTINGS has.
            prefix: See `hosts`.
            share: Folders in /tmp that the nodes see too; jobs run, and print, there.
        """
        self.nodes = list(nodes)
        self.accounting = accounting
        self.proctrack = "cgroup" if can_track_by_cgroup() else "linuxproc"
        """How SLURM finds a step's processes; see can_track_by_cgroup."""
        self._cpus, self._grace_s, self._hold_s = cpus, grace_s, requeue_hold_s
        self._settings = dict(settings or {})
        if preempt_send_user_signal:
            self._settings["SlurmctldParameters"] = "preempt_send_user_signal"
        self._prefix = prefix or "sr" + secrets.token_hex(3)
        self._share = share
        self._stack = ExitStack()
        self._daemons: dict[str, subprocess.Popen[Any]] = {}
        self.folder = Path()
        """Its configuration, state and logs, while it runs."""

    def start(self) -> Self:
        """Starts everything, and waits until all nodes are idle.

        Raises:
            NoSlurm, NoHosts: It can't run here; says why.
            HostFailed: Something did not come up; with the logs.
        """
        require_slurm(accounting=self.accounting)
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{self._prefix}-")))
            self.folder.chmod(0o755)  # munged insists on it
            for name in ("log", "state", "spool"):
                (self.folder / name).mkdir()
            names = [CONTROLLER, *self.nodes]
            mounts = {name: self._cgroup(name, stack) for name in self.nodes}
            self._cluster = stack.enter_context(
                hosts(*names, prefix=self._prefix, folder=self.folder, share=self._share, mounts=mounts)
            )
            self._write_configuration()
            self._start_munge()
            if self.accounting:
                self._start_accounting()
            self._daemon(self.host(CONTROLLER), "slurmctld", ["slurmctld", "-D"])
            for name in self.nodes:
                self._start_slurmd(name)
            self.wait_until_idle()
            self._stack = stack.pop_all()
        return self

    def stop(self) -> None:
        """Ends it; nothing stays behind."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def env(self) -> dict[str, str]:
        """What the client commands (and submitit) need in their environment."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def host(self, name: str) -> Host:
        """The host of a node, or that of the controller (CONTROLLER)."""
        return self._cluster[name]

    def run(self, *command: str | Path, timeout_s: float = 60) -> str:
        """Runs a command on the login node.

        Returns:
            What it printed to stdout.

        Raises:
            HostFailed: It failed; with all that it printed.
        """
        return run_command(list(map(str, command)), env=self.env, timeout_s=timeout_s)

    def kill_node(self, name: str) -> None:
        """The whole node dies at once. SLURM finds out after SlurmdTimeout: 10 to 20 s."""
        self.host(name).kill()

    def revive_node(self, name: str) -> None:
        """The node boots, and its slurmd registers."""
        self.host(name).revive()
        self._start_slurmd(name)

    def release(self, job: int | str) -> None:
        """Lets a requeued job start now rather than after its hold."""
        self.run("scontrol", "update", f"jobid={job}", "StartTime=now")

    def job(self, job: int | str) -> dict[str, str]:
        """What `scontrol show job` says: {"JobState": "RUNNING", "Restarts": "0", "NodeList": "n1", ...}."""
        return dict(
            re.findall(r"([\w:/]+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", str(job)))
        )

    def wait_for_job(self, job: int | str, *states: str, timeout_s: float = 60) -> dict[str, str]:
        """Waits until the job is in one of these states (as `JobState`); what `job` says then."""
        return self.wait_for(
            lambda: (found := self.job(job))["JobState"] in states and found,
            f"job {job} to be {states}",
            timeout_s,
        )

    def node_states(self) -> dict[str, str]:
        """State of each node, as sinfo's long form has it: idle, mixed, allocated, down*, completing, ..."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_for_node(self, name: str, *states: str, timeout_s: float = 60) -> str:
        """Waits until the node is in one of these states; which."""
        return self.wait_for(
            lambda: (state := self.node_states()[name]) in states and state,
            f"{name} to be {states}",
            timeout_s,
        )

    def wait_until_idle(self, *, timeout_s: float = 30) -> None:
        """Waits until nothing runs and all nodes can take a job."""
        self.wait_for(lambda: set(self.node_states().values()) == {"idle"}, "all nodes to be idle", timeout_s)

    def logs(self, *, lines: int = 60) -> str:
        """The ends of all its logs, for a test that failed."""
        ends = []
        for path in sorted(self.folder.glob("log/*")):
            if path.suffix == ".out" and path.with_suffix(".log").exists():
                continue  # says the same, without the time
            ends += [f"---- {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(ends)

    def wait_for(self, ask: Callable[[], T | Literal[False]], what: str, timeout_s: float = 60) -> T:
        """Asks until the answer is not False; returns it.

        Raises:
            HostFailed: `timeout_s` passed, or a daemon of the cluster ended; with the logs.
        """
        deadline, last = time.monotonic() + timeout_s, None
        while time.monotonic() < deadline:
            for name, daemon in self._daemons.items():
                if daemon.poll() not in (None, -signal.SIGKILL):  # killed: a node that a test let die
                    raise HostFailed(f"{name} ended with {daemon.returncode}\n{self.logs()}")
            try:
                if (answer := ask()) is not False:
                    return answer
            except HostFailed as error:
                last = error
            time.sleep(0.1)
        raise HostFailed(f"waited {timeout_s:g} s in vain for {what}\n{last or ''}\n{self.logs()}")

    def _daemon(self, host: Host, name: str, command: Sequence[str | Path]) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = host.start(command, env=self.env, stdout=log, stderr=subprocess.STDOUT)

    def _start_slurmd(self, name: str) -> None:
        self._daemon(self.host(name), f"slurmd.{name}", ["slurmd", "-D", "-N", name])

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in files.items()]
        log = f"--log-file={self.folder / 'log' / 'munged.log'}"
        self._daemon(self.host(CONTROLLER), "munged", ["munged", "--foreground", *options, log])
        self.wait_for(lambda: (folder / "socket").exists(), "munged", 10)

    def _start_accounting(self) -> None:
        """MariaDB and slurmdbd, beside the controller."""
        controller, data, socket = self.host(CONTROLLER), self.folder / "mysql", self.folder / "mysql.socket"
        install = "mariadb-install-db --no-defaults --user=root --skip-test-db --auth-root-authentication-method=normal"
        controller.run([*install.split(), f"--datadir={data}"])
        options = "--user=root --bind-address=127.0.0.1 --innodb-buffer-pool-size=128M --innodb-lock-wait-timeout=900"
        files = [f"--datadir={data}", f"--socket={socket}", f"--pid-file={self.folder / 'mysql.pid'}"]
        self._daemon(controller, "mariadbd", ["mariadbd", "--no-defaults", *options.split(), *files])
        mariadb = ["mariadb", "--no-defaults", "--socket", str(socket), "--execute"]
        self.wait_for(lambda: bool(controller.run([*mariadb, "select 1"])), "MariaDB", 30)
        controller.run(
            [
                *mariadb,
                "create user slurm@'127.0.0.1' identified by 'slurm'; grant all on *.* to slurm@'127.0.0.1'; create database slurm_acct_db",
            ]
        )
        controller.run(
            [
                *mariadb,
                "create user slurm@localhost identified by 'slurm'; grant all on *.* to slurm@localhost",
            ]
        )
        self._daemon(controller, "slurmdbd", ["slurmdbd", "-D"])
        self.wait_for(lambda: bool(self.run("sacctmgr", "-i", "add", "cluster", "test")), "slurmdbd", 30)

    def _write_configuration(self) -> None:
        munge, log = f"socket={self.folder / 'munge' / 'socket'}", self.folder / "log"
        controller = self.host(CONTROLLER)
        slurm = (
            SETTINGS
            | {
                "SlurmctldHost": f"{CONTROLLER}({controller.address})",
                "AuthInfo": f"{munge},cred_expire={self._hold_s}",  # a requeued job waits for its credential to expire
                "ProctrackType": f"proctrack/{self.proctrack}",
                "StateSaveLocation": self.folder / "state",
                "SlurmdSpoolDir": self.folder / "spool" / "%n",
                "SlurmctldPidFile": self.folder / "slurmctld.pid",
                "SlurmdPidFile": self.folder / "slurmd.%n.pid",
                "SlurmctldLogFile": log / "slurmctld.log",
                "SlurmdLogFile": log / "slurmd.%n.log",
            }
        )
        if self.accounting:
            slurm |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": controller.address,
                "AccountingStoragePass": self.folder
                / "munge"
                / "socket",  # what this means where munge is used
                "JobAcctGatherType": "jobacct_gather/linux",
            }
        nodes = [
            f"NodeName={name} NodeAddr={self.host(name).address} CPUs={self._cpus} RealMemory=1000000 State=UNKNOWN"
            for name in self.nodes
        ]
        partition = f"Nodes={','.join(self.nodes)} MaxTime=INFINITE State=UP"
        partitions = [
            f"PartitionName=debug {partition} Default=YES PriorityTier=5 PreemptMode=OFF",
            f"PartitionName=low {partition} PriorityTier=1 PreemptMode=REQUEUE GraceTime={self._grace_s}",
            f"PartitionName=high {partition} PriorityTier=9 PreemptMode=OFF",
        ]
        lines = [f"{key}={value}" for key, value in (slurm | self._settings).items()]
        (self.folder / "slurm.conf").write_text("\n".join([*lines, *nodes, *partitions, ""]))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        accounting = {
            "AuthType": "auth/munge",
            "AuthInfo": munge,
            "DbdHost": CONTROLLER,
            "SlurmUser": "root",
            "PidFile": self.folder / "slurmdbd.pid",
            "LogFile": log / "slurmdbd.log",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StorageUser": "slurm",
            "StoragePass": "slurm",
            "StorageLoc": "slurm_acct_db",
        }
        path = self.folder / "slurmdbd.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join([f"{key}={value}" for key, value in accounting.items()] + [""]))

    def _cgroup(self, name: str, stack: ExitStack) -> dict[Path, Path]:
        """Each node's slurmd sees a folder of its own as the root of the freezer."""
        if self.proctrack != "cgroup":
            return {}
        own = FREEZER / f"{self._prefix}-{name}"
        own.mkdir()
        stack.callback(_remove_cgroup, own)
        return {own: FREEZER}


def _remove_cgroup(folder: Path) -> None:
    for inner in sorted(folder.rglob("*/"), reverse=True):  # the deepest first
        inner.rmdir()
    folder.rmdir()
