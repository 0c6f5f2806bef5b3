"""What the picture networks are made of, and what each variant is for."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from sr.models import GENERATORS
from sr.models.blocks import DoubleConv, he_normal_
from sr.models.padding import pad_to_multiple
from sr.models.rrdbnet import RrdbNet
from sr.models.seed0_fc import Seed0Fc
from sr.models.sr_unet import SrUnet
from sr.models.srcnn import Srcnn
from sr.models.srgan_keras import SrganKeras
from sr.models.unet_geu import Geu, UnetGeu
from sr.models.upsampling import IcnrConv, TransposedConv, enlarge, stages


class TestPadding:
    @pytest.mark.parametrize("size", [(5, 9), (8, 8), (16, 3), (12, 15)])
    def test_is_numpys_reflection(self, size: tuple[int, int]) -> None:
        x = torch.rand(2, 3, *size)
        missing = [(-side) % 8 for side in size]
        expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])), mode="reflect")
        assert np.array_equal(pad_to_multiple(x, 8).numpy(), expected)

    def test_takes_the_smallest_pictures(self) -> None:
        assert torch.equal(pad_to_multiple(torch.full((1, 3, 1, 1), 0.3), 8), torch.full((1, 3, 8, 8), 0.3))
        assert pad_to_multiple(torch.tensor([[0.0, 1.0]]), 8)[0].tolist() == [0, 1] * 4

    def test_leaves_alone_what_fits(self) -> None:
        x = torch.rand(1, 3, 16, 8)
        assert pad_to_multiple(x, 8) is x


class TestEnlargement:
    @pytest.mark.parametrize("factor", [2, 3])
    def test_transposed_convolution_is_tensorflows(self, factor: int) -> None:
        # The adjoint of TensorFlow's "same" convolution, by its definition: with stride 2 and kernel 3 the one
        # missing row is added at the end.
        layer = TransposedConv(1, 1, factor)
        x = torch.rand(1, 1, 4, 5)
        kernel = layer.weight[0, 0].detach().numpy()
        expected = np.zeros((4 * factor + 3, 5 * factor + 3))
        for i in range(4):
            for j in range(5):
                expected[i * factor : i * factor + 3, j * factor : j * factor + 3] += (
                    x[0, 0, i, j].item() * kernel
                )
        out = layer(x)[0, 0].detach().numpy()
        assert out.shape == (4 * factor, 5 * factor)
        assert np.allclose(out, expected[: 4 * factor, : 5 * factor], atol=1e-6)

    @pytest.mark.parametrize("factor", [2, 3])
    def test_a_shuffle_starts_as_nearest_enlargement(self, factor: int) -> None:
        out = enlarge("shuffle", 6, 4, factor)(torch.rand(1, 6, 5, 5))
        small = out[..., ::factor, ::factor]
        assert torch.equal(out, small.repeat_interleave(factor, -1).repeat_interleave(factor, -2))
        assert small.std() > 0.05
        # Different outputs are not copies of each other.
        assert not torch.allclose(out[:, 0], out[:, 1], atol=1e-3)

    @pytest.mark.parametrize(("up", "flat"), [("convt", False), ("shuffle", True), ("nearest", True)])
    def test_a_flat_map_stays_flat_but_for_the_checkerboard(self, up: str, flat: bool) -> None:
        inside = enlarge(up, 6, 4, 2)(torch.ones(1, 6, 8, 8))[..., 4:-4, 4:-4]  # type: ignore[arg-type]
        spread = inside.std(dim=(-2, -1)).max()
        assert (spread < 1e-6) == flat
        assert flat or spread > 0.05

    def test_factors(self) -> None:
        assert [stages(scale, name="x") for scale in (2, 3, 4, 8)] == [[2], [3], [2, 2], [2, 2, 2]]
        for scale in (0, 1, 5, 6, 16):
            with pytest.raises(ValueError, match="must be 2, 3, 4 or 8"):
                stages(scale, name="x")


def checkerboard(picture: torch.Tensor) -> float:
    """The share of a picture's energy that depends only on whether its row and column are even or odd."""
    phases = picture.unfold(-2, 2, 2).unfold(-2, 2, 2).mean(dim=(-4, -3))
    return float((phases.var(dim=(-2, -1), correction=0) / picture.var(dim=(-2, -1), correction=0)).mean())


class TestCheckerboard:
    def test_the_measure_sees_one(self) -> None:
        noise = torch.rand(1, 3, 64, 64)
        board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(32, 32)
        assert checkerboard(board.expand(1, 1, -1, -1)) == pytest.approx(1)
        assert checkerboard(noise) < 0.01
        assert checkerboard(noise + board) > 0.5

    @pytest.mark.parametrize("name", ["sr_unet", "srgan_keras"])
    def test_the_cures_cure(self, name: str) -> None:
        energy: dict[str, float] = {}
        small: dict[str, Any] = {"width": 8} if name == "sr_unet" else {"channels": 8, "num_blocks": 2}
        for up in ("convt", "shuffle", "nearest"):
            shares: list[float] = []
            for seed in range(6):
                torch.manual_seed(seed)
                network = GENERATORS[name](scale=2, up=up, norm="none", out="linear", **small).eval()
                with torch.no_grad():
                    shares.append(checkerboard(network(torch.rand(2, 3, 48, 48))))
            energy[up] = sum(shares) / len(shares)
        assert energy["convt"] > 0.05
        assert energy["shuffle"] < 0.05 * energy["convt"]
        assert energy["nearest"] < 0.05 * energy["convt"]


class TestInitialisation:
    def test_he_normal_is_keras(self) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(32, 64, 3)
        he_normal_(conv)
        deviation = math.sqrt(2 / (9 * 32))
        weights = conv.weight.detach().flatten().numpy()
        expected = stats.truncnorm(-2, 2, scale=deviation / stats.truncnorm(-2, 2).std())
        assert stats.kstest(weights[::4], expected.cdf).pvalue > 0.01
        assert weights.std() == pytest.approx(deviation, rel=0.02)
        assert conv.bias is not None
        assert not conv.bias.any()

    def test_seed_2s_networks_start_as_keras_does(self) -> None:
        torch.manual_seed(0)
        unet = SrUnet(scale=2, width=16)
        double = unet.decoder[0]
        assert isinstance(double, DoubleConv)
        first = double[0]
        assert isinstance(first, nn.Conv2d)
        assert first.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * first.in_channels)), rel=0.02)
        up = unet.ups[0]
        assert isinstance(up, TransposedConv)
        limit = math.sqrt(6 / (9 * (up.in_channels + up.out_channels)))
        assert up.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
        generator = SrganKeras(scale=2, channels=16, num_blocks=1)
        limit = math.sqrt(6 / (81 * (3 + 64)))
        assert generator.head.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
        slopes = [module.weight for module in generator.modules() if isinstance(module, nn.PReLU)]
        assert all(not slope.any() and slope.numel() == 16 for slope in slopes)
        for network in (unet, generator):
            biases = [p for key, p in network.named_parameters() if key.endswith("bias")]
            assert not any(bias.any() for bias in biases)

    def test_esrgans_residuals_start_at_a_tenth_of_he(self) -> None:
        torch.manual_seed(0)
        network = RrdbNet(scale=2, num_blocks=1)
        last = network.get_parameter("trunk.0.blocks.1.convs.4.weight")
        assert last.shape == (64, 64 + 4 * 32, 3, 3)
        assert last.std().item() == pytest.approx(0.1 * math.sqrt(2 / (9 * 192)), rel=0.02)
        assert not network.get_parameter("trunk.0.blocks.1.convs.4.bias").any()

    def test_srcnn_starts_small(self) -> None:
        torch.manual_seed(0)
        assert Srcnn(scale=2).get_parameter("body.0.weight").std().item() == pytest.approx(1e-3, rel=0.05)
        assert Srcnn(scale=2)(torch.rand(1, 3, 8, 8)).abs().max() < 1e-3


class TestOutputs:
    def test_ranges(self) -> None:
        torch.manual_seed(0)
        lr = 20 * torch.rand(1, 3, 16, 16)
        for network, low, high in [
            (SrUnet(scale=2, width=4, norm="none", out="sigmoid"), 0, 1),
            (SrganKeras(scale=2, channels=8, num_blocks=1, norm="none"), -1, 1),
        ]:
            sr = network.eval()(lr)
            assert low <= sr.min() <= sr.max() <= high
        for network in (
            SrUnet(scale=2, width=4, norm="none"),
            SrganKeras(scale=2, channels=8, num_blocks=1, norm="none", out="linear"),
        ):
            assert network.eval()(lr).abs().max() > 1

    def test_batch_norm_makes_training_and_evaluation_differ_and_its_variants_do_not(self) -> None:
        lr = torch.rand(2, 3, 16, 16)
        for norm, differs in [("batch", True), ("none", False), ("group", False)]:
            torch.manual_seed(0)
            network = SrUnet(scale=2, width=4, norm=norm, dropout=0.0)  # type: ignore[arg-type]
            with torch.no_grad():
                assert torch.allclose(network.train()(lr), network.eval()(lr), atol=1e-5) != differs

    def test_published_padding_is_cropped_away(self) -> None:
        torch.manual_seed(0)
        network = SrUnet(scale=2, width=4).eval()
        lr = torch.rand(1, 3, 13, 22)
        with torch.no_grad():
            assert torch.equal(network(lr), network(pad_to_multiple(lr, 8))[..., :26, :44])


class TestSeed0:
    def test_the_range_fault_is_the_published_one(self) -> None:
        torch.manual_seed(0)
        published = Seed0Fc(scale=2)
        fixed = Seed0Fc(scale=2, range_fix=True)
        fixed.load_state_dict(published.state_dict())
        clip = torch.rand(2, 5, 3, 32, 32)
        with torch.no_grad():
            dark, bright = published(clip), fixed(clip)
        assert dark.shape == (2, 1, 3, 64, 64)
        assert 0 < dark.max() <= 1 / 255
        assert torch.allclose(dark * 255, bright, atol=1e-6)
        assert 0.3 < bright.mean() < 0.7

    def test_sees_grey_and_gives_grey(self) -> None:
        torch.manual_seed(0)
        network = Seed0Fc(scale=2, lr_size=8, range_fix=True)
        clip = torch.rand(1, 5, 3, 8, 8)
        grey = clip.mean(dim=2, keepdim=True).expand_as(clip)
        sr = network(clip)
        assert torch.allclose(sr, network(grey), atol=1e-6)
        assert torch.equal(sr[:, :, 0], sr[:, :, 2])
        assert torch.equal(sr[:, :, 0], sr[:, :, 1])

    def test_stacks_each_frames_maps_as_one_channel(self) -> None:
        torch.manual_seed(0)
        network = Seed0Fc(scale=2)
        clip = torch.rand(2, 5, 3, 32, 32)
        seen: list[torch.Tensor] = []
        network.across_frames.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        network(clip)
        assert seen[0].shape == (2, 5, 32, 256)
        one = network.per_frame(clip[1, 3].mean(dim=0)[None, None])
        assert torch.allclose(seen[0][1, 3], one[0].flatten(1), atol=1e-6)

    def test_says_which_sizes_it_takes(self) -> None:
        with pytest.raises(ValueError, match=r"64 x 48 pixels.* only 8 x 8; use HR crops of 16 pixels"):
            Seed0Fc(scale=2, lr_size=8)(torch.rand(1, 5, 3, 48, 64))
        with pytest.raises(ValueError, match="scale 2 only, got 4"):
            Seed0Fc(scale=4)
        with pytest.raises(ValueError, match=r"seed0_fc\.lr_size: must be even"):
            Seed0Fc(scale=2, lr_size=7)


def geu(**parameters: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"scale": 2, "width": 4, "stem_channels": 2, "residual": False, **parameters}
    return UnetGeu(**settings)


class TestUnetGeu:
    @pytest.mark.parametrize("scale", [2, 3, 4, 8])
    @pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 9), (1, 2)])
    def test_gives_the_middle_frame(self, scale: int, size: tuple[int, int]) -> None:
        sr = geu(scale=scale)(torch.rand(2, 7, 3, *size))
        assert sr.shape == (2, 1, 3, size[0] * scale, size[1] * scale)

    @pytest.mark.parametrize("fusion", ["early", "conv3d", "mean"])
    def test_every_frame_counts(self, fusion: str) -> None:
        network = geu(fusion=fusion)
        clip = torch.rand(1, 7, 3, 8, 8, requires_grad=True)
        network(clip).sum().backward()
        assert clip.grad is not None
        assert all(clip.grad[0, frame].any() for frame in range(7))
        with torch.no_grad():
            same = torch.allclose(network(clip), network(clip.flip(1)), atol=1e-6)
        assert same == (fusion == "mean")

    def test_units_stand_where_the_level_says(self) -> None:
        def places(level: int, num_downs: int = 2) -> int:
            network = geu(level=level, num_downs=num_downs)
            return sum(isinstance(module, Geu) for module in network.modules())

        assert [places(level) for level in (1, 2, 3)] == [1, 3, 5]
        assert [places(level, num_downs=0) for level in (1, 2, 3)] == [1, 1, 1]

    def test_the_unit_is_its_formula(self) -> None:
        torch.manual_seed(0)
        x = torch.rand(1, 4, 6, 6)
        unit = Geu(4, gate=True)
        assert unit.gate is not None
        gate = unit.gate(x)
        assert 0 < gate.min() < gate.max() < 1
        assert torch.allclose(unit(x), x + gate * unit.addition(x))
        plain = Geu(4, gate=False)
        assert torch.allclose(plain(x), x + plain.addition(x))

    def test_settings_that_do_not_work_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"unet_geu\.num_frames: got 4.*odd"):
            geu(num_frames=4)
        with pytest.raises(ValueError, match=r"unet_geu\.num_downs"):
            geu(num_downs=-1)
        with pytest.raises(ValueError, match="unet_geu: scale must be"):
            geu(scale=5)

    def test_has_the_documents_widths(self) -> None:
        with torch.device("meta"):
            network: Any = UnetGeu(scale=8)
        assert network.get_parameter("fuse_frames.weight").shape == (64, 7 * 32, 1, 1)
        assert network.bottleneck.addition[1].weight.shape[0] == 256
        assert sum(isinstance(module, nn.PixelShuffle) for module in network.upsampler) == 3


@pytest.mark.parametrize("name", ["seed0_fc", "unet_geu"])
class TestMiddleFrame:
    def test_says_what_it_is(self, name: str) -> None:
        small: dict[str, Any] = {"lr_size": 8} if name == "seed0_fc" else {"width": 4}
        network = GENERATORS[name](scale=2, **small)
        assert GENERATORS[name].middle_frame_only is True  # type: ignore[attr-defined]
        assert network.num_frames == {"seed0_fc": 5, "unet_geu": 7}[name]
        assert GENERATORS[name].num_frames == network.num_frames  # type: ignore[attr-defined]
        three = GENERATORS[name](scale=2, num_frames=3, **small)
        assert three.num_frames == 3
        assert three(torch.rand(2, 3, 3, 8, 8)).shape == (2, 1, 3, 16, 16)

    def test_refuses_other_inputs(self, name: str) -> None:
        network = GENERATORS[name](scale=2, num_frames=3)
        with pytest.raises(
            ValueError, match=rf"{name}: got clips of 5 frames.*set its parameter num_frames to 5"
        ):
            network(torch.rand(1, 5, 3, 32, 32))
        with pytest.raises(ValueError, match="must be odd"):
            network(torch.rand(1, 4, 3, 32, 32))
        with pytest.raises(
            ValueError, match=rf"{name}: got an input of shape \(2, 3, 32, 32\), needs clips of 3"
        ):
            network(torch.rand(2, 3, 32, 32))


def test_icnr_copies_its_weights_for_each_place() -> None:
    weight = IcnrConv(3, 5, 2).weight
    assert weight.shape == (20, 3, 3, 3)
    assert torch.equal(weight[0::4], weight[3::4])
    assert weight[0::4].std() > 0
