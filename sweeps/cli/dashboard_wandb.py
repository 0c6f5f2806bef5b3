"""What `srloss dashboard --wandb` does."""

from __future__ import annotations

import os
from pathlib import Path

from sr.configfile import ConfigError
from sweeps.cli.show import err, say, say_json
from sweeps.store import default_store, find_sweep

_ASK_S = 10.0
"""How long W&B's server may take to say who we are."""


def workspace(sweep_id: str | None, *, store: Path | None, is_wanted: bool, dry_run: bool, push: bool) -> int:
    """Prints a sweep's W&B workspace as JSON, or saves it and prints its address; the exit code.

    Raises:
        ConfigError: It was not said which of the two, or the options go with --wandb and that is missing.
        ValueError: There is no such sweep, wandb-workspaces is not installed, or W&B does not take it, and why.
    """
    if not is_wanted:
        raise ConfigError([f"dashboard: {'--dry-run' if dry_run else '--push'} goes with --wandb"])
    if dry_run == push:
        raise ConfigError(
            [
                "dashboard --wandb: choose one of --dry-run, which prints the workspace as JSON and sends nothing, and --push, which "
                "saves it in W&B"
            ]
        )
    # What would be in vain after some seconds is told now.
    from sweeps import wandb_workspace

    if missing := wandb_workspace.needs_extra():
        raise ValueError(missing)
    folder = find_sweep(store or default_store(), sweep_id)
    entity = _account() if push else ""
    err.print(f"building the W&B workspace of {folder.sweep_id}; this takes some seconds", markup=False)
    from sweeps.sweep import reopen

    the_sweep = reopen(folder)
    tracking = the_sweep.trials[0].config.tracking
    entity = tracking.entity or os.environ.get("WANDB_ENTITY") or entity
    built = wandb_workspace.build(the_sweep, entity=entity, project=tracking.project)
    if dry_run:
        say_json(wandb_workspace.spec(built))
    else:
        say(f"W&B workspace: {wandb_workspace.save(built)}")
    return 0


def _account() -> str:
    """The default entity of this machine's API key.

    Raises:
        ValueError: There is no key, it is a wrong one, or the server does not answer.
    """
    from sr.track import ask

    answer = ask(timeout_s=_ASK_S)
    if not answer.is_well:
        raise ValueError(
            f"W&B workspace: {answer.words}; nothing was saved. To see it without W&B: --dry-run"
        )
    return answer.words
