"""The discriminators by name. To add one: a class in a file of its own here, and one line in DISCRIMINATORS.

A discriminator is built as `DISCRIMINATORS[name](**parameters)`, with a default for each parameter. It takes pictures in
[0, 1], shape (N, 3, H, W) or (B, T, 3, H, W), and returns `(logits, features)`: logits of any shape with the batch
first, high for real, and the activations behind each stride-2 block by name.
"""

from __future__ import annotations

from collections.abc import Callable

from sr.models.discriminators.base import Discriminator
from sr.models.discriminators.patch_d import PatchD
from sr.models.discriminators.temporal_d import TemporalD
from sr.models.discriminators.unet_sn_d import UNetSnD
from sr.models.discriminators.vgg_d import VggD

DISCRIMINATORS: dict[str, Callable[..., Discriminator]] = {
    "vgg_d": VggD,
    "patch_d": PatchD,
    "unet_sn_d": UNetSnD,
    "temporal_d": TemporalD,
}
