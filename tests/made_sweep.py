"""Sweeps and trials on disk as if they had run: configurations as they are written, numbers as a test wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sr.config import parse_trial
from sr.ledger import Ledger, State, Status
from sweeps.evaluation import BASELINE
from sweeps.spec import PlannedTrial, expand, parse_sweep
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep

Scores = Callable[[str, int, str], Mapping[str, float]]
"""Loss, seed and clip to the clip's metrics."""
CLIPS = tuple((f"p{source}.png#{tile}", f"p{source}.png") for source in range(8) for tile in range(2))
FINGERPRINT = "ab" * 32


def trial_of(**changes: Any) -> dict[str, Any]:
    return {
        "data": {"path": "/data/photos", "patch_size": 32, "fingerprint": FINGERPRINT},
        "model": "espcn",
        "training": {"steps": 40, "global_batch_size": 4, "validate_every": 20},
        **changes,
    }


def planned(
    store: Path, *, name: str = "made", parameters: dict[str, Any] | None = None, **changes: Any
) -> Sweep:
    """A sweep whose trials wait: two losses by three seeds, unless `parameters` says otherwise."""
    trial = trial_of(**changes.pop("trial", {}))
    parameters = parameters or {"loss": ["l1", "mse"], "seed": [0, 1, 2]}
    config = parse_sweep({"name": name, "parameters": parameters, "trial": trial, **changes}, where="made")
    trials = expand(config, dataset_fingerprint=trial["data"]["fingerprint"])
    folder = SweepFolder(store / "sweeps" / f"{name}-123abc")
    for each in trials:
        folder.trial(each.trial_id).create(each.config, command="srloss train made.yaml")
    plan = {"sweep": config.model_dump(mode="json"), "command": "srloss sweep made.yaml", "created": ""}
    folder.write_plan(plan | {"trials": [[t.trial_id, t.candidate, t.variant] for t in trials]})
    return Sweep(config, trials, folder, plan["command"])


def rows_of(
    loss: str, seed: int, scores: Scores, clips: Sequence[tuple[str, str]] = CLIPS
) -> list[dict[str, Any]]:
    return [{"clip": clip, "source": source, **scores(loss, seed, clip)} for clip, source in clips]


def finish(ledger: Ledger, rows: list[dict[str, Any]], *, step: int = 40, stream_hash: str = "") -> None:
    """Lets a trial have been trained and evaluated."""
    seed = ledger.config().data.seed
    validated(ledger, 20, step)
    hashed = stream_hash or f"{seed:064d}"
    ledger.set_status(
        Status(State.FINISHED, f"all {step} steps", step, seconds=36.0, attempt=1, stream_hash=hashed)
    )
    ledger.write_evaluation(rows)


def validated(ledger: Ledger, *steps: int, better: float = 0.0) -> None:
    for step in steps:
        row = {"step": step, "samples": 4 * step, "seconds": step * 0.9}
        ledger.append({"kind": "train", **row, "loss": 0.1, "images_per_second": 100.0})
        ledger.append(
            {"kind": "validation", **row, "val/psnr_y": 30 + step / 100 + better, "val/ssim_y": 0.9}
        )


def finished(store: Path, scores: Scores, **settings: Any) -> Sweep:
    """A sweep that is over, with its baseline."""
    sweep = planned(store, **settings)
    for trial in sweep.trials:
        finish(sweep.ledger(trial), rows_of(trial.candidate, trial.config.seed, scores))
    baseline = sweep.folder.baseline(BASELINE)
    baseline.create(sweep.trials[0].config, command="")
    baseline.set_status(Status(State.FINISHED, "needs no training"))
    baseline.write_evaluation(rows_of(BASELINE, 0, scores))
    return sweep


def of(sweep: Sweep, candidate: str, seed: int = 0) -> PlannedTrial:
    return next(t for t in sweep.trials if t.candidate == candidate and t.config.seed == seed)


def lone_trial(store: Path, **changes: Any) -> Ledger:
    """A trial that `srloss train` has made."""
    from sr.ledger import trial_id

    config = parse_trial(trial_of(**changes))
    ledger = Ledger(store / "trials" / trial_id(config))
    ledger.create(config, command="srloss train lone.yaml")
    return ledger
