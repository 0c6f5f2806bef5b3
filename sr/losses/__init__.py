"""The losses by name. To add one: a module in a file of its own here, and one line in LOSSES.

A loss is built as `LOSSES[name](**parameters)`, with a default for each parameter. It takes `sr` and `hr`, float32 in
[0, 1], shape (B, C, H, W) or (B, T, C, H, W), and returns a scalar: zero (or its minimum) where they agree, a mean, so
that its size does not depend on the batch or the crop. Give the class a one-line docstring: `srloss losses` shows it.

`srloss losses check NAME` proves it. What a loss does not promise by its definition it says in attributes of its class:
`is_local = False` if the value of a crop need not be like that of the whole, `exempt = {"range": "an angle has no scale"}`
for a check (by its name in the table) and the reason why it does not apply. A known value goes into
`sr/checks/known_values.py`: some mistakes nothing else can find.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sr.losses.adversarial import (
    FeatureMatching,
    GanHinge,
    GanLeastSquares,
    GanRelativistic,
    GanVanilla,
    GanWasserstein,
)
from sr.losses.charbonnier import Charbonnier
from sr.losses.consistency import LrConsistency
from sr.losses.contextual import Contextual
from sr.losses.dct import DctCsf, DctL1
from sr.losses.dct_jnd import DctJnd
from sr.losses.dists import Dists
from sr.losses.dss import Dss
from sr.losses.frequency import FftL1, FocalFrequency
from sr.losses.gradient import Gdl, Sobel, Tv
from sr.losses.gram import Gram
from sr.losses.lpips import Lpips
from sr.losses.ms_ssim import MsSsim, MsSsimL1
from sr.losses.perceptual import Perceptual
from sr.losses.pixel import L1, Huber, Mse
from sr.losses.psnr_hvs import PsnrHvsM
from sr.losses.ssim import SsimLoss
from sr.losses.temporal import PingPong, TemporalDifference, WarpLoss
from sr.losses.vgg import Vgg
from sr.losses.watson import WatsonDct

LOSSES: dict[str, Callable[..., nn.Module]] = {
    # Pixels.
    "l1": L1,
    "mse": Mse,
    "huber": Huber,
    "charbonnier": Charbonnier,
    "tv": Tv,
    "lr_consistency": LrConsistency,
    # Structure and edges.
    "ssim": SsimLoss,
    "ms_ssim": MsSsim,
    "ms_ssim_l1": MsSsimL1,
    "gdl": Gdl,
    "sobel": Sobel,
    # Frequencies.
    "fft_l1": FftL1,
    "focal_frequency": FocalFrequency,
    "dct_l1": DctL1,
    "dct_csf": DctCsf,
    "watson_dct": WatsonDct,
    "psnr_hvs_m": PsnrHvsM,
    "dss": Dss,
    "dct_jnd": DctJnd,
    # Feature networks.
    "vgg": Vgg,
    "lpips": Lpips,
    "dists": Dists,
    "gram": Gram,
    "contextual": Contextual,
    "perceptual": Perceptual,
    # Adversarial.
    "gan_vanilla": GanVanilla,
    "gan_lsgan": GanLeastSquares,
    "gan_hinge": GanHinge,
    "gan_wgan": GanWasserstein,
    "gan_ragan": GanRelativistic,
    "feature_matching": FeatureMatching,
    # Video.
    "temporal_diff": TemporalDifference,
    "warp": WarpLoss,
    "pingpong": PingPong,
}
