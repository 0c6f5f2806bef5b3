"""Mathematics over the whole batch, of which each rank holds a part.

Outside a process group each function is the identity, so that losses and models need not know how they run. Randomness
in training follows from (seed, step) alone, and draws for the whole batch, so that neither ranks nor restarts matter.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass
class _Draws:
    """Where the randomness of the current step stands."""

    common: torch.Generator
    """Of what is drawn for the whole batch; at the same point on all ranks."""
    samples: int = 1
    """Of this rank in the current part of its batch."""


_draws = _Draws(torch.Generator())


def begin_step(seed: int, step: int, *, rank: int, samples: int) -> None:
    """Sets all randomness of a step: nothing drawn before has a part in it.

    Args:
        seed: Of the trial.
        step: Number of the step.
        rank: Of this process.
        samples: How many each rank works on at once.
    """
    _draws.common.manual_seed(_number(seed, step, "all"))
    _draws.samples = samples
    torch.manual_seed(_number(seed, step, rank))


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def rand_rows(rows: int, *shape: int) -> Tensor:
    """Uniform numbers for this rank's samples: their part of a draw for the whole batch, on the CPU.

    Args:
        rows: A multiple of the samples: what belongs to one sample, e.g. its frames, lies together.
        shape: Of each row.

    Returns:
        Shape (rows, *shape).
    """
    return torch.rand(*_whole(rows), *shape, generator=_draws.common)[_mine()].reshape(rows, *shape)


def seeds_of_rows(rows: int) -> list[int]:
    """A seed for each of this rank's rows, as `rand_rows` deals them out."""
    drawn = torch.randint(2**62, _whole(rows), generator=_draws.common)
    return drawn[_mine()].flatten().tolist()


def _whole(rows: int) -> tuple[int, int]:
    """Samples of the whole batch, and rows of each."""
    samples = _draws.samples if rows % _draws.samples == 0 else rows
    return samples * _place()[1], rows // samples


def _mine() -> slice:
    # As the stream deals samples out: each rank takes every world_size-th.
    rank, world_size = _place()
    return slice(rank, None, world_size)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Average of a tensor over ranks, through which gradients flow back to all of them."""
    _, world_size = _place()
    return value if world_size == 1 else _sum_over_ranks(value) / world_size


def _place() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks; every rank's result depends on every rank's value, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        del ctx
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx
        # Through the function itself, so that a penalty on a gradient can be differentiated too.
        return _sum_over_ranks(gradient)


def _sum_over_ranks(value: Tensor) -> Tensor:
    return _SumOverRanks.apply(value)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of the whole batch, over all ranks; any device.

    torch's own SyncBatchNorm runs on GPUs only, and would make a comparison depend on where it ran. The variance is
    computed in two passes, for the sake of pictures with a large mean.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalises (B, C, H, W); as nn.BatchNorm2d where there is one rank or the running statistics are used."""
        _, world_size = _place()
        if not self.training or world_size == 1:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        mean = mean_over_ranks(x.mean(dim=(0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = mean_over_ranks(centred.square().mean(dim=(0, 2, 3)))
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach(), x.numel() // x.shape[1] * world_size)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        result = centred * scale[:, None, None]
        if self.affine:
            result = result + self.bias[:, None, None]
        return result.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        # Unbiased, as torch keeps it.
        self.running_var.lerp_(variance * (count / max(1, count - 1)), share)


class Dropout(nn.Dropout):
    """Dropout whose masks do not depend on how a batch is divided among ranks."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Drops values of (B, ...) at random, each sample with a seed of its own."""
        # A tensor without data, as for counting layers, has nothing to drop.
        if not self.training or not self.p or input.is_meta:
            return input
        generator = torch.Generator(input.device)
        masks = [
            torch.rand(input.shape[1:], generator=generator.manual_seed(seed), device=input.device) >= self.p
            for seed in seeds_of_rows(len(input))
        ]
        return input * torch.stack(masks).to(input.dtype) / (1 - self.p)
