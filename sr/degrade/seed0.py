"""The reduction of the Moving MNIST experiment (Weatherly, Kainth, Vadlamudi, 2024): as its code does it and as it is told."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sr.degrade.blur import gaussian
from sr.degrade.draws import Draws, check_bounds
from sr.degrade.reduction import BicubicAa, Bilinear


class Seed0Coded:
    """Bilinear without antialiasing, then a 3 x 3 Gaussian of a width drawn for each frame, as the experiment's code.

    Its calls are torchvision's `resize` (0.15: bilinear without antialiasing on tensors) and `GaussianBlur(3)`, which draws
    its width evenly from 0.1 to 2 LR pixels and mirrors the border.
    """

    reduces = True

    def __init__(self, *, sigma: Sequence[float] = (0.1, 2.0), per_frame: bool = True) -> None:
        check_bounds("sigma", sigma, least=0.01)
        self.sigma = sigma
        self.per_frame = per_frame

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Reduces and blurs."""
        reduced = Bilinear()(clips, scale=scale, draws=draws)
        widths = draws.uniform(
            "seed0_coded.sigma", self.sigma, frames=clips.shape[1], per_frame=self.per_frame
        )
        return gaussian(reduced, widths, size=3, border="reflect")


class Seed0Told:
    """Bicubic reduction, then a Gaussian blur of a fixed width, as the experiment's text says.

    The text gives neither the width nor whether the reduction is antialiased. Here it is; sigma 1 and 3 taps are the middle
    of what the code does.
    """

    reduces = True

    def __init__(self, *, sigma: float = 1.0, size: int = 3) -> None:
        if sigma <= 0:
            raise ValueError(f"sigma: got {sigma}; give a width above 0 in LR pixels, e.g. 1")
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size: got {size}; give an odd number of taps, e.g. 3")
        self.sigma = sigma
        self.size = size

    def __call__(self, clips: Tensor, *, scale: int, draws: Draws) -> Tensor:
        """Reduces and blurs."""
        reduced = BicubicAa()(clips, scale=scale, draws=draws)
        return gaussian(reduced, self.sigma, size=self.size, border="reflect")
