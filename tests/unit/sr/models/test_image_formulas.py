"""Each network against its formula, written out with plain convolutions on the network's own weights."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.models import GENERATORS
from sr.resize import upscale_bicubic

DIV2K_MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(3, 1, 1)


class Weights:
    """The convolutions of a network in the order of its definition, each given out once."""

    def __init__(self, network: nn.Module) -> None:
        self.convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        self.slopes = [m.weight for m in network.modules() if isinstance(m, nn.PReLU)]

    def conv(self, x: Tensor) -> Tensor:
        conv = self.convs.pop(0)
        return F.conv2d(x, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2)

    def prelu(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slopes.pop(0))


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def srcnn(w: Weights, lr: Tensor) -> Tensor:
    return w.conv(w.conv(w.conv(upscale_bicubic(lr, 4)).relu()).relu())


def espcn(w: Weights, lr: Tensor) -> Tensor:
    return F.pixel_shuffle(w.conv(w.conv(w.conv(lr).tanh()).tanh()), 4)


def edsr(w: Weights, lr: Tensor) -> Tensor:
    first = x = w.conv(lr - DIV2K_MEAN)
    for _ in range(2):
        x = x + 0.5 * w.conv(w.conv(x).relu())
    x = first + w.conv(x)
    for _ in range(2):
        x = F.pixel_shuffle(w.conv(x), 2)
    return w.conv(x) + DIV2K_MEAN


def srresnet(w: Weights, lr: Tensor) -> Tensor:
    first = x = w.prelu(w.conv(lr))
    for _ in range(2):
        x = x + w.conv(w.prelu(w.conv(x)))
    x = first + w.conv(x)
    for _ in range(2):
        x = w.prelu(F.pixel_shuffle(w.conv(x), 2))
    return w.conv(x)


def rrdbnet(w: Weights, lr: Tensor) -> Tensor:
    def dense(x: Tensor) -> Tensor:
        seen = [x]
        for _ in range(4):
            seen.append(leaky(w.conv(torch.cat(seen, 1))))
        return x + 0.2 * w.conv(torch.cat(seen, 1))

    first = x = w.conv(lr)
    for _ in range(2):
        x = x + 0.2 * dense(dense(dense(x)))
    x = first + w.conv(x)
    for _ in range(2):
        x = leaky(w.conv(twice(x)))
    return w.conv(leaky(w.conv(x)))


def srgan_keras(w: Weights, lr: Tensor) -> Tensor:
    first = x = w.prelu(w.conv(lr))
    for _ in range(2):
        x = x + w.conv(w.prelu(w.conv(x)))
    x = first + w.conv(x)
    for _ in range(2):
        x = leaky(twice(w.conv(x)))
    return w.conv(x).tanh()


@pytest.mark.parametrize(
    ("name", "formula", "settings"),
    [
        ("srcnn", srcnn, {}),
        ("espcn", espcn, {"residual": False}),
        ("edsr_baseline", edsr, {"num_blocks": 2, "residual_scale": 0.5}),
        ("srresnet", srresnet, {"num_blocks": 2}),
        ("rrdbnet", rrdbnet, {"num_blocks": 2, "growth": 3}),
        ("srgan_keras", srgan_keras, {"num_blocks": 2, "norm": "none"}),
    ],
)
def test_formula_of(name: str, formula: Any, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = GENERATORS[name](scale=4, channels=6, **settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
        lr = torch.rand(2, 3, 7, 6)
        weights = Weights(network)
        expected = formula(weights, lr)
        assert weights.convs == weights.slopes == []
        assert expected.std() > 0.05
        assert torch.allclose(network(lr), expected, rtol=1e-3, atol=1e-4)


def double(w: Weights, x: Tensor) -> Tensor:
    return w.conv(w.conv(x).relu()).relu()


def randomised(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    network = GENERATORS[name](**settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return network.eval()


def test_formula_of_sr_unet() -> None:
    network = randomised("sr_unet", scale=4, width=2, norm="none", up="nearest")
    lr = torch.rand(1, 3, 8, 16)
    levels = [Weights(level) for level in (*network.encoder, network.middle)]
    with torch.no_grad():
        skips = []
        x = lr
        for level in levels[:3]:
            skips.append(double(level, x))
            x = F.max_pool2d(skips[-1], 2)
        x = double(levels[3], x)
        for up, level in zip(network.ups, network.decoder, strict=True):
            x = double(Weights(level), torch.cat([skips.pop(), Weights(up).conv(twice(x))], 1))
        beyond = Weights(network.beyond)
        for _ in range(2):
            x = double(beyond, beyond.conv(twice(x)))
        expected = Weights(network.head).conv(x)
        assert expected.std() > 0.01
        assert torch.allclose(network(lr), expected, rtol=1e-3, atol=1e-4)


def test_formula_of_preup_unet() -> None:
    network = randomised("preup_unet", scale=2, width=2)
    lr = torch.rand(1, 3, 8, 6)
    with torch.no_grad():
        start = upscale_bicubic(lr, 2)
        one = double(Weights(network.encoder[0]), start)
        two = double(Weights(network.encoder[1]), F.max_pool2d(one, 2))
        x = double(Weights(network.encoder[2]), F.max_pool2d(two, 2))
        for skip, up, level in zip((two, one), network.ups, network.decoder, strict=True):
            x = double(Weights(level), torch.cat([skip, Weights(up).conv(twice(x))], 1))
        correction = Weights(network.head).conv(x)
        assert correction.std() > 0.01
        assert torch.allclose(network(lr), start + correction, rtol=1e-3, atol=1e-4)


def test_formula_of_unet_geu() -> None:
    network = randomised("unet_geu", scale=2, width=2, stem_channels=2, num_frames=3)
    clip = torch.rand(2, 3, 3, 8, 4)

    def prelu_pair(module: nn.Module, x: Tensor) -> Tensor:
        w = Weights(module)
        return w.prelu(w.conv(w.prelu(w.conv(x))))

    def unit(module: nn.Module, x: Tensor) -> Tensor:
        w = Weights(module)
        addition = w.conv(w.prelu(w.conv(x)))
        return x + w.conv(w.prelu(w.conv(x))).sigmoid() * addition

    def down(module: nn.Module, x: Tensor) -> Tensor:
        w = Weights(module)
        return w.prelu(w.conv(w.prelu(w.conv(w.prelu(w.conv(x)[..., ::2, ::2])))))

    def shuffle_up(module: nn.Module, x: Tensor) -> Tensor:
        w = Weights(module)
        return w.prelu(F.pixel_shuffle(w.conv(x), 2))

    with torch.no_grad():
        stems = [prelu_pair(network.stem, clip[:, frame]) for frame in range(3)]
        one = prelu_pair(network.entry, Weights(network.fuse_frames).conv(torch.cat(stems, 1)))
        two = down(network.downs[0], one)
        x = unit(network.bottleneck, down(network.downs[1], two))
        for i, skip in enumerate((two, one)):
            merged = torch.cat([unit(network.skips[i], skip), shuffle_up(network.ups[i], x)], 1)
            x = unit(network.decoded[i], prelu_pair(network.merges[i], merged))
        x = Weights(network.head).conv(shuffle_up(network.upsampler, x))
        assert x.std() > 0.01
        expected = x + upscale_bicubic(clip[:, 1], 2)
        assert torch.allclose(network(clip)[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_formula_of_seed0_fc() -> None:
    network = randomised("seed0_fc", scale=2, lr_size=8, range_fix=True)
    clip = torch.rand(2, 5, 3, 8, 8)
    with torch.no_grad():
        rows = []
        for frame in range(5):
            w = Weights(network.per_frame)
            grey = clip[:, frame].mean(1, keepdim=True)
            rows.append(F.elu(w.conv(F.elu(F.max_pool2d(w.conv(grey), 2)))).reshape(2, 1, 32, 16))
        w = Weights(network.across_frames)
        flat = w.conv(w.conv(torch.cat(rows, 1)).relu()).relu().reshape(2, -1)
        expected = torch.sigmoid(flat @ network.linear.weight.T + network.linear.bias).reshape(2, 16, 16)
        assert expected.std() > 0.01
        assert torch.allclose(network(clip)[:, 0, 0], expected, atol=1e-5)
