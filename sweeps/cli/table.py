"""The ranked comparison, as a table for a terminal and as plain values for `--json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from sr.metrics import METRICS
from sweeps.cli.show import say, show_table
from sweeps.verdict import Candidate, Verdict, quantity


def print_verdict(verdict: Verdict) -> None:
    """Prints the table, the sentence and the caveats."""
    if verdict.ranking:
        show_table(_table(verdict))
        say("* best on this metric   ~ not distinguishable from the best, or from bicubic")
        say("[95 % interval of the paired difference]")
    say()
    say(f"Verdict: {verdict.sentence}")
    for caveat in verdict.caveats:
        say(f"  note: {caveat}")


def _table(verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("loss", overflow="fold")
    primary = METRICS[verdict.primary]
    table.add_column(primary.label, justify="right")
    table.add_column("over bicubic", justify="right")
    for name in verdict.metrics:
        if name != verdict.primary:
            table.add_column(METRICS[name].label, justify="right")
    for candidate in (*verdict.ranking, *([verdict.baseline] if verdict.baseline else [])):
        gain = _gain(candidate, verdict)
        others = [_score(candidate, name, verdict) for name in verdict.metrics if name != verdict.primary]
        table.add_row(candidate.name, _score(candidate, verdict.primary, verdict), gain, *others)
    return table


def _gain(candidate: Candidate, verdict: Verdict) -> str:
    comparison = verdict.to_baseline[verdict.primary].get(candidate.name)
    if comparison is None:
        return ""
    metric = METRICS[verdict.primary]
    low, high = (
        f"{end:.{metric.decimals}f}".replace("-", "\N{MINUS SIGN}")
        for end in (comparison.low, comparison.high)
    )
    return f"{quantity(comparison.mean, metric)} \\[{low}, {high}]{' ' if comparison.is_clear else '~'}"


def _score(candidate: Candidate, name: str, verdict: Verdict) -> str:
    if candidate is verdict.baseline:
        mark = " "
    elif verdict.best_on[name] == candidate.name:
        mark = "*"
    else:
        mark = " " if verdict.to_best[name][candidate.name].is_clear else "~"
    return f"{candidate.measured[name].mean:.{METRICS[name].decimals}f}{mark}"


def as_plain(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain values."""
    return {
        "verdict": verdict.sentence,
        "caveats": list(verdict.caveats),
        "primary_metric": verdict.primary,
        "clips": verdict.num_clips,
        "sources": verdict.num_sources,
        "ranking": [
            {
                "loss": candidate.name,
                "trials": [trial.trial_id for trial in candidate.trials],
                "scores": {name: data.mean for name, data in candidate.measured.items()},
                "over_bicubic": {
                    name: asdict(by[candidate.name]) for name, by in verdict.to_baseline.items()
                },
                "to_best": {
                    name: asdict(by[candidate.name])
                    for name, by in verdict.to_best.items()
                    if candidate.name in by
                },
            }
            for candidate in verdict.ranking
        ],
        "bicubic": {name: data.mean for name, data in verdict.baseline.measured.items()}
        if verdict.baseline
        else None,
    }
