"""Metrics against scikit-image and piq, on a real photograph, to 1e-6."""

import numpy as np
import pytest
import skimage
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sr.metrics import METRICS, PSNR_CAP_DB, crop_border, luma, measure, to_8bit
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


def test_gmsd_and_haarpsi_rank_blur_below_identity(pair: tuple[np.ndarray, np.ndarray]) -> None:
    names = ("gmsd", "haarpsi")
    same = measure(as_clip(pair[1]), as_clip(pair[1]), names=names, scale=SCALE)
    blurred = measure(as_clip(pair[0]), as_clip(pair[1]), names=names, scale=SCALE)
    assert same["gmsd"].item() == pytest.approx(0, abs=1e-6)
    assert same["haarpsi"].item() == pytest.approx(1, abs=1e-6)
    assert blurred["gmsd"] > same["gmsd"]
    assert blurred["haarpsi"] < same["haarpsi"]


def test_identical_pictures_have_a_finite_psnr(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert (
        measure(as_clip(pair[1]), as_clip(pair[1]), names=("psnr_y",), scale=2)["psnr_y"].item()
        == PSNR_CAP_DB
    )


@pytest.mark.parametrize("name", sorted(METRICS))
def test_each_clip_is_measured_by_itself(name: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    sr, hr = as_clip(pair[0]), as_clip(pair[1])
    worse = (sr * 0.9).clamp(0, 1)
    both = measure(torch.cat([sr, worse]), torch.cat([hr, hr]), names=(name,), scale=SCALE)[name]
    alone = measure(worse, hr, names=(name,), scale=SCALE)[name]
    assert both.shape == (2,)
    assert both[1].item() == pytest.approx(alone.item(), abs=1e-9)
    assert (both[0] > both[1]) == METRICS[name].higher_is_better


@pytest.mark.parametrize("name", sorted(METRICS))
def test_what_lies_in_the_border_or_below_half_a_level_does_not_count(
    name: str, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    sr, hr = as_clip(pair[0]), as_clip(pair[1])
    altered = sr + 0.4 / 255
    altered[..., :SCALE, :] = 0
    assert torch.equal(
        measure(altered, hr, names=(name,), scale=SCALE)[name],
        measure(sr, hr, names=(name,), scale=SCALE)[name],
    )


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="must agree"):
        measure(torch.rand(1, 1, 3, 32, 32), torch.rand(1, 1, 3, 32, 34), names=("psnr_y",), scale=2)


def test_crop_border_cuts_each_side() -> None:
    assert crop_border(torch.zeros(1, 3, 20, 30), 4).shape == (1, 3, 12, 22)
