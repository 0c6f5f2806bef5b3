"""Engines: single process, DDP, DeepSpeed ZeRO."""

from __future__ import annotations

import torch
from torch import nn

from sr.config import EngineConfig
from sr.engines.ddp import DdpEngine
from sr.engines.engine import Engine
from sr.engines.single import SingleEngine
from sr.engines.tuning import lay_out
from sr.world import World

__all__ = ["Engine", "build_engine"]


def build_engine(
    module: nn.Module,
    *,
    world: World,
    config: EngineConfig,
    accumulation_steps: int,
    betas: tuple[float, float],
    weight_decay: float = 0.0,
    gradient_clip_norm: float | None,
) -> Engine:
    """Puts a module, already on its device, and a fresh Adam under the configured engine.

    Raises:
        ValueError: The engine does not fit this world or this machine.
    """
    kind = config.type if config.type != "auto" else "single" if world.is_alone else "ddp"
    if kind == "single" and world.world_size > 1:
        raise ValueError(
            f"engine.type: 'single' is one process, but this trial runs on {world.world_size} ranks; use auto, ddp or "
            "deepspeed"
        )
    if config.precision == "fp16" and world.device.type == "cpu":
        raise ValueError("engine.precision: fp16 is for GPUs; on a CPU use bf16 or fp32")
    lay_out(module, config, world.device)
    # The rate is set at every step.
    optimizer = torch.optim.Adam(module.parameters(), lr=1.0, betas=betas, weight_decay=weight_decay)
    if kind == "deepspeed":
        from sr.engines.zero import ZeroEngine

        return ZeroEngine(
            module,
            optimizer,
            world=world,
            config=config,
            accumulation_steps=accumulation_steps,
            gradient_clip_norm=gradient_clip_norm,
        )
    engine = SingleEngine if kind == "single" or world.is_alone else DdpEngine
    return engine(module, optimizer, world=world, config=config, gradient_clip_norm=gradient_clip_norm)
