"""The report as text: escaped, self-contained, complete, and drawn for every input that a sweep can leave behind."""

from __future__ import annotations

import csv
import html
import io
import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from sweeps.report import exports, numbers, svg
from sweeps.report.data import Estimate, ReportData
from sweeps.report.palette import looks
from sweeps.report.plane import Axis, Point, pareto
from sweeps.report.render import render
from tests.report_sample import NAN, NASTY, ODD_INPUTS, nasty, sample


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample()


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render(data)


class _Reader(HTMLParser):
    """Collects what is in the page and checks that tags close in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)]


def names_in_table(page: str) -> list[str]:
    table = page[page.index('id="main-table"') : page.index("</table>")]
    return [
        html.unescape(name) for name in re.findall(r'<th scope="row" data-value="(.*?)">', table, re.DOTALL)
    ]


# --- one page, by itself ----------------------------------------------------------------------------------------------


def test_the_first_sentence_is_the_verdict(data: ReportData, page: str) -> None:
    heading = re.search(r"<h1.*?>(.*?)</h1>", page, re.DOTALL)
    assert heading
    assert html.unescape(heading[1]).replace("\u00a0", " ") == data.verdict
    assert page.index("<h1") < page.index(html.escape(data.caveats[0])) < page.index("<table")


def test_nothing_is_asked_of_the_network(page: str) -> None:
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) == {"http://www.w3.org/2000/svg"}
    for tag, attributes in read(page).tags:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes[name])
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in page
    assert '<link rel="icon" href="data:,">' in page


def test_no_inline_handlers(page: str) -> None:
    assert not [name for _, attributes in read(page).tags for name in attributes if name.startswith("on")]


def test_identical_data_give_identical_pages(data: ReportData, page: str) -> None:
    assert render(data) == page


def test_ids_are_unique(page: str) -> None:
    found = [attributes["id"] for _, attributes in read(page).tags if "id" in attributes]
    assert len(found) == len(set(found))


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_table_has_every_row_in_order(data: ReportData, page: str) -> None:
    assert names_in_table(page) == [row.name for row in data.candidates]


def test_the_table_has_every_number(data: ReportData, page: str) -> None:
    text = read(page).text
    for row in data.candidates:
        for metric in data.metrics:
            assert f"{row.scores[metric.name].mean:.{metric.decimals}f}" in text
            if metric.name in row.to_baseline:
                difference = row.to_baseline[metric.name]
                assert numbers.interval(difference.estimate, metric.decimals) in text
                assert numbers.signed(difference.estimate.mean, metric.decimals) in text
                assert numbers.p_value(difference.p_adjusted) in text
    for metric in data.metrics:
        assert f"{metric.label} " in text
        assert metric.convention in text


def test_best_and_tied_are_marked(page: str) -> None:
    assert page.count('class="mean best"') == 3
    assert page.count('class="mean tied"') == 3


def test_failures_and_early_stops_come_first_with_their_reasons(data: ReportData, page: str) -> None:
    trials = page[page.index('id="trials"') :]
    order = re.findall(r'<span class="state">(.*?)</span>', trials)
    assert order[:3] == ["failed", "stopped early", "finished"]
    assert len(order) == len(data.trials)
    text = read(page).text
    for trial in data.trials:
        assert trial.reason in text
        assert trial.stream_hash in text
        assert trial.command in text
    assert "18 trials: 16 finished, 1 stopped early, 1 failed, 1 needed more than one attempt." in text


def test_facts_and_command_are_there(data: ReportData, page: str) -> None:
    text = read(page).text
    assert data.command in text
    assert all(name in text and value in text for name, value in data.facts)


def test_every_crop_has_every_version_and_starts_with_baseline_against_best(
    data: ReportData, page: str
) -> None:
    found = read(page)
    labels = [attributes["data-label"] for _, attributes in found.tags if "data-label" in attributes]
    assert labels == [label for crop in data.crops for label, _ in crop.images]
    crops = [attributes for _, attributes in found.tags if "data-kind" in attributes]
    assert [(crop["data-a"], crop["data-b"]) for crop in crops] == [("1", "2")] * len(data.crops)


# --- drawings ---------------------------------------------------------------------------------------------------------


def test_drawings_are_well_formed_and_finite(page: str) -> None:
    found = drawings(page)
    assert len(found) > 20
    for drawing in found:
        for element in drawing.iter():
            for name, value in element.attrib.items():
                assert not re.search(r"\bnan\b|\binf\b", value), (element.tag, name, value)


def test_every_loss_is_in_every_chart(data: ReportData, page: str) -> None:
    keys = {look.key for look in looks(data).values()}
    charts = [drawing for drawing in drawings(page) if "chart" in drawing.get("class", "").split()]
    curves = [chart for chart in charts if "curves" in chart.get("class", "")]
    planes = [chart for chart in charts if "plane" in chart.get("class", "")]
    assert (len(curves), len(planes)) == (2, 4)
    for chart in (*curves, *planes[:2]):
        assert {element.get("data-loss") for element in chart.iter() if element.get("data-loss")} == keys


def test_texts_of_a_chart_stay_inside_it(page: str) -> None:
    for chart in drawings(page):
        width, height = float(chart.get("width", 0)), float(chart.get("height", 0))
        for text in chart.iter("{http://www.w3.org/2000/svg}text"):
            x, length = float(text.get("x", 0)), len(text.text or "") * svg.CHARACTER_WIDTH * 0.93
            left = {"end": x - length, "middle": x - length / 2}.get(text.get("text-anchor", ""), x)
            assert left > -8, text.text
            assert left + length < width + 8, text.text
            assert 0 < float(text.get("y", 0)) <= height, text.text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (27.31, 28.52, [27.5, 27.75, 28.0, 28.25, 28.5]),
        (0, 400, [0, 100, 200, 300, 400]),
        (-0.0003, 0.0011, [0, 0.0005, 0.001]),
        (1e6, 4e6, [1e6, 2e6, 3e6, 4e6]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert svg.ticks(low, high) == pytest.approx(expected)


def test_tick_labels_differ(page: str) -> None:
    for chart in drawings(page):
        ticks = [
            text.text
            for text in chart.iter()
            if text.get("class") == "tick" and text.get("text-anchor") == "end"
        ]
        assert len(ticks) == len(set(ticks))


def test_spread_keeps_labels_apart() -> None:
    placed = svg.spread([50, 51, 52, 300, 299], gap=15, low=0, high=305)
    ordered = sorted(placed)
    assert all(after - before >= 15 for before, after in itertools.pairwise(ordered))
    assert min(placed) >= 0
    assert max(placed) <= 305


def test_pareto_front_follows_the_directions(data: ReportData) -> None:
    def at(name: str, x: float, y: float) -> Point:
        return Point(looks(data)[name], Estimate(x, x, x), Estimate(y, y, y))

    points = [
        at("l1", 28.0, 0.30),
        at("mse", 28.1, 0.32),
        at("charbonnier", 27.9, 0.31),
        at("bicubic", 99, 0.0),
    ]
    fidelity, perception = Axis("PSNR-Y", True, 2), Axis("LPIPS", False, 4)
    assert [point.look.name for point in pareto(points, fidelity, perception)] == ["l1", "mse"]


# --- hostile and odd input --------------------------------------------------------------------------------------------


def test_everything_is_escaped(data: ReportData, page: str) -> None:
    hostile = render(nasty(data))
    assert "<script>alert" not in hostile
    assert hostile.count("<script") == page.count("<script")
    assert "\x00" not in hostile
    assert "{{ 7*7 }}" in hostile
    assert all(drawings(hostile))
    known = {attribute for _, attributes in read(page).tags for attribute in attributes}
    assert {attribute for _, attributes in read(hostile).tags for attribute in attributes} <= known
    assert svg.clean(NASTY) in names_in_table(hostile)


@pytest.mark.parametrize("name", ODD_INPUTS)
def test_odd_input_still_gives_a_page(name: str) -> None:
    data = ODD_INPUTS[name]
    page = render(data)
    read(page)
    assert names_in_table(page) == [row.name for row in data.candidates]
    for drawing in drawings(page):
        assert not [
            v for e in drawing.iter() for k, v in e.attrib.items() if k != "aria-label" and "nan" in v.split()
        ]
    assert len(page.encode()) < 5_000_000


def test_a_running_sweep_reloads_and_says_so(page: str) -> None:
    running = render(ODD_INPUTS["running"], refresh_s=10)
    assert '<meta http-equiv="refresh" content="10">' in running
    assert "Still running" in running
    once = render(ODD_INPUTS["running"])
    assert 'http-equiv="refresh"' not in once
    assert "Still running" in once
    assert 'http-equiv="refresh"' not in render(
        replace(ODD_INPUTS["running"], is_running=False), refresh_s=10
    )
    assert 'http-equiv="refresh"' not in page
    assert "Still running" not in page


def test_a_table_without_rows_is_not_shown(page: str) -> None:
    assert '<section id="scores" hidden>' in render(ODD_INPUTS["no candidates"])
    assert '<section id="scores">' in page


@pytest.mark.parametrize(
    ("p", "said"), [(0.20312, "p = 0.2"), (0.0078, "p = 0.0078"), (0.0004, "p < 0.001"), (NAN, "p n/a")]
)
def test_p_is_rounded_as_in_the_verdict(p: float, said: str) -> None:
    assert numbers.p_value(p) == said


def test_without_caveats_there_is_no_empty_box() -> None:
    assert "Before you believe it" not in render(ODD_INPUTS["no caveats"])


def test_forty_losses_look_different() -> None:
    found = list(looks(sample(num_losses=40, num_crops=0)).values())
    assert len({(look.colour, look.shape, look.dash) for look in found}) == 41


@pytest.mark.parametrize(
    ("value", "decimals", "shown"),
    [
        (0.125, 2, "+0.12"),
        (-0.5, 2, "\u22120.50"),
        (0.0, 2, "0.00"),
        (None, 2, "\u2013"),
        (NAN, 2, "NaN"),
        (-math.inf, 2, "\u2212\u221e"),
        (12345.6, 0, "+12\u202f346"),
    ],
)
def test_signed(value: float | None, decimals: int, shown: str) -> None:
    assert numbers.signed(value, decimals) == shown


# --- exports ----------------------------------------------------------------------------------------------------------


def test_csv_holds_the_table_at_full_precision(data: ReportData) -> None:
    rows = list(csv.DictReader(io.StringIO(exports.to_csv(data))))
    assert [row["loss"] for row in rows] == [row.name for row in data.candidates]
    for found, row in zip(rows, data.candidates, strict=True):
        assert float(found["psnr_y_mean"]) == row.scores["psnr_y"].mean
        if row.is_baseline:
            assert found["lpips_difference"] == found["train_seconds"] == ""
            assert float(found["told_from_real_auc"]) == 0.996
        else:
            assert float(found["lpips_difference_low"]) == row.to_baseline["lpips"].estimate.low
            assert float(found["train_seconds"]) == row.train_seconds
            assert float(found["device_hours"]) == row.device_hours
            assert row.on_whole_set is not None
            assert float(found["primary_p5"]) == row.on_whole_set.p5


def test_the_second_table_shows_what_was_recorded(data: ReportData) -> None:
    page = render(data)
    first = data.candidates[0].on_whole_set
    assert first is not None
    table = page[page.index('id="whole-table"') :]
    table = table[: table.index("</table>")]
    shown = [f"{value:.2f}" for value in (first.p5, first.median, first.p95, first.of_the_mean, first.rmse)]
    assert re.findall(r"<span>([\d.]+)</span>", table)[:6] == [*shown, "0.970"]
    assert "[0.890, 1.000]" in table
    assert "0.5 = cannot be told" in page
    assert 'id="whole-table"' not in render(ODD_INPUTS["nothing on the whole set"])
    assert "not measured: 3 held-out pictures; it takes 4 or more." in render(ODD_INPUTS["few sources"])
    assert "told from real" not in exports.to_markdown(ODD_INPUTS["nothing on the whole set"])
    assert "0.970 [0.890, 1.000]" in exports.to_markdown(data).splitlines()[2]


def test_csv_survives_any_name(data: ReportData) -> None:
    rows = list(csv.reader(io.StringIO(exports.to_csv(nasty(data)))))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[1][0] == NASTY


def test_markdown_is_a_table_whatever_the_names(data: ReportData) -> None:
    lines = exports.to_markdown(nasty(data)).split("\n\n")[0].splitlines()
    assert len(lines) == 2 + len(data.candidates)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[1:]}) == 1
    assert "**28.52**" in lines[2]
    assert "<ins>28.44</ins>" in lines[3]


def test_latex_is_balanced_and_escaped(data: ReportData) -> None:
    latex = exports.to_latex(data)
    assert latex.count("{") == latex.count("}")
    assert r"\toprule" in latex
    assert r"\textbf{28.52}" in latex
    assert r"\underline{28.44}" in latex
    escaped = exports.to_latex(replace(data, candidates=(replace(data.candidates[0], name="a_b & 5% {x}"),)))
    assert r"a\_b \& 5\% \{x\}" in escaped
    escaped = exports.to_latex(replace(data, candidates=(replace(data.candidates[0], name="<a> | b"),)))
    assert r"\textless{}a\textgreater{} \textbar{} b &" in escaped
    columns = {
        len(re.findall(r"(?<!\\)&", line)) for line in latex.splitlines() if line.startswith(("l1", "mse"))
    }
    assert columns == {4 + 2 * len(data.metrics) + 4}
