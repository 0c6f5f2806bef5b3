"""The report in a real browser, opened from the disk as a reader would open it."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sweeps.report.data import ReportData
from sweeps.report.render import render
from tests.report_sample import sample

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
COLOURS = "[...document.querySelector('#difference').getContext('2d').getImageData(0, 0, 128, 128).data]"


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
    return sample()


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


def test_the_divider_follows_the_mouse(visit) -> None:
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
    assert "25%" in stage.evaluate("stage => getComputedStyle(stage.querySelector('#image-b')).clipPath")


def test_the_divider_follows_a_finger(visit) -> None:
    page = visit(width=390, has_touch=True, is_mobile=True).page
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    assert divider(page) == 75


def test_the_divider_follows_the_keyboard(visit) -> None:
    page = visit().page
    page.locator("#stage").focus()
    for key, expected in (
        ("ArrowRight", 52),
        ("Shift+ArrowLeft", 42),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("End", 100),
    ):
        page.keyboard.press(key)
        assert divider(page) == expected
    assert "100 percent" in page.locator("#stage").get_attribute("aria-valuetext")


def test_holding_shows_b_alone(visit) -> None:
    page = visit().page
    clip = "getComputedStyle(document.querySelector('#image-b')).clipPath"
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


def test_the_difference_map_is_drawn(visit) -> None:
    page = visit().page
    page.keyboard.press("d")
    page.wait_for_function(
        f"(() => {{ const p = {COLOURS}; return p.some((v, i) => i % 4 < 3 && v > 0); }})()"
    )
    assert page.locator("#difference").is_visible()
    assert page.locator("#show-difference").get_attribute("aria-pressed") == "true"
    page.locator("#choose-b").select_option(label="bicubic")
    page.wait_for_function(f"{COLOURS}.every((value, index) => index % 4 === 3 || value === 0)")
    page.locator("#show-difference").click()
    assert not page.locator("#difference").is_visible()


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


def test_curves_switch_between_steps_and_seconds(visit) -> None:
    page = visit().page
    steps, seconds = page.locator('[data-figure="steps"]'), page.locator('[data-figure="seconds"]')
    assert steps.is_visible()
    assert not seconds.is_visible()
    page.get_by_role("button", name="Seconds", exact=True).click()
    assert seconds.is_visible()
    assert not steps.is_visible()


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
