"""The generators by name. To add one: a class in a file of its own here, and one line in GENERATORS.

A generator is built as `GENERATORS[name](scale=2, **parameters)`, with a default for each parameter. It takes LR in
[0, 1], shape (B, T, 3, H, W) or (B, 3, H, W), and returns SR of the same leading axes, shape (..., 3, H*scale, W*scale),
not clipped.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sr.models.basicvsr_lite import BasicVsrLite
from sr.models.convgru_srresnet import ConvGruSrResNet
from sr.models.discriminators import DISCRIMINATORS as DISCRIMINATORS
from sr.models.edsr import EdsrBaseline
from sr.models.espcn import Espcn
from sr.models.frvsr import Frvsr
from sr.models.interpolation import Bicubic, Nearest
from sr.models.preup_unet import PreupUnet
from sr.models.rrdbnet import RrdbNet
from sr.models.rrn import Rrn
from sr.models.seed0_fc import Seed0Fc
from sr.models.sr_unet import SrUnet
from sr.models.srcnn import Srcnn
from sr.models.srgan_keras import SrganKeras
from sr.models.srresnet import SrResNet
from sr.models.unet_geu import UnetGeu

GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "bicubic": Bicubic,
    "nearest": Nearest,
    "espcn": Espcn,
    "srresnet": SrResNet,
    "srcnn": Srcnn,
    "edsr_baseline": EdsrBaseline,
    "rrdbnet": RrdbNet,
    "sr_unet": SrUnet,
    "srgan_keras": SrganKeras,
    "preup_unet": PreupUnet,
    "seed0_fc": Seed0Fc,
    "unet_geu": UnetGeu,
    "rrn": Rrn,
    "convgru_srresnet": ConvGruSrResNet,
    "frvsr": Frvsr,
    "basicvsr_lite": BasicVsrLite,
}
