"""What single losses must give: formulas worked out by hand, and independent implementations where there is one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.checks import known_eye_models, known_feature_losses
from sr.checks.bench import Bench
from sr.checks.game_checks import LinearCritic
from sr.checks.known import Known
from sr.losses.adversarial import AdversarialLoss

_OFFSET = 0.125
"""A number of few bits, so that every value is exact in float32."""


def _grey(value: float) -> Tensor:
    return torch.full((2, 3, 48, 64), value)


def _at_offset(bench: Bench, expected: float) -> list[Known]:
    value = bench.double(_grey(0.25 + _OFFSET).double(), _grey(0.25).double())
    return [Known(f"flat pictures {_OFFSET} apart", float(value), expected)]


def _ramp(slope: float) -> Tensor:
    return (torch.arange(64, dtype=torch.float32) * slope).expand(2, 3, 48, 64)


def _l1(bench: Bench) -> list[Known]:
    by_numpy = abs(bench.sr.double().numpy() - bench.hr.double().numpy()).mean()
    return [*_at_offset(bench, _OFFSET), Known("NumPy on the pictures", bench.at_sr, float(by_numpy))]


def _mse(bench: Bench) -> list[Known]:
    by_numpy = ((bench.sr.double().numpy() - bench.hr.double().numpy()) ** 2).mean()
    return [*_at_offset(bench, _OFFSET**2), Known("NumPy on the pictures", bench.at_sr, float(by_numpy))]


def _charbonnier(bench: Bench) -> list[Known]:
    epsilon = float(getattr(bench.module, "epsilon", 1e-3))
    return [
        *_at_offset(bench, (_OFFSET**2 + epsilon**2) ** 0.5),
        Known("identity is epsilon", bench.at_identity, epsilon, 1e-3),
    ]


def _huber(bench: Bench) -> list[Known]:
    delta = float(getattr(bench.module, "delta", 1.0))
    expected = float(F.huber_loss(bench.sr.double(), bench.hr.double(), delta=delta))
    return [Known("torch's Huber in float64", bench.at_sr, expected)]


def _ssim(bench: Bench) -> list[Known]:
    from skimage.metrics import structural_similarity

    values = [
        structural_similarity(
            x.double().numpy(),
            y.double().numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1][:, 5:-5, 5:-5].mean()
        for x, y in zip(bench.sr, bench.hr, strict=True)
    ]
    c1 = 0.01**2
    flat = 1 - (2 * 0.375 * 0.25 + c1) / (0.375**2 + 0.25**2 + c1)
    return [
        *_at_offset(bench, flat),
        Known("1 - scikit-image's SSIM", bench.at_sr, 1 - sum(values) / len(values), 1e-3),
    ]


def _dss(bench: Bench) -> list[Known]:
    import piq

    a, b = bench.sr.double().clamp(0, 1), bench.hr.double()
    return [Known("1 - piq.dss in float64", float(bench.double(a, b)), 1 - float(piq.dss(a, b)), 1e-3)]


def _on_a_ramp(bench: Bench) -> list[Known]:
    # A ramp of 1/128 a pixel against a flat picture: every horizontal derivative is off by the slope, no vertical one.
    return [
        Known("ramp against a flat picture: its slope", bench.value(_ramp(1 / 128), _grey(0.5)), 1 / 128),
        Known("flat against flat: no derivative", bench.value(_grey(0.5), _grey(0.25)), 0.0),
    ]


def _by_numpy(bench: Bench, formula: Callable[[Any, Any], Any], what: str) -> list[Known]:
    """The mean of a formula on the pictures in float64, as NumPy has it."""
    expected = formula(bench.sr.double().numpy(), bench.hr.double().numpy()).mean()
    return [Known(what, float(bench.double(bench.sr.double(), bench.hr.double())), float(expected))]


def _fft(sr: Any, hr: Any) -> Any:  # noqa: ANN401 - NumPy arrays
    import numpy as np

    return np.abs(np.fft.fft2(sr - hr, norm="ortho"))


def _focal(sr: Any, hr: Any) -> Any:  # noqa: ANN401 - NumPy arrays
    size = _fft(sr, hr)
    return size / size.max(axis=(-2, -1), keepdims=True) * size**2


def _change(sr: Any, hr: Any) -> Any:  # noqa: ANN401 - NumPy arrays
    return abs((sr[:, 1:] - sr[:, :-1]) - (hr[:, 1:] - hr[:, :-1]))


def _off(sr: Any, hr: Any) -> Any:  # noqa: ANN401 - NumPy arrays
    return abs(sr - hr)


def _block_dct(sr: Any, hr: Any) -> Any:  # noqa: ANN401 - NumPy arrays
    import numpy as np
    from scipy.fft import dctn

    luma = 255 * (0.299 * (sr - hr)[:, 0] + 0.587 * (sr - hr)[:, 1] + 0.114 * (sr - hr)[:, 2])
    n, height, width = luma.shape
    blocks = luma.reshape(n, height // 8, 8, width // 8, 8).transpose(0, 1, 3, 2, 4)
    return np.abs(np.asarray(dctn(blocks, axes=(-2, -1), norm="ortho")))


def _dct_csf(bench: Bench) -> list[Known]:
    # Only the DC coefficient of each block differs: 8 x 255 x offset grey levels, 1.40 of which are just noticeable.
    return _at_offset(bench, 8 * 255 * _OFFSET / 1.40 / 64)


def _warp(bench: Bench) -> list[Known]:
    # A flat target does not move, so that nothing is hidden; the output grows brighter by the offset in each frame.
    hr = _grey(0.25)[:, None].expand(-1, 3, -1, -1, -1)
    sr = hr + _OFFSET * torch.arange(3).view(1, 3, 1, 1, 1)
    expected = _OFFSET if getattr(bench.module, "criterion", "l1") == "l1" else _OFFSET**2
    return [Known(f"flat frames, each {_OFFSET} above the one before", bench.value(sr, hr), expected)]


def _feature_matching(bench: Bench) -> list[Known]:
    from sr.checks.bench import critic_for

    fake, real = (critic_for(x).features(x).values() for x in (bench.sr, bench.hr))
    means = [float(abs(a.numpy() - b.numpy()).mean()) for a, b in zip(fake, real, strict=True)]
    return [Known("NumPy on the discriminator's activations", bench.at_sr, sum(means) / len(means))]


Player = Callable[[Sequence[float], Sequence[float]], float]


def _gan(bench: Bench, generator: Player, discriminator: Player) -> list[Known]:
    """Both players, at logits 0, at equal ones, and at such that differ from picture to picture."""
    game = bench.module
    assert isinstance(game, AdversarialLoss)
    values = []
    for fake, real in (((0.0, 0.0), (0.0, 0.0)), ((-0.5, -0.5), (0.25, 0.25)), ((-1.5, 0.5), (0.25, 2.0))):
        players = (game.generator_loss, generator), (game.discriminator_loss, discriminator)
        for player, formula in players:
            got = float(player(*(torch.tensor(x).view(2, 1, 1, 1).expand(2, 1, 4, 4) for x in (fake, real))))
            values.append(Known(f"{player.__name__} at {fake}, {real}", got, formula(fake, real)))
    return values


def _gan_wgan(bench: Bench) -> list[Known]:
    game = bench.module
    assert isinstance(game, AdversarialLoss)
    critic = LinearCritic(bench.hr)
    penalty = game.penalty(critic, bench.sr, bench.hr).item()
    expected = 10 * (LinearCritic.slope - 1) ** 2
    return [
        *_gan(bench, lambda f, _r: -_mean(f), lambda f, r: _mean(f) - _mean(r)),
        Known(f"penalty on a critic of slope {LinearCritic.slope}", penalty, expected),
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _aside(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value - _mean(others) for value in values]


def _unlike_1(logits: Sequence[float]) -> float:
    """Mean cross-entropy with the label 1."""
    return _mean([math.log1p(math.exp(-x)) for x in logits])


def _unlike_0(logits: Sequence[float]) -> float:
    return _unlike_1([-x for x in logits])


def _short_of_1(logits: Sequence[float]) -> float:
    return _mean([max(0.0, 1 - x) for x in logits])


_TABLE: dict[str, Callable[[Bench], list[Known]]] = {
    "l1": _l1,
    "mse": _mse,
    "charbonnier": _charbonnier,
    "huber": _huber,
    "ssim": _ssim,
    "gdl": _on_a_ramp,
    "sobel": _on_a_ramp,
    "tv": _on_a_ramp,
    "lr_consistency": functools.partial(_at_offset, expected=_OFFSET),
    "dss": _dss,
    "fft_l1": functools.partial(_by_numpy, formula=_fft, what="NumPy's FFT"),
    "focal_frequency": functools.partial(_by_numpy, formula=_focal, what="NumPy's FFT, weighted"),
    "dct_l1": functools.partial(_by_numpy, formula=_block_dct, what="SciPy's DCT in blocks"),
    "dct_csf": _dct_csf,
    "temporal_diff": functools.partial(_by_numpy, formula=_change, what="NumPy on the clips"),
    "pingpong": functools.partial(_by_numpy, formula=_off, what="NumPy, the target as the way back"),
    "feature_matching": _feature_matching,
    "warp": _warp,
    "gan_vanilla": functools.partial(
        _gan,
        generator=lambda f, _r: _unlike_1(f),
        discriminator=lambda f, r: (_unlike_1(r) + _unlike_0(f)) / 2,
    ),
    "gan_lsgan": functools.partial(
        _gan,
        generator=lambda f, _r: _mean([(x - 1) ** 2 for x in f]),
        discriminator=lambda f, r: (_mean([(x - 1) ** 2 for x in r]) + _mean([x**2 for x in f])) / 2,
    ),
    "gan_hinge": functools.partial(
        _gan,
        generator=lambda f, _r: -_mean(f),
        discriminator=lambda f, r: (_short_of_1(r) + _short_of_1([-x for x in f])) / 2,
    ),
    "gan_wgan": _gan_wgan,
    "gan_ragan": functools.partial(
        _gan,
        generator=lambda f, r: (_unlike_1(_aside(f, r)) + _unlike_0(_aside(r, f))) / 2,
        discriminator=lambda f, r: (_unlike_1(_aside(r, f)) + _unlike_0(_aside(f, r))) / 2,
    ),
    **known_eye_models.TABLE,
    **known_feature_losses.TABLE,
}
_OF_ANY_SETTINGS = {
    *("charbonnier", "huber", "warp", "watson_dct", "dct_jnd", "psnr_hvs_m", "ms_ssim_l1"),
    *known_feature_losses.TABLE,
}
"""Their formulas read the settings of the loss."""


def known_values(bench: Bench) -> list[Known]:
    """What the loss of this name must give, and gives; empty where nothing is written down.

    Raises:
        ImportError: The implementation to compare with is not installed.
    """
    if bench.name not in _TABLE or not (bench.has_defaults or bench.name in _OF_ANY_SETTINGS):
        return []
    return _TABLE[bench.name](bench)
