"""The 8 x 8 block DCT of JPEG, shared by the losses and the metrics that look at blocks."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

SIDE = 8
"""Pixels along one side of a block."""


def dct_basis(side: int = SIDE) -> Tensor:
    """The orthonormal DCT-II of one axis, float64, shape (frequency, position).

    Source: Ahmed, Natarajan and Rao 1974, "Discrete Cosine Transform", with each row scaled to norm 1.
    """
    frequency = torch.arange(side, dtype=torch.float64)[:, None]
    position = torch.arange(side, dtype=torch.float64)[None, :]
    basis = math.sqrt(2 / side) * torch.cos((2 * position + 1) * frequency * math.pi / (2 * side))
    basis[0] = math.sqrt(1 / side)
    return basis


@functools.lru_cache(maxsize=16)
def _kernels(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The 64 fixed kernels, shape (pixel, coefficient), both in rows."""
    basis = dct_basis()
    return torch.kron(basis, basis).T.contiguous().to(device=device, dtype=dtype)


def blocks_of(picture: Tensor, *, stride: int = SIDE) -> Tensor:
    """Cuts pictures into blocks of 8 x 8 pixels, from the upper left corner on.

    Args:
        picture: float, shape (N, 1, H, W) with H, W >= 8.
        stride: Pixels from one block to the next; below 8 the blocks overlap.

    Returns:
        Shape (N, K, 8, 8), blocks in rows. What is left at the right and lower edge, less than `stride` pixels, is in
        no block.

    Raises:
        ValueError: The pictures are smaller than a block, or the stride is not in [1, 8].
    """
    check_stride(stride)
    if min(picture.shape[-2:]) < SIDE:
        raise ValueError(
            f"block DCT: needs pictures of at least {SIDE} x {SIDE} pixels, got {picture.shape[-1]} x {picture.shape[-2]}; "
            "train on larger crops"
        )
    windows = picture[:, 0].unfold(-2, SIDE, stride).unfold(-2, SIDE, stride)
    return windows.reshape(len(picture), -1, SIDE, SIDE)


def dct_of(blocks: Tensor) -> Tensor:
    """DCT coefficients of blocks, shape (..., 8, 8) to (..., vertical frequency, horizontal frequency).

    One matrix product with 64 fixed kernels, which is a convolution whose stride is the blocks' own; as a product it
    stays in full float32 where PyTorch lets convolutions on a GPU fall to TF32.
    """
    flat = blocks.reshape(-1, SIDE * SIDE) @ _kernels(blocks.device, blocks.dtype)
    return flat.reshape(blocks.shape)


def block_dct(picture: Tensor, *, stride: int = SIDE) -> Tensor:
    """DCT coefficients of the blocks of pictures, shape (N, 1, H, W) to (N, K, 8, 8); see `blocks_of`."""
    return dct_of(blocks_of(picture, stride=stride))


def check_stride(stride: int) -> None:
    """Refuses a stride that would leave pixels between the blocks.

    Raises:
        ValueError: The stride is not in [1, 8].
    """
    if not 1 <= stride <= SIDE:
        raise ValueError(f"stride: expected 1 to {SIDE} pixels, got {stride}; 8 gives blocks side by side")
