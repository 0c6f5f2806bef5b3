"""Whether an output, made small again, is what the generator was given."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sr.losses.term import Term, as_clip
from sr.resize import bicubic


class LrConsistency(Term):
    """Mean |down(SR) - LR|: keeps the output true to what was given, by antialiased bicubic reduction; never alone.

    For data made by another reduction (blur, noise, JPEG) it is not zero at the target. It says nothing of what the
    reduction throws away. The target has no influence.
    """

    needs = ("lr",)

    def forward(self, sr: Tensor, hr: Tensor, *, lr: Tensor) -> Tensor:
        """Returns the scalar loss.

        Args:
            sr: Output, shape (B, C, H, W) or (B, T, C, H, W).
            hr: The target, unused.
            lr: What the generator was given, shape (B, C, h, w) or (B, t, C, h, w); of a clip with more frames than
                `sr` the middle ones are taken.

        Raises:
            ValueError: Sizes or numbers of frames don't fit.
        """
        output, given = as_clip(sr), as_clip(lr)
        given = _middle(given, output.shape[1])
        height, width = given.shape[-2:]
        if output.shape[-2] * width != output.shape[-1] * height or output.shape[-2] % height:
            raise ValueError(
                f"lr_consistency: output of {output.shape[-1]} x {output.shape[-2]} pixels is no whole multiple of the "
                f"input's {width} x {height}; give sr and lr of one crop"
            )
        rows = _reduction(output.shape[-2], height, output.device).to(output.dtype)
        columns = _reduction(output.shape[-1], width, output.device).to(output.dtype)
        return (rows @ output @ columns.T - given).abs().mean()


@functools.lru_cache(maxsize=64)
def _reduction(size: int, reduced: int, device: torch.device) -> Tensor:
    """The matrix of bicubic along one axis, shape (reduced, size): what bicubic makes of the identity.

    As a matrix it works in the dtype of the output, where `bicubic` itself always returns float32.
    """
    return bicubic(torch.eye(size, device=device), height=reduced, width=size)


def _middle(clip: Tensor, frames: int) -> Tensor:
    """The middle `frames` frames, shape (B, t, C, h, w) to (B, frames, C, h, w)."""
    spare = clip.shape[1] - frames
    if spare < 0 or spare % 2:
        raise ValueError(
            f"lr_consistency: {frames} output and {clip.shape[1]} input frames have no common middle; "
            "use an odd number of frames, or as many as the output has"
        )
    return clip[:, spare // 2 : spare // 2 + frames]
