"""Judging a generator on held-out clips: tiles of pictures, every one through the same degradation and protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shards.decode import Window
from shards.manifest import Dataset
from shards.reader import read_clip
from sr.config import TrialConfig
from sr.data import Clip, evaluation_key, hr_and_lr, judged_frames
from sr.degrade import GIVEN
from sr.metrics import measure, to_8bit
from sr.over_time import place_of_motion, save_over_time
from sr.scores import mean_scores

_MAX_SAVED_CROPS = 48


@dataclass(frozen=True, slots=True)
class ClipPictures:
    """One clip in all its versions; float in [0, 1], shape (1, T, 3, H, W)."""

    clip: Clip
    lr: Tensor
    hr: Tensor
    sr: Tensor


@torch.no_grad()
def upscale_clips(
    generator: nn.Module, dataset: Dataset, clips: list[Clip], config: TrialConfig, *, device: torch.device
) -> Iterator[ClipPictures]:
    """Runs the generator, in evaluation mode, on each clip; it is left in the mode it was in."""
    was_training = generator.training
    generator.eval()
    try:
        for clip in clips:
            pixels = _pixels(dataset, clip, config)
            hr, lr = hr_and_lr(*pixels, config, device, keys=[evaluation_key(clip)])
            sr = judged_frames(generator(lr[None]), config.model)
            yield ClipPictures(clip, lr[None], judged_frames(hr[None], config.model), sr)
    finally:
        generator.train(was_training)


def _pixels(dataset: Dataset, clip: Clip, config: TrialConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """HR of a clip, and LR where the data set gives it; uint8, shape (T, 3, H, W)."""
    window = Window(clip.top, clip.left, clip.height, clip.width)
    hr = read_clip(dataset, clip.sample, window)
    if config.degradation.type != GIVEN:
        return hr, None
    small = Window(*(side // config.scale for side in (clip.top, clip.left, clip.height, clip.width)))
    return hr, read_clip(dataset, clip.sample, small, role="lr")


def evaluate(
    generator: nn.Module,
    dataset: Dataset,
    clips: list[Clip],
    config: TrialConfig,
    *,
    device: torch.device,
    metrics: tuple[str, ...] | None = None,
    crops_folder: Path | None = None,
    on_clip: Callable[[ClipPictures], None] = lambda _clip: None,
) -> list[dict[str, Any]]:
    """Measures a generator on clips by the standard protocol (see sr.metrics).

    Args:
        generator: Takes LR (B, T, 3, h, w) in [0, 1].
        dataset: Where the clips are.
        clips: From `sr.data.held_out`.
        config: Degradation and scale are taken from it.
        device: Where the generator is.
        metrics: Keys of METRICS; None: those of the configuration.
        crops_folder: Where to write PNGs of up to 48 clips (see `save_pictures`); None: nowhere.
        on_clip: Sees the pictures of each clip once it is measured.

    Returns:
        One row per clip: `clip`, `source`, and each metric.
    """
    metrics = config.evaluation.metrics if metrics is None else metrics
    saved = crop_names(clips) if crops_folder is not None else {}
    rows: list[dict[str, Any]] = []
    for item in upscale_clips(generator, dataset, clips, config, device=device):
        values = measure(item.sr, item.hr, names=metrics, scale=config.scale, lr=item.lr)
        scores = {name: value.item() for name, value in values.items()}
        rows.append({"clip": item.clip.clip_id, "source": item.clip.sample.source, **scores})
        if crops_folder is not None and item.clip.clip_id in saved:
            save_pictures(crops_folder / saved[item.clip.clip_id], item.sr, hr=item.hr)
        on_clip(item)
    return rows


def crop_names(clips: list[Clip]) -> dict[str, str]:
    """Clip id to file name, for those clips whose pictures are kept."""
    count = min(len(clips), _MAX_SAVED_CROPS)
    indices = np.linspace(0, len(clips) - 1, count).round().astype(int) if clips else []
    return {
        clips[i].clip_id: f"{clips[i].sample.key}.{clips[i].clip_id.rpartition('#')[2]}.png" for i in indices
    }


def save_pictures(path: Path, pictures: Tensor, *, hr: Tensor) -> None:
    """Writes the middle frame and, of a clip of several frames, what it looks like over time (see sr.over_time).

    Args:
        path: Of the PNG of the middle frame.
        pictures: HR or a version of it, (1, T, 3, H, W) in [0, 1].
        hr: Decides which part is shown over time; same shape.
    """
    save_png(path, pictures)
    if pictures.shape[1] > 1:
        save_over_time(path, pictures, place_of_motion(hr[0]))


def save_png(path: Path, pictures: Tensor) -> None:
    """Writes the middle frame of (1, T, 3, H, W) in [0, 1] as an 8-bit PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(middle_frame(pictures)).save(path)


def middle_frame(pictures: Tensor) -> np.ndarray:
    """The middle frame of (1, T, 3, H, W) in [0, 1] as 8-bit pixels, shape (H, W, 3)."""
    frame = to_8bit(pictures[0, pictures.shape[1] // 2]).mul(255).round().to(torch.uint8)
    return frame.permute(1, 2, 0).cpu().numpy()


def validation_scores(
    generator: nn.Module, dataset: Dataset, clips: list[Clip], config: TrialConfig, *, device: torch.device
) -> dict[str, float]:
    """Mean over clips of the metrics of a validation, named as in the ledger."""
    rows = evaluate(generator, dataset, clips, config, device=device, metrics=config.evaluation.validation)
    return as_validation(rows)


def as_validation(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean scores of rows as `evaluate` returns them, named as in the ledger."""
    return {f"val/{name}": value for name, value in mean_scores(rows).items()}
