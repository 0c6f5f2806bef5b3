"""The loss comparison as a saved view of W&B's app, built from a sweep's plan. The only door to wandb-workspaces.

What it shows are the runs and keys that `sr.tracked` and `sweeps.tracking` send; it reads no results itself. Panels have ids that
depend on the sweep alone, so that the same sweep gives the same view, and saving it again changes that view.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sr.config import LossConfig
from sr.metrics import METRICS
from sweeps.spec import tuned
from sweeps.sweep import Sweep

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import PanelTypes
    from wandb_workspaces.workspaces import Section, Workspace

INSTALL = "pip install 'srloss[workspaces]'"
_DISTORTION = ("psnr_y", "psnr_rgb")
"""What a perceptual metric is drawn against; the first of these that is measured."""
_COLOURS = ("#0072b2", "#d0560a", "#00875f", "#b35389", "#a87400", "#3a96cf", "#882255")
"""Those of the report on white."""
_NOTE = (
    "Losses of sweep `{sweep_id}`. Curves are means over the seeds of a loss, bands reach from the lowest to the highest seed: "
    "they show luck, not significance. Which differences are real stands in the verdict's table and in the report: paired over "
    "clips, with intervals and adjusted p."
)


def needs_extra() -> str:
    """What to install before a workspace can be built; empty where all is there."""
    from importlib.util import find_spec

    if find_spec("wandb_workspaces") is not None:
        return ""
    return f"a W&B workspace needs the package wandb-workspaces, which is not installed; install it with: {INSTALL}"


def build(sweep: Sweep, *, entity: str, project: str) -> Workspace:
    """The workspace of a sweep; takes seconds, as the client's package is slow to load, and no network."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    sweep_id = sweep.folder.sweep_id
    metrics = measured_metrics(sweep)
    primary = sweep.config.metric.evaluation_name
    losses = list(dict.fromkeys(trial.candidate for trial in sweep.trials))
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"{sweep_id}: losses compared",
        sections=[section for section in _sections(sweep, metrics) if section.panels],
        settings=ws.WorkspaceSettings(
            x_axis="trainer/step",
            max_runs=max(10, min(100, len(sweep.trials) + 1)),
            tooltip_number_of_runs="all_runs",
        ),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == sweep_id),
            groupby=[expr.Config("candidate")],
            group_colors={name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(losses)},
            order=[
                expr.Ordering(
                    expr.Summary(f"test/{primary}"), ascending=not METRICS[primary].higher_is_better
                )
            ],
            pinned_columns=[
                f"summary:test/{name}" for name in (primary, *(m for m in metrics if m != primary))
            ],
        ),
    )
    return _with_stable_ids(workspace, sweep_id)


def measured_metrics(sweep: Sweep) -> list[str]:
    """All that is measured on the held-out clips of its trials, the sweep's own first."""
    primary = sweep.config.metric.evaluation_name
    return list(
        dict.fromkeys(
            [primary, *(name for trial in sweep.trials for name in trial.config.evaluation.metrics)]
        )
    )


def _with_stable_ids(workspace: Workspace, sweep_id: str) -> Workspace:
    def digest(*parts: object) -> str:
        return hashlib.sha256(json.dumps([sweep_id, *parts]).encode()).hexdigest()[:11]

    for section in workspace.sections:
        section._id = digest(section.name)
        for place, panel in enumerate(section.panels):
            setattr(panel, "_id", digest(section.name, place))  # noqa: B010 - not all kinds of panels declare it
    workspace._internal_runset_id = digest("runs")
    workspace._internal_name = f"nw-{digest('view')}-v"
    return workspace


def spec(workspace: Workspace) -> dict[str, Any]:
    """The view as W&B's server gets it."""
    return json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))


def save(workspace: Workspace) -> str:
    """Saves the view, in place of what was saved of the same sweep before; returns its address.

    Raises:
        ValueError: W&B did not take it, and why.
    """
    from wandb_workspaces.workspaces import internal

    view = workspace._to_model()
    try:
        view.id = _saved_before(view.entity, view.project, view.name)
        internal.upsert_view2(view)
        return workspace.url
    except Exception as error:  # noqa: BLE001 - a service of others; whatever it had against it is told
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(
            f"W&B did not save the workspace in {view.entity}/{view.project}: {reason}. Is anything of the sweep there yet? Send it "
            "with: srloss sync"
        ) from None


def _saved_before(entity: str, project: str, name: str) -> str:
    """Id of the view of this name; empty where there is none."""
    from wandb_workspaces.workspaces import internal

    try:
        return internal.get_view_dict(entity, project, internal._internal_name_to_url_query_str(name))["id"]
    except ValueError as error:
        if "Workspace" in str(error):
            return ""
        raise


# --- sections ---


def _sections(sweep: Sweep, metrics: Sequence[str]) -> Iterator[Section]:
    yield _section("Verdict", _verdict(sweep), is_open=True, columns=2)
    yield _section("Learning curves", _curves(sweep), is_open=True)
    yield _section("Quality by loss", _quality(metrics), is_open=True)
    yield _section("Perception against distortion", _planes(metrics), is_open=True)
    yield _section("Tuning", _tuning(sweep), columns=1)
    yield _section("Crops", _crops(), is_open=True, columns=1)
    yield _section("Loss terms", _terms(sweep))
    yield _section("Cost", _costs())
    yield _section("Ladder", _ladder(sweep))


def _section(name: str, panels: Iterator[PanelTypes], *, is_open: bool = False, columns: int = 3) -> Section:
    import wandb_workspaces.workspaces as ws

    layout = ws.SectionLayoutSettings(columns=columns, rows=2)
    return ws.Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)


def _verdict(sweep: Sweep) -> Iterator[PanelTypes]:
    import wandb_workspaces.reports.v2 as wr

    yield wr.MarkdownPanel(markdown=_NOTE.format(sweep_id=sweep.folder.sweep_id))
    yield wr.WeavePanelSummaryTable(table_name="verdict/table")
    yield wr.MediaBrowser(title="Report", media_keys=["verdict/report"], num_columns=1)


def _curves(sweep: Sweep) -> Iterator[PanelTypes]:
    ours = sweep.config.metric.evaluation_name
    names = dict.fromkeys(
        [ours, *(name for trial in sweep.trials for name in trial.config.evaluation.validation)]
    )
    for axis, words in (("trainer/step", "steps"), ("perf/device_hours", "device-hours")):
        for name in names:
            yield _line(f"{_label(name)} on validation clips, by {words}", f"val/{name}", x=axis)


def _quality(metrics: Sequence[str]) -> Iterator[PanelTypes]:
    for name in metrics:
        yield _bars(f"{_label(name)} on held-out clips, mean and range over seeds", f"test/{name}")


def _planes(metrics: Sequence[str]) -> Iterator[PanelTypes]:
    import wandb_workspaces.reports.v2 as wr

    distortion = next((name for name in _DISTORTION if name in metrics), None)
    if distortion is None:
        return
    for name in metrics:
        if METRICS[name].protocol.profile == "perceptual":
            yield wr.ScatterPlot(
                title=f"{_label(name)} against {_label(distortion)}, a point for each trial",
                x=wr.SummaryMetric(f"test/{distortion}"),
                y=wr.SummaryMetric(f"test/{name}"),
                legend_template="${config:candidate} ${config:settings}",
            )


def _tuning(sweep: Sweep) -> Iterator[PanelTypes]:
    import wandb_workspaces.reports.v2 as wr

    varied = {name: each for name, each in tuned(sweep.config).items() if len(each.choices() or (0, 0)) > 1}
    if not varied:
        return
    metric = sweep.config.metric
    yield wr.ParallelCoordinatesPlot(
        title=f"Settings and {_label(metric.evaluation_name)} on validation clips",
        columns=[
            wr.ParallelCoordinatesPlotColumn(metric=wr.Config("candidate"), display_name="loss"),
            *(
                wr.ParallelCoordinatesPlotColumn(
                    metric=wr.Config(name), log=each.distribution == "log_uniform_values"
                )
                for name, each in varied.items()
            ),
            wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(metric.name)),
        ],
    )


def _crops() -> Iterator[PanelTypes]:
    import wandb_workspaces.reports.v2 as wr

    yield wr.MediaBrowser(
        title="Validation clips over training",
        media_keys=["val/crops"],
        mode="grid",
        grid_x_axis="step",
        grid_y_axis="run",
    )
    yield wr.MediaBrowser(
        title="Held-out clips at the end",
        media_keys=["test/crops"],
        mode="grid",
        grid_x_axis="index",
        grid_y_axis="run",
    )
    yield wr.MediaBrowser(
        title="What they were made from and should become",
        media_keys=["reference/lr", "reference/bicubic", "reference/hr"],
        num_columns=3,
    )
    yield wr.WeavePanelSummaryTable(table_name="test/clips")


def _terms(sweep: Sweep) -> Iterator[PanelTypes]:
    losses = {loss.model_dump_json(): loss for trial in sweep.trials for loss in trial.config.losses}
    shared = [name for loss in losses.values() if len(loss.terms) > 1 for name in term_names(loss)]
    for name in dict.fromkeys(shared):
        yield _line(f"{name}: share of the gradient", f"train/terms/{name}/gradient_share")
    for name in dict.fromkeys(name for loss in losses.values() for name in term_names(loss)):
        yield _line(f"{name}: weighted value", f"train/terms/{name}/weighted")
    yield _line("Norm of the gradient", "train/gradient_norm")


def term_names(loss: LossConfig) -> list[str]:
    """The terms of a loss as the ledger calls them; `sr.parts.build_criterion` does, but needs their weights."""
    types = [term.type for term in loss.terms]
    counts = [types[: place + 1].count(kind) for place, kind in enumerate(types)]
    return [kind if count == 1 else f"{kind}_{count}" for kind, count in zip(types, counts, strict=True)]


def _costs() -> Iterator[PanelTypes]:
    yield _bars("Device-hours of a trial", "perf/device_hours")
    yield _line("Images per second", "perf/images_per_second")
    yield _line("Memory of the process, GB", "perf/memory_gb")
    yield _line("Memory of the device, GB", "perf/device_memory_gb")


def _ladder(sweep: Sweep) -> Iterator[PanelTypes]:
    if all(trial.config.ladder is None for trial in sweep.trials):
        return
    yield _line("Stage", "ladder/stage")
    yield _line("Discriminator right about SR", "train/discriminator/accuracy_on_sr")
    yield _line("Discriminator right about HR", "train/discriminator/accuracy_on_hr")


def _line(title: str, key: str, *, x: str = "trainer/step") -> PanelTypes:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=title,
        x=x,
        y=[key],
        groupby=wr.Config("candidate"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )


def _bars(title: str, key: str) -> PanelTypes:
    import wandb_workspaces.reports.v2 as wr

    return wr.BarPlot(
        title=title,
        metrics=[key],
        groupby=wr.Config("candidate"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )


def _label(name: str) -> str:
    metric = METRICS[name]
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{metric.label}{unit}{'' if metric.higher_is_better else ', lower is better'}"
