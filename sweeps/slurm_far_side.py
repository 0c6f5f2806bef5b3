"""What the jobs of a sweep do on SLURM's nodes. Each function is the work of one job, or of one of its tasks."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.hold_signals import release
from sweeps.interrupt import Interruption, listening

_MARGIN_S = 15.0
"""Of the time between SLURM's signal and its end, kept for taking Ray down and requeueing."""


def sweep(folder: str, meeting: str, *, signal_delay_s: float, environment: dict[str, str]) -> int:
    """All of a sweep, on a Ray cluster over the allocation; runs once on each node.

    Args:
        folder: The sweep's.
        meeting: Where the nodes meet.
        signal_delay_s: How long before the end SLURM sends its signal.
        environment: Variables for this job alone.
    """
    from cluster import ray_on_slurm
    from sweeps.cli.show import say

    os.environ.update({name: os.path.expandvars(value) for name, value in environment.items()})
    allocation = ray_on_slurm.Allocation.from_environment(Path(meeting))
    if not allocation.is_first:
        ray_on_slurm.serve(allocation, say=say)
        # Whatever may still fail here, such as writing down that all is well on a full disk, is no failure of the job.
        sys.stdout.flush()
        os._exit(0)

    def work(interruption: Interruption) -> int:
        from sweeps.jobs import run_sweep

        ray = functools.partial(
            ray_on_slurm.head,
            allocation,
            say=say,
            stop=interruption.reason,
            last_words=functools.partial(_begin_again, Path(folder)),
        )
        return run_sweep(Path(folder), ray=ray)

    return _ended(work, signal_delay_s)


def trial(folder: str, *, signal_delay_s: float, environment: dict[str, str]) -> int:
    """One trial, of which this process is a rank that SLURM has started."""
    os.environ.update({name: os.path.expandvars(value) for name, value in environment.items()})

    def work(interruption: Interruption) -> int:
        from sr.ledger import open_trial
        from sweeps.jobs import run_train

        ledger, config = open_trial(Path(folder))
        if ledger.status().has_ended and not ledger.status().is_over:
            # Failed or cancelled; a person may ask for it again.
            return 0
        return run_train(Path(folder), engine=config.engine, grace_s=interruption.grace_s)

    return _ended(work, signal_delay_s)


def finish(folder: str, *, signal_delay_s: float, section: dict[str, Any], attempt: int) -> int:
    """What comes after the array: unfinished trials are submitted again; else evaluation, report and verdict.

    Args:
        folder: The sweep's.
        signal_delay_s: As above.
        section: The sweep's `cluster` block.
        attempt: Which array it was, from 1.
    """

    def work(_: Interruption) -> int:
        from sweeps.slurm_submission import finish_array

        return finish_array(Path(folder), section=section, attempt=attempt)

    return _ended(work, signal_delay_s)


def _begin_again(folder: Path) -> str:
    """Has SLURM start the job anew after a loss that is nobody's fault; what came of it, in words."""
    from cluster.requeue import requeued
    from sweeps.jobs import progress_of
    from sweeps.store import SweepFolder
    from sweeps.sweep import reopen

    sweep = reopen(SweepFolder(folder))
    return requeued("SIGUSR2", folder=folder, progress=progress_of(sweep))


def _ended(work: Callable[[Interruption], int], signal_delay_s: float) -> int:
    """Does the work and ends as a command would: a user's mistake is a message, and the exit code tells how it went."""
    code = 1
    with listening(grace_s=max(signal_delay_s - _MARGIN_S, 5.0)) as interruption:
        release()
        try:
            code = work(interruption)
        except (ValueError, OSError) as error:
            sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
    if code:
        sys.exit(code)
    return code
