"""Published networks: parameter counts and layer lists. On the meta device: nothing is allocated or drawn."""

from typing import Any

import pytest
import torch
from torch import nn

from sr.collective import Dropout
from sr.models import GENERATORS
from sr.models.upsampling import NearestUp


def published(name: str, *, scale: int, **parameters: Any) -> Any:
    with torch.device("meta"):
        return GENERATORS[name](scale=scale, **parameters)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def keras_count(model: nn.Module) -> int:
    """Keras' "total params": the moving means and variances of batch norm are among them, as non-trainable ones."""
    moving = [
        buffer.numel()
        for name, buffer in model.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    ]
    return count(model) + sum(moving)


def test_seed_2s_counts() -> None:
    assert keras_count(published("sr_unet", scale=2)) == 22_254_915
    assert keras_count(published("srgan_keras", scale=2)) == 1_453_699
    # Two moving statistics per channel: 2 norms in each of the eight double convolutions, 33 norms of 64.
    assert count(published("sr_unet", scale=2)) == 22_254_915 - 9_216
    assert count(published("srgan_keras", scale=2)) == 1_453_699 - 33 * 2 * 64


def test_seed_0s_count() -> None:
    assert count(published("seed0_fc", scale=2)) == 33_561_110


@pytest.mark.parametrize(
    ("name", "scale", "parameters", "expected"),
    [
        ("srresnet", 4, {"norm": "batch"}, 1_549_462),
        ("edsr_baseline", 2, {}, 1_369_859),
        ("edsr_baseline", 4, {}, 1_517_571),
        ("rrdbnet", 4, {}, 16_697_987),
        # The big EDSR of its paper: 43.1 million (x4), to four digits.
        ("edsr_baseline", 4, {"channels": 256, "num_blocks": 32, "residual_scale": 0.1}, 43_089_923),
        ("srcnn", 2, {}, (9 * 9 * 3 + 1) * 64 + (64 + 1) * 32 + (5 * 5 * 32 + 1) * 3),
        ("srcnn", 8, {"middle_kernel": 5}, (9 * 9 * 3 + 1) * 64 + (25 * 64 + 1) * 32 + (25 * 32 + 1) * 3),
        ("espcn", 3, {}, (25 * 3 + 1) * 64 + (9 * 64 + 1) * 32 + (9 * 32 + 1) * 27),
    ],
)
def test_counts_of_the_literature(name: str, scale: int, parameters: dict[str, Any], expected: int) -> None:
    assert count(published(name, scale=scale, **parameters)) == expected


# One word per layer in the order in which they run: c = Conv3, b = batch norm, r = ReLU, a = PReLU, l = LeakyReLU .2,
# p = pool 2, d = dropout .1, t = ConvT3 with stride 2, n = nearest; and how many channels they give.
DOUBLE = "c{0} b{0} r c{0} b{0} r"
SEED_2_UNET = " ".join(
    [
        DOUBLE.format(64),
        "p d",
        DOUBLE.format(256),
        "p d",
        DOUBLE.format(512),
        "p d",
        DOUBLE.format(512),
        "t512",
        DOUBLE.format(512),
        "t256",
        DOUBLE.format(256),
        "t128",
        DOUBLE.format(128),
        "t64",
        DOUBLE.format(64),
        "c3k1",
    ]
)
SEED_2_GENERATOR = " ".join(
    ["c64k9 a64", *["c64 b64 a64 c64 b64"] * 16, "c64 b64", "c256 n2 l", "c3k9"],
)


def _ran(model: nn.Module, lr: torch.Tensor) -> list[nn.Module]:
    """The layers without parts, in the order in which they run."""
    ran: list[nn.Module] = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, *_: ran.append(module))
    model(lr)
    return ran


def _word(layer: nn.Module) -> str:
    match layer:
        case nn.ConvTranspose2d(kernel_size=(3, 3), stride=(2, 2)):
            return f"t{layer.out_channels}"
        case nn.Conv2d(stride=(1, 1)):
            side = layer.kernel_size[0]
            assert layer.padding == (side // 2, side // 2)
            return f"c{layer.out_channels}" + ("" if side == 3 else f"k{side}")
        case nn.BatchNorm2d():
            return f"b{layer.num_features}"
        case nn.PReLU():
            return f"a{layer.num_parameters}"
        case NearestUp():
            return f"n{layer.factor}"
    others = {nn.ReLU: "r", nn.MaxPool2d: "p", Dropout: "d", nn.LeakyReLU: "l"}
    assert getattr(layer, "kernel_size", 2) == 2
    assert getattr(layer, "p", 0.1) == 0.1
    assert getattr(layer, "negative_slope", 0.2) == 0.2
    return others[type(layer)]


def layers(model: nn.Module) -> str:
    return " ".join(_word(layer) for layer in _ran(model, torch.rand(1, 3, 64, 64, device="meta")))


def test_seed_2s_unet_is_the_published_list_of_layers() -> None:
    model = published("sr_unet", scale=2)
    assert layers(model) == SEED_2_UNET
    # What a decoder stage sees: the enlarged map and the skip of its size.
    inputs = [stage[0].in_channels for stage in model.decoder]
    assert inputs == [512 + 512, 256 + 256, 128 + 64]


def test_seed_2s_generator_is_the_published_list_of_layers() -> None:
    model = published("srgan_keras", scale=2)
    assert layers(model) == SEED_2_GENERATOR


@pytest.mark.parametrize(("name", "momentum"), [("sr_unet", 0.01), ("srgan_keras", 0.5)])
def test_batch_norm_is_keras(name: str, momentum: float) -> None:
    norms = [module for module in published(name, scale=2).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, momentum)}


def test_every_variant_exists() -> None:
    for norm in ("batch", "none", "group"):
        for up in ("convt", "shuffle", "nearest"):
            for scale in (2, 3, 8):
                published("sr_unet", scale=scale, norm=norm, up=up)
                published("srgan_keras", scale=scale, norm=norm, up=up)


def test_variants_without_normalisation_have_none() -> None:
    for name in ("sr_unet", "srgan_keras", "srresnet", "preup_unet"):
        model = published(name, scale=2, norm="none")
        assert not any(isinstance(module, nn.BatchNorm2d | nn.GroupNorm) for module in model.modules())
        assert keras_count(model) == count(model)
