"""The generators by name. To add one: a class in a file of its own here, and one line in GENERATORS.

A generator is built as `GENERATORS[name](scale=2, **parameters)`, with a default for each parameter. It takes LR in
[0, 1], shape (B, T, 3, H, W) or (B, 3, H, W), and returns SR of the same leading axes, shape (..., 3, H*scale, W*scale),
not clipped.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sr.models.espcn import Espcn
from sr.models.interpolation import Bicubic, Nearest
from sr.models.srresnet import SrResNet

GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "bicubic": Bicubic,
    "nearest": Nearest,
    "espcn": Espcn,
    "srresnet": SrResNet,
}
