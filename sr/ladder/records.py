"""What a stage leaves behind: a folder that is a trial of its own, with `stage.json` beside the usual files.

TRIAL/stages/0/, 1/, ...    each a trial's folder: config.yaml, metrics.jsonl, checkpoints/, evaluation.jsonl, crops/
TRIAL/stages/K/stage.json   what was found when it ended; written last, so that a stage that has it is done
TRIAL/checkpoints           link to those of the stage whose generator stands for the trial
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sr.files import write_atomically

STAGES = "stages"
RECORD = "stage.json"


class Outcome(StrEnum):
    """Why a stage or a ladder ended."""

    CONVERGED = "converged"
    """Of a stage: its validations did not get better any more."""
    EQUALLY_GOOD = "equally_good"
    """Discriminator and perceptual network tell super-resolved from real equally well: the goal of the ladder."""
    NOTHING_LEFT = "nothing_left"
    """No reader, not even a fresh classifier, tells them apart."""
    NO_GAIN = "no_gain"
    """The last stages brought no significant gain in quality."""
    BUDGET = "budget"
    """Steps, stages or time ran out; nothing was shown."""
    UNDECIDABLE = "undecidable"
    """Steps, stages or time ran out, and the question could not have been decided with so few validation pictures."""
    DIVERGED = "diverged"
    """A loss or gradient became NaN or infinite."""


class Comparison(StrEnum):
    """Of a stage's discriminator with the perceptual network that it was trained beside."""

    EQUALLY_GOOD = "equally_good"
    DISCRIMINATOR_BETTER = "discriminator_better"
    PERCEPTUAL_BETTER = "perceptual_better"
    UNDECIDABLE = "undecidable"
    """The validation pictures are too few for this margin."""
    NO_PERCEPTUAL = "no_perceptual"
    """The stage had no perceptual network."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 90 % interval, by resampling source pictures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Reading:
    """How well both networks of a stage tell SR from HR, read alike: logistic regression on the means of their taps."""

    discriminator: Interval
    """AUC of what the discriminator sees."""
    perceptual: Interval | None
    """AUC of what the perceptual network sees; None where there is none."""
    difference: Interval | None
    """AUC of the discriminator minus that of the perceptual network, paired."""
    standard_error: float | None
    """Of the difference."""
    num_sources: int
    num_patches: int


@dataclass(frozen=True, slots=True)
class Network:
    """Which weights something has."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class StageRecord:
    """The content of stage.json."""

    stage: int
    ended: Outcome
    """CONVERGED, BUDGET or DIVERGED."""
    ended_why: str
    steps: int
    seconds: float
    """Of training."""
    judging_seconds: float
    """Of what came after it: the readings and the fresh classifier."""
    generator: Network
    discriminator: Network
    perceptual: tuple[Network, ...]
    """What this stage's perceptual terms looked through; of stage K > 0 the discriminator of stage K - 1."""
    calibration: float | None
    """Factor of this stage's perceptual term; None for stage 0, whose terms have their own."""
    reading: Reading
    own_judgement: Interval
    """AUC of the discriminator's own logits."""
    fresh: Interval | None
    """AUC of a fresh discriminator trained on the finished generator; None where none was trained."""
    texture: Interval
    """AUC of a reader of fixed statistics (DCT bands): it sees what networks that have not learnt much do not."""
    comparison: Comparison
    quality_metric: str
    quality: Interval
    """Mean of the metric over validation clips, of the generator that the stage ended with."""
    quality_by_clip: dict[str, float]
    gain: Interval | None
    """Quality minus that of the stage before, paired, turned so that above 0 is better; None for stage 0."""
    judged_by: tuple[float, ...]
    """AUC of the own logits of the discriminators of stages 0 to K on this stage's generator."""
    on_generators: tuple[float, ...]
    """AUC of this stage's discriminator's own logits on the generators of stages 0 to K."""
    findings: tuple[str, ...]
    """What the failure detectors found in this stage, and what was done about it, in words."""
    decision: Outcome | None
    """What the stop rule says after this stage; None: go on."""
    decision_why: str
    """In words, with the numbers."""
    is_last: bool
    """Whether the ladder ended here."""


def stage_folder(trial: Path, stage: int) -> Path:
    """The folder of a stage, which is a trial's folder."""
    return trial / STAGES / str(stage)


def folder_name(folder: Path) -> str:
    """For people: a trial's id, for a stage with its number."""
    is_stage = folder.parent.name == STAGES
    return f"{folder.parent.parent.name} stage {folder.name}" if is_stage else folder.name


def write_record(trial: Path, record: StageRecord) -> None:
    """Writes stage.json of a stage: from now on it is done."""
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False)
    write_atomically(stage_folder(trial, record.stage) / RECORD, text.encode())


def read_records(trial: Path) -> list[StageRecord]:
    """The records of the stages that are done, from stage 0; empty where the trial is no ladder, or its first stage is not over.

    Raises:
        ValueError: A record is damaged.
    """
    records: list[StageRecord] = []
    while (path := stage_folder(trial, len(records)) / RECORD).exists():
        try:
            records.append(_from_plain(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: damaged ({error}); delete this stage's folder and later ones, and run the trial again"
            ) from None
    return records


def _from_plain(plain: dict[str, Any]) -> StageRecord:
    told: dict[str, Any] = plain["reading"]
    reading: dict[str, Any] = {
        name: _interval(told[name]) for name in ("discriminator", "perceptual", "difference")
    }
    changed: dict[str, Any] = {
        "ended": Outcome(plain["ended"]),
        "comparison": Comparison(plain["comparison"]),
        "decision": None if plain["decision"] is None else Outcome(plain["decision"]),
        "generator": Network(**plain["generator"]),
        "discriminator": Network(**plain["discriminator"]),
        "perceptual": tuple(Network(**one) for one in plain["perceptual"]),
        "reading": Reading(**{**told, **reading}),
        **{name: _interval(plain[name]) for name in ("own_judgement", "fresh", "texture", "quality", "gain")},
        **{name: tuple(plain[name]) for name in ("judged_by", "on_generators", "findings")},
    }
    whole: dict[str, Any] = plain | changed
    return StageRecord(**whole)


def _interval(plain: Mapping[str, float] | None) -> Interval | None:
    return None if plain is None else Interval(**plain)
