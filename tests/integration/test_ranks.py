"""Trials on real ranks: the mathematics of one process, exact continuation, and trouble that is everybody's at once."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sr import checkpoint, collective
from sr.config import parse_trial
from sr.ledger import Ledger, State
from sr.losses import LOSSES
from sr.train import train
from sr.world import World, single_process
from tests.conftest import tiny_trial
from tests.real_ranks import on_ranks

pytestmark = pytest.mark.timeout(200)

GAN = {
    # A large adversarial weight: at 0.01 nobody would notice a discriminator that learns from wrong gradients.
    "loss": "l1 + 10*gan_ragan(label_noise=0.1) + 0.1*feature_matching",
    "adversarial": {"discriminator": {"type": "patch_d", "channels": 16, "norm": "batch"}, "r1_gamma": 0.1},
    "training": {
        "steps": 8,
        "global_batch_size": 4,
        "validate_every": 4,
        "checkpoint_every": 4,
        "log_every": 1,
    },
}


def trained(world: World, config: dict[str, Any], folder: Path, stop_at: int = 0) -> list[dict[str, Any]]:
    """Trains on this rank; the rows of the ledger."""
    ledger = Ledger(folder)
    parsed = parse_trial(config)
    if world.is_first:
        ledger.create(parsed, command="test")
    world.gather(0)
    calls = [0]

    def stop() -> str:
        calls[0] += 1
        return "the test" if stop_at and calls[0] > stop_at else ""

    train(parsed, world=world, ledger=ledger, stop=stop)
    return ledger.rows("train")


def newest(folder: Path) -> dict[str, Any]:
    state = checkpoint.latest(folder / "checkpoints", on_damaged=pytest.fail)
    assert state is not None
    return state


def flat(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            f"{key}/{name}": inner for key, item in value.items() for name, inner in flat(item).items()
        } or {"": {}}
    return {"": value}


def assert_identical(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("engine", "ema", "stream", "discriminator", "discriminator_ema", "adversary"):
        first, second = flat(one.get(part)), flat(other.get(part))
        assert first.keys() == second.keys()
        for name, value in first.items():
            same = torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
            assert same, f"{part}: {name}"


def close(one: list[dict[str, Any]], other: list[dict[str, Any]], tolerance: float = 1e-3) -> None:
    """Losses, values of terms, gradient shares and norms agree.

    Not judgements near 0: Adam turns gradients that are all rounding into full steps, which shows there first.
    """

    def numbers(row: dict[str, Any]) -> dict[str, float]:
        wanted = ("loss", "raw", "weighted", "gradient_share", "gradient_norm", "penalty", "learning_rate")
        return {
            name: value for name, value in flat(row).items() if name.rstrip("/").rpartition("/")[2] in wanted
        }

    assert [row["step"] for row in one] == [row["step"] for row in other]
    for a, b in zip(one, other, strict=True):
        assert len(numbers(a)) > 5
        for name, value in numbers(a).items():
            expected = pytest.approx(value, rel=tolerance, abs=tolerance / 10)
            assert numbers(b)[name] == expected, (a["step"], name)


def test_a_gan_on_1_2_and_4_ranks_is_one_and_the_same(photos: Path, tmp_path: Path) -> None:
    config = tiny_trial(photos, **GAN)
    alone = trained(single_process("cpu"), config, tmp_path / "alone")
    for ranks in (2, 4):
        rows = on_ranks(trained, ranks, config, tmp_path / str(ranks))[0]
        close(alone, rows)
        assert Ledger(tmp_path / str(ranks)).status().stream_hash == newest_hash(tmp_path / "alone")


def newest_hash(folder: Path) -> str:
    return Ledger(folder).status().stream_hash


@pytest.mark.parametrize("loss", ["l1 + 10*gan_wgan", "0.5*ssim + 0.5*charbonnier"])
@pytest.mark.parametrize("model", ["frvsr", "sr_unet"])
def test_auxiliary_losses_dropout_and_penalties_too(
    photos: Path, tmp_path: Path, loss: str, model: str
) -> None:
    parameters = {"channels": 8, "num_blocks": 1} if model == "frvsr" else {"width": 8}
    training = GAN["training"] | {"steps": 2, "validate_every": 2}
    config = tiny_trial(photos, loss=loss, training=training, model={"type": model, **parameters})
    config["adversarial"] = {"discriminator": {"type": "patch_d", "channels": 8, "norm": "group"}}
    alone = trained(single_process("cpu"), config, tmp_path / "alone")
    close(alone, on_ranks(trained, 2, config, tmp_path / "two")[0], 3e-3)


def test_accumulated_parts_are_the_whole_batch(photos: Path, tmp_path: Path) -> None:
    # Nothing here looks at a batch as a whole.
    config = tiny_trial(photos, **GAN | {"loss": "l1 + 10*gan_hinge + 0.1*feature_matching"})
    config["adversarial"] = {"discriminator": {"type": "patch_d", "channels": 16, "norm": "group"}}
    alone = trained(single_process("cpu"), config, tmp_path / "alone")
    config["training"] = GAN["training"] | {"accumulation_steps": 2}
    close(alone, trained(single_process("cpu"), config, tmp_path / "parts"))
    close(alone, on_ranks(trained, 2, config, tmp_path / "both")[0], 3e-3)


@pytest.mark.parametrize(
    ("ranks", "engine"), [(2, {}), (4, {}), (2, {"type": "deepspeed", "zero_stage": 1})], ids=str
)
def test_an_interrupted_trial_on_several_ranks_ends_bit_identical(
    photos: Path, tmp_path: Path, ranks: int, engine: dict[str, Any]
) -> None:
    config = tiny_trial(photos, **GAN, engine=engine)
    on_ranks(trained, ranks, config, tmp_path / "whole")
    on_ranks(trained, ranks, config, tmp_path / "parts", 5)
    status = Ledger(tmp_path / "parts").status()
    assert (status.state, status.step, status.reason) == (
        State.PENDING,
        5,
        "interrupted by the test at step 5",
    )
    on_ranks(trained, ranks, config, tmp_path / "parts")
    assert_identical(newest(tmp_path / "whole"), newest(tmp_path / "parts"))


def test_a_trial_goes_on_with_any_number_of_ranks(photos: Path, tmp_path: Path) -> None:
    config = tiny_trial(photos, **GAN)
    alone = trained(single_process("cpu"), config, tmp_path / "alone")
    folder = tmp_path / "moved"
    trained(single_process("cpu"), config, folder, 3)
    on_ranks(trained, 4, config, folder, 3)
    on_ranks(trained, 2, config, folder)
    close(alone, Ledger(folder).rows("train"))
    assert Ledger(folder).status().state is State.FINISHED
    from sr.ledger import read_rows

    attempts = [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "attempt"]
    assert [(row["attempt"], row["step"], row["ranks"]) for row in attempts] == [
        (1, 0, 1),
        (2, 3, 4),
        (3, 6, 2),
    ]


def test_an_impossible_division_names_the_nearest_batch_sizes(photos: Path) -> None:
    config = tiny_trial(photos, engine={"ranks": 3})
    with pytest.raises(
        ValueError, match="global_batch_size: 2 cannot be divided among 3 ranks; nearest possible: 3"
    ):
        parse_trial(config)
    training = GAN["training"] | {"global_batch_size": 10, "accumulation_steps": 2}
    with pytest.raises(
        ValueError, match="10 cannot be divided among 2 ranks in 2 parts each; nearest possible: 8 or 12"
    ):
        parse_trial(tiny_trial(photos, training=training, engine={"ranks": 2}))


class BreaksOn(nn.Module):
    """Fails in the third step on one rank."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.calls = 0

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        value = (sr - hr).abs().mean()
        self.calls += 1
        if torch.distributed.get_rank() != 1 or self.calls < 3:
            return value
        if self.how == "raise":
            raise KeyError("a mistake in the loss")
        if self.how == "sleep":
            time.sleep(1000)
        return value * math.nan


def broken(world: World, config: dict[str, Any], folder: Path, how: str) -> None:
    """Trains on this rank; on the second one a term of the loss breaks."""
    LOSSES["breaks"] = lambda: BreaksOn(how)
    trained(world, config, folder)


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    ids=["nan", "raise", "sleep"],
    argvalues=[
        ("nan", "TrialDivergedError", r"step 3, rank 1: the loss is not finite \(breaks=nan\)"),
        ("raise", "OtherRankFailedError", "rank 1: KeyError: 'a mistake in the loss'"),
        (
            "sleep",
            "RankLostError",
            r"rank 1 \(process \d+ on .*\) has been at 'step 3: computing' for \d+ s, while this rank waited",
        ),
    ],
)
def test_trouble_of_one_rank_ends_all_with_its_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, kind: str, text: str
) -> None:
    monkeypatch.setitem(LOSSES, "breaks", lambda: BreaksOn(how))
    config = tiny_trial(photos, loss={"terms": "l1 + breaks", "calibrate": False})
    started = time.monotonic()
    # Ranks wait for each other half of this.
    timeout_s = 30 if how == "sleep" else 120
    with pytest.raises(AssertionError) as caught:
        on_ranks(broken, 2, config, tmp_path, how, timeout_s=timeout_s)
    of_rank_0 = str(caught.value).partition("--- rank 1")[0]
    assert re.search(f"{kind}: {text}", of_rank_0), caught.value
    assert time.monotonic() - started < 60


def draws(world: World) -> tuple[Tensor, list[int], Tensor]:
    collective.begin_step(3, 5, rank=world.rank, samples=4 // world.world_size)
    rows = 12 // world.world_size
    return collective.rand_rows(rows, 2), collective.seeds_of_rows(rows), torch.rand(2)


def test_draws_for_the_whole_batch_do_not_depend_on_ranks() -> None:
    # Four samples of three frames: a rank's rows are those of the samples that the stream gives it.
    whole, seeds, _ = on_ranks(draws, 1)[0]
    shared = on_ranks(draws, 2)
    for rank, (rows, own_seeds, _) in enumerate(shared):
        assert torch.equal(rows.reshape(2, 3, 2), whole.reshape(4, 3, 2)[rank::2])
        assert own_seeds == torch.tensor(seeds).reshape(4, 3)[rank::2].flatten().tolist()
    assert not torch.equal(shared[0][2], shared[1][2])


def normalised(world: World) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(4, 3, 5, 5, generator=generator, dtype=torch.float64) * 3 + 100
    x = whole[world.rank :: world.world_size].requires_grad_()
    norm = collective.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -3.0]))
    y = norm(x)
    loss = (y * (1 + whole[world.rank :: world.world_size]).sin()).square().mean()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    # A penalty on the slope, as R1 has it, needs the second derivative.
    penalty = gradient.square().sum()
    (second,) = torch.autograd.grad(penalty, x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return {
        "y": y.detach(),
        "gradient": gradient.detach(),
        "second": second,
        "mean": norm.running_mean,
        "variance": norm.running_var,
    }


def test_batch_norm_over_ranks_is_torchs_own_over_the_whole_batch() -> None:
    whole = on_ranks(normalised, 1)[0]
    for ranks in (2, 4):
        for rank, own in enumerate(on_ranks(normalised, ranks)):
            torch.testing.assert_close(own["y"], whole["y"][rank::ranks])
            torch.testing.assert_close(own["mean"], whole["mean"])
            torch.testing.assert_close(own["variance"], whole["variance"])
            # A rank's loss is a mean over fewer values.
            torch.testing.assert_close(own["gradient"] / ranks, whole["gradient"][rank::ranks])
            torch.testing.assert_close(own["second"] / ranks**2, whole["second"][rank::ranks])
