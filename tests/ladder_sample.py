"""A ladder of three stages as a real trial would leave it, with numbers that the tests know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from shards import manifest
from sr.config import parse_trial
from sr.data import held_out
from sr.evaluate import crop_names
from sr.ladder.records import (
    Comparison,
    Interval,
    Network,
    Outcome,
    Reading,
    StageRecord,
    stage_folder,
    write_record,
)
from sr.ledger import Ledger, State, Status
from tests.conftest import tiny_trial

STEPS = (900, 1200, 800)
QUALITY = (28.417, 28.993, 29.052)
DISCRIMINATOR, PERCEPTUAL, FRESH = (0.931, 0.834, 0.781), (None, 0.793, 0.776), (0.962, None, 0.803)
# Of the discriminator of each row on the generator of each column.
TRANSFER = ((0.95, 0.61, 0.43), (0.98, 0.88, 0.57), (0.99, 0.93, 0.79))
EVALUATION = {"tile_size": 48, "max_tiles_per_source": 2, "metrics": ["psnr_y", "ssim_y"]}
FINDING = "LR-consistency of 33.1 dB for 5 validations: a term lr_consistency was added"


def around(value: float, half: float = 0.03) -> Interval:
    return Interval(value, value - half, value + half)


def record(stage: int, **changes: Any) -> StageRecord:
    """Stage 0 has no perceptual network, stage 1 no fresh discriminator; stage 2 ends the ladder."""
    perceptual, fresh = PERCEPTUAL[stage], FRESH[stage]
    difference = None if perceptual is None else around(DISCRIMINATOR[stage] - perceptual, 0.02)
    told = (Comparison.NO_PERCEPTUAL, Comparison.DISCRIMINATOR_BETTER, Comparison.EQUALLY_GOOD)
    built = StageRecord(
        stage=stage,
        ended=Outcome.BUDGET if stage == 1 else Outcome.CONVERGED,
        ended_why="its 1,200 steps" if stage == 1 else "nothing got better over 5 validations",
        steps=STEPS[stage],
        seconds=12.5,
        judging_seconds=3.25,
        generator=Network(f"generator of stage {stage}", f"{stage}a" * 32),
        discriminator=Network(f"discriminator of stage {stage}", f"{stage}b" * 32),
        perceptual=()
        if stage == 0
        else (Network(f"discriminator of stage {stage - 1}", f"{stage - 1}b" * 32),),
        calibration=None if stage == 0 else 3.5,
        reading=Reading(
            discriminator=around(DISCRIMINATOR[stage]),
            perceptual=None if perceptual is None else around(perceptual),
            difference=difference,
            standard_error=None if perceptual is None else 0.012,
            num_sources=12,
            num_patches=96,
        ),
        own_judgement=around(TRANSFER[stage][stage], 0.02),
        fresh=None if fresh is None else around(fresh),
        texture=around(0.95),
        comparison=told[stage],
        quality_metric="psnr_y",
        quality=around(QUALITY[stage], 0.31),
        quality_by_clip={"a#0": QUALITY[stage]},
        gain=None if stage == 0 else around(QUALITY[stage] - QUALITY[stage - 1], 0.1),
        judged_by=tuple(TRANSFER[one][stage] for one in range(stage + 1)),
        on_generators=TRANSFER[stage][: stage + 1],
        findings=(FINDING,) if stage == 1 else (),
        decision=Outcome.EQUALLY_GOOD if stage == 2 else None,
        decision_why=(
            "there is no perceptual network yet",
            "AUC differs by 0.041 [0.021, 0.061], above the margin of 0.05",
            "AUC differs by 0.005 [-0.015, 0.025], within the margin of 0.05",
        )[stage],
        is_last=stage == 2,
    )
    return replace(built, **changes)


def planted(folder: Path, photos: Path, records: list[StageRecord], **changes: Any) -> Ledger:
    """A trial's folder with these stages done; `changes` are of its configuration."""
    config = parse_trial(
        {
            **tiny_trial(photos),
            "loss": "l1 + 0.01*gan_vanilla",
            "ladder": {"stages": 3},
            "evaluation": EVALUATION,
            **changes,
        }
    )
    ledger = Ledger(folder)
    ledger.create(config, command="srloss train ladder.yaml")
    ledger.begin_attempt()
    steps = 0
    for one in records:
        Ledger(stage_folder(folder, one.stage)).create(config, command="srloss train ladder.yaml")
        write_record(folder, one)
        steps += one.steps
        ledger.append(
            {
                "kind": "validation",
                "step": steps,
                "samples": 1,
                "seconds": 1.0,
                "val/psnr_y": one.quality.value,
            }
        )
    is_over = bool(records) and records[-1].is_last
    state = State.FINISHED if is_over else State.RUNNING if records else State.PENDING
    ledger.set_status(Status(state, "the ladder ended" if is_over else "", step=steps, attempt=1))
    return ledger


def evaluated(folder: Path, photos: Path, records: list[StageRecord], *, noise: float = 0.2) -> None:
    """Gives each stage an evaluation and pictures, as `sweeps.evaluation` writes them."""
    config = Ledger(folder).config()
    clips = held_out(manifest.load(str(photos)), config).test
    names = crop_names(clips)
    for one in records:
        ledger = Ledger(stage_folder(folder, one.stage))
        shades = {clip.clip_id: 40 + 60 * one.stage + 5 * place for place, clip in enumerate(clips)}
        for clip_id, name in names.items():
            path = ledger.folder / "crops" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 48), (shades[clip_id] % 256,) * 3).save(path)
        ledger.write_evaluation(
            {
                "clip": clip.clip_id,
                "source": clip.sample.source,
                "psnr_y": one.quality.value + noise * place * (one.stage + 1),
                "ssim_y": 0.9,
            }
            for place, clip in enumerate(clips)
        )
