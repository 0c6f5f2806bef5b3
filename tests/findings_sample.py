"""What a real sweep would have beside its scores: cost, clips, tuning, rungs, configurations and ladders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sweeps.report.data import CandidateLadders, LadderStage, LadderTrial, MetricInfo
from sweeps.report.findings import (
    CandidateCost,
    ClipScores,
    ConfigDifferences,
    Cost,
    Findings,
    Parameter,
    RungCell,
    Rungs,
    TunedTrial,
    Tuning,
)

RANKS = 4
STEPS = (100, 200, 400)
"""Of the rungs."""


def hours(place: int, steps: int = 400) -> float:
    """Device-hours of one training."""
    return (151.3 + 31.7 * place + 160.2 * (place > 3)) * steps / 400 * RANKS / 3600


def findings(
    names: Sequence[str], *, num_seeds: int, best: float, num_clips: int = 48, is_searched: bool = False
) -> Findings:
    """As the sweep of `tests.report_sample` would have them; with a search also what was tuned and who was stopped."""
    return Findings(
        cost=_cost(names, num_seeds),
        clips=_clips(names, num_clips, best),
        tuning=_tuning(names, best) if is_searched else None,
        configs=ConfigDifferences(
            keys=("adversarial", "optimizer.learning_rate"),
            values={
                name: ("yes" if name == "gan" else "\u2013", f"{1e-4 * (1 + place % 3):g}")
                for place, name in enumerate(names)
            },
        ),
        rungs=_rungs(names, best) if is_searched else None,
        streams="The 18 compared trials saw the same samples and crops in the same order (stream hashes agree, 3 data seeds).",
        smallest_p=0.0003,
    )


def _cost(names: Sequence[str], num_seeds: int) -> Cost:
    rows = []
    for place, name in enumerate(names):
        failed = int(place % 9 == 1)
        stopped = int(place % 9 == 2)
        outcomes = {"finished": num_seeds - failed - stopped, "failed": failed, "stopped_early": stopped}
        rows.append(
            CandidateCost(
                candidate=name,
                outcomes={state: count for state, count in outcomes.items() if count > 0},
                num_restarts=int(place % 5 == 0),
                device_hours=hours(place) * num_seeds,
                repeated=0.06 * hours(place) if place % 5 == 0 else 0.0,
                memory_gb=3.1 + 0.4 * (place % 7),
            )
        )
    total = sum(row.device_hours for row in rows)
    repeated = sum(row.repeated for row in rows)
    return Cost(
        shares={
            "compared": 0.9 * (total - repeated),
            "not_chosen": 0.0,
            "stopped_early": 0.06 * (total - repeated),
            "failed": 0.04 * (total - repeated),
            "cancelled": 0.0,
            "unfinished": 0.0,
            "repeated": repeated,
        },
        by_candidate=tuple(rows),
        memory_of="device",
    )


def _clips(names: Sequence[str], num_clips: int, best: float) -> ClipScores:
    rng = np.random.default_rng(11)
    hard = rng.normal(0, 3.2, num_clips)
    scores = {
        name: best - 0.08 * place + hard + rng.normal(0, 0.15 + 0.02 * place, num_clips)
        for place, name in enumerate(names)
    }
    scores["bicubic"] = best - 1.21 + hard + rng.normal(0, 0.4, num_clips)
    sources = ("astronaut", "chelsea", "coffee", "astronaut")
    titles = tuple(
        f"{sources[index]}, tile {index + 1}"
        if index < len(sources)
        else f"p{index // 4:02d}.png, tile {index % 4 + 1}"
        for index in range(num_clips)
    )
    return ClipScores(titles, {name: tuple(values.tolist()) for name, values in scores.items()})


def _tuning(names: Sequence[str], best: float) -> Tuning:
    rng = np.random.default_rng(3)
    parameters = (
        Parameter("optimizer.learning_rate", is_log=True, choices=()),
        Parameter("loss.terms.1.weight", is_log=False, choices=()),
        Parameter("model.type", is_log=False, choices=("edsr", "rrdb")),
    )
    drawn = [
        (float(10 ** rng.uniform(-5, -2)), float(rng.uniform(0, 1)), float(rng.integers(2))) for _ in range(8)
    ]
    trials = []
    for place, name in enumerate(names):
        qualities = [
            best
            - 0.1 * place
            - 0.5 * (np.log10(rate) + 3.4) ** 2
            - 0.4 * (weight - 0.3) ** 2
            + rng.normal(0, 0.03)
            for rate, weight, _ in drawn
        ]
        chosen = int(np.argmax(qualities))
        for index, (rate, weight, model) in enumerate(drawn):
            trials.append(
                TunedTrial(
                    candidate=name,
                    trial_id=f"{place:02d}{index}",
                    values=(rate, None if name in ("l1", "mse", "charbonnier") else weight, model),
                    quality=float(qualities[index]),
                    is_finished=index % 5 != 4 or index == chosen,
                    is_chosen=index == chosen,
                )
            )
    return Tuning(parameters, tuple(trials))


def _rungs(names: Sequence[str], best: float) -> Rungs:
    cells = {}
    for place, name in enumerate(names):
        third = 3 if place < len(names) / 3 else 1 if place < len(names) / 2 else 0
        second = max(third, 3 if place < len(names) / 2 else 0)
        reached = (3, second, third)
        stopped = (3 - second, second - third, 0)
        cells[name] = tuple(
            RungCell(
                reached=reached[rung],
                stopped=tuple(f"seed={seed}" for seed in range(stopped[rung])),
                score=best - 1.5 + 0.6 * rung - 0.05 * place if reached[rung] else None,
            )
            for rung in range(3)
        )
    finished = {name: found[-1].reached for name, found in cells.items()}
    return Rungs(reduction_factor=3, steps=STEPS, cells=cells, finished=finished)


def renamed(found: Findings, old: str, new: str) -> Findings:
    """The same with another name for a loss, and for whatever else has one."""
    assert found.cost is not None
    assert found.clips is not None
    assert found.configs is not None
    rows = (replace(row, candidate=new) if row.candidate == old else row for row in found.cost.by_candidate)
    clips = {new if name == old else name: values for name, values in found.clips.by_name.items()}
    configs = {new if name == old else name: (new, new) for name in found.configs.values}
    return replace(
        found,
        cost=replace(found.cost, by_candidate=tuple(rows)),
        clips=ClipScores((new, *found.clips.titles[1:]), clips),
        configs=ConfigDifferences((new, "other"), configs),
        streams=new,
    )


def ladders(name: str, metric: MetricInfo, best: float) -> tuple[CandidateLadders, ...]:
    """One loss that climbed, each seed a stage further."""

    def stage(number: int, seed: int) -> LadderStage:
        return LadderStage(
            best - 0.4 + 0.18 * number - 0.02 * seed,
            0.93 - 0.11 * number,
            0.9 - 0.1 * number,
            0.97 - 0.05 * number,
        )

    trials = tuple(
        LadderTrial(
            trial_id=f"ladder{seed}",
            settings=f"seed={seed}",
            stages=tuple(stage(number, seed) for number in range(2 + seed)),
            outcome=f"equally good after stage {1 + seed}",
            why="the difference lies within the margin two stages in a row",
            findings=(),
            command=f"srloss ladder show runs/ladder{seed}",
        )
        for seed in range(2)
    )
    return (CandidateLadders(name, metric, trials),)
