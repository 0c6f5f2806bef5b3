"""The set as a whole: what passes clip by clip is what one would measure with all of it at hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch

from sr.config import TrialConfig, parse_trial
from sr.ledger import Ledger
from sr.metrics import measure
from sr.metrics.linter import checkerboard, hr_against_its_half, lr_against_down_hr
from sr.metrics.perception_distortion import rmse
from sr.resize import bicubic, upscale_bicubic
from sr.summary import Summary, WholeSet, from_plain, to_plain

Clip = tuple[str, torch.Tensor, torch.Tensor]
"""Source, LR and HR."""


def config(**changes: Any) -> TrialConfig:
    return parse_trial({"scale": 2, "data": {"path": "nowhere"}, "loss": "l1", **changes})


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Two tiles of 104 x 96 of each of six places in photographs."""
    found: list[Clip] = []
    for name in ("astronaut", "coffee", "chelsea"):
        picture = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1).float() / 255
        for place in range(4):
            hr = picture[:, 10 + 60 * place :, 30 + 90 * (place % 2) :][:, :104, :96]
            lr = bicubic(hr, height=52, width=48).mul(255).round().clamp(0, 255).div(255)
            found.append((f"{name}{place // 2}", lr[None, None], hr[None, None]))
    return found


def watched(clips: list[Clip], model: Any, settings: TrialConfig | None = None) -> Summary:
    settings = settings or config()
    whole, rows = WholeSet(settings), []
    for number, (source, lr, hr) in enumerate(clips):
        sr = model(lr)
        whole.see(source, lr=lr, hr=hr, sr=sr)
        scores = measure(sr, hr, names=("psnr_rgb", "ssim_y"), scale=2)
        rows.append({"clip": f"{number}", "source": source, **{k: v.item() for k, v in scores.items()}})
    return whole.summary(rows)


def cubic(lr: torch.Tensor) -> torch.Tensor:
    return upscale_bicubic(lr, 2)


def black(lr: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*lr.shape[:3], 2 * lr.shape[3], 2 * lr.shape[4])


def test_what_was_measured_is_what_all_pictures_together_give(clips: list[Clip]) -> None:
    found = watched(clips, lambda lr: cubic(lr) * 1.1 - 0.05)
    lr, hr = torch.cat([lr[0] for _, lr, _ in clips]), torch.cat([hr[0] for *_, hr in clips])
    sr = cubic(lr) * 1.1 - 0.05
    psnr = measure(sr[:, None], hr[:, None], names=("psnr_rgb",), scale=2)["psnr_rgb"]
    assert found.metrics["psnr_rgb"].mean == pytest.approx(found.facts["psnr"]) == psnr.mean().item()
    assert found.metrics["psnr_rgb"].median == pytest.approx(psnr.quantile(0.5).item())
    assert found.rmse == pytest.approx(rmse(sr, hr))
    assert found.facts["lr_against_down_hr"] == pytest.approx(lr_against_down_hr(lr, hr))
    assert found.facts["hr_against_its_half"] == pytest.approx(hr_against_its_half(hr))
    assert found.facts["output_range"] == pytest.approx((sr.min().item(), sr.max().item()))
    bicubic_psnr = measure(cubic(lr)[:, None], hr[:, None], names=("psnr_rgb",), scale=2)["psnr_rgb"]
    assert found.facts["psnr_bicubic"] == pytest.approx(bicubic_psnr.mean().item())
    # One block of 64 x 64 fits each tile, in its middle.
    middle = (..., slice(20, 84), slice(16, 80))
    expected = checkerboard(sr.clamp(0, 1)[middle], hr[middle])
    assert found.facts["checkerboard"] == pytest.approx(expected, rel=0.05)
    assert (found.num_clips, found.num_sources, found.region) == (12, 6, 1)


def test_a_sound_model_has_no_warning_and_bicubic_is_not_below_itself(clips: list[Clip]) -> None:
    assert [finding.rule for finding in watched(clips, cubic).warnings] == []


def test_a_black_model_and_a_wrong_range_are_found(clips: list[Clip]) -> None:
    messages = {finding.rule: finding.message for finding in watched(clips, black).warnings}
    assert "no more than a black picture's" in messages[2]
    assert "the output spans 0 to 0" in messages[1]


@pytest.mark.parametrize(
    ("degradation", "fires"), [("bicubic_aa", True), ("given", True), ("blur_down", False)]
)
def test_an_lr_that_is_not_what_was_promised_is_found(
    clips: list[Clip], degradation: str, fires: bool
) -> None:
    # Every second pixel: no antialiasing.
    picked = [(source, hr[..., ::2, ::2], hr) for source, _, hr in clips]
    found = watched(picked, cubic, config(degradation=degradation))
    assert (5 in [finding.rule for finding in found.warnings]) == fires
    assert found.facts["lr_against_down_hr"] < 40


def test_what_looks_real_is_not_told_from_it(clips: list[Clip]) -> None:
    smooth = watched(clips, cubic).separability
    assert smooth is not None
    assert smooth.auc > 0.9
    assert smooth.low <= smooth.auc <= smooth.high
    truth = iter(clips)
    real = watched(clips, lambda _lr: next(truth)[2]).separability
    assert real is not None
    assert real.auc == pytest.approx(0.5)


def test_too_few_sources_or_too_small_pictures_are_said_so(clips: list[Clip]) -> None:
    few = watched(clips[:6], cubic)
    assert few.separability is None
    assert few.why_not_separated.startswith("3 held-out pictures")
    small = watched([(s, lr[..., :12, :12], hr[..., :24, :24]) for s, lr, hr in clips], cubic)
    assert small.why_not_separated == "no picture has 32 x 32 pixels"
    assert small.facts["checkerboard"] is None


def test_memory_does_not_grow_with_the_set(clips: list[Clip]) -> None:
    whole = WholeSet(config())
    source, lr, hr = clips[0]
    for number in range(200):
        whole.see(f"{source}{number}", lr=lr, hr=hr, sr=cubic(lr))
    pairs = whole._patches.pairs()
    assert pairs is not None
    assert len(pairs[0]) == len(whole._patches.sources) == 1024
    # Of all that passed, not of the first or the last only.
    numbers = {int(name.removeprefix(source)) for name in whole._patches.sources}
    assert len(numbers) > 190


def test_the_crops_of_a_clip_are_all_its_crops_and_none_twice() -> None:
    """Two frames of 70 x 84 hold 2 x 2 crops of 32 x 32 each; what is left over is cut from both sides."""
    hr = torch.arange(2 * 70 * 84).reshape(1, 2, 1, 70, 84).repeat(1, 1, 3, 1, 1)
    hr = torch.stack([hr[:, :, 0] // 256**i % 256 for i in range(3)], dim=2) / 255
    whole = WholeSet(config())
    whole.see("a", lr=bicubic(hr, height=35, width=42), hr=hr, sr=hr)
    pairs = whole._patches.pairs()
    assert pairs is not None
    corner = (pairs[1][:, :, 0, 0] * 255).round().long()
    numbers = corner[:, 0] + 256 * corner[:, 1]
    frames, rows, columns = numbers // 5880, numbers % 5880 // 84, numbers % 84
    expected = {(t, top, left) for t in range(2) for top in (3, 35) for left in (10, 42)}
    assert len(numbers) == 8
    assert set(zip(frames.tolist(), rows.tolist(), columns.tolist(), strict=True)) == expected


def test_frames_of_clips_count_one_by_one_and_surplus_lr_frames_are_left_out(clips: list[Clip]) -> None:
    lr, hr = torch.cat([lr for _, lr, _ in clips[:3]], dim=1), torch.cat([hr for *_, hr in clips[:3]], dim=1)
    whole = WholeSet(config())
    whole.see("a", lr=lr, hr=hr[:, 1:2], sr=cubic(lr[:, 1:2]))
    found = whole.summary([{"clip": "a#0", "source": "a", "psnr_rgb": 30.0}])
    assert found.facts["lr_against_down_hr"] > 50
    assert found.facts["psnr"] == found.facts["psnr_bicubic"]


def test_the_record_is_plain_json_and_comes_back(clips: list[Clip], tmp_path: Path) -> None:
    found = watched(clips, black)
    ledger = Ledger(tmp_path)
    assert ledger.summary() is None
    ledger.write_summary(found)
    again = ledger.summary()
    assert again is not None
    assert (again.metrics, again.separability, again.warnings) == (
        found.metrics,
        found.separability,
        found.warnings,
    )
    plain = json.loads((tmp_path / "summary.json").read_text())
    assert plain["metrics"]["psnr_rgb"]["protocol"]["profile"] == "rgb"
    assert plain["metrics"]["ssim_y"]["convention"].startswith("luma")
    assert (plain["metrics"]["ssim_y"]["of_the_mean"], plain["region"]) == (None, None)


def test_a_metric_that_is_nowhere_defined_is_null(clips: list[Clip]) -> None:
    whole = WholeSet(config())
    for source, lr, hr in clips:
        whole.see(source, lr=lr, hr=hr, sr=cubic(lr))
    rows = [
        {"clip": str(i), "source": s, "ffr": math.nan, "psnr_y": 30.0 + i} for i, (s, *_) in enumerate(clips)
    ]
    rows[0]["psnr_y"], rows[11]["psnr_y"] = math.nan, math.inf
    found = whole.summary(rows)
    plain = json.loads(json.dumps(to_plain(found), allow_nan=False))
    assert (
        plain["metrics"]["ffr"] | {"n": 0, "mean": None, "p5": None, "num_undefined": 12}
        == plain["metrics"]["ffr"]
    )
    assert math.isnan(from_plain(plain).metrics["ffr"].median)
    assert found.metrics["psnr_y"].num_undefined == 2
    assert found.metrics["psnr_y"].mean == pytest.approx(np.mean(range(31, 41)))
