"""Feature networks that are a list of layers, each of which is a tap: VGG, AlexNet, SqueezeNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.features.network import INPUT, FeatureNetwork, Features, Weights, check_pictures

Normalisation = Literal["imagenet", "caffe", "none"]
Pooling = Literal["max", "l2"]


class Normalise(nn.Module):
    """RGB in [0, 1] to what a network was trained on.

    `imagenet`: minus the mean, divided by the deviation of ImageNet, as torchvision's weights want it. `caffe`: BGR in
    [0, 255] minus the mean, as the weights of the VGG authors want it. `none`: as it is, times `input_range`.

    Args:
        kind: One of the three.
        input_range: What 1.0 becomes before the normalisation; 255 for networks that are fed bytes.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, kind: Normalisation, *, input_range: float = 1.0) -> None:
        super().__init__()
        if kind != "none" and input_range != 1.0:
            raise ValueError(
                f"input_range: {input_range} together with normalisation={kind}, which has a range of its own; "
                "give normalisation=none"
            )
        mean, deviation = {
            "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            # The published BGR means, divided by 255, in the order of RGB.
            "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3),
            "none": ((0.0,) * 3, (1 / input_range,) * 3),
        }[kind]
        self.is_bgr = kind == "caffe"
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Shape (N, 3, H, W), same shape out."""
        normalised = (pictures - self.mean) / self.deviation
        return normalised.flip(1) if self.is_bgr else normalised


class L2Pool(nn.Module):
    """Root of the Hann-weighted mean of squares, 3 x 3, stride 2: pooling without aliasing.

    Source: Henaff and Simoncelli, ICLR 2016; as used in Ding et al., TPAMI 2020 (DISTS), section 3.2.
    """

    kernel_size, padding = 3, 1

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, c, h, w) to (N, c, ceil(h / 2), ceil(w / 2))."""
        row = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
        kernel = (row[:, None] * row[None, :]).expand(x.shape[1], 1, 3, 3)
        # The root has no gradient at zero, where whole channels of a ReLU lie.
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


@dataclass(frozen=True)
class Layout:
    """The layers of a network, in order, with no weights of any use yet."""

    layers: dict[str, nn.Module]
    """Name of the tap behind a layer to the layer; the parameters of layer i are `i.weight` and `i.bias`."""
    default_taps: tuple[str, ...]


class LayeredNetwork(FeatureNetwork):
    """A frozen list of layers.

    Args:
        layout: Its layers; may lie on the meta device.
        state: Parameters by `index.name`, as in torchvision's `features`.
        normalise: What happens to the input.
        weights: Where the state came from.

    Raises:
        ValueError: The state does not fit the layers.
    """

    def __init__(
        self, layout: Layout, state: Mapping[str, Tensor], *, normalise: nn.Module, weights: Weights
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layout.layers.values())
        try:
            self.layers.load_state_dict(dict(state), assign=True)
        except RuntimeError as error:
            raise ValueError(
                f"weights of {weights.name} from {weights.source}: they do not fit the network ({error}); "
                "give the file that belongs to it"
            ) from None
        self.normalise = normalise
        self.weights = weights
        self.tap_names = (INPUT, *layout.layers)
        self.aliases = {str(index): name for index, name in enumerate(layout.layers)}
        self.default_taps = layout.default_taps
        self.freeze()

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        """See FeatureNetwork.forward.

        Raises:
            ValueError: The pictures are not RGB, or too small for the deepest tap.
        """
        check_pictures(pictures, self.weights.name)
        wanted = set(self.resolve(taps))
        found: Features = {INPUT: pictures} if INPUT in wanted else {}
        x = self.normalise(pictures)
        for name, layer in zip(self.tap_names[1:], self.layers, strict=True):
            if len(found) == len(wanted):
                break
            self._check_size(x, layer, name, pictures)
            x = layer(x)
            if name in wanted:
                found[name] = x
        return {tap: found[self.aliases.get(tap, tap)] for tap in taps}

    def _check_size(self, x: Tensor, layer: nn.Module, name: str, pictures: Tensor) -> None:
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            return
        kernel, padding = (v if isinstance(v, int) else int(v[0]) for v in (layer.kernel_size, layer.padding))
        if min(x.shape[-2:]) + 2 * padding < kernel:
            raise ValueError(
                f"{self.weights.name}: pictures of {pictures.shape[-1]} x {pictures.shape[-2]} pixels are too small for "
                f"'{name}'; use larger crops or shallower taps"
            )
