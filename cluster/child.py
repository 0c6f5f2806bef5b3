"""The far side of ProcessLauncher: `python -m cluster.child FOLDER`.

Two processes. The watcher enforces the timeout, passes a cancel on and records how the job ended, which nobody else
could once the submitter is gone. The other, forked from it, runs the function in a process group of its own.
"""

import contextlib
import faulthandler
import importlib
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster import jobfolder
from cluster.fate import die_with


def main(folder: Path) -> int:
    """Run the job in `folder` to its end; the exit status is the function's, where this process is it."""
    job = jobfolder.read_json(folder / jobfolder.JOB)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # A submitter that ignores it would hand that down.
    # Blocked before the fork so that no signal is lost between the fork and the first wait for one.
    watched = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    watcher = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.setpgid(0, 0)
        die_with(watcher)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        faulthandler.enable()
        return _run(folder, job)
    os.setpgid(worker, worker)
    end = _watch(worker, job, folder)
    # Whatever the function has started ends with it. It is reaped only then: until it is, the number of its group
    # cannot pass to a stranger.
    _signal_group(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    if end.exit_code != 0 and (folder / jobfolder.RESULT).exists():
        print(f"The function returned, but its process then ended badly: {end}", flush=True)  # noqa: T201 (the log)
    jobfolder.write_json(folder / jobfolder.END, asdict(end))
    return 0


def _watch(worker: int, job: dict[str, Any], folder: Path) -> jobfolder.End:
    """Wait for the worker; on SIGTERM or timeout ask it to stop, and after the grace period make it."""
    timeout_s = job["resources"]["timeout_s"]
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    stopped_because: str | None = None
    stopping = False
    while (ended := os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
        left_s = 3600.0 if deadline is None else max(0.0, deadline - time.monotonic())
        received = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, min(left_s, 3600.0))
        is_term = received is not None and received.si_signo == signal.SIGTERM
        is_late = deadline is not None and time.monotonic() >= deadline
        if stopping and is_late:
            _signal_group(worker, signal.SIGKILL)
            deadline = None
        elif not stopping and (is_term or is_late):
            stopping = True
            is_cancelled = is_term and (folder / jobfolder.CANCEL).exists()
            stopped_because = "cancelled" if is_cancelled else None if is_term else "timeout"
            deadline = time.monotonic() + job["grace_s"]
            _signal_group(worker, signal.SIGTERM)
    has_exited = ended.si_code == os.CLD_EXITED
    return jobfolder.End(
        exit_code=ended.si_status if has_exited else None,
        signal_name=None if has_exited else jobfolder.signal_name(ended.si_status),
        stopped_because=stopped_because,
    )


def _signal_group(worker: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # The whole group may have ended by itself.
        os.killpg(worker, number)


def _run(folder: Path, job: dict[str, Any]) -> int:
    """Call the function and leave its result, or the traceback it ended with."""
    _restore_path(job)
    try:
        fn = _resolve(job["function"])
        args, kwargs = pickle.loads((folder / jobfolder.ARGUMENTS).read_bytes())
        jobfolder.write_atomically(folder / jobfolder.RESULT, _pickled(fn(*args, **kwargs)))
    except BaseException as error:  # noqa: BLE001 (reported to the submitter; the process ends here)
        text = "".join(traceback.format_exception(error))
        print(text, file=sys.stderr, flush=True)  # noqa: T201 (the log)
        summary = "".join(traceback.format_exception_only(error)).strip()
        jobfolder.write_json(folder / jobfolder.ERROR, {"summary": summary, "traceback": text})
        return 1
    return 0


def _pickled(value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception as error:
        raise ValueError(
            f"the function returned a {type(value).__name__} that cannot be pickled; "
            "return plain data, or write it to a file and return the path."
        ) from error


def _restore_path(job: dict[str, Any]) -> None:
    """Import from where the submitter did, and hand programs that the function starts the submitter's PYTHONPATH."""
    sys.path[:] = job["sys_path"]
    if job["pythonpath"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = job["pythonpath"]


def _resolve(reference: str) -> Callable[..., Any]:
    module, _, qualname = reference.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
