"""The report in a real browser, opened from the disk as a reader would open it."""

from __future__ import annotations

import csv
import io
import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweeps.report.data import Crop, ReportData
from sweeps.report.pictures import beside
from sweeps.report.render import render
from tests.report_sample import sample, with_frames

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MISSING = (
    "No Chromium found. Install it (Debian: apt-get install chromium fonts-dejavu-core) "
    "or name its executable in SRLOSS_CHROMIUM."
)
SHOWN_PART = "document.querySelector('#layer-b')"
"""What of B is to be seen."""
TRANSFORMS = "[...document.querySelectorAll('#stage img')].map(image => getComputedStyle(image).transform)"


@dataclass
class Visit:
    """A page, with what it said and asked for while it was open."""

    page: object
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    executable = os.environ.get("SRLOSS_CHROMIUM") or shutil.which("chromium")
    if not executable:
        pytest.fail(MISSING) if os.environ.get("CI") else pytest.skip(MISSING)
    playwright = pytest.importorskip("playwright.sync_api") if not os.environ.get("CI") else _playwright()
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield launched
        launched.close()


def _playwright():
    import playwright.sync_api

    return playwright.sync_api


@pytest.fixture(scope="module")
def data() -> ReportData:
    return with_frames(sample())


@pytest.fixture(scope="module")
def report(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(data), encoding="utf-8")
    return path


@pytest.fixture
def visit(browser, report: Path) -> Iterator[Callable[..., Visit]]:
    contexts = []

    def opened(path: Path = report, *, width: int = 1280, **options) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        result = Visit(context.new_page())
        result.page.on("request", lambda request: result.requests.append(request.url))
        result.page.on("console", lambda message: result.complaints.append(message.text))
        result.page.on("pageerror", lambda error: result.complaints.append(str(error)))
        result.page.goto(path.as_uri())
        return result

    yield opened
    for context in contexts:
        context.close()


def names(page) -> list[str]:
    return page.locator("#main-table tbody th").evaluate_all("cells => cells.map(cell => cell.dataset.value)")


def divider(page) -> int:
    return int(page.locator("#stage").get_attribute("aria-valuenow"))


def middle_of(box: dict[str, float], *, right: float = 0.5, down: float = 0.5) -> tuple[float, float]:
    return box["x"] + box["width"] * right, box["y"] + box["height"] * down


def stage_box(page) -> dict[str, float]:
    """Where the stage is, the page having come to rest: a wheel that goes on scrolling does not zoom."""
    page.locator("#stage").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    return page.locator("#stage").bounding_box()


def zoom(page) -> float:
    """Of A, which must be that of B."""
    a, b = page.evaluate(TRANSFORMS)
    assert a == b
    return 1.0 if a == "none" else float(a.removeprefix("matrix(").partition(",")[0])


def stage_picture(page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(int)


def pixels_of(crop: Crop, label: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(dict(crop.images)[label])).convert("RGB")).astype(int)


def chosen(page, side: str) -> str:
    return page.locator(f"#choose-{side}").evaluate("box => box.selectedOptions[0].text")


def test_opens_with_one_request_and_no_complaint(visit, report: Path) -> None:
    seen = visit()
    seen.page.wait_for_timeout(300)
    asked = [url for url in seen.requests if not url.startswith("data:")]
    assert asked == [report.as_uri()]
    assert seen.complaints == []
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert seen.page.evaluate(broken) == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_the_body_never_scrolls_sideways(visit, width: int) -> None:
    page = visit(width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_divider_follows_mouse_and_keyboard(visit) -> None:
    page = visit().page
    stage = page.locator("#stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=4)
    assert divider(page) == 25
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] * 0.9, middle)
    assert divider(page) == 25
    assert "25%" in page.evaluate(f"getComputedStyle({SHOWN_PART}).clipPath")
    page.locator("#stage").focus()
    for key, expected in (
        ("ArrowRight", 27),
        ("PageDown", 17),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("End", 100),
    ):
        page.keyboard.press(key)
        assert divider(page) == expected
    assert "100 percent" in page.locator("#stage").get_attribute("aria-valuetext")


def test_a_finger_moves_the_divider_and_two_zoom(visit) -> None:
    page = visit(width=390, has_touch=True, is_mobile=True).page
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    assert divider(page) == 75
    box = stage_box(page)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *parts: float) -> None:
        points = [
            dict(zip("xy", middle_of(box, right=part), strict=True), id=n) for n, part in enumerate(parts)
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.4)
    touch("touchStart", 0.4, 0.6)
    for spread in (0.12, 0.16, 0.2):
        touch("touchMove", 0.5 - spread, 0.5 + spread)
    touch("touchEnd")
    assert zoom(page) == pytest.approx(2, rel=0.1)
    assert divider(page) == 75


def test_holding_shows_b_alone(visit) -> None:
    page = visit().page
    clip = f"getComputedStyle({SHOWN_PART}).clipPath"
    page.keyboard.down("f")
    assert page.evaluate(clip) == "none"
    page.keyboard.up("f")
    assert page.evaluate(clip) != "none"
    page.locator("#flip").hover()
    page.mouse.down()
    assert page.evaluate(clip) == "none"
    page.mouse.up()
    assert page.evaluate(clip) != "none"


def test_keys_and_tiles_choose_b(visit, data: ReportData) -> None:
    page = visit().page
    best = data.candidates[0].name
    assert (chosen(page, "a"), chosen(page, "b")) == ("bicubic", best)
    page.keyboard.press("3")
    assert chosen(page, "b") == data.candidates[1].name
    page.keyboard.press("0")
    assert chosen(page, "b") == "HR"
    assert page.locator("#score-b").inner_text() == ""
    second = page.locator(".crop").nth(1)
    second.get_by_role("button", name="Compare mse").click()
    assert chosen(page, "b") == "mse"
    assert second.locator("#viewer").count() == 1
    assert page.locator("#score-b").inner_text() == second.locator('[data-label="mse"]').get_attribute(
        "data-score"
    )


def test_the_difference_is_eight_times_that_of_the_pixels(visit, data: ReportData) -> None:
    page = visit().page
    stage_box(page)
    page.keyboard.press("d")
    assert page.locator("#show-difference").get_attribute("aria-pressed") == "true"
    a, b = (pixels_of(data.crops[0], chosen(page, side)) for side in "ab")
    expected = np.minimum(8 * np.abs(a - b), 255)
    drawn = stage_picture(page)
    side = drawn.shape[0] / len(expected)
    centres = ((np.arange(len(expected)) + 0.5) * side).astype(int)
    off = np.abs(drawn[np.ix_(centres, centres)] - expected)[8:-8, 8:-8]
    assert expected.max() > 60
    assert np.quantile(off, 0.99) <= 8
    page.locator("#choose-b").select_option(label="bicubic")
    assert stage_picture(page)[8:-8, 8:-8].max() == 0
    page.locator("#show-difference").click()
    assert stage_picture(page).max() > 60


def test_a_and_b_zoom_and_pan_as_one(visit) -> None:
    seen = visit()
    page = seen.page
    box = stage_box(page)
    page.mouse.move(*middle_of(box, right=0.25, down=0.25))
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(400)
    assert zoom(page) == 1
    box = stage_box(page)
    page.mouse.move(*middle_of(box, right=0.25, down=0.25))
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.querySelector('#stage').classList.contains('zoomed')")
    assert zoom(page) == pytest.approx(np.e, rel=1e-3)
    # What was under the pointer stays there.
    held = page.evaluate(TRANSFORMS)[0].removesuffix(")").split(", ")
    assert float(held[4]) == pytest.approx(-box["width"] * 0.25 * (np.e - 1), rel=0.01)
    before = page.evaluate(TRANSFORMS)[0]
    page.mouse.move(*middle_of(box, right=0.8))
    page.mouse.down()
    page.mouse.move(*middle_of(box, right=0.7), steps=3)
    page.mouse.up()
    moved = page.evaluate(TRANSFORMS)[0]
    assert float(moved.split(", ")[4]) - float(before.split(", ")[4]) == pytest.approx(
        -box["width"] / 10, abs=1.5
    )
    assert divider(page) == 50
    # Near the divider a drag moves it, also zoomed in.
    page.mouse.move(*middle_of(box, right=0.505))
    page.mouse.down()
    page.mouse.move(*middle_of(box, right=0.3), steps=3)
    page.mouse.up()
    assert divider(page) == 30
    assert page.evaluate(TRANSFORMS)[0] == moved
    for _ in range(12):
        page.keyboard.press("+")
    assert zoom(page) == 16
    page.keyboard.press("-")
    assert zoom(page) == pytest.approx(16 / 2**0.5)
    page.locator("#zoom-out").click()
    assert zoom(page) == pytest.approx(8)
    assert page.locator("#zoom").inner_text() == "8×"
    page.reload()
    assert zoom(page) == pytest.approx(8)
    page.keyboard.press("r")
    assert (zoom(page), divider(page)) == (1, 50)
    page.mouse.dblclick(*middle_of(stage_box(page), right=0.9))
    assert zoom(page) == 4
    page.mouse.dblclick(*middle_of(stage_box(page), right=0.9))
    assert zoom(page) == 1
    assert seen.complaints == []


def test_the_pixel_under_the_pointer_is_marked_everywhere_with_its_values(visit, data: ReportData) -> None:
    page = visit().page
    box = stage_box(page)
    page.mouse.move(*middle_of(box, right=40.5 / 128, down=70.5 / 128))
    crop = page.locator(".crop").first
    mark = "tile => { const s = getComputedStyle(tile, '::after'); return [s.content, s.left, s.top, tile.clientWidth] }"
    for content, left, top, width in crop.locator(".picture").evaluate_all(f"tiles => tiles.map({mark})"):
        assert content == '""'
        assert float(left.removesuffix("px")) == pytest.approx(width * 40.5 / 128, abs=0.2)
        assert float(top.removesuffix("px")) == pytest.approx(width * 70.5 / 128, abs=0.2)
    a, b = (pixels_of(data.crops[0], chosen(page, side))[70, 40] for side in "ab")
    told = page.locator("#readout").inner_text().replace("\u2007", " ").splitlines()
    assert [line.split() for line in told] == [
        ["x", "40,", "y", "70"], ["A", *map(str, a)], ["B", *map(str, b)], ["B−A", *map(str, b - a)]
    ]  # fmt: skip
    crop.locator(".picture").nth(4).hover(position={"x": 5, "y": 5})
    assert page.locator("#readout").inner_text() != "\n".join(told)
    assert page.locator(".here").is_visible()
    page.mouse.move(0, 0)
    assert page.locator(".pointed").count() == 0


def test_keys_turn_crops_fill_the_screen_and_explain_themselves(visit, data: ReportData) -> None:
    seen = visit()
    page = seen.page
    stage_box(page)
    held = "document.querySelector('#viewer').parentElement.dataset.title"
    page.keyboard.press("0")
    page.keyboard.press("Shift+3")
    for key, place in (("]", 1), ("n", 2), ("[", 1), ("p", 0), ("p", len(data.crops) - 1), ("n", 0)):
        page.keyboard.press(key)
        assert page.evaluate(held) == data.crops[place].title
        assert page.locator("#which").inner_text() == f"{place + 1} of {len(data.crops)}"
        assert (chosen(page, "a"), chosen(page, "b")) == (data.candidates[1].name, "HR")
    for key, at in (("t", 100), ("t", 0)):
        page.keyboard.press(key)
        assert divider(page) == at
    assert page.locator("#only-b").get_attribute("aria-pressed") == "true"
    assert not page.locator("#keys dl").is_visible()
    page.keyboard.press("?")
    assert page.locator("#keys dl").is_visible()
    page.locator("#stage").focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert page.locator("#viewer").bounding_box() == {"x": 0, "y": 0, "width": 1280, "height": 900}
    page.keyboard.press("n")
    assert page.locator("#what").inner_text() == data.crops[1].title
    assert page.evaluate("document.activeElement.id") == "stage"
    page.locator("#fill").click()
    page.wait_for_timeout(200)
    assert page.locator("#viewer").bounding_box()["width"] < 1280
    assert page.evaluate(held) == data.crops[1].title
    page.keyboard.press("+")
    for _ in range(20):
        page.keyboard.press("Shift+ArrowRight")
    assert page.evaluate(TRANSFORMS)[0].split(", ")[4] != "0"
    assert "x " in page.locator("#readout").inner_text()
    assert seen.complaints == []


def test_clips_over_time_are_compared_like_pictures(visit, data: ReportData) -> None:
    page = visit().page
    frames = page.locator('[data-kind="frames"]')
    frames.get_by_role("button", name="Compare l1", exact=True).click()
    assert chosen(page, "b") == "l1"
    assert page.locator("#score-b").inner_text() == data.crops[-2].notes["l1"]
    box = page.locator("#stage").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(7, rel=0.02)
    lefts = frames.locator(".picture").evaluate_all("tiles => tiles.map(t => t.getBoundingClientRect().left)")
    assert len(set(lefts)) == 1


def test_pictures_beside_the_page_are_compared_too(visit, data: ReportData, tmp_path: Path) -> None:
    crops = tuple(beside(replace(crop, name=crop.title), "page_images") for crop in data.crops[:2])
    for crop in crops:
        for label, content in crop.images:
            (tmp_path / crop.files[label]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / crop.files[label]).write_bytes(content)
    (tmp_path / "page.html").write_text(render(replace(data, crops=crops)), encoding="utf-8")
    seen = visit(tmp_path / "page.html")
    box = stage_box(seen.page)
    seen.page.keyboard.press("d")
    assert stage_picture(seen.page).max() > 60
    seen.page.mouse.move(*middle_of(box))
    assert "No values" in seen.page.locator("#readout").inner_text()
    assert all(url.startswith(tmp_path.as_uri()) or url.startswith("data:") for url in seen.requests)
    assert seen.complaints == []


def test_headers_sort_and_the_baseline_stays_below(visit, data: ReportData) -> None:
    page = visit().page
    before = names(page)
    assert before == [row.name for row in data.candidates]
    heading = page.locator("#main-table thead th", has_text="LPIPS")
    heading.locator("button").click()
    trained = [row for row in data.candidates if not row.is_baseline]
    by_lpips = [row.name for row in sorted(trained, key=lambda row: row.scores["lpips"].mean)]
    assert names(page) == [*by_lpips, "bicubic"]
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert names(page) == [*by_lpips[::-1], "bicubic"]
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.locator('#main-table th:not([aria-sort="none"])[aria-sort]').count() == 1
    page.locator("#main-table thead th", has_text="patches/s").locator("button").click()
    by_rate = sorted(trained, key=lambda row: row.images_per_second or 0.0, reverse=True)
    assert names(page) == [*(row.name for row in by_rate), "bicubic"]


def test_trials_sort_too(visit) -> None:
    page = visit().page
    assert page.locator(".trials tbody tr").first.get_attribute("class") == "failed"
    page.locator(".trials thead th", has_text="seconds").locator("button").click()
    seconds = page.locator(".trials tbody tr td:nth-child(7)").evaluate_all(
        "c => c.map(x => Number(x.dataset.value))"
    )
    assert seconds == sorted(seconds, reverse=True)


def test_a_loss_is_highlighted_everywhere(visit, data: ReportData) -> None:
    page = visit().page
    name = data.candidates[1].name
    page.locator("#main-table").get_by_role("button", name=name, exact=True).click()
    lit = page.locator(".lit")
    assert lit.locator("visible=true").count() >= 8
    assert set(lit.evaluate_all("found => found.map(element => element.dataset.loss)")) == {"1"}
    for place in (
        "#main-table tr.lit",
        ".tile.lit",
        ".curves .series.lit",
        ".plane .series.lit",
        ".trials tr.lit",
    ):
        assert page.locator(place).count() > 0, place
    page.locator("#tradeoff .for-wide .series[data-loss='2'] .mark").click()
    assert set(lit.evaluate_all("found => found.map(element => element.dataset.loss)")) == {"2"}
    page.keyboard.press("Escape")
    assert lit.count() == 0


def test_the_theme_follows_the_system_and_the_button(visit) -> None:
    page = visit(color_scheme="dark").page
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.locator("#theme").click()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.reload()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.locator("#theme").click()
    assert page.evaluate(paper) == dark != "rgb(255, 255, 255)"


def test_curves_are_laid_along_other_axes_and_back(visit, data: ReportData) -> None:
    page = visit().page
    line = page.locator("#curves .for-wide .series[data-loss='1'] .line")
    numbers = "path => path.getAttribute('d').match(/[\\d.]+/g).map(Number)"
    before = line.evaluate(numbers)
    page.get_by_role("button", name="Device-minutes", exact=True).click()
    after = line.evaluate(numbers)
    assert after[1::2] == before[1::2]
    hours = [
        statistics.fmean(at)
        for at in zip(*(c.device_hours for c in data.curves if c.candidate == "l1"), strict=True)
    ]
    longest = [
        statistics.fmean(at)
        for at in zip(*(c.device_hours for c in data.curves if c.candidate == "l1 + 0.1*lpips"), strict=True)
    ]
    area = page.locator("#curves .for-wide svg").evaluate(
        "svg => [Number(svg.dataset.left), Number(svg.dataset.right)]"
    )
    assert after[::2] == pytest.approx(
        [area[0] + h / longest[-1] * (area[1] - area[0]) for h in hours], abs=0.7
    )
    assert page.locator("#curves .for-wide .x-title").text_content() == "device-minutes"
    mark = page.locator("#curves .for-wide .series[data-loss='1'] [data-at]").last
    shift = mark.evaluate("mark => mark.transform.baseVal[0].matrix.e")
    assert shift == pytest.approx(after[-2] - before[-2], abs=0.1)
    page.get_by_role("button", name="Steps", exact=True).click()
    assert line.evaluate(numbers) == pytest.approx(before, abs=0.7)


def test_the_filter_leaves_what_fits_and_the_baseline(visit) -> None:
    page = visit().page
    page.keyboard.press("/")
    page.keyboard.type("lp, MSE")
    seen = page.locator("#main-table tbody tr:visible th").evaluate_all(
        "cells => cells.map(cell => cell.dataset.value)"
    )
    assert seen == ["mse", "l1 + 0.1*lpips", "bicubic"]
    assert page.locator("#filtered").text_content() == "2 of 6 losses"
    assert set(
        page.locator("[data-loss]:visible").evaluate_all("found => found.map(one => one.dataset.loss)")
    ) == {"3", "5", "b"}
    assert page.locator(".trials tbody tr:visible").count() == 6
    page.keyboard.type("nobody")
    assert page.locator("#filtered").text_content() == "1 of 6 losses"
    page.keyboard.press("Escape")
    assert page.locator("#main-table tbody tr:visible").count() == 7
    # Keys of the viewer work again, as the box has lost the focus.
    assert page.evaluate("document.activeElement.id") != "filter"


def test_any_two_losses_are_compared_clip_by_clip(visit, data: ReportData) -> None:
    seen = visit()
    page = seen.page
    clips = data.findings.clips
    assert clips is not None
    page.locator("#clips-a").select_option(label="mse")
    page.locator("#clips-b").select_option(label="l1")
    pairs = list(zip(clips.by_name["mse"], clips.by_name["l1"], strict=True))
    gains = {title: a - b for title, (a, b) in zip(clips.titles, pairs, strict=True)}
    ordered = sorted(gains, key=gains.__getitem__)
    told = page.locator("table.clips").nth(1).locator("tbody tr td:first-of-type").all_text_contents()
    assert told == [*ordered[:-4:-1], *ordered[:3]]
    points = page.locator("#clip-scatter circle")
    assert points.count() == len(clips.titles)
    assert page.locator("#clip-scatter circle.open").count() == sum(gain <= 0 for gain in gains.values())
    marks = points.evaluate_all(
        "all => all.map(one => [Number(one.getAttribute('cx')), Number(one.getAttribute('cy'))])"
    )
    line = page.locator("#clip-scatter .equal").evaluate(
        "l => ['x1', 'y1', 'x2', 'y2'].map(n => Number(l.getAttribute(n)))"
    )
    for (x, y), (a, b) in zip(marks, pairs, strict=True):
        # Above the line of equal scores, which falls from left to right in pixels, the first is better.
        on_line = line[1] + (x - line[0]) / (line[2] - line[0]) * (line[3] - line[1])
        assert abs(on_line - y) < 0.2 or (y < on_line) == (a > b)
    page.locator("table.clips .thumbnail").first.click()
    assert seen.complaints == []


def test_the_csv_equals_the_table(visit, tmp_path: Path) -> None:
    page = visit().page
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "photos-x4-7f3a91.csv"
    saved = tmp_path / "table.csv"
    download.value.save_as(saved)
    rows = list(csv.DictReader(io.StringIO(saved.read_text(encoding="utf-8"))))
    assert [row["loss"] for row in rows] == names(page)
    means = page.locator("#main-table tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.querySelectorAll('.mean')].map(mean => mean.textContent))"
    )
    for row, shown in zip(rows, means, strict=True):
        assert [f"{float(row['psnr_y_mean']):.2f}", f"{float(row['ssim_y_mean']):.4f}"] == shown[:2]
        assert f"{float(row['lpips_mean']):.4f}" == shown[2]


@pytest.mark.parametrize(
    ("button", "start"),
    [("Copy CSV", "loss,seeds,"), ("Copy Markdown", "| loss |"), ("Copy LaTeX", "% needs")],
)
def test_copying_puts_the_table_on_the_clipboard(visit, button: str, start: str) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"]).page
    page.get_by_role("button", name=button).click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith(start)


def test_a_running_report_keeps_what_the_reader_chose(visit, report: Path) -> None:
    seen = visit()
    seen.page.keyboard.press("4")
    seen.page.locator("#main-table").get_by_role("button", name="l1", exact=True).click()
    before = chosen(seen.page, "b")
    seen.page.reload()
    assert chosen(seen.page, "b") == before
    assert seen.page.locator("#main-table tr.lit").count() == 1
    # A page that is not loaded anew gets new pictures in place; each key still does its work once.
    seen.page.evaluate(
        """() => {
          const [old, fresh] = ['.as-b img', '.tile:last-child img'].map((place) => document.querySelector(place));
          old.src = fresh.src;
          document.dispatchEvent(new CustomEvent('srloss:updated', { detail: [] }));
        }"""
    )
    assert chosen(seen.page, "b") == before
    assert seen.page.evaluate("one('#image-b').src === one('.tile:last-child img').src")
    seen.page.keyboard.press("d")
    assert seen.page.locator("#stage.differing").count() == 1
    assert seen.complaints == []


def test_without_javascript_everything_but_the_controls_is_there(visit) -> None:
    page = visit(java_script_enabled=False).page
    assert page.locator("h1").is_visible()
    assert page.locator(".curves").first.is_visible()
    assert not page.locator("#viewer").is_visible()
    assert not page.get_by_role("button", name="Copy CSV").is_visible()


def test_print_shows_all_crops_and_no_controls(visit, data: ReportData) -> None:
    page = visit(color_scheme="dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#viewer").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.locator(".tile img").count() == sum(len(crop.images) for crop in data.crops)
    assert page.locator(".strip").first.evaluate("strip => getComputedStyle(strip).flexWrap") == "wrap"


@pytest.mark.parametrize(
    "options", [{"num_losses": 1, "num_seeds": 1}, {"num_losses": 20, "num_crops": 2}, {"num_crops": 0}]
)
def test_few_and_many_losses_work_without_complaint(visit, tmp_path: Path, options: dict[str, int]) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(sample(**options)), encoding="utf-8")
    seen = visit(path, width=390)
    seen.page.keyboard.press("d")
    seen.page.keyboard.press("9")
    seen.page.wait_for_timeout(200)
    assert seen.complaints == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
