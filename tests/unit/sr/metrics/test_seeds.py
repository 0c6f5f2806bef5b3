"""The seeds' own conventions, by loops, and the numbers that they published."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from skimage.metrics import structural_similarity

from sr.metrics import METRICS, aggregate, measure
from sr.metrics.linter import Facts, lint
from tests.unit.sr.metrics.conftest import moving


def clips(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def value(name: str, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    return measure(sr, hr, names=(name,), scale=2)[name]


def test_seed0_adds_up_frames_and_uses_one_window() -> None:
    hr = clips(0, 3, 4, 1, 12, 12).expand(-1, -1, 3, -1, -1)
    sr = clips(1, 3, 4, 1, 12, 12).expand(-1, -1, 3, -1, -1) * 1.3 - 0.1  # Beyond [0, 1]: nothing is clipped.
    psnr, ssim = np.zeros(3), np.zeros(3)
    for n in range(3):
        for t in range(4):
            x, y = (255 * v[n, t, 0].double().numpy() for v in (sr, hr))
            psnr[n] += 10 * math.log10(255**2 / np.mean((x - y) ** 2))
            mx, my = x.mean(), y.mean()
            covariance = np.mean((x - mx) * (y - my))
            numerator = (2 * mx * my + 0.01) * (2 * covariance + 0.03)
            ssim[n] += numerator / ((mx**2 + my**2 + 0.01) * (x.var() + y.var() + 0.03))
    assert np.allclose(value("psnr_seed0", sr, hr), psnr, atol=1e-9)
    assert np.allclose(value("ssim_seed0", sr, hr), ssim, atol=1e-9)


def two_digits() -> torch.Tensor:
    """Six frames like Moving MNIST's: two squares of 28 x 28 on 64 x 64, mean .1307 and deviation .3081 as MNIST."""
    level = 0.1307 + 0.3081**2 / 0.1307  # Of ink, so that ink and ground have both moments.
    share = 0.1307 / level
    frames = torch.zeros(6, 64 * 64)
    ink = round(2 * 28 * 28 * share)
    for t, frame in enumerate(frames):
        frame[torch.randperm(4096, generator=torch.Generator().manual_seed(t))[:ink]] = level
    return frames.reshape(1, 6, 1, 64, 64).expand(-1, -1, 3, -1, -1)


def test_seed0s_83_decibels_are_six_black_pictures() -> None:
    hr = two_digits()
    black = value("psnr_seed0", torch.zeros_like(hr), hr).item()
    assert black / 6 == pytest.approx(13.7, abs=0.05)
    # Published: 83.24 and 83.38; from the training curve 2717 on 0..255 squared, 82.7.
    assert 6 * 10 * math.log10(255**2 / 2717) == pytest.approx(82.7, abs=0.05)
    assert black == pytest.approx(82.7, abs=1.0)


def test_seed0s_whole_attainable_band_is_a_twentieth_of_a_decibel() -> None:
    hr = two_digits()
    # The network ends in a sigmoid and the target goes to 255: ones at the ink are the best it can do.
    best = (hr > 0).float() / 255
    gain = (value("psnr_seed0", best, hr) - value("psnr_seed0", torch.zeros_like(hr), hr)).item() / 6
    assert 0.02 < gain < 0.05
    assert value("ssim_seed0", best, hr).item() < 1e-2


def test_seed0s_table_sets_off_the_linter() -> None:
    hr = two_digits()
    black = value("psnr_seed0", torch.zeros_like(hr), hr).item()
    facts = Facts(
        psnr=(83.242, 83.377), psnr_black=83.25, frames_per_clip=6, output_range=(0, 1), target_range=(0, 255)
    )
    assert [w.rule for w in lint(facts)] == [1, 2, 3]
    assert "13.88 dB each" in lint(facts)[2].message
    assert [w.rule for w in lint(Facts(psnr=(black,), psnr_black=black, frames_per_clip=6))] == [2, 3]


def test_seed2_neither_crops_nor_clips() -> None:
    hr, sr = clips(2, 2, 3, 3, 16, 20), clips(3, 2, 3, 3, 16, 20) * 3 - 1
    mse = [[np.mean((sr[n, t] - hr[n, t]).double().numpy() ** 2) for t in range(3)] for n in range(2)]
    assert np.allclose(value("mse_seed2", sr, hr), np.mean(mse, axis=1), atol=1e-9)
    assert np.allclose(value("psnr_seed2", sr, hr), np.mean(-10 * np.log10(mse), axis=1), atol=1e-9)
    channels = [
        structural_similarity(
            a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )[1][5:-5, 5:-5].mean()
        for a, b in zip(*(v.double().reshape(-1, 16, 20).numpy() for v in (sr, hr)), strict=True)
    ]
    assert np.allclose(value("ssim_seed2", sr, hr), np.mean(np.reshape(channels, (2, 9)), axis=1), atol=1e-9)


def exploding(
    num_frames: int, num_exploded: int, mean_mse: float, mean_psnr: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Single frames, of which a few have blown up, with the given mean MSE and mean PSNR."""
    num_good = num_frames - num_exploded

    def good(bad: float) -> float:
        return (mean_mse * num_frames - bad * num_exploded) / num_good

    def surplus(bad: float) -> float:
        return (
            10 * (num_exploded * math.log10(bad) + num_good * math.log10(good(bad))) / num_frames + mean_psnr
        )

    bad = brentq(surplus, mean_mse, mean_mse * num_frames / num_exploded * (1 - 1e-9), xtol=1e-14, rtol=1e-14)
    errors = torch.tensor([bad] * num_exploded + [good(bad)] * num_good, dtype=torch.float64).sqrt()
    hr = torch.full((num_frames, 1, 3, 11, 11), 0.5, dtype=torch.float64)
    return hr + errors.view(-1, 1, 1, 1, 1), hr


@pytest.mark.parametrize(
    ("mse", "psnr", "of_the_mean"),
    [(0.00214, 27.924, 26.7), (7107.86, 3.074, -38.5), (0.00502, 29.968, 23.0), (0.12397, 16.886, 9.1)],
)
def test_seed2s_mse_and_psnr_go_together_where_a_few_frames_explode(
    mse: float, psnr: float, of_the_mean: float
) -> None:
    sr, hr = exploding(200, 2, mse, psnr)
    values = measure(sr, hr, names=("mse_seed2", "psnr_seed2"), scale=2)
    found = aggregate(values["psnr_seed2"], "psnr_seed2")
    assert aggregate(values["mse_seed2"], "mse_seed2").mean == pytest.approx(mse, rel=1e-4)
    assert found.mean == pytest.approx(psnr, abs=1e-3)
    assert found.of_the_mean == pytest.approx(of_the_mean, abs=0.06)
    fires = any(w.rule == 4 for w in lint(Facts(psnr=tuple(values["psnr_seed2"].tolist()))))
    assert fires == (psnr - of_the_mean > 3)


def test_seed4_means_psnr_per_picture_on_0_to_255() -> None:
    hr, sr = clips(4, 2, 2, 3, 14, 14), clips(5, 2, 2, 3, 14, 14) * 1.2
    a, b = ((v.double().clamp(0, 1) * 255).round().numpy() for v in (sr, hr))
    mse = ((a - b) ** 2).mean(axis=(2, 3, 4))
    assert np.allclose(value("mse_seed4", sr, hr), mse.mean(axis=1), atol=1e-9)
    assert np.allclose(value("psnr_seed4", sr, hr), (10 * np.log10(255**2 / mse)).mean(axis=1), atol=1e-9)


def sharpness(rgb: np.ndarray) -> float:
    """Of (3, H, W) on 0..1, by numpy's own gradient."""
    grey = 16 + np.tensordot([65.481, 128.553, 24.966], rgb, axes=1)
    return float(np.mean(np.hypot(*np.gradient(grey))))


def test_seed4s_sharpness_is_numpys_gradient_and_positive_where_sr_is_smoother() -> None:
    hr = moving(48, frames=1)
    blurred = torch.nn.functional.avg_pool2d(hr[0], 3, stride=1, padding=1, count_include_pad=False)[None]
    sharpened = (2 * hr - blurred).clamp(0, 1)
    for sr, sign in ((blurred, 1), (sharpened, -1)):
        a, b = ((v[0, 0].double() * 255).round().numpy() / 255 for v in (sr, hr))
        difference = sharpness(b) - sharpness(a)
        assert value("sharpness_levels_seed4", sr, hr).item() == pytest.approx(difference, abs=1e-9)
        assert value("sharpness_seed4", sr, hr).item() == pytest.approx(difference / sharpness(b), abs=1e-9)
        assert difference * sign > 0
    assert METRICS["sharpness_seed4"].zero_is_best


def test_sharpness_of_a_flat_target_is_undefined_and_not_counted() -> None:
    flat = torch.full((2, 1, 3, 8, 8), 0.5)
    flat[1] = moving(8, frames=1)[0]
    found = aggregate(value("sharpness_seed4", flat, flat), "sharpness_seed4")
    assert (found.n, found.num_undefined, found.mean) == (1, 1, 0.0)
