"""W&B beside a sweep or a trial: starts the process that feeds it, passes on what it says, and has it finish in time."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sr.config import TrackingConfig
from sweeps.feeder import INCOMPLETE, REFUSED
from sweeps.tracked_sweep import RunsOf

_DECIDE_S = 30.0
"""How long a refusal is waited for; the server is asked for 3 s, on a machine that may be busy."""
_LEAVE_S = 5.0
"""How long the feeder may take to end by itself after its time is over."""
_MOST_STARTS = 3


class Feed:
    """The process that feeds W&B while this one works. Made by `fed`."""

    def __init__(self, folder: Path, tracking: TrackingConfig, say: Callable[[str], None]) -> None:
        self._folder = folder.resolve()
        self._tracking = tracking
        self._say = say
        self._root = RunsOf(self._folder).root
        self._decided = threading.Event()
        self._refusal = ""
        self._is_ending = False
        self._starts = 0
        self._lock = threading.Lock()
        self._process = self._start()
        self._thread = threading.Thread(target=self._listen, name="srloss-wandb", daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[str]:
        self._starts += 1
        place = self._root / "wandb"
        place.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-P",
            "-m",
            "sweeps.feeder",
            str(self._folder),
            "--parent",
            str(os.getpid()),
        ]
        paths = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        with (place / "feeder.log").open("ab") as log:
            return subprocess.Popen(
                command,
                # Names of losses may be in any script, whatever the locale.
                env=os.environ | {"PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
                encoding="utf-8",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C is for this process, which has it finish.
                start_new_session=True,
            )

    def _listen(self) -> None:
        while True:
            self._hear(self._process)
            code = self._process.wait()
            with self._lock:
                is_broken = not self._is_ending and code not in (0, REFUSED) and self._starts < _MOST_STARTS
                if is_broken:
                    try:
                        self._process = self._start()
                    except OSError:
                        is_broken = False
            if not is_broken:
                break
        if code not in (0, REFUSED) and not self._is_ending:
            self._say(
                f"W&B: its client ended with exit code {code} again and again (see {self._root}/wandb/feeder.log)"
            )
        self._decided.set()

    def _hear(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.rstrip("\n")
            if words.startswith("{"):
                decision = json.loads(words)
                self._refusal = decision["words"] if decision["mode"] == "refused" else ""
                # A refusal is raised where somebody insists.
                is_raised = self._refusal and self._tracking.wandb == "online"
                words = decision["words"] if self._starts == 1 and not is_raised else ""
                if words and decision["mode"] == "offline":
                    words += f"; to send them later: {sync_command(self._folder)}"
                self._decided.set()
            if words:
                self._say(words)

    def check(self) -> None:
        """Waits for the decision where somebody insists on `online`.

        Raises:
            ValueError: It cannot be, and why.
        """
        if self._tracking.wandb == "online":
            self._decided.wait(_DECIDE_S)
            if self._refusal:
                raise ValueError(self._refusal)

    def end(self, *, at_most_s: float | None = None) -> None:
        """Has it send the rest, waits until it has, and says what is left to do; a second call does nothing.

        Args:
            at_most_s: How long that may take; None: as long as the settings say.
        """
        with self._lock:
            if self._is_ending:
                return
            self._is_ending = True
        within_s = self._tracking.finish_timeout_s
        within_s = within_s if at_most_s is None else max(0.0, min(within_s, at_most_s - _LEAVE_S))
        process = self._process
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(f"finish {within_s}\n")
            process.stdin.close()
        try:
            code = process.wait(within_s + _LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = INCOMPLETE
        self._thread.join(_LEAVE_S)
        if code not in (0, REFUSED):
            self._say(f"W&B: send the rest with: {sync_command(self._folder)}")


def sync_command(folder: Path) -> str:
    """The command that sends what W&B has not got of a sweep, or of a trial without one."""
    sweep = RunsOf(folder).sweep
    words = [sweep.sweep_id, "--store", str(sweep.path.parent.parent)] if sweep else [str(folder)]
    return shlex.join(["srloss", "sync", *words])


@contextmanager
def fed(folder: Path, tracking: TrackingConfig, *, say: Callable[[str], None]) -> Iterator[Feed | None]:
    """Feeds W&B from a sweep's or a trial's folder while the block lasts.

    Args:
        folder: The sweep's, or a trial's.
        tracking: Its settings.
        say: Takes lines for people.

    Raises:
        ValueError: `online` is asked for, and cannot be.
    """
    if tracking.wandb == "disabled":
        yield None
        return
    try:
        feed = Feed(folder, tracking, say)
    except OSError as error:
        # A full disk, say: the ledgers are what counts.
        say(f"W&B: cannot be fed ({error}); to send the runs later: {sync_command(folder)}")
        yield None
        return
    try:
        feed.check()
        yield feed
    finally:
        feed.end()
