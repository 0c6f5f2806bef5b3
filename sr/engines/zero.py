"""Training with DeepSpeed's ZeRO: optimizer state, gradients and weights are spread over ranks. The only door to DeepSpeed.

DeepSpeed averages gradients, partitions, and makes the update. Its own mixed precision, loss scaling, schedules and
checkpoints are not used: weights and optimizer stay fp32 as in the other engines, whose checkpoints these are too.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sr.config import EngineConfig
from sr.engines.single import autocast, frozen
from sr.world import World

_MOMENTS = ("exp_avg", "exp_avg_sq")

_living: list[Any] = []
"""DeepSpeed's engines of this trial: they are tied into the graph's leaves, and go only when they are told to."""
_environment_before: dict[str, str | None] = {}


class ZeroEngine:
    """One module under DeepSpeed. Two of them, for a generator and its discriminator, go together in one process."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        config: EngineConfig,
        accumulation_steps: int,
        gradient_clip_norm: float | None,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Adam):
            raise TypeError(
                f"the optimizer is a {type(optimizer).__name__}; this engine knows torch.optim.Adam"
            )
        self.world = world
        self.module = module
        self._optimizer = optimizer
        self._stage = config.zero_stage
        self._clip = float("inf") if gradient_clip_norm is None else gradient_clip_norm
        self._parameters = list(module.parameters())
        self._groups = optimizer.state_dict()["param_groups"]
        self._in_precision = _InPrecision(module, config, world)
        if config.zero_stage == 3:
            _refuse_bypass(self._in_precision)
        _ensure_group(world)
        _set_environment(world)
        self._deepspeed = _quiet_deepspeed(world).initialize(
            model=self._in_precision,
            optimizer=optimizer,
            config=_settings(config, world, accumulation_steps, gradient_clip_norm),
        )[0]
        _living.append(self._deepspeed)

    def __call__(self, pictures: Tensor) -> Any:  # noqa: ANN401 - what the module returns
        """Runs the module."""
        # DeepSpeed has hooks on what its engine returns, and takes any gradient through them for the start of the
        # backward pass; the gradient of a loss at the pictures alone, which the ledger wants, must not meet them.
        return _aliases(self._deepspeed(pictures))

    def as_loss(self, pictures: Tensor) -> Any:  # noqa: ANN401
        """Runs the module with frozen weights, past DeepSpeed, which would count them among its gradients."""
        with frozen(self.module):
            return self._in_precision(pictures)

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Tells DeepSpeed where it stands; from stage 2 gradients travel with each part all the same."""
        self._deepspeed.set_gradient_accumulation_boundary(is_last)
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulates gradients."""
        self._deepspeed.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> Tensor:
        """Clips, and updates unless a gradient is not finite."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if self._stage == 0:
            norm = nn.utils.clip_grad_norm_(self._parameters, self._clip)
            if torch.isfinite(norm):
                self._deepspeed.step()
            else:
                self._deepspeed.zero_grad()
            return norm
        # It clips, and skips the update where the norm is not finite.
        self._deepspeed.step()
        return torch.as_tensor(
            self._deepspeed.get_global_grad_norm(), dtype=torch.float32, device=self.world.device
        )

    def whole(self) -> AbstractContextManager[None]:
        """In stage 3, gathers the weights for as long as the block lasts."""
        return self._gathered(modifier_rank=None)

    def _gathered(self, *, modifier_rank: int | None) -> AbstractContextManager[None]:
        """The same where weights may be written; those of `modifier_rank` are kept."""
        if self._stage < 3:
            return contextlib.nullcontext()
        from deepspeed.runtime.zero import GatheredParameters

        # Gradients that were taken through `as_loss` more than once leave weights marked as in use.
        self._deepspeed.optimizer.empty_partition_cache()
        return GatheredParameters(self._parameters, modifier_rank=modifier_rank)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer state as one process has them, on the CPU, complete on all ranks."""
        with self.whole():
            module = {
                name: value.cpu().clone() if self._stage == 3 else value.cpu()
                for name, value in self.module.state_dict().items()
            }
        if self._stage == 0:
            return {"module": module, "optimizer": self._optimizer.state_dict()}
        groups = [
            {**group, "lr": living["lr"]}
            for group, living in zip(self._groups, self._optimizer.param_groups, strict=True)
        ]
        return {"module": module, "optimizer": {"state": self._optimizer_state(), "param_groups": groups}}

    def _optimizer_state(self) -> dict[int, dict[str, Tensor]]:
        steps = [state["step"] for state in self._flat_states() if state]
        if not steps:
            return {}
        moments = {key: self._collected(key) for key in _MOMENTS}
        return {
            number: {
                "step": steps[0].detach().cpu().clone(),
                **{key: values[number] for key, values in moments.items()},
            }
            for number in range(len(self._parameters))
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores weights and optimizer state; every rank brings all of it, and keeps its own part.

        Raises:
            ValueError: Parameters have made different numbers of updates, which ZeRO cannot do.
        """
        with self._gathered(modifier_rank=0):
            self.module.load_state_dict(state["module"])
        optimizer = state["optimizer"]
        if self._stage == 0:
            self._optimizer.load_state_dict(optimizer)
            return
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        weights = [state["module"][names[id(parameter)]] for parameter in self._parameters]
        self._distribute(None, weights)
        for group, living in zip(optimizer["param_groups"], self._optimizer.param_groups, strict=True):
            living.update({key: value for key, value in group.items() if key != "params"})
        self._load_moments(optimizer["state"])

    def _load_moments(self, state: dict[int, dict[str, Tensor]]) -> None:
        for flat in self._flat():
            self._optimizer.state.pop(flat, None)
        if not state:
            return
        # One that never had a gradient does not count updates in the other engines; it does not matter how many.
        steps = {float(one["step"]) for one in state.values() if one["exp_avg_sq"].any()}
        steps = steps or {max(float(one["step"]) for one in state.values())}
        if len(steps) > 1:
            raise ValueError(
                f"checkpoint: its parameters have made {min(steps):g} to {max(steps):g} updates, but under ZeRO all make "
                "the same number; continue with engine.zero_stage=0 or engine.type=ddp"
            )
        for flat in self._flat():
            self._optimizer.state[flat] = {
                "step": torch.tensor(steps.copy().pop(), dtype=torch.float32),
                **{key: torch.zeros_like(flat) for key in _MOMENTS},
            }
        for key in _MOMENTS:
            # A parameter without a gradient has no state; zeros do the same.
            values = [
                state[number][key] if number in state else torch.zeros(shape)
                for number, shape in enumerate(self._shapes())
            ]
            self._distribute(key, values)

    # What each rank holds: a fragment of some parameters, inside flat tensors that the optimizer works on.

    def _shapes(self) -> list[torch.Size]:
        return [getattr(parameter, "ds_shape", parameter.shape) for parameter in self._parameters]

    def _flat(self) -> list[Tensor]:
        """The tensors that Adam knows."""
        zero = self._deepspeed.optimizer
        if self._stage == 3:
            return zero.fp32_partitioned_groups_flat
        return zero.single_partition_of_fp32_groups

    def _flat_states(self) -> list[dict[str, Tensor]]:
        return [self._optimizer.state.get(flat, {}) for flat in self._flat()]

    def _fragments(self, key: str | None) -> Iterator[tuple[int, int, Tensor]]:
        """This rank's parts of the weights (None) or of a moment: number of the parameter, where in it, the part itself."""
        for number, (parameter, shape) in enumerate(zip(self._parameters, self._shapes(), strict=True)):
            start, part = self._fragment(parameter, key)
            # The last rank's part may be longer than what is left.
            count = min(part.numel(), shape.numel() - start)
            if count > 0:
                yield number, start, part.narrow(0, 0, count)

    def _fragment(self, parameter: Any, key: str | None) -> tuple[int, Tensor]:  # noqa: ANN401 - DeepSpeed adds attributes
        zero = self._deepspeed.optimizer
        if self._stage == 3:
            group, offset, count = zero.grad_position[zero.get_param_id(parameter)]
            flat = zero.fp32_partitioned_groups_flat[group]
            start = parameter.ds_tensor.numel() * self.world.rank
        else:
            mapping = parameter._hp_mapping
            if mapping is None:
                return 0, torch.empty(0)
            address = mapping.hp_fragment_address
            offset, count = address.start, address.numel
            flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
            start = mapping.lp_fragment_address.start
        held = flat if key is None else self._optimizer.state[flat][key]
        return start, held.detach().narrow(0, offset, count)

    def _collected(self, key: str) -> list[Tensor]:
        """A moment of each parameter in full, from the parts of all ranks."""
        whole = torch.zeros(sum(shape.numel() for shape in self._shapes()), device=self.world.device)
        parts = whole.split([shape.numel() for shape in self._shapes()])
        for number, start, part in self._fragments(key):
            parts[number].narrow(0, start, part.numel()).copy_(part)
        # As integers: all but one of each sum's terms are zero, and so no bit changes.
        dist.all_reduce(whole.view(torch.int32))
        whole = whole.cpu()
        parts = whole.split([shape.numel() for shape in self._shapes()])
        return [part.clone().view(shape) for part, shape in zip(parts, self._shapes(), strict=True)]

    def _distribute(self, key: str | None, values: list[Tensor]) -> None:
        for number, start, part in self._fragments(key):
            part.copy_(values[number].reshape(-1).narrow(0, start, part.numel()))


class _InPrecision(nn.Module):
    """A module in the configured precision: DeepSpeed switches off any autocast that stands around its engine."""

    def __init__(self, module: nn.Module, config: EngineConfig, world: World) -> None:
        super().__init__()
        self.module = module
        self.is_running = False
        self._config = config
        self._world = world

    def forward(self, pictures: Tensor) -> Any:  # noqa: ANN401
        self.is_running = True
        try:
            with autocast(self._config, self._world):
                return self.module(pictures)
        finally:
            self.is_running = False


def _refuse_bypass(in_precision: _InPrecision) -> None:
    """In stage 3 weights are there while a module runs and while its gradient is taken, but not for the gradient of that."""

    def check(_module: nn.Module, _inputs: object) -> None:
        if torch.is_grad_enabled() and not in_precision.is_running:
            raise ValueError(
                "engine.zero_stage: 3 cannot train on a penalty on gradients (adversarial.r1_gamma, gan_wasserstein's "
                "gradient_penalty), for its weights are spread by then; use stage 2"
            )

    in_precision.module.register_forward_pre_hook(check)


def forget_groups() -> None:
    """Lets go of a trial's engines and process groups, so that this process can train another."""
    for engine in _living:
        engine.destroy()
    _living.clear()
    comm: Any = sys.modules.get("deepspeed.comm.comm")
    if comm is not None and comm.cdb is not None:
        comm.destroy_process_group()
        comm.cdb = None
    _forget_networks()
    for name, value in _environment_before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    _environment_before.clear()


def _forget_networks() -> None:
    """DeepSpeed's third stage would keep each trial's networks, in a list and in a cache of a method."""
    offload = sys.modules.get("deepspeed.runtime.zero.parameter_offload")
    if offload is None:
        return
    offload.FWD_MODULE_STACK.clear()
    for method in filter(inspect.isfunction, vars(offload.PartitionedParameterCoordinator).values()):
        for cached in inspect.getclosurevars(method).nonlocals.values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()


def _aliases(value: Any) -> Any:  # noqa: ANN401
    """The same tensors as other nodes of the graph."""
    if isinstance(value, Tensor):
        return value.view_as(value)
    if isinstance(value, tuple | list):
        return type(value)(_aliases(one) for one in value)
    return value


def _settings(
    config: EngineConfig, world: World, accumulation_steps: int, gradient_clip_norm: float | None
) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": world.device.type == "cuda"}
    return {
        # Only for statistics that nobody prints.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation_steps,
        # In stage 0 we clip, and have the norm from it.
        "gradient_clipping": (gradient_clip_norm or 0.0) if config.zero_stage else 0.0,
        "zero_optimization": zero,
        # torch's Adam, as everywhere; also where the state is in the machine's memory.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _ensure_group(world: World) -> None:
    """DeepSpeed wants a process group even for one process."""
    if world.is_alone and not dist.is_initialized():
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def _set_environment(world: World) -> None:
    """The variables that DeepSpeed reads instead of asking torch, some of them at each step; until `forget_groups`."""
    ours = {"DS_ACCELERATOR": world.device.type, "LOCAL_RANK": str(world.device.index or 0)}
    for name in (*ours, "OMPI_COMM_WORLD_LOCAL_RANK"):
        _environment_before.setdefault(name, os.environ.pop(name, None))
    os.environ.update(ours)


def _quiet_deepspeed(world: World) -> Any:  # noqa: ANN401 - a module
    import deepspeed
    import deepspeed.ops

    used = cast(Any, deepspeed.get_accelerator()).device_name()
    if used != world.device.type:
        raise ValueError(
            f"engine.device: DeepSpeed has computed on '{used}' in this process before, and cannot change to "
            f"'{world.device.type}'; use a fresh process"
        )
    # It would write to stdout by a handler of its own.
    logger = logging.getLogger("DeepSpeed")
    logger.handlers.clear()
    logger.propagate = True
    # Else it looks for compilers, and on a CPU builds an operation for ranks of one machine that only inference uses.
    deepspeed.ops.__dict__["__compatible_ops__"] = {}
    return deepspeed
