"""Training in one process: nothing travels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from sr.config import EngineConfig
from sr.world import World

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class SingleEngine:
    """One process with Adam; DDP is this with gradients that travel."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        config: EngineConfig,
        gradient_clip_norm: float | None,
    ) -> None:
        self.world = world
        self.module = module
        self._forward = self._wrapped()
        self._optimizer = optimizer
        self._clip = float("inf") if gradient_clip_norm is None else gradient_clip_norm
        self._config = config
        self._scaler = torch.amp.GradScaler(world.device.type) if config.precision == "fp16" else None

    def _wrapped(self) -> nn.Module:
        """What the forward pass of training goes through."""
        return self.module

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self._config, self.world)

    def __call__(self, pictures: Tensor) -> Any:  # noqa: ANN401 - what the module returns
        """Runs the module."""
        with self._autocast():
            return self._forward(pictures)

    def as_loss(self, pictures: Tensor) -> Any:  # noqa: ANN401
        """Runs the module with frozen weights."""
        with frozen(self.module), self._autocast():
            return self.module(pictures)

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Nothing to do."""
        del is_last
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulates gradients."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def step(self, learning_rate: float) -> Tensor:
        """Clips, and updates unless a gradient is not finite; then nothing is touched."""
        optimizer, scaler = self._optimizer, self._scaler
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        if scaler is not None:
            scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self._clip)
        if scaler is not None:
            norm = self._scaled_step(scaler, norm)
        elif torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def _scaled_step(self, scaler: torch.amp.GradScaler, norm: Tensor) -> Tensor:
        """Updates unless the scaled gradients overflowed, which is usual in fp16 until the scale has come down."""
        scaler.step(self._optimizer)
        scaler.update()
        if torch.isfinite(norm) or scaler.get_scale() < 1:
            return norm
        return torch.zeros_like(norm)

    def whole(self) -> AbstractContextManager[None]:
        """Every rank holds everything."""
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer state."""
        state = {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}
        return state if self._scaler is None else state | {"scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores weights and optimizer state."""
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scaler is not None and "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])


def autocast(config: EngineConfig, world: World) -> AbstractContextManager[Any]:
    """The configured precision, for a forward pass."""
    return torch.autocast(
        world.device.type, dtype=_DTYPES[config.precision], enabled=config.precision != "fp32"
    )


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No weight of the module collects gradients from what is computed in this block."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
