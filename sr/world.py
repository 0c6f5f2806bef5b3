"""Who this process is among the ranks of its trial, on which device it computes, and what ranks decide together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from sr.rollcall import RollCall

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One rank's place in its trial.

    Its methods are collective: every rank calls each of them, in the same order, and gets the same answer. They work
    on the CPU, beside whatever the devices exchange, so that a decision never waits for a device.
    """

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0
    """Its number among the ranks of its machine."""
    control: dist.ProcessGroup | None = field(default=None, repr=False, compare=False)
    """The group that decisions travel in; None in a world of one process."""
    roll: RollCall | None = field(default=None, repr=False, compare=False)
    """Knows where the other ranks are when one does not come; None in a world of one process."""

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that writes and reports."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether the trial is one process without a process group."""
        return self.control is None

    def at(self, where: str) -> None:
        """Notes where this rank is, for those who would miss it; costs next to nothing. Not collective."""
        if self.roll is not None:
            self.roll.at(where)

    def agree(self, flag: bool) -> bool:
        """True on every rank if `flag` is true on any: how ranks decide to stop together."""
        if self.is_alone:
            return flag
        flags = torch.tensor([1 if flag else 0])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
        return bool(flags.item())

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in the order of ranks; plain values or CPU tensors."""
        if self.is_alone:
            return [value]
        values: list[T] = [value] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Average over ranks of a tensor of one shape, on the CPU in float64; no gradient."""
        average = values.detach().double().cpu()
        if not self.is_alone:
            # Gathered rather than reduced: the sum is then the same whatever way the tensors travelled.
            parts = [torch.empty_like(average) for _ in range(self.world_size)]
            dist.all_gather(parts, average.contiguous(), group=self.control)
            average = torch.stack(parts).mean(dim=0)
        return average


def single_process(device: str) -> World:
    """The world of a trial that is one process; `device` is `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: `cuda` was asked for and torch finds no usable GPU.
    """
    return World(rank=0, world_size=1, device=device_of(device))


def device_of(name: str, *, local_rank: int = 0) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for, for a rank with this number on its machine.

    Raises:
        ValueError: `cuda` was asked for and torch finds no usable GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            "engine.device: 'cuda' asked for, but torch finds no GPU; set engine.device=auto or see: srloss doctor"
        )
    # A launcher may show each rank its own GPU only.
    return torch.device("cuda", local_rank % torch.cuda.device_count())
