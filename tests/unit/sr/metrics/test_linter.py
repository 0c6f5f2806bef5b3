"""Each rule fires on what it is for, and not on what is sound."""

import pytest
import skimage
import torch
import torch.nn.functional as F

from sr.metrics.linter import (
    Facts,
    checkerboard,
    hr_against_its_half,
    lint,
    lr_against_down_hr,
    psnr_of_black,
)
from sr.resize import bicubic, upscale_bicubic

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")


def photograph(name: str) -> torch.Tensor:
    """(1, 3, 128, 128)."""
    picture = getattr(skimage.data, name)()[80:208, 120:248]
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def rules(**facts: object) -> list[int]:
    return [warning.rule for warning in lint(Facts(**facts))]  # type: ignore[arg-type]


SOUND = {
    "psnr": (28.0, 30.0, 31.0), "psnr_black": 7.0, "psnr_bicubic": 28.5, "frames_per_clip": 7,
    "output_range": (-0.05, 1.1), "target_range": (0.0, 1.0), "lr_against_down_hr": 52.0,
    "hr_against_its_half": 31.0, "psnr_training_mode": 29.5, "checkerboard": {2: 3.0, 4: 1.2, 8: 0.9},
}  # fmt: skip


def test_a_sound_evaluation_has_no_warning() -> None:
    assert rules(**SOUND) == []


def test_nothing_known_nothing_said() -> None:
    assert lint(Facts()) == []


@pytest.mark.parametrize(
    ("rule", "facts"),
    [
        (1, {"output_range": (0.0, 1.0), "target_range": (0.0, 255.0)}),  # Seed 0's sigmoid.
        (1, {"output_range": (-1.0, 1.0)}),  # Seed 2's tanh.
        (2, {"psnr_black": 29.6, "psnr_bicubic": None}),
        (2, {"psnr_bicubic": 29.9}),
        (3, {"psnr": (83.24, 83.3), "psnr_training_mode": None}),
        (4, {"psnr": (40.0, 40.0, 22.0), "psnr_training_mode": None}),
        (5, {"lr_against_down_hr": 30.0}),
        (6, {"hr_against_its_half": 50.0}),
        (7, {"psnr_training_mode": 19.2}),
        (8, {"checkerboard": {2: 900.0, 4: 1.0, 8: 1.0}}),
    ],
)
def test_each_rule_fires_alone(rule: int, facts: dict[str, object]) -> None:
    (warning,) = lint(Facts(**(SOUND | facts)))  # type: ignore[arg-type]
    assert warning.rule == rule
    assert "look" in warning.message or "not learned" in warning.message


@pytest.mark.parametrize(
    "facts",
    [
        {"psnr_black": 29.5}, {"psnr_bicubic": 29.6}, {"psnr": (59.9, 59.9), "psnr_training_mode": None},
        {"psnr": (26.0, 29.0, 33.0)}, {"lr_against_down_hr": 40.5}, {"hr_against_its_half": 44.0},
        {"psnr_training_mode": 30.4}, {"checkerboard": {2: 9.0}}, {"output_range": (0.2, 0.8)},
    ],
)  # fmt: skip
def test_just_inside_the_limits_nothing_fires(facts: dict[str, object]) -> None:
    assert rules(**(SOUND | facts)) == []


def test_a_black_model_below_bicubic_has_one_warning_not_two() -> None:
    (warning,) = lint(Facts(psnr=(7.0,), psnr_black=7.0, psnr_bicubic=29.0))
    assert "black picture's 7.00 dB" in warning.message


def test_warnings_come_with_the_measured_values() -> None:
    assert lint(Facts(psnr=(40.0, 40.0, 40.0, 10.0), tail_of_bicubic_db=15.6)) == []
    (tail,) = lint(Facts(psnr=(40.0, 40.0, 40.0, 10.0), tail_of_bicubic_db=15.3))
    assert lint(Facts(psnr=(40.0, 40.0, 40.0, 10.0))) == [tail]
    assert "32.50 dB" in tail.message
    assert "16.01 dB" in tail.message
    (summed,) = lint(Facts(psnr=(83.24,), frames_per_clip=6))
    assert "6 frames that were added up would have 13.87 dB each" in summed.message


def test_black() -> None:
    assert psnr_of_black(torch.full((2, 3, 8, 8), 0.1 * 255 // 1 / 255)) == pytest.approx(20.17, abs=0.01)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_lr_rule_tells_antialiased_from_aliased(name: str) -> None:
    hr = photograph(name)
    stored = bicubic(hr, height=64, width=64).mul(255).round().div(255)
    sound, aliased, shifted = stored, hr[..., ::2, ::2], bicubic(hr.roll(1, -1), height=64, width=64)
    assert rules(lr_against_down_hr=lr_against_down_hr(sound, hr)) == []
    assert rules(lr_against_down_hr=lr_against_down_hr(aliased, hr)) == [5]
    assert rules(lr_against_down_hr=lr_against_down_hr(shifted, hr)) == [5]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_sharpness_rule_tells_photographs_from_upscaled_ones(name: str) -> None:
    hr = photograph(name)
    # Seed 2's targets: brought down by 4 and up again.
    fake = upscale_bicubic(bicubic(hr, height=32, width=32), 4).clamp(0, 1)
    assert rules(hr_against_its_half=hr_against_its_half(hr)) == []
    assert rules(hr_against_its_half=hr_against_its_half(fake)) == [6]
    assert hr_against_its_half(hr[..., 1:, :-1]) < 45


def transposed_convolution(lr: torch.Tensor) -> torch.Tensor:
    """Kernel 3, stride 2: every second pixel is reached by twice as many taps."""
    kernel = torch.tensor([0.55, 1.0, 0.55]).outer(torch.tensor([0.55, 1.0, 0.55]))[None, None]
    return F.conv_transpose2d(lr.transpose(0, 1), kernel, stride=2, padding=1, output_padding=1).transpose(
        0, 1
    )


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_checkerboard_rule_tells_transposed_convolution_from_bicubic(name: str) -> None:
    hr = photograph(name)
    lr = bicubic(hr, height=64, width=64)
    assert rules(checkerboard=checkerboard(upscale_bicubic(lr, 2), hr)) == []
    assert rules(checkerboard=checkerboard(upscale_bicubic(bicubic(hr, height=16, width=16), 8), hr)) == []
    assert rules(checkerboard=checkerboard(transposed_convolution(lr), hr)) == [8]
    assert checkerboard(hr, hr) == {2: 1.0, 4: 1.0, 8: 1.0}


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("period", [2, 4, 8])
def test_the_checkerboard_has_a_period(period: int, upright: bool) -> None:
    hr = photograph("chelsea")
    waves = torch.cos(torch.arange(128) * 2 * torch.pi / period).expand(128, 128)
    waves = waves if upright else waves.T
    found = checkerboard(
        hr + 0.02 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(0)) + 0.03 * waves, hr
    )
    assert [p for p, ratio in found.items() if ratio > 10] == [period]


def test_small_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 x 64"):
        checkerboard(torch.rand(1, 3, 32, 64), torch.rand(1, 3, 32, 64))
    with pytest.raises(ValueError, match="at least 16 x 16"):
        hr_against_its_half(torch.rand(1, 3, 15, 64))
