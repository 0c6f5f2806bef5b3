"""The layers of the classical networks, named as the literature names them, numbered as torchvision does."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sr.features.layered import L2Pool, Layout, Pooling


def vgg(
    convolutions: tuple[int, ...],
    *,
    channels: tuple[int, ...] = (64, 128, 256, 512, 512),
    pooling: Pooling = "max",
) -> Layout:
    """Blocks of 3 x 3 convolutions with ReLU, each block followed by pooling.

    Taps: `convB_I` (before ReLU), `reluB_I`, `poolB`, all counted from 1. Default taps: the last ReLU of each block.

    Args:
        convolutions: How many in each block.
        channels: Of each block.
        pooling: `max`, or `l2` as in DISTS.

    Source: Simonyan and Zisserman, ICLR 2015, table 1, columns D (VGG16) and E (VGG19).
    """
    layers: dict[str, nn.Module] = {}
    defaults: list[str] = []
    channels_in = 3
    for block, (count, width) in enumerate(zip(convolutions, channels, strict=True), start=1):
        for number in range(1, count + 1):
            layers[f"conv{block}_{number}"] = nn.Conv2d(channels_in, width, 3, padding=1)
            layers[f"relu{block}_{number}"] = nn.ReLU()
            channels_in = width
        defaults.append(f"relu{block}_{count}")
        layers[f"pool{block}"] = nn.MaxPool2d(2) if pooling == "max" else L2Pool()
    return Layout(layers, tuple(defaults))


def vgg16(pooling: Pooling = "max") -> Layout:
    """13 convolutions; see `vgg`."""
    return vgg((2, 2, 3, 3, 3), pooling=pooling)


def vgg19(pooling: Pooling = "max") -> Layout:
    """16 convolutions; see `vgg`."""
    return vgg((2, 2, 4, 4, 4), pooling=pooling)


def alexnet(pooling: Pooling = "max") -> Layout:
    """Five convolutions; taps `convI`, `reluI`, `pool1`, `pool2`, `pool5`.

    Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks".
    """
    _only_max("alexnet", pooling)
    layers: dict[str, nn.Module] = {}
    plan = (
        (3, 64, 11, 4, 2),
        (64, 192, 5, 1, 2),
        (192, 384, 3, 1, 1),
        (384, 256, 3, 1, 1),
        (256, 256, 3, 1, 1),
    )
    for number, (channels_in, width, kernel, stride, padding) in enumerate(plan, start=1):
        layers[f"conv{number}"] = nn.Conv2d(channels_in, width, kernel, stride=stride, padding=padding)
        layers[f"relu{number}"] = nn.ReLU()
        if number in (1, 2, 5):
            layers[f"pool{number}"] = nn.MaxPool2d(3, stride=2)
    return Layout(layers, tuple(f"relu{number}" for number in range(1, 6)))


def squeezenet1_1(pooling: Pooling = "max") -> Layout:
    """One convolution and eight fire modules; taps `conv1`, `relu1`, `fireI`, `pool1`, `pool3`, `pool5`.

    Source: Iandola et al. 2016, "SqueezeNet", version 1.1 of the authors' repository.
    """
    _only_max("squeezenet1_1", pooling)
    from torchvision.models.squeezenet import Fire

    layers: dict[str, nn.Module] = {"conv1": nn.Conv2d(3, 64, 3, stride=2), "relu1": nn.ReLU()}
    channels_in = 64
    for fire, squeeze in zip(range(2, 10), (16, 16, 32, 32, 48, 48, 64, 64), strict=True):
        if fire in (2, 4, 6):
            layers[f"pool{fire - 1}"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        layers[f"fire{fire}"] = Fire(channels_in, squeeze, 4 * squeeze, 4 * squeeze)
        channels_in = 8 * squeeze
    return Layout(layers, ("relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9"))


LAYOUTS: dict[str, Callable[[Pooling], Layout]] = {
    "vgg19": vgg19,
    "vgg16": vgg16,
    "alexnet": alexnet,
    "squeezenet1_1": squeezenet1_1,
}


def on_meta(make: Callable[[], Layout]) -> Layout:
    """The layout without memory: its weights are about to be replaced anyway."""
    with torch.device("meta"):
        return make()


def random_state(layout: Layout, *, seed: int) -> dict[str, Tensor]:
    """Kaiming-normal weights and zero biases for a layout, the same for a seed on every machine.

    Source: He et al., ICCV 2015, equation 10 (fan-in, gain of ReLU).
    """
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, parameter in nn.Sequential(*layout.layers.values()).named_parameters():
        if parameter.ndim > 1:
            fan_in = math.prod(parameter.shape[1:])
            state[name] = torch.randn(parameter.shape, generator=generator) * math.sqrt(2 / fan_in)
        else:
            state[name] = torch.zeros(parameter.shape)
    return state


def _only_max(name: str, pooling: Pooling) -> None:
    if pooling != "max":
        raise ValueError(f"pooling of {name}: got '{pooling}', only the VGG networks have it; give 'max'")
