"""From the times of all rounds to medians, and to the ratios that were aimed at."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

OURS = "ours png-banded"
FOREIGN = "ours png-keep"
CV2_PEERS = ("webdataset cv2", "lmdb cv2", "mosaic cv2", "litdata cv2", "folder cv2")
MAX_CRC_SHARE = 0.02
MAX_SIZE, MAX_SIZE_2K, MAX_SIZE_OF_SUB_IMAGES = 1.05, 1.12, 1 / 3
GOALS: tuple[tuple[str, str, int, float], ...] = (
    # Of ours, against, patch, at least so many times its core time.
    (OURS, "webdataset torchrgb", 256, 4.0),
    (OURS, "webdataset pil", 256, 3.0),
    (OURS, "basicsr lmdb", 256, 3.0),
    *((OURS, peer, 256, 2.5) for peer in CV2_PEERS),
    (OURS, "bare decode cv2", 128, 4.0),
    (FOREIGN, "folder cv2", 256, 1.3),
    (FOREIGN, "webdataset pil", 256, 1.5),
)
Rounds = Mapping[str, Sequence[Sequence[Mapping[str, float]]]]
"""Loader to its measurements: a list for each round, an entry for each case."""


def rows(rounds: Rounds) -> dict[str, dict[str, Any]]:
    """The medians of each loader, and every single core time."""
    table: dict[str, dict[str, Any]] = {}
    for name, measured in rounds.items():
        row: dict[str, Any] = {}
        for case in measured[0]:
            patch, workers = int(case["patch"]), int(case["workers"])
            label = str(patch) if not workers else f"{patch}, {workers} workers"
            core = _values(measured, patch, workers, "core_ms")
            row[label] = {
                "core_ms": round(statistics.median(core), 2),
                "per_s": round(statistics.median(_values(measured, patch, workers, "per_s")), 1),
                "all_core_ms": [round(value, 2) for value in core],
            }
        table[name] = row
    return table


def _values(
    measured: Sequence[Sequence[Mapping[str, float]]], patch: int, workers: int, what: str
) -> list[float]:
    return [
        case[what] for one in measured for case in one if (case["patch"], case["workers"]) == (patch, workers)
    ]


def goals(rounds: Rounds) -> list[dict[str, Any]]:
    """Core time of the others over ours: medians of the ratios within rounds, for which the machine was equally busy."""
    found = []
    for ours, peer, patch, target in GOALS:
        goal: dict[str, Any] = {"ours": ours, "against": peer, "patch": patch, "target": f">= {target:g}x"}
        if rounds.get(ours) and rounds.get(peer):
            pairs = zip(*(_values(rounds[name], patch, 0, "core_ms") for name in (peer, ours)), strict=True)
            ratio = statistics.median(theirs / mine for theirs, mine in pairs)
            goal |= {"measured": round(ratio, 2), "reached": ratio >= target}
        else:
            goal |= {"measured": None, "reached": None}
        found.append(goal)
    return found


def goals_2k(times: Sequence[Mapping[str, float]], sizes: Mapping[str, float]) -> list[dict[str, Any]]:
    """The goals for one crop of a 2K picture."""
    found = []
    for peer, target in (("whole picture cv2", 15.0), ("sub-image cv2", 1.0)):
        ratio = statistics.median(one[peer] / one["bands"] for one in times)
        found.append(_goal(f"2K picture, {peer}, time", f">= {target:g}x", round(ratio, 2), ratio >= target))
    ratio = sizes["bands"] / sizes["sub-image cv2"]
    text = f"<= {MAX_SIZE_OF_SUB_IMAGES:.2f}x"
    found.append(
        _goal("2K picture, sub-images, disk", text, round(ratio, 2), ratio <= MAX_SIZE_OF_SUB_IMAGES)
    )
    size = sizes["bands"]
    found.append(_goal("2K source PNG, disk", f"<= {MAX_SIZE_2K}x", round(size, 3), size <= MAX_SIZE_2K))
    return found


def goal_size(share: float) -> dict[str, Any]:
    """The goal for the disk that clips take."""
    return _goal("source PNG, disk", f"<= {MAX_SIZE}x", round(share, 3), share <= MAX_SIZE)


def goal_crc(crc_ms: Mapping[str, float], rounds: Rounds) -> dict[str, Any]:
    """The goal for the price of checking, as a share of all that a sample costs."""
    shares = [ms / statistics.median(_values(rounds[OURS], int(p), 0, "core_ms")) for p, ms in crc_ms.items()]
    text = f"<= {MAX_CRC_SHARE:.0%}"
    return _goal("CRC32, share of core time", text, round(max(shares), 4), max(shares) <= MAX_CRC_SHARE)


def _goal(against: str, target: str, measured: float, reached: bool) -> dict[str, Any]:
    return {"ours": OURS, "against": against, "target": target, "measured": measured, "reached": reached}
