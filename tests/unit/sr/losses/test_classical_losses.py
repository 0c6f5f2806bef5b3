"""The classical losses by numbers; what holds for every loss is in tests/unit/sr/checks."""

import numpy as np
import pytest
import skimage
import torch
from skimage.metrics import structural_similarity

from sr.losses import LOSSES
from sr.resize import bicubic, upscale_bicubic


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Bicubic reconstructions and originals of four crops of a photograph, shape (4, 1, 3, 48, 48)."""
    image = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    hr = torch.stack([image[:, y : y + 48, 200:248] for y in (20, 90, 160, 300)])[:, None]
    return upscale_bicubic(bicubic(hr, height=24, width=24), 2).clamp(0, 1), hr


def test_known_values() -> None:
    hr = torch.zeros(1, 3, 16, 16)
    sr = torch.full_like(hr, 0.2)
    assert LOSSES["l1"]()(sr, hr).item() == pytest.approx(0.2)
    assert LOSSES["mse"]()(sr, hr).item() == pytest.approx(0.04)
    assert LOSSES["charbonnier"](epsilon=0.15)(sr, hr).item() == pytest.approx(0.25)


def test_ssim_loss_is_one_minus_scikit_images_ssim(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    sr, hr = (tensor[0, 0].double().permute(1, 2, 0).numpy() for tensor in pictures)
    full = structural_similarity(
        hr,
        sr,
        data_range=1,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1]
    ours = LOSSES["ssim"]()(pictures[0][:1].double(), pictures[1][:1].double()).item()
    assert ours == pytest.approx(1 - np.mean(full[5:-5, 5:-5]), abs=1e-6)
