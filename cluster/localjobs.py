"""Jobs of this machine's launchers: a call that is over already, and a detached process known by its folder."""

import concurrent.futures
import contextlib
import os
import pickle
import secrets
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from cluster import jobfolder
from cluster.api import JobFailedError, JobState, Resources

T = TypeVar("T")

_LOG_TAIL_BYTES = 2000


class InlineJob(Generic[T]):
    """A call that is over already; see `cluster.api.Job`."""

    def __init__(self, *, name: str, resources: Resources, folder: Path) -> None:
        self.job_id = f"inline-{secrets.token_hex(4)}"
        self.name = name
        self.resources = resources
        self.log_path = folder / jobfolder.LOG
        self.state = JobState.PENDING
        self._result: T | None = None
        self._error: JobFailedError | None = None

    def run(self, fn: Callable[..., T], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Call the function and keep what comes of it. KeyboardInterrupt and SystemExit pass through."""
        self.state = JobState.RUNNING
        try:
            self._result = fn(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (kept for result())
            text = "".join(traceback.format_exception(error))
            self.log_path.write_text(self.log_path.read_text(encoding="utf-8") + text, encoding="utf-8")
            message = f"{title(self)}: {summary(error)}\n\n{text}\nLog: {self.log_path}"
            self._error = JobFailedError(message, log_path=self.log_path, remote_traceback=text)
            self._error.__cause__ = error
        self.state = JobState.SUCCEEDED if self._error is None else JobState.FAILED

    def done(self) -> bool:
        """Whether the state is final: always, once submit has returned."""
        return self.state not in (JobState.PENDING, JobState.RUNNING)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return at once."""
        del timeout_s
        return self.done()

    def result(self, timeout_s: float | None = None) -> T:
        """What the function returned, or its failure."""
        if error := self.exception(timeout_s):
            raise error
        return cast(T, self._result)

    def exception(self, timeout_s: float | None = None) -> JobFailedError | None:
        """The failure, if any."""
        self.wait(timeout_s)
        return self._error

    def cancel(self) -> bool:
        """Nothing is left to cancel."""
        return False


class ProcessJob(Generic[T]):
    """A detached process, known only by its folder; see `cluster.api.Job`. Linux only: it reads /proc."""

    def __init__(self, folder: Path) -> None:
        record = jobfolder.read_json(folder / jobfolder.JOB)
        self.folder = folder
        self.job_id: str = record["job_id"]
        self.name: str = record["name"]
        self.resources = Resources(**record["resources"])
        self.log_path = folder / jobfolder.LOG

    @classmethod
    def open(cls, folder: Path) -> "ProcessJob[Any]":
        """Take up a job that some process submitted into `folder`, now or long ago.

        Raises:
            ValueError: No job is there, or it was started on another machine and has not ended.
        """
        folder = folder.absolute()
        if not (folder / jobfolder.PROCESS).exists():
            raise ValueError(f"{folder}: no job was started here; check the path, or submit it first.")
        host = jobfolder.read_json(folder / jobfolder.PROCESS)["host"]
        if host != jobfolder.Process.of(os.getpid()).host and not (folder / jobfolder.END).exists():
            raise ValueError(
                f"{folder}: the job was started on {host} and has not ended; look at it from there."
            )
        return cls(folder)

    @property
    def process(self) -> jobfolder.Process:
        """The process that watches the job; its pid leads the job's session."""
        return jobfolder.Process(**jobfolder.read_json(self.folder / jobfolder.PROCESS))

    @property
    def state(self) -> JobState:
        """Where the job stands, from its folder."""
        end = self._end()
        if end is None:
            return JobState.RUNNING
        if end.stopped_because == "cancelled":
            return JobState.CANCELLED
        has_result = (self.folder / jobfolder.RESULT).exists()
        return JobState.SUCCEEDED if has_result and end.stopped_because is None else JobState.FAILED

    def done(self) -> bool:
        """Whether the state is final."""
        return self._end() is not None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the job is done or the time is over; whether it is done."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = 0.01
        while not self.done():
            if deadline is not None and (pause_s := min(pause_s, deadline - time.monotonic())) <= 0:
                return False
            time.sleep(pause_s)
            pause_s = min(0.25, pause_s * 1.2)
        return True

    def result(self, timeout_s: float | None = None) -> T:
        """What the function returned; raises as `cluster.api.Job.result` says."""
        if error := self.exception(timeout_s):
            raise error
        return pickle.loads((self.folder / jobfolder.RESULT).read_bytes())

    def exception(self, timeout_s: float | None = None) -> JobFailedError | None:
        """The failure, None if there was none."""
        if not self.wait(timeout_s):
            raise TimeoutError(
                f"{title(self)} is not done after {timeout_s} s; it goes on. Log: {self.log_path}"
            )
        match self.state:
            case JobState.SUCCEEDED:
                return None
            case JobState.CANCELLED:
                raise concurrent.futures.CancelledError(f"{title(self)} was cancelled. Log: {self.log_path}")
            case _:
                return self._failure()

    def cancel(self) -> bool:
        """Ask the job to stop: SIGTERM, and SIGKILL after the launcher's grace period. False if it was done."""
        if self.done():
            return False
        (self.folder / jobfolder.CANCEL).touch()
        process = self.process
        with contextlib.suppress(ProcessLookupError):
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)
        return True

    def _end(self) -> jobfolder.End | None:
        """How it ended, None while it runs."""
        # Asked before the file is read: a watcher that ends in between has written its file by then.
        is_alive = self.process.is_alive()
        path = self.folder / jobfolder.END
        if path.exists():
            return jobfolder.End(**jobfolder.read_json(path))
        if is_alive:
            return None
        is_cancelled = (self.folder / jobfolder.CANCEL).exists()
        return jobfolder.End(None, None, "cancelled" if is_cancelled else None)

    def _failure(self) -> JobFailedError:
        end = self._end()
        assert end is not None
        path = self.folder / jobfolder.ERROR
        error = jobfolder.read_json(path) if path.exists() else None
        if end.stopped_because == "timeout":
            reason = f"stopped after its timeout_s of {self.resources.timeout_s:g} s; raise it, or give it less to do"
        elif error is not None:
            reason = error["summary"]
        elif end.signal_name is not None:
            hint = ", possibly out of memory" if end.signal_name == "SIGKILL" else ""
            reason = f"killed by {end.signal_name}{hint}"
        elif end.exit_code is not None:
            reason = f"exited with code {end.exit_code} without returning a result"
        else:
            reason = "vanished: killed from outside (SIGKILL), possibly out of memory, or the machine was restarted"
        detail = error["traceback"] if error is not None else f"The log ends with:\n{_tail(self.log_path)}"
        return JobFailedError(
            f"{title(self)}: {reason}\n\n{detail}\nLog: {self.log_path}",
            log_path=self.log_path,
            remote_traceback=None if error is None else error["traceback"],
            exit_code=end.exit_code,
            signal_name=end.signal_name,
        )


def title(job: "InlineJob[Any] | ProcessJob[Any]") -> str:
    """What to call a job in messages."""
    return f"job {job.name!r} ({job.job_id})"


def summary(error: BaseException) -> str:
    """Type and message of an exception, as a traceback's last line."""
    return "".join(traceback.format_exception_only(error)).strip()


def _tail(path: Path) -> str:
    return path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
