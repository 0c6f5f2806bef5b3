"""Losses on the differences between neighbouring pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr.losses.term import as_frames

_SMALLEST_GRADIENT = 1e-3
"""Rounds off the length of a gradient at zero, on [0, 1]: a root has no finite slope there."""


def _differences(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Lower minus upper and right minus left neighbour, one row or column less than `pictures`."""
    return pictures.diff(dim=-2), pictures.diff(dim=-1)


class Gdl(nn.Module):
    """Gradient difference loss: compares the size of each step between neighbours, blind to its sign and to level.

    Mean of ||difference in sr| - |difference in hr||^alpha, vertically plus horizontally. Use it beside a pixel loss.

    Source: Mathieu, Couprie and LeCun, ICLR 2016, "Deep multi-scale video prediction beyond mean square error",
    equation 6.
    """

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__()
        if alpha < 1:
            raise ValueError(
                f"gdl.alpha: expected at least 1, got {alpha}; below 1 the gradient is infinite at zero"
            )
        self.alpha = alpha

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss; pictures of at least 2 x 2 pixels."""
        pairs = zip(_differences(sr), _differences(hr), strict=True)
        return torch.stack([(a.abs() - b.abs()).abs().pow(self.alpha).mean() for a, b in pairs]).sum()


class Sobel(nn.Module):
    """L1 of Sobel derivatives: compares edges with their sign and direction, blind to level.

    Derivatives per pixel (the kernels sum to 1/2 on each side, two pixels apart), horizontally plus vertically, within the
    picture only: padding would make edges of its own. The differences skip the pixel in the middle, so that a
    checkerboard of single pixels is invisible: use it beside a pixel loss.

    Source: Sobel and Feldman 1968, "An Isotropic 3x3 Image Gradient Operator".
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss.

        Raises:
            ValueError: The pictures are smaller than 3 x 3 pixels.
        """
        if min(sr.shape[-2:]) < 3:
            raise ValueError(
                f"sobel: needs pictures of at least 3 x 3 pixels, got {sr.shape[-1]} x {sr.shape[-2]}; "
                "train on larger crops"
            )
        # Sobel's kernels are linear and separable: [1 2 1] / 4 along the edge, a central difference across it.
        difference = as_frames(sr - hr)
        rows = difference[..., :-2, :] + 2 * difference[..., 1:-1, :] + difference[..., 2:, :]
        columns = difference[..., :-2] + 2 * difference[..., 1:-1] + difference[..., 2:]
        across = (rows[..., 2:] - rows[..., :-2]) / 8
        down = (columns[..., 2:, :] - columns[..., :-2, :]) / 8
        return across.abs().mean() + down.abs().mean()


class Tv(nn.Module):
    """Total variation of the output, whatever the target: takes away noise and texture; a regulariser, never alone.

    Anisotropic: mean absolute difference between neighbours, vertically plus horizontally. Isotropic: mean length of
    the gradient. It is least where the picture is flat, not where it agrees with the target.

    Source: Rudin, Osher and Fatemi 1992, "Nonlinear total variation based noise removal algorithms"; as a regulariser
    of a network's output Johnson et al., ECCV 2016; Ledig et al., CVPR 2017 give it a weight of 2e-8
    (from the literature, unverified).
    """

    def __init__(self, *, isotropic: bool = False) -> None:
        super().__init__()
        self.isotropic = isotropic

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Returns the scalar loss; `hr` has no influence. Pictures of at least 2 x 2 pixels."""
        down, across = _differences(sr)
        if not self.isotropic:
            return down.abs().mean() + across.abs().mean()
        square = down[..., :, :-1].square() + across[..., :-1, :].square()
        return (square + _SMALLEST_GRADIENT**2).sqrt().mean() - _SMALLEST_GRADIENT
