"""Quality against what was tuned: a small panel per loss and hyperparameter, and parallel coordinates of three or more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sweeps.report.charts import Chart, frame_for
from sweeps.report.data import MetricInfo, ReportData
from sweeps.report.findings import Parameter, TunedTrial, Tuning
from sweeps.report.numbers import is_finite, number
from sweeps.report.palette import Look
from sweeps.report.svg import (
    Scale,
    document,
    label,
    padded,
    polyline,
    short,
    tag,
    text_of,
    tick_decimals,
    ticks,
)
from sweeps.report.view import Figure

_MOST_PANELS = 24
_FEWEST_PARALLEL = 3
_PANEL_WIDTH, _PANEL_HEIGHT = 264.0, 166.0
_SMALL, _LARGE = 3.2, 5.2


@dataclass(frozen=True, slots=True)
class LossPanels:
    """The panels of one loss, one for each parameter that it has."""

    look: Look
    panels: tuple[Markup, ...]


@dataclass(frozen=True, slots=True)
class TuningView:
    """The section."""

    losses: tuple[LossPanels, ...]
    num_losses: int
    """Also of those that are not shown."""
    parallel: Figure | None
    metric: MetricInfo


def tuning_view(data: ReportData, looks: Mapping[str, Look]) -> TuningView | None:
    """None where nothing was tuned."""
    tuning = data.findings.tuning
    if tuning is None:
        return None
    trials = [t for t in tuning.trials if t.candidate in looks and is_finite(t.quality)]
    names = [name for name in looks if any(trial.candidate == name for trial in trials)]
    if not names:
        return None
    y_range = padded([trial.quality for trial in trials])
    shown = names[: max(1, _MOST_PANELS // len(tuning.parameters))]
    losses = tuple(
        LossPanels(
            looks[name],
            tuple(
                _panel(place, tuning, [t for t in trials if t.candidate == name], looks[name], data, y_range)
                for place in range(len(tuning.parameters))
                if any(t.candidate == name and t.values[place] is not None for t in trials)
            ),
        )
        for name in shown
    )
    parallel = None
    if len(tuning.parameters) >= _FEWEST_PARALLEL:
        parallel = Figure(
            wide=_parallel(tuning, trials, looks, data.curve_metric, width=1120, height=360),
            narrow=_parallel(tuning, trials, looks, data.curve_metric, width=358, height=300),
            looks=tuple(looks[name] for name in names),
        )
    return TuningView(losses, len(names), parallel, data.curve_metric)


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values of a parameter to places: logarithms, or themselves."""

    parameter: Parameter
    low: float
    high: float

    def at(self, value: float) -> float:
        return math.log10(value) if self.parameter.is_log else value

    def marks(self, about: int) -> list[tuple[float, str]]:
        """Places and texts of ticks."""
        if self.parameter.choices:
            limit = max(4, 36 // len(self.parameter.choices))
            return [(float(i), short(text, limit)) for i, text in enumerate(self.parameter.choices)]
        if not self.parameter.is_log:
            found = ticks(self.low, self.high, about=about)
            decimals = tick_decimals(found)
            return [(value, number(value, decimals)) for value in found]
        return log_marks(self.low, self.high, about)


def log_marks(low: float, high: float, about: int) -> list[tuple[float, str]]:
    """Round values between two logarithms: powers of ten, of short ranges also 2 and 5 times these; few enough."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        found = [value for value in found if low <= math.log10(value) <= high]
        if len(found) <= about + 1:
            break
    stride = max(1, -(-len(found) // (about + 1)))
    return [(math.log10(value), f"{value:g}") for value in found[::stride]]


def _axis(parameter: Parameter, values: Sequence[float]) -> _Axis:
    if parameter.choices:
        return _Axis(parameter, -0.5, len(parameter.choices) - 0.5)
    if parameter.is_log and min(values, default=1.0) <= 0:
        parameter = Parameter(parameter.name, is_log=False, choices=())
    places = [math.log10(value) if parameter.is_log else value for value in values]
    return _Axis(parameter, *padded(places, share=0.08))


def _known(trials: Sequence[TunedTrial], place: int) -> list[float]:
    return [value for trial in trials if is_finite(value := trial.values[place])]


def _panel(
    place: int,
    tuning: Tuning,
    trials: Sequence[TunedTrial],
    look: Look,
    data: ReportData,
    y_range: tuple[float, float],
) -> Markup:
    """One parameter of one loss; all panels of a parameter have the same axes."""
    parameter, metric = tuning.parameters[place], data.curve_metric
    axis = _axis(parameter, _known(tuning.trials, place))
    frame = frame_for((axis.low, axis.high), y_range, width=_PANEL_WIDTH, height=_PANEL_HEIGHT, right=14)
    x_title = short(parameter.name, 34) + (", log" if axis.parameter.is_log else "")
    parts = frame.axes(x_title=x_title, y_title=metric.label, x_labels=axis.marks(4))
    for trial in sorted(trials, key=lambda trial: trial.is_chosen):
        value = trial.values[place]
        if not is_finite(value):
            continue
        said = f"{_said(value, parameter)}: {number(trial.quality, metric.decimals)}" + (
            ", compared" if trial.is_chosen else "" if trial.is_finished else ", not finished"
        )
        parts.append(_mark(trial, look, frame.x(axis.at(value)), frame.y(trial.quality), said))
    title = f"{metric.label} of {look.name} against {parameter.name}"
    return document(
        tag("g", *parts, class_=look.colour),
        width=_PANEL_WIDTH,
        height=_PANEL_HEIGHT,
        title=title,
        class_="panel-chart",
    )


def _said(value: float, parameter: Parameter) -> str:
    return parameter.choices[int(value)] if parameter.choices else f"{value:g}"


def _mark(trial: TunedTrial, look: Look, x: float, y: float, said: str) -> Markup:
    title = tag("title", text_of(said))
    if trial.is_chosen:
        return tag("g", title, look.marker(x, y, _LARGE))
    open_class = "tried" if trial.is_finished else "tried unfinished"
    return tag("circle", title, cx=x, cy=y, r=_SMALL, class_=open_class)


def _parallel(
    tuning: Tuning,
    trials: Sequence[TunedTrial],
    looks: Mapping[str, Look],
    metric: MetricInfo,
    *,
    width: float,
    height: float,
) -> Chart:
    """A line for each trial, across an axis for each parameter to its quality."""
    axes = [_axis(p, _known(trials, place)) for place, p in enumerate(tuning.parameters)]
    quality = Parameter(metric.label, is_log=False, choices=())
    axes.append(_Axis(quality, *padded([trial.quality for trial in trials])))
    top, bottom, left, right = 34.0, height - 14, 24.0, width - (96.0 if width > 600 else 56.0)
    step = (right - left) / (len(axes) - 1)
    scales = [Scale(axis.low, axis.high, bottom, top) for axis in axes]
    parts: list[Markup] = []
    for place, axis in enumerate(axes):
        x = left + place * step
        parts.append(tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="axis"))
        limit = int(step / 9.3)
        anchor = "start" if place == 0 else "middle"
        name = axis.parameter.name if len(axis.parameter.name) <= limit else axis.parameter.name[-limit + 1 :]
        name = name if name == axis.parameter.name else f"\u2026{name}"
        parts.append(label(name, 2 if place == 0 else x, 14, class_="title", text_anchor=anchor))
    for name in dict.fromkeys(trial.candidate for trial in trials):
        look = looks[name]
        ways = {
            chosen: "".join(
                _way([*t.values, t.quality], axes, scales, left, step)
                for t in trials
                if t.candidate == name and t.is_chosen is chosen
            )
            for chosen in (False, True)
        }
        paths = (
            tag("path", d=d, class_="way chosen" if chosen else "way") for chosen, d in ways.items() if d
        )
        parts.append(tag("g", *paths, class_=f"series {look.colour}", data_loss=look.key))
    for place, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
        parts += [
            label(text, left + place * step + 6, scale(value) + 4, class_="tick halo")
            for value, text in axis.marks(4)
        ]
    svg = document(
        *parts, width=width, height=height, title="Settings and quality of all trials", class_="parallel"
    )
    return Chart(svg, is_labelled=False)


def _way(
    values: Sequence[float | None], axes: Sequence[_Axis], scales: Sequence[Scale], left: float, step: float
) -> str:
    """From axis to axis; broken where the loss has no such parameter."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for place, value in enumerate(values):
        if is_finite(value):
            pieces[-1].append((left + place * step, scales[place](axes[place].at(value))))
        else:
            pieces.append([])
    return "".join(polyline(piece) for piece in pieces if len(piece) > 1)
