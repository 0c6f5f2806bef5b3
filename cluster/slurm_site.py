"""What SLURM tells of a site: its partitions and how it treats jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.slurm_queue import run


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of the cluster that a job may ask for."""

    name: str
    is_default: bool
    is_up: bool
    limit: str
    """Of time, as SLURM writes it."""
    nodes_up: int
    nodes: int
    cpus: str
    """Of each node; `16 or 64` where they differ."""
    gres: str
    """Such as `gpu:a100:4`; empty for none."""
    preempt_mode: str
    """What becomes of its jobs when others need the place: OFF, REQUEUE, CANCEL, SUSPEND."""
    grace_s: float
    """How long a job may go on once it is preempted."""


def version() -> str:
    """Of SLURM's commands on this machine, such as `slurm-wlm 22.05.8`."""
    return _asked("sinfo", "--version").strip()


def settings() -> dict[str, str]:
    """What `scontrol show config` tells.

    Raises:
        ConnectionError: SLURM does not answer, or is not on this machine.
    """
    lines = _asked("scontrol", "show", "config").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def partitions() -> list[Partition]:
    """All that one may name. Raises as `settings`."""
    rules = {
        found["PartitionName"]: found
        for line in _asked("scontrol", "--oneliner", "show", "partition").splitlines()
        if (found := dict(re.findall(r"(\w+)=(\S*)", line)))
    }
    # A line for each kind of node in a partition: allocated, idle, other and all nodes, and what they have.
    kinds: dict[str, list[list[str]]] = {}
    for line in _asked("sinfo", "--noheader", "--format=%P|%a|%l|%F|%c|%G").splitlines():
        name, *told = line.split("|")
        kinds.setdefault(name, []).append(told)
    return [_partition(name, told, rules.get(name.rstrip("*"), {})) for name, told in kinds.items()]


def _partition(name: str, kinds: list[list[str]], rules: dict[str, str]) -> Partition:
    counts = [[int(_number(count)) for count in nodes.split("/")] for _, _, nodes, _, _ in kinds]
    gres = [re.sub(r"\(.*?\)", "", kind[4]) for kind in kinds if kind[4] not in ("(null)", "N/A")]
    return Partition(
        name=name.rstrip("*"),
        is_default=name.endswith("*"),
        is_up=kinds[0][0] == "up",
        limit=kinds[0][1],
        nodes_up=sum(busy + idle for busy, idle, _, _ in counts),
        nodes=sum(total for _, _, _, total in counts),
        cpus=" or ".join(dict.fromkeys(kind[3] for kind in kinds)),
        gres=" or ".join(dict.fromkeys(gres)),
        preempt_mode=rules.get("PreemptMode", "OFF"),
        grace_s=_number(rules.get("GraceTime", "")),
    )


def answers_accounting() -> str:
    """Why sacct has nothing to say; empty where it works."""
    done = run("sacct", "--allocations", "--noheader", "--starttime=now")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return (lines or [f"exit code {done.returncode}"])[0] if done.returncode else ""


def hostnames(nodes: str) -> list[str]:
    """The nodes of a list as SLURM writes it, `n[1-2]`."""
    return _asked("scontrol", "show", "hostnames", nodes).split() if nodes else []


def _asked(*command: str) -> str:
    done = run(*command)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ConnectionError(f"{command[0]}: {(lines or ['no word of why'])[-1]}")
    return done.stdout


def _number(text: str) -> float:
    """The first number in a text; thousands may be written `1.2K`."""
    found = re.match(r"([\d.]+)(K?)", text)
    return float(found[1]) * (1000 if found[2] else 1) if found else 0.0
