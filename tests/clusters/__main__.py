"""A cluster to play with: starts it, prints what a shell needs to use it, and ends it at Ctrl-C.

    python -m tests.clusters slurm [--nodes n1,n2] [--cpus 2] [--accounting] [--preempt-send-user-signal]
    python -m tests.clusters ray [--nodes head,worker] [--cpus 1]

As root, from the root of the repository, for instance in a second terminal:

    sudo .venv/bin/python -m tests.clusters slurm --accounting --env /tmp/cluster.env
    . /tmp/cluster.env && srun -N2 hostname && srloss submit sweep.yaml --to slurm

Folders in /tmp are each node's own: a run store there needs --share. `kill NAME`, `revive NAME`, `logs` and
`run NAME COMMAND...` typed at its prompt do that.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path

from tests.clusters.hosts import HostFailed, NoHosts
from tests.clusters.ray_cluster import RayCluster
from tests.clusters.slurm import NoSlurm, SlurmCluster


def main() -> int:
    """Command line; see the module."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tests.clusters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--nodes", help="names, with commas between")
    common.add_argument("--cpus", type=int, default=2, help="CPUs of each node")
    common.add_argument(
        "--share", type=Path, action="append", default=[], help="a folder in /tmp that nodes see too"
    )
    common.add_argument("--prefix", help="name of the network interface; by default random")
    common.add_argument("--env", type=Path, help="also write the export lines to this file")
    slurm = kinds.add_parser("slurm", parents=[common])
    slurm.add_argument(
        "--accounting", action="store_true", help="with slurmdbd and MariaDB, so that sacct works"
    )
    slurm.add_argument(
        "--preempt-send-user-signal", action="store_true", help="preempted jobs get their --signal"
    )
    kinds.add_parser("ray", parents=[common])
    options = parser.parse_args()
    try:
        with _cluster(options) as cluster:
            _announce(cluster, options.env)
            _prompt(cluster)
    except KeyboardInterrupt:
        pass
    except (NoHosts, NoSlurm, HostFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _cluster(options: argparse.Namespace) -> SlurmCluster | RayCluster:
    plain = {"cpus": options.cpus, "prefix": options.prefix, "share": options.share}
    if options.nodes:
        plain["nodes"] = options.nodes.split(",")
    if options.kind == "ray":
        return RayCluster(**plain)
    return SlurmCluster(
        accounting=options.accounting, preempt_send_user_signal=options.preempt_send_user_signal, **plain
    )


def _announce(cluster: SlurmCluster | RayCluster, env: Path | None) -> None:
    lines = [f"export {key}={shlex.quote(value)}" for key, value in cluster.env.items()]
    if env:
        env.write_text("\n".join([*lines, ""]))
    lines += [f"# {name} is {cluster.host(name).address}" for name in cluster.nodes]
    print("\n".join([*lines, f"# logs: {cluster.folder / 'log'}", "# Ctrl-C ends it"]), flush=True)


def _prompt(cluster: SlurmCluster | RayCluster) -> None:
    while line := sys.stdin.readline():
        try:
            match shlex.split(line):
                case ["kill", name]:
                    cluster.kill_node(name)
                case ["revive", name]:
                    cluster.revive_node(name)
                case ["logs"]:
                    print(cluster.logs(), flush=True)
                case ["run", name, *command] if command:
                    print(cluster.host(name).run(command), end="", flush=True)
                case []:
                    pass
                case _:
                    print(
                        "kill NAME, revive NAME, run NAME COMMAND..., logs; Ctrl-C ends the cluster",
                        flush=True,
                    )
        except (HostFailed, AssertionError, KeyError, ValueError) as error:
            print(f"{type(error).__name__}: {error}", flush=True)
    while True:  # started without a terminal: it ends when it is told to
        time.sleep(3600)


if __name__ == "__main__":
    # SIGTERM as Ctrl-C, so that the cluster's folder goes too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
