"""The feature networks are what they claim: torchvision's layers, genuine weights, nothing run in vain."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import skimage
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.features import NETWORKS, load_network, random_network
from sr.features.effnet_lite0 import EffnetLite0
from sr.features.network import FeatureNetwork
from tests.unit.sr.features.stand_ins import install


@pytest.mark.parametrize("name", ["vgg19", "vgg16", "alexnet", "squeezenet1_1"])
def test_every_tap_is_torchvisions(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = install(name, tmp_path, monkeypatch)
    network = load_network(name)
    picture = torch.rand(2, 3, 70, 66, generator=torch.Generator().manual_seed(0))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (picture - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    taps = tuple(str(index) for index in range(len(reference)))
    found = network(picture, taps)
    named = network(picture, network.tap_names)
    assert torch.equal(named["input"], picture)
    for index, layer in enumerate(reference):
        x = layer(x.clone())
        torch.testing.assert_close(found[str(index)], x, rtol=1e-5, atol=1e-5)
        assert torch.equal(found[str(index)], named[network.tap_names[index + 1]])


def test_names_of_vgg_are_those_of_the_papers() -> None:
    network = random_network("vgg19")
    known = {"8": "relu2_2", "15": "relu3_3", "34": "conv5_4", "35": "relu5_4", "36": "pool5"}
    assert network.resolve(tuple(known)) == tuple(known.values())
    seed0 = network.resolve(("3", "8", "17", "26", "35"))
    assert seed0 == ("relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4") == network.default_taps
    assert (
        random_network("vgg16").resolve(("3", "8", "15", "22", "29")) == random_network("vgg16").default_taps
    )


def test_nothing_behind_the_deepest_tap_runs() -> None:
    network = copy.deepcopy(random_network("vgg16"))
    ran: list[str] = []
    layers = network.get_submodule("layers")
    for name, layer in zip(network.tap_names[1:], layers.children(), strict=True):
        layer.register_forward_hook(lambda *_args, name=name: ran.append(name))
    network(torch.rand(1, 3, 32, 32), ("relu2_1", "conv1_2"))
    assert ran == list(network.tap_names[1 : network.tap_names.index("relu2_1") + 1])


@pytest.mark.parametrize(
    ("kind", "input_range", "expected"),
    [
        ("none", 255.0, (25.5, 127.5, 229.5)),
        ("none", 1.0, (0.1, 0.5, 0.9)),
        ("caffe", 1.0, (229.5 - 103.939, 127.5 - 116.779, 25.5 - 123.68)),
    ],
)
def test_normalisation(kind: str, input_range: float, expected: tuple[float, ...]) -> None:
    network = load_network("random_vgg", normalisation=kind, input_range=input_range)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    handle = network.get_submodule("layers.0").register_forward_pre_hook(
        lambda _m, args: seen.append(args[0])
    )
    network(torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 4, 4), ("conv1_1",))
    handle.remove()
    torch.testing.assert_close(seen[0][0, :, 2, 2], torch.tensor(expected), rtol=1e-5, atol=1e-4)


def test_same_arguments_same_object() -> None:
    network = load_network("random_vgg", seed=3)
    assert load_network("random_vgg", seed=3) is network
    other = load_network("random_vgg", seed=4)
    assert other is not network
    assert other.weights.sha256 != network.weights.sha256
    assert load_network("random_vgg", seed=3, normalisation="none") is not network
    network.double()
    again = load_network("random_vgg", seed=3)
    assert again is not network
    assert again.weights == network.weights
    assert next(again.parameters()).dtype == torch.float32


def test_networks_stay_frozen() -> None:
    for network in (load_network("random_vgg"), load_network("effnet_lite0")):
        parent = nn.Sequential(network).train()
        assert not any(module.training for module in parent[0].modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def _centre_224(picture: Tensor) -> Tensor:
    side = min(picture.shape[-2:])
    top, left = ((size - side) // 2 for size in picture.shape[-2:])
    square = picture[..., top : top + side, left : left + side]
    return F.interpolate(square, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)


@pytest.mark.parametrize(("name", "label"), [("chelsea", 285), ("coffee", 967)])
def test_effnet_lite0_knows_a_cat_and_an_espresso(name: str, label: int) -> None:
    network = load_network("effnet_lite0")
    assert isinstance(network, EffnetLite0)
    pixels = getattr(skimage.data, name)()
    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    probabilities = network.classify(_centre_224(picture)).softmax(1)[0]
    assert probabilities.argmax() == label
    assert probabilities[label] > 0.3


def test_effnet_lite0_input_is_as_published() -> None:
    network = load_network("effnet_lite0")
    seen: list[Tensor] = []
    stem = network.get_submodule("_conv_stem")
    handle = stem.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    network(torch.tensor([0.0, 127 / 255, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8), ("stem",))
    handle.remove()
    torch.testing.assert_close(
        seen[0][0, :, 4, 4], torch.tensor([-127 / 128, 0.0, 1.0]), atol=1e-6, rtol=1e-6
    )


def test_effnet_lite0_taps() -> None:
    network = load_network("effnet_lite0")
    assert network.weights.sha256.startswith("57934424")
    found = network(torch.rand(1, 3, 64, 64), network.default_taps)
    assert {tap: (x.shape[1], x.shape[2]) for tap, x in found.items()} == {
        "stem": (32, 32),
        "block2": (24, 16),
        "block4": (40, 8),
        "block10": (112, 4),
        "block15": (320, 2),
    }
    calls: list[int] = []
    blocks = network.get_submodule("_blocks")
    handles = [
        block.register_forward_hook(lambda *_args, number=number: calls.append(number))
        for number, block in enumerate(blocks.children())
    ]
    network(torch.rand(1, 3, 64, 64), ("block4", "stem"))
    for handle in handles:
        handle.remove()
    assert calls == [0, 1, 2, 3, 4]


def _message(network: FeatureNetwork, size: tuple[int, int, int, int], taps: tuple[str, ...]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is the test's subject
        network(torch.zeros(size), taps)
    return str(caught.value)


def test_errors_say_what_to_do() -> None:
    vgg = load_network("random_vgg")
    assert "8 x 8 pixels are too small for 'pool4'" in _message(vgg, (1, 3, 8, 8), ("relu5_4",))
    assert "repeat a grey channel" in _message(vgg, (1, 1, 32, 32), ("relu1_1",))
    assert "Did you mean 'relu3_4'" in _message(vgg, (1, 3, 32, 32), ("relu3_5",))
    assert "given twice" in _message(vgg, (1, 3, 32, 32), ("8", "relu2_2"))
    with pytest.raises(ValueError, match="Did you mean 'vgg19'"):
        load_network("vgg91")
    with pytest.raises(ValueError, match="has no effect on the feature network effnet_lite0"):
        load_network("effnet_lite0", normalisation="none")
    with pytest.raises(ValueError, match="seed: 2 has no effect"):
        load_network("vgg19", seed=2)
    with pytest.raises(ValueError, match="give normalisation=none"):
        load_network("random_vgg", normalisation="caffe", input_range=255.0)
    for name in ("dataset_vgg", "discriminator"):
        with pytest.raises(ValueError, match=f"{name}: path is missing"):
            load_network(name)


def test_random_vgg_is_kaiming_normal() -> None:
    weight = load_network("random_vgg").get_parameter("layers.5.weight")
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_table_has_notes() -> None:
    assert all(entry.note and len(entry.note) < 80 for entry in NETWORKS.values())
