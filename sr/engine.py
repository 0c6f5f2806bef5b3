"""The engine hides distribution from the training loop. Today: one process; the loop will not change for more."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sr.world import World


class Engine(Protocol):
    """One module and its optimizer, on however many ranks."""

    world: World
    module: nn.Module

    def __call__(self, lr: Tensor) -> Tensor:
        """Runs the module."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulates gradients of `loss`, averaged over ranks."""
        ...

    def gradient_norm(self) -> Tensor:
        """Norm of all gradients together, after clipping them to the engine's limit; the norm before clipping."""
        ...

    def step(self, learning_rate: float) -> None:
        """One optimizer update at this rate; clears the gradients."""
        ...

    def agree(self, flag: bool) -> bool:
        """True on every rank if `flag` is true on any: how ranks decide to stop together."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Values of all ranks, joined along the first axis."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer state, tensors and plain values only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        ...


class SingleEngine:
    """One process; all collective operations are the identity."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        gradient_clip_norm: float | None,
    ) -> None:
        self.world = world
        self.module = module
        self._optimizer = optimizer
        self._clip = float("inf") if gradient_clip_norm is None else gradient_clip_norm

    def __call__(self, lr: Tensor) -> Tensor:
        """Runs the module."""
        return self.module(lr)

    def backward(self, loss: Tensor) -> None:
        """Accumulates gradients."""
        loss.backward()

    def gradient_norm(self) -> Tensor:
        """Clips and returns the norm before clipping."""
        return nn.utils.clip_grad_norm_(self.module.parameters(), self._clip)

    def step(self, learning_rate: float) -> None:
        """One optimizer update."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def agree(self, flag: bool) -> bool:
        """The flag itself: there is nobody to agree with."""
        return flag

    def gather(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer state."""
        return {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores weights and optimizer state."""
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
