"""EfficientNet-Lite0 with genuine ImageNet weights, which a package of the index brings: no download needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr.features.network import INPUT, FeatureNetwork, Features, Weights, check_pictures

TAPS = {"stem": -1, "block2": 2, "block4": 4, "block10": 10, "block15": 15}
"""Taps, each the last block of its resolution, or of its width: strides 2, 4, 8, 16, 32."""

# Kernel, stride, expansion, channels of each of the 16 blocks.
_BLOCKS = (
    (3, 1, 1, 16),
    *((3, 2, 6, 24), (3, 1, 6, 24)),
    *((5, 2, 6, 40), (5, 1, 6, 40)),
    *((3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)),
    *((5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)),
    *((5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)),
    (3, 1, 6, 320),
)


def _convolution(
    channels_in: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        channels_in, channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Inverted residual without squeeze and excitation. The names are those of the published weights."""

    def __init__(self, channels_in: int, kernel: int, stride: int, expansion: int, channels: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        if expansion > 1:
            self._expand_conv = _convolution(channels_in, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _convolution(inner, inner, kernel, stride=stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = _convolution(inner, channels, 1)
        self._bn2 = _norm(channels)
        self.expands = expansion > 1
        self.has_skip = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = nn.functional.relu6(self._bn1(self._depthwise_conv(inner)))
        out = self._bn2(self._project_conv(inner))
        return out + x if self.has_skip else out


class EffnetLite0(FeatureNetwork):
    """EfficientNet-Lite0, 4.7 million parameters, trained on ImageNet; its input is (255 x - 127) / 128.

    Args:
        state: The published tensors.
        weights: Where they came from.

    Raises:
        ValueError: The tensors do not fit.

    Source: Tan and Le, ICML 2019; "lite" by Liu 2020: no squeeze and excitation, ReLU6, stem and head not scaled.
    """

    def __init__(self, state: dict[str, Tensor], *, weights: Weights) -> None:
        super().__init__()
        with torch.device("meta"):
            self._conv_stem = _convolution(3, 32, 3, stride=2)
            self._bn0 = _norm(32)
            channels_in = (32, *(block[3] for block in _BLOCKS))
            self._blocks = nn.ModuleList(
                _Block(channels, *block) for channels, block in zip(channels_in, _BLOCKS, strict=False)
            )
            self._conv_head = _convolution(320, 1280, 1)
            self._bn1 = _norm(1280)
            self._fc = nn.Linear(1280, 1000)
        try:
            self.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise ValueError(
                f"weights of effnet_lite0 from {weights.source}: they do not fit ({error})"
            ) from None
        self.weights = weights
        self.tap_names = (INPUT, *TAPS)
        self.default_taps = tuple(TAPS)
        self.freeze()

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        """See FeatureNetwork.forward."""
        check_pictures(pictures, self.weights.name)
        wanted = set(self.resolve(taps))
        found: Features = {INPUT: pictures}
        x = self._stem(pictures) if wanted - set(found) else pictures
        for name, last in TAPS.items():
            if not wanted - set(found):
                break
            first = max((before for before in TAPS.values() if before < last), default=-1) + 1
            for block in self._blocks[first : last + 1]:
                x = block(x)
            found[name] = x
        return {tap: found[tap] for tap in taps}

    def classify(self, pictures: Tensor) -> Tensor:
        """Logits of the 1000 ImageNet classes, shape (N, 1000): proof that the weights are what they claim."""
        x = self.forward(pictures, ("block15",))["block15"]
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean(dim=(2, 3)))

    def _stem(self, pictures: Tensor) -> Tensor:
        return nn.functional.relu6(self._bn0(self._conv_stem((pictures * 255 - 127) / 128)))
