"""What the nodes of a cluster found, put together: what they agree on is one line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeps.doctor import Check

SHARED = "choose a folder on a file system that all nodes share: --store /shared/runs"
_MUST_AGREE = {"gpus", "nccl"}
"""What should be the same on all nodes of a job, though each by itself is fine."""
_MEASURED = re.compile(r"\d+(?:\.\d+)?(?= (?:GB|MB|ms|s)\b)")


def of_answers(answers: Sequence[Mapping[str, Any]], *, is_seen_back: Callable[[int], bool]) -> list[Check]:
    """What the nodes found, those that agree in one line.

    Args:
        answers: As the far side gives them.
        is_seen_back: Whether what the node with this number wrote into the store is seen here.
    """
    # Of Ray's nodes the address is told only where their names do not tell them apart.
    short = [answer["node"].partition(" (")[0] for answer in answers]
    names = short if len(set(short)) == len(short) else [answer["node"] for answer in answers]
    by_node: dict[str, list[Check]] = {}
    for name, answer in zip(names, answers, strict=True):
        if "checks" not in answer:
            why = answer.get("failure") or f"srloss cannot be imported there: {answer['missing']}"
            fix = "install the same srloss there, or send yours: cluster.ship_code=true"
            by_node[name] = [Check("examination", "problem", str(why), fix)]
            continue
        checks = [Check(**{**plain, "nodes": ()}) for plain in answer["checks"]]
        by_node[name] = [_seen_back(check, answer["number"], is_seen_back) for check in checks]
    return combined(by_node)


def combined(by_node: Mapping[str, Sequence[Check]]) -> list[Check]:
    """One check for all nodes that say the same; amounts that differ a little are not a difference."""
    names = dict.fromkeys(check.name for checks in by_node.values() for check in checks)
    found = []
    for name in names:
        groups: dict[tuple[str, ...], dict[str, Check]] = {}
        for node, checks in by_node.items():
            for check in (check for check in checks if check.name == name):
                groups.setdefault(_key(check), {})[node] = check
        lines = [_merged(group) for group in groups.values()]
        if len(lines) > 1 and name in _MUST_AGREE:
            lines = [_disagreeing(line) for line in lines]
        found += lines
    return found


def _seen_back(check: Check, number: int, is_seen_back: Callable[[int], bool]) -> Check:
    """The check of the store, once it is known that what the node wrote there is seen here."""
    if check.name != "store" or check.status == "problem" or is_seen_back(number):
        return check
    return Check("store", "problem", f"{check.found}; what is written there is not seen here", SHARED)


def _key(check: Check) -> tuple[str, ...]:
    return check.status, _MEASURED.sub("#", check.found), _MEASURED.sub("#", check.fix)


def _merged(group: Mapping[str, Check]) -> Check:
    """The check of several nodes, each amount from the least to the most."""
    first = next(iter(group.values()))
    amounts = zip(*(_MEASURED.findall(check.found) for check in group.values()), strict=True)
    ranges = iter([_range(values) for values in amounts])
    found = _MEASURED.sub(lambda _: next(ranges), first.found)
    return Check(first.name, first.status, found, first.fix, tuple(group))


def _range(values: Sequence[str]) -> str:
    low, high = min(values, key=float), max(values, key=float)
    return low if math.isclose(float(low), float(high)) else f"{low} to {high}"


def _disagreeing(check: Check) -> Check:
    if check.status != "ok":
        return check
    fix = "cluster.slurm_constraint or cluster.slurm_nodelist, so that all nodes are alike"
    return Check(check.name, "warning", f"{check.found}; others differ", fix, check.nodes)
