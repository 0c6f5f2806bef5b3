"""Which schedulers this machine can hand a sweep to, and how they treat jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from cluster import slurm_queue, slurm_site
from cluster.ray_jobs import ADDRESS_VARIABLES, address_of, version_at
from cluster.slurm_site import Partition
from sweeps.doctor import Check, Outcome, guarded

_SHOWN = 8
"""Partitions told of by name; some sites have fifty."""
_SAVE_S = 15.0
"""What a trial needs to save, roughly."""
_FATE = {
    "REQUEUE": "a preempted job is requeued",
    "CANCEL": "a preempted job is ended",
    "SUSPEND": "a preempted job is suspended, and goes on later",
}


def examine() -> list[Check]:
    """What there is of SLURM and Ray; asks them, and changes nothing."""
    return [*slurm(), Check("ray cluster", *guarded(_ray_cluster))]


def slurm() -> list[Check]:
    """What SLURM says of itself; one line where there is none, or where it does not answer."""
    if not slurm_queue.is_here():
        return [Check("slurm", "ok", "none on this machine")]
    try:
        version = slurm_site.version()
        settings, partitions = slurm_site.settings(), slurm_site.partitions()
    except ConnectionError as error:
        fix = "see: scontrol ping; where this machine belongs to no cluster, never mind"
        return [Check("slurm", "warning", f"its commands are here, but it does not answer: {error}", fix)]
    checks: dict[str, Callable[[], Outcome]] = {
        "slurm": lambda: ("ok", f"{version}, cluster {settings.get('ClusterName', '?')}, it answers", ""),
        "slurm partitions": partial(of_partitions, partitions),
        "slurm accounting": partial(_accounting, settings),
        "slurm preemption": partial(of_preemption, settings, partitions),
    }
    return [Check(name, *guarded(check)) for name, check in checks.items()]


def of_partitions(partitions: Sequence[Partition]) -> Outcome:
    """Where a job may run."""
    found = "; ".join(_in_words(partition) for partition in partitions[:_SHOWN])
    if len(partitions) > _SHOWN:
        found += f"; and {len(partitions) - _SHOWN} more, see: sinfo"
    if not any(partition.is_up and partition.nodes_up for partition in partitions):
        return (
            "problem",
            f"{found or 'none'}; no node can take a job",
            "see: sinfo --list-reasons; ask the site",
        )
    default = [partition for partition in partitions if partition.is_default]
    if not default:
        return (
            "warning",
            f"{found}; none is the default",
            f"cluster.slurm_partition={partitions[0].name}, say",
        )
    return "ok", found, ""


def _in_words(partition: Partition) -> str:
    limit = "no time limit" if partition.limit == "infinite" else f"at most {partition.limit}"
    parts = [f"{partition.nodes_up} of {partition.nodes} nodes up", f"{partition.cpus} CPUs each", limit]
    if partition.gres:
        parts.insert(2, partition.gres)
    if not partition.is_up:
        parts.append("closed")
    return f"{partition.name}{' (default)' * partition.is_default}: {', '.join(parts)}"


def _accounting(settings: dict[str, str]) -> Outcome:
    if settings.get("AccountingStorageType", "accounting_storage/none").endswith("/none"):
        return "ok", "none; jobs that ended some minutes ago are known from the run store alone", ""
    if why := slurm_site.answers_accounting():
        return "warning", f"configured, but sacct says: {why}", "tell the site; srloss goes on without"
    return "ok", "yes, sacct answers", ""


def of_preemption(settings: dict[str, str], partitions: Sequence[Partition]) -> Outcome:
    """What becomes of a job that has to make room for another."""
    kind = settings.get("PreemptType", "preempt/none").removeprefix("preempt/")
    signalled = "preempt_send_user_signal" in settings.get("SlurmctldParameters", "")
    told = "told by USR2 (preempt_send_user_signal)" if signalled else "told by SIGTERM"
    if kind == "qos":
        see = "what each qos does, and GraceTime, its time to save, say: sacctmgr show qos format=name,preemptmode,gracetime"
        return "ok", f"by qos; a preempted job is {told}; {see}", ""
    hit = [partition for partition in partitions if partition.preempt_mode != "OFF"]
    if kind == "none" or not hit:
        return "ok", "none: a job that runs is left alone until its time limit", ""
    found = "; ".join(
        f"{partition.name}: {_FATE.get(partition.preempt_mode, partition.preempt_mode)}, {told}, "
        f"{partition.grace_s:g} s to save (GraceTime)"
        for partition in hit[:_SHOWN]
    )
    if lost := [partition.name for partition in hit if partition.preempt_mode == "CANCEL"]:
        fix = f"after a preemption in {', '.join(lost)}: srloss resume; or another cluster.slurm_partition"
        return "warning", f"{found}; SLURM does not requeue them", fix
    if hasty := [partition.name for partition in hit if partition.grace_s < _SAVE_S]:
        return (
            "warning",
            f"{found}; too short, so what was trained since the last checkpoint is trained again",
            f"in {', '.join(hasty)}: a lower training.checkpoint_every; or ask the site for a longer GraceTime",
        )
    return "ok", found, ""


def _ray_cluster() -> Outcome:
    named = next((name for name in ADDRESS_VARIABLES if os.environ.get(name)), None)
    if named is None:
        return "ok", f"none named by ${' or $'.join(ADDRESS_VARIABLES)}; sweeps run on a Ray of their own", ""
    try:
        address = address_of(None)
        return "ok", f"Ray {version_at(address)} at {address}", ""
    except (ValueError, ConnectionError) as error:
        return "warning", f"${named}: {error}", f"correct it, or: unset {named}"
