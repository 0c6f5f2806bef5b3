"""Judging a generator on held-out clips: tiles of pictures, every one through the same degradation and protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shards.manifest import Dataset, Sample, read_clip
from sr.config import Component, EvaluationConfig, TrialConfig
from sr.degrade import degrade
from sr.metrics import measure, to_8bit

EVALUATION_METRICS = ("psnr_y", "ssim_y", "haarpsi", "gmsd")
VALIDATION_METRICS = ("psnr_y", "ssim_y")
_MIN_SIDE_AFTER_CROP = 16
"""HaarPSI's three scales need this many pixels; SSIM's window needs 11."""
_MAX_SAVED_CROPS = 48


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


def clips_of(
    dataset: Dataset, split: str, evaluation: EvaluationConfig, *, scale: int
) -> tuple[list[Clip], list[str]]:
    """Cuts the pictures of a split into clips.

    Returns:
        The clips, and one line for each picture that is too small to be judged.
    """
    clips: list[Clip] = []
    left_out: list[str] = []
    for sample in dataset.of_split(split):
        if min(sample.width, sample.height) // scale * scale - 2 * scale < _MIN_SIDE_AFTER_CROP:
            least = _MIN_SIDE_AFTER_CROP + 3 * scale
            left_out.append(
                f"{sample.source}: {sample.width} x {sample.height} px, needs {least} px on each side"
            )
            continue
        clips += _tiles(sample, evaluation, scale)
    return clips, left_out


def _tiles(sample: Sample, evaluation: EvaluationConfig, scale: int) -> list[Clip]:
    rows = _offsets(sample.height, evaluation.tile_size, scale)
    columns = _offsets(sample.width, evaluation.tile_size, scale)
    places = [(top, left) for top in rows for left in columns]
    count = min(len(places), evaluation.max_tiles_per_source)
    chosen = [places[i] for i in np.linspace(0, len(places) - 1, count).round().astype(int)]
    height = min(evaluation.tile_size, sample.height // scale * scale)
    width = min(evaluation.tile_size, sample.width // scale * scale)
    return [
        Clip(f"{sample.source}#{number}", sample, top, left, height, width)
        for number, (top, left) in enumerate(chosen)
    ]


def _offsets(side: int, tile: int, scale: int) -> list[int]:
    """Start of each tile of a row that is centred in the picture."""
    tile = min(tile, side // scale * scale)
    count = side // tile
    margin = (side - count * tile) // 2
    return [margin + i * tile for i in range(count)]


def to_unit(frames: np.ndarray, device: torch.device) -> Tensor:
    """uint8 array of any shape to float32 in [0, 1] on the device."""
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).float().div(255)


@dataclass(frozen=True, slots=True)
class ClipPictures:
    """One clip in all its versions; float in [0, 1], shape (1, T, 3, H, W)."""

    clip: Clip
    lr: Tensor
    hr: Tensor
    sr: Tensor


@torch.no_grad()
def upscale_clips(
    generator: nn.Module,
    dataset: Dataset,
    clips: list[Clip],
    *,
    degradation: Component,
    scale: int,
    device: torch.device,
) -> Iterator[ClipPictures]:
    """Runs the generator, in evaluation mode, on each clip; it is left in the mode it was in."""
    was_training = generator.training
    generator.eval()
    loaded: tuple[str, np.ndarray] | None = None
    try:
        for clip in clips:
            # Clips come grouped by sample, so one decoded picture is all that is kept.
            if loaded is None or loaded[0] != clip.sample.key:
                loaded = clip.sample.key, read_clip(dataset, clip.sample)
            tile = loaded[1][..., clip.top : clip.top + clip.height, clip.left : clip.left + clip.width]
            hr = to_unit(tile, device)[None]
            lr = degrade(hr, kind=degradation.type, scale=scale, parameters=degradation.parameters)
            yield ClipPictures(clip, lr, hr, generator(lr))
    finally:
        generator.train(was_training)


def evaluate(
    generator: nn.Module,
    dataset: Dataset,
    clips: list[Clip],
    config: TrialConfig,
    *,
    device: torch.device,
    metrics: tuple[str, ...] = EVALUATION_METRICS,
    crops_folder: Path | None = None,
    on_clip: Callable[[int], None] = lambda _done: None,
) -> list[dict[str, Any]]:
    """Measures a generator on clips by the standard protocol (see sr.metrics).

    Args:
        generator: Takes LR (B, T, 3, h, w) in [0, 1].
        dataset: Where the clips are.
        clips: From `clips_of`.
        config: Degradation and scale are taken from it.
        device: Where the generator is.
        metrics: Keys of METRICS.
        crops_folder: Where to write PNGs of the middle frame of up to 48 clips; None: nowhere.
        on_clip: Called with the number of clips done.

    Returns:
        One row per clip: `clip`, `source`, and each metric.
    """
    saved = _saved_clips(clips) if crops_folder is not None else {}
    rows: list[dict[str, Any]] = []
    pictures = upscale_clips(
        generator, dataset, clips, degradation=config.degradation, scale=config.scale, device=device
    )
    for done, item in enumerate(pictures, start=1):
        values = measure(item.sr, item.hr, names=metrics, scale=config.scale)
        scores = {name: value.item() for name, value in values.items()}
        rows.append({"clip": item.clip.clip_id, "source": item.clip.sample.source, **scores})
        if crops_folder is not None and item.clip.clip_id in saved:
            save_png(crops_folder / saved[item.clip.clip_id], item.sr)
        on_clip(done)
    return rows


def crop_names(clips: list[Clip]) -> dict[str, str]:
    """Clip id to file name, for those clips whose pictures are kept."""
    return _saved_clips(clips)


def _saved_clips(clips: list[Clip]) -> dict[str, str]:
    count = min(len(clips), _MAX_SAVED_CROPS)
    indices = np.linspace(0, len(clips) - 1, count).round().astype(int) if clips else []
    return {
        clips[i].clip_id: f"{clips[i].sample.key}.{clips[i].clip_id.rpartition('#')[2]}.png" for i in indices
    }


def save_png(path: Path, pictures: Tensor) -> None:
    """Writes the middle frame of (1, T, 3, H, W) in [0, 1] as an 8-bit PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    frame = to_8bit(pictures[0, pictures.shape[1] // 2]).mul(255).round().to(torch.uint8)
    Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()).save(path)


def mean_scores(rows: list[dict[str, Any]], metrics: tuple[str, ...]) -> dict[str, float]:
    """Mean over clips of each metric."""
    return {name: float(np.mean([row[name] for row in rows])) for name in metrics}
