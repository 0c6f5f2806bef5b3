"""Training: exact resume, equal starts, and loud ends."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shards.manifest import load
from sr import checkpoint
from sr.config import OptimizerConfig, TrialConfig, parse_trial
from sr.ledger import Ledger, State
from sr.losses import LOSSES
from sr.parts import build_criterion, build_generator
from sr.schedule import learning_rate
from sr.train import TrialDivergedError, train
from sr.world import single_process
from tests.conftest import OF_THE_MACHINE

WORLD = single_process("cpu")


def run(folder: Path, config: TrialConfig, **options: Any) -> Ledger:
    ledger = Ledger(folder)
    ledger.create(config, command="test")
    train(config, world=WORLD, ledger=ledger, **options)
    return ledger


def final_state(ledger: Ledger) -> dict[str, Any]:
    state = checkpoint.latest(ledger.checkpoints, on_damaged=pytest.fail)
    assert state is not None
    return state


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)  # type: ignore[arg-type]
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple))
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_damaged_clips_stop_a_trial_or_are_replaced_and_counted(tiny: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(tiny["data"]["path"], copy)
    damaged = load(copy).of_split("train")[1]
    shard = bytearray((copy / damaged.shard).read_bytes())
    shard[damaged.frames[0].offset + 200] ^= 1
    (copy / damaged.shard).write_bytes(shard)

    data = tiny["data"] | {"path": str(copy)}
    with pytest.raises(ValueError, match=rf"{damaged.key}.*CRC32.*srloss shard verify"):
        run(tmp_path / "raises", parse_trial({**tiny, "data": data}))
    data |= {"on_damage": "substitute", "damage_budget": 0.5}
    ledger = run(tmp_path / "goes_on", parse_trial({**tiny, "data": data}))
    assert ledger.status().damaged_clips == 1
    rows = [json.loads(line) for line in (ledger.folder / "damaged_clips.jsonl").read_text().splitlines()]
    assert {row["key"] for row in rows} == {damaged.key}


class KilledError(Exception):
    """Stands for kill -9 at a chosen point: nothing of ours runs after it."""


@pytest.mark.parametrize("dies_at", [4, 8])
@pytest.mark.parametrize("loss", ["l1", "0.7*charbonnier + 0.3*ssim"])
def test_a_killed_and_resumed_trial_ends_bit_identical(
    tiny: dict[str, Any], tmp_path: Path, loss: str, dies_at: int
) -> None:
    config = parse_trial({**tiny, "loss": loss})
    undisturbed = run(tmp_path / "a", config)

    def die(metrics: dict[str, float]) -> None:
        if metrics["step"] == dies_at:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "b", config, report=die)
    resumed = run(tmp_path / "b", config)
    one, other = final_state(undisturbed), final_state(resumed)
    for part in ("engine", "ema", "stream", "calibration"):
        assert equal(one[part], other[part]), part
    for kind in ("train", "validation"):
        timeless = [
            [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in ledger.rows(kind)]
            for ledger in (undisturbed, resumed)
        ]
        assert timeless[0] == timeless[1]
    assert resumed.status().attempt == 2
    assert resumed.status().stream_hash == undisturbed.status().stream_hash


def test_a_damaged_newest_checkpoint_costs_steps_but_not_exactness(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    config = parse_trial(tiny)
    undisturbed = run(tmp_path / "a", config)

    def die(metrics: dict[str, float]) -> None:
        if metrics["step"] == 8:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "b", config, report=die)
    newest = checkpoint.newest_path(tmp_path / "b" / "checkpoints")
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[:-100])
    warnings: list[str] = []
    resumed = run(tmp_path / "b", config, warn=warnings.append)
    assert equal(final_state(undisturbed)["ema"], final_state(resumed)["ema"])
    assert [row["problem"] for row in resumed.rows("problem")] == warnings
    assert "damaged" in warnings[0]


def test_a_finished_trial_trains_no_further(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = parse_trial(tiny)
    first = final_state(run(tmp_path, config))
    assert equal(first["engine"], final_state(run(tmp_path, config))["engine"])


def test_losses_start_from_equal_weights_and_see_equal_data(tiny: dict[str, Any], tmp_path: Path) -> None:
    hashes = {
        run(tmp_path / loss, parse_trial({**tiny, "loss": loss})).status().stream_hash
        for loss in ("l1", "mse", "ssim")
    }
    assert len(hashes) == 1
    other_seed = run(tmp_path / "seed", parse_trial({**tiny, "seed": 1})).status().stream_hash
    assert other_seed not in hashes
    config = parse_trial(tiny)
    one, two = (build_generator(config.model, scale=2, seed=seed) for seed in (0, 0))
    assert equal(one.state_dict(), two.state_dict())
    assert not equal(one.state_dict(), build_generator(config.model, scale=2, seed=1).state_dict())


def test_training_beats_bicubic_on_validation(tiny: dict[str, Any], tmp_path: Path) -> None:
    training = {"steps": 150, "global_batch_size": 4, "validate_every": 150, "checkpoint_every": 150}
    config = parse_trial(
        {
            **tiny,
            "training": training,
            "model": {"type": "espcn", "channels": 16},
            "optimizer": {"learning_rate": 3e-3},
        }
    )
    got = run(tmp_path / "trial", config).rows("validation")[-1]["val/psnr_y"]
    untrained = parse_trial(
        {**tiny, "training": {**training, "steps": 1}, "optimizer": {"learning_rate": 1e-12}}
    )
    bicubic = run(tmp_path / "bicubic", untrained).rows("validation")[-1]["val/psnr_y"]
    assert got > bicubic + 0.3


class BreaksAt(nn.Module):
    """A loss whose value, or whose gradient, becomes NaN at its third use in training."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.calls = 0

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        value = (sr - hr).abs().mean()
        if self.calls < 3:
            return value
        # The square root has an infinite slope at zero: a finite value with a gradient that is not.
        return value * float("nan") if self.what == "value" else value + 0 * (sr - sr).square().sum().sqrt()


@pytest.mark.parametrize("what", ["value", "gradient"])
def test_nan_stops_the_trial_and_names_the_term(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setitem(LOSSES, "breaks", lambda: BreaksAt(what))
    config = parse_trial(
        {
            **tiny,
            "loss": {"terms": "l1 + breaks", "calibrate": False},
            "training": {"steps": 9, "log_every": 9, "validate_every": 9},
        }
    )
    ledger = Ledger(tmp_path)
    ledger.create(config, command="test")
    with pytest.raises(TrialDivergedError, match=r"step 3: .*breaks") as caught:
        train(config, world=WORLD, ledger=ledger)
    assert "l1" not in str(caught.value)
    assert "before the optimizer update" in str(caught.value)


def test_a_stop_by_the_scheduler_keeps_what_was_learned(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = parse_trial(
        {
            **tiny,
            "training": {"steps": 12, "global_batch_size": 2, "validate_every": 4, "checkpoint_every": 100},
        }
    )

    def stop(metrics: dict[str, float]) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        run(tmp_path, config, report=stop)
    ledger = Ledger(tmp_path)
    assert final_state(ledger)["step"] == 4
    assert ledger.status().state is State.PENDING


def test_what_was_best_before_a_trial_took_over_another_ones_weights_does_not_count(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    config = parse_trial(tiny)

    def die(metrics: dict[str, float]) -> None:
        if metrics["step"] == 8:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path, config, report=die)
    ledger = Ledger(tmp_path)
    for row in ledger.rows("validation"):
        ledger.note({**row, "val/psnr_y": 99.0})
    ledger.note({"kind": "perturbation", "step": 8, "from_trial": "another", "from_step": 8, "changes": {}})
    run(tmp_path, config)
    assert (ledger.checkpoints / checkpoint.BEST).resolve().name == "step-00000012.pt"


def test_the_wall_time_cap_ends_a_trial_and_says_so(tiny: dict[str, Any], tmp_path: Path) -> None:
    training = {
        "steps": 100_000,
        "global_batch_size": 2,
        "max_seconds": 0.5,
        "validate_every": 50_000,
        "checkpoint_every": 50_000,
    }
    status = run(tmp_path, parse_trial({**tiny, "training": training})).status()
    assert status.met_wall_time_cap
    assert status.state is State.FINISHED
    assert "wall-time cap of 0.5 s at step" in status.reason
    assert 0 < status.step < 100_000
    assert Ledger(tmp_path).rows("validation")[-1]["step"] == status.step


def test_another_data_set_than_before_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    data = {**tiny["data"], "fingerprint": "0" * 64}
    with pytest.raises(ValueError, match="the trial was made for 000000000000"):
        run(tmp_path, parse_trial({**tiny, "data": data}))


def test_a_model_without_parameters_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'bicubic' has nothing to train"):
        run(tmp_path, parse_trial({**tiny, "model": "bicubic"}))


def test_learning_rate_warms_up_and_falls_like_a_cosine() -> None:
    optimizer = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    rates = [learning_rate(step, optimizer, steps=111) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_two_terms_of_one_type_are_told_apart(tiny: dict[str, Any]) -> None:
    terms = [
        {"type": "charbonnier", "epsilon": 0.1},
        {"type": "charbonnier", "epsilon": 0.001, "weight": 2.0},
    ]
    criterion = build_criterion(parse_trial({**tiny, "loss": {"terms": terms}}).loss)
    assert criterion.weights == {"charbonnier": 1.0, "charbonnier_2": 2.0}


def test_the_ledger_repeats_the_trial(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = parse_trial(tiny)
    ledger = run(tmp_path, config)
    assert ledger.config() == config
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert (
        environment["torch"] == torch.__version__.split("+")[0] or environment["torch"] in torch.__version__
    )
