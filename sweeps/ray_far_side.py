"""The far side of `srloss submit --to ray`: `python -m sweeps.ray_far_side FOLDER --expect JSON`, a job on Ray's head.

It makes sure that all machines of the cluster are fit for the sweep, and runs it on them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Runs the sweep; returns its exit code."""
    parser = argparse.ArgumentParser(prog="sweeps.ray_far_side")
    parser.add_argument("folder", type=Path, help="the sweep's")
    parser.add_argument("--expect", type=json.loads, required=True, help="versions where it was submitted")
    parser.add_argument("--ships-code", action="store_true", help="srloss came with the job")
    parser.add_argument("--grace", type=float, required=True, help="seconds to save when stopped")
    given = parser.parse_args(arguments)
    try:
        return _run(given.folder, given.expect, ships_code=given.ships_code, grace_s=given.grace)
    except (ValueError, OSError) as error:
        sys.stdout.flush()
        sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
        return 1


def _run(folder: Path, wanted: Mapping[str, str], *, ships_code: bool, grace_s: float) -> int:
    from sweeps.store import SweepFolder
    from sweeps.sweep import reopen

    if not (folder / "plan.json").exists():
        raise ValueError(
            f"the head of the Ray cluster does not see the run store ({folder}); the store must be on a file system "
            "that all nodes share"
        )
    data = reopen(SweepFolder(folder)).trials[0].config.data.path

    @contextmanager
    def fit_cluster() -> Iterator[str]:
        from sweeps.tune import existing_ray
        from sweeps.tune.nodes import check_nodes

        # Ray says where it is in the environment of its jobs.
        with existing_ray("auto"):
            check_nodes(wanted, folder=folder, data=str(data), ships_code=ships_code)
        yield "auto"

    from sweeps.jobs import run_sweep

    return run_sweep(folder, ray=fit_cluster, grace_s=grace_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
