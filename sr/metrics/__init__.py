"""Evaluation metrics, each with its protocol written down; see `table.METRICS` for all of them.

A metric takes `sr` and `hr` as its protocol prepares them, most often as an evaluator has them: RGB, float64, rounded
to 8 bits (multiples of 1/255 in [0, 1]), border already cut, shape (N, 3, H, W). It returns one value per picture,
shape (N,). Metrics of clips take (N, T, 3, H, W). To add one: a function, and one line in METRICS.
"""

from __future__ import annotations

from sr.metrics.aggregate import Aggregate, aggregate
from sr.metrics.measuring import measure
from sr.metrics.perceptual import gmsd, haarpsi
from sr.metrics.pixel import mse, psnr, psnr_rgb, psnr_y, ssim_y
from sr.metrics.protocol import PSNR_CAP_DB, Metric, Protocol, crop_border, luma, to_8bit
from sr.metrics.table import DEFAULT_PROFILE, METRICS, PROFILES, Profile

__all__ = [
    "DEFAULT_PROFILE",
    "METRICS",
    "PROFILES",
    "PSNR_CAP_DB",
    "Aggregate",
    "Metric",
    "Profile",
    "Protocol",
    "aggregate",
    "crop_border",
    "gmsd",
    "haarpsi",
    "luma",
    "measure",
    "mse",
    "psnr",
    "psnr_rgb",
    "psnr_y",
    "ssim_y",
    "to_8bit",
]
