"""Real ranks for tests: processes that meet, compute on the CPU, and hand back what they found."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from sr.ranks import free_port


def on_ranks(
    fn: Callable[..., Any], ranks: int, *args: Any, timeout_s: float = 120, trials: int = 1
) -> list[Any]:
    """Runs `fn(world, *args)` on `ranks` processes that joined as one trial does; the results, in the order of ranks.

    Also one rank gets a process group of its own. `fn` must be importable: a function at the top of a test's module, or
    of any other. Results travel pickled. Ranks wait for each other half of `timeout_s`, so that they can say whom they
    missed. The first call starts a server that has torch imported already, and from which
    ranks are forked within milliseconds; it ends with the tests.

    Raises:
        AssertionError: A rank failed, died or did not end within `timeout_s`; says which, with its traceback.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    ports = [free_port() for _ in range(trials)]
    processes, pipes = [], []
    for rank in range(ranks):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_rank,
            args=(theirs, dict(os.environ), rank, ranks, ports, timeout_s, fn, args),
            daemon=True,
        )
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    deadline = time.monotonic() + timeout_s
    try:
        answers = [_answer(pipe, deadline) for pipe in pipes]
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
    failures = [
        f"--- rank {rank} of {ranks}: {answer[1] or f'ended without an answer, exit code {code}'}"
        for rank, (answer, code) in enumerate(zip(answers, codes, strict=True))
        if not answer[0] or code != 0
    ]
    assert not failures, "\n".join(failures)
    return [pickle.loads(answer[1]) for answer in answers]


def _answer(pipe: Connection, deadline: float) -> tuple[bool, Any]:
    try:
        if not pipe.poll(max(0.0, deadline - time.monotonic())):
            return False, "no answer in time"
        return pipe.recv()
    except EOFError:
        return False, ""


def _rank(
    pipe: Connection,
    environment: dict[str, str],
    rank: int,
    ranks: int,
    ports: list[int],
    timeout_s: float,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    # The server has the environment of when it started.
    os.environ.clear()
    os.environ.update(environment)
    import torch

    from sr.ranks import Place, joined

    torch.set_num_threads(1)
    try:
        answer = b""
        for port in ports:
            place = Place(rank, ranks, rank, "127.0.0.1", port)
            with joined(place, device="cpu", timeout_s=timeout_s / 2) as world:
                # Not by the pipe itself, which would put tensors into shared memory that ends with this process.
                answer = pickle.dumps(fn(world, *args))
        pipe.send((True, answer))
    except BaseException:  # noqa: BLE001 - told to the test, which fails
        pipe.send((False, traceback.format_exc()))
        raise SystemExit(1) from None
