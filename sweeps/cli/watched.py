"""Shows how a sweep stands, once or again and again."""

from __future__ import annotations

import time
from contextlib import nullcontext

from rich.console import Console
from rich.live import Live

from sr.configfile import ConfigError
from sweeps.cli.overview_shown import shown
from sweeps.cli.show import out
from sweeps.overview import Overview, overview
from sweeps.store import SweepFolder
from sweeps.trial_view import Memory, TrialView

_OVER_AFTER = 2
"""Looks in a row at which nothing is active: between a job and the next one, for a moment nothing is."""
_MARGIN = 14
"""Lines of a terminal that are for other things than trials."""


def show(view: Overview, console: Console) -> None:
    """Prints it."""
    console.print(shown(view, width=console.width), soft_wrap=False)


def watched(folder: SweepFolder, *, every_s: float) -> int:
    """Shows it anew every so often until nothing runs any more; the exit code, 130 after Ctrl-C."""
    memory = Memory()
    view = overview(folder, memory)
    quiet = 0
    try:
        with Live(console=out, auto_refresh=False) if out.is_terminal else nullcontext() as live:
            while True:
                if live is not None:
                    rows = max(5, out.height - _MARGIN)
                    live.update(shown(view, width=out.width, most_rows=rows), refresh=True)
                quiet = 0 if view.is_active else quiet + 1
                if quiet >= _OVER_AFTER:
                    break
                time.sleep(every_s if not quiet else min(every_s, 2.0))
                view = overview(folder, memory)
    except KeyboardInterrupt:
        return 130
    if not out.is_terminal:
        # Whoever reads a file wants to know how it ended.
        show(view, out)
    return view.exit_code


def find_trial(view: Overview, name: str) -> TrialView:
    """The trial with this number in the table, this beginning of an id, or this name or beginning of one.

    Raises:
        ConfigError: There is none, or several.
    """
    if name.isdecimal() and 1 <= int(name) <= len(view.trials):
        return view.trials[int(name) - 1]
    fitting = (
        [trial for trial in view.trials if trial.trial_id.startswith(name)]
        or [trial for trial in view.trials if name in (trial.name, trial.candidate)]
        or [trial for trial in view.trials if trial.name.startswith(name)]
    )
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(
        f"{trial.number}: {trial.name} ({trial.trial_id})" for trial in (fitting or view.trials)[:8]
    )
    what = "fits several trials" if fitting else "is no trial"
    raise ConfigError(
        [f"--trial: '{name}' {what} of {view.sweep_id}; give a number, an id or a name, of: {listed}"]
    )
