"""The processes of Ray on one machine, started with `ray start` and ended without a trace."""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cluster.fate import die_with

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Exporters of metrics would listen on all interfaces, without a token.
    "RAY_enable_metrics_collection": "false",
    "DASHBOARD_METRIC_PORT": "-1",
    # What is left of the cluster ends so long after its head.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
}
"""Of every process of a cluster, and of those that connect to it."""
_START_S = 120.0
"""How long Ray may take to start."""
_POLL_S = 0.25
_OBJECT_STORE_BYTES = 128 * 2**20
_STARTED = "Ray runtime started"
_MARK = "SRLOSS_RAY_NODE"
"""In the environment of all that Ray starts here, so that nothing of it is overlooked in the end."""
_ALIVE = "alive"
"""File in a node's folder that is locked for as long as the node's owner lives."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_DEATH = re.compile(r"END (\w+)\.\w+ tail \(exit code\(s\)=(-?\d+)")
"""How `ray start --block` ends its dump of the log of a part that has died."""
_TAIL_LINES = 20
_PLACE = Path("/tmp")
_PREFIX = "srl-"


class RayNode:
    """Ray's processes on this machine; gone, with all that they have started, when the block ends.

    Args:
        arguments: Of `ray start`, those that make it a head or have it join one.
        name: Unique among those that may run on this machine at once.
        token: File with the cluster's token.
        cpus: For Ray's tasks.
        gpus: Likewise.
        memory_bytes: Likewise; None: Ray finds out.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        name: str,
        token: Path,
        cpus: int,
        gpus: int,
        memory_bytes: int | None,
    ) -> None:
        self._name = name
        self._arguments = [
            *arguments,
            "--block",
            "--disable-usage-stats",
            "--include-log-monitor=false",
            "--dashboard-agent-listen-port=0",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--num-cpus={cpus}",
            f"--num-gpus={gpus}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
        ]
        if memory_bytes is not None:
            self._arguments.append(f"--memory={max(0, memory_bytes - _OBJECT_STORE_BYTES)}")
        self._environment = ENVIRONMENT | {_MARK: name, "RAY_AUTH_TOKEN_PATH": str(token)}
        self._temporary = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = ExitStack()

    def __enter__(self) -> RayNode:
        # Short, for sockets have paths of 107 bytes at most; and nobody else's to enter.
        _tidy()
        self._temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PLACE))
        try:
            self._hold()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        _kill_marked(self._name)
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._lock.close()

    def _hold(self) -> None:
        # It has its name only once it is locked; where /tmp has no locks it gets none, and is left alone.
        unnamed = self._temporary / ".alive"
        file = self._lock.enter_context(unnamed.open("xb"))
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(self._temporary / _ALIVE)

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", *self._arguments]
        command.append(f"--temp-dir={self._temporary}")
        held_back = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        with (self._temporary / "start.log").open("wb") as output:
            # Inherited by all of Ray: what SLURM sends to every process of a job is for the driver, which still needs Ray
            # while its trials save.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, held_back)
            try:
                self._process = subprocess.Popen(
                    command,
                    env=os.environ | self._environment | {"PATH": path},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=functools.partial(die_with, os.getpid()),
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        deadline = time.monotonic() + _START_S
        while _STARTED not in self._said():
            if self.has_ended or time.monotonic() > deadline:
                why = "ended" if self.has_ended else f"has not started within {_START_S:.0f} s"
                raise OSError(f"Ray {why} on {socket.gethostname()}:\n{self.tail()}")
            time.sleep(_POLL_S)

    @property
    def has_ended(self) -> bool:
        """Whether Ray is gone from here."""
        return self._process is None or self._process.poll() is not None

    def tail(self) -> str:
        """Which part of Ray has died; else the end of what `ray start` has said, without the records that it repeats."""
        text = _COLOURS.sub("", self._said())
        if deaths := _DEATH.findall(text):
            return "\n".join(f"{part} ended with exit code {code}" for part, code in dict(deaths).items())
        lines = [line.strip() for line in text.splitlines()]
        return "\n".join([line for line in lines if line and not line.startswith("[20")][-_TAIL_LINES:])

    def _said(self) -> str:
        with suppress(OSError):
            return (self._temporary / "start.log").read_bytes()[-20_000:].decode(errors="replace")
        return ""

    @contextmanager
    def watched(self, what: str, *, last_words: Callable[[], str]) -> Iterator[None]:
        """Ends this process where Ray has ended while the block still needs it: Ray itself would wait for long.

        Args:
            what: Its name in the message.
            last_words: Called then; returns what else there is to say.
        """
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(_POLL_S):
                if self.has_ended:
                    sys.stdout.flush()
                    sys.stderr.write(
                        f"error: {what} has ended, and no trial can go on without it\n{self.tail()}\n"
                    )
                    sys.stderr.flush()
                    self.__exit__()
                    sys.stderr.write(f"{last_words()}\n")
                    sys.stderr.flush()
                    os._exit(75)

        thread = threading.Thread(target=watch, name="srloss-watch-ray", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def _tidy() -> None:
    """Deletes the folders of this user's nodes that were killed before they could."""
    for folder in _PLACE.glob(f"{_PREFIX}*"):
        # Somebody else's, or of one that lives, or that only begins.
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid():
                with (folder / _ALIVE).open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)


def _kill_marked(name: str) -> None:
    """Kills all that Ray has started on this node, in whatever session it is, until nothing is left."""
    wanted = f"{_MARK}={name}".encode()
    for _ in range(20):
        found = [pid for pid in _pids() if wanted in _environment_of(pid)]
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _pids() -> list[int]:
    return [
        int(name)
        for path in Path("/proc").iterdir()
        if (name := path.name).isdecimal() and int(name) != os.getpid()
    ]


def _environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
