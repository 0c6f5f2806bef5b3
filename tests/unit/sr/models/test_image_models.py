"""Generators for pictures and for the middle frame: what all of them must do."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sr.components import complete
from sr.models import GENERATORS
from sr.models.frames import PerFrame
from sr.models.middle_frame import MiddleFrame
from sr.resize import upscale_bicubic

TINY: dict[str, dict[str, Any]] = {
    "srcnn": {"channels": 8},
    "espcn": {"channels": 8},
    "edsr_baseline": {"channels": 8, "num_blocks": 2},
    "rrdbnet": {"channels": 8, "num_blocks": 1, "growth": 4},
    "srresnet": {"channels": 8, "num_blocks": 2},
    "sr_unet": {"width": 4},
    "srgan_keras": {"channels": 8, "num_blocks": 2},
    "preup_unet": {"width": 8},
}
MIDDLE: dict[str, dict[str, Any]] = {
    "seed0_fc": {"lr_size": 8, "range_fix": True},
    "unet_geu": {"width": 8, "stem_channels": 4},
}
EVERY = {**TINY, **MIDDLE}
FRAMES = {"seed0_fc": 5, "unet_geu": 7}


def build(name: str, *, scale: int = 2, seed: int = 0, **parameters: Any) -> nn.Module:
    torch.manual_seed(seed)
    return GENERATORS[name](scale=scale, **{**EVERY[name], **parameters})


def pictures(name: str, *, num: int = 2, side: int = 8) -> torch.Tensor:
    shape = (num, FRAMES[name], 3, side, side) if name in FRAMES else (num, 3, side, side)
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


def test_no_picture_network_is_left_out() -> None:
    def tested_here(entry: object) -> bool:
        return isinstance(entry, type) and issubclass(entry, PerFrame | MiddleFrame)

    assert {name for name, entry in GENERATORS.items() if tested_here(entry)} == set(EVERY)


@pytest.mark.parametrize("name", sorted(TINY))
class TestSinglePictures:
    @pytest.mark.parametrize("scale", [2, 3, 4, 8])
    def test_gives_the_size_that_was_asked_for(self, name: str, scale: int) -> None:
        generator = build(name, scale=scale).eval()
        for height, width in [(8, 8), (6, 10), (7, 9), (2, 1)]:
            with torch.no_grad():
                sr = generator(torch.rand(2, 3, height, width))
            assert sr.shape == (2, 3, height * scale, width * scale)
            assert sr.isfinite().all()

    def test_treats_a_clip_as_its_frames(self, name: str) -> None:
        generator = build(name).eval()
        clip = torch.rand(2, 3, 3, 9, 14)
        with torch.no_grad():
            out = generator(clip)
            for frame in range(3):
                assert torch.allclose(out[:, frame], generator(clip[:, frame]), atol=1e-6)
        assert out.shape == (2, 3, 3, 18, 28)

    def test_says_which_scales_it_knows(self, name: str) -> None:
        if name in ("srcnn", "espcn", "preup_unet"):
            assert build(name, scale=5)(torch.rand(1, 3, 4, 4)).shape == (1, 3, 20, 20)
            return
        with pytest.raises(ValueError, match=rf"{name}: scale must be 2, 3, 4 or 8, got 5"):
            build(name, scale=5)


@pytest.mark.parametrize("name", sorted(EVERY))
class TestEveryNetwork:
    def test_a_sample_does_not_depend_on_its_neighbours_in_evaluation(self, name: str) -> None:
        generator = build(name)
        lr = pictures(name, num=3)
        with torch.no_grad():
            generator(lr)  # Moving statistics that are not the initial ones.
            generator.eval()
            together = generator(lr)
            for i in range(3):
                assert torch.allclose(together[i : i + 1], generator(lr[i : i + 1]), atol=1e-6)
            lr[0] = 0
            assert not torch.equal(generator(lr)[0], together[0])

    def test_the_gradient_reaches_every_parameter(self, name: str) -> None:
        # In evaluation, because batch norm in training takes the mean away: a bias before it has no effect there.
        # After two steps, because with a last layer that starts at zero the others have a gradient only then.
        generator = build(name).eval()
        optimizer = torch.optim.SGD(generator.parameters(), lr=1e-2)
        lr = pictures(name)
        target = torch.rand_like(generator(lr))
        for _ in range(2):
            optimizer.zero_grad()
            (generator(lr) - target).square().mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        (generator(lr) - target).square().mean().backward()
        untouched = [
            key
            for key, parameter in generator.named_parameters()
            if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
        ]
        assert untouched == []

    def test_can_learn_one_picture(self, name: str) -> None:
        generator = build(name).train()
        lr = pictures(name)
        centre = lr[:, FRAMES[name] // 2 : FRAMES[name] // 2 + 1] if name in FRAMES else lr
        smooth = upscale_bicubic(centre, 2)
        hr = (smooth + 0.3 * (smooth - smooth.roll(1, -1))).clamp(0, 1)
        if name == "seed0_fc":
            hr = hr.mean(dim=-3, keepdim=True).expand_as(hr)
        optimizer = torch.optim.Adam(generator.parameters(), lr=3e-3)
        losses: list[float] = []
        for _ in range(40):
            loss = (generator(lr) - hr).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]

    def test_its_state_is_all_it_is(self, name: str) -> None:
        one, other = build(name, seed=1), build(name, seed=2)
        lr = pictures(name)
        with torch.no_grad():
            one(lr)
            other.load_state_dict(one.state_dict())
            assert torch.equal(one.eval()(lr), other.eval()(lr))

    def test_equal_seeds_give_equal_weights(self, name: str) -> None:
        one, other = build(name, seed=3).state_dict(), build(name, seed=3).state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_its_settings_are_accepted_as_configuration(self, name: str) -> None:
        table_entry = complete(
            {"type": name, **EVERY[name]},
            GENERATORS,
            where="model",
            what="model",
            given_elsewhere=frozenset({"scale"}),
        )
        assert set(EVERY[name]) <= set(table_entry)
        assert "scale" not in table_entry

    def test_works_in_bfloat16_autocast(self, name: str) -> None:
        generator = build(name).eval()
        with torch.no_grad():
            exact = generator(pictures(name))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rough = generator(pictures(name))
        assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()

    def test_survives_copying(self, name: str) -> None:
        generator = build(name).eval()
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(generator)(pictures(name)), generator(pictures(name)))


RESIDUAL = {
    "espcn": {},
    "srcnn": {"residual": True},
    "sr_unet": {"out": "residual"},
    "srgan_keras": {"out": "residual"},
    "preup_unet": {},
}


@pytest.mark.parametrize("name", sorted(RESIDUAL))
@pytest.mark.parametrize("scale", [2, 4])
def test_residual_networks_start_at_bicubic(name: str, scale: int) -> None:
    generator = build(name, scale=scale, **RESIDUAL[name])
    lr = torch.rand(2, 3, 7, 10)
    assert torch.allclose(generator(lr), upscale_bicubic(lr, scale), atol=1e-6)


def test_the_multi_frame_network_starts_at_bicubic_of_the_middle_frame() -> None:
    clip = torch.rand(2, 7, 3, 6, 9)
    sr = build("unet_geu", scale=8)(clip)
    assert torch.allclose(sr[:, 0], upscale_bicubic(clip[:, 3], 8), atol=1e-6)
    assert not torch.allclose(sr[:, 0], upscale_bicubic(clip[:, 2], 8), atol=1e-2)
