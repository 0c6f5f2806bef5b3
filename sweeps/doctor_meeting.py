"""`python -m sweeps.doctor_meeting NUMBER COUNT ADDRESS PORT gloo|NCCL SECONDS`: nodes meet as the ranks of a trial do.

A process of its own, for a library that waits for a packet that never comes cannot be interrupted.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEGABYTES = 16


def main(arguments: list[str]) -> int:
    """Sums some numbers over all nodes, and prints how long that took."""
    from sr.ranks import OtherRankFailedError, Place, RankLostError, joined

    number, count, address, port, backend, patience = arguments
    place = Place(int(number), int(count), 0, address, int(port))
    try:
        with joined(place, device="cuda" if backend == "NCCL" else "cpu", timeout_s=float(patience)) as world:
            sys.stdout.write(_summed(world.device, int(count)))
    except (RankLostError, OtherRankFailedError, ValueError, OSError) as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 1
    return 0


def _summed(device: torch.device, count: int) -> str:
    import torch
    import torch.distributed as dist

    numbers = torch.ones(MEGABYTES * 250_000, device=device)
    dist.all_reduce(numbers)  # Connects.
    started = time.perf_counter()
    dist.all_reduce(numbers)
    right = bool((numbers == count * count).all())
    seconds = time.perf_counter() - started
    if not right:
        raise ValueError(f"the sum over {count} nodes is wrong")
    return f"{MEGABYTES} MB summed in {seconds * 1000:.0f} ms"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
