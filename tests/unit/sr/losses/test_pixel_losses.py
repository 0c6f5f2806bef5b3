"""Huber, MS-SSIM, gradient losses and LR consistency against independent computations, and at their awkward points."""

from __future__ import annotations

import numpy as np
import piq
import pytest
import scipy.ndimage
import skimage
import torch
import torch.nn.functional as F

from sr.losses import LOSSES
from sr.losses.ms_ssim import ms_ssim
from sr.resize import bicubic, upscale_bicubic


def crops(size: int, *, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Bicubic reconstructions and originals of crops of a photograph, float64, shape (count, 3, size, size)."""
    image = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).double() / 255
    hr = torch.stack([image[:, y : y + size, 150 : 150 + size] for y in range(10, 10 + 90 * count, 90)])
    small = bicubic(hr, height=size // 2, width=size // 2)
    return bicubic(small, height=size, width=size).double().clamp(0, 1), hr


def random_pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    sr, hr = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    return sr.requires_grad_(), hr


def test_huber_is_quadratic_to_delta_and_straight_beyond() -> None:
    hr = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    sr = torch.tensor([0.004, -0.01, 0.05, -0.3], dtype=torch.float64).view_as(hr)
    expected = np.mean([0.004**2 / 2, 0.01**2 / 2, 0.01 * (0.05 - 0.005), 0.01 * (0.3 - 0.005)])
    assert LOSSES["huber"]()(sr, hr).item() == pytest.approx(expected, rel=1e-12)
    wide = LOSSES["huber"](delta=1.0)(sr, hr).item()
    assert wide == pytest.approx(sr.square().mean().item() / 2, rel=1e-12)


class TestMsSsim:
    def test_is_one_minus_piqs(self) -> None:
        sr, hr = crops(176)
        for distorted in (sr, (hr + 0.1 * torch.randn_like(hr)).clamp(0, 1)):
            expected = 1 - piq.multi_scale_ssim(distorted, hr, data_range=1.0).item()
            assert LOSSES["ms_ssim"]()(distorted, hr).item() == pytest.approx(expected, abs=1e-6)

    def test_fewer_scales_use_the_first_weights_divided_by_their_sum(self) -> None:
        sr, hr = crops(64)
        weights = torch.tensor([0.0448, 0.2856, 0.3001], dtype=torch.float64)
        # piq reads the number of scales off its weights and divides by their sum.
        expected = 1 - piq.multi_scale_ssim(sr, hr, data_range=1.0, scale_weights=weights).item()
        assert LOSSES["ms_ssim"](scales=3)(sr, hr).item() == pytest.approx(expected, abs=1e-6)

    def test_one_scale_is_ssim(self) -> None:
        # On single channels of single pictures, where the mean over the picture is the only one.
        sr, hr = (pictures[:1, :1] for pictures in crops(48))
        assert LOSSES["ms_ssim"](scales=1)(sr, hr).item() == pytest.approx(
            LOSSES["ssim"]()(sr, hr).item(), abs=1e-12
        )

    @pytest.mark.parametrize(("size", "scales"), [(176, 5), (88, 4), (44, 3), (22, 2), (11, 1)])
    def test_sizes_are_as_documented(self, size: int, scales: int) -> None:
        sr, hr = crops(size, count=1)
        assert torch.isfinite(LOSSES["ms_ssim"](scales=scales)(sr, hr))
        cut = (sr[..., :-1], hr[..., :-1])
        remedy = (
            f"set ms_ssim.scales to {scales - 1} or use larger crops" if scales > 1 else "; use larger crops"
        )
        with pytest.raises(
            ValueError, match=rf"at least {size} x {size} pixels, got {size - 1} x {size}.*{remedy}"
        ):
            LOSSES["ms_ssim"](scales=scales)(*cut)

    @pytest.mark.parametrize("name", ["ms_ssim", "ms_ssim_l1"])
    @pytest.mark.parametrize("scales", [0, 6])
    def test_refuses_other_numbers_of_scales(self, name: str, scales: int) -> None:
        with pytest.raises(ValueError, match=rf"{name}.scales: expected 1 to 5, got {scales}"):
            LOSSES[name](scales=scales)

    @pytest.mark.parametrize("name", ["ms_ssim", "ms_ssim_l1"])
    def test_gradient_agrees_with_finite_differences(self, name: str) -> None:
        sr, hr = crops(26, count=1)
        near = sr[:, :1].clone().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x: LOSSES[name](scales=2)(x, hr[:, :1]), (near,), fast_mode=True
        )

    def test_the_opposite_picture_has_a_finite_gradient(self) -> None:
        _, hr = crops(48)
        sr = (1 - hr).requires_grad_()
        assert ms_ssim(sr, hr, scales=3).min() > 0
        (gradient,) = torch.autograd.grad(LOSSES["ms_ssim"](scales=3)(sr, hr), sr)
        assert torch.isfinite(gradient).all()

    def test_l1_of_the_mix_has_the_weights_of_the_coarsest_window(self) -> None:
        sr, hr = crops(44, count=1)
        # 44 pixels at 3 scales leave one window: its weights, each standing on 4 x 4 pixels, are all there is.
        axis = scipy.ndimage.gaussian_filter1d(np.eye(11)[5], 1.5, truncate=5 / 1.5, mode="constant")
        axis = np.repeat(axis / axis.sum() / 4, 4)
        weighted = np.einsum("nchw,h,w->", (sr - hr).abs().numpy(), axis, axis) / 3
        expected = 0.84 * LOSSES["ms_ssim"](scales=3)(sr, hr).item() + 0.16 * weighted
        assert LOSSES["ms_ssim_l1"](scales=3)(sr, hr).item() == pytest.approx(expected, rel=1e-9)

    def test_a_constant_difference_counts_as_l1_in_the_mix(self) -> None:
        hr = torch.full((1, 3, 176, 176), 0.5, dtype=torch.float64)
        assert LOSSES["ms_ssim_l1"](alpha=0.0)(hr + 0.1, hr).item() == pytest.approx(0.1)


class TestGradientLosses:
    @pytest.mark.parametrize("alpha", [1.0, 2.0])
    def test_gdl_is_a_loop_over_neighbours(self, alpha: float) -> None:
        sr, hr = (pictures.detach().numpy()[0, 0] for pictures in random_pair(1, 1, 6, 5))
        down = [
            abs(abs(sr[i, j] - sr[i - 1, j]) - abs(hr[i, j] - hr[i - 1, j])) ** alpha
            for i in range(1, 6)
            for j in range(5)
        ]
        across = [
            abs(abs(sr[i, j - 1] - sr[i, j]) - abs(hr[i, j - 1] - hr[i, j])) ** alpha
            for i in range(6)
            for j in range(1, 5)
        ]
        ours = LOSSES["gdl"](alpha=alpha)(torch.from_numpy(sr)[None, None], torch.from_numpy(hr)[None, None])
        assert ours.item() == pytest.approx(np.mean(down) + np.mean(across), rel=1e-12)

    def test_sobel_is_scipys(self) -> None:
        sr, hr = crops(24, count=1)
        expected = 0.0
        for axis in (-1, -2):
            by_channel = [
                scipy.ndimage.sobel(b, axis) - scipy.ndimage.sobel(a, axis)
                for a, b in zip(sr[0].numpy(), hr[0].numpy(), strict=True)
            ]
            expected += np.abs(np.stack(by_channel)[:, 1:-1, 1:-1]).mean() / 8
        assert LOSSES["sobel"]()(sr, hr).item() == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("name", ["gdl", "sobel"])
    def test_are_blind_to_level_and_tell_which_way_an_edge_goes(self, name: str) -> None:
        _, hr = crops(24)
        assert LOSSES[name]()(hr + 0.2, hr).item() == pytest.approx(0, abs=1e-12)
        # The negative has the same size of each step, and the opposite sign.
        assert (LOSSES[name]()(1 - hr, hr).item() > 1e-3) == (name == "sobel")

    def test_tv_of_a_ramp_is_its_slopes(self) -> None:
        ramp = 0.03 * torch.arange(9.0).view(-1, 1) + 0.04 * torch.arange(7.0)
        sr = ramp.double().expand(2, 3, 9, 7)
        anything = torch.rand(2, 3, 9, 7, dtype=torch.float64)
        assert LOSSES["tv"]()(sr, anything).item() == pytest.approx(0.07, rel=1e-6)
        assert LOSSES["tv"](isotropic=True)(sr, anything).item() == pytest.approx(
            0.049, rel=1e-3
        )  # 0.05 - 0.001

    def test_tv_is_piqs(self) -> None:
        sr, hr = crops(24)
        # piq's "l1" sums both directions over each picture.
        pairs = 24 * 23 * 3
        expected = piq.total_variation(sr, norm_type="l1").item() / pairs
        assert LOSSES["tv"]()(sr, hr).item() == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("isotropic", [False, True])
    def test_tv_has_a_gradient_of_the_right_size_and_none_where_flat(self, isotropic: bool) -> None:
        sr, hr = random_pair(1, 1, 2, 5, 6)
        loss = LOSSES["tv"](isotropic=isotropic)
        assert torch.autograd.gradcheck(lambda x: loss(x, hr), (sr,))
        flat = torch.full((1, 1, 8, 8), 0.3, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(flat, flat.detach()), flat)
        assert torch.equal(gradient, torch.zeros_like(flat))


class TestLrConsistency:
    def test_is_the_l1_of_bicubic_reduction(self) -> None:
        sr, hr = (pictures.float() for pictures in crops(48))
        lr = bicubic(hr, height=12, width=12)
        expected = F.l1_loss(bicubic(sr, height=12, width=12), lr).item()
        assert LOSSES["lr_consistency"]()(sr, hr, lr=lr).item() == pytest.approx(expected, rel=1e-4)

    def test_is_zero_for_every_picture_that_shrinks_to_the_input(self) -> None:
        _, hr = crops(48)
        loss = LOSSES["lr_consistency"]()
        lr = bicubic(hr, height=24, width=24).double()
        assert loss(hr, hr, lr=lr).item() == pytest.approx(0, abs=1e-6)
        colour_shifted = hr + torch.tensor([0.05, 0, 0], dtype=torch.float64).view(3, 1, 1)
        assert loss(colour_shifted, hr, lr=lr).item() == pytest.approx(0.05 / 3, rel=1e-4)

    def test_of_a_longer_input_takes_the_middle_frames(self) -> None:
        _, hr = crops(16)
        lr = torch.rand(2, 7, 3, 8, 8, dtype=torch.float64)
        loss = LOSSES["lr_consistency"]()
        middle = loss(hr, hr, lr=lr[:, 3]).item()
        assert loss(hr[:, None], hr[:, None], lr=lr).item() == pytest.approx(middle, rel=1e-12)
        assert loss(hr, hr, lr=lr).item() == pytest.approx(middle, rel=1e-12)
        clip = hr[:, None].expand(-1, 3, -1, -1, -1)
        expected = loss(clip, clip, lr=lr[:, 2:5]).item()
        assert loss(clip, clip, lr=lr).item() == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((2, 4, 3, 8, 8), "1 output and 4 input frames have no common middle"),
            ((2, 3, 7, 8), "16 x 16 pixels is no whole multiple of the input's 8 x 7"),
            ((2, 3, 10, 10), "no whole multiple of the input's 10 x 10"),
        ],
    )
    def test_refuses_an_input_that_does_not_fit(self, shape: tuple[int, ...], message: str) -> None:
        _, hr = crops(16)
        with pytest.raises(ValueError, match=message):
            LOSSES["lr_consistency"]()(hr, hr, lr=torch.rand(*shape, dtype=torch.float64))

    def test_gradient_agrees_with_finite_differences(self) -> None:
        sr, hr = random_pair(1, 1, 12, 10)
        lr = torch.rand(1, 1, 6, 5, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda x: LOSSES["lr_consistency"]()(x, hr, lr=lr), (sr,))

    def test_a_batch_is_the_mean_of_its_samples(self) -> None:
        sr, hr = crops(16)
        lr = upscale_bicubic(hr, 1)[..., ::2, ::2].double()
        loss = LOSSES["lr_consistency"]()
        parts = [loss(sr[i : i + 1], hr[i : i + 1], lr=lr[i : i + 1]).item() for i in range(2)]
        assert loss(sr, hr, lr=lr).item() == pytest.approx(np.mean(parts), rel=1e-9)
