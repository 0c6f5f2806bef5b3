"""The microscope's picture: the spoiled versions side by side, and beneath each how the losses rank it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sr.checks.microscope import View

_TILE, _GAP, _MARGIN = 256, 10, 28
_ROW = 34
_INK, _GREY, _PAPER = (28, 30, 36), (108, 112, 122), (255, 255, 255)
_MILD, _HARSH = (232, 240, 247), (16, 66, 118)
"""Colours of the first and the last rank."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand, in pixels."""

    tile_height: int
    columns: int
    rows: int
    notes: int

    @property
    def table_top(self) -> int:
        return _MARGIN + 76 + self.tile_height + 64

    @property
    def width(self) -> int:
        return 2 * _MARGIN + (self.columns + 1) * (_TILE + _GAP) - _GAP

    @property
    def height(self) -> int:
        return self.table_top + 30 + self.rows * _ROW + 22 + self.notes * 24 + _MARGIN

    def left(self, column: int) -> int:
        """Of a column; the first is that of the original and of the losses' names."""
        return _MARGIN + column * (_TILE + _GAP)


def draw(view: View, *, title: str) -> bytes:
    """Returns the picture as PNG.

    Args:
        view: What the microscope found.
        title: Name of the picture, for the heading.
    """
    notes = _notes(view)
    layout = _Layout(_tile(view.original).shape[0], len(view.versions), len(view.rows), len(notes))
    sheet = Image.new("RGB", (layout.width, layout.height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    _heading(pen, view, title)
    _pictures(sheet, pen, view, layout)
    _table(pen, view, layout)
    for number, note in enumerate(notes):
        y = layout.height - _MARGIN - (len(notes) - number) * 24
        pen.text((_MARGIN, y), note, font=_font(16), fill=_GREY)
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _heading(pen: ImageDraw.ImageDraw, view: View, title: str) -> None:
    same = f"{len(view.versions) - 1} distortions of {title} with the same MSE of {view.target_mse:.0f}, and a shift"
    pen.text((_MARGIN, _MARGIN - 6), same, font=_font(30), fill=_INK)
    pen.text(
        (_MARGIN, _MARGIN + 34),
        "Each row is a loss; 1 is what it minds least. Small: how much, calibrated so that losses can be compared.",
        font=_font(18),
        fill=_GREY,
    )


def _pictures(sheet: Image.Image, pen: ImageDraw.ImageDraw, view: View, layout: _Layout) -> None:
    top = _MARGIN + 76
    captions = [("original", "")]
    # The shift cannot have the common MSE: its own is marked.
    captions += [
        (v.label, f"MSE {v.mse:.0f}{'*' if v.name == 'shift' else ''}   SSIM {v.ssim:.3f}")
        for v in view.versions
    ]
    for column, picture in enumerate((view.original, *(v.picture for v in view.versions))):
        left = layout.left(column)
        tile = _tile(picture)
        sheet.paste(Image.fromarray(tile), (left + (_TILE - tile.shape[1]) // 2, top))
        label, numbers = captions[column]
        pen.text((left, top + layout.tile_height + 8), label, font=_font(20), fill=_INK)
        pen.text((left, top + layout.tile_height + 34), numbers, font=_font(17), fill=_GREY)


def _table(pen: ImageDraw.ImageDraw, view: View, layout: _Layout) -> None:
    top, worst = layout.table_top, len(view.versions)
    pen.text((_MARGIN, top), "rank, by loss", font=_font(17), fill=_GREY)
    for number, row in enumerate(view.rows):
        y = top + 30 + number * _ROW
        _fitted(pen, (_MARGIN, y + 4), row.loss + (" (random weights)" if row.note else ""))
        for column, (rank, value) in enumerate(zip(row.ranks, row.calibrated, strict=True)):
            left = layout.left(column + 1)
            share = (rank - 1) / max(1, worst - 1)
            fill = tuple(round(a + (b - a) * share) for a, b in zip(_MILD, _HARSH, strict=True))
            ink = _PAPER if share > 0.45 else _INK
            pen.rectangle((left, y, left + _TILE - 1, y + _ROW - 4), fill=fill)
            pen.text((left + 14, y + 3), str(rank), font=_font(22), fill=ink)
            pen.text((left + _TILE - 12, y + 15), f"{value:.4f}", font=_font(17), fill=ink, anchor="rm")


def _fitted(pen: ImageDraw.ImageDraw, place: tuple[int, int], name: str) -> None:
    """Writes a name in the first column, smaller if need be, and at last without its end."""
    size = next((size for size in (20, 17, 14, 12) if pen.textlength(name, font=_font(size)) <= _TILE), 12)
    font = _font(size)
    while pen.textlength(name, font=font) > _TILE:
        name = f"{name.removesuffix('...')[:-1]}..."
    pen.text((place[0], place[1] + (20 - size) // 2), name, font=font, fill=_INK)


def _notes(view: View) -> list[str]:
    notes = ["* a shift by one pixel has the MSE that the picture gives it.  MSE and SSIM: luma, 0..255."]
    if view.skipped:
        notes.append(f"Not shown: {', '.join(view.skipped)}.")
    return notes


def _tile(picture: Tensor) -> np.ndarray:
    """The middle of a picture pixel by pixel, at most 256 wide; uint8, shape (h, w, 3)."""
    left = max(0, (picture.shape[-1] - _TILE) // 2)
    top = max(0, (picture.shape[-2] - _TILE) // 2)
    cut = picture[:, top : top + _TILE, left : left + _TILE]
    return cut.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
