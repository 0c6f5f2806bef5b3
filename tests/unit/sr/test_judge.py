"""Judging on any data: whole pictures as papers do, clips as a trial does, beside bicubic."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
import typer
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from sr.config import parse_trial
from sr.judge import compare
from sr.ledger import Ledger
from sr.metrics import METRICS
from sr.train import train
from sr.world import single_process
from sweeps.cli.evaluate import evaluate
from tests.conftest import tiny_trial


@pytest.fixture(scope="module")
def trial(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    config = parse_trial(tiny_trial(photos))
    ledger = Ledger(tmp_path_factory.mktemp("trial") / "espcn")
    ledger.create(config, command="test")
    train(config, world=single_process("cpu"), ledger=ledger)
    return ledger


@pytest.fixture
def run() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(evaluate)

    def invoke(*arguments: object, as_json: bool = True) -> Any:
        result = CliRunner().invoke(app, [str(one) for one in (*arguments, *(["--json"] if as_json else []))])
        if not as_json:
            return result
        if result.exception:
            raise result.exception
        return json.loads(result.stdout)

    return invoke


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three photographs of odd sizes, and what is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, photo in enumerate((skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut())):
        Image.fromarray(np.ascontiguousarray(photo[100 : 167 + i, 120:191])).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:500])
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_of_pictures_is_measured_as_papers_do(run: Callable[..., Any], pictures: Path) -> None:
    result = run("nearest", "--scale", 2, "--data", pictures, "--metrics", "psnr_rgb,psnr_y")
    values = []
    for path in sorted(pictures.glob("?.png")):
        hr = np.asarray(Image.open(path))
        hr = hr[: hr.shape[0] // 2 * 2, : hr.shape[1] // 2 * 2]
        from sr.resize import bicubic

        lr = bicubic(
            torch.from_numpy(hr.copy()).permute(2, 0, 1).float(),
            height=hr.shape[0] // 2,
            width=hr.shape[1] // 2,
        )
        small = lr.round().clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
        sr = small.repeat(2, 0).repeat(2, 1)
        values.append(peak_signal_noise_ratio(hr[2:-2, 2:-2], sr[2:-2, 2:-2], data_range=255))
    found = result["nearest"]["psnr_rgb"]
    assert found["n"] == 3
    assert found["sources"] == 3
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["median"] == pytest.approx(np.median(values), abs=1e-6)
    assert (found["p5"], found["p95"]) == pytest.approx(tuple(np.percentile(values, (5, 95))), abs=1e-6)
    of_the_mean = -10 * np.log10(np.mean([10 ** (-value / 10) for value in values]))
    assert found["of_the_mean"] == pytest.approx(of_the_mean, abs=1e-6)
    assert found["convention"] == METRICS["psnr_rgb"].convention
    assert found["over_bicubic"] == pytest.approx(found["mean"] - found["bicubic"]["mean"])
    assert found["better_than_bicubic_on"] == 0


def test_bicubic_is_as_good_as_bicubic_and_bad_files_are_named(
    run: Callable[..., Any], pictures: Path
) -> None:
    result = run("bicubic", "--scale", 3, "--data", pictures, as_json=False)
    assert result.exit_code == 0, result.output
    assert "+0.00" in result.output
    assert "3 clips of 3 pictures" in result.output
    assert "broken.png" in result.output
    assert "notes.txt" in result.output
    for heading in ("mean", "median", "5 %", "95 %", "of the mean", "bicubic"):
        assert heading in result.output


def test_a_trial_measured_again_is_what_its_record_says(run: Callable[..., Any], trial: Ledger) -> None:
    first = run(trial.folder)[trial.folder.name]
    rows = trial.evaluation()
    assert first.keys() == {"psnr_y", "ssim_y", "haarpsi", "gmsd"}
    assert first["psnr_y"]["mean"] == pytest.approx(np.mean([row["psnr_y"] for row in rows]))
    # By another way: as a checkpoint on a named data set.
    checkpoint = max(trial.checkpoints.glob("step-*.pt"))
    again = run(checkpoint, "--metrics", "psnr_y,haarpsi")
    assert again["espcn at step 12"]["psnr_y"]["mean"] == pytest.approx(first["psnr_y"]["mean"])
    assert again["espcn at step 12"]["psnr_y"]["bicubic"] == first["psnr_y"]["bicubic"]


def test_what_is_suspicious_and_what_is_told_from_real_is_printed(
    run: Callable[..., Any], trial: Ledger, pictures: Path
) -> None:
    """Three pictures are too few to tell; nearest is below bicubic; a trial prints what its record says."""
    result = run("nearest", "--scale", 2, "--data", pictures, as_json=False)
    assert "told from real pictures: not measured, 3 held-out pictures" in result.output
    assert "below bicubic's" in " ".join(result.output.split())
    found = run("nearest", "--scale", 2, "--data", pictures)["nearest"]["psnr_y"]
    assert 2 in [finding["rule"] for finding in found["warnings"]]
    assert found["told_from_real"] is None
    Image.fromarray(skimage.data.rocket()[100:170, 250:330]).save(pictures / "3.png")
    told = run("bicubic", "--scale", 2, "--data", pictures)["bicubic"]["psnr_y"]["told_from_real"]
    assert told["num_sources"] == 2
    again = run(trial.folder)[trial.folder.name]["psnr_y"]
    summary = trial.summary()
    assert summary is not None
    assert again["mean"] == summary.metrics["psnr_y"].mean
    assert len(again["warnings"]) == len(summary.warnings)


def test_splits_degradations_and_crops(
    run: Callable[..., Any], trial: Ledger, pictures: Path, tmp_path: Path
) -> None:
    name = "espcn at step 12"
    val = run(trial.folder, "--split", "val")[name]["psnr_y"]
    assert val["sources"] == 1
    bicubic = run(trial.folder, "--data", pictures)[name]["psnr_y"]["mean"]
    blurred = run(trial.folder, "--data", pictures, "--degradation", "blur_down")[name]["psnr_y"]["mean"]
    assert abs(bicubic - blurred) > 0.1
    run(trial.folder, "--data", pictures, "--crops", tmp_path / "crops", "--profile", "rgb")
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == [
        "0.png.png",
        "1.png.png",
        "2.png.png",
    ]
    assert Image.open(tmp_path / "crops" / "0.png.png").size == (70, 66)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("TRIAL", "--metrics", "psnr_z"), "psnr_z"),
        (("TRIAL", "--profile", "sr-z"), "sr-z"),
        (("TRIAL", "--profile", "rgb", "--metrics", "psnr_y"), "give one of them"),
        (("TRIAL", "--split", "tset"), "Did you mean 'test'"),
        (("TRIAL", "--data", "nowhere"), "no such folder"),
        (("TRIAL", "--data", "empty"), "neither a packed data set nor a folder with pictures"),
        (("TRIAL", "--degradation", "smear"), "smear"),
        (("TRIAL", "--scale", "2"), "a trained model has its own"),
        (("bicubic",), "add --data PATH and --scale 2"),
        (("text.pt",), "text.pt"),
    ],
)
def test_mistakes_are_told(
    run: Callable[..., Any], trial: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.pt").write_text("just words")
    with pytest.raises(ValueError, match=re.escape(message)):
        run(*(str(trial.folder) if one == "TRIAL" else one for one in arguments))


def test_less_is_better_where_it_is() -> None:
    own = [{"gmsd": 0.1, "psnr_y": 30.0}, {"gmsd": 0.3, "psnr_y": 20.0}]
    other = [{"gmsd": 0.2, "psnr_y": 25.0}, {"gmsd": 0.3, "psnr_y": 25.0}]
    compared = compare(own, other, ("gmsd", "psnr_y"))
    assert [compared[name].better_on for name in ("gmsd", "psnr_y")] == [1, 1]
    assert compared["gmsd"].gain == pytest.approx(-0.05)
