"""The ranked table of the terminal: what is not distinguishable is marked, and a pipe gets whole lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sweeps.cli.table import print_verdict
from sweeps.verdict import draw
from tests.made_sweep import finished


def scores(loss: str, seed: int, clip: str) -> dict[str, float]:
    """mse is worse than l1 everywhere and above bicubic only by chance; charbonnier differs from l1 by chance."""
    noise = np.random.default_rng([int(clip[1]), int(clip[-1]), seed, len(loss)]).normal()
    gain = {"l1": 1.0, "charbonnier": 0.999 + 0.05 * noise, "mse": 0.3 * noise, "bicubic": 0.0}[loss]
    return {"psnr_y": 30 + gain, "ssim_y": 0.9}


def test_what_is_not_distinguishable_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    sweep = finished(tmp_path, scores, parameters={"loss": ["l1", "charbonnier", "mse"], "seed": [0, 1]})
    print_verdict(draw(sweep))
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1:5]}
    best, tied = ("l1", "charbonnier") if "*" in rows["l1"].split()[1] else ("charbonnier", "l1")
    assert rows[best].split()[1].endswith("*")
    assert rows[tied].split()[1].endswith("~")
    assert rows["mse"].split()[1][-1].isdigit()
    assert "]~" in rows["mse"]
    assert "\N{MINUS SIGN}" in rows["mse"]
    assert "]~" not in rows["l1"] + rows["charbonnier"]
    assert not any(line != line.rstrip() for line in lines)
    assert "~ not distinguishable from the best, or from bicubic" in lines[5]
