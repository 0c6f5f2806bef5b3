"""A comparison of two losses or trials in words and tables, and as plain values for `--json`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from sr.metrics import METRICS, Metric
from sr.statistics import ALPHA
from sweeps.cli.overview_shown import duration
from sweeps.cli.show import err, out, say, say_json, show_table
from sweeps.compare import ClipContrast, Compared, Contrast, Cost, Stream, compare
from sweeps.sides import Side, find_sides
from sweeps.store import default_store
from sweeps.verdict import quantity

OK, NOT_COMPARABLE = 0, 1
_WIDE = 110
_FEW_SEEDS = 3


def show(first: str, second: str, *, sweep_id: str | None, store: Path | None, as_json: bool) -> int:
    """Prints the comparison; the exit code, 1 where the two cannot be compared."""
    sides = find_sides(store or default_store(), first, second, sweep_id=sweep_id)
    found = compare(*sides)
    if as_json:
        say_json(as_plain(found))
        return NOT_COMPARABLE if found.not_comparable else OK
    _show_making(found)
    if found.not_comparable:
        say()
        for reason in found.not_comparable:
            err.print(f"not comparable: {reason}", markup=False, style="red")
        return NOT_COMPARABLE
    for doubt in found.doubts:
        say()
        out.print(Text(f"warning: {doubt}", style="yellow"))
    if found.contrasts:
        _show_quality(found)
    else:
        _show_validation(found)
    _show_costs(found)
    return OK


def _table(*headings: str, right: int = 0) -> Table:
    """A table whose last `right` columns are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        is_number = place >= len(headings) - right
        table.add_column(Text(heading), overflow="fold", justify="right" if is_number else "left")
    return table


# --- how they were made ---


def _show_making(found: Compared) -> None:
    first, second = found.sides
    say(f"{first.name} ({_described(first)}) and {second.name} ({_described(second)})")
    say()
    if found.settings:
        say("same configuration but for:")
        table = _table("setting", first.name, second.name)
        for setting in found.settings:
            table.add_row(Text(setting.key), Text(setting.first), Text(setting.second))
        show_table(table)
        say()
    elif not (first.is_baseline or second.is_baseline):
        say("the same configuration")
    say(_stream_words(found))


def _described(side: Side) -> str:
    count = len(side.members)
    return f"{side.origin}, {count} seeds" if count > 1 else side.origin


def _stream_words(found: Compared) -> str:
    first, second = found.sides
    steps = f"{found.steps[0]} and {found.steps[1]} steps"
    if found.steps[0] == found.steps[1]:
        steps = f"{found.steps[0]} steps each"
    return {
        Stream.SAME: f"both saw the same samples and crops in the same order, {steps}",
        Stream.OTHER_SEEDS: f"their data seeds differ, so they saw other crops in another order; {steps}",
        Stream.OTHER_LENGTH: f"one has seen more of the training data than the other: {steps}",
        Stream.DIFFERENT: f"warning: they did not see the same samples and crops, though their seeds say so; {steps}",
        Stream.NONE: f"{first.name if first.is_baseline else second.name} needs no training"
        if first.is_baseline or second.is_baseline
        else f"what they have seen is not recorded yet; {steps}",
    }[found.stream]


# --- what they do ---


def _show_quality(found: Compared) -> None:
    first, second = found.sides
    contrasts = found.contrasts
    most = max(contrasts, key=lambda contrast: contrast.num_clips)
    say()
    say(
        f"{first.name} minus {second.name} on {most.num_clips} clips of {most.num_sources} held-out pictures, {_paired(found)}:"
    )
    say()
    table = _table("metric", first.name, second.name, "difference", "95 % interval", "p", right=5)
    table.add_column("" if _is_wide() else "better", overflow="fold")
    for contrast in contrasts:
        table.add_row(*_cells(contrast, found))
    show_table(table)
    say()
    if any(not METRICS[contrast.metric].higher_is_better for contrast in contrasts):
        say("\N{DOWNWARDS ARROW} lower is better")
    adjusted = f", adjusted over these {len(contrasts)} metrics" if len(contrasts) > 1 else ""
    say(f"p is that of this one pair{adjusted}; the report's is adjusted over all losses of the sweep")
    say()
    say(_summed_up(found))
    for remark in _remarks(found, most):
        say(f"  note: {remark}")
    _show_clips(found)


def _paired(found: Compared) -> str:
    first, second = found.sides
    if len(first.members) == len(second.members) == 1:
        return "paired by clip"
    if not found.seeds:
        return "paired by clip; they have no seed in common, so means over their seeds are compared"
    count = len(found.seeds)
    return (
        f"paired by clip and seed ({count} in common)"
        if count > 1
        else "paired by clip, on the one seed in common"
    )


def _cells(contrast: Contrast, found: Compared) -> list[Text]:
    metric = METRICS[contrast.metric]
    comparison = contrast.comparison
    values = [f"{value:.{metric.decimals}f}" for value in (contrast.first, contrast.second)]
    ends = f"{_signed(comparison.low, metric)} to {_signed(comparison.high, metric)}"
    word, style = "not distinguishable" if _is_wide() else "neither", "dim"
    if contrast.better is not None:
        name = found.sides[contrast.better].name
        word, style = f"{name} is better" if _is_wide() else name, "green"
    label = metric.label if metric.higher_is_better else f"{metric.label} \N{DOWNWARDS ARROW}"
    cells = [label, *values, quantity(comparison.mean, metric), ends, f"{comparison.p_adjusted:.2g}"]
    return [*map(Text, cells), Text(word, style=style)]


def _is_wide() -> bool:
    """Whether there is room for words in a table."""
    return not out.is_terminal or out.width >= _WIDE


def _signed(value: float, metric: Metric) -> str:
    # Adding zero makes a zero of a negative one.
    return f"{round(value, metric.decimals) + 0.0:.{metric.decimals}f}".replace("-", "\N{MINUS SIGN}")


def _summed_up(found: Compared) -> str:
    """Who is better on what, in one sentence."""
    parts = []
    for place, side in enumerate(found.sides):
        won = [METRICS[c.metric].label for c in found.contrasts if c.better == place]
        if won:
            parts.append(f"{side.name} is better on {_listed(won)}")
    tied = [METRICS[c.metric].label for c in found.contrasts if c.better is None]
    if not parts:
        return "They are not distinguishable on any metric."
    rest = f"; not distinguishable on {_listed(tied)}" if tied else ""
    return f"{', '.join(parts)}{rest}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _remarks(found: Compared, most: Contrast) -> Iterable[str]:
    smallest = found.smallest_p
    if smallest is not None and smallest >= ALPHA:
        yield (
            f"{most.num_sources} pictures cannot show a difference on {len(found.contrasts)} metrics: the smallest possible p is "
            f"{smallest:.2g} after adjustment; add pictures"
        )
    for contrast in found.contrasts:
        if contrast.num_clips < most.num_clips:
            label = METRICS[contrast.metric].label
            yield f"{label} is undefined on {most.num_clips - contrast.num_clips} of {most.num_clips} clips; compared on the others"
    trained = [side for side in found.sides if not side.is_baseline]
    fewest = min((len(found.seeds) or len(side.members) for side in trained), default=_FEW_SEEDS)
    if fewest < _FEW_SEEDS:
        yield (
            f"{fewest} training{'s' * (fewest > 1)} of each: how much luck there is in one is hardly known; use {_FEW_SEEDS} "
            "seeds or more"
        )


def _show_clips(found: Compared) -> None:
    if not found.clips:
        return
    metric = METRICS[found.clips_by]
    first, second = found.sides
    say()
    say(f"where they differ most on {metric.label}:")
    table = _table("clip", first.name, second.name, "difference", right=3)
    for clip in found.clips:
        table.add_row(*map(Text, _clip_cells(clip, metric)))
    show_table(table)


def _clip_cells(clip: ClipContrast, metric: Metric) -> list[str]:
    values = [f"{value:.{metric.decimals}f}" for value in (clip.first, clip.second)]
    return [_clip_title(clip.clip), *values, quantity(clip.first - clip.second, metric)]


def _clip_title(clip: str) -> str:
    """As in the report: `chelsea.png#2` is its tile 3."""
    source, mark, tile = clip.rpartition("#")
    return f"{source}, tile {int(tile) + 1}" if mark and tile.isdigit() else clip


def _show_validation(found: Compared) -> None:
    unfinished = [side for side in found.sides if not side.is_evaluated]
    say()
    for side in unfinished:
        states = dict.fromkeys(str(m.ledger.status().state).replace("_", " ") for m in side.members)
        say(f"{side.name} has no results on the held-out clips yet ({', '.join(states)})")
    validation = found.validation
    if validation is None:
        say(
            "nor were both validated at some common step, so there is nothing to compare"
            if unfinished
            else "no metric in common"
        )
        return
    say(
        f"all that can be compared is the validation at step {validation.step}, their latest common one; it proves nothing:"
    )
    say()
    table = _table("metric", *(side.name for side in found.sides), "difference", right=3)
    for name, (one, other) in validation.values.items():
        metric = METRICS[name]
        values = [f"{value:.{metric.decimals}f}" for value in (one, other)]
        table.add_row(*map(Text, (metric.label, *values, quantity(one - other, metric))))
    show_table(table)


def _show_costs(found: Compared) -> None:
    if not any(found.costs):
        return
    say()
    table = _table("cost of a training", "time", "patches/s", "device-hours", right=3)
    for side, cost in zip(found.sides, found.costs, strict=True):
        if cost is not None:
            table.add_row(Text(side.name), *_cost_cells(cost))
    show_table(table)


def _cost_cells(cost: Cost) -> list[str]:
    rate = "" if cost.images_per_second is None else f"{cost.images_per_second:.1f}"
    hours = cost.device_hours
    return [duration(cost.seconds), rate, f"{hours:.2f}" if hours >= 1 else f"{hours:.4f}"]


# --- plain values ---


def as_plain(found: Compared) -> dict[str, Any]:
    """The comparison as plain values; differences are the first minus the second."""
    validation = found.validation
    return {
        "sides": [
            {
                "name": side.name,
                "origin": side.origin,
                "trials": [str(member.ledger.folder) for member in side.members],
                "is_evaluated": side.is_evaluated,
                "steps": steps,
                "cost": None if cost is None else asdict(cost),
            }
            for side, steps, cost in zip(found.sides, found.steps, found.costs, strict=True)
        ],
        "configuration": [asdict(setting) for setting in found.settings],
        "stream": str(found.stream),
        "comparable": not found.not_comparable,
        "why_not": list(found.not_comparable),
        "warnings": list(found.doubts),
        "seeds": [{"seed": seed, "data_seed": data_seed} for seed, data_seed in found.seeds],
        "smallest_p": found.smallest_p,
        "metrics": {contrast.metric: _plain_contrast(contrast, found) for contrast in found.contrasts},
        "clips_by": found.clips_by or None,
        "clips": [asdict(clip) | {"difference": clip.first - clip.second} for clip in found.clips],
        "validation": None if validation is None else {"step": validation.step, "metrics": validation.values},
    }


def _plain_contrast(contrast: Contrast, found: Compared) -> dict[str, Any]:
    better = contrast.better
    return {
        "first": contrast.first,
        "second": contrast.second,
        **asdict(contrast.comparison),
        "better": None if better is None else found.sides[better].name,
        "clips": contrast.num_clips,
        "pictures": contrast.num_sources,
    }
