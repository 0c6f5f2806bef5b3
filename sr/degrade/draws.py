"""What a degradation draws at random: a pure function of the clip's key, so that it can be drawn again anywhere."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """The random numbers of one degradation for a batch of clips.

    Each clip has generators of its own, so what a clip gets depends on its key only: not on the clips beside it,
    the rank, or the device. The numbers are made on the CPU, whatever device the pictures are on.
    """

    keys: tuple[str, ...]
    """One per clip; equal keys draw equal numbers."""
    step: str = "0"
    """Place of the degradation in its chain, so that two steps of one kind draw different numbers."""

    def of_step(self, number: int) -> Draws:
        """The draws of a step of a chain."""
        return Draws(self.keys, f"{self.step}.{number}")

    def uniform(self, name: str, bounds: Sequence[float], *, frames: int, per_frame: bool) -> np.ndarray:
        """Numbers between two bounds, one for each frame, float64, shape (clips, frames).

        Args:
            name: What is drawn; another name draws other numbers.
            bounds: Least and greatest.
            frames: Frames of each clip.
            per_frame: Whether each frame gets a number of its own, or all frames of a clip the same one.
        """
        low, high = bounds
        rows = [
            np.broadcast_to(generator.uniform(low, high, frames if per_frame else 1), frames)
            for generator in self._generators(name)
        ]
        return np.stack(rows)

    def integers(self, name: str, bounds: Sequence[int], *, frames: int, per_frame: bool) -> np.ndarray:
        """Whole numbers between two bounds, both included; otherwise as `uniform`."""
        low, high = bounds
        rows = [
            np.broadcast_to(generator.integers(low, high + 1, frames if per_frame else 1), frames)
            for generator in self._generators(name)
        ]
        return np.stack(rows)

    def normal(self, name: str, shape: Sequence[int], *, device: torch.device) -> Tensor:
        """Standard normal numbers, float32, shape (clips, *shape)."""
        fields = [
            generator.standard_normal(tuple(shape), dtype=np.float32) for generator in self._generators(name)
        ]
        return torch.from_numpy(np.stack(fields)).to(device)

    def _generators(self, name: str) -> list[np.random.Generator]:
        return [_generator(key, self.step, name) for key in self.keys]


def _generator(key: str, step: str, name: str) -> np.random.Generator:
    # As JSON, so that no two different triples read alike.
    digest = hashlib.sha256(json.dumps([key, step, name]).encode()).digest()
    # Counter-based: a function of the key alone, with 128 bits of it, and the same bits on every machine.
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def check_bounds(name: str, bounds: Sequence[float], *, least: float, most: float = math.inf) -> None:
    """Checks a setting that is a pair of least and greatest.

    Raises:
        ValueError: It is not a pair in order within [least, most].
    """
    in_order = len(bounds) == 2 and least <= bounds[0] <= bounds[1] <= most and math.isfinite(bounds[1])
    if not in_order:
        limits = f"{least:g}..{most:g}" if math.isfinite(most) else f"{least:g} or more"
        raise ValueError(
            f"{name}: got {list(bounds)}; give two numbers, least and greatest ({limits}), e.g. "
            f"{name}: [{least:g}, {least + 1 if not math.isfinite(most) else most:g}]; two equal ones fix it"
        )
