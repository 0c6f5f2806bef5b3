"""The losses on the Fourier spectrum against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sr.losses import LOSSES


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    sr, hr = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    return sr.requires_grad_(), hr


def test_fft_l1_is_numpys() -> None:
    sr, hr = pair(2, 3, 9, 12)
    difference = (sr - hr).detach().numpy()
    expected = np.mean(np.abs(np.fft.fft2(difference)) / np.sqrt(9 * 12))
    assert LOSSES["fft_l1"]()(sr, hr).item() == pytest.approx(expected, rel=1e-12)


def test_fft_l1_of_a_wave_is_in_two_coefficients() -> None:
    hr = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    wave = 0.1 * torch.cos(2 * torch.pi * 3 * torch.arange(16) / 16).expand(1, 1, 16, 16).double()
    # Each of the two coefficients has amplitude / 2 * number of pixels / sqrt(number of pixels).
    assert LOSSES["fft_l1"]()(hr + wave, hr).item() == pytest.approx(2 * 0.05 * 16 / 256, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_focal_frequency_is_the_published_formula(alpha: float) -> None:
    sr, hr = pair(2, 3, 8, 10)
    values = []
    for a, b in zip(sr.detach().numpy().reshape(-1, 8, 10), hr.numpy().reshape(-1, 8, 10), strict=True):
        distance = np.abs(np.fft.fft2(a, norm="ortho") - np.fft.fft2(b, norm="ortho"))
        weight = distance**alpha / np.max(distance**alpha)
        values.append(np.mean(weight * distance**2))
    assert LOSSES["focal_frequency"](alpha=alpha)(sr, hr).item() == pytest.approx(np.mean(values), rel=1e-10)


def test_focal_frequency_without_focus_is_mse() -> None:
    sr, hr = pair(2, 3, 8, 10)
    expected = (sr - hr).square().mean().item()
    assert LOSSES["focal_frequency"](alpha=0.0)(sr, hr).item() == pytest.approx(expected, rel=1e-12)


def test_focal_frequency_locks_its_weights() -> None:
    sr, hr = pair(1, 1, 6, 6)
    (locked,) = torch.autograd.grad(LOSSES["focal_frequency"]()(sr, hr), sr)
    spectrum = torch.fft.fft2(sr.detach() - hr, norm="ortho")
    weight = spectrum.abs() / spectrum.abs().max()
    # The gradient of a quadratic form with constant, even weights.
    expected = 2 * torch.fft.ifft2(weight * spectrum, norm="ortho").real / sr.numel()
    torch.testing.assert_close(locked, expected)
    (whole,) = torch.autograd.grad(LOSSES["focal_frequency"](lock_weights=False)(sr, hr), sr)
    assert (whole - locked).norm() > 0.1 * locked.norm()


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_gradients_agree_with_finite_differences(alpha: float) -> None:
    sr, hr = pair(1, 2, 5, 6)
    assert torch.autograd.gradcheck(lambda x: LOSSES["fft_l1"]()(x, hr), (sr,))
    unlocked = LOSSES["focal_frequency"](alpha=alpha, lock_weights=False)
    assert torch.autograd.gradcheck(lambda x: unlocked(x, hr), (sr,))


@pytest.mark.parametrize("name", ["fft_l1", "focal_frequency"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_identity_value_and_gradient_are_zero(name: str, dtype: torch.dtype) -> None:
    hr = torch.rand(1, 2, 3, 11, 8, dtype=dtype)
    sr = hr.clone().requires_grad_()
    value = LOSSES[name]()(sr, hr)
    (gradient,) = torch.autograd.grad(value, sr)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(sr))


def test_focal_frequency_refuses_a_negative_alpha() -> None:
    with pytest.raises(ValueError, match=r"focal_frequency.alpha: expected at least 0, got -1"):
        LOSSES["focal_frequency"](alpha=-1.0)
