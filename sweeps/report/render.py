"""One self-contained HTML page from a `ReportData`: no request leaves it, and it can be read in ten years."""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from sweeps.report import exports, ladders, numbers, view, whole_set
from sweeps.report.crops import SCRIPTS, gallery
from sweeps.report.data import ReportData
from sweeps.report.found import found
from sweeps.report.palette import looks
from sweeps.report.progress import Progress
from sweeps.report.svg import clean


def render(
    data: ReportData,
    *,
    progress: Progress | None = None,
    refresh_s: float | None = None,
    is_live: bool = False,
) -> str:
    """The report as the text of one HTML file, to be written as UTF-8.

    Args:
        data: What it shows.
        progress: How far a running sweep has come; None: nothing is said of it.
        refresh_s: How often a running sweep's page reloads itself, where somebody writes it anew.
        is_live: Whether it is served by `sweeps.dashboard`, which it then asks for what has changed.
    """
    known = looks(data, by_plan=is_live or data.is_running)
    baseline = next((look for look in known.values() if look.is_baseline), None)
    pictures = gallery(data, known)
    page = template("template.html.j2").render(
        data=data,
        progress=progress,
        refresh_s=refresh_s,
        is_live=is_live,
        looks=known,
        style=Markup(own("style.css") + own("findings.css") + own("crops.css") + own("progress.css")),
        scripts=[
            Markup(own(name))
            for name in (*["live.js"] * is_live, "app.js", "curves.js", *SCRIPTS, "clips.js", "filter.js")
        ],
        baseline=baseline.name if baseline else "the baseline",
        # A line that ends in "95" would leave "% interval" behind.
        verdict=data.verdict.strip().replace(" %", "\u00a0%")
        or "No verdict yet: no loss has been evaluated.",
        primary=data.metrics[0] if data.metrics else None,
        table=view.table(data, known),
        whole=whole_set.table(data, known),
        exports={
            "csv": exports.to_csv(data),
            "markdown": exports.to_markdown(data),
            "latex": exports.to_latex(data),
        },
        ladders=ladders.views(data, known),
        gallery=pictures,
        curves=view.curve_figure(data, known) if data.curves else None,
        axes=view.curve_axes(data, known),
        found=found(data, known),
        tradeoff=view.tradeoff_figure(data, known),
        cost=view.cost_figure(data, known),
        cost_summary=view.cost_summary(data.candidates),
        trials=view.trial_views(data, known),
        trial_summary=view.trial_summary(data.trials) if data.trials else "",
    )
    return clean(page)


@cache
def template(name: str) -> Template:
    """A template that lies beside this module."""
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(own),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["exact"] = numbers.exact
    return environment.get_template(name)


def own(name: str) -> str:
    """The text of a file that lies beside this module, also where the package is a zip."""
    return resources.files("sweeps.report").joinpath(name).read_text(encoding="utf-8")
