"""The stages of a ladder as trials of their own: their configurations, their folders, and what one passes on to the next."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from sr import checkpoint
from sr.config import Term, TrialConfig, parse_trial, to_plain
from sr.data import open_dataset, open_stream
from sr.features.weights import hash_tensors
from sr.ladder.config import LadderConfig
from sr.ladder.records import STAGES, StageRecord, stage_folder
from sr.ledger import Ledger, State, Status
from sr.losses import LOSSES
from sr.losses.term import FeatureLoss
from sr.parts import bicubic_views, build_criterion
from sr.world import World


def steps_of(records: Sequence[StageRecord]) -> int:
    """Of all these stages."""
    return sum(record.steps for record in records)


def seconds_of(records: Sequence[StageRecord]) -> float:
    """Of training and examining."""
    return sum(record.seconds + record.judging_seconds for record in records)


class StageLedger(Ledger):
    """A stage's own folder; all it hears is passed on to the trial's ledger, where steps run on through all stages.

    Args:
        trial: The trial's ledger, of this attempt.
        stage: Number of the stage.
        before: The stages that are done.
    """

    def __init__(self, trial: Ledger, stage: int, before: Sequence[StageRecord]) -> None:
        super().__init__(stage_folder(trial.folder, stage))
        self._trial = trial
        self._stage = stage
        self._steps = steps_of(before)
        self._seconds = seconds_of(before)

    def append(self, row: Mapping[str, Any], *, sync: bool = False) -> None:
        """Appends the row here and, first, to the trial's: what a kill in between cuts off is then done again."""
        passed = {"stage": self._stage, **row, "step": row["step"] + self._steps}
        if "seconds" in row:
            passed["seconds"] = round(row["seconds"] + self._seconds, 3)
        self._trial.append(passed, sync=sync)
        super().append(row, sync=sync)

    def write_previews(
        self, kind: Literal["hr", "lr", "sr"], step: int, pictures: Mapping[str, bytes]
    ) -> None:
        """They are the trial's, of its own count of steps."""
        self._trial.write_previews(kind, step + self._steps, pictures)

    def beat(self, where: str) -> None:
        """Shows that the trial moves on."""
        self._trial.beat(f"stage {self._stage}, {where}")

    def set_status(self, status: Status) -> None:
        """The trial is not over because a stage is."""
        super().set_status(status)
        self._trial.set_status(
            dataclasses.replace(
                status,
                state=State.RUNNING if status.is_over else status.state,
                step=status.step + self._steps,
                seconds=status.seconds + self._seconds,
                attempt=self._trial.attempt,
            )
        )


def perceptual_terms(loss: Sequence[Term]) -> list[Term]:
    """Those that look through a frozen feature network."""
    return [
        term
        for term in loss
        if isinstance(entry := LOSSES[term.type], type) and issubclass(entry, FeatureLoss)
    ]


def stage_steps(config: TrialConfig, ladder: LadderConfig, before: Sequence[StageRecord]) -> int:
    """Most steps of the next stage; 0 where the budget leaves too few for one."""
    left = config.training.steps - steps_of(before)
    most = min(left, ladder.most_steps(config.training.steps))
    return most if most >= ladder.least_stage_steps and most > 0 else 0


def stage_config(
    config: TrialConfig,
    ladder: LadderConfig,
    before: Sequence[StageRecord],
    *,
    perceptual: Mapping[str, Any] | None,
) -> TrialConfig:
    """The configuration of the next stage, which is a trial without a ladder.

    Args:
        config: The trial's, with the remedies of the stages before.
        ladder: Its ladder.
        before: The stages that are done.
        perceptual: The term in place of stage 0's perceptual ones, as plain values; None: these stay.
    """
    plain = to_plain(config)
    cap = config.training.max_seconds
    spent = seconds_of(before)
    plain |= {"ladder": None, "name": f"{config.name} stage {len(before)}".strip()}
    plain["training"]["steps"] = stage_steps(config, ladder, before)
    plain["training"]["max_seconds"] = None if cap is None else max(1.0, cap - spent)
    terms = [term.model_dump(mode="json") for term in config.loss.terms]
    if perceptual is not None:
        replaced = perceptual_terms(config.loss.terms)
        kept = [
            plain_term
            for term, plain_term in zip(config.loss.terms, terms, strict=True)
            if term not in replaced
        ]
        terms = [*kept, dict(perceptual)]
    wants_consistency = ladder.remedies.lr_inconsistent == "consistency" and is_bicubic(config)
    if wants_consistency and all(term["type"] != "lr_consistency" for term in terms):
        # Without effect until that remedy is applied, so that it can be within a stage.
        terms.append({"type": "lr_consistency", "weight": 0.0})
    plain["loss"]["terms"] = terms
    return parse_trial(plain)


def is_bicubic(config: TrialConfig) -> bool:
    """Whether the input is what bicubic shrinking makes of the target: only then can the output be held against it."""
    return config.degradation.type == "bicubic_aa"


def later_term(config: TrialConfig, ladder: LadderConfig, trial: Path, stage: int) -> dict[str, Any] | None:
    """The perceptual term of a stage after the first, as plain values and not calibrated yet; None: that of stage 0 stays."""
    if ladder.next_loss == "same":
        return None
    weights = [term.weight for term in perceptual_terms(config.loss.terms)]
    term: dict[str, Any] = {
        "type": "perceptual",
        "distance": ladder.distance,
        "taps": None if ladder.taps is None else list(ladder.taps),
        "weight": ladder.weight or sum(weights) or 1.0,
    }
    if ladder.next_loss == "random":
        assert config.adversarial is not None, "a ladder has an opponent"
        architecture = config.adversarial.discriminator.model_dump(mode="json")
        return term | {
            "network": "random_discriminator",
            "architecture": architecture,
            "seed": config.seed + stage,
        }
    return term | {"network": "discriminator", "path": str(stage_folder(trial, stage - 1).resolve())}


def calibrated(
    term: dict[str, Any], config: TrialConfig, ladder: LadderConfig, world: World, ledger: Ledger
) -> dict[str, Any]:
    """The perceptual term of a later stage, scaled as the ladder says.

    By value it is worth, at the bicubic output of the stream's first batch, what stage 0's perceptual terms are there,
    for each unit of weight: so no scale drifts from stage to stage.
    """
    if ladder.calibration == "none":
        return term | {"calibration": 1.0}
    first = perceptual_terms(config.loss.terms)
    if ladder.calibration == "gradient" or not first:
        # Measured where the stage begins, as for every other term.
        return term | {"calibration": None if config.loss.calibrate else 1.0}
    dataset = open_dataset(config)
    stream = open_stream(config, dataset, world, ledger)
    try:
        views = bicubic_views(stream, config, world)
    finally:
        stream.close()
    criterion = build_criterion(config.loss).to(world.device)
    if config.loss.calibrate:
        criterion.calibrate(views, mean=world.mean)
    later = build_criterion(parse_loss(config, term)).to(world.device)
    with torch.no_grad():
        values = criterion.values(views, criterion.perceptual)
        (raw,) = later.values(views, later.perceptual).values()
    own = torch.stack([criterion.factor(name) * value for name, value in values.items()]).sum()
    worth, value = world.mean(torch.stack([own, raw])).tolist()
    if not 0 < value < float("inf"):
        raise ValueError(
            f"ladder: the discriminator sees no difference between bicubic and real pictures (its distance is {value}), so it "
            "cannot be calibrated by value; set ladder.calibration=gradient, or other ladder.taps"
        )
    return term | {"calibration": worth / sum(one.weight for one in first) / value}


def parse_loss(config: TrialConfig, term: dict[str, Any]) -> Any:  # noqa: ANN401
    """A loss that is one term alone."""
    plain = to_plain(config) | {"ladder": None, "adversarial": None}
    return parse_trial(plain | {"loss": {"terms": [term], "calibrate": False}}).loss


def final_state(trial: Path, record: StageRecord) -> dict[str, Any]:
    """The checkpoint that a stage ended with.

    Raises:
        ValueError: It is missing, damaged, or another one than when the stage ended.
    """
    folder = stage_folder(trial, record.stage)
    path = checkpoint.newest_path(folder / "checkpoints")
    what_to_do = f"restore it, or delete {folder} and the folders of later stages and run the trial again"
    if path is None:
        raise ValueError(f"{folder}: no checkpoint of this stage, which had ended; {what_to_do}")
    state = checkpoint.load(path)
    if hash_tensors(state["ema"]) != record.generator.sha256:
        raise ValueError(f"checkpoint {path}: not the one that this stage ended with; {what_to_do}")
    return state


def stand_for(trial: Path, stage: int) -> None:
    """Makes the stage's checkpoints those of the trial."""
    link = trial / "checkpoints"
    temporary = trial / f".checkpoints.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path(STAGES, str(stage), "checkpoints"), target_is_directory=True)
    temporary.replace(link)
