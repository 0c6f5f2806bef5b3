"""The command line as a person meets it: messages, exit codes, JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sr.losses import LOSSES
from tests.conftest import tiny_trial

SRLOSS = Path(sys.executable).with_name("srloss")


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Srloss = Callable[..., Outcome]


@pytest.fixture
def srloss(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Srloss:
    """Runs the command in this process, in an empty working folder."""
    from sweeps.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["srloss", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def sweep_file(photos: Path, tmp_path: Path) -> Path:
    path = tmp_path / "my sweep.yaml"
    data = {"parameters": {"loss": ["l1", "mse"], "seed": [0, 1]}, "trial": tiny_trial(photos)}
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def trial_file(photos: Path, tmp_path: Path) -> Path:
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(tiny_trial(photos)))
    return path


def test_help_names_the_commands_and_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['srloss', '--help']\nfrom sweeps.cli import main\ntry:\n  main()\nexcept SystemExit:\n  pass\n"
    code += "heavy = {'torch', 'ray', 'wandb', 'numpy', 'skimage', 'pydantic'} & set(sys.modules)\nprint('HEAVY', sorted(heavy))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "HEAVY []" in done.stdout
    for command in (
        "demo",
        "doctor",
        "losses",
        "train",
        "sweep",
        "evaluate",
        "report",
        "compare",
        "shard",
        "config",
    ):
        assert f"│ {command} " in done.stdout


def test_a_users_mistake_is_one_line_and_code_2(srloss: Srloss, sweep_file: Path) -> None:
    done = srloss("sweep", sweep_file, "trial.training.stps=3", "--dry-run")
    assert done.code == 2
    assert "unknown key 'stps'. Did you mean 'steps'?" in done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err + done.out


def test_an_unknown_command_or_option_is_usage(srloss: Srloss) -> None:
    assert srloss("swep").code == 2
    assert srloss("sweep", "--dryrun", "x.yaml").code == 2


def test_a_dry_run_shows_the_trials_and_makes_nothing(
    srloss: Srloss, sweep_file: Path, tmp_path: Path
) -> None:
    done = srloss("sweep", sweep_file, "--dry-run")
    assert done.code == 0
    assert done.out.count("seed=") == 4
    assert "4 trials of 2 losses, 48 steps in all" in done.out
    assert not (tmp_path / "runs").exists()
    rows = srloss(
        "sweep", sweep_file, "parameters.seed=[0]", "training.steps=5", "--dry-run", "--json"
    ).json()
    assert [row["loss"] for row in rows] == ["l1", "mse"]
    assert {row["config"]["training"]["steps"] for row in rows} == {5}


def test_a_missing_data_set_names_the_command_that_makes_one(srloss: Srloss, sweep_file: Path) -> None:
    done = srloss("sweep", sweep_file, "data.path=nowhere", "--dry-run")
    assert done.code == 1
    assert "nowhere" in done.err
    assert "srloss shard pack" in done.err


def test_train_runs_evaluates_and_is_not_repeated(srloss: Srloss, trial_file: Path, tmp_path: Path) -> None:
    first = srloss("train", trial_file, "training.steps=6", "loss=0.9*l1 + 0.1*ssim")
    assert first.code == 0, first.err
    assert "finished: all 6 steps" in first.out
    assert "evaluated on 6 held-out clips" in first.out
    trials = list((tmp_path / "runs" / "trials").iterdir())
    assert len(trials) == 1
    again = srloss("train", trial_file, "training.steps=6", "loss=0.9*l1 + 0.1*ssim")
    assert "finished already" in again.out
    assert list((tmp_path / "runs" / "trials").iterdir()) == trials
    scores = srloss("evaluate", trials[0], "--json").json()
    assert scores[trials[0].name].keys() == {"psnr_y", "ssim_y", "haarpsi", "gmsd"}


def test_the_recorded_command_repeats_the_trial(srloss: Srloss, trial_file: Path, tmp_path: Path) -> None:
    srloss("train", trial_file, "training.steps=4")
    folder = next((tmp_path / "runs" / "trials").iterdir())
    repeated = srloss("train", folder / "config.yaml", "--store", "elsewhere")
    assert repeated.code == 0, repeated.err
    assert (tmp_path / "elsewhere" / "trials" / folder.name / "config.yaml").exists()
    assert (folder / "command.txt").read_text().startswith("srloss train ")


def test_train_in_the_background_says_how_to_follow(srloss: Srloss, trial_file: Path, tmp_path: Path) -> None:
    done = srloss("train", trial_file, "training.steps=4", "--detach")
    assert done.code == 0
    assert "tail -f" in done.out
    folder = next((tmp_path / "runs" / "trials").iterdir())
    deadline = time.monotonic() + 60
    while not (folder / "evaluation.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (folder / "evaluation.jsonl").exists()


def test_a_diverging_trial_fails_with_its_reason_and_code_1(srloss: Srloss, trial_file: Path) -> None:
    done = srloss("train", trial_file, "optimizer.learning_rate=1e30")
    assert done.code == 1
    assert "before the optimizer update" in done.err
    assert "Traceback" not in done.err


def test_losses_lists_every_loss(srloss: Srloss) -> None:
    text = srloss("losses").out
    assert "charbonnier" in text
    assert "epsilon=0.001" in text
    assert srloss("losses", "--json").json().keys() == LOSSES.keys()


def test_config_show_is_complete_and_reads_back(srloss: Srloss, trial_file: Path, tmp_path: Path) -> None:
    shown = srloss("config", "show", trial_file, "training.steps=3").out
    (tmp_path / "shown.yaml").write_text(shown)
    assert srloss("config", "show", tmp_path / "shown.yaml").out == shown
    assert yaml.safe_load(shown)["training"]["steps"] == 3
    assert srloss("config", "show", trial_file, "--json").json()["optimizer"]["learning_rate"] == 0.001


def test_config_schema_describes_each_field(srloss: Srloss) -> None:
    schema = srloss("config", "schema").json()
    assert "training" in schema["properties"]
    training = srloss("config", "schema", "training").json()
    assert "Optimizer updates" in training["properties"]["steps"]["description"]
    assert "parameters" in srloss("config", "schema", "--sweep").json()["properties"]
    assert srloss("config", "schema", "trainin").code == 2


def test_config_recipe_prints_a_sweep_to_start_from(srloss: Srloss, tmp_path: Path) -> None:
    text = srloss("config", "recipe", "photos").out
    assert yaml.safe_load(text)["parameters"]
    assert srloss("config", "recipe", "fotos").code == 2


def test_a_store_without_sweeps_says_so(srloss: Srloss) -> None:
    for command in (("report",), ("evaluate",), ("compare", "l1", "mse"), ("sweep", "--resume", "x")):
        done = srloss(*command)
        assert done.code == 1
        assert "no sweep here yet" in done.err


def test_shard_commands(srloss: Srloss, tmp_path: Path) -> None:
    packed = srloss("shard", "pack", "photos", "photos")
    assert packed.code == 0, packed.err
    assert "astronaut" in packed.out
    info = srloss("shard", "info", "photos", "--json").json()
    assert len(info["samples"]) == 16
    assert srloss("shard", "verify", "photos").code == 0
    tar = next((tmp_path / "photos").glob("test-*.tar"))
    damaged = bytearray(tar.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    tar.write_bytes(damaged)
    found = srloss("shard", "verify", "photos")
    assert found.code == 1
    assert tar.name in found.out
    assert srloss("shard", "verify", "photos", "--json").json()
    assert srloss("shard", "pack", "photos", "photos").code == 1
    assert srloss("shard", "pack", "pictures", "a", "b").code == 2
    assert srloss("shard", "pack", "folder", "a").code == 2
    assert srloss("shard", "pack", "folder", "nowhere", "b").code == 1


def test_doctor_answers_in_words_and_json(srloss: Srloss, photos: Path) -> None:
    checks = srloss("doctor", "--data", photos, "--json").json()
    assert {check["status"] for check in checks} <= {"ok", "warning", "problem"}
    assert any("torch" in check["name"].lower() for check in checks)
    assert srloss("doctor").out


def test_an_interrupted_packing_says_how_to_go_on(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(400):
        pixels = np.random.default_rng(number).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png", compress_level=0)
    command = [SRLOSS, "shard", "pack", "folder", pictures, tmp_path / "out"]
    # Shells ignore SIGINT for background commands, and children inherit it.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    spool = tmp_path / ".out.packing"
    while process.poll() is None and not list(spool.glob("**/*.json")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 400 items encoded" in said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
