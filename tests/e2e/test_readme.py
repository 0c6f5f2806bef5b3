"""The README's commands, run as they stand there, in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
pytestmark = pytest.mark.timeout(400)


def block(heading: str, *, number: int = 0) -> str:
    """A block of commands under a heading, the first unless another number is given."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert len(found) > number, heading
    return found[number]


def bash(script: str, folder: Path) -> str:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # Of a W&B client that somebody else had, and that has ended.
        "WANDB_SERVICE": "3-1-unix-/nowhere/wandb.sock",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files, with the environment of this test run as their .venv, installed as `make` would leave it."""
    folder = tmp_path_factory.mktemp("clone") / "srloss"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


def test_the_demo_is_one_command(checkout: Path) -> None:
    assert "make demo " in block("Two commands")
    text = bash("make --old-file=.venv/.installed demo", checkout)
    for step in (
        "[1/5] data:",
        "[2/5] sweep:",
        "[3/5] evaluate:",
        "[4/5] report:",
        "[5/5] W&B check: 11 of 11",
    ):
        assert step in text, text
    assert "Verdict: " in text
    assert "of 5 losses beat bicubic on PSNR-Y on pictures they have not seen" in text
    page = checkout / "demo" / "report.html"
    assert 200_000 < page.stat().st_size < 5_000_000
    opened_in_a_browser(page)


def opened_in_a_browser(page: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("SRLOSS_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        assert not os.environ.get("CI"), "CI must open the report in a browser: apt-get install chromium"
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
        )
        tab = browser.new_page()
        messages: list[str] = []
        requests: list[str] = []
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri())
        # Every picture of the page has really been decoded: the crops are there and whole.
        broken = tab.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
        shown = tab.evaluate("document.images.length")
        browser.close()
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert broken == 0
    assert shown >= 6 * 7


def test_a_recipe_is_rehearsed_and_its_model_is_used(tmp_path: Path) -> None:
    assert "Verdict: " in bash(block("What can be compared", number=1), tmp_path)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.ascontiguousarray(skimage.data.chelsea()[100:164, 120:216])).save(picture)
    bash(block("What can be compared").replace("PICTURE", str(picture)), tmp_path)
    assert Image.open(tmp_path / "picture-microscope.png").width > 1000

    (trial,) = list((tmp_path / "runs").glob("sweeps/seed1-*/trials/*/config.yaml"))[:1]
    script = block("Using a trained model")
    assert [line.split()[1] for line in script.strip().splitlines()] == ["upscale", "evaluate", "export"]
    script = script.replace("holiday.mp4 holiday-x2.mp4", f"{picture} large.png").replace(
        "TRIAL", str(trial.parent)
    )
    pictures = tmp_path / "other"
    pictures.mkdir()
    picture.rename(pictures / picture.name)
    script = script.replace("OTHER", str(pictures)).replace(str(picture), str(pictures / picture.name))
    text = bash(script, tmp_path)
    assert Image.open(tmp_path / "large.png").size == (192, 128)
    assert "PSNR-RGB" in text
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_every_command_of_the_list_exists() -> None:
    commands = re.findall(r"^\| `srloss ([a-z-]+(?: [a-z-]+)?)", README, re.MULTILINE)
    assert len(commands) >= 12
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-c", "from sweeps.cli import main; main()", *command.split(), "--help"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, command


def test_the_test_command_is_the_one_ci_runs() -> None:
    assert "make test " in block("Two commands")
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
