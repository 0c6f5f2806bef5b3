import numpy as np
import pytest
import torch

from sr.metrics import measure
from sr.resize import bicubic, upscale_bicubic
from tests.unit.sr.metrics.conftest import moving


def value(sr: torch.Tensor, lr: torch.Tensor | None, *, scale: int = 2) -> float:
    return measure(sr, torch.zeros_like(sr), names=("lr_psnr",), scale=scale, lr=lr)["lr_psnr"].item()


def test_it_is_the_psnr_of_sr_brought_down_against_the_input() -> None:
    lr = moving(20, frames=2)
    sr = torch.rand(1, 2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 1.2
    stored = (sr.double().clamp(0, 1) * 255).round() / 255
    frames = [bicubic(stored[0, t], height=20, width=20).numpy() - lr[0, t].numpy() for t in (0, 1)]
    expected = np.mean([-10 * np.log10(np.mean(frame.astype(float) ** 2)) for frame in frames])
    assert value(sr, lr) == pytest.approx(expected, abs=1e-4)


def test_invented_detail_is_allowed_and_a_shift_is_not() -> None:
    lr = moving(32, frames=1)
    sr = upscale_bicubic(lr, 2)
    detail = torch.zeros(64, 64)
    detail[::2, ::2] = detail[1::2, 1::2] = 0.05
    assert value(sr + detail - 0.025, lr) > 35 > value(sr.roll(2, dims=-1), lr)


@pytest.mark.parametrize("frames", [4, 5])
def test_a_model_of_many_frames_in_and_one_out_is_held_against_the_middle(frames: int) -> None:
    # As `sr.data.judged_frames` has it: frame 2 of 4 and of 5.
    lr = moving(32, frames=frames, step=6)
    sr = upscale_bicubic(lr[:, 2:3], 2)
    assert value(sr, lr) == value(sr, lr[:, 2:3]) > value(sr, lr[:, 1:2]) + 5


def test_without_the_input_it_says_so() -> None:
    with pytest.raises(ValueError, match=r"metrics\.lr_psnr: .* pass lr"):
        value(torch.rand(1, 1, 3, 32, 32), None)


@pytest.mark.parametrize("shape", [(1, 0, 3, 16, 16), (1, 1, 3, 15, 16), (2, 1, 3, 16, 16), (1, 3, 16, 16)])
def test_an_input_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at scale 2 the input should have"):
        value(torch.rand(1, 1, 3, 32, 32), torch.rand(shape))
