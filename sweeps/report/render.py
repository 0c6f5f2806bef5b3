"""One self-contained HTML page from a `ReportData`: no request leaves it, and it can be read in ten years."""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from sweeps.report import exports, ladders, view, whole_set
from sweeps.report.data import ReportData
from sweeps.report.palette import looks
from sweeps.report.svg import clean

REFRESH_S = 10
"""How often the page reloads itself while the sweep is running."""


def render(data: ReportData) -> str:
    """The report as the text of one HTML file, to be written as UTF-8."""
    known = looks(data)
    baseline = next((look for look in known.values() if look.is_baseline), None)
    crops = view.crop_views(data, known)
    page = template("template.html.j2").render(
        data=data,
        refresh_s=REFRESH_S,
        style=Markup(own("style.css")),
        scripts=[Markup(own("app.js")), Markup(own("viewer.js"))],
        baseline=baseline.name if baseline else "the baseline",
        verdict=data.verdict.strip() or "No verdict yet: no loss has been evaluated.",
        primary=data.metrics[0] if data.metrics else None,
        table=view.table(data, known),
        whole=whole_set.table(data, known),
        exports={
            "csv": exports.to_csv(data),
            "markdown": exports.to_markdown(data),
            "latex": exports.to_latex(data),
        },
        ladders=ladders.views(data, known),
        crops=crops,
        curves=view.curve_figures(data, known) if data.curves else {},
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
    return environment.get_template(name)


def own(name: str) -> str:
    """The text of a file that lies beside this module, also where the package is a zip."""
    return resources.files("sweeps.report").joinpath(name).read_text(encoding="utf-8")
