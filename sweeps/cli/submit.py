"""`srloss submit` and `srloss resume`: sweeps on clusters, from the login node."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sweeps.cluster_section import ClusterSection
    from sweeps.spec import PlannedTrial, SweepConfig
    from sweeps.store import SweepFolder
    from sweeps.submission import Target
    from sweeps.sweep import Sweep

To = Annotated[str, typer.Option("--to", metavar="slurm|ray", help="Which scheduler.", show_default=False)]
Address = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster's dashboard, e.g. http://10.0.0.1:8265.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted, and submit nothing.")]
Store = Annotated[
    Path | None,
    typer.Option(
        help="Run store, on a file system that the nodes share; $SRLOSS_STORE, or ./runs.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def submit(
    file: Annotated[Path, typer.Argument(help="YAML file of the sweep, or the name of a recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings to change, as a.b=value; those of the job are cluster.NAME.",
            metavar="[a.b=c ...]",
        ),
    ] = None,
    to: To = "slurm",
    address: Address = None,
    dry_run: DryRun = False,
    small: Annotated[
        bool, typer.Option("--small", help="With the file's own changes for a rehearsal.")
    ] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Run a sweep on a cluster: one job of SLURM (or an array of trials), or one on an existing Ray cluster.

    What the job asks for is the file's `cluster:` block; srloss config schema cluster --sweep explains it. At a time limit or
    a preemption the job saves, is requeued and goes on. Submitted again, an unfinished sweep is continued.
    """
    from sweeps.cli.show import say
    from sweeps.recipes import file_or_recipe
    from sweeps.spec import read_sweep
    from sweeps.store import default_store
    from sweeps.submission import ready, target_of
    from sweeps.sweep import folder_of, plan

    target = target_of(to)
    root = store or default_store()
    config = read_sweep(file_or_recipe(file), overrides or [], small=small)
    section = config.cluster if address is None else config.cluster.model_copy(update={"address": address})
    if dry_run:
        trials = plan(config)
        say(
            f"{len(trials)} trials of {len({trial.candidate for trial in trials})} losses; nothing is submitted"
        )
        _show(config, trials, folder_of(config, trials, store=root), section, target)
        return
    sweep = ready(config, store=root, command=shlex.join(["srloss", *sys.argv[1:]]))
    _submitted(sweep, target, section, as_json=as_json)


def resume(
    sweep_id: Annotated[
        str | None,
        typer.Argument(help="Sweep id or its beginning; the latest if left out.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="What the job shall ask for instead, as cluster.NAME=value.", metavar="[cluster.b=c ...]"
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="slurm|ray", help="Which scheduler; the last one if left out.", show_default=False
        ),
    ] = None,
    address: Address = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Submit what is unfinished of a sweep again; failed and cancelled trials are tried again, from their checkpoints."""
    from sr.configfile import ConfigError, apply_overrides, validate
    from sweeps.cluster_section import ClusterSection
    from sweeps.store import default_store, find_sweep
    from sweeps.submission import last_section, last_target, target_of
    from sweeps.sweep import reopen

    changes = list(overrides or [])
    if sweep_id is not None and "=" in sweep_id:
        changes.insert(0, sweep_id)
        sweep_id = None
    if alien := [text for text in changes if not text.startswith("cluster.")]:
        raise ConfigError(
            [
                f"resume: {alien[0]}: only what the job asks for (cluster.NAME=value) can change in the middle of a sweep"
            ]
        )
    sweep = reopen(find_sweep(store or default_store(), sweep_id))
    target = target_of(to) if to else last_target(sweep.folder)
    if target is None:
        raise ConfigError(
            [
                f"resume: {sweep.folder.sweep_id} was never submitted; give --to slurm or --to ray, or run it on this machine "
                f"with: {sweep.folder.resume_command}"
            ]
        )
    plain = apply_overrides({"cluster": last_section(sweep).model_dump()}, changes)["cluster"]
    section = validate(ClusterSection, plain | ({"address": address} if address else {}), where="cluster")
    _submitted(sweep, target, section, as_json=as_json)


def _show(
    config: SweepConfig,
    trials: Sequence[PlannedTrial],
    folder: SweepFolder,
    section: ClusterSection,
    target: Target,
) -> None:
    """Prints what would be submitted."""
    from sweeps.cli.show import say
    from sweeps.slurm_submission import scripts

    if target == "ray":
        from cluster.ray_jobs import address_of

        say(f"one job on the Ray cluster at {address_of(section.address)}; results in {folder.path}")
        return
    for kind, text in scripts(config, trials, folder, section).items():
        say(f"--- {kind}: the script for sbatch")
        say(text.rstrip())


def _submitted(sweep: Sweep, target: Target, section: ClusterSection, *, as_json: bool) -> None:
    """Submits, and says how to go on."""
    from sweeps.cli.show import say, say_json
    from sweeps.submission import in_words, submit

    records = submit(sweep, to=target, section=section)
    if as_json:
        say_json({"sweep": sweep.folder.sweep_id, "jobs": [asdict(record) for record in records]})
        return
    say(f"sweep {sweep.folder.sweep_id} in {sweep.folder.path}")
    for record in records:
        what = {
            "sweep": f"all {len(sweep.trials)} trials",
            "array": f"an array of {len(record.trials)} trials",
            "finish": "evaluation and report, when the others are over",
        }[record.kind]
        say(f"  {in_words(record)}: {what}")
    at = ["--store", str(sweep.folder.path.parent.parent)]
    for command in (["status", "-w"], ["logs", "-f"], ["cancel"]):
        say("  " + shlex.join(["srloss", command[0], sweep.folder.sweep_id, *command[1:], *at]))
