"""Who this process is among the ranks of its trial, and which device it computes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class World:
    """One rank's place in its trial."""

    rank: int
    world_size: int
    device: torch.device


def single_process(device: str) -> World:
    """The world of a trial that is one process; `device` is `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: `cuda` was asked for and torch finds no usable GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "engine.device: 'cuda' asked for, but torch finds no GPU; set engine.device=auto or see: srloss doctor"
        )
    return World(rank=0, world_size=1, device=torch.device(device))
