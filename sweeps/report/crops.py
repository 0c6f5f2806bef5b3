"""From crops to what the page shows of them: tiles in a strip, and where the viewer begins."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweeps.report import numbers
from sweeps.report.data import Crop, MetricInfo, ReportData
from sweeps.report.palette import Look
from sweeps.report.pictures import mime, size

SCRIPTS = ("stage.js", "pixels.js", "viewer.js")
"""What the viewer needs, after app.js."""
_MANY = 12
"""More versions than this wrap, in a box of their own that scrolls."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One version of a crop."""

    label: str
    look: Look | None
    """None for LR, HR and anything that is no row of the table."""
    source: str
    """The picture as a data URI, or the path of its file."""
    score: str
    note: str
    shortcut: str
    """The key that shows it as B; empty where none is left."""


@dataclass(frozen=True, slots=True)
class CropView:
    """One crop in all its versions."""

    name: str
    """What the page remembers it by."""
    kind: str
    """See `Crop`."""
    title: str
    reason: str
    tiles: tuple[Tile, ...]
    aspect: str
    """CSS `aspect-ratio` of the pictures."""
    zoom: str
    """Their pixel size, e.g. `96 x 96 px`."""
    start_a: int
    """Index of the tile that the viewer shows first as A, and as B."""
    start_b: int
    is_pinned: bool = False
    is_linked: bool = False
    """Whether the pictures lie beside the page rather than in it."""

    @property
    def is_many(self) -> bool:
        """Whether there are more versions than one row shows."""
        return len(self.tiles) > _MANY


@dataclass(frozen=True, slots=True)
class Gallery:
    """All crops of a page."""

    still: list[CropView]
    moving: list[CropView]
    """Clips over time."""
    lead: str
    moving_lead: str
    left_out: str
    """What is not shown, and how it would be; empty where all is."""
    is_linked: bool


def gallery(data: ReportData, looks: dict[str, Look]) -> Gallery:
    """The crops that hold a picture, in the order given."""
    metric = data.metrics[0] if data.metrics else None
    crops = [crop for crop in data.crops if crop.images]
    still = [crop for crop in crops if crop.kind in ("crop", "preview")]
    moving = [crop for crop in crops if crop.kind in ("frames", "slice")]
    return Gallery(
        still=[crop_view(crop, looks, metric) for crop in still],
        moving=[crop_view(crop, looks, metric) for crop in moving],
        lead=_lead(still, metric),
        moving_lead=_moving_lead(moving),
        left_out=_left_out(data),
        is_linked=any(crop.files for crop in crops),
    )


def _lead(still: Sequence[Crop], metric: MetricInfo | None) -> str:
    if any(crop.kind == "preview" for crop in still):
        return (
            "Nothing has been evaluated yet. These are validation clips, each loss as it was when it last left pictures, at the "
            "step below its name; pixels enlarged without smoothing."
        )
    named = f"; {metric.label} of each crop, of the first seed, under its name" if metric else ""
    return f"Held-out crops, pixels enlarged without smoothing{named}."


def _moving_lead(moving: Sequence[Crop]) -> str:
    measured = any(words for crop in moving for words in crop.notes.values())
    found = (
        "under each name what was measured on this clip"
        if measured
        else "name tof and warping_error in evaluation.metrics to have that measured"
    )
    return (
        "Frames where the most moves, and one row of pixels over all frames with time running downwards: what stands still is "
        f"a straight line there, what flickers or jumps is ragged; {found}."
    )


def _left_out(data: ReportData) -> str:
    if not data.crops_left_out:
        return ""
    noun = "clip" if data.crops_left_out == 1 else "clips"
    return f"{data.crops_left_out} more {noun} with --full-images, which writes all pictures to a folder beside the page."


def crop_view(crop: Crop, looks: dict[str, Look], metric: MetricInfo | None) -> CropView:
    """A crop, scores in the metric; None where its scores are of none."""
    labels = [name for name, _ in crop.images]
    width, height = max((size(content) for _, content in crop.images), default=(1, 1))
    keyed = [name for name in labels if name not in ("LR", "HR")][:9]
    shortcuts = {name: str(place) for place, name in enumerate(keyed, start=1)} | {"HR": "0"}
    tiles = [
        Tile(
            label=name,
            look=looks.get(name),
            source=crop.files.get(name) or _data_uri(content),
            score=_score(crop.scores.get(name), metric),
            note=crop.notes.get(name, ""),
            shortcut=shortcuts.get(name, ""),
        )
        for name, content in crop.images
    ]
    start_a = _first(tiles, lambda tile: tile.look is not None and tile.look.is_baseline)
    # Looks stand in the order of the table.
    best = next((name for name, look in looks.items() if not look.is_baseline and name in labels), None)
    start_b = _first(tiles, lambda tile: tile.label == best)
    return CropView(
        name=f"{crop.kind}/{crop.name or crop.title}",
        kind=crop.kind,
        title=crop.title,
        reason=crop.reason,
        tiles=tuple(tiles),
        aspect=f"{width} / {height}",
        zoom=f"{width} \u00d7 {height} px",
        start_a=0 if start_a is None else start_a,
        start_b=len(tiles) - 1 if start_b is None else start_b,
        is_pinned=crop.is_pinned,
        is_linked=bool(crop.files),
    )


def _data_uri(content: bytes) -> str:
    return f"data:{mime(content)};base64,{base64.b64encode(content).decode('ascii')}"


def _first(tiles: Sequence[Tile], wanted: Callable[[Tile], bool]) -> int | None:
    return next((index for index, tile in enumerate(tiles) if wanted(tile)), None)


def _score(value: float | None, metric: MetricInfo | None) -> str:
    if value is None or metric is None:
        return ""
    return numbers.with_unit(numbers.number(value, metric.decimals), metric.unit)
