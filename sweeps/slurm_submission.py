"""A sweep as jobs of SLURM: what they ask for, what they call, and what comes after an array."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster import slurm, slurm_queue
from cluster.records import JobRecord, Kind, now, write_record
from sr.configfile import ConfigError, unknown
from sr.ledger import State
from sweeps import slurm_far_side
from sweeps.cluster_section import ClusterSection
from sweeps.interrupt import listening
from sweeps.spec import PlannedTrial, SweepConfig
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep, reopen

_FINISH_MIN = 60
"""Time limit of what comes after an array; it is requeued like any other."""


def scripts(
    config: SweepConfig, trials: Sequence[PlannedTrial], folder: SweepFolder, section: ClusterSection
) -> dict[Kind, str]:
    """The batch scripts that `submit` would hand to sbatch, by what they do.

    Raises:
        ValueError: SLURM is not here, or the block does not fit the sweep.
    """
    check(config, trials, section)
    logs = _log_folder(folder)
    if section.mode == "ray":
        calls = [_sweep_call(folder, section)]
        return {"sweep": slurm.script(calls, folder=logs, parameters=_for_sweep(config, trials, section))}
    calls = [_trial_call(folder, trial, section) for trial in trials]
    finish = _for_finish(config, trials, section, after="ID-OF-THE-ARRAY")
    return {
        "array": slurm.script(calls, folder=logs, parameters=_for_array(config, trials, section)),
        "finish": slurm.script([_finish_call(folder, section, 1)], folder=logs, parameters=finish),
    }


def check(config: SweepConfig, trials: Sequence[PlannedTrial], section: ClusterSection) -> None:
    """Sees before anything is submitted whether the block can carry the sweep.

    Raises:
        ConfigError: It cannot, or names what this cluster does not have.
    """
    faults = faults_of_partition(section)
    engine = trials[0].config.engine
    if section.mode == "array":
        if config.method == "bayes" or config.early_terminate or config.population:
            faults.append(
                "cluster.mode: an array runs all trials for themselves, so it goes with method grid or random, without "
                "early_terminate and population; use cluster.mode=ray"
            )
        if engine.ranks % section.nodes:
            faults.append(
                f"cluster.nodes: {engine.ranks} ranks cannot be spread evenly over {section.nodes} nodes; use as many nodes as "
                "divide the ranks"
            )
    elif section.cpus_per_node is not None:
        needed = engine.ranks * engine.threads
        if needed > section.nodes * section.cpus_per_node:
            faults.append(
                f"cluster.cpus_per_node: one trial needs {needed} CPUs (ranks x engine.threads), and {section.nodes} nodes with "
                f"{section.cpus_per_node} have fewer; raise cluster.nodes or cluster.cpus_per_node"
            )
    faults += [
        f"cluster.{name}: a line break would be a line of the batch script; write it as one line"
        for name, value in section.model_dump().items()
        if "\n" in str(value if name != "slurm_setup" else "")
    ]
    if section.slurm_signal_delay_s >= section.timeout_min * 60:
        faults.append(
            f"cluster.slurm_signal_delay_s: {section.slurm_signal_delay_s} s before the end is before the beginning of "
            f"{section.timeout_min} minutes; lower it or raise cluster.timeout_min"
        )
    if faults:
        raise ConfigError(faults)


def submit(sweep: Sweep, section: ClusterSection, *, attempt: int = 1) -> list[JobRecord]:
    """Submits what is unfinished of a sweep.

    Args:
        sweep: Which nobody runs.
        section: What its jobs ask for.
        attempt: Counts the arrays that follow one another without a person.

    Raises:
        ValueError: SLURM refuses it.
    """
    config, folder = sweep.config, sweep.folder
    check(config, sweep.trials, section)
    logs = _log_folder(folder)
    # What jobs have left that were killed; a token among it.
    for old in logs.glob("ray-*"):
        shutil.rmtree(old, ignore_errors=True)
    if section.mode == "ray":
        parameters = _for_sweep(config, sweep.trials, section)
        job = slurm.submit([_sweep_call(folder, section)], folder=logs, parameters=parameters)
        return [_recorded(folder, job, "sweep", config.name, logs)]
    todo = sweep.with_state(State.PENDING, State.RUNNING)
    records = []
    after = ""
    if todo:
        calls = [_trial_call(folder, trial, section) for trial in todo]
        after = slurm.submit(calls, folder=logs, parameters=_for_array(config, todo, section))
        names = tuple(trial.trial_id for trial in todo)
        records.append(_recorded(folder, after, "array", config.name, logs, names))
    call = _finish_call(folder, section, attempt)
    job = slurm.submit(
        [call], folder=logs, parameters=_for_finish(config, sweep.trials, section, after=after)
    )
    return [*records, _recorded(folder, job, "finish", f"{config.name}-finish", logs)]


def finish_array(folder: Path, *, section: dict[str, Any], attempt: int) -> int:
    """What the job after an array does; returns the exit code.

    Raises:
        ValueError: The sweep is being run by somebody else, or SLURM refuses what is to be submitted again.
    """
    from sweeps import driver, jobs
    from sweeps.cli.follow import Follow
    from sweeps.cli.show import say
    from sweeps.tracking import fed

    sweep = reopen(SweepFolder(folder))
    unfinished = sweep.with_state(State.PENDING, State.RUNNING)
    if unfinished and attempt <= sweep.config.max_failures:
        say(f"{len(unfinished)} of {len(sweep.trials)} trials ended before they were done; submitted again")
        for record in submit(sweep, ClusterSection.model_validate(section), attempt=attempt + 1):
            say(f"  SLURM job {record.job_id}: {record.name}")
        return jobs.OK
    with listening() as interruption, fed(folder, sweep.trials[0].config.tracking, say=say) as feed:
        with Follow(sweep) as follow:
            driver.finish(sweep, progress=follow)
        return jobs.ended(sweep, interruption, feed)


def faults_of_partition(section: ClusterSection) -> list[str]:
    """What is wrong with the block's partition, by what SLURM has."""
    if section.slurm_partition is None:
        return []
    limits = slurm_queue.partitions()
    faults = []
    for name in section.slurm_partition.split(","):
        if name not in limits:
            faults.append(f"cluster.slurm_partition: {unknown('partition', name, limits)}")
            continue
        limit = limits[name]
        if limit is not None and section.timeout_min * 60 > limit:
            faults.append(
                f"cluster.timeout_min: {section.timeout_min}, but partition {name} allows {limit / 60:g} minutes; lower it, the "
                "job is requeued as often as it takes"
            )
    return faults


def parameters_of(section: ClusterSection, *, name: str) -> dict[str, Any]:
    """What every job of this block asks for, in submitit's vocabulary."""
    given = section.model_dump(
        include={"timeout_min", "mem_gb"} | {key for key in type(section).model_fields if "slurm_" in key}
    )
    given_more = {"requeue": True} | section.slurm_additional_parameters
    # sbatch has no "no" for its flags but to leave them out.
    more = {name: value for name, value in given_more.items() if value is not False}
    return given | {
        "name": name,
        "slurm_setup": list(section.slurm_setup) or None,
        "slurm_srun_args": list(section.slurm_srun_args),
        "slurm_exclusive": section.slurm_exclusive or None,
        "slurm_additional_parameters": more,
        "slurm_stderr_to_stdout": True,
    }


def _for_sweep(
    config: SweepConfig, trials: Sequence[PlannedTrial], section: ClusterSection
) -> dict[str, Any]:
    engine = trials[0].config.engine
    at_once = config.max_concurrent_trials or 1
    cpus = section.cpus_per_node or math.ceil(at_once * engine.ranks * engine.threads / section.nodes)
    gpus = section.gpus_per_node
    if gpus is None and section.slurm_gres is None and config.gpus_per_rank:
        gpus = math.ceil(at_once * engine.ranks * config.gpus_per_rank / section.nodes)
    common = parameters_of(section, name=config.name)
    # Whatever becomes of another node's task, the first node's work goes on; some sites have it otherwise.
    common["slurm_srun_args"] += [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=0"]
    return common | {
        "nodes": section.nodes,
        "tasks_per_node": 1,
        "cpus_per_task": cpus,
        "gpus_per_node": gpus,
    }


def _for_array(
    config: SweepConfig, trials: Sequence[PlannedTrial], section: ClusterSection
) -> dict[str, Any]:
    engine = trials[0].config.engine
    tasks = engine.ranks // section.nodes
    gpus = section.gpus_per_node
    if gpus is None and section.slurm_gres is None and config.gpus_per_rank:
        gpus = math.ceil(tasks * config.gpus_per_rank)
    common = parameters_of(section, name=config.name)
    # Since SLURM 22.05 srun does not take this over from sbatch.
    common["slurm_srun_args"] += [f"--cpus-per-task={engine.threads}"]
    at_once = section.slurm_array_parallelism or config.max_concurrent_trials or len(trials)
    return common | {
        "nodes": section.nodes,
        "tasks_per_node": tasks,
        "cpus_per_task": engine.threads,
        "gpus_per_node": gpus,
        "slurm_array_parallelism": at_once,
    }


def _for_finish(
    config: SweepConfig, trials: Sequence[PlannedTrial], section: ClusterSection, *, after: str
) -> dict[str, Any]:
    common = parameters_of(section, name=f"{config.name}-finish")
    more = dict(common["slurm_additional_parameters"])
    if after:
        more["kill-on-invalid-dep"] = "yes"
    return common | {
        "timeout_min": min(section.timeout_min, _FINISH_MIN),
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": trials[0].config.engine.threads,
        "gpus_per_node": (math.ceil(config.gpus_per_rank) or None) if section.slurm_gres is None else None,
        "slurm_array_parallelism": None,
        "slurm_nodelist": None,
        "slurm_dependency": f"afterany:{after}" if after else None,
        "slurm_additional_parameters": more,
        # Without srun it may submit again on every site; but a container comes with srun.
        "slurm_use_srun": bool(section.slurm_srun_args),
    }


def _sweep_call(folder: SweepFolder, section: ClusterSection) -> slurm.Call:
    return slurm.Call(
        slurm_far_side.sweep,
        {
            "folder": str(folder.path.resolve()),
            "meeting": str(_log_folder(folder)),
            "signal_delay_s": section.slurm_signal_delay_s,
            "environment": _environment(section),
        },
    )


def _trial_call(folder: SweepFolder, trial: PlannedTrial, section: ClusterSection) -> slurm.Call:
    return slurm.Call(
        slurm_far_side.trial,
        {
            "folder": str(folder.trial(trial.trial_id).folder.resolve()),
            "signal_delay_s": section.slurm_signal_delay_s,
            "environment": _environment(section),
        },
    )


def _finish_call(folder: SweepFolder, section: ClusterSection, attempt: int) -> slurm.Call:
    return slurm.Call(
        slurm_far_side.finish,
        {
            "folder": str(folder.path.resolve()),
            "signal_delay_s": section.slurm_signal_delay_s,
            "section": section.model_dump(),
            "attempt": attempt,
        },
    )


def _environment(section: ClusterSection) -> dict[str, str]:
    # Names in it are those of the node.
    return {"SRLOSS_NODE_CACHE": section.node_cache} if section.node_cache else {}


def _log_folder(folder: SweepFolder) -> Path:
    return (folder.path / "jobs" / "slurm").resolve()


def _recorded(
    folder: SweepFolder, job: str, kind: Kind, name: str, logs: Path, trials: tuple[str, ...] = ()
) -> JobRecord:
    record = JobRecord("slurm", job, kind, name, now(), str(logs), trials=trials)
    try:
        write_record(folder.path, record)
    except OSError as error:
        # Nobody would know of it.
        slurm_queue.cancel([job])
        raise OSError(
            f"{folder.path}: cannot be written to ({error}); SLURM job {job} was cancelled"
        ) from error
    return record
