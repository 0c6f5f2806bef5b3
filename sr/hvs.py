"""PSNR-HVS and PSNR-HVS-M: PSNR in the units of contrast sensitivity, without and with masking by the picture itself.

Source: Egiazarian et al. 2006, "New full-reference quality metrics based on HVS"; Ponomarenko et al. 2007, "On
between-coefficient contrast masking of DCT basis functions". Tables and order of steps are those of the authors'
reference program; blocks side by side, a rest of less than 8 pixels at the right and lower edge is left out.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sr.block_dct import blocks_of, dct_of

CAP_DB = 100.0
"""What is returned for identical pictures, whose PSNR is infinite; the same as for PSNR."""

_SENSITIVITY = (
    (1.608443, 2.339554, 2.573509, 1.608443, 1.072295, 0.643377, 0.504610, 0.421887),
    (2.144591, 2.144591, 1.838221, 1.354478, 0.989811, 0.443708, 0.428918, 0.467911),
    (1.838221, 1.979622, 1.608443, 1.072295, 0.643377, 0.451493, 0.372972, 0.459555),
    (1.838221, 1.513829, 1.169777, 0.887417, 0.504610, 0.295806, 0.321689, 0.415082),
    (1.429727, 1.169777, 0.695543, 0.459555, 0.378457, 0.236102, 0.249855, 0.334222),
    (1.072295, 0.735288, 0.467911, 0.402111, 0.317717, 0.247453, 0.227744, 0.279729),
    (0.525206, 0.402111, 0.329937, 0.295806, 0.249855, 0.212687, 0.214459, 0.254803),
    (0.357432, 0.279729, 0.270896, 0.262603, 0.229778, 0.257351, 0.249855, 0.259950),
)
"""Contrast sensitivity at each frequency; the reference's CSFCof."""

_MASKING = (
    (0.390625, 0.826446, 1.000000, 0.390625, 0.173611, 0.062500, 0.038447, 0.026874),
    (0.694444, 0.694444, 0.510204, 0.277008, 0.147929, 0.029727, 0.027778, 0.033058),
    (0.510204, 0.591716, 0.390625, 0.173611, 0.062500, 0.030779, 0.021004, 0.031888),
    (0.510204, 0.346021, 0.206612, 0.118906, 0.038447, 0.013212, 0.015625, 0.026015),
    (0.308642, 0.206612, 0.073046, 0.031888, 0.021626, 0.008417, 0.009426, 0.016866),
    (0.173611, 0.081633, 0.033058, 0.024414, 0.015242, 0.009246, 0.007831, 0.011815),
    (0.041649, 0.024414, 0.016437, 0.013212, 0.009426, 0.006830, 0.006944, 0.009803),
    (0.019290, 0.011815, 0.011080, 0.010412, 0.007972, 0.010000, 0.009426, 0.010203),
)
"""How strongly each frequency masks the others; the reference's MaskCof."""


@functools.lru_cache(maxsize=16)
def sensitivity(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Contrast sensitivity by (vertical, horizontal) frequency, shape (8, 8)."""
    return torch.tensor(_SENSITIVITY, device=device, dtype=dtype)


@functools.lru_cache(maxsize=16)
def _masking(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Masking by frequency, shape (8, 8), zero for DC: the mean of a block neither masks nor is masked."""
    table = torch.tensor(_MASKING, device=device, dtype=dtype)
    table[0, 0] = 0
    return table


@functools.lru_cache(maxsize=16)
def _threshold(device: torch.device, dtype: torch.dtype) -> Tensor:
    """How far a difference may go unseen for each grey level of masking energy, shape (8, 8), zero for DC."""
    table = 1 / torch.tensor(_MASKING, device=device, dtype=dtype)
    table[0, 0] = 0
    return table


def _variation(blocks: Tensor) -> Tensor:
    """The unbiased variance times the number of pixels, over the last two axes."""
    return blocks.var(dim=(-2, -1)) * (blocks.shape[-2] * blocks.shape[-1])


def masking_energy(blocks: Tensor, dct: Tensor, *, soften: float = 0.0) -> Tensor:
    """How much a block hides: energy of its AC coefficients, less where that energy is an edge rather than texture.

    Args:
        blocks: Luma in [0, 255], shape (..., 8, 8).
        dct: Their DCT, same shape.
        soften: Rounds off the root at zero, so that flat blocks have a finite gradient; in grey levels. At 0 the value
            is the reference's.

    Returns:
        Shape (...,), grey levels.
    """
    energy = (dct.square() * _masking(dct.device, dct.dtype)).sum(dim=(-2, -1))
    whole = _variation(blocks)
    quadrants = blocks.unfold(-2, 4, 4).unfold(-2, 4, 4)
    within = _variation(quadrants).sum(dim=(-2, -1))
    evenness = within / torch.where(whole > 0, whole, torch.ones_like(whole))
    return (energy * evenness + (32 * soften) ** 2).sqrt() / 32 - soften


def dead_zone(masking: Tensor) -> Tensor:
    """Half width of the range of differences that cannot be seen; shape (...,) to (..., 8, 8), zero for DC."""
    return masking[..., None, None] * _threshold(masking.device, masking.dtype)


def _decibel(weighted: Tensor) -> Tensor:
    error = weighted.square().flatten(1).mean(dim=1)
    return (10 * torch.log10(255.0**2 / error)).clamp(max=CAP_DB)


def psnr_hvs(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR-HVS: PSNR of DCT coefficients weighted by contrast sensitivity.

    Args:
        sr: Luma in [0, 255], shape (N, 1, H, W), best float64.
        hr: The target, same shape.

    Returns:
        dB per picture, shape (N,), at most 100.

    Raises:
        ValueError: The pictures are smaller than 8 x 8 pixels.

    Source: Egiazarian et al., VPQM 2006.
    """
    difference = dct_of(blocks_of(sr) - blocks_of(hr))
    return _decibel(difference * sensitivity(sr.device, sr.dtype))


def psnr_hvs_m(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR-HVS-M: as PSNR-HVS, with differences that the picture's own texture masks taken off.

    Args:
        sr: Luma in [0, 255], shape (N, 1, H, W), best float64.
        hr: The target, same shape.

    Returns:
        dB per picture, shape (N,), at most 100.

    Raises:
        ValueError: The pictures are smaller than 8 x 8 pixels.

    Source: Ponomarenko et al., VPQM 2007.
    """
    blocks_a, blocks_b = blocks_of(sr), blocks_of(hr)
    a, b = dct_of(blocks_a), dct_of(blocks_b)
    masking = torch.maximum(masking_energy(blocks_a, a), masking_energy(blocks_b, b))
    visible = ((a - b).abs() - dead_zone(masking)).clamp(min=0)
    return _decibel(visible * sensitivity(sr.device, sr.dtype))
