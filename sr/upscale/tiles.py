"""Pictures too large for one pass of a network: tiles with a margin that is cut off again.

Each tile is upscaled together with `overlap` pixels of what lies around it, of which nothing is kept. Where the overlap
covers the network's receptive field the result is that of one pass over the whole picture; blending would not be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNMENT = 16
"""Tiles begin at multiples of this many LR pixels: networks with pooling answer differently off their grid."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How pictures are cut, in LR pixels; both are rounded up to multiples of ALIGNMENT."""

    tile: int = 256
    """Side of what is kept of a tile; 0: no tiles."""
    overlap: int = 32
    """What a tile sees beyond that, on each side."""

    def __post_init__(self) -> None:
        """Checks both.

        Raises:
            ValueError: One is negative.
        """
        for name, value in (("tile", self.tile), ("overlap", self.overlap)):
            if value < 0:
                raise ValueError(f"{name}: got {value}; give a number of LR pixels, 0 or more")


@dataclass(frozen=True, slots=True)
class Stretch:
    """One tile along one axis, in LR pixels."""

    seen: slice
    """What the network is given."""
    kept: slice
    """What it is asked for."""


def stretches(side: int, tiling: Tiling) -> list[Stretch]:
    """The tiles along an axis of `side` pixels: what is kept of them covers it once."""
    tile = _aligned(tiling.tile)
    if tile == 0 or side <= tile:
        return [Stretch(slice(0, side), slice(0, side))]
    overlap = _aligned(tiling.overlap)
    return [
        Stretch(
            slice(max(0, start - overlap), min(side, start + tile + overlap)),
            slice(start, min(side, start + tile)),
        )
        for start in range(0, side, tile)
    ]


def _aligned(pixels: int) -> int:
    return -(-pixels // ALIGNMENT) * ALIGNMENT


def upscaled_tiles(
    upscale: Callable[[Tensor], Tensor], lr: Tensor, *, scale: int, tiling: Tiling
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Upscales tile by tile.

    Args:
        upscale: A generator: (..., 3, h, w) to (..., 3, h*scale, w*scale).
        lr: float in [0, 1], shape (..., 3, H, W).
        scale: Of the generator.
        tiling: How to cut.

    Yields:
        Rows and columns of a tile in the SR picture, and its pixels, shape (..., 3, rows, columns), not clipped.
    """
    for row in stretches(lr.shape[-2], tiling):
        for column in stretches(lr.shape[-1], tiling):
            sr = upscale(lr[..., row.seen, column.seen])
            _check_shape(sr, row, column, scale)
            inner = sr[..., _inside(row, scale), _inside(column, scale)]
            yield _times(row.kept, scale), _times(column.kept, scale), inner


def upscale_tiled(upscale: Callable[[Tensor], Tensor], lr: Tensor, *, scale: int, tiling: Tiling) -> Tensor:
    """The whole SR picture as a tensor, for pictures whose SR fits into memory; see `upscaled_tiles`."""
    whole: Tensor | None = None
    for rows, columns, sr in upscaled_tiles(upscale, lr, scale=scale, tiling=tiling):
        if whole is None:
            whole = torch.empty(
                *sr.shape[:-2], lr.shape[-2] * scale, lr.shape[-1] * scale, dtype=sr.dtype, device=sr.device
            )
        whole[..., rows, columns] = sr
    assert whole is not None
    return whole


def _check_shape(sr: Tensor, row: Stretch, column: Stretch, scale: int) -> None:
    height, width = row.seen.stop - row.seen.start, column.seen.stop - column.seen.start
    if sr.shape[-2:] != (height * scale, width * scale):
        raise ValueError(
            f"the model makes {sr.shape[-1]} x {sr.shape[-2]} px of {width} x {height} px, which is not x{scale}; "
            "it may be built for one size only: give pictures of the size that it was trained on"
        )


def _inside(stretch: Stretch, scale: int) -> slice:
    """What is kept, in SR pixels of the tile."""
    first = stretch.kept.start - stretch.seen.start
    return slice(first * scale, (first + stretch.kept.stop - stretch.kept.start) * scale)


def _times(stretch: slice, scale: int) -> slice:
    return slice(stretch.start * scale, stretch.stop * scale)
