"""A real Ray on hosts of its own (`head`, `worker`), with a token and Ray Jobs, as someone else's cluster would be.

with RayCluster() as ray:
    subprocess.run(["ray", "job", "submit", "--", "hostname"], env={**os.environ, **ray.env})
    ray.kill_node("worker")
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.clusters.hosts import Host, HostFailed, hosts

BIN = Path(sys.executable).parent
PORT, DASHBOARD_PORT = 6379, 8265
OBJECT_STORE_BYTES = 100_000_000
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}
"""A dead node is called dead after 15 s or so; on Ray's own, after 30."""
RAY_LOGS = ("gcs_server.out", "raylet.out", "raylet.err", "dashboard.log", "job-driver-*.log")
"""Of all the logs that Ray writes on each host."""


class RayCluster:
    """A Ray of some hosts; the first is its head."""

    def __init__(
        self,
        nodes: Sequence[str] = ("head", "worker"),
        *,
        cpus: int = 1,
        prefix: str | None = None,
        share: Sequence[Path] = (),
    ) -> None:
        """Describes it; `start`, or a `with` block, makes it.

        Args:
            nodes: Names of the nodes.
            cpus: CPUs that Ray believes each node to have.
            prefix: See `hosts`.
            share: Folders in /tmp that the nodes see too.
        """
        self.nodes = list(nodes)
        self._cpus = cpus
        self._prefix = prefix or "sr" + secrets.token_hex(3)
        self._share = share
        self._stack = ExitStack()
        self._daemons: dict[str, subprocess.Popen[Any]] = {}
        self.folder = Path()
        """Its token and logs, while it runs."""

    def start(self) -> Self:
        """Starts everything, and waits until all nodes have joined.

        Raises:
            NoHosts: It can't run here; says why.
            HostFailed: A node did not come up; with the logs.
        """
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{self._prefix}-")))
            (self.folder / "log").mkdir()
            self._token.touch(mode=0o600)
            self._token.write_text(secrets.token_hex(32))
            self._cluster = stack.enter_context(
                hosts(*self.nodes, prefix=self._prefix, folder=self.folder, share=self._share)
            )
            for name in self.nodes:  # one by one: those who find no head within 5 s give up
                self._start_node(name)
                self.wait_until_joined(name)
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
    def address(self) -> str:
        """Of Ray Jobs, from the machine outside and from all hosts."""
        return f"http://{self.host(self.nodes[0]).address}:{DASHBOARD_PORT}"

    @property
    def token_env(self) -> dict[str, str]:
        """What a client needs to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self._token)}

    @property
    def env(self) -> dict[str, str]:
        """token_env, and the address for `ray job ...` and JobSubmissionClient."""
        return {**self.token_env, "RAY_API_SERVER_ADDRESS": self.address}

    @property
    def _token(self) -> Path:
        return self.folder / "token"

    def host(self, name: str) -> Host:
        """The host of a node."""
        return self._cluster[name]

    def kill_node(self, name: str) -> None:
        """The whole node dies at once."""
        self.host(name).kill()

    def revive_node(self, name: str) -> None:
        """The node boots and joins again; not for the head, whose death is that of the cluster."""
        assert name != self.nodes[0], "without its head a Ray cluster is gone"
        self.host(name).revive()
        self._start_node(name)
        self.wait_until_joined(name)

    def alive_nodes(self) -> list[str]:
        """The nodes that Ray believes to be alive; [] while it does not answer."""
        request = urllib.request.Request(
            f"{self.address}/api/v0/nodes", headers={"Authorization": f"Bearer {self._token.read_text()}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]["result"]
        except OSError:
            return []
        alive = {node["node_ip"] for node in found if node["state"] == "ALIVE"}
        return [name for name in self.nodes if self.host(name).address in alive]

    def wait_until_joined(self, name: str, *, timeout_s: float = 60) -> None:
        """Waits until Ray counts the node as alive."""
        self._wait(name, lambda: name in self.alive_nodes(), "joined", timeout_s)

    def wait_until_lost(self, name: str, *, timeout_s: float = 60) -> None:
        """Waits until Ray knows that a killed node is dead."""
        # An empty answer is none at all: the head knows itself to be alive.
        self._wait(name, lambda: name not in (self.alive_nodes() or [name]), "been called dead", timeout_s)

    def _wait(self, name: str, ask: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not ask():
            if self.host(name).alive and (code := self._daemons[name].poll()) is not None:
                raise HostFailed(f"Ray on {name} ended with {code}\n{self.logs()}")
            if time.monotonic() > deadline:
                raise HostFailed(f"Ray on {name} had not {what} after {timeout_s:g} s\n{self.logs()}")
            time.sleep(0.1)

    def logs(self, *, lines: int = 60) -> str:
        """The ends of all its logs, for a test that failed."""
        paths = sorted(self.folder.glob("log/*"))
        for host in (self.host(name) for name in self.nodes):
            for pattern in RAY_LOGS if host.alive else ():
                paths += sorted(host.root.glob(f"tmp/ray/session_2*/logs/{pattern}"))
        ends = []
        for path in paths:
            ends += [f"---- {path}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(ends)

    def _start_node(self, name: str) -> None:
        host, head = self.host(name), self.host(self.nodes[0])
        place = [
            f"--node-ip-address={host.address}",
            f"--num-cpus={self._cpus}",
            "--block",
            "--disable-usage-stats",
        ]
        if host is head:
            place += ["--head", f"--port={PORT}"]
            place += [f"--dashboard-host={host.address}", f"--dashboard-port={DASHBOARD_PORT}"]
        else:
            place += [f"--address={head.address}:{PORT}"]
        command = [BIN / "ray", "start", *place, f"--object-store-memory={OBJECT_STORE_BYTES}"]
        env = {**self.token_env, **HEALTH, "PATH": f"{BIN}:{os.environ['PATH']}"}
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = host.start(command, env=env, stdout=log, stderr=subprocess.STDOUT)
