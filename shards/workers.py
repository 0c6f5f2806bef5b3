"""Many tasks on several processes that end with the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

WAITING_PER_WORKER = 8
"""Tasks that are handed out beforehand: enough that no worker waits, few enough to need no memory."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class WorkerDiedError(Exception):
    """A process of the pool is gone, mostly for want of memory."""


def run_all(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int
) -> Iterator[tuple[int, Result]]:
    """The result of each task with the task's number, as they come.

    With one job all happens in this process. If the caller stops early, the workers are gone before this returns.

    Args:
        function: Can be pickled, as can its argument and result.
        tasks: All of them.
        jobs: Processes; each computes with one thread.

    Raises:
        WorkerDiedError: A worker was killed.
        Exception: Whatever the function raises.
    """
    if jobs <= 1:
        yield from ((number, function(task)) for number, task in enumerate(tasks))
        return
    # Not forked: other threads of this process may hold locks that nobody would release in the child.
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    with _single_threaded(), held:
        pool = ProcessPoolExecutor(jobs, context, initializer=_watch, initargs=(watched,))
        try:
            yield from _run(pool, function, tasks, jobs * WAITING_PER_WORKER)
        except BrokenProcessPool as error:
            raise WorkerDiedError from error
        except BaseException:
            held.close()  # Ends the workers, even in the middle of a task.
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            watched.close()


def refuse_in_a_starting_worker() -> None:
    """Raises ValueError in a process that is only just importing the script which started it.

    Each worker imports the main script first. One that packs as it is imported would start workers without end.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ValueError(
            "packing was started while a worker imported this script; "
            "call it inside of: if __name__ == '__main__':"
        )


def _run(
    pool: ProcessPoolExecutor, function: Callable[[Task], Result], tasks: Sequence[Task], most: int
) -> Iterator[tuple[int, Result]]:
    waiting: dict[Future[Result], int] = {}
    for number, task in enumerate(tasks):
        if len(waiting) >= most:
            yield from _finished(waiting)
        with _without_interrupts():
            waiting[pool.submit(function, task)] = number
    while waiting:
        yield from _finished(waiting)


def _finished(waiting: dict[Future[Result], int]) -> Iterator[tuple[int, Result]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in sorted(done, key=lambda future: waiting[future]):
        yield waiting.pop(future), future.result()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C: a terminal sends it to all, and this one decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Libraries that are loaded inside, by the workers, start no threads of their own."""
    missing = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _watch(watched: Connection) -> None:
    """In a worker: ends it as soon as the other end of the pipe is closed, by will or by a kill."""

    def wait_for_the_end() -> None:
        with suppress(EOFError, OSError):
            watched.recv_bytes()
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
