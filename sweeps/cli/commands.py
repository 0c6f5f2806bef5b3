"""What the commands do, once the command line is parsed. Imported only when a command runs."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from cluster.api import JobFailedError, Resources
from cluster.local import InlineLauncher, ProcessLauncher
from shards import manifest
from sr.config import TrialConfig, parse_trial, to_plain
from sr.configfile import ConfigError, apply_overrides, read_yaml, unknown
from sr.ledger import Ledger, trial_id
from sr.ranks import place_from_environment
from sweeps import agendas, jobs
from sweeps.cli.show import say, say_json
from sweeps.recipes import file_or_recipe, recipe_names, recipe_path
from sweeps.resources import concurrency
from sweeps.spec import SweepConfig, read_sweep
from sweeps.store import default_store, find_sweep
from sweeps.sweep import create, plan, reopen


def train(
    file: Path,
    overrides: Sequence[str],
    *,
    store: Path | None,
    detach: bool,
    grace_s: float,
    max_failures: int,
) -> int:
    """Trains one trial."""
    plain = apply_overrides(read_yaml(file), overrides)
    config = _bound(parse_trial(plain))
    if plain.get("ladder") is not None and config.ladder is None:
        raise ConfigError(
            [
                "ladder: has no effect, for the loss has no adversarial term and so no discriminator that could climb; add one, "
                "e.g. loss: ... + 0.01*gan_ragan, or remove the ladder"
            ]
        )
    place = place_from_environment()
    if place is not None:
        if detach:
            raise ConfigError(
                ["train: --detach does not go with torchrun or srun, which start the processes"]
            )
        engine = config.engine.model_copy(update={"ranks": place.world_size})
        config = config.model_copy(update={"engine": engine})
    root = store or default_store()
    folder = root / "trials" / trial_id(config)
    if place is not None and place.rank > 0:
        return jobs.run_train(folder, engine=config.engine, grace_s=grace_s)
    ledger = Ledger(folder)
    ledger.create(config, command=_command_line())
    status = ledger.status()
    if status.is_over:
        say(f"this trial is finished already ({status.reason}); its folder holds everything")
    on_ranks = f" on {config.engine.ranks} ranks" if config.engine.ranks > 1 else ""
    in_stages = f" in up to {config.ladder.stages} stages" if config.ladder is not None else ""
    say(
        f"trial {folder.name}: {config.model.type} x{config.scale} with {file.name}, "
        f"{config.training.steps} steps{in_stages}{on_ranks}"
    )
    return _launch(
        jobs.run_train,
        folder,
        name=f"train-{folder.name}",
        store=root,
        detach=detach,
        cpus=config.engine.threads * config.engine.ranks,
        grace_s=grace_s,
        engine=config.engine,
        max_failures=max_failures,
    )


def _bound(config: TrialConfig) -> TrialConfig:
    """The configuration bound to the very data set that is there now, wherever the command is run from."""
    place = config.data.path
    path = place if "://" in place else str(Path(place).resolve())
    data = {"path": path, "fingerprint": config.data.fingerprint or manifest.load(path).fingerprint}
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def _command_line() -> str:
    return shlex.join(["srloss", *sys.argv[1:]])


def _launch(
    work: Callable[..., int],
    folder: Path,
    *,
    name: str,
    store: Path,
    detach: bool,
    cpus: int,
    grace_s: float,
    **settings: object,
) -> int:
    """Runs the work here, or hands it to a process of its own and says how to follow it."""
    # A cancelled one ends by itself within its grace period; the launcher makes it, some seconds later.
    launcher = ProcessLauncher(grace_s=grace_s + 5) if detach else InlineLauncher()
    job_folder = store / "jobs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{time.time_ns() % 1_000_000:06d}"
    resources = Resources(cpus=cpus)
    job = launcher.submit(
        work, folder, resources=resources, name=name, folder=job_folder, grace_s=grace_s, **settings
    )
    if detach:
        say(f"running in the background as {job.job_id}")
        say(f"  follow:  tail -f {shlex.quote(str(job.log_path))}")
        say(f"  results: {folder}")
        return jobs.OK
    try:
        return job.result()
    except JobFailedError as error:
        # In this process the cause is at hand, and says more to its reader than a copy of its traceback.
        raise (error.__cause__ or error) from None


def sweep(
    file: Path | None,
    overrides: Sequence[str],
    *,
    dry_run: bool,
    resume: str | None,
    store: Path | None,
    detach: bool,
    grace_s: float,
    as_json: bool,
    small: bool = False,
) -> int:
    """Starts, continues, or only shows a sweep."""
    root = store or default_store()
    if (file is None) == (resume is None):
        raise ConfigError(["sweep: give either a sweep file or --resume ID"])
    if as_json and not dry_run:
        raise ConfigError(["sweep: --json goes with --dry-run; for results use: srloss report --json"])
    if dry_run and resume is not None:
        raise ConfigError(["sweep: --dry-run shows what a file would run; it does not go with --resume"])
    if resume is not None:
        if overrides or small:
            raise ConfigError(
                ["sweep --resume: settings cannot change in the middle of a sweep; start a new one"]
            )
        the_sweep = reopen(find_sweep(root, resume))
        if not the_sweep.is_running():
            the_sweep.try_again()
    else:
        assert file is not None
        config = read_sweep(file_or_recipe(file), overrides, small=small)
        if dry_run:
            return _show_plan(config, as_json=as_json)
        the_sweep = create(config, store=root, command=_command_line())
    say(f"sweep {the_sweep.folder.sweep_id} in {the_sweep.folder.path}")
    say(f"  if it is interrupted: {the_sweep.folder.resume_command}")
    engine = the_sweep.trials[0].config.engine
    cpus = concurrency(the_sweep.config, the_sweep.trials) * engine.ranks * engine.threads
    return _launch(
        jobs.run_sweep,
        the_sweep.folder.path,
        name=the_sweep.folder.sweep_id,
        store=root,
        detach=detach,
        cpus=cpus,
        grace_s=grace_s,
    )


def _show_plan(config: SweepConfig, *, as_json: bool) -> int:
    trials = plan(config)
    at_once = concurrency(config, trials)
    if as_json:
        say_json(
            [
                {
                    "trial_id": t.trial_id,
                    "loss": t.candidate,
                    "settings": t.settings,
                    "config": to_plain(t.config),
                }
                for t in trials
            ]
        )
        return jobs.OK
    for trial in trials:
        say(f"  {trial.trial_id}  {trial.candidate}  {trial.settings}")
    if more := agendas.in_words(config, trials):
        say(more)
    total = agendas.num_trials(config, trials)
    # Trials that are not known yet are as long as the first.
    unknown_steps = (total - len(trials)) * trials[0].config.training.steps
    steps = sum(trial.config.training.steps for trial in trials) + unknown_steps
    ranks = f" of {trials[0].config.engine.ranks} ranks each" if trials[0].config.engine.ranks > 1 else ""
    caps = [trial.config.training.max_seconds for trial in trials]
    bound = (
        f", at most {sum(c for c in caps if c) / at_once / 60:.1f} minutes of training" if all(caps) else ""
    )
    say(
        f"{total} trials of {len({t.candidate for t in trials})} losses, {steps} steps in all, {at_once} at once{ranks}{bound}; nothing was run"
    )
    return jobs.OK


def config_show(file: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Prints a trial's configuration."""
    plain = to_plain(parse_trial(apply_overrides(read_yaml(file), overrides)))
    if as_json:
        say_json(plain)
    else:
        say(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip())


def config_schema(section: str | None, *, sweep_file: bool) -> None:
    """Prints a JSON schema."""
    schema = (SweepConfig if sweep_file else TrialConfig).model_json_schema()
    if section is not None:
        properties = schema["properties"]
        if section not in properties:
            raise ConfigError([unknown("section", section, properties)])
        reference = properties[section].get("$ref") or json.dumps(properties[section])
        schema = schema["$defs"].get(reference.rpartition("/")[2], properties[section])
    say_json(schema)


def config_recipe(name: str | None) -> None:
    """Prints a recipe, or the names of all."""
    if name is None:
        say(" ".join(recipe_names()))
        return
    if name not in recipe_names():
        raise ConfigError([unknown("recipe", name, recipe_names())])
    say(recipe_path(name).read_text().rstrip())
