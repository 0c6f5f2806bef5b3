import json
from pathlib import Path

import pytest
import skimage
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from sr.checks.conformance import CHECKS
from sr.losses import LOSSES
from sweeps.cli.losses import app

run = CliRunner().invoke


class Planted(nn.Module):
    """Minus L1."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return -F.l1_loss(sr, hr)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "mine.png"
    Image.fromarray(skimage.data.astronaut()[20:148, 150:278]).save(path)
    return path


class TestList:
    def test_lists_the_losses_without_a_command(self) -> None:
        result = run(app, [])
        assert result.exit_code == 0
        assert all(name in result.output for name in LOSSES)

    def test_as_json(self) -> None:
        assert set(json.loads(run(app, ["--json"]).output)) == set(LOSSES)


class TestCheck:
    def test_one_loss_in_full_on_my_picture(self, image: Path) -> None:
        result = run(app, ["check", "l1", "--picture", str(image)])
        assert result.exit_code == 0
        assert all(name in result.output for name in CHECKS)
        assert "1 of 1 losses pass" in result.output

    def test_planted_bug_makes_the_exit_code_1_and_is_named(
        self, image: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(LOSSES, "planted", Planted)
        result = run(app, ["check", "l1", "mse", "planted", "--picture", str(image)])
        assert result.exit_code == 1
        assert "✗ planted, minimum at identity" in result.output
        assert "failed: planted" in result.output

    def test_as_json(self, image: Path) -> None:
        result = run(app, ["check", "mse", "--picture", str(image), "--json"])
        (loss,) = json.loads(result.output)
        assert [c["check"] for c in loss["checks"]] == list(CHECKS)
        assert {c["verdict"] for c in loss["checks"]} == {"pass", "not applicable"}

    def test_missing_weights_fail_only_a_loss_that_was_asked_for(
        self, image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SRLOSS_WEIGHTS", str(tmp_path))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        asked = run(app, ["check", "lpips", "--picture", str(image)])
        assert asked.exit_code == 1
        assert "not run: weights of alexnet" in asked.output
        for name in set(LOSSES) - {"l1", "mse", "lpips"}:
            monkeypatch.delitem(LOSSES, name)
        unasked = run(app, ["check", "--picture", str(image)])
        assert unasked.exit_code == 0
        assert "? lpips: not run: weights of alexnet" in unasked.output
        rehearsed = run(app, ["check", "lpips", "--stand-in-weights", "--picture", str(image)])
        assert rehearsed.exit_code == 0
        assert "says nothing about perception" in rehearsed.output

    def test_table_fits_a_narrow_terminal(self, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = ["l1", "huber", "mse"]
        result = run(app, ["check", *names, "--picture", str(image)])
        lines = result.output.splitlines()
        assert max(map(len, lines)) <= 100
        rows = {
            line.split()[0]: "".join(line.split()[1:])
            for line in lines
            if line.split()[:1] and line.split()[0] in names
        }
        assert {name: len(marks) for name, marks in rows.items()} == dict.fromkeys(names, len(CHECKS))
        numbered = result.output.split("°")[0]
        assert all(f"{number} {name}" in numbered for number, name in enumerate(CHECKS, start=1))

    def test_settings_in_brackets(self, image: Path) -> None:
        name = "vgg(network=effnet_lite0, taps=[stem, block2])"
        result = run(app, ["check", name, "--picture", str(image)])
        assert result.exit_code == 0
        assert result.output.startswith(name)
        assert "✓ network input" in result.output

    def test_all_mistakes_in_names_are_told(self) -> None:
        result = run(app, ["check", "l3", "2*l1"])
        assert "l3" in str(result.exception)
        assert "2*l1" in str(result.exception)

    def test_unknown_name(self) -> None:
        result = run(app, ["check", "l3"])
        assert result.exit_code != 0
        assert "l3" in str(result.exception)


class TestMicroscope:
    def test_writes_the_picture_and_prints_the_ranks(self, image: Path, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "out.png"
        result = run(app, ["microscope", str(image), "--loss", "l1", "--loss", "dss", "--out", str(out)])
        assert result.exit_code == 0
        assert Image.open(out).width > 2000
        assert "dss" in result.output
        assert str(out) in result.output.replace("\n", "")

    def test_as_json(self, image: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.png"
        result = run(
            app, ["microscope", str(image), "--loss", "l1", "-o", str(out), "--mse", "100", "--json"]
        )
        view = json.loads(result.output)
        assert view["mse"] == 100
        assert view["losses"][0]["loss"] == "l1"
        assert sorted(view["losses"][0]["ranks"])[0] == 1

    def test_settings_in_brackets(self, image: Path, tmp_path: Path) -> None:
        out, name = tmp_path / "out.png", "vgg(network=effnet_lite0, taps=[stem])"
        result = run(app, ["microscope", str(image), "--loss", name, "-o", str(out), "--json"])
        assert [row["loss"] for row in json.loads(result.output)["losses"]] == [name]

    def test_loss_that_cannot_be_shown_is_an_error_if_asked_for(self, image: Path) -> None:
        result = run(app, ["microscope", str(image), "--loss", "l1", "--loss", "tv"])
        assert result.exit_code != 0
        assert "tv" in str(result.exception)
