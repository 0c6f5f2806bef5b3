"""`srloss upscale` on a trained trial, from the command line: pictures, folders, video, interruption, mistakes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import skimage
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from sr.config import parse_trial
from sr.ledger import Ledger
from sr.pretrained import load_generator
from sr.train import train
from sr.world import single_process
from sweeps.cli.upscale import upscale
from tests.conftest import tiny_trial
from tests.unit.sr.upscale.films import moving, read, write

PROGRAM = """
import sys
from sweeps.cli import app as commands
from sweeps.cli.upscale import upscale
if "upscale" not in [one.name or one.callback.__name__ for one in commands.app.registered_commands]:
    commands.app.command()(upscale)
commands.run()
"""


@pytest.fixture(scope="session")
def trial(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = parse_trial(tiny_trial(photos))
    ledger = Ledger(tmp_path_factory.mktemp("trial") / "espcn")
    ledger.create(config, command="test")
    train(config, world=single_process("cpu"), ledger=ledger)
    return ledger.folder


@pytest.fixture
def run() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(upscale)

    def invoke(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(one) for one in arguments])

    return invoke


def test_a_picture_is_what_the_model_makes_of_it(
    trial: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    photo = np.ascontiguousarray(skimage.data.coffee()[100:165, 200:291])
    Image.fromarray(photo).save(tmp_path / "a.png")
    checkpoint = max((trial / "checkpoints").glob("step-*.pt"))
    result = run(checkpoint, tmp_path / "a.png", tmp_path / "out", "--tile", 32, "--overlap", 16)
    assert result.exit_code == 0, result.output
    assert "x2 by espcn at step 12" in result.output
    generator = load_generator(trial).generator
    with torch.no_grad():
        sr = generator(torch.from_numpy(photo).float().div(255).permute(2, 0, 1)[None])[0]
    expected = sr.clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy()
    written = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert abs(written - expected).max() <= 1
    assert (written != expected).mean() < 1e-3


def test_a_video_and_a_folder(trial: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(20), audio=("eng",))
    result = run(trial, source, tmp_path / "b.mp4", "--start", 5, "--frames", 10, "--crf", 8)
    assert result.exit_code == 0, result.output
    assert "10 frames of 128 x 96 px, 1 stream copied" in result.output
    assert re.search(r"; \d+ s, \d+\.\d frames/s$", result.output.strip()), result.output
    assert len(read(tmp_path / "b.mp4").times) == 10
    (tmp_path / "in").mkdir()
    for name in ("x.png", "y.jpg"):
        Image.fromarray(moving(1)[0]).save(tmp_path / "in" / name)
    (tmp_path / "in" / "z.png").write_text("no picture")
    result = run(trial, tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x.png", "y.png"]
    assert "z.png" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.pt", "a.png", "b.png"), "no such model"),
        (("TRIAL", "missing.png", "b.png"), "no such file or folder"),
        (("TRIAL", "text.txt", "b.png"), "neither a picture"),
        (("TRIAL", "text.mp4", "b.mp4"), "not a video that can be read"),
        (("TRIAL", "empty", "out"), "no pictures there"),
        (("TRIAL", "a.png", "b.png", "--scale", "4"), "upscales by 2; leave --scale out"),
        (("TRIAL", "a.png", "b.png", "--codec", "hevc"), "are for video"),
        (("text.txt", "a.png", "b.png"), "text.txt"),
        (("bicubic", "a.png", "b.png"), "no scale is given"),
        (("TRIAL", "a.png", "a.png"), "is there already"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    trial: Path, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Image.fromarray(moving(1)[0]).save("a.png")
    for name in ("text.txt", "text.mp4"):
        Path(name).write_text("just words")
    Path("empty").mkdir()
    before = sorted(Path().rglob("*"))
    result = run(*(str(trial) if one == "TRIAL" else one for one in arguments))
    assert isinstance(result.exception, ValueError), result.output
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert sorted(Path().rglob("*")) == before


def test_ctrl_c_leaves_no_half_file_and_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(4, 96, 128) * 75, audio=("eng",))
    out = tmp_path / "out"
    command = [sys.executable, "-c", PROGRAM, "upscale", "bicubic", source, out / "b.mkv", "--scale", "8"]
    command += ["--codec", "ffv1"]  # Writes at once: h264 would first look at 50 frames.
    process = subprocess.Popen(
        [str(one) for one in command],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for _ in range(600):
        if out.exists() and any(path.stat().st_size > 1000 for path in out.iterdir()):
            break
        time.sleep(0.1)
    assert [path.name.startswith(".b.") for path in out.iterdir()] == [True]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"interrupted; {out / 'b.mkv'} was not written" in errors
    assert list(out.iterdir()) == []


def test_the_sound_of_a_whole_video_is_bit_for_bit(
    trial: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    source = write(tmp_path / "a.mp4", moving(25), audio=("eng", "deu"))
    assert run(trial, source, tmp_path / "b.mkv").exit_code == 0
    before, after = ({i: [data for _, data in one] for i, one in read(path).packets.items()} for path in (source, tmp_path / "b.mkv"))  # fmt: skip
    assert before == after
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert [one.type for one in container.streams] == ["video", "audio", "audio"]
