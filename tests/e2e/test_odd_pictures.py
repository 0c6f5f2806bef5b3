"""A folder as people really have them goes from pictures to report: the good are used, each bad one is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import yaml
from PIL import Image

SRLOSS = str(Path(sys.executable).with_name("srloss"))
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "my pictures"
    folder.mkdir()
    astronaut, coffee, camera = skimage.data.astronaut(), skimage.data.coffee(), skimage.data.camera()
    Image.fromarray(astronaut[:161, :117]).save(folder / "odd size.png")
    Image.fromarray(astronaut[200:431, 100:303]).save(folder / "plain.jpg", quality=97)
    Image.fromarray(coffee[:200, :301]).save(folder / "Straße bei Nacht 東京.png")
    Image.fromarray(camera[:150, 50:249]).save(folder / "grey.png")
    alpha = np.dstack([coffee[150:300, 200:380], np.full((150, 180), 128, np.uint8)])
    Image.fromarray(alpha).save(folder / "alpha.png")
    Image.fromarray(camera[200:350, 100:300].astype(np.uint16) * 257).save(folder / "sixteen bit.png")
    Image.fromarray(coffee[100:300, 350:550]).save(folder / "ok.webp", lossless=True)
    Image.fromarray(astronaut[300:500, 300:500]).save(folder / "ok.tiff")
    whole = folder / "plain.jpg"
    (folder / "truncated.jpg").write_bytes(whole.read_bytes()[:2000])
    (folder / "text.png").write_text("this is not a picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("shot in 2019")
    return folder


def test_odd_pictures_go_all_the_way(pictures: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    packed = subprocess.run(
        [SRLOSS, "shard", "pack", "folder", str(pictures), str(data)], capture_output=True, text=True
    )
    assert packed.returncode == 0, packed.stderr
    bad = {"truncated.jpg", "text.png", "empty.png", "notes.txt"}
    for name in bad:
        assert f"not used: {name}: " in packed.stdout
    for name in ("grey.png: grey to RGB", "sixteen bit.png: 16-bit", "alpha.png: alpha"):
        assert f"converted: {name}" in packed.stdout
    info = json.loads(
        subprocess.run(
            [SRLOSS, "shard", "info", str(data), "--json"], capture_output=True, text=True, check=True
        ).stdout
    )
    used = {sample["source"] for sample in info["samples"]}
    assert used == {path.name for path in pictures.iterdir()} - bad
    assert subprocess.run([SRLOSS, "shard", "verify", str(data)], capture_output=True).returncode == 0

    sweep = tmp_path / "sweep.yaml"
    training = {
        "steps": 20,
        "global_batch_size": 2,
        "validate_every": 10,
        "checkpoint_every": 10,
        "log_every": 5,
    }
    # Patches larger than some pictures, so that padding is exercised too.
    trial = {
        "data": {"path": str(data), "patch_size": 160},
        "model": {"type": "espcn", "channels": 8},
        "training": training,
    }
    sweep.write_text(yaml.safe_dump({"parameters": {"loss": ["l1", "ssim"], "seed": [0]}, "trial": trial}))
    done = subprocess.run(
        [SRLOSS, "sweep", str(sweep), "--store", str(tmp_path / "runs")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verdict: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    page = next((tmp_path / "runs" / "sweeps").glob("*/report.html")).read_text()
    for name in bad:
        assert name in page
    judged = {sample["source"] for sample in info["samples"] if sample["split"] == "test"}
    evaluation = next((tmp_path / "runs" / "sweeps").glob("*/trials/*/evaluation.jsonl"))
    assert {json.loads(line)["source"] for line in evaluation.read_text().splitlines()} == judged
    log = next((tmp_path / "runs" / "sweeps").glob("*/trials/*/log.txt")).read_text()
    assert "padded by reflection" in log
