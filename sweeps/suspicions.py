"""What the linter of evaluations found in the trials of a sweep, in few lines: one for each kind of finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sr.metrics.linter import Warning as Finding
from sr.summary import DATA_RULES, Summary

_MOST_NAMES = 6


def suspicions(losses: Mapping[str, Sequence[Summary]], baseline: tuple[str, Summary] | None) -> list[str]:
    """One line for each kind of finding, in the order of the rules.

    Args:
        losses: Name to what its trials measured on the whole set, best loss first; a loss may have none.
        baseline: Name and what it measured.

    Returns:
        Of what is true of the data one line without a name; else one that names the models for which a rule fires, with
        the numbers of the first of them.
    """
    everybody = {name: list(summaries) for name, summaries in losses.items()}
    if baseline is not None:
        everybody[baseline[0]] = [baseline[1]]
    found: dict[tuple[int, bool], dict[str, list[str]]] = {}
    for name, summaries in everybody.items():
        for finding in (finding for summary in summaries for finding in summary.warnings):
            found.setdefault(_kind(finding), {}).setdefault(name, []).append(finding.message)
    return [_line(kind[0], by_name, everybody, list(losses)) for kind, by_name in sorted(found.items())]


def _kind(finding: Finding) -> tuple[int, bool]:
    """Rule 2 has two: to be no better than bicubic is a result, no better than a black picture a fault."""
    return finding.rule, finding.rule == 2 and "black picture" not in finding.message


def _line(
    rule: int,
    by_name: Mapping[str, list[str]],
    everybody: Mapping[str, Sequence[Summary]],
    losses: Sequence[str],
) -> str:
    first, (message, *_) = next(iter(by_name.items()))
    if rule in DATA_RULES:
        return f"The held-out pictures: {message}."
    numbers = f" (numbers of {first})" if len(by_name) > 1 else ""
    in_part = {
        name: len(everybody[name]) for name, found in by_name.items() if len(found) < len(everybody[name])
    }
    if len(losses) > 1 and not in_part and set(losses) <= by_name.keys():
        others = "".join(f" and {name}" for name in by_name if name not in losses)
        return f"All {len(losses)} losses{others}: {message}{numbers}."
    names = [
        f"{name} ({len(found)} of {in_part[name]} seeds)" if name in in_part else name
        for name, found in by_name.items()
    ]
    return f"{_listed(names)}: {message}{numbers}."


def _listed(names: list[str]) -> str:
    if len(names) > _MOST_NAMES:
        names = [*names[: _MOST_NAMES - 1], f"{len(names) - _MOST_NAMES + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
