"""Trials on clips, through feature networks, and through another trial's discriminator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards.pack import PackOptions, pack
from shards.sources import SourceOptions
from sr.config import parse_trial
from sr.configfile import ConfigError
from sr.features import load_network
from sr.ledger import Ledger, State
from sr.train import train
from sr.world import single_process
from sweeps.evaluation import evaluate_trial
from tests.unit.sr.test_train import KilledError, equal, final_state

WORLD = single_process("cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of five frames: a window of 48 pixels that moves over photographs."""
    import skimage

    root = tmp_path_factory.mktemp("clips")
    photos = {"train": skimage.data.astronaut(), "val": skimage.data.coffee(), "test": skimage.data.chelsea()}
    for split, photo in photos.items():
        for clip in range(2 if split == "train" else 1):
            for frame in range(5):
                y, x = 100 + 2 * frame, 150 + 60 * clip + frame
                path = root / "frames" / split / str(clip) / f"{frame:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.ascontiguousarray(photo[y : y + 48, x : x + 48])).save(path)
    options = PackOptions(clips=SourceOptions(frames=5))
    pack("frames", root / "frames", root / "packed", options, on_progress=lambda _state: None)
    return root / "packed"


def run(folder: Path, plain: dict[str, Any], **options: Any) -> Ledger:
    config = parse_trial(plain)
    ledger = Ledger(folder)
    ledger.create(config, command="test")
    train(config, world=WORLD, ledger=ledger, **options)
    return ledger


def of_clips(tiny: dict[str, Any], clips: Path, **changes: Any) -> dict[str, Any]:
    return {**tiny, "data": {"path": str(clips), "patch_size": 32}, **changes}


def test_a_recurrent_trial_with_every_temporal_loss_resumes_exactly(
    tiny: dict[str, Any], clips: Path, tmp_path: Path
) -> None:
    plain = of_clips(
        tiny,
        clips,
        model={"type": "frvsr", "channels": 8, "num_blocks": 1, "flow_channels": 4},
        loss="l1 + 0.1*temporal_diff + 0.1*warp + 0.5*pingpong + 0.01*gan_hinge",
        adversarial={"discriminator": {"type": "temporal_d", "channels": 4}, "start_step": 2},
        training={**tiny["training"], "steps": 6, "validate_every": 2, "log_every": 1},
    )

    def die(metrics: dict[str, float]) -> None:
        if metrics["step"] == 4:
            raise KilledError

    undisturbed = run(tmp_path / "a", plain)
    with pytest.raises(KilledError):
        run(tmp_path / "b", plain, report=die)
    resumed = run(tmp_path / "b", plain)
    assert equal(final_state(undisturbed)["engine"], final_state(resumed)["engine"])
    rows = undisturbed.rows("train")
    # What the motion estimate itself wants is part of the loss, and written down.
    assert all(row["auxiliary"] > 0 for row in rows)
    parts = [sum(term["weighted"] for term in row["terms"].values()) + row["auxiliary"] for row in rows]
    assert [row["loss"] for row in rows] == pytest.approx(parts, rel=1e-4)
    # A recurrent model remembers: what it sees on the way back differs from what it saw on the way there.
    assert rows[-1]["terms"]["pingpong"]["raw"] > 0
    assert evaluate_trial(undisturbed.folder) == 1


def test_a_model_without_memory_sees_the_same_both_ways(
    tiny: dict[str, Any], clips: Path, tmp_path: Path
) -> None:
    ledger = run(tmp_path / "trial", of_clips(tiny, clips, loss="l1 + pingpong"))
    assert all(row["terms"]["pingpong"]["raw"] < 1e-6 for row in ledger.rows("train"))


def test_a_model_of_the_middle_frame_is_trained_and_judged_on_it(
    tiny: dict[str, Any], clips: Path, tmp_path: Path
) -> None:
    model = {"type": "unet_geu", "num_frames": 5, "width": 4, "stem_channels": 4, "num_downs": 1}
    ledger = run(tmp_path / "trial", of_clips(tiny, clips, model=model, loss="l1 + 0.5*lr_consistency"))
    assert ledger.status().state is State.FINISHED
    assert evaluate_trial(ledger.folder) == 1
    # Half a dozen steps do not lead far from bicubic, where it begins; another frame would be far off.
    assert ledger.evaluation()[0]["psnr_y"] > 20


def test_a_wrong_number_of_frames_is_told(tiny: dict[str, Any], clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"7.*5"):
        run(tmp_path / "trial", of_clips(tiny, clips, model={"type": "unet_geu", "width": 4}))


NETWORK = "vgg(network=random_vgg, taps=[conv1_2], seed={seed})"


def test_the_hash_of_the_weights_is_recorded_and_must_stay(tiny: dict[str, Any], tmp_path: Path) -> None:
    loss = NETWORK.format(seed=3)
    ledger = run(tmp_path / "trial", {**tiny, "loss": f"l1 + {loss}"})
    (row,) = ledger.rows("loss")
    assert row["feature_networks"].keys() == {"vgg"}
    recorded = row["feature_networks"]["vgg"]
    assert len(recorded["sha256"]) == 64
    assert "random_vgg" in recorded["name"]
    path = ledger.folder / "metrics.jsonl"
    path.write_text(path.read_text().replace(recorded["sha256"], "0" * 64))
    with pytest.raises(ValueError, match=r"'vgg': the weights of .*random_vgg.* had 000000000000"):
        train(ledger.config(), world=WORLD, ledger=ledger)


def test_anothers_discriminator_is_a_feature_network(tiny: dict[str, Any], tmp_path: Path) -> None:
    adversarial = {"discriminator": {"type": "patch_d", "channels": 4}}
    first = run(tmp_path / "first", {**tiny, "loss": "l1 + gan_ragan", "adversarial": adversarial})
    loss = f"l1 + vgg(network=discriminator, path='{first.folder}', taps=[down1, down2])"
    second = run(tmp_path / "second", {**tiny, "loss": loss})
    values = [row["terms"]["vgg"]["raw"] for row in second.rows("train")]
    assert len(set(values)) == len(values)
    assert min(values) > 0
    # The averaged weights are what is looked through.
    state = final_state(first)["discriminator_ema"]
    loaded = load_network("discriminator", path=str(first.folder)).state_dict()
    assert all(any(equal(value, other) for other in loaded.values()) for value in state.values())
    plain = run(tmp_path / "plain", tiny)
    with pytest.raises(ValueError, match="discriminator"):
        run(tmp_path / "third", {**tiny, "loss": f"vgg(network=discriminator, path='{plain.folder}')"})


def test_every_metric_that_is_asked_for_is_measured(tiny: dict[str, Any], tmp_path: Path) -> None:
    names = ["psnr_y", "ssim_rgb", "lr_psnr", "psnr_seed2"]
    evaluation = {**tiny["evaluation"], "metrics": names}
    ledger = run(tmp_path / "trial", {**tiny, "evaluation": evaluation})
    evaluate_trial(ledger.folder)
    assert [list(row)[2:] for row in ledger.evaluation()] == [names] * len(ledger.evaluation())
    with pytest.raises(ConfigError, match=r"evaluation\.metrics: unknown metric 'psnr_z'"):
        parse_trial({**tiny, "evaluation": {"metrics": ["psnr_z"]}})


def test_a_frozen_network_costs_no_gradient_of_its_own(tiny: dict[str, Any], tmp_path: Path) -> None:
    loss = NETWORK.format(seed=3)
    config = parse_trial({**tiny, "loss": loss})
    ledger = Ledger(tmp_path / "trial")
    ledger.create(config, command="test")
    from sr.parts import build_criterion

    network = build_criterion(config.loss).terms["vgg"].network
    train(config, world=WORLD, ledger=ledger)
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert json.loads((ledger.folder / "state.json").read_text())["state"] == "finished"
