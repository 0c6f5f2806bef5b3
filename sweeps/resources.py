"""What the ranks of a trial need, and how many trials a machine carries at once."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.machine import available_cpus, available_memory_bytes, num_gpus
from sweeps import tune
from sweeps.spec import PlannedTrial, SweepConfig


def this_machine() -> tune.Machines:
    """What this machine has for trials."""
    # Ray counts whole CPUs; a machine with a fractional quota still has one.
    return tune.Machines(max(1, int(available_cpus())), num_gpus(), available_memory_bytes())


def concurrency(
    config: SweepConfig, trials: Sequence[PlannedTrial], machines: tune.Machines | None = None
) -> int:
    """How many trials run at once: what the CPUs, the memory and the GPUs carry, and the file allows.

    Args:
        config: Says what a rank needs.
        trials: All of the sweep.
        machines: What there is; None: this machine.

    Raises:
        ValueError: Not even one trial fits.
    """
    has = machines or this_machine()
    engine = trials[0].config.engine
    ranks = f"{engine.ranks} rank{'s' * (engine.ranks > 1)}"
    cpus, gpus, gigabytes = (
        engine.ranks * engine.threads,
        engine.ranks * config.gpus_per_rank,
        engine.ranks * config.memory_gb_per_rank,
    )
    fewer = "use fewer ranks" if engine.ranks > 1 else "use a larger machine"
    limits = [len(trials), int(has.cpus // cpus), int(has.memory_bytes // (gigabytes * 1e9))]
    faults = []
    if limits[1] < 1:
        faults.append(
            f"engine.threads: a trial of {ranks} with {engine.threads} threads each needs {cpus} CPUs, of which there are "
            f"{has.cpus:g}; lower engine.threads or {fewer}"
        )
    if limits[2] < 1:
        faults.append(
            f"memory_gb_per_rank: a trial of {ranks} with {config.memory_gb_per_rank:g} GB each needs {gigabytes:g} GB, of "
            f"which {has.memory_bytes / 1e9:.1f} GB are available; lower memory_gb_per_rank if it needs less, or {fewer}"
        )
    if gpus:
        # A fraction is of one GPU, whatever is left on the others.
        limits.append(int(has.gpus // gpus if gpus >= 1 else has.gpus * (1 // gpus)))
        if limits[3] < 1:
            faults.append(
                f"gpus_per_rank: a trial of {ranks} with {config.gpus_per_rank:g} GPU each needs {gpus:g}, of which there "
                f"are {has.gpus:g}; set gpus_per_rank: 0 to compute on CPUs, {fewer}, or see: srloss doctor"
            )
    if faults:
        raise ValueError("\n".join(faults))
    return min(*limits, config.max_concurrent_trials or len(trials))
