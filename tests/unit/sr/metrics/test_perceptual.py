"""Metrics that imitate an eye against independent sources, on a photograph."""

import numpy as np
import piq
import pytest
import torch
from scipy import ndimage
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    visual_information_fidelity,
)

from sr import hvs
from sr.losses.lpips import Lpips
from sr.metrics import luma, measure, perceptual, to_8bit
from sr.resize import bicubic, upscale_bicubic
from tests.unit.sr.metrics.conftest import moving


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Bicubic x4 and the photograph, as an evaluator has them; (1, 3, 184, 184)."""
    hr = moving(184, frames=1)[0]
    return to_8bit(upscale_bicubic(bicubic(hr, height=46, width=46), 4)), to_8bit(hr)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("gmsd", piq.gmsd), ("haarpsi", piq.haarpsi), ("mdsi", piq.mdsi), ("vif", piq.vif_p), ("dss", piq.dss)],
)
def test_metrics_are_piqs_on_the_pictures_as_measured(name, reference, pair) -> None:
    sr, hr = (x[..., 4:-4, 4:-4] for x in pair)
    ours = measure(pair[0][None], pair[1][None], names=(name,), scale=4)[name].item()
    assert ours == pytest.approx(reference(sr, hr, data_range=1.0).item(), abs=1e-12)


def test_gmsd_is_a_loop_over_the_paper(pair) -> None:
    sr, hr = (
        ndimage.uniform_filter((x[0] * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).numpy(), 2)[
            1::2, 1::2
        ]
        for x in pair
    )
    prewitt = np.array([[1, 0, -1]] * 3) / 3

    def gradient(x: np.ndarray) -> np.ndarray:
        return np.hypot(*(ndimage.convolve(x, k, mode="constant") for k in (prewitt, prewitt.T)))

    a, b, c = gradient(sr), gradient(hr), 170 / 255**2
    similarity = (2 * a * b + c) / (a**2 + b**2 + c)
    ours = perceptual.gmsd(*pair).item()
    assert ours == pytest.approx(similarity.std(), abs=1e-4)


def test_ms_ssim_is_torchmetrics(pair) -> None:
    sr, hr = (luma(x)[:, None] for x in pair)
    theirs = multiscale_structural_similarity_index_measure(
        sr, hr, data_range=255.0, kernel_size=11, sigma=1.5
    )
    # Theirs cuts the border of each scale a little differently.
    assert perceptual.ms_ssim(*pair).item() == pytest.approx(theirs.item(), abs=2e-3)


def test_vif_is_torchmetrics_on_the_same_luma(pair) -> None:
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    sr, hr = ((x * weights).sum(dim=1, keepdim=True) * 255 for x in pair)
    theirs = visual_information_fidelity(sr, hr, sigma_n_sq=2.0)
    assert perceptual.vif(*pair).item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("name", ["psnr_hvs", "psnr_hvs_m"])
def test_psnr_hvs_is_measured_on_luma_of_0_to_255(name, pair) -> None:
    sr, hr = (x[0].permute(1, 2, 0).numpy() @ [65.481, 128.553, 24.966] + 16 for x in pair)
    on_luma = getattr(hvs, name)(*(torch.from_numpy(x)[None, None] for x in (sr, hr)))
    assert getattr(perceptual, name)(*pair).item() == pytest.approx(on_luma.item(), abs=1e-9)
    assert 20 < on_luma.item() < 60


def test_dss_hardly_sees_the_mean_level_as_its_convention_says(pair) -> None:
    _, hr = pair
    calm = hr * 0.8 + 0.05
    lighter, blurred = calm + 0.1, to_8bit(upscale_bicubic(bicubic(calm, height=46, width=46), 4))
    assert perceptual.dss(lighter, calm).item() > 0.95 > perceptual.dss(blurred, calm).item()


@pytest.mark.usefixtures("random_networks")
def test_lpips_is_that_of_the_network_and_the_network_is_built_once(pair) -> None:
    sr, hr = pair
    expected = Lpips(net="alex", weights="random").per_picture(sr.float(), hr.float())
    assert perceptual.lpips(sr, hr).item() == pytest.approx(expected.item(), rel=1e-5)
    assert perceptual._lpips() is perceptual._lpips()
