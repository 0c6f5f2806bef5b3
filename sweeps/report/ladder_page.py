"""The page of one trial's ladder: one self-contained HTML file, in the look of a sweep's report."""

from __future__ import annotations

import shlex

from markupsafe import Markup

from sweeps.candidates import loss_name
from sweeps.report.crops import SCRIPTS
from sweeps.report.ladder import Ladder, transfer
from sweeps.report.ladder_charts import heat_map
from sweeps.report.ladder_view import auc_figure, auc_series, crop_views, quality_figure, quality_series
from sweeps.report.ladder_words import StageRow, stage_rows, titled, where
from sweeps.report.render import own, template
from sweeps.report.svg import clean


def render_ladder(ladder: Ladder) -> str:
    """The page as text, to be written as UTF-8."""
    metric = ladder.metric
    rows = stage_rows(ladder)
    page = template("ladder.html.j2").render(
        title=ladder.config.name or loss_name(ladder.config),
        trial_id=ladder.folder.name,
        is_running=ladder.is_running,
        style=Markup(own("style.css") + own("crops.css")),
        scripts=[Markup(own(name)) for name in ("app.js", *SCRIPTS)],
        where=where(ladder),
        why=ladder.why,
        metric=metric,
        quality_title=titled(metric) if metric else "",
        rows=rows,
        why_no_test=_why_no_test(rows),
        quality=quality_figure(quality_series(ladder), metric) if metric else None,
        aucs=auc_figure(auc_series(ladder)) if metric else None,
        matrix=heat_map(transfer(ladder.records)) if ladder.records else None,
        crops=crop_views(ladder),
        facts=_facts(ladder),
        command=shlex.join(["srloss", "ladder", "show", str(ladder.folder)]),
    )
    return clean(page)


def _why_no_test(rows: list[StageRow]) -> str:
    """Why stages have no quality on the test clips, each reason once."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.why_no_test:
            reasons.setdefault(row.why_no_test, []).append(row.stage)
    return "; ".join(f"stage {', '.join(stages)}: {why}" for why, stages in reasons.items())


def _facts(ladder: Ladder) -> list[tuple[str, str]]:
    config, rule = ladder.config, ladder.config.ladder
    assert rule is not None, "read_ladder looked"
    adversarial = config.adversarial
    budget = f"{config.training.steps} steps in at most {rule.stages} stages"
    if config.training.max_seconds:
        budget += f", at most {config.training.max_seconds:g} s"
    begin = "new weights" if rule.begin == "scratch" else "the weights of the stage before"
    facts = [
        ("Loss of stage 0", loss_name(config)),
        ("Later stages look through", _NEXT[rule.next_loss]),
        ("Later stages begin with", begin),
        ("Generator", config.model.type),
        ("Discriminator", adversarial.discriminator.type if adversarial else "none"),
        ("Budget", budget),
        ("Equally good", f"90 % interval of the difference within \u00b1{rule.stop.margin:g}, "
         f"{rule.stop.stages_running} stages in a row" + ("" if rule.stop.is_binding else "; told, but not acted upon")),
        ("Seed", str(config.seed)),
    ]  # fmt: skip
    return [*facts, ("Folder", str(ladder.folder))]


_NEXT = {
    "discriminator": "the discriminator of the stage before",
    "same": "what stage 0 looks through: a control",
    "random": "an untrained discriminator: a control",
}
