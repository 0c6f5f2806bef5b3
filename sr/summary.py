"""What is measured on a set as a whole, while its clips pass: aggregates, how easily SR is told from HR, warnings.

`WholeSet` sees the pictures of each clip once and keeps numbers and a bounded choice of small patches, however large the
set is; `Summary` is what comes of it, and of the rows of the clips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr.config import TrialConfig
from sr.degrade import GIVEN
from sr.metrics import METRICS, Aggregate, aggregate, crop_border, linter, psnr, to_8bit
from sr.metrics.aggregate import decibels_of_mean
from sr.metrics.perception_distortion import PIRM_BORDER, Separability, region, rmse, separability
from sr.resize import upscale_bicubic

DATA_RULES = (5, 6)
"""Of the linter: what they say is true of the data, whichever model is judged."""
_PATCH, _MOST_PATCHES, _PATCHES_PER_CLIP = 32, 1024, 16
_BLOCK, _MOST_BLOCKS, _BLOCKS_PER_CLIP = 64, 64, 4
_FEWEST_SOURCES = 4
_MIN_SIDE_FOR_HALF = 16
_PROMISES_BICUBIC = ("bicubic_aa", GIVEN)


@dataclass(frozen=True)
class Summary:
    """A model on a whole set."""

    num_clips: int
    num_sources: int
    metrics: dict[str, Aggregate]
    """By name; where a metric is defined on no clip, `n` is 0 and its statistics are NaN."""
    rmse: float | None
    """Distortion as in PIRM 2018, on 0..255; None where pictures are smaller than 9 x 9."""
    separability: Separability | None
    """How well small patches of SR are told from the same of HR; None: see `why_not_separated`."""
    why_not_separated: str
    facts: dict[str, Any]
    """What the linter knew: the fields of `sr.metrics.linter.Facts`, of `psnr` the mean; None: not known."""
    warnings: tuple[linter.Warning, ...]

    @property
    def region(self) -> int | None:
        """PIRM's region 1, 2 or 3, or None beyond all three."""
        return None if self.rmse is None else region(self.rmse)


def to_plain(summary: Summary) -> dict[str, Any]:
    """For a JSON file: NaN and infinity are None, and each metric carries its convention and protocol."""
    plain = asdict(summary)
    for name, values in plain["metrics"].items():
        metric = METRICS[name]
        values |= {"unit": metric.unit, "convention": metric.convention, "protocol": asdict(metric.protocol)}
    plain["region"] = summary.region
    return _without_nan(plain)


def from_plain(plain: Mapping[str, Any]) -> Summary:
    """The inverse of `to_plain`."""
    told = plain["separability"]
    return Summary(
        num_clips=plain["num_clips"],
        num_sources=plain["num_sources"],
        metrics={name: _aggregate_from(values) for name, values in plain["metrics"].items()},
        rmse=plain["rmse"],
        separability=None if told is None else Separability(**told),
        why_not_separated=plain["why_not_separated"],
        facts=plain["facts"],
        warnings=tuple(linter.Warning(**warning) for warning in plain["warnings"]),
    )


def _aggregate_from(values: Mapping[str, Any]) -> Aggregate:
    mean, median, p5, p95 = (
        math.nan if values[name] is None else values[name] for name in ("mean", "median", "p5", "p95")
    )
    counts = values["n"], values["num_capped"], values["num_undefined"]
    return Aggregate(counts[0], mean, median, p5, p95, values["of_the_mean"], *counts[1:])


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - anything that JSON holds
    if isinstance(value, Mapping):
        return {str(key): _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class WholeSet:
    """Looks on while the clips of a set are judged."""

    def __init__(self, config: TrialConfig) -> None:
        self._scale = config.scale
        # Another kernel, noise or blur that the configuration asks for is no accident.
        self._is_bicubic_promised = config.degradation.type in _PROMISES_BICUBIC
        self._patches = _Choice(_PATCH, most=_MOST_PATCHES, per_clip=_PATCHES_PER_CLIP)
        self._blocks = _Choice(_BLOCK, most=_MOST_BLOCKS, per_clip=_BLOCKS_PER_CLIP)
        self._psnr: list[float] = []
        self._squared_error: list[float] = []
        self._of_data: dict[str, list[float]] = {"black": [], "bicubic": [], "lr": [], "half": []}
        self._output = self._target = (math.inf, -math.inf)
        self._frames_per_clip = 0

    @torch.no_grad()
    def see(self, source: str, *, lr: Tensor, hr: Tensor, sr: Tensor) -> None:
        """Takes one clip; of shape (1, T, 3, H, W) in [0, 1], `sr` not clipped, `lr` with as many frames or more."""
        surplus = (lr.shape[1] - hr.shape[1]) // 2
        small = lr[0, surplus : lr.shape[1] - surplus]
        output, target = sr[0], hr[0]
        self._frames_per_clip = len(target)
        self._output, self._target = _wider(self._output, output), _wider(self._target, target)
        stored, truth = to_8bit(output), to_8bit(target)
        self._psnr += self._psnr_rgb(stored, truth).tolist()
        if min(target.shape[-2:]) > 2 * PIRM_BORDER:
            self._squared_error.append(rmse(stored, truth) ** 2)
        self._see_data(small, truth)
        self._patches.offer(source, stored, truth)
        self._blocks.offer(source, stored, truth)

    def _psnr_rgb(self, stored: Tensor, truth: Tensor) -> Tensor:
        """By the profile `rgb`, one value a frame."""
        return psnr(self._inner(stored), self._inner(truth), data_range=1.0)

    def _inner(self, pictures: Tensor) -> Tensor:
        # Of a picture that is all border, the border is all there is.
        pixels = self._scale if min(pictures.shape[-2:]) > 2 * self._scale else 0
        return crop_border(pictures, pixels)

    def _see_data(self, lr: Tensor, truth: Tensor) -> None:
        """What does not depend on the model."""
        of = self._of_data
        of["black"].append(linter.psnr_of_black(self._inner(truth)))
        enlarged = to_8bit(upscale_bicubic(lr, self._scale))
        of["bicubic"] += self._psnr_rgb(enlarged, truth).tolist()
        of["lr"].append(linter.lr_against_down_hr(lr, truth))
        if min(truth.shape[-2:]) >= _MIN_SIDE_FOR_HALF:
            of["half"].append(linter.hr_against_its_half(truth))

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> Summary:
        """Sums up what passed.

        Args:
            rows: Of the same clips, as `sr.evaluate.evaluate` returns them.
        """
        names = [name for name in rows[0] if name not in ("clip", "source")]
        facts = self._facts()
        told, why_not = self._separability()
        known = asdict(facts) | {"psnr": float(np.mean(facts.psnr))}
        if not self._is_bicubic_promised:
            facts = replace(facts, lr_against_down_hr=None)
        return Summary(
            num_clips=len(rows),
            num_sources=len({row["source"] for row in rows}),
            metrics={name: _aggregated([row[name] for row in rows], name) for name in names},
            rmse=math.sqrt(np.mean(self._squared_error)) if self._squared_error else None,
            separability=told,
            why_not_separated=why_not,
            facts=known,
            warnings=tuple(linter.lint(facts)),
        )

    def _facts(self) -> linter.Facts:
        means = {name: float(np.mean(values)) if values else None for name, values in self._of_data.items()}
        low, high = self._target
        blocks = self._blocks.pairs()
        return linter.Facts(
            psnr=tuple(self._psnr),
            psnr_label="PSNR-RGB",
            psnr_black=means["black"],
            psnr_bicubic=means["bicubic"],
            tail_of_bicubic_db=_tail(self._of_data["bicubic"]),
            frames_per_clip=self._frames_per_clip,
            output_range=self._output,
            # Targets of one colour have no range that an output could be compared with.
            target_range=self._target if high > low else None,
            lr_against_down_hr=means["lr"],
            hr_against_its_half=means["half"],
            checkerboard=linter.checkerboard(*blocks) if blocks else None,
        )

    def _separability(self) -> tuple[Separability | None, str]:
        pairs, sources = self._patches.pairs(), self._patches.sources
        if pairs is None:
            return None, f"no picture has {_PATCH} x {_PATCH} pixels"
        if (count := len(set(sources))) < _FEWEST_SOURCES:
            return None, f"{count} held-out pictures; it takes {_FEWEST_SOURCES} or more"
        return separability(*pairs, sources), ""


def _tail(decibels: list[float]) -> float | None:
    return abs(float(np.mean(decibels)) - decibels_of_mean(np.asarray(decibels))) if decibels else None


def _wider(known: tuple[float, float], pictures: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(pictures)
    return min(known[0], low.item()), max(known[1], high.item())


def _aggregated(values: Sequence[float], name: str) -> Aggregate:
    # What is no finite number counts as undefined, as in every mean over these rows.
    given = np.asarray(values, dtype=np.float64)
    given = np.where(np.isfinite(given), given, np.nan)
    if np.isnan(given).all():
        return Aggregate(0, math.nan, math.nan, math.nan, math.nan, None, 0, len(given))
    return aggregate(given, name)


class _Choice:
    """A bounded number of crops of one size from however many pictures.

    The choice depends on the order and the sizes of the pictures only: all models are judged on the same crops.
    """

    def __init__(self, size: int, *, most: int, per_clip: int) -> None:
        self.sources: list[str] = []
        self._size, self._most, self._per_clip = size, most, per_clip
        self._pairs: list[Tensor] = []
        self._random = np.random.default_rng(0)
        self._offered = 0

    def offer(self, source: str, stored: Tensor, truth: Tensor) -> None:
        """Takes some of the crops of a clip: of at most `per_clip`, each as likely kept in the end as any before it."""
        height, width = truth.shape[-2:]
        rows, columns = height // self._size, width // self._size
        for cell in self._random.permutation(len(truth) * rows * columns)[: self._per_clip].tolist():
            self._offered += 1
            place = len(self._pairs)
            if place == self._most and (place := int(self._random.integers(self._offered))) >= self._most:
                continue
            frame, row, column = cell // (rows * columns), cell // columns % rows, cell % columns
            # From the middle: what is left over of a picture is its border.
            top = height % self._size // 2 + row * self._size
            left = width % self._size // 2 + column * self._size
            area = (frame, slice(None), slice(top, top + self._size), slice(left, left + self._size))
            pair = torch.stack([stored[area], truth[area]]).mul(255).round().to(torch.uint8).cpu()
            self._pairs[place : place + 1] = [pair]
            self.sources[place : place + 1] = [source]

    def pairs(self) -> tuple[Tensor, Tensor] | None:
        """SR and HR in [0, 1], each of shape (N, 3, size, size); None where no picture is large enough."""
        if not self._pairs:
            return None
        sr, hr = torch.stack(self._pairs, dim=1).float().div(255)
        return sr, hr
