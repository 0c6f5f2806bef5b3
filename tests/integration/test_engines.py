"""All engines do the same mathematics: a tiny GAN on real ranks, its adversarial weight large enough to notice."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.collective import BatchNorm2d
from sr.config import EngineConfig
from sr.engines import build_engine
from sr.losses.adversarial import r1_penalty
from sr.world import World, single_process
from tests.real_ranks import on_ranks

STEPS = 6
BATCH = 8
# With 0.01 a discriminator that trains on wrong gradients goes unnoticed.
ADVERSARIAL_WEIGHT = 10.0
ZERO = [f"zero{stage}" for stage in range(4)]


@dataclass(frozen=True)
class Game:
    """What is trained; the same on any engine."""

    parts: int = 1
    penalty: bool = False
    clip: float | None = 0.5
    batch_norm: bool = False
    wide: bool = False
    """With layers that are large enough for DeepSpeed to spread their weights in stage 3; smaller ones stay whole."""
    leaky: bool = False
    """Plants the bug that `as_loss` is there to avoid."""


class Generator(nn.Module):
    def __init__(self, game: Game) -> None:
        super().__init__()
        norm = BatchNorm2d(8) if game.batch_norm else nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            norm,
            nn.LeakyReLU(0.2),
            _wide(game),
            nn.Conv2d(8, 12, 3, padding=1),
        )
        self.never_used = nn.Parameter(torch.ones(5))

    def forward(self, pictures: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(pictures), 2)


class Discriminator(nn.Module):
    def __init__(self, game: Game) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), _wide(game))
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = F.softplus(self.first(pictures))
        return self.last(features), [features]


class Wide(nn.Module):
    """More than 100 000 weights in a layer, a number of them that ranks cannot share evenly, and little work."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(8, 12501, 1), nn.Tanh(), nn.Conv2d(12501, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.squeeze(x.mean(dim=(2, 3), keepdim=True))


def _wide(game: Game) -> nn.Module:
    return Wide() if game.wide else nn.Identity()


class Play:
    """Both engines, and the curves of the game."""

    def __init__(self, world: World, kind: str, game: Game, **changes: Any) -> None:
        self.world, self.game = world, game
        torch.manual_seed(1)
        settings = {"type": "deepspeed", "zero_stage": int(kind[-1])} if "zero" in kind else {"type": kind}
        modules = (Generator(game), Discriminator(game))
        self.generator, self.discriminator = (
            build_engine(
                module,
                world=world,
                config=EngineConfig.model_validate(settings | changes),
                accumulation_steps=game.parts,
                betas=(0.9, 0.99),
                gradient_clip_norm=game.clip,
            )
            for module in modules
        )
        self.curve: list[tuple[float, ...]] = []

    def run(self, start: int, stop: int) -> Play:
        for step in range(start, stop):
            self.curve.append(self._step(step))
        return self

    def _step(self, step: int) -> tuple[float, ...]:
        draw = torch.Generator().manual_seed(step)
        hr = torch.rand(BATCH, 3, 16, 16, generator=draw)[self.world.rank :: self.world.world_size]
        lr = F.avg_pool2d(hr, 2)
        parts = self.game.parts
        found: list[Tensor] = []
        rate = 0.002 * (step + 1)
        for number, (x, y) in enumerate(zip(lr.chunk(parts), hr.chunk(parts), strict=True)):
            is_last = number == parts - 1
            with self.generator.micro_batch(is_last=is_last), self.discriminator.micro_batch(is_last=is_last):
                found.append(torch.stack(self._part(x, y, rate if parts == 1 else None)))
        norms = [self.generator.step(rate)]
        if parts > 1:
            norms.append(self.discriminator.step(rate))
        losses = self.world.mean(torch.stack(found).mean(dim=0))
        return (*losses.tolist(), *(norm.item() for norm in norms))

    def _part(self, x: Tensor, y: Tensor, rate: float | None) -> list[Tensor]:
        parts, generator, discriminator = self.game.parts, self.generator, self.discriminator
        sr = generator(x)
        (fake, _), (real, _) = discriminator(sr.detach()), discriminator(y)
        loss_d = F.softplus(-real).mean() + F.softplus(fake).mean()
        if self.game.penalty:
            loss_d = loss_d + r1_penalty(discriminator.module, y)
        discriminator.backward(loss_d / parts)
        if rate is not None:
            discriminator.step(rate)
        logits, (features,) = discriminator(sr) if self.game.leaky else discriminator.as_loss(sr)
        with torch.no_grad():
            target = discriminator.as_loss(y)[1][0]
        terms = [
            F.l1_loss(sr, y),
            ADVERSARIAL_WEIGHT * F.softplus(-logits).mean(),
            F.l1_loss(features, target),
        ]
        # As the ledger wants it: each term's gradient at the pictures, before the real pass.
        shares = [torch.autograd.grad(term, sr, retain_graph=True)[0].square().sum() for term in terms]
        loss_g = torch.stack(terms).sum()
        generator.backward(loss_g / parts)
        return [loss_d.detach(), loss_g.detach(), torch.stack(shares).sum() / (parts * self.world.world_size)]

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(
            {"generator": self.generator.state_dict(), "discriminator": self.discriminator.state_dict()}
        )

    def load(self, state: dict[str, Any]) -> Play:
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        return self


def curve_of(world: World, kind: str, game: Game, **changes: Any) -> list[tuple[float, ...]]:
    return Play(world, kind, game, **changes).run(0, STEPS).curve


def curves_of(world: World, jobs: list[tuple[str, Game]]) -> list[list[tuple[float, ...]]]:
    return [curve_of(world, kind, game) for kind, game in jobs]


@cache
def truth(game: Game) -> list[tuple[float, ...]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return curve_of(single_process("cpu"), "single", game)
    finally:
        torch.set_num_threads(threads)


def assert_close(found: list[tuple[float, ...]], expected: list[tuple[float, ...]], label: object) -> None:
    assert len(found) == len(expected)
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-7), f"{label}, step {step}"


def play_all(ranks: int, jobs: list[tuple[str, Game]]) -> None:
    results = on_ranks(curves_of, ranks, jobs)
    for number, job in enumerate(jobs):
        # Means over ranks and norms are the same on each.
        assert all(result[number] == results[0][number] for result in results), job
        assert_close(results[0][number], truth(job[1]), job)


def test_two_ranks_play_as_one_process_does_with_any_engine() -> None:
    jobs = [(kind, game) for kind in ("ddp", *ZERO) for game in (Game(), Game(parts=2))]
    jobs += [
        ("zero1", Game(penalty=True)),
        ("zero2", Game(penalty=True)),
        ("zero1", Game(batch_norm=True)),
        ("zero3", Game(wide=True, batch_norm=True)),
    ]
    play_all(2, jobs)


def test_parts_of_a_batch_train_as_the_whole_and_clipping_is_active() -> None:
    def losses_of_first_step(game: Game) -> tuple[float, ...]:
        return truth(game)[0][:1]

    assert losses_of_first_step(Game(parts=2)) == pytest.approx(losses_of_first_step(Game()), rel=1e-5)
    assert min(row[3] for row in truth(Game())) > 0.5
    assert truth(Game())[2] != pytest.approx(truth(Game(clip=None))[2], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 4])
def test_one_and_four_ranks_play_as_one_process_does(ranks: int) -> None:
    games = [Game(), Game(parts=2), Game(batch_norm=True), Game(clip=None), Game(wide=True)]
    jobs = [(kind, game) for kind in ("ddp", *ZERO) for game in games]
    play_all(ranks, [*jobs, *((kind, Game(penalty=True)) for kind in ("ddp", *ZERO[:3]))])


def test_a_discriminator_that_is_not_frozen_would_be_noticed() -> None:
    # In DeepSpeed's first stage nothing complains: it trains on gradients of the generator's loss.
    (curve,) = on_ranks(curves_of, 2, [("zero1", Game(leaky=True))])[0]
    assert curve[0] == pytest.approx(truth(Game())[0], rel=1e-4)
    assert curve[-1][0] != pytest.approx(truth(Game())[-1][0], rel=1e-3)


# States


def played(world: World, kind: str, game: Game, folder: Path, start: int, stop: int, name: str) -> Any:
    """Plays from the state that was left at `start`, if not 0, and leaves another; the curve."""
    play = Play(world, kind, game)
    if start:
        play.load(torch.load(folder / f"{start}-{name}.pt", weights_only=True))
    play.run(start, stop)
    state = play.state()
    if world.is_first:
        torch.save(state, folder / f"{stop}-{name}.pt")
    return play.curve


def played_with_all(world: World, kinds: list[str], game: Game, folder: Path, start: int, stop: int) -> Any:
    return [played(world, kind, game, folder, start, stop, kind) for kind in kinds]


def bytes_of(path: Path) -> dict[str, bytes]:
    """Everything in a state, by its place; tensors as their bytes."""
    found: dict[str, bytes] = {}

    def look(value: Any, place: str) -> None:
        if isinstance(value, Tensor):
            found[place] = value.numpy().tobytes()
        elif isinstance(value, dict):
            for key, inner in value.items():
                look(inner, f"{place}.{key}")
        elif isinstance(value, list | tuple):
            for key, inner in enumerate(value):
                look(inner, f"{place}[{key}]")
        else:
            found[place] = repr(value).encode()

    look(torch.load(path, weights_only=True), "")
    return found


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_resumed_trial_ends_bit_for_bit_as_the_undisturbed_one(tmp_path: Path, ranks: int) -> None:
    kinds, game = ["ddp", *ZERO], Game(wide=True, batch_norm=True)
    for name in ("once", "resumed"):
        (tmp_path / name).mkdir()
    whole = on_ranks(played_with_all, ranks, kinds, game, tmp_path / "once", 0, STEPS)[0]
    first = on_ranks(played_with_all, ranks, kinds, game, tmp_path / "resumed", 0, 3)[0]
    second = on_ranks(played_with_all, ranks, kinds, game, tmp_path / "resumed", 3, STEPS)[0]
    assert [one + two for one, two in zip(first, second, strict=True)] == whole
    for kind in kinds:
        expected = bytes_of(tmp_path / "once" / f"{STEPS}-{kind}.pt")
        assert len(expected) > 50
        assert bytes_of(tmp_path / "resumed" / f"{STEPS}-{kind}.pt") == expected, kind


@pytest.mark.parametrize(
    "route",
    [
        (("single", 1), ("zero3", 2), ("zero1", 4), ("single", 1)),
        pytest.param((("zero2", 4), ("ddp", 2), ("zero0", 4), ("zero3", 1)), marks=pytest.mark.slow),
        pytest.param((("zero1", 2), ("zero2", 1), ("zero1", 4), ("zero3", 4)), marks=pytest.mark.slow),
    ],
)
def test_a_state_continues_on_other_engines_and_numbers_of_ranks(
    tmp_path: Path, route: tuple[tuple[str, int], ...]
) -> None:
    game = Game(wide=True)
    curve: list[tuple[float, ...]] = []
    for (kind, ranks), (start, stop) in zip(route, pairwise((0, 2, 3, 4, STEPS)), strict=True):
        if kind == "single":
            curve += played(single_process("cpu"), kind, game, tmp_path, start, stop, "any")
        else:
            curve += on_ranks(played, ranks, kind, game, tmp_path, start, stop, "any")[0]
    assert_close(curve, truth(game), route)


# What else the engines promise


def promises(world: World, kinds: list[str]) -> dict[str, dict[str, Any]]:
    return {kind: promises_of(world, kind) for kind in kinds}


def promises_of(world: World, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    play = Play(world, kind, Game(wide=True))
    fresh = play.state()
    found["fresh"] = (len(fresh["generator"]["module"]), fresh["generator"]["optimizer"]["state"])
    play.load(fresh)
    found["curve"] = list(play.run(0, 2).curve)
    play.load(fresh)
    found["curve again"] = play.run(0, 2).curve[2:]
    engine = play.generator
    before = play.state()["generator"]
    with engine.whole():
        found["whole"] = all(
            torch.equal(before["module"][name], value) for name, value in engine.module.named_parameters()
        )
    found["rate"] = before["optimizer"]["param_groups"][0]["lr"]
    # One rank's gradient alone is not finite; an infinite number, as it comes of an overflow.
    with engine.micro_batch(is_last=True):
        engine.backward(engine(torch.rand(2, 3, 8, 8)).sum() * (float("inf") if world.rank == 0 else 1.0))
    found["norm"] = engine.step(0.1).item()
    after = engine.state_dict()
    found["untouched"] = all(
        torch.equal(after["module"][name], value) for name, value in before["module"].items()
    )
    return found


def test_states_of_fresh_engines_gathered_weights_and_gradients_that_are_not_finite() -> None:
    for found in on_ranks(promises, 2, ["ddp", *ZERO]):
        for kind, promise in found.items():
            assert promise["fresh"] == (9, {}), kind
            assert_close(promise["curve"], truth(Game(wide=True))[:2], kind)
            assert promise["curve again"] == promise["curve"], kind
            assert promise["whole"], kind
            assert promise["rate"] == pytest.approx(0.004), kind
            assert not torch.isfinite(torch.tensor(promise["norm"])), kind
            assert promise["untouched"], kind


def refusals(world: World) -> list[str]:
    said = []
    with pytest.raises(ValueError, match="zero_stage") as refusal:
        curve_of(world, "zero3", Game(penalty=True))
    said.append(str(refusal.value))
    play = Play(world, "zero1", Game()).run(0, 1)
    state = play.state()
    state["generator"]["optimizer"]["state"][1]["step"] += 1
    with pytest.raises(ValueError, match="zero_stage") as refusal:
        play.load(state)
    return [*said, str(refusal.value)]


def test_what_zero_cannot_do_is_refused_with_a_way_out() -> None:
    for penalty, steps in on_ranks(refusals, 2):
        assert "use stage 2" in penalty
        assert "1 to 2 updates" in steps
        assert "zero_stage=0" in steps


_earlier: list[Any] = []


def one_of_two_trials(world: World, kind: str) -> tuple[int, list[tuple[float, ...]]]:
    """The curve, and how many of the networks of the trial before are still there."""
    import gc
    import weakref

    gc.collect()
    leftovers = sum(reference() is not None for reference in _earlier)
    play = Play(world, kind, Game())
    _earlier.extend(weakref.ref(engine.module) for engine in (play.generator, play.discriminator))
    return leftovers, play.run(0, STEPS).curve


@pytest.mark.parametrize("kind", [pytest.param("zero0", marks=pytest.mark.slow), "zero1", "zero3"])
def test_a_process_trains_a_second_trial_and_keeps_nothing_of_the_first(kind: str) -> None:
    for leftovers, curve in on_ranks(one_of_two_trials, 2, kind, trials=2):
        assert_close(curve, truth(Game()), kind)
        assert leftovers == 0
    assert "LOCAL_RANK" not in os.environ


def offloaded(world: World, stages: list[int]) -> list[Any]:
    return [curve_of(world, f"zero{stage}", Game(parts=2), offload_optimizer=True) for stage in stages]


def test_an_optimizer_in_the_memory_of_the_machine_does_the_same() -> None:
    stages = [2, 3]
    for stage, curve in zip(stages, on_ranks(offloaded, 2, stages)[0], strict=True):
        assert_close(curve, truth(Game(parts=2)), stage)


def rounded(world: World, kinds: list[str]) -> list[Any]:
    return [curve_of(world, kind, Game(), precision="bf16") for kind in kinds]


def test_half_precision_is_the_same_on_all_engines() -> None:
    curves = on_ranks(rounded, 2, ["ddp", *ZERO])[0]
    exact = torch.tensor(truth(Game()))
    for curve in curves:
        assert torch.allclose(torch.tensor(curve), torch.tensor(curves[0]), rtol=2e-3)
        assert (torch.tensor(curve) - exact)[:, :2].abs().max() > 1e-5
        assert torch.allclose(torch.tensor(curve)[:, :2], exact[:, :2], rtol=3e-2)


def test_deepspeed_is_quiet_builds_nothing_and_needs_no_launcher(tmp_path: Path) -> None:
    code = (
        "from tests.integration.test_engines import *\n"
        "torch.set_num_threads(1)\n"
        "assert len(curve_of(single_process('cpu'), 'zero1', Game())) == STEPS\n"
    )
    kept = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    shared = Path("/dev/shm")
    before = set(shared.glob("*"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"TORCH_EXTENSIONS_DIR": str(tmp_path), "PATH": "/nowhere", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
    # Semaphores are those of the tests beside this one.
    assert {path for path in set(shared.glob("*")) - before if not path.name.startswith("sem.")} == set()
