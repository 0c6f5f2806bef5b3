"""Memory layout and compilation of a network: what makes it faster and changes no more than the last bits."""

from __future__ import annotations

import shutil

import torch
from torch import nn

from sr.config import EngineConfig
from sr.models.frames import PerFrame

COMPILE_FROM_STEPS = 5000
"""Compiling takes about a minute, which shorter trials do not win back."""


def lay_out(module: nn.Module, config: EngineConfig, device: torch.device) -> None:
    """Puts convolutions' weights channels last where that is asked for, or `auto`, in half precision on a GPU.

    Tensor cores want that layout; in fp32, and on CPUs, it is as often slower as faster.
    """
    wanted = config.channels_last
    if wanted == "auto":
        wanted = device.type == "cuda" and config.precision != "fp32"
    if wanted:
        module.to(memory_format=torch.channels_last)


def compile_generator(module: nn.Module, config: EngineConfig, device: torch.device, *, steps: int) -> bool:
    """Compiles a generator in place where that is asked for; returns whether it did.

    `auto` compiles what is worth it: networks that treat each frame by itself, whose graph is the same at every step, in
    long trials on a GPU. Recurrent ones unroll into graphs that compile for minutes. Discriminators never are, for
    gradient penalties need second derivatives, which compiled graphs do not have.
    """
    wanted = config.compile
    if wanted == "auto":
        is_worth_it = isinstance(module, PerFrame) and steps >= COMPILE_FROM_STEPS
        wanted = (
            is_worth_it
            and device.type == "cuda"
            and config.type != "deepspeed"
            # Triton builds its launchers with it.
            and shutil.which("cc") is not None
        )
    if wanted:
        module.compile()
    return wanted
