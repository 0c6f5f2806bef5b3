"""Hard cuts in a video, told from fast motion by grey thumbnails of neighbouring frames.

A pan moves the picture, a cut replaces it. So the detail of two thumbnails is compared at every shift that
leaves enough of them in common, and the best correlation counts: high for a pan, however fast, low for
another scene. Where it is middling (a quick zoom or turn, which no shift undoes) the histograms decide: a camera
that moves keeps the colours. When in doubt it is a cut: that costs a clip, where a missed one would spoil it.
Fades and dissolves are not found: no single step in them is a cut.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

SIZE = (36, 64)
"""Rows and columns of a thumbnail."""
SAMPLES_PER_CELL = 4
"""Of a large frame about so many values a side are read for each of the thumbnail."""
LEAST_OVERLAP = 0.4
"""Share of the thumbnail that two frames must have in common at a shift."""
DETAIL_RADIUS = 3
"""Thumbnail pixels; what is smoother than this is light and shade, and alike in many scenes."""
NOISE = 1.0
"""Variance of detail, in squared grey levels, that counts as nothing to compare."""
SAME_LEVELS = 3.0
"""Frames whose thumbnails differ by less on average are the same: dark ones have no detail to compare."""
FLAT_LEVELS = 32.0
"""Two frames without any detail are of different scenes where they differ by more on average."""
SURE_CUT = 0.3
"""A lower correlation is a cut."""
SURE_MOTION = 0.5
"""A higher one is none; between the two the histograms decide."""
SAME_HISTOGRAM = 0.9
"""Correlation of histograms from which on two frames are of one scene."""
BINS = 32


@dataclass(frozen=True)
class Thumbnail:
    """A small frame, with what is computed from it only once."""

    rgb: np.ndarray
    """float64, shape (*SIZE, 3), from 0 to 255."""

    @cached_property
    def grey(self) -> np.ndarray:
        """Mean of the colours, shape `SIZE`."""
        return self.rgb.mean(2)

    @cached_property
    def detail(self) -> np.ndarray:
        """The thumbnail without its smooth part."""
        return self.grey - _box_mean(_box_mean(self.grey, 0), 1)

    @cached_property
    def spectra(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the detail and of its square."""
        return _spectrum(self.detail), _spectrum(self.detail**2)

    @cached_property
    def histogram(self) -> np.ndarray:
        """Of the grey values."""
        return np.histogram(self.grey, BINS, (0, 256))[0].astype(np.float64)


def thumbnail(rgb: np.ndarray) -> Thumbnail:
    """The thumbnail of a frame, uint8, shape (H, W, 3)."""
    rows, columns = (
        max(1, side // (cells * SAMPLES_PER_CELL)) for side, cells in zip(rgb.shape, SIZE, strict=False)
    )
    sums, heights = _shrink(rgb[::rows, ::columns], 0, SIZE[0])
    sums, widths = _shrink(sums, 1, SIZE[1])
    return Thumbnail(sums / np.outer(heights, widths)[..., None])


def is_cut(before: Thumbnail, after: Thumbnail) -> bool:
    """Whether two neighbouring frames show different scenes."""
    difference = np.abs(before.rgb - after.rgb).mean()
    if max(before.detail.var(), after.detail.var()) < NOISE:
        return bool(difference > FLAT_LEVELS)
    if difference < SAME_LEVELS:
        return False
    similarity = best_correlation(before, after)
    if similarity < SURE_CUT:
        return True
    return similarity < SURE_MOTION and _correlation(before.histogram, after.histogram) < SAME_HISTOGRAM


def best_correlation(before: Thumbnail, after: Thumbnail) -> float:
    """The highest correlation of the two frames' detail over all shifts with enough overlap; at most 1."""
    (first, first_squared), (second, second_squared) = before.spectra, after.spectra
    sum_first, sum_second = _at_shifts(first, _ONES), _at_shifts(_ONES, second)
    var_first = _at_shifts(first_squared, _ONES) - sum_first**2 / _OVERLAP
    var_second = _at_shifts(_ONES, second_squared) - sum_second**2 / _OVERLAP
    covariance = _at_shifts(first, second) - sum_first * sum_second / _OVERLAP
    spread = np.sqrt(np.maximum(var_first, 0) * np.maximum(var_second, 0)) + NOISE * _OVERLAP
    return float((covariance / spread)[_ENOUGH].max())


def _shrink(values: np.ndarray, axis: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over `cells` parts of an axis, and how many values each has; of a few values some are repeated."""
    length = values.shape[axis]
    starts = np.arange(cells) * length // cells
    counts = np.maximum(np.diff(starts, append=length), 1)
    return np.add.reduceat(values, starts, axis, dtype=np.uint32), counts


def _box_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Means over a window along an axis, which repeats its ends."""
    width = 2 * DETAIL_RADIUS + 1
    edges = [(0, 0), (0, 0)]
    edges[axis] = (DETAIL_RADIUS, DETAIL_RADIUS)
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, edges, "edge"), width, axis).mean(-1)


def _spectrum(values: np.ndarray) -> np.ndarray:
    # Twice the size, so that what leaves on one side does not come in on the other.
    return np.fft.rfft2(values, (2 * SIZE[0], 2 * SIZE[1]))


def _at_shifts(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sums of products of two pictures, given by their spectra, at every shift."""
    return np.fft.irfft2(first * second.conj(), (2 * SIZE[0], 2 * SIZE[1]))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / max(np.sqrt((first**2).sum() * (second**2).sum()), 1e-9))


_ONES = _spectrum(np.ones(SIZE))
_OVERLAP = np.maximum(_at_shifts(_ONES, _ONES).round(), 1)
"""Pixels that the two thumbnails have in common, by shift."""
_ENOUGH = np.greater_equal(_OVERLAP, LEAST_OVERLAP * SIZE[0] * SIZE[1])
