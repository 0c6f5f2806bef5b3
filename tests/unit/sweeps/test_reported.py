"""`srloss report`: the page, its tables alone, and the page that follows a sweep."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from sr.configfile import ConfigError
from sweeps.cli import reported
from tests.growing_sweep import GrowingSweep


@pytest.fixture(scope="module")
def growing(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> GrowingSweep:
    growing = GrowingSweep(photos, tmp_path_factory.mktemp("store"), losses=["l1", "mse"])
    growing.baseline()
    growing.begin(0)
    growing.validate(0, 10, 30.0)
    growing.finish(0)
    return growing


def report(growing: GrowingSweep, **options: Any) -> int:
    usual = {
        "out": None, "as_json": False, "tables": [], "watch": False, "every_s": 0.1, "crops": [], "full_images": False,
    }  # fmt: skip
    return reported.report(None, store=growing.store, **{**usual, **options})


def test_a_table_goes_to_standard_output_and_nothing_else(
    growing: GrowingSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(growing, tables=["csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["loss"] for row in rows] == ["l1", "bicubic"]
    assert not growing.sweep.folder.report.exists()
    report(growing, tables=["latex"])
    assert r"\toprule" in capsys.readouterr().out


def test_a_table_goes_to_the_file_that_is_named(
    growing: GrowingSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "table.md"
    report(growing, tables=["markdown"], out=out)
    assert out.read_text().startswith("| loss |")
    assert str(out) in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    "options",
    [
        {"tables": ["csv", "latex"]},
        {"tables": ["csv"], "watch": True},
        {"tables": ["csv"], "crops": ["x"]},
        {"tables": [], "watch": True, "as_json": True},
    ],
)
def test_options_that_do_not_go_together_are_refused(growing: GrowingSweep, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="report: --"):
        report(growing, **options)


def test_pictures_lie_beside_the_page_where_all_are_wanted(growing: GrowingSweep, tmp_path: Path) -> None:
    report(growing, out=tmp_path / "page.html", full_images=True)
    names = re.findall(r'src="(page_images/[^"]+)"', (tmp_path / "page.html").read_text())
    assert names
    assert all((tmp_path / name).stat().st_size for name in names)
    with pytest.raises(ValueError, match="--crop nowhere"):
        report(growing, out=tmp_path / "page.html", crops=["nowhere"])


def test_a_watched_page_follows_the_sweep_and_ends_with_it(
    growing: GrowingSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver is there, a validation comes, and the driver is gone: driven by the command's own pauses."""
    out = tmp_path / "page.html"
    driver = growing.driven()
    pages: list[str] = []

    def next_moment(_: float) -> None:
        pages.append(out.read_text())
        if len(pages) == 1:
            growing.begin(1)
            growing.validate(1, 50, 31.0)
        if len(pages) == 2:
            growing.fail(1, "its loss became NaN")
            driver.__exit__(None, None, None)

    driver.__enter__()
    monkeypatch.setattr(reported, "sleep", next_moment)
    code = report(growing, out=out, watch=True, every_s=30.0)
    assert code == 3
    assert '<meta http-equiv="refresh" content="30">' in pages[0]
    assert "1 of 2 trials done" in pages[0]
    assert "step 50 of 100" in pages[1]
    assert 'http-equiv="refresh"' not in out.read_text()
    lines = capsys.readouterr().out.splitlines()
    assert sum("page written:" in line for line in lines) == 3
    assert lines[-1].startswith("the sweep is over")
