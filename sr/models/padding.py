"""Padding to the multiple that a network with pooling needs."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Mirrors a picture at its lower and right border until both sides are multiples of `multiple`.

    The mirror does not repeat the border pixel, and goes back and forth where the picture is smaller than what is
    missing, so that any size works, one pixel included. The caller crops the result.

    Args:
        x: float, shape (..., H, W); any range.
        multiple: In pixels.

    Returns:
        Shape (..., H', W') with 0 <= H' - H < multiple; `x` itself where nothing is missing.
    """
    return _extend(_extend(x, -1, multiple), -2, multiple)


def _extend(x: Tensor, dim: int, multiple: int) -> Tensor:
    size = x.shape[dim]
    missing = -size % multiple
    if not missing:
        return x
    # By indices and not by F.pad: reflection padding refuses small pictures, and its backward on a GPU is not
    # deterministic.
    period = max(2 * size - 2, 1)
    back_and_forth = torch.arange(size + missing, device=x.device) % period
    mirrored = torch.where(back_and_forth < size, back_and_forth, period - back_and_forth)
    return x.index_select(dim, mirrored)
