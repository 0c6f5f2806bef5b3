"""The loss `perceptual` against the specification in NumPy, pix2pixHD's formula and finite differences; what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sr import checkpoint
from sr.checks.bench import Bench
from sr.checks.conformance import traits_of
from sr.checks.number_checks import has_its_known_values
from sr.config import parse_trial
from sr.features import load_network
from sr.features.network import Features
from sr.ledger import Ledger
from sr.losses import LOSSES
from sr.losses.feature_distance import unit_length
from sr.losses.perceptual import Perceptual
from sr.losses.vgg import Vgg
from sr.models import DISCRIMINATORS
from tests.conftest import tiny_trial

SMALL = {"type": "patch_d", "channels": 8}


@pytest.fixture(scope="module")
def trial(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adversarial trial with one checkpoint."""
    ledger = Ledger(tmp_path_factory.mktemp("perceptual") / "trial")
    plain = tiny_trial(photos, loss="l1 + 0.1*gan_vanilla", adversarial={"discriminator": SMALL})
    ledger.create(parse_trial(plain), command="srloss train")
    torch.manual_seed(2)
    averaged = DISCRIMINATORS["patch_d"](channels=8).state_dict()
    checkpoint.save(ledger.checkpoints, step=9, state={"discriminator_ema": averaged}, keep=1)
    return ledger.folder


def _pair(side: int = 48, *, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hr = F.avg_pool2d(torch.rand(count, 3, side + 2, side + 2, generator=generator), 3, stride=1)
    return hr + 0.05 * torch.randn(hr.shape, generator=generator), hr


# --- the specification, written down again ---


def _convolution(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    """4 x 4, stride 2, padding 1, of a spectrally normalised weight, then the leaky rectifier; x of shape (N, c, h, w)."""
    weight = state[f"{name}.parametrizations.weight.original"]
    u, v = (state[f"{name}.parametrizations.weight.0._{letter}"] for letter in "uv")
    weight = weight / (u @ weight.reshape(len(weight), -1) @ v)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), axis=(2, 3))[:, :, ::2, ::2]
    out = np.einsum("nchwij,dcij->ndhw", windows, weight) + state[f"{name}.bias"][None, :, None, None]
    return np.where(out > 0, out, 0.2 * out)


def _features(pictures: Tensor, trial: Path) -> list[np.ndarray]:
    """Behind each stride-2 block of PatchGAN with three levels, post-LReLU, on pictures in [-1, 1]."""
    averaged = checkpoint.load(trial / "checkpoints" / "step-00000009.pt")["discriminator_ema"]
    state = {name: value.double().numpy() for name, value in averaged.items()}
    x, found = pictures.double().numpy() * 2 - 1, []
    for level in (1, 2, 3):
        x = _convolution(x, state, f"blocks.down{level}.0")
        found.append(x)
    return found


def _unit_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Place by place: both vectors over the channels made of unit length, squared differences summed; mean over places."""
    values = []
    for picture, other in zip(a, b, strict=True):
        for i in range(a.shape[2]):
            for j in range(a.shape[3]):
                x, y = picture[:, i, j], other[:, i, j]
                x, y = x / (np.sqrt(np.sum(x**2)) + 1e-10), y / (np.sqrt(np.sum(y**2)) + 1e-10)
                values.append(np.sum((x - y) ** 2))
    return float(np.mean(values))


def test_it_is_the_specifications(trial: Path) -> None:
    sr, hr = _pair()
    pairs = list(zip(_features(sr, trial), _features(hr, trial), strict=True))
    distances = [_unit_distance(a, b) for a, b in pairs]
    loss = LOSSES["perceptual"](path=str(trial))
    assert loss(sr, hr).item() == pytest.approx(np.mean(distances), rel=1e-5)
    weighted = Perceptual(path=str(trial), taps=["down3", "down1"], tap_weights=[0.5, 2.0])
    expected = 0.5 * distances[2] + 2 * distances[0]
    assert weighted(sr, hr).item() == pytest.approx(expected, rel=1e-5)
    squared = np.mean([np.mean((a - b) ** 2) for a, b in pairs])
    assert Perceptual(path=str(trial), distance="l2")(sr, hr).item() == pytest.approx(squared, rel=1e-5)


def test_l1_is_pix2pixhds_feature_matching(trial: Path) -> None:
    """Their equation 4: the sum over layers of ||D_i(y) - D_i(G(x))||_1 / N_i, N_i the elements of the layer."""
    sr, hr = _pair(count=1)
    pairs = zip(_features(sr, trial), _features(hr, trial), strict=True)
    expected = sum(np.sum(np.abs(a - b)) / a.size for a, b in pairs)
    loss = Perceptual(path=str(trial), distance="l1", tap_weights=[1.0, 1.0, 1.0])
    assert loss(sr, hr).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", ["unit", "l1", "l2"])
def test_gradient_agrees_with_finite_differences(distance: str) -> None:
    architecture = {"type": "patch_d", "channels": 4, "levels": 2}
    built = LOSSES["perceptual"](network="random_discriminator", architecture=architecture, distance=distance)
    loss = copy.deepcopy(built).double()
    sr, hr = (x.double() for x in _pair(16, count=1))
    assert torch.autograd.gradcheck(lambda x: loss(x, hr), sr.requires_grad_(), fast_mode=True)


def test_contract(trial: Path) -> None:
    loss = Perceptual(path=str(trial))
    sr, hr = (x.requires_grad_() for x in _pair())
    value = loss(sr, hr)
    value.backward()
    assert sr.grad is not None
    assert sr.grad.abs().max() > 0
    assert hr.grad is None
    assert loss(hr, hr).item() == 0
    torch.testing.assert_close(loss(sr[None], hr[None]), value)
    each = loss.per_picture(sr, hr)
    assert each.shape == (2,)
    torch.testing.assert_close(each.mean(), value.double(), rtol=1e-5, atol=0)
    # Activations ten times as large: another scale of the discriminator is the same loss.
    with torch.no_grad():
        taps = loss.network(sr, loss.taps), loss.network(hr, loss.taps)
        larger = tuple({tap: 10 * x for tap, x in features.items()} for features in taps)
        torch.testing.assert_close(loss.compare(*larger), value)


def test_terms_on_one_discriminator_share_it(trial: Path) -> None:
    loss = Perceptual(path=str(trial))
    assert loss.network is Vgg(network="discriminator", path=str(trial)).network
    assert loss.network is load_network("discriminator", path=str(trial / "checkpoints" / "step-00000009.pt"))


@pytest.mark.parametrize("weights", [[1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, float("nan"), 1.0]])
def test_tap_weights_that_make_no_distance(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="give numbers of 0 or more, not all 0"):
        Perceptual(network="random_discriminator", architecture=SMALL, tap_weights=weights)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="path is missing; give the folder of an adversarial trial"):
        Perceptual()
    with pytest.raises(ValueError, match="2 tap_weights for 3 taps"):
        Perceptual(network="random_discriminator", architecture=SMALL, tap_weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="unknown tap 'down9'"):
        Perceptual(network="random_discriminator", architecture=SMALL, taps=["down9"])


def test_settings_in_a_sum_are_those_of_the_loss(photos: Path) -> None:
    text = (
        "l1 + 0.5*perceptual(trial=ab12cd34ef, stage=2, distance=l1)"
        " + perceptual(network=random_discriminator, architecture={'type': 'patch_d', 'channels': 8})"
    )
    found = parse_trial(tiny_trial(photos, loss=text)).loss.terms[1:]
    assert found[0].weight == 0.5
    assert found[0].parameters["stage"] == 2
    assert found[1].parameters["architecture"] == SMALL
    with pytest.raises(ValueError, match="distance"):
        parse_trial(tiny_trial(photos, loss="perceptual(distance=l3)"))


# --- planted bugs ---


class OverPlaces(Perceptual):
    """Unit length over the places of each channel."""

    def _distances(self, sr: Tensor, hr: Tensor) -> Tensor:
        a, b = (F.normalize(x.flatten(2), dim=2, eps=1e-10) for x in (sr, hr))
        return (a - b).square().sum(2).mean(1)


class SumOverPlaces(Perceptual):
    """The mean over places is missing."""

    def _distances(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (unit_length(sr) - unit_length(hr)).square().sum((1, 2, 3))


class MeanOverChannels(Perceptual):
    """A mean over the channels, where the specification has a sum."""

    def _distances(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (unit_length(sr) - unit_length(hr)).square().mean((1, 2, 3))


class SumOverTaps(Perceptual):
    """Each tap counts 1, not one over their number."""

    def distances(self, sr: Features, hr: Features) -> Tensor:
        return super().distances(sr, hr) * len(self.taps)


@pytest.mark.parametrize("kind", [Perceptual, OverPlaces, SumOverPlaces, MeanOverChannels, SumOverTaps])
def test_planted_bugs_are_caught_by_their_known_values(kind: type[Perceptual]) -> None:
    loss: Any = kind(network="random_discriminator", architecture=SMALL)
    pictures = _pair(96)[1]
    outcome = has_its_known_values(Bench("perceptual", loss, traits_of(loss, "perceptual"), pictures))
    assert outcome.verdict == ("pass" if kind is Perceptual else "fail")
