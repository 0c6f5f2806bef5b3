"""Judging any generator on any pictures: a packed data set, or a folder of pictures as papers do it, beside bicubic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from shards import manifest
from shards.manifest import DATASET_FILE
from shards.picture import UnusablePictureError, open_picture
from shards.sources.walk import find_files
from sr.config import TrialConfig, parse_trial, to_plain
from sr.configfile import ConfigError, unknown
from sr.data import clips_of, hr_and_lr, open_dataset
from sr.degrade import GIVEN
from sr.evaluate import save_png, upscale_clips
from sr.metrics import METRICS, PROFILES, Aggregate, aggregate, measure
from sr.models import GENERATORS
from sr.upscale.model import Upscaler, Windows
from sr.upscale.tiles import Tiling

BASELINE = "bicubic"
SPLITS = ("train", "val", "test")
_MAX_SAVED_CROPS = 48
_IN_MEMORY = Tiling()


@dataclass(frozen=True, slots=True)
class Judged:
    """A clip, or a whole picture as a clip of one frame; float in [0, 1] (`sr` is not clipped), shape (1, T, 3, H, W)."""

    name: str
    source: str
    lr: Tensor
    hr: Tensor
    sr: Tensor


class Material(Protocol):
    """What a generator is judged on."""

    what: str
    """For people: which data, how cut, how degraded."""
    notes: list[str]
    """What is left out, and why; complete once all was judged."""

    def __len__(self) -> int:
        """Clips, at most: unusable pictures are found on the way."""
        ...

    def judged(self, generator: nn.Module, config: TrialConfig, device: torch.device) -> Iterator[Judged]:
        """Runs the generator, in evaluation mode and on the device, on each of them; one is held at a time."""
        ...


class Packed:
    """Clips of a split of a packed data set, cut as a trial's own evaluation cuts them."""

    def __init__(self, config: TrialConfig, split: str) -> None:
        """Opens the data set that the configuration names.

        Raises:
            ValueError: It is missing or another one, or the split has no usable picture.
        """
        self._dataset = open_dataset(config)
        self._clips, left_out = clips_of(self._dataset, split, config.evaluation, scale=config.scale)
        if not self._clips:
            raise ValueError(
                f"data set {self._dataset.url}: no usable picture in split '{split}'"
                + "".join(f"; {line}" for line in left_out)
                + f"; choose another --split ({', '.join(SPLITS)})"
            )
        self.notes = [f"too small: {line}" for line in left_out]
        self.what = (
            f"{self._dataset.url}, split {split}, tiles of {config.evaluation.tile_size} px, "
            f"degradation {config.degradation.type}"
        )

    def __len__(self) -> int:
        """Clips."""
        return len(self._clips)

    def judged(self, generator: nn.Module, config: TrialConfig, device: torch.device) -> Iterator[Judged]:
        """See Material."""
        for item in upscale_clips(generator, self._dataset, self._clips, config, device=device):
            yield Judged(item.clip.clip_id, item.clip.sample.source, item.lr, item.hr, item.sr)


class Folder:
    """Whole pictures below a folder, as papers judge on Set5 or DIV2K: cut to a multiple of the scale, then degraded."""

    def __init__(self, folder: Path, config: TrialConfig) -> None:
        """Lists the folder.

        Raises:
            ValueError: There are no pictures, or the configuration has no degradation to make LR with.
        """
        if config.degradation.type == GIVEN:
            raise ValueError(
                f"{folder}: a folder of pictures has no LR partners, and the model was trained with given ones; say how "
                "LR is made, e.g. --degradation bicubic_aa, or pack pairs with: srloss shard pack paired"
            )
        found = find_files(folder)
        if not found.files:
            raise ValueError(
                f"{folder}: neither a packed data set nor a folder with pictures; give one of them"
            )
        self._files = found.files
        self.notes = [f"{one.source}: {one.reason}" for one in found.rejected]
        self.what = f"{folder}, whole pictures, degradation {config.degradation.type}"

    def __len__(self) -> int:
        """Pictures."""
        return len(self._files)

    def judged(self, generator: nn.Module, config: TrialConfig, device: torch.device) -> Iterator[Judged]:
        """See Material."""
        upscaler = Upscaler(generator.eval(), config.scale, "", device, _IN_MEMORY, Windows())
        for name, file in self._files.items():
            try:
                picture = open_picture(file)
            except UnusablePictureError as error:
                self._note(f"{name}: {error}")
                continue
            height, width = (side // config.scale * config.scale for side in picture.rgb.shape[:2])
            frames = np.ascontiguousarray(picture.rgb[:height, :width].transpose(2, 0, 1))[None]
            hr, lr = hr_and_lr(frames, None, config, device, keys=[f"evaluation/{name}"])
            yield Judged(name, name, lr[None], hr[None], upscaler.still(lr[0])[None, None])

    def _note(self, line: str) -> None:
        # Judged for several generators, a folder tells once.
        if line not in self.notes:
            self.notes.append(line)


@dataclass(frozen=True)
class Comparison:
    """A metric of a generator over all clips, and of bicubic enlargement of the same."""

    own: Aggregate
    baseline: Aggregate
    gain: float
    """Mean over clips of own minus baseline."""
    better_on: int
    """Clips on which the generator beats the baseline."""


Row = dict[str, Any]
"""`clip`, `source`, and each metric."""


def with_data(
    config: TrialConfig, *, data: str | None, degradation: str | dict[str, Any] | None
) -> TrialConfig:
    """The configuration, judged on other data, or made LR in another way.

    Raises:
        ConfigError: There is no such degradation.
    """
    plain = to_plain(config)
    if data is not None:
        plain["data"] = plain["data"] | {"path": data, "fingerprint": ""}
    if degradation is not None:
        plain["degradation"] = degradation
    return parse_trial(plain)


def untrained(name: str, *, scale: int, data: str) -> TrialConfig:
    """A configuration in which a generator without parameters can be judged like a trained one."""
    return parse_trial({"scale": scale, "data": {"path": data}, "model": name, "loss": "l1"})


def open_material(config: TrialConfig, *, split: str) -> Material:
    """The packed data set, or the folder of pictures, that the configuration names.

    Raises:
        ValueError: There is neither, or it has nothing usable.
    """
    path = config.data.path
    is_folder = "://" not in path and Path(path).is_dir() and not (Path(path) / DATASET_FILE).exists()
    if is_folder:
        return Folder(Path(path), config)
    if "://" not in path and not Path(path).exists():
        raise ValueError(f"{path}: no such folder; give a packed data set or a folder of pictures")
    if split not in SPLITS:
        raise ConfigError([f"--split: {unknown('split', split, SPLITS)}"])
    manifest.load(path)
    return Packed(config, split)


def chosen_metrics(profile: str | None, names: str | None, *, default: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics of a profile, or those of a list with commas.

    Raises:
        ConfigError: One is unknown, or both are given.
    """
    if profile is not None and names is not None:
        raise ConfigError(["--profile and --metrics: give one of them"])
    if profile is not None:
        if profile not in PROFILES:
            raise ConfigError([f"--profile: {unknown('profile', profile, PROFILES)}"])
        return PROFILES[profile].metrics
    if names is None:
        return default
    chosen = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    faults = [f"--metrics: {unknown('metric', name, METRICS)}" for name in chosen if name not in METRICS]
    if faults or not chosen:
        raise ConfigError(faults or ["--metrics: empty; give names with commas between, e.g. psnr_y,ssim_y"])
    return chosen


def judge(
    generator: nn.Module,
    material: Material,
    config: TrialConfig,
    *,
    device: torch.device,
    metrics: tuple[str, ...],
    crops: Path | None = None,
    on_progress: Callable[[int, str], None] = lambda _done, _name: None,
    on_clip: Callable[[Judged], None] = lambda _clip: None,
) -> tuple[list[Row], list[Row]]:
    """Measures a generator, and bicubic enlargement of the same LR, clip by clip.

    Args:
        generator: Takes LR in [0, 1].
        material: What to judge it on.
        config: Model, scale and degradation are taken from it.
        device: Where to run.
        metrics: Keys of METRICS.
        crops: Where to write PNGs of the middle frame of up to 48 clips; None: nowhere.
        on_progress: Called after each clip.
        on_clip: Sees the pictures of each clip once it is measured.

    Returns:
        The rows of the generator and those of bicubic, in the same order.

    Raises:
        ValueError: Nothing could be judged, or a metric does not fit.
    """
    baseline = GENERATORS[BASELINE](scale=config.scale)
    saved = _saved(len(material)) if crops is not None else frozenset()
    own: list[Row] = []
    bicubic: list[Row] = []
    for number, item in enumerate(material.judged(generator.to(device), config, device)):
        surplus = (item.lr.shape[1] - item.hr.shape[1]) // 2
        enlarged = baseline(item.lr[:, surplus : item.lr.shape[1] - surplus])
        for rows, sr in ((own, item.sr), (bicubic, enlarged)):
            values = measure(sr, item.hr, names=metrics, scale=config.scale, lr=item.lr)
            scores = {name: value.item() for name, value in values.items()}
            rows.append({"clip": item.name, "source": item.source, **scores})
        if crops is not None and number in saved:
            save_png(crops / f"{item.name.replace('/', '_').replace('#', '.')}.png", item.sr)
        on_clip(item)
        on_progress(number + 1, item.name)
    if not own:
        raise ValueError(f"{material.what}: nothing could be judged; " + "; ".join(material.notes))
    return own, bicubic


def _saved(count: int) -> frozenset[int]:
    """Numbers of the clips whose pictures are kept: spread evenly."""
    return frozenset(np.linspace(0, count - 1, min(count, _MAX_SAVED_CROPS)).round().astype(int).tolist())


def compare(own: list[Row], baseline: list[Row], metrics: tuple[str, ...]) -> dict[str, Comparison]:
    """Sums up rows of a generator and of the baseline over the same clips, metric by metric.

    Raises:
        ValueError: A metric is defined for no clip.
    """
    compared: dict[str, Comparison] = {}
    for name in metrics:
        a, b = (np.array([row[name] for row in rows], dtype=np.float64) for rows in (own, baseline))
        gains = a - b
        better = np.abs(a) < np.abs(b) if METRICS[name].zero_is_best else gains > 0
        if not METRICS[name].higher_is_better and not METRICS[name].zero_is_best:
            better = gains < 0
        gain = float(np.nanmean(gains)) if np.isfinite(gains).any() else float("nan")
        compared[name] = Comparison(aggregate(a, name), aggregate(b, name), gain, int(better.sum()))
    return compared
