"""What holds for every metric in the table."""

import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from sr.metrics import METRICS, PROFILES, measure
from sr.metrics.protocol import crop_border

Clips = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
SCALE = 2

NO_FACES = pytest.mark.skipif(
    importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None,
    reason="needs the extra `faces`",
)


def names(*, faces: bool = True) -> list:
    """Every metric, those of faces skipped where they are not installed."""
    return [
        pytest.param(name, marks=NO_FACES if metric.extra else ())
        for name, metric in METRICS.items()
        if faces or not metric.extra
    ]


def value(name: str, sr: torch.Tensor, hr: torch.Tensor, lr: torch.Tensor | None = None) -> torch.Tensor:
    return measure(sr, hr, names=(name,), scale=SCALE, lr=lr)[name]


def spoilt(sr: torch.Tensor) -> torch.Tensor:
    """Worse by every standard: noisy, another in each frame, and of another colour."""
    noise = torch.randn(sr.shape, generator=torch.Generator().manual_seed(0)) * 0.2
    return (sr * torch.tensor([0.7, 1.0, 1.1]).view(3, 1, 1) + noise).clamp(0, 1)


@pytest.mark.usefixtures("random_networks")
@pytest.mark.parametrize("name", names(faces=False))
def test_each_clip_is_measured_by_itself_and_worse_is_worse(
    name: str, panning: Callable[[str], Clips]
) -> None:
    sr, hr, lr = panning(name)
    worse = spoilt(sr)
    both = value(name, torch.cat([sr, worse]).requires_grad_(), torch.cat([hr, hr]), torch.cat([lr, lr]))
    assert both.shape == (2,)
    assert both.dtype == torch.float64
    assert not both.requires_grad
    assert both[1].item() == pytest.approx(value(name, worse, hr, lr).item(), abs=1e-6)
    good, bad = both.abs().tolist() if METRICS[name].zero_is_best else both.tolist()
    assert (good > bad) == METRICS[name].higher_is_better


@pytest.mark.usefixtures("random_networks")
@pytest.mark.parametrize("name", names())
def test_the_target_itself_has_the_best_value(name: str, panning: Callable[[str], Clips]) -> None:
    _, hr, lr = panning(name)
    metric = METRICS[name]
    best = 100.0 if metric.in_decibels_of_mse else float(metric.higher_is_better)
    if metric.protocol.over_frames == "sum":
        best = 200.0 if name == "psnr_seed0" else 2.0
    # HR brought down is LR but for rounding to 8 bits; a flow is found to a part of a pixel.
    tolerance = {"warping_error": 1e-4, "lr_psnr": 20.0}.get(name, 1e-4)
    if name == "lr_psnr":
        best = 81.0
        hr = hr.mul(255).round().div(255)
    assert value(name, hr, hr, lr).item() == pytest.approx(best, abs=tolerance)


@pytest.mark.usefixtures("random_networks")
@pytest.mark.parametrize("name", names())
def test_the_protocol_says_whether_the_border_and_less_than_half_a_level_count(
    name: str, panning: Callable[[str], Clips]
) -> None:
    sr, hr, lr = panning(name)
    protocol = METRICS[name].protocol
    sr = sr.clamp(0.01, 0.99)
    finer = sr.mul(255).round().div(255)
    assert (
        torch.equal(value(name, finer + 0.3 / 255, hr, lr), value(name, finer, hr, lr)) == protocol.quantised
    )
    if METRICS[name].extra:
        return  # A strip of two pixels does not change a face.
    framed = finer.clone()
    framed[..., :SCALE, :] = 0.5
    assert torch.equal(value(name, framed, hr, lr), value(name, finer, hr, lr)) == (protocol.crop == "scale")


@pytest.mark.usefixtures("random_networks")
@pytest.mark.parametrize("name", names())
def test_pictures_that_are_too_small_are_refused_by_name_and_others_are_measured(name: str) -> None:
    metric = METRICS[name]
    border = 2 * SCALE if metric.protocol.crop == "scale" else 0
    # Even sides, so that there is an LR.
    side = metric.min_side + border + (metric.min_side + border) % 2
    hr = torch.rand(1, 2, 3, side, side, generator=torch.Generator().manual_seed(1))
    lr = hr[..., ::2, ::2]
    found = value(name, hr.flip(-1), hr, lr).item()
    assert math.isfinite(found) or metric.extra  # There is no face in noise.
    if metric.min_side > 2:
        small = hr[..., 2:, 2:]
        with pytest.raises(
            ValueError, match=rf"metrics\.{name}: needs pictures of at least {metric.min_side} x"
        ):
            value(name, small.flip(-1), small, small[..., ::2, ::2])


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if "clip" in metric.needs])
def test_metrics_of_clips_refuse_single_frames(name: str) -> None:
    with pytest.raises(ValueError, match=rf"metrics\.{name}: compares consecutive frames"):
        value(name, torch.rand(1, 1, 3, 64, 64), torch.rand(1, 1, 3, 64, 64))


def test_weights_that_are_absent_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("SRLOSS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="alexnet-owt-7be5be79"):
        value("lpips", torch.rand(1, 1, 3, 64, 64), torch.rand(1, 1, 3, 64, 64))


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="must agree"):
        value("psnr_y", torch.rand(1, 1, 3, 32, 32), torch.rand(1, 1, 3, 32, 34))


def test_pictures_that_are_no_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, T, 3, H, W\)"):
        value("psnr_y", torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_output_that_is_no_number_is_refused(broken: float) -> None:
    sr = torch.rand(1, 1, 3, 32, 32)
    sr[0, 0, 1, 5, 5] = broken
    with pytest.raises(ValueError, match="the output has values that are infinite or not a number"):
        value("psnr_y", sr, torch.rand(1, 1, 3, 32, 32))


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'psnr_y'"):
        value("pnsr_y", torch.rand(1, 1, 3, 32, 32), torch.rand(1, 1, 3, 32, 32))


def test_profiles_are_of_metrics_that_exist() -> None:
    assert {name for profile in PROFILES.values() for name in profile.metrics} <= set(METRICS)
    for seed in ("seed0", "seed2", "seed4"):
        assert all(METRICS[name].protocol.profile == seed for name in PROFILES[seed].metrics)


def test_every_metric_is_in_a_profile_and_says_its_convention() -> None:
    assert {name for profile in PROFILES.values() for name in profile.metrics} == set(METRICS)
    assert all(metric.convention and metric.label for metric in METRICS.values())


def test_importing_the_table_loads_no_heavy_library() -> None:
    heavy = "piq lpips torchvision skimage cv2 scipy dlib"
    code = f"import sys, sr.metrics; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_border_is_cut_before_not_after_measuring() -> None:
    hr = torch.rand(1, 1, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    sr = hr * 0.9
    inside = measure(crop_border(sr, 4), crop_border(hr, 4), names=("psnr_seed4",), scale=4)["psnr_seed4"]
    assert measure(sr, hr, names=("psnr_rgb",), scale=4)["psnr_rgb"].item() == pytest.approx(
        inside.item(), abs=1e-9
    )
