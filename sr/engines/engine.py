"""What hides distribution from the training loop: one module and its optimizer, on however many ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from sr.world import World


class Engine(Protocol):
    """One module and its optimizer. All methods are collective: every rank calls them in the same order."""

    world: World
    module: nn.Module
    """The module itself, unwrapped: for its attributes, and for running it where no gradient of its weights is wanted."""

    def __call__(self, pictures: Tensor) -> Any:  # noqa: ANN401 - what the module returns
        """Runs the module, in the configured precision."""
        ...

    def as_loss(self, pictures: Tensor) -> Any:  # noqa: ANN401
        """Runs the module as a part of another's loss: gradients flow to `pictures`, none to its weights."""
        ...

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[None]:
        """What forward and backward of one part of a rank's batch run in; gradients travel with the last part."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulates gradients of `loss`, averaged over ranks."""
        ...

    def step(self, learning_rate: float) -> Tensor:
        """Clips the gradients, makes one optimizer update at this rate, clears them.

        Returns:
            The norm of all gradients together before clipping, a scalar, equal on all ranks. Where it is not finite the
            trial has diverged: the weights are not to be used any more.
        """
        ...

    def whole(self) -> AbstractContextManager[None]:
        """Within this block each rank can read all weights of the module."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer state, complete on rank 0, in one format for all engines and numbers of ranks.

        `module` and `optimizer` as torch's own Adam has them, `scaler` besides; tensors and plain values, not copied.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what any engine's `state_dict` gave on rank 0, on any number of ranks."""
        ...
