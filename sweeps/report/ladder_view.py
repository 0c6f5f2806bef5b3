"""The figures and crops of a ladder's page."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sr.ladder.records import Interval, stage_folder
from sr.ledger import Ledger
from sweeps.report import charts, ladder_charts
from sweeps.report.crops import CropView, crop_view
from sweeps.report.data import Crop, Estimate, MetricInfo
from sweeps.report.ladder import Ladder, metric_info
from sweeps.report.ladder_charts import CHANCE, Level, Series
from sweeps.report.ladder_words import AUC_DECIMALS
from sweeps.report.palette import Look
from sweeps.report.view import Figure

VALIDATION = Look("validation", "validation clips", "s6", "circle", None)
TEST = Look("test", "test clips", "s5", "diamond", "7 3")
DISCRIMINATOR = Look("discriminator", "discriminator", "s0", "square", None)
PERCEPTUAL = Look("perceptual", "perceptual network", "s1", "triangle", "7 3")
FRESH = Look("fresh", "fresh discriminator", "sb", "ring", "2 4")
_MAX_CROPS = 4


def estimate(interval: Interval | None) -> Estimate | None:
    """An interval of a record, as charts want it."""
    return None if interval is None else Estimate(interval.value, interval.low, interval.high)


def quality_figure(series: Sequence[Series], metric: MetricInfo) -> Figure:
    """Quality by stage."""
    unit = f" in {metric.unit}" if metric.unit else ""
    better = "\u2191" if metric.higher_is_better else "\u2193"
    y_title = f"{better} better, {metric.label}{unit}"
    return _figure(series, y_title, f"{metric.label} by stage", decimals=metric.decimals, level=None)


def auc_figure(series: Sequence[Series]) -> Figure:
    """How well SR is told from HR, by stage."""
    return _figure(series, "AUC", "AUC by stage", decimals=AUC_DECIMALS, level=Level(CHANCE, "chance"))


def _figure(
    series: Sequence[Series], y_title: str, title: str, *, decimals: int, level: Level | None
) -> Figure:
    shown = [one for one in series if any(one.by_stage)]

    def drawn(width: float, height: float) -> charts.Chart:
        return ladder_charts.by_stage(
            shown, y_title=y_title, decimals=decimals, width=width, height=height, title=title, level=level
        )

    return Figure(drawn(540, 360), drawn(358, 320), tuple(one.look for one in shown))


def quality_series(ladder: Ladder) -> list[Series]:
    """Quality of each stage on validation and on test clips."""
    return [
        Series(VALIDATION, tuple(estimate(record.quality) for record in ladder.records)),
        Series(TEST, ladder.tests),
    ]


def auc_series(ladder: Ladder) -> list[Series]:
    """What the networks of each stage see, and the ceiling."""
    readings = [record.reading for record in ladder.records]
    return [
        Series(DISCRIMINATOR, tuple(estimate(reading.discriminator) for reading in readings)),
        Series(PERCEPTUAL, tuple(estimate(reading.perceptual) for reading in readings)),
        Series(FRESH, tuple(estimate(record.fresh) for record in ladder.records)),
    ]


# --- crops ------------------------------------------------------------------------------------------------------------


def crop_views(ladder: Ladder) -> list[CropView]:
    """Clips of different pictures where the stages differ most; empty where no stage was evaluated, or the data are gone."""
    tables = {record.stage: _table(stage_folder(ladder.folder, record.stage)) for record in ladder.records}
    tables = {stage: table for stage, table in tables.items() if table}
    if not tables or ladder.metric is None:
        return []
    measured = [name for name in next(iter(tables[min(tables)].values())) if name not in ("clip", "source")]
    name = ladder.metric.name if ladder.metric.name in measured else measured[0]
    metric = metric_info(name, where=str(ladder.folder))
    views = [
        crop_view(_crop(clip, images, tables, metric), {}, metric)
        for clip, images in _pictures(ladder, tables, metric).items()
    ]
    # First the two ends of the ladder, in the viewer that lays one beside the other.
    return [replace(view, start_a=2, start_b=len(view.tiles) - 2) for view in views]


_Table = dict[str, dict[str, Any]]


def _table(folder: Path) -> _Table:
    return {row["clip"]: row for row in Ledger(folder).evaluation()}


def _spread(clip: str, tables: dict[int, _Table], metric: MetricInfo) -> float:
    values = np.array([table[clip][metric.name] for table in tables.values()])
    return float(np.ptp(values)) if np.isfinite(values).all() else 0.0


def _crop(clip: str, images: list[tuple[str, bytes]], tables: dict[int, _Table], metric: MetricInfo) -> Crop:
    source = tables[min(tables)][clip]["source"]
    scores = {f"stage {stage}": table[clip][metric.name] for stage, table in tables.items()}
    spread = _spread(clip, tables, metric)
    reason = f"{metric.label} of the stages differs by {spread:.{metric.decimals}f} here" if spread else ""
    return Crop(f"{source}, tile {int(clip.rpartition('#')[2]) + 1}", reason, tuple(images), scores)


def _pictures(
    ladder: Ladder, tables: dict[int, _Table], metric: MetricInfo
) -> dict[str, list[tuple[str, bytes]]]:
    """Clip to its pictures, LR and bicubic first, HR last: those that the stages have kept, the others made anew."""
    from sr.data import held_out, open_dataset
    from sr.evaluate import crop_names, save_png, upscale_clips
    from sr.models import GENERATORS
    from sr.world import single_process
    from sweeps.evaluation import BASELINE

    config = ladder.config
    try:
        dataset = open_dataset(config)
        clips = held_out(dataset, config).test
    except ValueError:
        # The page outlives the data set; it then shows no pictures.
        return {}
    chosen = _chosen(ladder, tables, metric, crop_names(clips))
    shown = [clip for clip in clips if clip.clip_id in chosen]
    generator = GENERATORS[BASELINE](scale=config.scale)
    found: dict[str, list[tuple[str, bytes]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        for item in upscale_clips(generator, dataset, shown, config, device=single_process("cpu").device):
            made: list[tuple[str, bytes]] = []
            for name, pictures in (("LR", item.lr), (BASELINE, item.sr), ("HR", item.hr)):
                save_png(path, pictures)
                made.append((name, path.read_bytes()))
            kept = [(f"stage {stage}", _kept(ladder, stage, chosen[item.clip.clip_id])) for stage in tables]
            found[item.clip.clip_id] = [*made[:2], *((n, p.read_bytes()) for n, p in kept), made[2]]
    return {clip: found[clip] for clip in chosen}


def _kept(ladder: Ladder, stage: int, file: str) -> Path:
    return stage_folder(ladder.folder, stage) / "crops" / file


def _chosen(
    ladder: Ladder, tables: dict[int, _Table], metric: MetricInfo, files: dict[str, str]
) -> dict[str, str]:
    """Clip to file name, where the stages differ most first."""
    whole = [
        clip
        for clip, file in files.items()
        if all(clip in table and _kept(ladder, stage, file).exists() for stage, table in tables.items())
    ]
    first = tables[min(tables)]
    of_source: dict[str, str] = {}
    for clip in sorted(whole, key=lambda clip: _spread(clip, tables, metric), reverse=True):
        of_source.setdefault(first[clip]["source"], clip)
    return {clip: files[clip] for clip in [*of_source.values()][:_MAX_CROPS]}
