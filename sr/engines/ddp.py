"""Training on several ranks, each of which holds the whole model (torch's DistributedDataParallel)."""

from __future__ import annotations

import contextlib
import warnings
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sr.engines.single import SingleEngine


class DdpEngine(SingleEngine):
    """Gradients are averaged over ranks while they are computed; ranks then make the same update."""

    _forward: DistributedDataParallel

    def _wrapped(self) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return DistributedDataParallel(
                _WithAuxiliary(self.module),
                # Statistics are those of the whole batch already (sr.collective.BatchNorm2d).
                broadcast_buffers=False,
                # DDP would otherwise sort its buckets anew after the first step of each attempt. With more than two ranks
                # that changes the order in which numbers are added up, and so the last bit of a resumed trial.
                find_unused_parameters=True,
            )

    def __call__(self, pictures: Tensor) -> Any:  # noqa: ANN401 - what the module returns
        """Runs the module."""
        return super().__call__(pictures)[0]

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients of all parts travel together."""
        return contextlib.nullcontext() if is_last else self._forward.no_sync()


class _WithAuxiliary(nn.Module):
    """Shows DDP all that a gradient may come from: parameters that only the auxiliary loss uses are used."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pictures: Tensor) -> tuple[Any, Tensor | None]:
        """Returns the module's output, and the loss of its own where it has one."""
        return self.module(pictures), getattr(self.module, "auxiliary_loss", None)
