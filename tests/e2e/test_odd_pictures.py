"""A folder as people really have them goes from pictures to report by the README's lines; each bad picture is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from tests.e2e.test_readme import bash, block

pytestmark = pytest.mark.timeout(400)


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


def test_the_first_sweep_is_the_lines_it_says_also_on_odd_pictures(pictures: Path, tmp_path: Path) -> None:
    script = block("A first sweep on your own pictures")
    assert len(script.strip().splitlines()) == 5
    script = script.replace("PICTURES", f"'{pictures}'").replace(". .venv/bin/activate\n", "")
    # The very lines, with a budget for a test, and patches larger than some pictures, so that padding is exercised too.
    small = (
        "training.steps=20 training.validate_every=10 training.log_every=5 training.global_batch_size=2 "
        "parameters.seed=[0] data.patch_size=160 model.channels=8"
    )
    script = re.sub(r"^(srloss sweep \S+)", rf"\1 {small}", script, flags=re.MULTILINE)
    text = bash(f"{script}\nsrloss shard verify data\nsrloss shard info data --json > info.json", tmp_path)
    assert "8 pictures" in text
    bad = {"truncated.jpg", "text.png", "empty.png", "notes.txt"}
    for name in bad:
        assert f"not used: {name}: " in text
    for name in ("grey.png: grey to RGB", "sixteen bit.png: 16-bit", "alpha.png: alpha"):
        assert f"converted: {name}" in text
    assert "5 trials of 5 losses" in text
    assert "Verdict: " in text
    assert "report: runs/sweeps/photos-" in text

    info = json.loads((tmp_path / "info.json").read_text())
    used = {sample["source"] for sample in info["samples"]}
    assert used == {path.name for path in pictures.iterdir()} - bad
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    page = (sweep / "report.html").read_text()
    for name in bad:
        assert name in page
    judged = {sample["source"] for sample in info["samples"] if sample["split"] == "test"}
    evaluations = list(sweep.glob("trials/*/evaluation.jsonl"))
    assert len(evaluations) == 5
    for evaluation in evaluations:
        assert {json.loads(line)["source"] for line in evaluation.read_text().splitlines()} == judged
    log = next(sweep.glob("trials/*/log.txt")).read_text()
    assert "padded by reflection" in log
