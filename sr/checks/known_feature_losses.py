"""What losses on a network's activations make of them, worked out again in NumPy; the network is checked by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from sr.checks.bench import Bench
from sr.checks.known import Known
from sr.losses.contextual import Contextual
from sr.losses.dists import Dists
from sr.losses.gram import Gram
from sr.losses.lpips import Lpips
from sr.losses.perceptual import Perceptual
from sr.losses.term import as_frames
from sr.losses.vgg import Vgg

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Pairs = dict[str, tuple[Array, Array]]


def _activations(bench: Bench) -> Pairs:
    """Tap to the activations of output and target, shape (N, c, h, w)."""
    loss = bench.feature_loss
    assert loss is not None, "asked of feature losses only"
    with torch.no_grad():
        a, b = (loss.network(as_frames(x), loss.taps) for x in (bench.sr, bench.hr))
    return {tap: (a[tap].double().numpy(), b[tap].double().numpy()) for tap in loss.taps}


def _distance(a: Array, b: Array, criterion: str) -> float:
    return float((abs(a - b) if criterion == "l1" else (a - b) ** 2).mean())


def vgg(bench: Bench) -> list[Known]:
    """Weighted sum over taps of mean absolute or squared differences."""
    loss = bench.module
    if not isinstance(loss, Vgg):
        return []
    pairs = _activations(bench)
    expected = sum(w * _distance(*pairs[tap], loss.criterion) for tap, w in loss.tap_weights.items())
    return [_on_activations(bench, expected)]


def gram(bench: Bench) -> list[Known]:
    """Differences of channel correlations, each divided by channels and positions."""
    import numpy as np

    loss = bench.module
    if not isinstance(loss, Gram) or loss.patch_size is not None:
        return []
    pairs = _activations(bench)

    def correlations(x: Array) -> Array:
        return np.einsum("nchw,ndhw->ncd", x, x, optimize=True) / x[0].size

    parts = {tap: [correlations(x) for x in pairs[tap]] for tap in loss.tap_weights}
    expected = sum(
        w * _distance(parts[tap][0], parts[tap][1], loss.criterion) for tap, w in loss.tap_weights.items()
    )
    return [_on_activations(bench, expected)]


def lpips(bench: Bench) -> list[Known]:
    """Squared differences of activations of unit length over the channels, weighted, mean over places."""
    loss = bench.module
    if not isinstance(loss, Lpips):
        return []
    expected = sum(
        float((loss.get_buffer(f"lin_{tap}").double().numpy() * _unlike_directions(*pair)).sum(axis=1).mean())
        for tap, pair in _activations(bench).items()
    )
    return [_on_activations(bench, expected)]


def perceptual(bench: Bench) -> list[Known]:
    """Weighted sum over taps of one of three distances; the weights are one each over their number unless given."""
    loss = bench.module
    if not isinstance(loss, Perceptual):
        return []
    expected, pairs = 0.0, _activations(bench)
    for tap, pair in pairs.items():
        weight = 1 / len(pairs) if bench.has_defaults else loss.tap_weights[tap]
        if loss.distance == "unit":
            expected += weight * float(_unlike_directions(*pair).sum(axis=1).mean())
        else:
            expected += weight * _distance(*pair, loss.distance)
    return [_on_activations(bench, expected)]


def _unlike_directions(a: Array, b: Array) -> Array:
    """Squared differences of activations that were made of unit length over the channels."""
    import numpy as np

    x, y = (z / (np.sqrt((z**2).sum(axis=1, keepdims=True)) + 1e-10) for z in (a, b))
    return (x - y) ** 2


def dists(bench: Bench) -> list[Known]:
    """1 - the sum of texture (means) and structure (covariances) similarity of each channel."""
    import numpy as np

    loss = bench.module
    if not isinstance(loss, Dists):
        return []
    alpha, beta = loss.alpha.double().numpy(), loss.beta.double().numpy()
    similar, start = np.zeros(len(as_frames(bench.hr))), 0
    for a, b in _activations(bench).values():
        channels = slice(start, start + a.shape[1])
        start += a.shape[1]
        means = a.mean(axis=(2, 3)), b.mean(axis=(2, 3))
        covariance = (a * b).mean(axis=(2, 3)) - means[0] * means[1]
        texture = (2 * means[0] * means[1] + 1e-6) / (means[0] ** 2 + means[1] ** 2 + 1e-6)
        structure = (2 * covariance + 1e-6) / (a.var(axis=(2, 3)) + b.var(axis=(2, 3)) + 1e-6)
        similar += (alpha[channels] * texture + beta[channels] * structure).sum(axis=1)
    return [_on_activations(bench, float(1 - similar.mean()))]


def contextual(bench: Bench) -> list[Known]:
    """Equations 2 to 5 of Mechrez et al. 2018, as they are written there."""
    import numpy as np

    loss = bench.module
    pairs = _activations(bench)
    if not isinstance(loss, Contextual) or any(a[0, 0].size > loss.max_positions for a, _ in pairs.values()):
        return []
    expected = 0.0
    for tap, weight in loss.tap_weights.items():
        values = []
        for a, b in zip(*(x.reshape(*x.shape[:2], -1) for x in pairs[tap]), strict=True):
            centre = b.mean(axis=1, keepdims=True)
            x, y = ((z - centre) / np.linalg.norm(z - centre, axis=0) for z in (a, b))
            distance = 1 - x.T @ y
            relative = distance / (distance.min(axis=1, keepdims=True) + 1e-5)
            similarity = np.exp((1 - relative) / loss.bandwidth)
            similarity /= similarity.sum(axis=1, keepdims=True)
            values.append(-np.log(similarity.max(axis=0).mean()))
        expected += weight * float(np.mean(values))
    return [_on_activations(bench, expected, 1e-3)]


def _on_activations(bench: Bench, expected: float, tolerance: float = 1e-4) -> Known:
    return Known("NumPy on the network's activations", bench.at_sr, expected, tolerance)


TABLE: dict[str, Callable[[Bench], list[Known]]] = {
    "vgg": vgg,
    "gram": gram,
    "lpips": lpips,
    "dists": dists,
    "contextual": contextual,
    "perceptual": perceptual,
}
