"""Pages beside the report that the dashboard serves: the list of sweeps, and why something cannot be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sweeps.report.render import own, template


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One sweep of the list."""

    sweep_id: str
    name: str
    made: str
    state: str
    """`running`, `finished`, `unfinished` or `cannot be read`."""
    trials: str
    verdict: str
    is_going_on: bool


def index_page(rows: Sequence[IndexRow], *, store: str, is_live: bool) -> str:
    """The list of sweeps, in the order given."""
    return _page("index.html.j2", is_live=is_live, title="Sweeps", store=store, rows=rows)


def message_page(title: str, message: str, *, is_live: bool) -> str:
    """One message."""
    return _page("message.html.j2", is_live=is_live, title=title, message=message)


def _page(name: str, *, is_live: bool, **values: object) -> str:
    return template(name).render(
        style=Markup(own("style.css") + own("progress.css")),
        scripts=[Markup(own(script)) for script in (*["live.js"] * is_live, "app.js")],
        is_live=is_live,
        **values,
    )
