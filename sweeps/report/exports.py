"""The main table as CSV, Markdown and LaTeX, to be pasted elsewhere."""

from __future__ import annotations

import csv
import io
import re

from sweeps.report import whole_set
from sweeps.report.data import CandidateRow, Difference, MetricInfo, ReportData
from sweeps.report.numbers import MINUS, MISSING, NARROW_SPACE, interval, is_finite, number, p_value, signed

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Other characters in the oldest font encoding, which is still the usual one.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def to_csv(data: ReportData) -> str:
    """One row per loss in the order of the table, at full precision; empty where nothing was measured."""
    names = [metric.name for metric in data.metrics]
    parts = ("mean", "low", "high", "difference", "difference_low", "difference_high", "p_adjusted")
    header = ["loss", "seeds", *(f"{name}_{part}" for name in names for part in parts)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [*header, "train_seconds", "device_hours", "memory_gb", "patches_per_second", *_CSV_ON_WHOLE_SET]
    )
    for row in data.candidates:
        cells = [value for name in names for value in _csv_cells(row, name)]
        cells += [
            row.train_seconds,
            row.device_hours,
            row.memory_gb,
            row.images_per_second,
            *_csv_on_whole_set(row),
        ]
        writer.writerow([row.name, row.num_seeds, *map(_exact, cells)])
    return out.getvalue()


_CSV_ON_WHOLE_SET = (
    "primary_median", "primary_p5", "primary_p95", "primary_of_the_mean_error", "rmse",
    "told_from_real_auc", "told_from_real_low", "told_from_real_high",
)  # fmt: skip


def _csv_on_whole_set(row: CandidateRow) -> tuple[float | None, ...]:
    whole = row.on_whole_set
    if whole is None:
        return (None,) * len(_CSV_ON_WHOLE_SET)
    told = whole.told_from_real
    auc = (told.mean, told.low, told.high) if told else (None, None, None)
    return (whole.median, whole.p5, whole.p95, whole.of_the_mean, whole.rmse, *auc)


def _csv_cells(row: CandidateRow, metric: str) -> tuple[float | None, ...]:
    score, difference = row.scores.get(metric), row.to_baseline.get(metric)
    first = (score.mean, score.low, score.high) if score else (None, None, None)
    if difference is None:
        return (*first, None, None, None, None)
    return (
        *first,
        difference.estimate.mean,
        difference.estimate.low,
        difference.estimate.high,
        difference.p_adjusted,
    )


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def to_markdown(data: ReportData) -> str:
    """A table for a pull request or an issue: best in bold, not distinguishable from it underlined."""
    header = ["loss", "seeds", *(_heading(metric) for metric in data.metrics)]
    header += [*whole_set.exported_headings(data), "train s", "device-h", "patches/s"]
    lines = [_piped(header), _piped(["---", *["---:"] * (len(header) - 1)])]
    for row in data.candidates:
        cells = [_markdown_name(row.name), _seeds(row)]
        for metric in data.metrics:
            mean = _mean(row, metric)
            mean = f"**{mean}**" if metric.name in row.best_on else mean
            mean = f"<ins>{mean}</ins>" if metric.name in row.tied_with_best_on else mean
            cells.append(
                "<br>".join(filter(None, (mean, _difference(row.to_baseline.get(metric.name), metric))))
            )
        cells += whole_set.exported_cells(row, data)
        cells += [number(row.train_seconds, 1), _device_hours(row), number(row.images_per_second, 1)]
        lines.append(_piped(cells))
    notes = [
        f"{metric.label}: {_one_line(metric.convention)}" for metric in data.metrics if metric.convention
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def to_latex(data: ReportData) -> str:
    """A `tabular` for the package booktabs; the differences stand in a column of their own."""
    metrics = data.metrics
    header = [f"\\multicolumn{{2}}{{c}}{{{_latex(_heading(metric, arrows=False))}}}" for metric in metrics]
    more = [_latex(text) for text in whole_set.exported_headings(data)]
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{lr{'rl' * len(metrics)}{'r' * len(more)}rrr}}",
        "\\toprule",
        " & ".join(["loss", "seeds", *header, *more, "train s", "device-h", "patches/s"]) + r" \\",
        "\\midrule",
    ]
    for row in data.candidates:
        cells = [_latex(_one_line(row.name)), _latex_numbers(_seeds(row))]
        for metric in metrics:
            mean = _latex_numbers(_mean(row, metric))
            mean = f"\\textbf{{{mean}}}" if metric.name in row.best_on else mean
            mean = f"\\underline{{{mean}}}" if metric.name in row.tied_with_best_on else mean
            difference = _latex_numbers(_difference(row.to_baseline.get(metric.name), metric))
            cells += [mean, f"{{\\scriptsize {difference}}}" if difference else ""]
        cells += [_latex_numbers(text) for text in whole_set.exported_cells(row, data)]
        cells += [
            _latex_numbers(number(row.train_seconds, 1)),
            _latex_numbers(_device_hours(row)),
            _latex_numbers(number(row.images_per_second, 1)),
        ]
        lines += ["\\midrule"] if row.is_baseline and len(data.candidates) > 1 else []
        lines.append(" & ".join(cells) + r" \\")
    notes = [f"% {metric.label}: {_one_line(metric.convention)}" for metric in metrics if metric.convention]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *notes]) + "\n"


def _heading(metric: MetricInfo, *, arrows: bool = True) -> str:
    arrow = (" \u2191" if metric.higher_is_better else " \u2193") if arrows else ""
    return f"{metric.label}{f' ({metric.unit})' if metric.unit else ''}{arrow}"


def _mean(row: CandidateRow, metric: MetricInfo) -> str:
    score = row.scores.get(metric.name)
    return number(score.mean if score else None, metric.decimals)


def _difference(difference: Difference | None, metric: MetricInfo) -> str:
    if difference is None or not is_finite(difference.estimate.mean):
        return ""
    shown = signed(difference.estimate.mean, metric.decimals)
    return f"{shown} {interval(difference.estimate, metric.decimals)}, {p_value(difference.p_adjusted)}"


def _device_hours(row: CandidateRow) -> str:
    """Always in hours, with as many decimals as small sweeps need."""
    hours = row.device_hours
    return number(hours, 2 if not is_finite(hours) or hours >= 1 else 4)


def _seeds(row: CandidateRow) -> str:
    """What was not trained has none."""
    return MISSING if row.is_baseline else str(row.num_seeds)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _piped(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_name(name: str) -> str:
    """As code, so that `0.8*l1` keeps its asterisk; the fence is longer than any run of backticks inside."""
    name = _one_line(name).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", name)), default=0) + 1)
    return f"{fence}{name}{fence}" if len(fence) == 1 else f"{fence} {name} {fence}"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_numbers(text: str) -> str:
    """Formatted numbers hold no letters that LaTeX would mind, but signs and spaces that it lacks."""
    for plain, command in (
        (MINUS, "$-$"),
        ("<", "$<$"),
        ("\u221e", r"$\infty$"),
        (MISSING, "--"),
        (NARROW_SPACE, r"\,"),
    ):
        text = text.replace(plain, command)
    return text
