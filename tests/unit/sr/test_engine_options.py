"""Precision, memory layout and compilation: what they change, and that what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sr.config import EngineConfig, fingerprint, parse_trial
from sr.configfile import ConfigError
from sr.engines import build_engine
from sr.engines.single import SingleEngine
from sr.engines.tuning import compile_generator, lay_out
from sr.ledger import Ledger
from sr.models import GENERATORS
from sr.train import train
from sr.world import World, single_process

WORLD = single_process("cpu")
CUDA = torch.device("cuda")


def losses(tiny: dict[str, Any], folder: Path, **engine: Any) -> list[float]:
    ledger = Ledger(folder)
    config = parse_trial({**tiny, "engine": engine})
    ledger.create(config, command="test")
    train(config, world=WORLD, ledger=ledger)
    return [row["loss"] for row in ledger.rows("train")]


def test_bf16_learns_as_fp32_does_but_not_bit_by_bit(tiny: dict[str, Any], tmp_path: Path) -> None:
    full, half = losses(tiny, tmp_path / "fp32"), losses(tiny, tmp_path / "bf16", precision="bf16")
    assert half == pytest.approx(full, rel=0.02, abs=1e-3)
    assert half != full


def test_the_layout_of_memory_changes_no_more_than_the_last_bits(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plain = losses(tiny, tmp_path / "plain", channels_last=False)
    assert losses(tiny, tmp_path / "last", channels_last=True) == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_generator_learns_the_same(tiny: dict[str, Any], tmp_path: Path) -> None:
    plain = losses(tiny, tmp_path / "plain")
    assert losses(tiny, tmp_path / "compiled", compile=True) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    ("precision", "device", "is_last"),
    [("fp32", CUDA, False), ("bf16", CUDA, True), ("bf16", WORLD.device, False)],
)
def test_auto_puts_channels_last_for_tensor_cores(
    precision: Any, device: torch.device, is_last: bool
) -> None:
    module = torch.nn.Conv2d(8, 8, 3)
    lay_out(module, EngineConfig(precision=precision), device)
    assert module.weight.is_contiguous(memory_format=torch.channels_last) == is_last


@pytest.mark.parametrize(
    ("model", "device", "steps", "settings", "is_compiled"),
    [
        ("espcn", CUDA, 20_000, {}, True),
        ("espcn", CUDA, 100, {}, False),
        ("rrn", CUDA, 20_000, {}, False),
        ("espcn", WORLD.device, 20_000, {}, False),
        ("espcn", CUDA, 20_000, {"type": "deepspeed"}, False),
        ("espcn", CUDA, 20_000, {"compile": False}, False),
        ("rrn", WORLD.device, 10, {"compile": True}, True),
    ],
)
def test_auto_compiles_what_is_worth_it(
    model: str, device: torch.device, steps: int, settings: dict[str, Any], is_compiled: bool
) -> None:
    generator = GENERATORS[model](scale=2)
    assert compile_generator(generator, EngineConfig(**settings), device, steps=steps) == is_compiled
    assert (generator._compiled_call_impl is not None) == is_compiled


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "single", "ranks": 2}, "type 'single' is one process"),
        ({"type": "deepspeed", "precision": "fp16"}, "fp16 does not go with deepspeed"),
        ({"type": "deepspeed", "compile": True}, "compile: true does not go with deepspeed"),
        ({"offload_optimizer": True}, "only with type deepspeed from zero_stage 1"),
        ({"ranks": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tiny: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_trial({**tiny, "engine": settings})


def engine(world: World = WORLD, **settings: Any) -> Any:
    module = torch.nn.Linear(2, 1, bias=False)
    return build_engine(
        module,
        world=world,
        config=EngineConfig(**settings),
        accumulation_steps=1,
        betas=(0.9, 0.99),
        gradient_clip_norm=None,
    )


def test_fp16_is_for_gpus() -> None:
    with pytest.raises(ValueError, match="fp16 is for GPUs"):
        engine(precision="fp16")


def test_one_process_is_not_enough_for_several_ranks() -> None:
    with pytest.raises(ValueError, match="this trial runs on 2 ranks"):
        engine(World(0, 2, WORLD.device), type="single")


def test_an_overflow_in_fp16_skips_the_update_and_lowers_the_scale() -> None:
    module = torch.nn.Linear(2, 1, bias=False)
    before = module.weight.detach().clone()
    one = SingleEngine(
        module,
        torch.optim.Adam(module.parameters(), lr=1.0),
        world=WORLD,
        config=EngineConfig(precision="fp16"),
        gradient_clip_norm=1.0,
    )
    with one.micro_batch(is_last=True):
        one.backward(module(torch.ones(1, 2)).sum() * float("inf"))
    assert one.step(0.1) == 0
    assert torch.equal(module.weight, before)
    scale = one.state_dict()["scaler"]["scale"]
    one.backward(module(torch.ones(1, 2)).sum())
    # The norm is that of the unscaled gradient.
    assert one.step(0.1).item() == pytest.approx(2**0.5)
    assert not torch.equal(module.weight, before)
    other = engine()
    other._scaler = torch.amp.GradScaler("cpu")
    other.load_state_dict(one.state_dict())
    assert other.state_dict()["scaler"]["scale"] == scale


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    one = engine()
    before = one.module.weight.detach().clone()
    one.backward(one(torch.ones(1, 2)).sum() * float("nan"))
    assert not torch.isfinite(one.step(0.1))
    assert torch.equal(one.module.weight, before)
    assert not one.state_dict()["optimizer"]["state"]


def test_where_a_trial_computes_is_no_part_of_what_it_is(tiny: dict[str, Any]) -> None:
    own = fingerprint(parse_trial(tiny))
    settings = {
        "type": "deepspeed",
        "ranks": 2,
        "zero_stage": 2,
        "threads": 2,
        "device": "cpu",
        "timeout_s": 9.0,
    }
    assert fingerprint(parse_trial({**tiny, "engine": settings})) == own
    assert fingerprint(parse_trial({**tiny, "engine": {"precision": "bf16"}})) != own
