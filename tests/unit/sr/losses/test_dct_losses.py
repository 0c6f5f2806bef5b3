"""The losses on 8 x 8 DCT blocks against scipy, piq and plain loops, and where they are awkward: black, flat, small."""

from __future__ import annotations

import io

import numpy as np
import piq
import pytest
import scipy.fft
import skimage
import torch
from PIL import Image

from sr import hvs
from sr.block_dct import block_dct, dct_basis
from sr.losses import LOSSES
from sr.losses.dct import thresholds
from sr.losses.luma import luma_255
from sr.resize import bicubic

BLOCK_LOSSES = ("dct_l1", "dct_csf", "watson_dct", "psnr_hvs_m", "dss", "dct_jnd")


def crops(height: int, width: int, *, count: int = 2) -> torch.Tensor:
    """Crops of a photograph, float64, shape (count, 3, height, width)."""
    image = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).double() / 255
    return torch.stack([image[:, y : y + height, 150 : 150 + width] for y in range(10, 10 + 90 * count, 90)])


def noisy(hr: torch.Tensor, sigma: float, *, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return hr + sigma * noise.to(hr.dtype)


def blurred(hr: torch.Tensor) -> torch.Tensor:
    height, width = hr.shape[-2:]
    return bicubic(bicubic(hr, height=height // 2, width=width // 2), height=height, width=width).to(hr.dtype)


def dct_blocks(luma: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Blocks of one picture and their DCT by scipy, in rows."""
    rows, columns = luma.shape[0] // 8, luma.shape[1] // 8
    blocks = [luma[8 * i : 8 * i + 8, 8 * j : 8 * j + 8] for i in range(rows) for j in range(columns)]
    return [(block, scipy.fft.dctn(block, norm="ortho")) for block in blocks]


def luma_arrays(*pictures: torch.Tensor) -> list[np.ndarray]:
    return [luma_255(picture).numpy()[0, 0] for picture in pictures]


class TestTransform:
    def test_is_scipys(self) -> None:
        luma = luma_255(crops(24, 21))
        for picture, coefficients in zip(luma.numpy()[:, 0], block_dct(luma).numpy(), strict=True):
            np.testing.assert_allclose(coefficients, [dct for _, dct in dct_blocks(picture)], atol=1e-9)

    def test_basis_is_orthonormal(self) -> None:
        torch.testing.assert_close(dct_basis() @ dct_basis().T, torch.eye(8, dtype=torch.float64))

    def test_stride_makes_blocks_overlap(self) -> None:
        luma = luma_255(crops(17, 20, count=1))
        overlapping = block_dct(luma, stride=4)[0].reshape(3, 4, 8, 8)
        expected = scipy.fft.dctn(luma.numpy()[0, 0, 8:16, 12:20], norm="ortho")
        np.testing.assert_allclose(overlapping[2, 3].numpy(), expected, atol=1e-9)

    def test_keeps_the_squared_error(self) -> None:
        hr = crops(24, 32)
        sr = noisy(hr, 0.05)
        in_pixels = (luma_255(sr) - luma_255(hr)).square().mean()
        in_coefficients = (block_dct(luma_255(sr)) - block_dct(luma_255(hr))).square().mean()
        torch.testing.assert_close(in_coefficients, in_pixels)

    def test_luma_is_full_range(self) -> None:
        colours = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])[:, :, None, None]
        assert luma_255(colours).flatten().tolist() == pytest.approx([255, 76.245, 149.685, 29.07])
        with pytest.raises(ValueError, match="expected RGB or one channel, got 2 channels"):
            luma_255(torch.rand(1, 2, 8, 8))


class TestPlain:
    def test_dct_l1_and_csf_are_means_over_scipys_coefficients(self) -> None:
        hr = crops(16, 24, count=1)
        sr = noisy(hr, 0.05)
        a, b = (np.stack([dct for _, dct in dct_blocks(luma)]) for luma in luma_arrays(sr, hr))
        table = thresholds(hr.device, hr.dtype).numpy()
        assert LOSSES["dct_l1"]()(sr, hr).item() == pytest.approx(np.abs(a - b).mean(), rel=1e-9)
        assert LOSSES["dct_csf"]()(sr, hr).item() == pytest.approx((np.abs(a - b) / table).mean(), rel=1e-9)

    def test_table_of_thresholds(self) -> None:
        table = thresholds(torch.device("cpu"), torch.float64)
        assert (table - table.T).abs().max() < 1e-12
        # Least at the lowest AC frequencies, rising from the third on.
        assert table.flatten().argmin() == 1
        assert (table[2:, 2:].diff(dim=0) > 0).all()
        assert table.sum().item() == pytest.approx(358.88, abs=0.005)  # Typing errors.


def watson_by_loop(sr: torch.Tensor, hr: torch.Tensor, *, p: float, floor: float) -> float:
    table = thresholds(torch.device("cpu"), torch.float64).numpy()
    output, target = (dct_blocks(luma) for luma in luma_arrays(sr, hr))
    mean = np.mean([dct[0, 0] for _, dct in target])
    powers = []
    for (_, b), (_, a) in zip(output, target, strict=True):
        adapted = table * (max(a[0, 0], floor * mean) / mean) ** 0.649
        powers.append(np.abs((b - a) / np.maximum(adapted, np.abs(a) ** 0.7 * adapted**0.3)) ** p)
    return float(np.mean(powers) ** (1 / p))


class TestWatson:
    @pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
    def test_is_the_loop(self, p: float) -> None:
        hr = crops(24, 32, count=1)
        sr = noisy(hr, 0.05)
        exact = watson_by_loop(sr, hr, p=p, floor=0.1)
        rounded = (exact**p + 1e-3**p) ** (1 / p) - 1e-3  # The root is rounded off at zero.
        assert rounded == pytest.approx(exact, abs=1e-3)
        assert LOSSES["watson_dct"](p=p)(sr, hr).item() == pytest.approx(rounded, rel=1e-9)

    def test_a_black_block_is_no_more_than_the_floor_allows(self) -> None:
        hr = torch.full((1, 1, 32, 32), 0.5, dtype=torch.float64)
        hr[..., :8, :8] = 0
        black, grey = hr.clone(), hr.clone()
        # Stripes without DC: nothing in either block masks them, so only adaptation tells the two apart.
        stripes = 0.02 * torch.tensor([1.0, -1], dtype=torch.float64).repeat(4)
        black[..., :8, :8] += stripes
        grey[..., 8:16, :8] += stripes
        loss = LOSSES["watson_dct"]()
        ratio = (loss(black, hr) / loss(grey, hr)).item()
        assert ratio == pytest.approx((16 / 15 / 0.1) ** 0.649, rel=0.01)
        # Without a floor the same difference counts without bound.
        unbounded = LOSSES["watson_dct"](floor=1e-9)
        assert (unbounded(black, hr) / unbounded(grey, hr)).item() > 1e3

    @pytest.mark.parametrize("name", ["watson_dct", "dct_jnd"])
    def test_an_all_black_target_has_a_finite_loss_and_gradient(self, name: str) -> None:
        hr = torch.zeros(1, 3, 16, 16)
        for start in (hr, noisy(hr, 0.05), hr - 0.1):
            sr = start.clone().requires_grad_()
            value = LOSSES[name]()(sr, hr)
            (gradient,) = torch.autograd.grad(value, sr)
            assert torch.isfinite(value)
            assert torch.isfinite(gradient).all()
            assert value < 100

    def test_what_hides_in_texture_counts_less(self) -> None:
        flat = torch.full((1, 1, 32, 32), 0.5, dtype=torch.float64)
        texture = noisy(flat, 0.15, seed=1)
        for name in ("watson_dct", "dct_jnd", "psnr_hvs_m"):
            loss = LOSSES[name]()
            assert loss(noisy(texture, 0.03), texture) < 0.7 * loss(noisy(flat, 0.03), flat)

    def test_dct_jnd_is_the_loop(self) -> None:
        hr = crops(16, 24, count=1)
        sr = noisy(hr, 0.05)
        table = thresholds(torch.device("cpu"), torch.float64).numpy()
        output, target = (dct_blocks(luma) for luma in luma_arrays(sr, hr))
        mean = np.mean([dct[0, 0] for _, dct in target])
        weights = np.ones((8, 8))
        weights[0, 0] = 0.25
        errors = []
        for (_, b), (_, a) in zip(output, target, strict=True):
            t = table * (max(a[0, 0], 0.1 * mean) / mean) ** 0.649
            s = np.max([t, np.abs(a) ** 0.7 * t**0.3, np.abs(b) ** 0.7 * t**0.3], axis=0)
            s[0, 0] = t[0, 0]
            errors.append(np.sum(weights * (np.sqrt(((b - a) / s) ** 2 + 1) - 1)) / weights.sum())
        expected = np.mean(errors) / (1 + np.mean(errors))
        assert LOSSES["dct_jnd"]()(sr, hr).item() == pytest.approx(expected, rel=1e-9)
        mixed = 0.7 * expected + 0.3 * (sr - hr).abs().mean().item()
        assert LOSSES["dct_jnd"](pixel_share=0.3)(sr, hr).item() == pytest.approx(mixed, rel=1e-9)

    def test_dct_jnd_minds_brightness(self) -> None:
        hr = torch.full((1, 1, 16, 16), 0.5, dtype=torch.float64)
        # Sixteen grey levels are 128 in DC, 128 / 1.4 thresholds, in one coefficient of weight 0.25 among 63.
        mean = 0.25 * (np.hypot(128 / 1.4, 1) - 1) / 63.25
        value = LOSSES["dct_jnd"]()(hr + 16 / 255, hr).item()
        assert value == pytest.approx(mean / (1 + mean), rel=1e-9)

    def test_dct_jnd_is_bounded_by_one(self) -> None:
        hr = crops(32, 32)
        assert 0.9 < LOSSES["dct_jnd"]()(1e4 * (hr - 0.5), hr).item() < 1


def masking_by_loop(block: np.ndarray, dct: np.ndarray, table: np.ndarray) -> float:
    """As in the reference program, one step after another."""
    energy = 0.0
    for k in range(8):
        for j in range(8):
            if (k, j) != (0, 0):
                energy += dct[k, j] ** 2 * table[k, j]

    def variation(part: np.ndarray) -> float:
        return float(np.var(part, ddof=1) * part.size)

    whole = variation(block)
    evenness = 0.0
    if whole != 0:
        quadrants = (block[:4, :4], block[:4, 4:], block[4:, 4:], block[4:, :4])
        evenness = sum(variation(quadrant) for quadrant in quadrants) / whole
    return float(np.sqrt(energy * evenness) / 32)


def hvs_by_loop(sr: np.ndarray, hr: np.ndarray) -> tuple[float, float]:
    """Mean squared errors of PSNR-HVS and PSNR-HVS-M."""
    sensitivity, table = np.array(hvs._SENSITIVITY), np.array(hvs._MASKING)
    plain, masked, count = 0.0, 0.0, 0
    for (block_b, b), (block_a, a) in zip(dct_blocks(sr), dct_blocks(hr), strict=True):
        masking = max(masking_by_loop(block_a, a, table), masking_by_loop(block_b, b, table))
        for k in range(8):
            for j in range(8):
                error = abs(a[k, j] - b[k, j])
                plain += (error * sensitivity[k, j]) ** 2
                if (k, j) != (0, 0):
                    error = max(0.0, error - masking / table[k, j])
                masked += (error * sensitivity[k, j]) ** 2
                count += 1
    return plain / count, masked / count


class TestPsnrHvs:
    @pytest.mark.parametrize("kind", ["noise", "blur", "shift"])
    def test_metrics_are_the_loop(self, kind: str) -> None:
        hr = crops(30, 40)
        sr = {"noise": noisy(hr, 0.06), "blur": blurred(hr), "shift": hr + 0.04}[kind]
        hr[0, :, :8, :8] = 0.25  # A flat block.
        x, y = luma_255(sr), luma_255(hr)
        expected = np.array(
            [hvs_by_loop(a, b) for a, b in zip(x.numpy()[:, 0], y.numpy()[:, 0], strict=True)]
        )
        in_db = 10 * np.log10(255**2 / expected)
        np.testing.assert_allclose(hvs.psnr_hvs(x, y).numpy(), in_db[:, 0], rtol=1e-10)
        np.testing.assert_allclose(hvs.psnr_hvs_m(x, y).numpy(), in_db[:, 1], rtol=1e-10)

    def test_a_level_shift_is_not_masked(self) -> None:
        hr = torch.full((1, 1, 16, 16), 100.0, dtype=torch.float64)
        # Only DC differs, by 8 * 10, with sensitivity 1.608443, in one coefficient of 64.
        expected = 10 * np.log10(255**2 / (10**2 * 1.608443**2))
        assert hvs.psnr_hvs(hr + 10, hr).item() == pytest.approx(expected, rel=1e-12)
        assert hvs.psnr_hvs_m(hr + 10, hr).item() == pytest.approx(expected, rel=1e-12)

    def test_identical_pictures_are_capped(self) -> None:
        hr = luma_255(crops(16, 16))
        assert hvs.psnr_hvs(hr, hr).tolist() == [100, 100]
        assert hvs.psnr_hvs_m(hr, hr).tolist() == [100, 100]

    def test_tables_are_those_of_jpeg(self) -> None:
        # The authors took both from JPEG's luma quantisers, which Pillow writes unscaled at quality 50.
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "jpeg", quality=50)
        quantisers = np.array(Image.open(buffer).quantization[0]).reshape(8, 8)
        np.testing.assert_allclose(hvs._MASKING, 100 / quantisers**2, atol=1e-6)
        np.testing.assert_allclose(hvs._SENSITIVITY, 25.735092 / quantisers, atol=2e-6)

    def test_the_loss_becomes_the_metrics_error(self) -> None:
        hr = crops(32, 32, count=1)
        loss = LOSSES["psnr_hvs_m"](softness=1e-4, pixel_weight=0.0)
        for sr in (noisy(hr, 0.06), blurred(hr)):
            in_db = hvs.psnr_hvs_m(luma_255(sr), luma_255(hr)).item()
            assert -10 * np.log10(loss(sr, hr).item()) == pytest.approx(in_db, abs=0.01)

    def test_the_pixel_term_sees_colour(self) -> None:
        hr = crops(16, 16)
        tint = torch.tensor([0.1, 0, -0.1 * 0.299 / 0.114], dtype=torch.float64).view(3, 1, 1)  # Of no luma.
        expected = 0.02 * tint.abs().mean().item()
        assert LOSSES["psnr_hvs_m"](pixel_weight=0.02)(hr + tint, hr).item() == pytest.approx(
            expected, rel=1e-6
        )

    def test_what_is_masked_still_has_a_gradient(self) -> None:
        texture = noisy(torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64), 0.2)
        sr = noisy(texture, 0.002, seed=1).requires_grad_()
        (gradient,) = torch.autograd.grad(LOSSES["psnr_hvs_m"]()(sr, texture), sr)
        assert (gradient != 0).all()


class TestDss:
    @pytest.mark.parametrize("size", [(96, 96), (90, 75), (176, 160)])
    def test_is_one_minus_piqs(self, size: tuple[int, int]) -> None:
        hr = crops(*size)
        for sr in (noisy(hr, 0.05).clamp(0, 1), blurred(hr).clamp(0, 1), (hr + 0.1).clamp(0, 1)):
            # piq keeps its scores in float32.
            expected = 1 - piq.dss(sr, hr, data_range=1.0).item()
            assert LOSSES["dss"]()(sr, hr).item() == pytest.approx(expected, abs=2e-5)

    def test_one_block_is_enough(self) -> None:
        hr = crops(8, 8, count=1)
        assert 0 < LOSSES["dss"]()(blurred(hr), hr).item() < 1


@pytest.mark.parametrize("name", BLOCK_LOSSES)
class TestEveryBlockLoss:
    @pytest.mark.parametrize("kind", ["photo", "black", "grey", "half"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_identity_is_least_and_has_a_finite_gradient(
        self, name: str, kind: str, dtype: torch.dtype
    ) -> None:
        hr = crops(32, 24, count=1).to(dtype)
        if kind == "half":
            hr[..., :12] = 0
        elif kind != "photo":
            hr = torch.full_like(hr, {"black": 0.0, "grey": 0.4}[kind])
        sr = hr.clone().requires_grad_()
        value = LOSSES[name]()(sr, hr)
        (gradient,) = torch.autograd.grad(value, sr)
        assert abs(value.item()) < 1e-6
        assert torch.isfinite(gradient).all()
        assert LOSSES[name]()(noisy(hr, 0.02), hr) > value

    def test_gradient_is_finite_for_flat_outputs(self, name: str) -> None:
        hr = crops(24, 24, count=1).float()
        for level in (0.0, 0.5):
            sr = torch.full_like(hr, level).requires_grad_()
            (gradient,) = torch.autograd.grad(LOSSES[name]()(sr, hr), sr)
            assert torch.isfinite(gradient).all()
            assert gradient.abs().max() > 0

    def test_gradient_agrees_with_finite_differences(self, name: str) -> None:
        hr = crops(20, 17, count=1)[:, :1]
        sr = noisy(hr, 0.1).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: LOSSES[name]()(x, hr), (sr,), atol=1e-6)

    def test_a_batch_of_clips_is_the_mean_of_its_frames(self, name: str) -> None:
        hr = crops(32, 32, count=4)
        sr = noisy(hr, 0.1) * torch.tensor([0.2, 0.5, 1, 1.5], dtype=torch.float64).view(4, 1, 1, 1)
        loss = LOSSES[name]()
        parts = [loss(sr[i : i + 1], hr[i : i + 1]).item() for i in range(4)]
        assert loss(sr.view(2, 2, 3, 32, 32), hr.view(2, 2, 3, 32, 32)).item() == pytest.approx(
            np.mean(parts), rel=1e-9
        )

    def test_float32_is_close_to_float64(self, name: str) -> None:
        hr = crops(48, 48)
        sr = blurred(hr)
        exact = LOSSES[name]()(sr, hr).item()
        assert LOSSES[name]()(sr.float(), hr.float()).item() == pytest.approx(exact, rel=1e-4, abs=1e-5)

    def test_other_sizes_are_cut_to_whole_blocks(self, name: str) -> None:
        hr = crops(29, 23)
        sr = noisy(hr, 0.05)
        whole = LOSSES[name]()(sr[..., :24, :16], hr[..., :24, :16])
        if name == "psnr_hvs_m":  # Its pixel term sees all of the picture.
            loss = LOSSES[name](pixel_weight=0.0)
            torch.testing.assert_close(loss(sr, hr), loss(sr[..., :24, :16], hr[..., :24, :16]))
        else:
            torch.testing.assert_close(LOSSES[name]()(sr, hr), whole)

    def test_refuses_pictures_smaller_than_a_block(self, name: str) -> None:
        picture = torch.rand(1, 3, 16, 7)
        with pytest.raises(ValueError, match="at least 8 x 8 pixels, got 7 x 16"):
            LOSSES[name]()(picture, picture)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dct_l1", {"stride": 0}, "stride: expected 1 to 8 pixels, got 0"),
        ("dct_csf", {"stride": 9}, "stride: expected 1 to 8 pixels, got 9"),
        ("watson_dct", {"p": 0.5}, r"watson_dct.p: expected at least 1, got 0.5"),
        ("watson_dct", {"floor": 0.0}, r"watson_dct.floor: expected a fraction"),
        ("dct_jnd", {"floor": 2.0}, r"dct_jnd.floor: expected a fraction"),
        ("dct_jnd", {"pixel_share": 1.5}, r"dct_jnd.pixel_share: expected a fraction"),
        ("dct_jnd", {"dc_weight": -1.0}, r"dct_jnd.dc_weight: expected at least 0"),
        ("psnr_hvs_m", {"softness": 0.0}, r"psnr_hvs_m.softness: expected a positive width"),
        ("psnr_hvs_m", {"pixel_weight": -0.1}, r"psnr_hvs_m.pixel_weight: expected at least 0"),
        ("huber", {"delta": 0.0}, r"huber.delta: expected a positive difference"),
        ("gdl", {"alpha": 0.5}, r"gdl.alpha: expected at least 1"),
        ("ms_ssim_l1", {"alpha": 1.1}, r"ms_ssim_l1.alpha: expected a fraction"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LOSSES[name](**settings)
