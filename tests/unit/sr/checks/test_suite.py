"""What the suite does around its checks: exemptions, losses it cannot run, pictures it is given."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sr.checks.conformance import CHECKS, check, report
from sr.checks.pictures import from_files
from sr.losses import LOSSES
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

    @pytest.mark.parametrize("case", ["missing", "text", "small", "flat"])
    def test_says_what_is_wrong_with_a_picture(self, case: str, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        if case == "text":
            path.write_text("no picture")
        elif case == "small":
            Image.new("RGB", (30, 80)).save(path)
        elif case == "flat":
            Image.new("RGB", (80, 80)).save(path)
        expected = {
            "missing": "no such file",
            "text": "not a picture",
            "small": "64 x 64",
            "flat": "contrast",
        }
        with pytest.raises(ValueError, match=expected[case]):
            from_files([path])
