"""The discriminators: sizes, features, normalisation, receptive field."""

import copy
import itertools
from collections.abc import Callable

import pytest
import skimage
import torch
from torch import nn

from sr.models.discriminators import DISCRIMINATORS
from sr.models.discriminators.base import Discriminator
from sr.resize import bicubic, upscale_bicubic

SMALL: dict[str, Callable[..., Discriminator]] = {
    "vgg_d": lambda **more: DISCRIMINATORS["vgg_d"](channels=8, dense_channels=16, **more),
    "patch_d": lambda **more: DISCRIMINATORS["patch_d"](channels=8, **more),
    "unet_sn_d": lambda **more: DISCRIMINATORS["unet_sn_d"](channels=8, **more),
    "temporal_d": lambda **more: DISCRIMINATORS["temporal_d"](channels=16, **more),
}
NORMS = ("none", "spectral", "group", "batch")
WITH_NORM = [name for name in sorted(SMALL) if name != "unet_sn_d"]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def random_clip(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def build(name: str, **more: object) -> Discriminator:
    torch.manual_seed(0)
    return SMALL[name](**more)


class TestPublishedSizes:
    def test_srgan_at_96_pixels(self) -> None:
        widths = (64, 64, 128, 128, 256, 256, 512, 512)
        convolutions = sum(9 * i * o + o for i, o in zip((3, *widths[:-1]), widths, strict=True))
        head = 512 * (96 // 16) ** 2 * 1024 + 1024 + 1024 + 1
        assert count(DISCRIMINATORS["vgg_d"]()) == convolutions + head == 23_561_793
        assert count(DISCRIMINATORS["vgg_d"](norm="batch")) == convolutions + head + 2 * sum(widths[1:])
        x, features = DISCRIMINATORS["vgg_d"](pool_size=6)(random_clip(1, 3, 96, 96))
        assert features["down4"].shape == (1, 512, 6, 6)
        assert x.shape == (1, 1)

    def test_real_esrgan_unet(self) -> None:
        assert count(DISCRIMINATORS["unet_sn_d"]()) == 4_376_897

    def test_patchgan(self) -> None:
        widths = (3, 64, 128, 256, 512, 1)
        assert count(DISCRIMINATORS["patch_d"]()) == sum(
            16 * i * o + o for i, o in itertools.pairwise(widths)
        )


@pytest.mark.parametrize("name", sorted(DISCRIMINATORS))
class TestEvery:
    @pytest.mark.parametrize(("height", "width"), [(64, 48), (43, 51), (24, 24)])
    def test_features_halve_the_size_and_carry_their_names(self, name: str, height: int, width: int) -> None:
        model = build(name)
        logits, features = model(random_clip(2, 3, 3, height, width))
        batch = 2 if name == "temporal_d" else 6
        assert logits.shape[0] == batch
        assert tuple(features) == model.tap_names == tuple(f"down{i + 1}" for i in range(len(features)))
        assert len(features) == {"vgg_d": 4, "patch_d": 3, "unet_sn_d": 3, "temporal_d": 4}[name]
        for level, feature in enumerate(features.values(), 1):
            assert feature.shape[0] == batch
            for size, full in zip(feature.shape[-2:], (height, width), strict=True):
                assert full // 2**level <= size <= -(-(full + 8) // 2**level)
            if height % 16 == width % 16 == 0:
                assert feature.shape[-2:] == (height // 2**level, width // 2**level)

    def test_features_are_those_behind_the_activation(self, name: str) -> None:
        _, features = build(name)(random_clip(2, 3, 3, 32, 32))
        for feature in features.values():
            assert feature.min() < 0  # Leaky: what is negative is a fifth as large.
            assert -feature.min() < 0.7 * feature.max()

    def test_gradient_reaches_the_pictures_and_every_parameter(self, name: str) -> None:
        model = build(name)
        clip = random_clip(2, 3, 3, 32, 32).requires_grad_()
        logits, features = model(clip)
        for feature in features.values():
            assert torch.autograd.grad(feature.sum(), clip, retain_graph=True)[0].abs().max() > 0
        logits.sum().backward()
        assert clip.grad is not None
        assert (clip.grad.flatten(2).abs().sum(2) > 0).all()
        for label, parameter in model.named_parameters():
            assert parameter.grad is not None, label
            # With spectral norm a layer's gradient has no part along its weight, but is not zero.
            assert parameter.grad.abs().max() > 0, label

    def test_zero_to_one_becomes_minus_one_to_one(self, name: str) -> None:
        model = build(name).eval()
        clip = random_clip(1, 3, 3, 32, 32)
        frames = clip.reshape(1, 9, 32, 32) if name == "temporal_d" else clip[0]
        torch.testing.assert_close(model(clip)[0], model.judge(frames * 2 - 1)[0])

    def test_has_no_batch_norm_and_judges_alike_in_training_and_evaluation(self, name: str) -> None:
        model = build(name)
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        clip = random_clip(2, 3, 3, 32, 32)
        for _ in range(60):  # Until power iteration has converged.
            model(clip[:, :, :, :24, :24])
        trained = model.train()(clip)[0]
        torch.testing.assert_close(trained, model.eval()(clip)[0], rtol=1e-3, atol=1e-3)

    def test_one_sample_does_not_depend_on_the_others(self, name: str) -> None:
        model = build(name).eval()
        clip = random_clip(2, 3, 3, 32, 32)
        both, one = model(clip)[0], model(clip[1:])[0]
        torch.testing.assert_close(both[len(both) // 2 :], one)

    def test_learns_to_tell_photographs_from_bicubic_ones(self, name: str) -> None:
        image = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
        crops = [image[:, y : y + 32, 180 + x : 212 + x] for y in (20, 160) for x in (0, 20, 40)]
        real = torch.stack(crops).reshape(2, 3, 3, 32, 32)
        fake = upscale_bicubic(bicubic(real, height=8, width=8), 4)
        model = build(name)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        loss = torch.tensor(0.0)
        for _ in range(30):
            loss = (
                nn.functional.softplus(-model(real)[0]).mean() + nn.functional.softplus(model(fake)[0]).mean()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() < 1.0  # 2 log 2 = 1.39 is a guess.
        assert model(real)[0].mean() > model(fake)[0].mean()

    def test_can_be_copied_and_restored(self, name: str) -> None:
        model = build(name)
        clip = random_clip(1, 3, 3, 32, 32)
        model(clip)
        twin = copy.deepcopy(model).eval()
        torch.manual_seed(1)
        other = SMALL[name]()
        other.load_state_dict(model.state_dict())
        expected = model.eval()(clip)[0]
        torch.testing.assert_close(twin(clip)[0], expected, rtol=0, atol=0)
        torch.testing.assert_close(other.eval()(clip)[0], expected, rtol=0, atol=0)

    def test_says_what_it_cannot_judge(self, name: str) -> None:
        model = build(name)
        with pytest.raises(ValueError, match="at least"):
            model(random_clip(1, 3, 3, 7, 40))
        with pytest.raises(ValueError, match="RGB"):
            model(random_clip(1, 3, 1, 40, 40))
        side = model.min_size
        assert model(random_clip(1, 3, 3, side, side))[0].numel() > 0


class TestFrames:
    @pytest.mark.parametrize("name", ["vgg_d", "patch_d", "unet_sn_d"])
    def test_frames_of_a_clip_are_pictures(self, name: str) -> None:
        model = build(name).eval()
        clip = random_clip(2, 3, 3, 32, 32)
        logits, features = model(clip)
        for i in range(6):
            alone, alone_features = model(clip[i // 3, i % 3][None])
            torch.testing.assert_close(logits[i], alone[0])
            torch.testing.assert_close(features["down2"][i], alone_features["down2"][0])

    def test_temporal_d_judges_each_window_of_three_frames(self) -> None:
        model = build("temporal_d").eval()
        clip = random_clip(2, 5, 3, 32, 32)
        logits, _ = model(clip)
        assert logits.shape[0] == 2 * 3
        for sample in range(2):
            for start in range(3):
                window = model(clip[sample : sample + 1, start : start + 3])[0]
                torch.testing.assert_close(logits[3 * sample + start], window[0])
        assert not torch.allclose(model(clip[:1, :3].flip(1))[0], model(clip[:1, :3])[0])

    @pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 2, 3, 32, 32), (1, 1, 3, 32, 32)])
    def test_temporal_d_needs_three_frames(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"temporal_d: needs clips .* 3 frames"):
            build("temporal_d")(random_clip(*shape))


class TestNorm:
    @pytest.mark.parametrize("name", sorted(SMALL))
    def test_spectral_norm_bounds_every_layer(self, name: str) -> None:
        model = build(name) if name == "unet_sn_d" else build(name, norm="spectral")
        layers = {k: m for k, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        if name == "unet_sn_d":  # As in Real-ESRGAN, the two ends are free.
            layers = {k: m for k, m in layers.items() if k not in ("stem", "head")}
        with torch.no_grad():
            for layer in layers.values():
                layer.parametrizations.weight.original *= 37.0
        for _ in range(120):
            model(random_clip(1, 3, 3, 24, 24))
        model.eval()
        for label, layer in layers.items():
            norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item()
            assert norm == pytest.approx(1.0, abs=0.02), label

    @pytest.mark.parametrize("name", WITH_NORM)
    def test_batch_norm_only_by_name(self, name: str) -> None:
        kinds = {
            norm: {type(m).__name__ for m in build(name, norm=norm).modules()} & {"BatchNorm2d", "GroupNorm"}
            for norm in NORMS
        }
        assert kinds == {"none": set(), "spectral": set(), "group": {"GroupNorm"}, "batch": {"BatchNorm2d"}}

    @pytest.mark.parametrize("name", WITH_NORM)
    def test_spectral_norm_is_the_default_where_the_paper_has_it(self, name: str) -> None:
        spectral = any("parametrizations" in key for key in build(name).state_dict())
        assert spectral == (name != "vgg_d")


def test_receptive_field_of_patch_d_is_70_pixels() -> None:
    model = build("patch_d", norm="none").double()
    pictures = random_clip(1, 3, 160, 160).double().requires_grad_()
    logits, _ = model(pictures)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    assert pictures.grad is not None
    seen = pictures.grad[0].abs().sum(0) > 0
    for axis in (0, 1):
        where = seen.any(axis).nonzero()
        assert (where.max() - where.min() + 1).item() == 70


def test_unet_uses_its_skips() -> None:
    with_skips, without = build("unet_sn_d").eval(), build("unet_sn_d", skip=False).eval()
    without.load_state_dict(with_skips.state_dict())
    pictures = random_clip(1, 3, 32, 32)
    assert not torch.allclose(with_skips(pictures)[0], without(pictures)[0], atol=1e-3)


def test_unet_pads_odd_sizes_and_crops_the_logits() -> None:
    model = build("unet_sn_d").eval()
    pictures = random_clip(1, 3, 43, 51)
    padded = nn.functional.pad(pictures, (0, 5, 0, 5), mode="replicate")
    logits = model(pictures)[0]
    assert logits.shape == (1, 1, 43, 51)
    torch.testing.assert_close(logits, model(padded)[0][..., :43, :51])
