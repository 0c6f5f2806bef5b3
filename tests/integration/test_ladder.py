"""The ladder on real pictures: planted cases of the stop rule, exact continuation at every kind of point, lineage, ranks."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sr import checkpoint
from sr.config import parse_trial
from sr.data import open_dataset, open_stream
from sr.features.weights import hash_tensors
from sr.ladder import climb, watch
from sr.ladder.detectors import Failure, Finding
from sr.ladder.records import Comparison, Outcome, StageRecord, read_records, stage_folder
from sr.ledger import Ledger, State, Status, read_rows
from sr.models import GENERATORS
from sr.parts import bicubic_views, build_criterion
from sr.train import TrialDivergedError, train
from sr.world import World, single_process
from tests.conftest import OF_THE_MACHINE, tiny_trial
from tests.real_ranks import on_ranks

pytestmark = pytest.mark.timeout(200)

PATCH_D = {"type": "patch_d", "channels": 8, "levels": 2, "norm": "none"}


def ladder_trial(photos: Path, **changes: Any) -> dict[str, Any]:
    """A ladder of up to two stages of 8 steps, small enough for a second or two a stage."""
    settings: dict[str, Any] = {
        "loss": "l1 + perceptual(network=random_discriminator, architecture=patch_d) + 0.01*gan_vanilla",
        "adversarial": {"discriminator": PATCH_D},
        "training": {
            "steps": 16,
            "global_batch_size": 2,
            "validate_every": 4,
            "checkpoint_every": 4,
            "log_every": 2,
        },
        "ladder": {
            "stages": 2,
            "probe": {"patch_size": 32, "patches_per_clip": 3, "fresh_steps": 4, "draws": 200},
        },
    }
    merged = tiny_trial(photos, **settings)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = before | value if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def run(folder: Path, config: dict[str, Any], world: World | None = None, **options: Any) -> Status:
    parsed = parse_trial(config)
    ledger, world = Ledger(folder), world or single_process("cpu")
    if world.is_first:
        ledger.create(parsed, command="test")
    world.gather(0)
    return train(parsed, world=world, ledger=ledger, **options)


def states(folder: Path) -> list[dict[str, Any]]:
    """The last checkpoint of each stage."""
    found = []
    for record in read_records(folder):
        path = checkpoint.newest_path(stage_folder(folder, record.stage) / "checkpoints")
        assert path is not None
        found.append(checkpoint.load(path))
    return found


def timeless(record: StageRecord) -> dict[str, Any]:
    return {key: value for key, value in asdict(record).items() if not key.endswith("seconds")}


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key not in ("seconds", "step_seconds"):
                assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}/{number}")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def climbed(many_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A ladder that nothing disturbed, with all its stages."""
    folder = tmp_path_factory.mktemp("climbed") / "trial"
    # Small tiles, since many tests climb it again, and what it would decide does not matter.
    config = ladder_trial(
        many_photos,
        ladder={"stop": {"is_binding": False}},
        evaluation={"tile_size": 32, "max_tiles_per_source": 1},
    )
    run(folder, config)
    return folder, config


def test_each_stage_is_a_trial_and_the_next_looks_through_its_discriminator(
    climbed: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = climbed
    records = read_records(folder)
    assert [record.steps for record in records] == [8, 8]
    assert [record.is_last for record in records] == [False, True]
    for record, state in zip(records, states(folder), strict=True):
        assert record.generator.sha256 == hash_tensors(state["ema"])
        assert record.discriminator.sha256 == hash_tensors(state["discriminator_ema"])
    for before, record in pairwise(records):
        assert [network.sha256 for network in record.perceptual] == [before.discriminator.sha256]
        assert record.generator.sha256 != before.generator.sha256
        assert len(record.judged_by) == len(record.on_generators) == record.stage + 1
    assert (folder / "checkpoints").resolve() == stage_folder(folder, 1) / "checkpoints"
    # The trial's own ledger tells it all, its steps running on.
    ledger = Ledger(folder)
    assert [row["step"] for row in ledger.rows("validation")] == [4, 8, 12, 16]
    assert [row["step"] for row in ledger.rows("stage")] == [8, 16]
    assert ledger.status().state is State.FINISHED
    assert ledger.status().step == 16


def test_stages_begin_alike_and_the_stream_runs_on(
    climbed: tuple[Path, dict[str, Any]], many_photos: Path, tmp_path: Path
) -> None:
    folder, config = climbed
    plain = {key: value for key, value in config.items() if key != "ladder"}
    run(tmp_path / "plain", plain)
    # The same samples in the same order as a trial without a ladder, so the two can be compared.
    assert Ledger(folder).status().stream_hash == Ledger(tmp_path / "plain").status().stream_hash
    rows = [Ledger(stage_folder(folder, stage)).rows("train")[0] for stage in range(2)]
    assert len({row["learning_rate"] for row in rows}) == 1
    # Equal weights in the beginning: the very first losses of a pixel differ by the crops only.
    assert [row["samples"] for row in rows] == [4, 20]
    del many_photos


def test_the_perceptual_loss_of_a_stage_is_the_specification_s(climbed: tuple[Path, dict[str, Any]]) -> None:
    folder, config = climbed
    stage = parse_trial(
        json.loads(json.dumps(Ledger(stage_folder(folder, 1)).config().model_dump(mode="json")))
    )
    world = single_process("cpu")
    stream = open_stream(stage, open_dataset(stage), world, Ledger(folder))
    views = bicubic_views(stream, stage, world)
    stream.close()
    criterion = build_criterion(stage.loss)
    (name,) = criterion.perceptual
    value = criterion.values(views, [name])[name].item()

    weights = {key: tensor.double().numpy() for key, tensor in states(folder)[0]["discriminator_ema"].items()}
    by_hand = _distance_by_hand(weights, *(p.flatten(0, 1).double().numpy() for p in (views.sr, views.hr)))
    assert value == pytest.approx(by_hand, rel=1e-5)
    # One scalar makes it worth what stage 0's term is worth at the bicubic output.
    first = build_criterion(parse_trial(config).loss)
    first.calibrate(views)
    (term,) = first.perceptual
    worth = first.factor(term) * first.values(views, [term])[term].item()
    assert criterion.factor(name) * value == pytest.approx(worth, rel=1e-5)


def _distance_by_hand(weights: dict[str, np.ndarray], sr: np.ndarray, hr: np.ndarray) -> float:
    """Of section 2.4: unit length over channels, squared difference, sum over channels, mean over space and taps."""
    parts = []
    a, b = sr * 2 - 1, hr * 2 - 1
    for level in (1, 2):
        kernel, bias = weights[f"blocks.down{level}.0.weight"], weights[f"blocks.down{level}.0.bias"]
        a, b = (_convolved(x, kernel, bias) for x in (a, b))
        unit_a, unit_b = (x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (a, b))
        parts.append(((unit_a - unit_b) ** 2).sum(axis=1).mean())
    return float(np.mean(parts))


def _convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2] // 2, x.shape[3] // 2
    out = np.zeros((len(x), len(kernel), height, width)) + bias[None, :, None, None]
    for row in range(4):
        for column in range(4):
            seen = padded[:, :, row : row + 2 * height : 2, column : column + 2 * width : 2]
            out += np.einsum("nchw,oc->nohw", seen, kernel[:, :, row, column])
    return np.where(out > 0, out, 0.2 * out)


def test_a_discriminator_that_is_no_better_than_the_perceptual_network_ends_the_ladder(
    many_photos: Path, tmp_path: Path
) -> None:
    # It does not learn, so each stage's is the one before: provably equal.
    config = ladder_trial(
        many_photos,
        adversarial={"learning_rate_factor": 1e-12},
        ladder={"stages": 5, "stage_steps": 4},
        training={"steps": 20},
    )
    status = run(tmp_path / "trial", config)
    records = read_records(tmp_path / "trial")
    assert [record.comparison for record in records[1:]] == [Comparison.EQUALLY_GOOD] * 2
    assert records[-1].decision is Outcome.EQUALLY_GOOD
    assert len(records) == 3, "two stages running, the first with another perceptual network"
    assert status.reason.startswith("equally good after 3 stages")
    # Equal, and told that others see more.
    assert "but not good: a reader of texture statistics" in status.reason


def test_a_better_discriminator_goes_on(many_photos: Path, tmp_path: Path) -> None:
    # The perceptual network sees nothing but the mean colour.
    loss = (
        "l1 + perceptual(network=random_discriminator, architecture=patch_d, taps=[input]) + 0.01*gan_vanilla"
    )
    config = ladder_trial(many_photos, loss=loss, training={"steps": 80, "validate_every": 20})
    run(tmp_path / "trial", config)
    first, second = read_records(tmp_path / "trial")
    assert first.comparison is Comparison.DISCRIMINATOR_BETTER
    assert first.decision is None
    assert second.is_last


def test_a_starved_sample_is_undecidable(many_photos: Path, tmp_path: Path) -> None:
    config = ladder_trial(
        many_photos,
        adversarial={"learning_rate_factor": 1e-12},
        ladder={
            "stages": 3,
            "probe": {"least_sources": 20, "patch_size": 32, "fresh_steps": 0, "draws": 100},
        },
        training={"steps": 12},
    )
    told: list[str] = []
    status = run(tmp_path / "trial", config, warn=told.append)
    records = read_records(tmp_path / "trial")
    # Even for networks that are the same: that cannot be known from so few.
    assert [record.comparison for record in records] == [Comparison.UNDECIDABLE] * 3
    assert records[-1].decision is Outcome.UNDECIDABLE
    assert "undecidable after 3 stages" in status.reason
    assert "12 validation pictures; below 20" in told[0]


def test_a_single_validation_picture_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 validation picture"):
        run(tmp_path / "trial", ladder_trial(photos))


def test_a_stage_whose_validations_stand_still_has_converged(many_photos: Path, tmp_path: Path) -> None:
    config = ladder_trial(
        many_photos,
        optimizer={"learning_rate": 1e-12},
        ladder={"stages": 1, "stage_steps": 40, "least_stage_steps": 9, "convergence": {"window": 4}},
        training={"steps": 40, "validate_every": 1},
        evaluation={"tile_size": 32, "max_tiles_per_source": 1},
    )
    run(tmp_path / "trial", config)
    (record,) = read_records(tmp_path / "trial")
    # Two windows of validations are there after 8 steps, but fewer than 9 do not count.
    assert (record.ended, record.steps) == (Outcome.CONVERGED, 9)
    assert record.ended_why.startswith("over 4 validations against the 4 before")
    assert record.decision in (Outcome.BUDGET, Outcome.UNDECIDABLE)


def test_time_that_runs_out_is_no_convergence(many_photos: Path, tmp_path: Path) -> None:
    config = ladder_trial(many_photos, training={"max_seconds": 0.01})
    status = run(tmp_path / "trial", config)
    (record,) = read_records(tmp_path / "trial")
    assert record.ended is Outcome.BUDGET
    assert status.met_wall_time_cap
    assert "the wall-time cap of 0.01 s" in status.reason
    assert status.seconds == pytest.approx(record.seconds + record.judging_seconds)


def test_a_stage_that_diverges_fails_and_says_so(many_photos: Path, tmp_path: Path) -> None:
    config = ladder_trial(many_photos, optimizer={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(TrialDivergedError, match="stage 0 diverged: step"):
        run(tmp_path / "trial", config)
    (row,) = Ledger(tmp_path / "trial").rows("stage")
    assert row["outcome"] == "diverged"


class KilledError(Exception):
    """Stands for kill -9 at a chosen point: nothing of ours runs after it."""


def _dies_in_a_stage(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    del monkeypatch

    def report(metrics: dict[str, float]) -> None:
        if metrics["step"] == 12:
            raise KilledError

    return {"report": report}


def _dies_before(name: str, call: int) -> Callable[[pytest.MonkeyPatch], dict[str, Any]]:
    def plant(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        real, calls = getattr(climb, name), [0]

        def deadly(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                raise KilledError
            return real(*args, **kwargs)

        monkeypatch.setattr(climb, name, deadly)
        return {}

    return plant


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(_dies_in_a_stage, id="in the middle of stage 1"),
        pytest.param(_dies_before("examine", 1), id="stage 0 trained, not examined"),
        pytest.param(_dies_before("decided", 2), id="stage 1 examined, nothing decided"),
        pytest.param(_dies_before("stand_for", 3), id="stage 1 decided, not written"),
        pytest.param(_dies_before("write_record", 1), id="stage 0 told, not written"),
        pytest.param(_dies_before("stage_config", 2), id="stage 0 done, stage 1 not begun"),
        pytest.param(_dies_before("run_loop", 2), id="stage 1 made, not begun"),
    ],
)
def test_a_ladder_killed_anywhere_ends_bit_identical(
    climbed: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], dict[str, Any]],
) -> None:
    folder, config = climbed
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        run(tmp_path / "trial", config, **plant(patched))
    run(tmp_path / "trial", config)
    assert_same_ladder(folder, tmp_path / "trial")
    assert Ledger(tmp_path / "trial").status().attempt == 2


def assert_same_ladder(one: Path, other: Path) -> None:
    assert_equal([timeless(r) for r in read_records(one)], [timeless(r) for r in read_records(other)])
    assert_equal(states(one), states(other))
    for kind in ("train", "validation", "stage"):
        rows = [
            [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in Ledger(folder).rows(kind)]
            for folder in (one, other)
        ]
        assert rows[0] == rows[1], kind


def _attempt(config: dict[str, Any], folder: Path) -> None:
    torch.set_num_threads(1)
    run(folder, config)


def _killed_at_random(config: dict[str, Any], folder: Path, *, kills: int, seed: int) -> int:
    """Trains in processes that are killed at random moments, then once more to the end; how many kills struck."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    random, struck = np.random.default_rng(seed), 0
    for number in range(kills + 1):
        process = context.Process(target=_attempt, args=(config, folder))
        process.start()
        if number < kills:
            # Later and later, or it would hardly come past its first steps on a slow machine.
            process.join(random.uniform(0.5, 2.0 + number))
        else:
            process.join()
        if process.is_alive():
            process.kill()
            process.join()
            struck += 1
        assert process.exitcode in (0, -9)
    return struck


def test_a_ladder_killed_at_random_ends_bit_identical(
    climbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, config = climbed
    assert _killed_at_random(config, tmp_path / "trial", kills=3, seed=1)
    assert_same_ladder(folder, tmp_path / "trial")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_ladder_survives_forty_random_kills(climbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, config = climbed
    struck = 0
    for seed in range(10):
        struck += _killed_at_random(config, tmp_path / str(seed) / "trial", kills=5, seed=seed)
        assert_same_ladder(folder, tmp_path / str(seed) / "trial")
    assert struck >= 40


PLANTED = {
    8: Finding(Failure.COLLAPSED, 4, "restart", "planted: new weights"),
    12: Finding(Failure.TOO_STRONG, 8, "r1", "planted: a penalty"),
    16: Finding(Failure.LR_INCONSISTENT, 12, "consistency", "planted: a term"),
}


@pytest.mark.parametrize("dies_at", [8, pytest.param(4, marks=pytest.mark.slow)])
def test_remedies_are_applied_at_the_same_steps_after_a_kill(
    many_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    def found(validations: Sequence[Mapping[str, Any]], *_: object, **__: object) -> list[Finding]:
        return [finding for finding in PLANTED.values() if finding.step <= validations[-1]["step"]]

    monkeypatch.setattr(watch, "find", found)
    monkeypatch.setattr(climb, "find", found)
    config = ladder_trial(
        many_photos,
        adversarial={"r1_every": 2},
        ladder={"stages": 2, "stage_steps": 16},
        training={"steps": 24, "log_every": 1},
    )
    undisturbed, killed = tmp_path / "undisturbed" / "trial", tmp_path / "killed" / "trial"
    run(undisturbed, config)

    def report(metrics: dict[str, float]) -> None:
        if metrics["step"] == dies_at:
            raise KilledError

    with pytest.raises(KilledError):
        run(killed, config, report=report)
    run(killed, config)
    assert_same_ladder(undisturbed, killed)
    stage = Ledger(stage_folder(undisturbed, 0))
    terms = {row["step"]: row["terms"] for row in stage.rows("train")}
    assert terms[12]["lr_consistency"]["weighted"] == 0
    assert terms[13]["lr_consistency"]["weighted"] > 0
    penalties = {row["step"]: row["discriminator"]["penalty"] for row in stage.rows("train")}
    assert penalties[8] == 0
    assert max(penalties[step] for step in range(9, 17)) > 0
    # The next stage keeps them from its beginning.
    later = Ledger(stage_folder(undisturbed, 1)).config()
    assert later.adversarial is not None
    assert later.adversarial.r1_gamma == 10
    assert [term.weight for term in later.loss.terms if term.type == "lr_consistency"] == [1.0]
    rows = read_rows(undisturbed / "metrics.jsonl")
    told = [row["problem"] for row in rows if row["kind"] == "problem" and row["stage"] == 0]
    assert [text.split(": ")[-1] for text in told] == ["new weights", "a penalty", "a term"]


def test_another_architecture_is_for_the_next_stage(
    many_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Finding(Failure.TOO_STRONG, 4, "spectral_norm", "planted")

    def found(*_: object, **__: object) -> list[Finding]:
        return [planted]

    monkeypatch.setattr(watch, "find", found)
    monkeypatch.setattr(climb, "find", found)
    run(tmp_path / "trial", ladder_trial(many_photos))
    before, after = states(tmp_path / "trial")
    assert not any("parametrizations" in name for name in before["discriminator_ema"])
    assert any("parametrizations" in name for name in after["discriminator_ema"])
    # Each judged the other's pictures all the same.
    assert len(read_records(tmp_path / "trial")[1].judged_by) == 2


def test_an_examination_that_is_interrupted_is_done_again(
    climbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, config = climbed
    is_asked = [False]

    def report(metrics: dict[str, float]) -> None:
        # The last validation of stage 1: what comes next is its examination.
        is_asked[0] = metrics["step"] == 16

    status = run(tmp_path / "trial", config, report=report, stop=lambda: "SIGTERM" if is_asked[0] else "")
    assert status.state is State.PENDING
    assert status.reason == "interrupted by SIGTERM while stage 1 was examined"
    assert len(read_records(tmp_path / "trial")) == 1
    run(tmp_path / "trial", config)
    assert_same_ladder(folder, tmp_path / "trial")


def test_a_damaged_last_checkpoint_of_a_stage_that_was_not_examined_is_made_again(
    climbed: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = climbed
    with monkeypatch.context() as patched:
        _dies_before("examine", 1)(patched)
        with pytest.raises(KilledError):
            run(tmp_path / "trial", config)
    checkpoints = stage_folder(tmp_path / "trial", 0) / "checkpoints"
    assert Ledger(checkpoints.parent).status().state is State.FINISHED
    (checkpoints / "step-00000008.pt").write_bytes(b"cut off")
    run(tmp_path / "trial", config)
    assert_same_ladder(folder, tmp_path / "trial")


def test_stages_may_begin_where_the_one_before_ended(many_photos: Path, tmp_path: Path) -> None:
    config = ladder_trial(many_photos, ladder={"begin": "warm"})
    began: list[dict[str, Tensor]] = []
    real = climb._Climb._begin

    def begin(self: Any, parts: Any) -> None:
        real(self, parts)
        began.append({key: value.clone() for key, value in parts.engine.module.state_dict().items()})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(climb._Climb, "_begin", begin)
        run(tmp_path / "trial", config)
    assert_equal(began[1], states(tmp_path / "trial")[0]["engine"]["module"])


@pytest.mark.parametrize("next_loss", ["same", "random"])
def test_controls_look_through_something_else(many_photos: Path, tmp_path: Path, next_loss: str) -> None:
    config = ladder_trial(many_photos, ladder={"next_loss": next_loss})
    run(tmp_path / "trial", config)
    first, second = read_records(tmp_path / "trial")
    assert (first.perceptual == second.perceptual) == (next_loss == "same")
    assert first.discriminator.sha256 not in [network.sha256 for network in second.perceptual]


def test_a_stage_that_is_not_the_one_that_ended_is_refused(
    climbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, config = climbed
    folder = tmp_path / "trial"

    def report(metrics: dict[str, float]) -> None:
        if metrics["step"] == 12:
            raise KilledError

    with pytest.raises(KilledError):
        run(folder, config, report=report)
    # The other generator's checkpoints in place of stage 0's, and stage 1 has to begin anew.
    for path in (stage_folder(folder, 0) / "checkpoints").glob("step-00000008.*"):
        path.write_bytes(
            (stage_folder(folder, 0) / "checkpoints" / f"step-00000004{path.suffix}").read_bytes()
        )
    for path in (stage_folder(folder, 1) / "checkpoints").glob("step-*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"sha256 \w+ now and had|not the one that this stage ended with"):
        run(folder, config)


class Newcomer(nn.Module):
    """A generator as a newcomer would add one: a class and a line in the table."""

    def __init__(self, *, scale: int, width: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        )
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, lr: Tensor) -> Tensor:
        frames = self.shuffle(self.body(lr.flatten(0, 1)))
        return frames.unflatten(0, lr.shape[:2])


def climb_on_ranks(world: World, config: dict[str, Any], folder: Path, stop_at: int = 0) -> str:
    calls = [0]

    def stop() -> str:
        calls[0] += 1
        return "the test" if stop_at and calls[0] > stop_at else ""

    return str(run(folder, config, world, stop=stop).state)


def test_two_ranks_climb_as_one_and_continue_exactly(
    climbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, config = climbed
    undisturbed, resumed = tmp_path / "undisturbed" / "trial", tmp_path / "resumed" / "trial"
    on_ranks(climb_on_ranks, 2, config, undisturbed)
    assert on_ranks(climb_on_ranks, 2, config, resumed, 10) == ["pending"] * 2
    on_ranks(climb_on_ranks, 2, config, resumed)
    assert_same_ladder(undisturbed, resumed)
    for one, two in zip(read_records(folder), read_records(undisturbed), strict=True):
        assert one.decision == two.decision
        assert two.quality.value == pytest.approx(one.quality.value, rel=1e-3)
        assert two.reading.discriminator.value == pytest.approx(one.reading.discriminator.value, abs=0.05)


def test_any_generator_climbs(many_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "newcomer", Newcomer)
    config = ladder_trial(
        many_photos, model={"type": "newcomer", "channels": None}, ladder={"stages": 2}, training={"steps": 8}
    )
    config["model"] = "newcomer"
    run(tmp_path / "trial", config)
    assert len(read_records(tmp_path / "trial")) == 2


def _climb_with_new_weights(world: World, config: dict[str, Any], folder: Path, stop_at: int = 0) -> str:
    """Climbs; in each stage the discriminator begins anew at step 4."""
    planted = Finding(Failure.COLLAPSED, 4, "restart", "planted")

    def found(validations: Sequence[Mapping[str, Any]], *_: object, **__: object) -> list[Finding]:
        return [planted] if planted.step <= validations[-1]["step"] else []

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watch, "find", found)
        patched.setattr(climb, "find", found)
        return climb_on_ranks(world, config, folder, stop_at)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_ladder_on_zero_continues_exactly(many_photos: Path, tmp_path: Path, zero_stage: int) -> None:
    config = ladder_trial(
        many_photos,
        engine={"type": "deepspeed", "zero_stage": zero_stage},
        # ZeRO 3 takes no penalties on gradients.
        ladder={"begin": "warm", "remedies": {"too_strong": "update_ratio"}},
    )
    undisturbed, resumed = tmp_path / "undisturbed" / "trial", tmp_path / "resumed" / "trial"
    on_ranks(_climb_with_new_weights, 2, config, undisturbed)
    assert on_ranks(_climb_with_new_weights, 2, config, resumed, 10) == ["pending"] * 2
    on_ranks(_climb_with_new_weights, 2, config, resumed)
    assert_same_ladder(undisturbed, resumed)
