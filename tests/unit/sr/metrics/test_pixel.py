"""Differences of pixels against scikit-image and torchmetrics, on a real photograph, to 1e-6."""

import numpy as np
import pytest
import skimage
import torch
from skimage.color import rgb2lab, rgb2ycbcr
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr

from sr.metrics import PSNR_CAP_DB, crop_border, luma, measure, to_8bit
from sr.resize import bicubic, upscale_bicubic
from sr.similarity import ssim_map

SCALE = 2


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A photograph and its bicubic x2 reconstruction, uint8 RGB."""
    hr = skimage.data.chelsea()[:300, :450]
    tensor = torch.from_numpy(hr).permute(2, 0, 1).float() / 255
    sr = upscale_bicubic(bicubic(tensor, height=150, width=225), 2)
    return to_8bit(sr).mul(255).round().byte().permute(1, 2, 0).numpy(), hr


def as_clip(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None, None].float() / 255


def cropped(image: np.ndarray) -> np.ndarray:
    return image[SCALE:-SCALE, SCALE:-SCALE]


def test_luma_is_scikit_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    theirs = rgb2ycbcr(pair[1])[..., 0]
    ours = luma(to_8bit(as_clip(pair[1])))[0, 0].numpy()
    assert np.abs(ours - theirs).max() < 1e-6


def test_psnr_y_is_scikit_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    sr, hr = (rgb2ycbcr(cropped(image))[..., 0] for image in pair)
    ours = measure(as_clip(pair[0]), as_clip(pair[1]), names=("psnr_y",), scale=SCALE)["psnr_y"].item()
    assert ours == pytest.approx(peak_signal_noise_ratio(hr, sr, data_range=255), abs=1e-6)


def test_psnr_rgb_is_scikit_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ours = measure(as_clip(pair[0]), as_clip(pair[1]), names=("psnr_rgb",), scale=SCALE)["psnr_rgb"].item()
    assert ours == pytest.approx(peak_signal_noise_ratio(cropped(pair[1]), cropped(pair[0])), abs=1e-6)


def test_ssim_y_is_scikit_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    sr, hr = (rgb2ycbcr(cropped(image))[..., 0] for image in pair)
    full = structural_similarity(
        hr, sr, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )[1]
    # scikit-image averages over a wider margin than the 5 pixels that the window really needs.
    theirs = full[5:-5, 5:-5].mean()
    ours = measure(as_clip(pair[0]), as_clip(pair[1]), names=("ssim_y",), scale=SCALE)["ssim_y"].item()
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_ssim_of_large_and_small_pictures_is_computed_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 1, 200, 60, generator=generator, dtype=torch.float64) for _ in range(2))
    by_convolution = ssim_map(a, b)
    by_matrices = ssim_map(a[..., :150, :], b[..., :150, :])
    assert torch.allclose(by_convolution[..., :140, :], by_matrices, atol=1e-12)


def test_crop_border_cuts_each_side() -> None:
    assert crop_border(torch.zeros(1, 3, 20, 30), 4).shape == (1, 3, 12, 22)


def value(name: str, sr: np.ndarray, hr: np.ndarray) -> float:
    return measure(as_clip(sr), as_clip(hr), names=(name,), scale=SCALE)[name].item()


def test_identical_pictures_have_a_finite_psnr(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert value("psnr_y", pair[1], pair[1]) == PSNR_CAP_DB


def test_mse_is_scikit_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    sr, hr = (cropped(image) for image in pair)
    assert value("mse_rgb", *pair) == pytest.approx(mean_squared_error(hr, sr), abs=1e-6)
    on_luma = mean_squared_error(rgb2ycbcr(hr)[..., 0], rgb2ycbcr(sr)[..., 0])
    assert value("mse_y", *pair) == pytest.approx(on_luma, abs=1e-6)


def test_ssim_rgb_is_the_mean_of_scikit_images_channels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    sr, hr = (cropped(image) for image in pair)
    channels = [
        structural_similarity(
            hr[..., c], sr[..., c], gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )[1][5:-5, 5:-5].mean()
        for c in range(3)
    ]
    assert value("ssim_rgb", *pair) == pytest.approx(np.mean(channels), abs=1e-6)


def test_psnr_of_several_clips_is_torchmetrics(pair: tuple[np.ndarray, np.ndarray]) -> None:
    sr, hr = as_clip(pair[0]), as_clip(pair[1])
    darker = (sr - 0.1).clamp(0, 1)
    ours = measure(torch.cat([sr, darker]), torch.cat([hr, hr]), names=("psnr_rgb",), scale=SCALE)["psnr_rgb"]
    for mine, picture in zip(ours.tolist(), (sr, darker), strict=True):
        theirs = torchmetrics_psnr(
            crop_border(to_8bit(picture), SCALE), crop_border(to_8bit(hr), SCALE), data_range=1.0
        )
        assert mine == pytest.approx(theirs.item(), abs=1e-5)


def test_colour_shift_is_the_length_of_scikit_images_mean_ab_difference(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    tinted = pair[1].copy()
    tinted[..., 2] = tinted[..., 2] // 2
    offset = (rgb2lab(cropped(tinted)) - rgb2lab(cropped(pair[1])))[..., 1:].mean(axis=(0, 1))
    assert value("colour_shift", tinted, pair[1]) == pytest.approx(np.linalg.norm(offset), abs=1e-3)
    assert np.linalg.norm(offset) > 5


def test_colour_shift_sees_a_cast_and_not_noise(pair: tuple[np.ndarray, np.ndarray]) -> None:
    hr = pair[1].astype(float)
    noise = np.random.default_rng(0).normal(0, 8, hr.shape)
    noisy, cast = hr + noise, hr + np.array([8, 0, -8])
    shifts = [value("colour_shift", x.clip(0, 255).astype(np.uint8), pair[1]) for x in (noisy, cast)]
    assert shifts[1] > 8 * shifts[0]
