"""The losses that model the eye, worked out again in NumPy and SciPy from their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sr.checks.bench import Bench
from sr.checks.known import Known
from sr.losses.dct_jnd import DctJnd
from sr.losses.ms_ssim import MsSsimL1
from sr.losses.psnr_hvs import PsnrHvsM
from sr.losses.watson import WatsonDct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Table K.1 of ITU-T T.81 (JPEG), from which the authors of PSNR-HVS-M took both of their tables.
_QUANTISERS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def _blocks(pictures: Any) -> Array:  # noqa: ANN401 - a tensor
    """Luma in grey levels, cut into blocks; (N, 3, H, W) to (N, K, 8, 8)."""
    x = pictures.double().numpy()
    luma = 255 * (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
    count, height, width = luma.shape
    tiles = luma.reshape(count, height // 8, 8, width // 8, 8).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(count, -1, 8, 8)


def _dct(blocks: Array) -> Array:
    import numpy as np
    from scipy.fft import dctn

    return np.asarray(dctn(blocks, axes=(-2, -1), norm="ortho"))


def _pair_of_blocks(bench: Bench) -> tuple[Array, Array]:
    return _blocks(bench.sr), _blocks(bench.hr)


def _adapted(target: Array, floor: float) -> Array:
    """Watson's thresholds of each block of the target."""
    import numpy as np
    import torch

    from sr.losses.dct import thresholds

    table = thresholds(torch.device("cpu"), torch.float64).numpy()
    brightness = target[..., :1, :1]
    mean = np.maximum(brightness.mean(axis=1, keepdims=True), 8.0)
    return np.asarray(table * np.maximum(brightness / mean, floor) ** 0.649)


def watson(bench: Bench) -> list[Known]:
    """DCT differences over max(t, |hr|^0.7 t^0.3), pooled with exponent p."""
    import numpy as np

    loss = bench.module
    if not isinstance(loss, WatsonDct) or loss.stride != 8:
        return []
    b, a = map(_dct, _pair_of_blocks(bench))
    t = _adapted(a, loss.floor)
    powers = np.abs((b - a) / np.maximum(t, np.abs(a) ** 0.7 * t**0.3)) ** loss.p
    # The root is rounded off by a thousandth of a just noticeable difference.
    pooled = (powers.mean(axis=(1, 2, 3)) + 1e-3**loss.p) ** (1 / loss.p) - 1e-3
    return [_on_pictures(bench, "Watson's model in NumPy", float(pooled.mean()))]


def dct_jnd(bench: Bench) -> list[Known]:
    """sqrt(d^2 + 1) - 1 of differences over thresholds masked by both pictures, bounded."""
    import numpy as np

    loss = bench.module
    if not isinstance(loss, DctJnd) or loss.stride != 8:
        return []
    b, a = map(_dct, _pair_of_blocks(bench))
    t = _adapted(a, loss.floor)
    masked = np.maximum(t, np.maximum(np.abs(a), np.abs(b)) ** 0.7 * t**0.3)
    masked[..., 0, 0] = t[..., 0, 0]
    weights = np.ones((8, 8))
    weights[0, 0] = loss.dc_weight
    errors = np.sqrt(((b - a) / masked) ** 2 + 1) - 1
    mean = (weights * errors).sum(axis=(-2, -1)).mean(axis=1) / weights.sum()
    bounded = float((mean / (1 + mean)).mean())
    expected = (1 - loss.pixel_share) * bounded + loss.pixel_share * _l1(bench)
    return [_on_pictures(bench, "the formula in NumPy", expected)]


def psnr_hvs_m(bench: Bench) -> list[Known]:
    """The published steps, with the soft edges of the loss."""
    import numpy as np

    loss = bench.module
    if not isinstance(loss, PsnrHvsM) or loss.stride != 8:
        return []
    quantisers = np.array(_QUANTISERS, dtype=np.float64)
    masking_table = 100 / quantisers**2
    masking_table[0, 0] = 0
    pairs = [(blocks, _dct(blocks)) for blocks in _pair_of_blocks(bench)]
    masking = np.maximum(*(_masking(blocks, dct, masking_table) for blocks, dct in pairs))
    difference = pairs[0][1] - pairs[1][1]
    zone = masking[..., None, None] * quantisers**2 / 100
    zone[..., 0, 0] = 0
    up, down = (
        loss.softness * np.logaddexp(0, (sign * difference - zone) / loss.softness) for sign in (1, -1)
    )
    error = ((up - down) * 25.735092 / quantisers) ** 2
    expected = float(error.mean()) / 255**2 + loss.pixel_weight * _l1(bench)
    return [_on_pictures(bench, "the authors' steps in NumPy", expected)]


def _masking(blocks: Array, dct: Array, table: Array) -> Array:
    """What each block hides: root of its weighted AC energy times its evenness, over 32."""
    import numpy as np

    def variation(part: Array) -> Array:
        return np.asarray(part.var(axis=(-2, -1), ddof=1) * part.shape[-1] * part.shape[-2])

    quadrants = [blocks[..., y : y + 4, x : x + 4] for y in (0, 4) for x in (0, 4)]
    whole = variation(blocks)
    evenness = sum(map(variation, quadrants)) / np.where(whole > 0, whole, 1.0)
    return np.asarray(np.sqrt((dct**2 * table).sum(axis=(-2, -1)) * evenness) / 32)


def ms_ssim(bench: Bench) -> list[Known]:
    """By piq."""
    import piq

    a, b = bench.sr.double().clamp(0, 1), bench.hr.double()
    expected = 1 - float(piq.multi_scale_ssim(a, b))
    return [Known("1 - piq.multi_scale_ssim", float(bench.double(a, b)), expected, 1e-3)]


def ms_ssim_l1(bench: Bench) -> list[Known]:
    """MS-SSIM by piq, and the absolute difference seen through the window of the coarsest scale."""
    import numpy as np
    import piq

    loss = bench.module
    if not isinstance(loss, MsSsimL1) or loss.scales != 5:
        return []
    a, b = bench.sr.double().clamp(0, 1), bench.hr.double()
    structure = 1 - float(piq.multi_scale_ssim(a, b))
    off = np.abs((a - b).numpy())
    count, channels, height, width = off.shape
    coarse = off.reshape(count, channels, height // 16, 16, width // 16, 16).mean(axis=(3, 5))
    fall = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(fall, fall) / fall.sum() ** 2
    tiles = np.lib.stride_tricks.sliding_window_view(coarse, (11, 11), axis=(2, 3))
    level = float((tiles * window).sum(axis=(-2, -1)).mean())
    expected = loss.alpha * structure + (1 - loss.alpha) * level
    return [Known("piq's MS-SSIM and NumPy's L1", float(bench.double(a, b)), expected, 1e-3)]


def _l1(bench: Bench) -> float:
    return float(abs(bench.sr.double().numpy() - bench.hr.double().numpy()).mean())


def _on_pictures(bench: Bench, what: str, expected: float) -> Known:
    return Known(what, float(bench.double(bench.sr.double(), bench.hr.double())), expected, 1e-4)


TABLE: dict[str, Callable[[Bench], list[Known]]] = {
    "watson_dct": watson,
    "dct_jnd": dct_jnd,
    "psnr_hvs_m": psnr_hvs_m,
    "ms_ssim": ms_ssim,
    "ms_ssim_l1": ms_ssim_l1,
}
