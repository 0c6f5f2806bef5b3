"""Checks on every machine of a Ray cluster: the same srloss, and the same folders."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_START_S = 60.0
"""How long a machine may take to start a process."""
_LOOK_EVERY_S = 0.5


def check_nodes(
    wanted: Mapping[str, str], *, folder: Path, data: str, wait_s: float = 60.0, ships_code: bool = False
) -> None:
    """Looks on every machine of the cluster that this process is connected to.

    Args:
        wanted: What `sweeps.code.versions` says where the sweep was submitted.
        folder: Of the sweep; every machine must see what this one writes there.
        data: The data set; not looked for where it is a URL.
        wait_s: How long a machine may take to see a new file, as network file systems do.
        ships_code: Whether srloss was sent with the job.

    Raises:
        ValueError: A machine has another srloss, or none, or does not see a folder; a line for each.
    """
    token = secrets.token_hex(8)
    seen = folder / f".seen-{token}"
    seen.write_text(token, encoding="utf-8")
    try:
        found = on_every_node(_look(seen, token, data, wait_s), patience_s=_START_S + wait_s)
    finally:
        seen.unlink(missing_ok=True)
    faults = [
        f"{node}: {fault}"
        for node, answer in found.items()
        for fault in faults_of(answer, wanted, folder=folder, data=data, ships_code=ships_code)
    ]
    if faults:
        raise ValueError("\n".join(faults))


def faults_of(
    answer: Mapping[str, Any], wanted: Mapping[str, str], *, folder: Path, data: str, ships_code: bool
) -> list[str]:
    """What is wrong with a machine that gave this answer, and what to do."""
    if "failure" in answer:
        return [f"the check could not be made there: {answer['failure']}"]
    if "missing" in answer:
        cure = (
            "install its dependencies" if ships_code else "install it, or send yours: cluster.ship_code=true"
        )
        return [f"srloss cannot be imported there ({answer['missing']}); {cure}"]
    faults = []
    different = {name: has for name, has in answer["versions"].items() if has != wanted[name]}
    if different:
        there = ", ".join(f"{name} {has}" for name, has in different.items())
        here = ", ".join(f"{name} {wanted[name]}" for name in different)
        cure = "install the same there"
        if "srloss" in different and not ships_code:
            cure += ", or send yours: cluster.ship_code=true"
        faults.append(f"has {there}; the sweep was submitted with {here}; {cure}")
    if not answer["sees_folder"]:
        faults.append(
            f"does not see the run store ({folder}); the store must be on a file system that all nodes share"
        )
    if not answer["sees_data"]:
        faults.append(
            f"does not see the data set ({data}); it must be on a file system that all nodes share, or at a URL"
        )
    return faults


def sees(path: Path, text: str, *, wait_s: float) -> bool:
    """Whether a file with this text is there, or comes within `wait_s`."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            # To list the folder makes an NFS client look again.
            list(path.parent.iterdir())
            if path.read_text(encoding="utf-8") == text:
                return True
        except OSError:
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_EVERY_S)


def _look(seen: Path, token: str, data: str, wait_s: float) -> Callable[..., dict[str, Any]]:
    path = str(seen)

    # Sent as it is, being local: it has to run where srloss cannot be imported, and say so.
    def look(*_: object) -> dict[str, Any]:
        try:
            from pathlib import Path

            from shards.manifest import DATASET_FILE
            from sweeps.code import versions
            from sweeps.tune.nodes import sees

            found = versions()
        except ImportError as error:
            return {"missing": str(error)}
        return {
            "versions": found,
            "sees_folder": sees(Path(path), token, wait_s=wait_s),
            "sees_data": "://" in data or Path(data, DATASET_FILE).exists(),
        }

    return look


def on_every_node(look: Callable[..., dict[str, Any]], *, patience_s: float) -> dict[str, dict[str, Any]]:
    """What `look(number, addresses)` returns on each machine, by the machine's name and address; all run at once.

    Args:
        look: Of its arguments the second are the machines' addresses, and the first is the place of its own in them.
        patience_s: How long to wait for all.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(num_cpus=0, max_retries=0)(look)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    addresses = [node["NodeManagerAddress"] for node in nodes]
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            number, addresses
        ): (f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})")
        for number, node in enumerate(nodes)
    }
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=patience_s)
    found: dict[str, dict[str, Any]] = {}
    for reference, name in asked.items():
        if reference not in done:
            found[name] = {"failure": f"no answer within {patience_s:.0f} s"}
            continue
        try:
            found[name] = ray.get(reference)
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            found[name] = {"failure": str(cause).strip().splitlines()[-1]}
    return found
