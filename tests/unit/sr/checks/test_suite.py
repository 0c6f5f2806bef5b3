"""What the suite does around its checks: exemptions, losses it cannot run, pictures it is given."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import skimage
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sr.checks.bench import Bench
from sr.checks.conformance import CHECKS, check, report, traits_of
from sr.checks.named import NamedLoss, named
from sr.checks.number_checks import has_its_known_values
from sr.checks.pictures import from_files, read
from sr.configfile import ConfigError
from sr.losses import LOSSES
from sr.losses.luma import luma_255
from sr.losses.ms_ssim import MsSsimL1
from sr.losses.pixel import L1
from sr.losses.term import Term


class Global(L1):
    is_local = False


class Smooth(nn.Module):
    exempt: ClassVar[dict[str, str]] = {"minimum at identity": "a prior", "NaN in the target": "a prior"}

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return sr.diff(dim=-1).abs().mean()


class Curious(Term):
    needs = ("depth",)

    def forward(self, sr: Tensor, hr: Tensor, *, depth: Tensor) -> Tensor:
        return F.l1_loss(sr, hr) + depth.mean()


def by_name(results: list) -> dict:
    return {result.check: result for result in results}


class TestTraits:
    def test_global_loss_need_not_agree_with_its_crops(self, pictures: Tensor) -> None:
        assert by_name(check(Global(), pictures))["crops agree"].verdict == "not applicable"
        assert by_name(check(L1(), pictures))["crops agree"].verdict == "pass"

    def test_exemption_is_shown_with_its_reason_and_covers_nothing_else(self, pictures: Tensor) -> None:
        results = by_name(check(Smooth(), pictures))
        assert results["minimum at identity"].verdict == "not applicable"
        assert results["minimum at identity"].meaning == "a prior"
        assert results["rises with blur"].verdict == "fail"

    def test_exemption_from_a_check_that_does_not_exist_is_refused(self, pictures: Tensor) -> None:
        loss = L1()
        loss.exempt = {"minimum at identiti": "?"}  # type: ignore[assignment]
        with pytest.raises(ValueError, match="no check is called minimum at identiti"):
            check(loss, pictures)


class TestReport:
    def test_loss_that_needs_something_unknown_is_not_run(
        self, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(LOSSES, "curious", Curious)
        result = report("curious", pictures)
        assert result.results == []
        assert "depth" in result.not_run

    def test_loss_that_raises_fails(self, pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        class Broken(nn.Module):
            def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
                raise RuntimeError("boom")

        monkeypatch.setitem(LOSSES, "broken", Broken)
        result = report("broken", pictures)
        assert "boom" in result.failures[0].meaning
        assert len(result.results) == len(CHECKS)

    def test_missing_weights_are_not_run_and_stand_ins_say_so(
        self, pictures: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SRLOSS_WEIGHTS", str(tmp_path))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        assert "weights of alexnet" in report("lpips", pictures).not_run
        rehearsed = report("lpips", pictures, stand_in_weights=True)
        assert "random weights" in rehearsed.note
        assert not rehearsed.failures

    def test_leaves_the_global_random_state_alone(self, pictures: Tensor) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        check(L1(), pictures)
        assert torch.equal(torch.rand(3), expected)


class TestNames:
    def test_settings_are_those_of_a_config(self) -> None:
        entry = named("vgg(network=random_vgg, taps=[conv1_2], criterion=l2)")
        assert entry.settings == {"network": "random_vgg", "taps": ["conv1_2"], "criterion": "l2"}
        assert str(entry) == "vgg(network=random_vgg, taps=[conv1_2], criterion=l2)"
        assert entry.build().taps == ("conv1_2",)
        assert named("ssim") == NamedLoss("ssim")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("l3", "unknown loss 'l3'. Did you mean 'l1'"),
            ("2*l1", "name one loss"),
            ("l1 + mse", "name one loss"),
            ("vgg(netwrk=vgg19)", "unknown parameter of vgg 'netwrk'"),
            ("vgg(taps=relu1_1)", "loss.taps"),
            ("l1(", "cannot read"),
        ],
    )
    def test_says_what_is_wrong_with_a_name(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message.replace("(", "\\(")):
            named(text)

    def test_known_values_are_those_of_the_settings(self, pictures: Tensor) -> None:
        verdicts = {
            text: by_name(report(text, pictures).results)["known values"].verdict
            for text in ("watson_dct(p=4.0)", "tv(isotropic=true)", "gan_vanilla(label_smoothing=0.1)")
        }
        assert list(verdicts.values()) == ["pass", "not run", "not run"]


class TestKnownValues:
    """A wrong range or luma is caught by name."""

    @pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (219 / 255,) * 3, (0.711, 1.218, 0.633)])
    @pytest.mark.parametrize("name", ["watson_dct", "dct_jnd", "psnr_hvs_m"])
    def test_luma(
        self, name: str, weights: tuple[float, ...], pictures: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loss = LOSSES[name]()
        module = sys.modules[type(loss).__module__]
        factors = torch.tensor(weights).view(3, 1, 1)
        monkeypatch.setattr(module, "luma_255", lambda x: luma_255(x * factors.to(x)))
        outcome = has_its_known_values(Bench(name, loss, traits_of(loss, name), pictures))
        assert outcome.verdict == ("pass" if weights == (1.0, 1.0, 1.0) else "fail")

    def test_ms_ssim_l1_on_bytes(self, pictures: Tensor) -> None:
        class OnBytes(MsSsimL1):
            def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
                return super().forward(255 * sr, 255 * hr)

        for loss, verdict in ((MsSsimL1(), "pass"), (OnBytes(), "fail")):
            bench = Bench("ms_ssim_l1", loss, traits_of(loss, "ms_ssim_l1"), pictures)
            assert has_its_known_values(bench).verdict == verdict

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("vgg", {"network": "effnet_lite0", "taps": ["stem", "block2"], "criterion": "l2"}),
            ("gram", {"network": "random_vgg", "taps": ["relu1_1"]}),
            ("contextual", {"network": "effnet_lite0"}),
            ("lpips", {"weights": "random", "net": "squeeze"}),
            ("dists", {"weights": "random"}),
        ],
    )
    def test_feature_losses(
        self, name: str, settings: dict, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loss: Any = LOSSES[name](**settings)
        bench = Bench(name, loss, traits_of(loss, name), pictures, has_defaults=False)
        assert has_its_known_values(bench).verdict == "pass"
        right = type(loss).compare
        monkeypatch.setattr(type(loss), "compare", lambda self, sr, hr: 1.01 * right(self, sr, hr))
        bench = Bench(name, loss, traits_of(loss, name), pictures, has_defaults=False)
        assert has_its_known_values(bench).verdict == "fail"


class TestPictures:
    def test_one_picture_makes_a_batch(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        pixels = np.random.default_rng(0).integers(0, 256, (100, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        batch = from_files([path])
        assert batch.shape == (2, 3, 96, 80)
        assert torch.equal(batch[0] * 255, torch.from_numpy(pixels[2:98, 5:85]).permute(2, 0, 1).float())

    def test_grey_pictures_do(self, tmp_path: Path) -> None:
        path = tmp_path / "grey.png"
        ramp = np.add.outer(np.arange(96), 2 * np.arange(96)) % 251
        Image.fromarray(ramp.astype(np.uint8)).save(path)
        failures = [r.check for r in check("l1", from_files([path])) if r.verdict == "fail"]
        assert failures == []

    def test_16_bits_turned_and_opaque_pictures_are_read_as_they_look(self, tmp_path: Path) -> None:
        ramp = (np.add.outer(np.arange(70), np.arange(80)) * 1.7).astype(np.uint8)
        deep, turned, opaque = (tmp_path / name for name in ("deep.png", "turned.jpg", "opaque.png"))
        Image.fromarray(ramp.astype(np.uint16) * 257).save(deep)
        assert torch.equal((read(deep) * 255).round(), torch.from_numpy(ramp).expand(3, -1, -1).float())
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(ramp).save(turned, exif=exif)
        assert read(turned).shape == (3, 80, 70)
        Image.fromarray(np.dstack([ramp, ramp, ramp, np.full_like(ramp, 255)])).save(opaque)
        assert torch.equal(read(opaque)[0] * 255, torch.from_numpy(ramp).float())

    def test_small_pictures_do_not_make_a_right_loss_fail(self, tmp_path: Path) -> None:
        path = tmp_path / "small.png"
        Image.fromarray(skimage.data.coffee()[100:201, 200:290]).save(path)
        small = from_files([path])
        assert "no picture as small as 80 x 96" in report("ms_ssim", small).not_run
        assert not report("dss", small).failures

    @pytest.mark.parametrize("case", ["missing", "text", "small", "flat", "transparent", "deep"])
    def test_says_what_is_wrong_with_a_picture(self, case: str, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        if case == "text":
            path.write_text("no picture")
        elif case == "small":
            Image.new("RGB", (30, 80)).save(path)
        elif case == "flat":
            Image.new("RGB", (80, 80)).save(path)
        elif case == "transparent":
            Image.new("RGBA", (80, 80), (9, 9, 9, 100)).save(path)
        elif case == "deep":
            path = path.with_suffix(".tif")
            Image.new("F", (80, 80)).save(path)
        expected = {
            "transparent": "transparent",
            "deep": "32 bits",
            "missing": "no such file",
            "text": "not a picture",
            "small": "64 x 64",
            "flat": "contrast",
        }
        with pytest.raises(ValueError, match=expected[case]):
            from_files([path])
