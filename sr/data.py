"""What a trial learns from and is judged on: its data set, its stream of crops, its held-out clips."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shards import manifest
from shards.manifest import Dataset
from shards.records import Sample
from shards.stream import Batch, DamagePolicy, Stream
from sr.config import EvaluationConfig, TrialConfig
from sr.degrade import GIVEN, degrade
from sr.ledger import Ledger
from sr.models import GENERATORS
from sr.section import Component
from sr.world import World

log = logging.getLogger(__name__)

_MIN_SIDE_AFTER_CROP = 16
"""HaarPSI's three scales need this many pixels; SSIM's window needs 11."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One tile of one source; the unit of evaluation. Sources are the unit of statistics."""

    clip_id: str
    """`source#tile`."""
    sample: Sample
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class HeldOut:
    """The clips that a trial is judged on, and what is too small for that."""

    val: list[Clip]
    test: list[Clip]
    left_out: list[str]
    """A line for each split in which pictures are too small."""


def open_dataset(config: TrialConfig) -> Dataset:
    """Loads the trial's data set and checks that it is the one the trial was made for.

    Raises:
        ValueError: It is missing, damaged, another one, or lacks the LR pictures that the configuration asks for.
    """
    dataset = manifest.load(config.data.path)
    if config.data.fingerprint and dataset.fingerprint != config.data.fingerprint:
        raise ValueError(
            f"data.path {config.data.path}: the data set there has fingerprint {dataset.fingerprint[:12]}, the trial was "
            f"made for {config.data.fingerprint[:12]}; restore that data set, or start a new trial without data.fingerprint"
        )
    own = dataset.description.lr_scale
    if config.degradation.type == GIVEN and own != config.scale:
        has = (
            f"has LR pictures of scale {own}, not {config.scale}" if own else "has no LR pictures of its own"
        )
        raise ValueError(
            f"degradation: '{GIVEN}' reads the LR pictures of the data set, but {dataset.url} {has}; pack pairs with: "
            "srloss shard pack paired; or choose another degradation or scale"
        )
    return dataset


def open_stream(config: TrialConfig, dataset: Dataset, world: World, ledger: Ledger) -> Stream:
    """The trial's crops, from the beginning."""
    return Stream(
        dataset,
        "train",
        data_seed=config.data.seed,
        global_batch_size=config.training.global_batch_size,
        patch_size=config.data.patch_size,
        augment=config.data.augment,
        paired=config.degradation.type == GIVEN,
        rank=world.rank,
        world_size=world.world_size,
        threads=config.data.threads,
        damage=DamagePolicy(
            config.data.on_damage, config.data.damage_budget, ledger.folder / "damaged_clips.jsonl"
        ),
    )


def held_out(dataset: Dataset, config: TrialConfig) -> HeldOut:
    """Checks, before anything is trained, that there is something to learn from, and cuts what is judged on.

    Raises:
        ValueError: A split has nothing usable.
    """
    if not dataset.of_split("train"):
        raise ValueError(
            f"data set {dataset.url}: split 'train' is empty; pack it again with other --split shares"
        )
    clips: dict[str, list[Clip]] = {}
    lines: list[str] = []
    for split, use in (("val", "validate"), ("test", "evaluate")):
        clips[split], left_out = clips_of(dataset, split, config.evaluation, scale=config.scale)
        if not clips[split]:
            raise ValueError(
                f"data set {dataset.url}: no usable picture to {use} on in split '{split}'"
                + "".join(f"; {line}" for line in left_out)
                + "; pack more pictures, or other --split shares"
            )
        if left_out:
            lines.append(f"too small to {use} on: {'; '.join(left_out)}")
    return HeldOut(clips["val"], clips["test"], lines)


def to_unit(frames: np.ndarray, device: torch.device) -> Tensor:
    """uint8 array of any shape to float32 in [0, 1] on the device."""
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).float().div(255)


def hr_and_lr(
    hr: np.ndarray,
    lr: np.ndarray | None,
    config: TrialConfig,
    device: torch.device,
    *,
    keys: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """The pair that a generator is trained or judged on, float32 in [0, 1], on the device.

    Args:
        hr: uint8, shape (B, T, 3, H, W), or (T, 3, H, W) for one clip.
        lr: The data set's own partner, uint8; None where the configuration's degradation makes it.
        config: Degradation and scale are taken from it.
        device: Where to put both.
        keys: One per clip (see `training_keys` and `evaluation_key`): all that the degradation draws follows from them.
    """
    pictures = to_unit(hr, device)
    if lr is not None:
        return pictures, to_unit(lr, device)
    made = degrade(
        pictures,
        kind=config.degradation.type,
        scale=config.scale,
        parameters=config.degradation.parameters,
        keys=keys,
    )
    return pictures, made


def training_keys(batch: Batch, config: TrialConfig) -> list[str]:
    """What the degradation of each clip of a batch draws from: it changes with the data seed and from epoch to epoch."""
    return [f"{config.data.seed}/{epoch}/{key}" for key, epoch in zip(batch.keys, batch.epochs, strict=True)]


def evaluation_key(clip: Clip) -> str:
    """What the degradation of a held-out clip draws from: the same in all trials, whatever their seeds."""
    return f"evaluation/{clip.clip_id}"


def judged_frames(pictures: Tensor, model: Component) -> Tensor:
    """The frames that a model answers for: all, or the middle one of a clip. Shape (B, T, 3, H, W) to (B, t, 3, H, W)."""
    if not getattr(GENERATORS[model.type], "middle_frame_only", False) or pictures.shape[1] == 1:
        return pictures
    middle = pictures.shape[1] // 2
    return pictures[:, middle : middle + 1]


def clips_of(
    dataset: Dataset, split: str, evaluation: EvaluationConfig, *, scale: int
) -> tuple[list[Clip], list[str]]:
    """The pictures of a split cut into clips, and one line for each that is too small to be judged."""
    places: dict[str, list[tuple[Sample, int, int]]] = {}
    left_out: list[str] = []
    for sample in dataset.of_split(split):
        if min(sample.width, sample.height) // scale * scale - 2 * scale < _MIN_SIDE_AFTER_CROP:
            least = _MIN_SIDE_AFTER_CROP + 3 * scale
            left_out.append(
                f"{sample.source}: {sample.width} x {sample.height} px, needs {least} px on each side"
            )
            continue
        rows = _offsets(sample.height, evaluation.tile_size, scale)
        columns = _offsets(sample.width, evaluation.tile_size, scale)
        places.setdefault(sample.source, []).extend((sample, top, left) for top in rows for left in columns)
    clips = [clip for source in places.values() for clip in _tiles(source, evaluation, scale)]
    return clips, left_out


def _tiles(places: list[tuple[Sample, int, int]], evaluation: EvaluationConfig, scale: int) -> list[Clip]:
    """Tiles spread evenly over one source, which may be a picture or a video of many samples."""
    count = min(len(places), evaluation.max_tiles_per_source)
    chosen = np.linspace(0, len(places) - 1, count).round().astype(int)
    clips: list[Clip] = []
    for number, (sample, top, left) in enumerate(places[i] for i in chosen):
        height = min(evaluation.tile_size, sample.height // scale * scale)
        width = min(evaluation.tile_size, sample.width // scale * scale)
        clips.append(Clip(f"{sample.source}#{number}", sample, top, left, height, width))
    return clips


def _offsets(side: int, tile: int, scale: int) -> list[int]:
    """Start of each tile of a row that is centred in the picture."""
    tile = min(tile, side // scale * scale)
    count = side // tile
    # A multiple of the scale, so that the LR picture that a data set gives can be cut alike.
    margin = (side - count * tile) // 2 // scale * scale
    return [margin + i * tile for i in range(count)]
