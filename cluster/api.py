"""What every launcher and every job have in common, in the vocabulary of concurrent.futures."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Resources:
    """What a job asks for. Launchers on one machine record it and enforce only the timeout."""

    num_nodes: int = 1
    """Machines, each with the amounts below."""
    cpus: int = 1
    """CPU cores per node."""
    gpus: int = 0
    """GPUs per node."""
    memory_gb: float | None = None
    """Memory per node in units of 10**9 bytes; None leaves it to the launcher."""
    timeout_s: float | None = None
    """Seconds of running, not of waiting in a queue, before the job is stopped; None means no limit."""

    def __post_init__(self) -> None:
        """Refuse amounts that no machine could give."""
        for field, value, least in (
            ("num_nodes", self.num_nodes, 1),
            ("cpus", self.cpus, 1),
            ("gpus", self.gpus, 0),
        ):
            if value < least:
                raise ValueError(f"Resources.{field}: got {value}; give {least} or more.")
        for field, amount in (("memory_gb", self.memory_gb), ("timeout_s", self.timeout_s)):
            if amount is not None and not amount > 0:
                raise ValueError(
                    f"Resources.{field}: got {amount}; give a positive number, or None for no limit."
                )


class JobState(StrEnum):
    """Where a job stands. The last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobFailedError(Exception):
    """A job ended without a result. The message holds the remote traceback and the path of the log."""

    def __init__(
        self,
        message: str,
        *,
        log_path: Path | None = None,
        remote_traceback: str | None = None,
        exit_code: int | None = None,
        signal_name: str | None = None,
    ) -> None:
        """Keep the parts beside the message.

        Args:
            message: Complete text for a reader; the other arguments repeat parts of it for programs.
            log_path: Output of the job.
            remote_traceback: As Python printed it where the function ran; None if the process died without one.
            exit_code: Of the process, if it exited by itself.
            signal_name: What killed it, such as "SIGKILL".
        """
        super().__init__(message)
        self.log_path = log_path
        self.remote_traceback = remote_traceback
        self.exit_code = exit_code
        self.signal_name = signal_name


class Job(Protocol[T_co]):
    """A submitted call, as concurrent.futures.Future has it, but it may live in another process."""

    @property
    def job_id(self) -> str:
        """Unique name in the launcher's own terms."""
        ...

    @property
    def name(self) -> str:
        """What the submitter called it; need not be unique."""
        ...

    @property
    def resources(self) -> Resources:
        """What it asked for."""
        ...

    @property
    def state(self) -> JobState:
        """Where it stands now."""
        ...

    @property
    def log_path(self) -> Path:
        """File with its output, there from the start."""
        ...

    def done(self) -> bool:
        """Whether the state is final."""
        ...

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the job is done or `timeout_s` is over; whether it is done."""
        ...

    def result(self, timeout_s: float | None = None) -> T_co:
        """What the function returned.

        Raises:
            JobFailedError: The function raised, or its process died or ran out of time.
            concurrent.futures.CancelledError: The job was cancelled.
            TimeoutError: It is not done after `timeout_s`; it goes on running.
        """
        ...

    def exception(self, timeout_s: float | None = None) -> JobFailedError | None:
        """The failure, None if there was none. Raises as `result` where the job was cancelled or is not done."""
        ...

    def cancel(self) -> bool:
        """Ask the job to stop and return at once; False if it was done already. `wait` tells when it has stopped."""
        ...


class Launcher(Protocol):
    """A place where functions can run."""

    def submit(
        self,
        fn: Callable[..., T],
        *args: object,
        resources: Resources,
        name: str,
        folder: Path,
        **kwargs: object,
    ) -> Job[T]:
        """Start `fn(*args, **kwargs)`.

        Args:
            fn: A function that can be imported by name; the far side gets only "module:qualname".
            args: Arguments; they must survive pickle unless the launcher runs in this process.
            resources: What the job may use.
            name: For people and queue listings.
            folder: The job's own; it must be empty or absent, and gets mode 0700.
            kwargs: Keyword arguments. A parameter called resources, name or folder must go by position.

        Raises:
            ValueError: The function, an argument, the folder or the resources cannot be used here.
        """
        ...


def reference_to(fn: Callable[..., object]) -> str:
    """Name of a function as "module:qualname", so that another process can import it.

    Raises:
        ValueError: The name does not lead back to `fn`: a lambda, a local function, a bound method, a partial,
            or anything in the script that is being run.
    """
    module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    advice = "Define it with def at the top level of an importable module, and pass data as arguments."
    if not module or not qualname:
        raise ValueError(f"{fn!r} has no name to import it by. {advice}")
    if module == "__main__":
        raise ValueError(
            f"{qualname} is defined in the script being run, which a job cannot import. {advice}"
        )
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is not fn:
        raise ValueError(f"{module}:{qualname} cannot be imported by that name. {advice}")
    return f"{module}:{qualname}"
