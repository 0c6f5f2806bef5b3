import io
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from torch import Tensor

from sr.checks import distortions, microscope_picture
from sr.checks.microscope import default_losses, look, spoil
from sr.losses import LOSSES

_LOSSES = ["l1", "mse", "ssim", "dss", "gdl", "dct_csf"]


def photograph(name: str) -> Tensor:
    return torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[:, ::2, ::2].float() / 255


def luma_mse(a: Tensor, b: Tensor) -> float:
    weights = np.array([0.299, 0.587, 0.114])[:, None, None]
    difference = ((a.double().numpy() - b.double().numpy()) * weights).sum(0) * 255
    return float((difference**2).mean())


class TestSpoil:
    def test_all_but_the_shift_have_the_mse_that_was_asked_for(self) -> None:
        frame = photograph("astronaut")
        versions, target = spoil(frame, 150.0)
        assert target == 150.0
        assert [v.name for v in versions] == [*distortions.EQUAL_MSE, "shift"]
        for version in versions[:-1]:
            # Salt and pepper comes in whole pixels.
            assert luma_mse(version.picture, frame) == pytest.approx(150, rel=0.01)
            assert version.mse == pytest.approx(luma_mse(version.picture, frame), rel=1e-4)
            assert 0 <= version.picture.min() <= version.picture.max() <= 1

    def test_takes_the_largest_that_all_reach(self) -> None:
        frame = photograph("astronaut")[:, :96, :96]
        versions, target = spoil(frame, 1e6)
        assert 1 < target < 1e6
        assert versions[0].mse == pytest.approx(target, rel=0.01)

    def test_shift_moves_by_one_pixel(self) -> None:
        frame = photograph("coffee")
        shifted = spoil(frame, 50.0)[0][-1].picture
        assert torch.equal(shifted[..., 1:], frame[..., :-1])

    def test_refuses_a_flat_picture(self) -> None:
        with pytest.raises(ValueError, match="give a picture with some detail"):
            spoil(torch.full((3, 64, 64), 0.5), 309.0)

    def test_ssim_of_the_captions_is_scikit_images(self) -> None:
        from skimage.metrics import structural_similarity

        frame = photograph("coffee")[:, :64, :80]
        for version in spoil(frame, 50.0)[0]:
            a, b = (distortions.luma255(x.double()).numpy() for x in (version.picture, frame))
            _, full = structural_similarity(
                a,
                b,
                data_range=255.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                full=True,
            )
            assert version.ssim == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-6)


class TestLook:
    @pytest.mark.parametrize("name", ["astronaut", "coffee"])
    def test_losses_blind_to_level_mind_a_luminance_shift_least(self, name: str) -> None:
        view = look(photograph(name), losses=_LOSSES, mse=200.0)
        names = [v.name for v in view.versions]
        ranks = {row.loss: dict(zip(names, row.ranks, strict=True)) for row in view.rows}
        for loss in ("dss", "dct_csf", "gdl"):
            assert ranks[loss]["luminance"] == 1
        assert ranks["dss"]["luminance"] < ranks["dss"]["shift"] < ranks["dss"]["jpeg"]
        # Contrast sensitivity alone puts noise last.
        assert ranks["dct_csf"]["noise"] >= 6

    def test_numbers_of_a_row_belong_together(self) -> None:
        view = look(photograph("astronaut"), losses=["l1", "charbonnier"], mse=200.0)
        l1, charbonnier = view.rows
        frame = view.original
        by_hand = [float((v.picture - frame).abs().mean()) for v in view.versions]
        assert l1.values == pytest.approx(by_hand, rel=1e-5)
        assert l1.calibrated == pytest.approx(by_hand, rel=1e-5)
        assert l1.normalised == pytest.approx([value / max(by_hand) for value in by_hand], rel=1e-5)
        assert l1.ranks[int(np.argmax(by_hand))] == 7
        assert l1.ranks[int(np.argmin(by_hand))] == 1
        # Charbonnier is nearly L1 once calibrated; its epsilon at identity is subtracted.
        assert charbonnier.calibrated == pytest.approx(by_hand, rel=0.15)

    def test_says_why_a_loss_is_not_shown(self) -> None:
        view = look(photograph("astronaut"), losses=["l1", "tv", "gan_vanilla", "temporal_diff"])
        assert [row.loss for row in view.rows] == ["l1"]
        assert set(view.skipped) == {"tv", "gan_vanilla", "temporal_diff"}
        assert "discriminator" in view.skipped["gan_vanilla"]

    def test_by_default_one_loss_has_genuine_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert default_losses()[-1] == "vgg(network=effnet_lite0)"
        monkeypatch.setattr("sr.checks.microscope.find_or_none", lambda _name: None)
        assert default_losses() == list(LOSSES)

    def test_random_weights_are_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("SRLOSS_WEIGHTS", str(tmp_path))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        frame = photograph("astronaut")[:, 20:84, 80:144]
        row = look(frame, losses=["lpips"], stand_in_weights=True).rows[0]
        assert "random weights" in row.note

    def test_refuses_what_it_cannot_use(self) -> None:
        with pytest.raises(ValueError, match="at least 48 x 48"):
            look(torch.rand(3, 20, 80))
        with pytest.raises(ValueError, match="give a positive number"):
            look(photograph("astronaut"), mse=0)
        with pytest.raises(ValueError, match="no loss can be shown"):
            look(photograph("astronaut"), losses=["tv"])


class TestDraw:
    def test_a_long_name_stays_in_its_column(self) -> None:
        frame = photograph("astronaut")[:, :128, :128]
        name = "vgg(network=random_vgg, taps=[conv1_1, relu1_1], criterion=l2, normalisation=none)"
        view = look(frame, losses=["l1", name])
        sheet = np.asarray(Image.open(io.BytesIO(microscope_picture.draw(view, title="x"))))
        row = 104 + 128 + 64 + 30 + 34
        written, gap = sheet[row : row + 30, 28:284], sheet[row : row + 30, 284:294]
        assert written.min() < 100
        assert gap.min() == 255

    def test_shows_every_version_and_darker_for_worse(self) -> None:
        view = look(photograph("astronaut"), losses=["l1", "dss"])
        sheet = np.asarray(Image.open(io.BytesIO(microscope_picture.draw(view, title="astronaut"))))
        width = 256 + 10
        height = view.original.shape[-2]
        for column, picture in enumerate((view.original, *(v.picture for v in view.versions))):
            shown = sheet[104 : 104 + height, 28 + column * width : 28 + column * width + 256]
            expected = picture.mul(255).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(shown, expected)
        top = 104 + height + 64 + 30
        for number, row in enumerate(view.rows):
            middle = top + number * 34 + 2
            brightness = [int(sheet[middle, 28 + (i + 1) * width + 100].sum()) for i in range(len(row.ranks))]
            assert np.array_equal(np.argsort(brightness), np.argsort([-rank for rank in row.ranks]))
