"""How a sweep stands, for people: a line for the whole, one for each job, a table of the trials; and as plain values."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.api import JobState
from cluster.records import JobStatus
from cluster.slurm_queue import GONE
from sweeps.overview import ALIVE_S, JobView, Overview
from sweeps.store import SweepFolder
from sweeps.trial_view import TrialView

_ORDER = ("finished", "stopped_early", "running", "pending", "interrupted", "cancelled", "failed")
_COLOURS = {
    "running": "green", "finished": "cyan", "failed": "red", "cancelled": "yellow", "interrupted": "yellow",
}  # fmt: skip
_WIDE = 100


def shown(view: Overview, *, width: int, most_rows: int | None = None) -> RenderableType:
    """Everything.

    Args:
        view: What to show.
        width: Of the terminal, in characters.
        most_rows: Trials to show at most, those first with which something happens; None: all.
    """
    trials, left_out = _chosen(view.trials, most_rows)
    lines = [*_head(view), ""]
    tail = [] if not left_out else [f"and {len(left_out)} more: {_counted(left_out)}"]
    tail += _remarks(view)
    return Group(
        Text("\n".join(lines)), _table(view, trials, width), *([Text("\n".join(tail))] if tail else [])
    )


def _head(view: Overview) -> list[str]:
    lines = [f"sweep {view.sweep_id}: {len(view.trials)} trials: {_counted(view.trials)}"]
    if best := view.best:
        lines.append(
            f"best so far: {best.name}: validation {view.metric} {best.best:.4g} at step {best.best_step}"
        )
    if view.left_s is not None:
        lines.append(f"about {duration(view.left_s)} of training left")
    active = [job for job in view.jobs if job.is_active or job.status is None]
    shown_jobs = active or list(view.jobs[-1:])
    lines += [job_line(job) for job in shown_jobs]
    if any(job.status is not None and job.status.state is JobState.FAILED for job in shown_jobs):
        lines.append(f"what it said: {shlex.join(['srloss', 'logs', view.sweep_id])}")
    if len(view.jobs) > len(shown_jobs):
        lines.append(f"({len(view.jobs) - len(shown_jobs)} more submitted before, over)")
    if view.driver and not any(job.is_active for job in view.jobs):
        lines.append(f"run by {view.driver}")
    elif not view.is_active and not view.problems and view.exit_code == 130:
        lines.append(f"nothing runs; go on with: {resume_command(view)}")
    if view.driver and all(trial.has_ended for trial in view.trials):
        finished = [trial for trial in view.trials if trial.state == "finished"]
        done = sum(trial.is_evaluated for trial in finished)
        lines.append(f"evaluating on the held-out clips: {done} of {len(finished)} models done")
    return lines


def resume_command(view: Overview) -> str:
    """What goes on with a sweep in the way that it was started."""
    return SweepFolder(view.folder).resume_command


def _remarks(view: Overview) -> list[str]:
    """What does not fit a table: why trials failed, where the report is, what could not be found out."""
    lines = []
    for trial in view.trials:
        if trial.state in ("failed", "interrupted"):
            why = trial.reason.partition("\n")[0]
            failed = "failed: " if trial.state == "failed" else ""
            lines.append(f"{trial.number} {trial.name}: {failed}{why}")
    if any(trial.state == "failed" for trial in view.trials):
        lines.append("the log of a trial: srloss logs --trial NUMBER")
    if view.report is not None:
        lines.append(f"report: {view.report}")
    lines += [f"warning: {problem}" for problem in view.problems]
    return lines


def job_line(job: JobView) -> str:
    """One submission and where it stands, e.g. `SLURM job 77: pending (Resources), expected to start 14:05`."""
    named = {"slurm": "SLURM", "ray": "Ray", "local": "background"}[job.record.launcher]
    what = {"sweep": "job", "array": "array", "finish": "job"}[job.record.kind]
    name = job.record.job_id if job.record.launcher != "local" else "process"
    after = " (evaluation and report)" if job.record.kind == "finish" else ""
    title = f"{named} {name}" if job.record.launcher == "local" else f"{named} {what} {name}{after}"
    if job.status is None:
        return f"{title}: not known, since its scheduler does not answer"
    if len(job.elements) > 1:
        # What is gone has ended somehow; the table of trials tells how.
        groups = Counter(
            ("over", "") if s.words == GONE else (s.words.lower(), s.reason) for s in job.elements.values()
        )
        told = [f"{n} {word}" + (f" ({reason})" if reason else "") for (word, reason), n in groups.items()]
        return f"{title}: {', '.join(told)}"
    return f"{title}: {status_words(job.status)}"


def status_words(status: JobStatus) -> str:
    """Where a job stands, in words."""
    parts = [status.words.lower() + (f" ({status.reason})" if status.reason else "")]
    if status.state is JobState.RUNNING:
        parts[0] += f" on {status.nodes}" if status.nodes else ""
        if status.elapsed_s is not None:
            parts[0] += f" for {duration(status.elapsed_s)}"
        if status.left_s is not None:
            parts.append(f"{duration(status.left_s)} until its time limit")
    if status.starts_at:
        parts.append(f"expected to start {_when(status.starts_at)}")
    if status.restarts:
        parts.append(f"requeued {status.restarts} time{'s' * (status.restarts > 1)}")
    return ", ".join(parts)


def _table(view: Overview, trials: Sequence[TrialView], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", justify="right")
    table.add_column("trial", overflow="fold", min_width=12)
    table.add_column("state", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("steps/s", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    table.add_column(view.metric, justify="right", no_wrap=True)
    is_wide = width >= _WIDE
    if is_wide:
        table.add_column("", overflow="fold")
    for trial in trials:
        state = trial.state.replace("_", " ")
        row = [
            str(trial.number),
            Text(trial.name),
            Text(state, style=_COLOURS.get(trial.state, "")),
            f"{trial.step}/{trial.steps}" if trial.steps else str(trial.step),
            f"{trial.rate:.3g}" if trial.rate and trial.state == "running" else "",
            duration(trial.left_s) if trial.left_s is not None and trial.state == "running" else "",
            "" if trial.best is None else f"{trial.best:.4g}",
        ]
        table.add_row(*row, *([Text(_note(trial))] if is_wide else []))
    return table


def _note(trial: TrialView) -> str:
    """What only a wide terminal has room for."""
    if trial.state == "running":
        attempt = f", attempt {trial.attempt}" if trial.attempt > 1 else ""
        silence = trial.silent_s or 0.0
        silent = f", no sign of life for {duration(silence)}" if silence > ALIVE_S else ""
        return f"on {trial.host}{attempt}{silent}" if trial.host else ""
    return "" if trial.state in ("failed", "interrupted") else trial.reason.partition("\n")[0]


def _chosen(
    trials: Sequence[TrialView], most_rows: int | None
) -> tuple[Sequence[TrialView], Sequence[TrialView]]:
    if most_rows is None or len(trials) <= most_rows:
        return trials, ()
    order = ("running", "failed", "interrupted", "cancelled", "finished", "stopped_early", "pending")
    first = sorted(trials, key=lambda trial: order.index(trial.state))
    kept = sorted(first[: max(1, most_rows - 1)], key=lambda trial: trial.number)
    return kept, first[len(kept) :]


def _counted(trials: Sequence[TrialView]) -> str:
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in _ORDER if counts[state])


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _when(time: str) -> str:
    """A time of the near future as people say it."""
    try:
        when = datetime.fromisoformat(time)
    except ValueError:
        return time
    return when.strftime("%H:%M" if when.date() == datetime.now().date() else "%Y-%m-%d %H:%M")


def as_plain(view: Overview) -> dict[str, Any]:
    """The overview as plain values."""
    return {
        "sweep": view.sweep_id,
        "folder": str(view.folder),
        "is_active": view.is_active,
        "driver": view.driver or None,
        "counts": view.counts,
        "metric": view.metric,
        "goal": view.goal,
        "best": None if view.best is None else view.best.trial_id,
        "seconds_left": view.left_s,
        "report": None if view.report is None else str(view.report),
        "jobs": [
            asdict(job.record)
            | {"status": None if job.status is None else asdict(job.status)}
            | {"elements": {trial: asdict(status) for trial, status in job.elements.items()}}
            for job in view.jobs
        ],
        "trials": [asdict(trial) for trial in view.trials],
        "problems": list(view.problems),
    }
