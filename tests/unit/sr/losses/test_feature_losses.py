"""Losses on feature networks against other implementations, the papers' formulas in numpy, and finite differences."""

from __future__ import annotations

import copy
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sr.features import load_network
from sr.losses import LOSSES
from sr.losses.dists import Dists
from sr.losses.lpips import Lpips
from sr.losses.term import FeatureLoss
from sr.losses.vgg import PRESETS, Vgg
from tests.unit.sr.features.stand_ins import install


def _pair(size: int = 48, *, count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hr = F.avg_pool2d(torch.rand(count, 3, size + 2, size + 2, generator=generator), 3, stride=1)
    sr = hr + 0.05 * torch.randn(hr.shape, generator=generator)
    return sr, hr


REHEARSALS: list[tuple[str, dict[str, Any]]] = [
    ("vgg", {"network": "random_vgg"}),
    ("vgg", {"network": "effnet_lite0", "criterion": "l2"}),
    ("lpips", {"weights": "random", "net": "squeeze"}),
    ("dists", {"weights": "random"}),
    ("gram", {"network": "random_vgg", "patch_size": 16}),
    ("gram", {"network": "effnet_lite0", "criterion": "l1"}),
    ("contextual", {"network": "random_vgg", "max_positions": 64}),
]


@pytest.mark.parametrize(("name", "parameters"), REHEARSALS)
def test_contract(name: str, parameters: dict[str, Any]) -> None:
    loss = LOSSES[name](**parameters)
    assert isinstance(loss, FeatureLoss)
    sr, hr = (x.requires_grad_() for x in _pair())
    value = loss(sr, hr)
    assert value.shape == ()
    value.backward()
    assert sr.grad is not None
    assert torch.isfinite(sr.grad).all()
    assert sr.grad.abs().max() > 0
    assert hr.grad is None
    assert value.item() > 0
    assert abs(loss(hr, hr).item()) < 1e-4 * value.item()
    clip = loss(sr.detach()[None], hr.detach()[None])
    torch.testing.assert_close(clip, value.detach(), rtol=1e-5, atol=1e-9)
    one_by_one = torch.stack([loss(sr[i : i + 1], hr[i : i + 1]) for i in range(2)]).mean()
    torch.testing.assert_close(one_by_one, value, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vgg", {"network": "random_vgg", "taps": ["relu1_1", "conv2_1"], "criterion": "l2"}),
        ("lpips", {"weights": "random", "net": "alex"}),
        ("dists", {"weights": "random"}),
        ("gram", {"network": "random_vgg", "taps": ["relu1_1", "conv2_1"]}),
        ("contextual", {"network": "random_vgg", "taps": ["relu1_2"], "max_positions": 16}),
    ],
)
def test_gradient_agrees_with_finite_differences(name: str, parameters: dict[str, Any]) -> None:
    loss = copy.deepcopy(LOSSES[name](**parameters)).double()
    side = 32 if name in ("lpips", "dists") else 8
    sr, hr = (x.double() for x in _pair(side, count=1))
    sr.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    gradient = torch.autograd.grad(loss(sr, hr), sr)[0]
    for _ in range(3):
        direction = torch.randn(sr.shape, generator=generator, dtype=torch.float64)
        # So small that no ReLU changes sides.
        step = 1e-7
        numeric = (loss(sr + step * direction, hr) - loss(sr - step * direction, hr)) / (2 * step)
        expected = (gradient * direction).sum()
        torch.testing.assert_close(numeric.detach(), expected, rtol=2e-4, atol=1e-8)


def test_terms_on_one_network_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("vgg16", tmp_path, monkeypatch)
    johnson, lpips = Vgg(preset="johnson"), Lpips(net="vgg")
    assert johnson.network is lpips.network
    assert Vgg(network="random_vgg").network is not Vgg(network="random_vgg", seed=1).network


# --- vgg ---


def _published(name: str) -> tuple[str, list[int], list[float], Any, Any]:
    """Network, torchvision indices, weights, input and difference of a preset, written down again by hand."""

    def imagenet(x: Tensor) -> Tensor:
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (x - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)

    ones = [1.0]
    return {
        "seed0": ("vgg19", [3, 8, 17, 26, 35], ones * 5, lambda x: x * 255, F.l1_loss),
        "seed2": ("vgg19", [15], ones, lambda x: x, F.mse_loss),
        "johnson": ("vgg16", [8], ones, imagenet, F.mse_loss),
        "srgan22": ("vgg19", [8], ones, imagenet, F.mse_loss),
        "srgan54": ("vgg19", [35], ones, imagenet, F.mse_loss),
        "esrgan": ("vgg19", [34], ones, imagenet, F.l1_loss),
        "realesrgan": ("vgg19", [2, 7, 16, 25, 34], [0.1, 0.1, 1.0, 1.0, 1.0], imagenet, F.l1_loss),
    }[name]


def test_presets_are_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    references = {name: install(name, tmp_path, monkeypatch) for name in ("vgg19", "vgg16")}
    sr, hr = _pair(32, count=1)
    for preset in PRESETS:
        network, indices, weights, prepare, difference = _published(preset)
        layers = references[network]
        expected = sum(
            weight * difference(layers[: index + 1](prepare(sr)), layers[: index + 1](prepare(hr)))
            for index, weight in zip(indices, weights, strict=True)
        )
        loss = Vgg(preset=preset)  # type: ignore[arg-type]
        assert loss.network.weights.name == network
        torch.testing.assert_close(loss(sr, hr), expected, rtol=1e-4, atol=1e-8)


def test_what_is_given_overrides_the_preset() -> None:
    sr, hr = _pair(32)
    loss = Vgg(preset="realesrgan", network="random_vgg", taps=["8", "pool3"], criterion="l2")
    assert loss.tap_weights == {"relu2_2": 1.0, "pool3": 1.0}
    assert loss.criterion == "l2"
    double = Vgg(network="random_vgg", taps=["8", "pool3"], criterion="l2", tap_weights=[2.0, 2.0])
    torch.testing.assert_close(double(sr, hr), 2 * loss(sr, hr))
    assert Vgg(preset="seed0", network="random_vgg").network is load_network(
        "random_vgg", normalisation="none", input_range=255.0
    )
    assert Vgg(preset="seed0", network="effnet_lite0", taps=["stem"]).network is load_network("effnet_lite0")


def test_errors_of_vgg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown tap 'relu9_9'"):
        Vgg(network="random_vgg", taps=["relu9_9"])
    with pytest.raises(ValueError, match="2 tap_weights for 1 taps"):
        Vgg(network="random_vgg", taps=["relu1_1"], tap_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="unknown tap 'conv5_4'"):
        Vgg(preset="esrgan", network="effnet_lite0")
    monkeypatch.setenv("SRLOSS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name, file in (
        ("vgg", "vgg19-dcbb9e9d"),
        ("lpips", "alexnet-owt-7be5be79"),
        ("dists", "vgg16-397923af"),
    ):
        with pytest.raises(ValueError, match=file):
            LOSSES[name]()


# --- lpips ---


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("net", "name"), [("alex", "alexnet"), ("vgg", "vgg16"), ("squeeze", "squeezenet1_1")]
)
def test_lpips_is_the_packages(net: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lpips import pretrained_networks
    from lpips.lpips import LPIPS

    layers = install(name, tmp_path, monkeypatch)

    def made(pretrained: bool) -> types.SimpleNamespace:
        # The package itself would build a classifier of 138 million parameters.
        assert not pretrained, "it would download"
        return types.SimpleNamespace(features=layers)

    models = types.SimpleNamespace(alexnet=made, vgg16=made, squeezenet1_1=made)
    monkeypatch.setattr(pretrained_networks, "tv", models)
    reference = LPIPS(net=net, pnet_rand=True, verbose=False)
    sr, hr = _pair(64)
    loss = Lpips(net=net)  # type: ignore[arg-type]
    with torch.no_grad():
        expected = reference(sr, hr, normalize=True).flatten()
    torch.testing.assert_close(
        loss.per_picture(sr.double(), hr.double()), expected.double(), rtol=1e-4, atol=1e-7
    )
    torch.testing.assert_close(loss(sr, hr), expected.mean(), rtol=1e-4, atol=1e-7)


# --- dists ---


def _channel_file(path: Path) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    raw = torch.rand(2, 1475, generator=generator)
    alpha, beta = (raw / raw.sum()).view(2, 1, 1475, 1, 1)
    torch.save({"alpha": alpha, "beta": beta}, path)
    return {"alpha": alpha, "beta": beta}


@pytest.mark.parametrize("side", [48, 272])
def test_dists_is_piqs(side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import piq
    import piq.perceptual

    layers = install("vgg16", tmp_path, monkeypatch)
    weights = _channel_file(tmp_path / "dists_weights.pt")
    loss = Dists()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_args, **_more: weights)
    monkeypatch.setattr(
        piq.perceptual, "vgg16", lambda **_more: types.SimpleNamespace(features=copy.deepcopy(layers))
    )
    reference = piq.DISTS(reduction="none")
    sr, hr = (x.clamp(0, 1) for x in _pair(side, count=1 if side > 256 else 2))
    with torch.no_grad():
        expected = reference(sr, hr).flatten()
    torch.testing.assert_close(
        loss.per_picture(sr.double(), hr.double()), expected.double(), rtol=1e-4, atol=2e-6
    )
    if side < 256:
        torch.testing.assert_close(loss(sr, hr), expected.mean(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("fault", ["missing", "negative", "sum"])
def test_dists_refuses_other_channel_weights(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "dists_weights.pt"
    state = _channel_file(path)
    if fault == "missing":
        del state["beta"]
    elif fault == "negative":
        state["alpha"][0, 0] -= 1
        state["alpha"][0, 1] += 1
    else:
        state["alpha"] *= 2
    torch.save(state, path)
    with pytest.raises(ValueError, match="expected alpha and beta"):
        Dists(weights="random", channel_path=str(path))


# --- gram, contextual ---


@pytest.mark.parametrize("patch_size", [None, 8])
def test_gram_is_the_papers(patch_size: int | None) -> None:
    loss = LOSSES["gram"](network="random_vgg", patch_size=patch_size)
    sr, hr = _pair(20)
    total = 0.0
    for tap, weight, stride in (("relu1_1", 0.3, 1), ("relu2_1", 1.0, 2), ("relu3_1", 1.0, 4)):
        a, b = (load_network("random_vgg")(x, (tap,))[tap].double().numpy() for x in (sr, hr))
        side = patch_size // stride if patch_size else a.shape[-1]
        differences = [
            (_gram(x[:, i : i + side, j : j + side]) - _gram(y[:, i : i + side, j : j + side])) ** 2
            for x, y in zip(a, b, strict=True)
            for i in range(0, a.shape[-1] - side + 1, side)
            for j in range(0, a.shape[-1] - side + 1, side)
        ]
        total += weight * np.mean(differences)
    assert loss(sr, hr).item() == pytest.approx(total, rel=1e-4)


def _gram(x: np.ndarray) -> np.ndarray:
    channels, height, width = x.shape
    return np.einsum("chw,dhw->cd", x, x) / (channels * height * width)


def test_gram_forgets_places_but_its_patches_do_not() -> None:
    # Exchanging the left half and the right half leaves a Gram matrix of the whole picture as it is.
    left, right = torch.rand(1, 3, 32, 16) * 0.3, torch.rand(1, 3, 32, 16)
    picture, exchanged = torch.cat([left, right], dim=3), torch.cat([right, left], dim=3)
    whole = LOSSES["gram"](network="random_vgg", taps=["input"])
    patches = LOSSES["gram"](network="random_vgg", taps=["input"], patch_size=16)
    assert whole(exchanged, picture).item() < 1e-10
    assert patches(exchanged, picture).item() > 1e-4


def test_gram_patches_that_do_not_fit() -> None:
    sr, hr = _pair(32)
    with pytest.raises(ValueError, match="larger crops or shallower taps"):
        LOSSES["gram"](network="random_vgg", patch_size=64)(sr, hr)
    with pytest.raises(ValueError, match=r"gram\.patch_size: 0"):
        LOSSES["gram"](network="random_vgg", patch_size=0)


def _contextual(x: np.ndarray, y: np.ndarray, h: float) -> float:
    """Equations 2 to 5 of Mechrez et al. 2018, position by position; x and y of shape (c, P)."""
    mean = y.mean(axis=1, keepdims=True)
    x, y = x - mean, y - mean
    count = x.shape[1]
    distance = np.empty((count, count))
    for i in range(count):
        for j in range(count):
            distance[i, j] = 1 - x[:, i] @ y[:, j] / (np.linalg.norm(x[:, i]) * np.linalg.norm(y[:, j]))
    relative = distance / (distance.min(axis=1, keepdims=True) + 1e-5)
    w = np.exp((1 - relative) / h)
    cx = w / w.sum(axis=1, keepdims=True)
    return float(-np.log(cx.max(axis=0).mean()))


def test_contextual_is_the_papers() -> None:
    sr, hr = _pair(24)
    loss = LOSSES["contextual"](network="random_vgg")
    assert loss.taps == ("conv3_4",)
    a, b = (
        load_network("random_vgg")(x, ("conv3_4",))["conv3_4"].double().flatten(2).numpy() for x in (sr, hr)
    )
    expected = np.mean([_contextual(x, y, 0.5) for x, y in zip(a, b, strict=True)])
    assert loss(sr, hr).item() == pytest.approx(expected, rel=1e-3)


def test_contextual_needs_no_alignment() -> None:
    loss = LOSSES["contextual"](network="random_vgg", taps=["input"])
    _, hr = _pair(16, count=1)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    shuffled = hr.flatten(2)[..., order].view_as(hr)
    assert loss(shuffled, hr).item() == pytest.approx(0.0, abs=1e-4)
    assert loss(_pair(16, count=1, seed=9)[1], hr).item() > 0.1


def test_contextual_looks_at_no_more_positions_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    softmax = torch.softmax
    monkeypatch.setattr(
        torch, "softmax", lambda x, dim: (sizes.append(tuple(x.shape)), softmax(x, dim=dim))[1]
    )
    sr, hr = (x[..., :40] for x in _pair(64, count=1))
    for cap in (100, 2560, 9999):
        LOSSES["contextual"](network="random_vgg", taps=["conv1_1"], max_positions=cap)(sr, hr)
    assert all(shape[1] == shape[2] for shape in sizes)
    assert 80 <= sizes[0][1] <= 100
    assert sizes[1][1] == sizes[2][1] == 64 * 40
