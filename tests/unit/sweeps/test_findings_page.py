"""What the page makes of cost, clips, rungs, tuning and configurations: there, in order, complete, and small."""

from __future__ import annotations

import html
import json
import re
import statistics
from collections import defaultdict
from dataclasses import replace

import pytest

from sweeps.report import exports
from sweeps.report.data import ReportData
from sweeps.report.findings import Findings
from sweeps.report.palette import looks
from sweeps.report.render import render
from tests.report_sample import ODD_INPUTS, sample


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample(is_searched=True, num_crops=1)


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render(data)


def section(page: str, name: str) -> str:
    start = page.index(f'<section id="{name}">')
    return page[start : page.index("</section>", start)]


def words(markup: str) -> str:
    without = re.sub(r"<script.*?</script>|<title>.*?</title>|<[^>]+>", " ", markup, flags=re.DOTALL)
    return " ".join(html.unescape(without).split())


def stored(page: str, name: str) -> dict:
    start = page.index(">", page.index(f'id="{name}"')) + 1
    return json.loads(page[start : page.index("</script>", start)])


def test_sections_come_in_the_order_of_a_readers_questions(page: str) -> None:
    wanted = [
        "scores",
        "tradeoff",
        "crops",
        "clips",
        "training",
        "cost",
        "ladders",
        "rungs",
        "tuning",
        "configs",
        "trials",
        "repeat",
    ]
    assert [name for name in re.findall(r'<section id="(\w+)"', page) if name in wanted] == wanted


def test_what_is_not_known_has_no_section() -> None:
    page = render(sample(num_losses=2, num_crops=0))
    assert not [name for name in ("rungs", "tuning", "ladders") if f'<section id="{name}"' in page]
    bare = ODD_INPUTS["no candidates"]
    assert '<section id="clips"' not in render(bare)
    assert 'id="filter"' not in page


def test_not_distinguishable_stands_in_the_table_in_words(data: ReportData, page: str) -> None:
    """Readable without colours, styles or the legend below."""
    table = page[page.index('id="main-table"') : page.index("</table>", page.index('id="main-table"'))]
    ties = sum(len(row.tied_with_best_on) for row in data.candidates)
    assert ties == table.count('<span class="verdict">not distinguishable from best</span>') == 3
    assert words(table).count(" best ") == 3 + ties
    assert "no such p can be below 0.0003" in words(section(page, "scores"))


def test_the_streams_stand_beside_the_numbers(data: ReportData, page: str) -> None:
    for name in ("scores", "trials"):
        assert data.findings.streams in words(section(page, name))


def test_curves_can_be_laid_along_every_axis(data: ReportData, page: str) -> None:
    axes = stored(page, "axes")
    assert re.findall(r'data-axis="\w+".*?>(.*?)<', page) == ["Steps", "Samples", "Seconds", "Device-minutes"]
    places = {
        "steps": lambda c: c.steps, "samples": lambda c: c.samples, "seconds": lambda c: c.seconds, "device_hours": lambda c: c.device_hours,
    }  # fmt: skip
    for name, axis in axes.items():
        means: dict[str, list[float]] = {}
        for loss in {curve.candidate for curve in data.curves}:
            by_step = defaultdict(list)
            for curve in data.curves:
                if curve.candidate == loss:
                    for step, place in zip(curve.steps, places[name](curve), strict=True):
                        by_step[step].append(place)
            means[loss] = [statistics.fmean(by_step[step]) for step in sorted(by_step)]
        end = max(values[-1] for values in means.values())
        for loss, values in means.items():
            shown = axis["x"][looks(data)[loss].key]
            assert shown == pytest.approx([1000 * value / end for value in values], abs=0.51)
        assert all(len(axis["ticks"][size]) >= 2 for size in ("wide", "narrow"))


def test_cost_names_every_purpose_and_every_loss(data: ReportData, page: str) -> None:
    cost = section(page, "cost")
    assert "5.68 device-hours in all" in words(cost)
    assert "trials that failed" in words(cost)
    assert "repeated after a death or an interruption" in words(cost)
    assert "trials that were cancelled" not in words(cost)
    assert data.findings.cost is not None
    rows = re.findall(r'<tr data-loss="\d+">.*?</tr>', cost, re.DOTALL)
    assert len(rows) == len(data.findings.cost.by_candidate)
    for row, one in zip(rows, data.findings.cost.by_candidate, strict=True):
        told = re.findall(r'data-value="([^"]*)"', row)
        assert told[0] == one.candidate
        assert [float(value) for value in told[1:]] == pytest.approx(
            [3, one.num_restarts, one.device_hours / 3, one.device_hours, one.repeated, one.memory_gb],
            rel=1e-6,
        )
    assert "1 failed" in words(rows[1])


def test_clips_at_the_ends_stand_there_without_the_script(data: ReportData, page: str) -> None:
    clips = data.findings.clips
    assert clips is not None
    tables = re.findall(r'<table class="clips".*?</table>', page, re.DOTALL)
    for table, other in zip(tables, ("bicubic", "l1"), strict=True):
        gains = {
            title: a - b
            for title, a, b in zip(
                clips.titles, clips.by_name["charbonnier"], clips.by_name[other], strict=True
            )
        }
        ordered = sorted(gains, key=gains.__getitem__)
        wanted = [*ordered[:-4:-1], *ordered[:3]]
        assert re.findall(r"<td>(.*?)</td>", table) == wanted
        assert f"charbonnier against {other}" in words(table)


def test_rungs_name_who_was_stopped(page: str) -> None:
    rungs = words(section(page, "rungs"))
    assert "about one in 3 of the trials" in rungs
    assert "3 stopped: seed=0; seed=1; seed=2" in rungs
    assert "18 reached, 9 stopped 9 reached, 2 stopped 7 reached, 0 stopped 7" in rungs


def test_each_loss_has_a_panel_for_each_parameter_it_has(data: ReportData, page: str) -> None:
    tuning = section(page, "tuning")
    panels = re.findall(r'<article class="panels".*?</article>', tuning, re.DOTALL)
    assert [panel.count("panel-chart") for panel in panels] == [2, 2, 3, 2, 3, 3]
    assert tuning.count('class="chart parallel"') == 2
    assert data.findings.tuning is not None
    # One path for all trials of a loss that are not compared, and one for the one that is.
    assert len(re.findall(r'class="way', tuning)) == 2 * 2 * 6


def test_configurations_show_only_what_differs(page: str) -> None:
    configs = section(page, "configs")
    assert re.findall(r"<code>(.*?)</code>", configs) == ["adversarial", "optimizer.learning_rate"]
    alone = render(sample(num_losses=2, num_crops=0))
    assert "all else is equal" in words(section(alone, "configs"))


def test_a_report_from_before_all_this_still_opens(data: ReportData) -> None:
    old = replace(
        data,
        findings=Findings(),
        ladders=(),
        candidates=tuple(replace(row, device_hours=None) for row in data.candidates),
        curves=tuple(replace(curve, samples=(), device_hours=()) for curve in data.curves),
    )
    page = render(old)
    assert set(stored(page, "axes")) == {"steps", "seconds"}
    assert '<section id="cost"' not in page


def test_forty_losses_stay_small() -> None:
    """Without pictures: what is drawn and told, the scripts and styles, and the tables to copy."""
    page = render(sample(num_losses=40, num_crops=0))
    for code in re.findall(r"<(?:script|style)>.*?</(?:script|style)>", page, re.DOTALL):
        page = page.replace(code, "")
    assert len(page.encode()) < 480_000
    assert '<details class="legend-of-many">' in page
    assert page.count('class="scroller tall"') >= 4


def test_exports_have_device_hours(data: ReportData) -> None:
    assert "| train s | device-h | patches/s |" in exports.to_markdown(data)
    assert "| 151.3 | 0.1681 | 412.6 |" in exports.to_markdown(data)
    assert "train s & device-h & patches/s" in exports.to_latex(data)
    assert ",train_seconds,device_hours,memory_gb,patches_per_second," in exports.to_csv(data)
