"""The contract of every loss in the table, and the criterion that weighs them."""

import numpy as np
import pytest
import skimage
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity

from sr.losses import LOSSES
from sr.losses.criterion import Criterion
from sr.resize import bicubic, upscale_bicubic


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Bicubic reconstructions and originals of four crops of a photograph, shape (4, 1, 3, 48, 48)."""
    image = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    hr = torch.stack([image[:, y : y + 48, 200:248] for y in (20, 90, 160, 300)])[:, None]
    return upscale_bicubic(bicubic(hr, height=24, width=24), 2).clamp(0, 1), hr


@pytest.mark.parametrize("name", sorted(LOSSES))
class TestEveryLoss:
    def test_is_a_finite_scalar_that_is_least_at_identity(
        self, name: str, pictures: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        sr, hr = pictures
        loss = LOSSES[name]()
        value, least = loss(sr, hr), loss(hr, hr)
        assert value.shape == ()
        assert torch.isfinite(value)
        assert least <= 0.002
        assert value > least

    def test_rises_with_blur_and_noise(self, name: str, pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
        _, hr = pictures
        loss = LOSSES[name]()
        noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
        assert loss(hr + 0.02 * noise, hr) < loss(hr + 0.08 * noise, hr)
        slight, strong = (upscale_bicubic(bicubic(hr, height=48 // s, width=48 // s), s) for s in (2, 4))
        assert loss(slight, hr) < loss(strong, hr)

    def test_gradient_agrees_with_finite_differences(self, name: str) -> None:
        generator = torch.Generator().manual_seed(1)
        hr = torch.rand(1, 1, 1, 13, 13, generator=generator, dtype=torch.float64)
        sr = torch.rand(1, 1, 1, 13, 13, generator=generator, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: LOSSES[name]()(x, hr), (sr,))

    def test_a_gradient_step_lowers_it(self, name: str, pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
        sr, hr = pictures
        loss = LOSSES[name]()
        output = sr.clone().requires_grad_()
        before = loss(output, hr)
        (gradient,) = torch.autograd.grad(before, output)
        assert loss(sr - 1e-3 * gradient / gradient.abs().max(), hr) < before

    def test_is_a_mean_over_the_batch(self, name: str, pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
        sr, hr = pictures
        loss = LOSSES[name]()
        parts = torch.stack([loss(sr[i : i + 1], hr[i : i + 1]) for i in range(len(sr))])
        assert loss(sr, hr).item() == pytest.approx(parts.mean().item(), rel=1e-5)

    def test_takes_pictures_and_clips_alike(
        self, name: str, pictures: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        sr, hr = pictures
        loss = LOSSES[name]()
        assert loss(sr, hr).item() == pytest.approx(loss(sr[:, 0], hr[:, 0]).item(), rel=1e-6)

    def test_has_a_line_that_says_what_it_is(self, name: str) -> None:
        assert len((LOSSES[name].__doc__ or "").splitlines()[0]) > 20


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


def test_calibration_gives_every_term_the_gradient_size_of_l1(
    pictures: tuple[torch.Tensor, torch.Tensor],
) -> None:
    sr, hr = pictures
    criterion = Criterion({name: LOSSES[name]() for name in LOSSES}, [1.0] * len(LOSSES))
    criterion.calibrate(sr, hr)
    output = sr.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.l1_loss(output, hr), output)
    for name in LOSSES:
        assert criterion.gradient_norm(name, sr, hr) == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_calibration_refuses_a_term_without_gradient(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="'mse': gradient RMS at the bicubic output is 0"):
        Criterion({"mse": LOSSES["mse"]()}, [1.0]).calibrate(pictures[1], pictures[1])


def test_the_sum_is_what_its_accounts_say(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    sr, hr = pictures
    criterion = Criterion({"l1": LOSSES["l1"](), "ssim": LOSSES["ssim"]()}, [0.8, 0.2])
    total, raw = criterion(sr, hr)
    accounts = criterion.account(sr, hr)
    assert total.item() == pytest.approx(0.8 * raw["l1"].item() + 0.2 * raw["ssim"].item(), rel=1e-6)
    assert total.item() == pytest.approx(sum(account.weighted for account in accounts.values()), rel=1e-6)
    assert sum(account.gradient_share for account in accounts.values()) == pytest.approx(1)
    assert accounts["l1"].raw == pytest.approx(raw["l1"].item())


def test_terms_are_computed_in_float32_under_autocast(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    sr, hr = pictures
    criterion = Criterion({"mse": LOSSES["mse"]()}, [1.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = criterion(sr.bfloat16(), hr)
    assert total.dtype == torch.float32
