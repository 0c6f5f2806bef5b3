"""The losses on change from frame to frame."""

import numpy as np
import pytest
import skimage
import torch
from torch import nn

from sr.flow import optical_flow
from sr.losses import LOSSES
from sr.losses.temporal import PingPong, TemporalDifference, WarpLoss
from sr.losses.term import Term
from sr.warp import visible, warp


def moving_photograph(
    dx: int, dy: int, *, frames: int = 3, side: int = 32, name: str = "astronaut"
) -> torch.Tensor:
    """A clip (1, T, 3, side, side) whose content moves by (dx, dy) whole pixels a frame."""
    image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1).float() / 255
    starts = [(100 - dy * t, 220 - dx * t) for t in range(frames)]
    return torch.stack([image[:, y : y + side, x : x + side] for y, x in starts])[None]


def noise(clip: torch.Tensor, size: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return clip + size * torch.randn(clip.shape, generator=generator, dtype=clip.dtype)


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.cat([moving_photograph(2, -1), moving_photograph(-1, 1, name="chelsea")])


def call(name: str, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    loss = LOSSES[name]()
    if isinstance(loss, Term) and "sr_backward" in loss.needs:
        return loss(sr, hr, sr_backward=hr)
    return loss(sr, hr)


@pytest.mark.parametrize("name", ["temporal_diff", "warp", "pingpong"])
class TestEvery:
    def test_is_a_scalar_that_rises_with_flicker(self, name: str, clips: torch.Tensor) -> None:
        values = [call(name, noise(clips, size), clips) for size in (0.0, 0.02, 0.08)]
        assert values[0].shape == ()
        assert values[0] < values[1] < values[2]
        assert values[0] < 0.012
        if name != "warp":
            assert values[0] == 0

    def test_is_the_mean_over_samples(self, name: str, clips: torch.Tensor) -> None:
        sr = noise(clips, 0.05)
        alone = torch.stack([call(name, sr[i : i + 1], clips[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(call(name, sr, clips), alone.mean(), rtol=1e-4, atol=1e-6)

    def test_gradient_agrees_with_finite_differences(self, name: str, clips: torch.Tensor) -> None:
        hr = clips[:1, :2, :, :9, :10].double()
        sr = noise(hr, 0.1).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: call(name, x, hr), sr, fast_mode=True)

    def test_a_gradient_step_lowers_it(self, name: str, clips: torch.Tensor) -> None:
        sr = noise(clips, 0.05).requires_grad_()
        value = call(name, sr, clips)
        (gradient,) = torch.autograd.grad(value, sr)
        assert gradient.flatten(2).abs().sum(2).min() > 0  # Every frame of every clip.
        assert call(name, sr - 0.01 * gradient / gradient.norm() * sr.numel() ** 0.5, clips) < value

    @pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 3, 16, 16)])
    def test_pictures_are_refused_with_what_is_needed(self, name: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=rf"'{name}': needs clips .*two or more .*got \(2.*pack clips"):
            call(name, torch.zeros(shape), torch.zeros(shape))

    def test_shapes_must_agree(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"'{name}': SR has shape"):
            LOSSES[name]()(torch.zeros(1, 2, 3, 16, 16), torch.zeros(1, 3, 3, 16, 16))


class TestTemporalDifference:
    def test_by_hand(self) -> None:
        rng = np.random.default_rng(0)
        sr, hr = rng.random((2, 2, 4, 3, 5, 6))
        total = [
            abs((sr[b, t] - sr[b, t - 1]) - (hr[b, t] - hr[b, t - 1])).mean()
            for b in range(2)
            for t in range(1, 4)
        ]
        value = TemporalDifference()(torch.from_numpy(sr), torch.from_numpy(hr))
        assert value.item() == pytest.approx(np.mean(total), rel=1e-12)

    def test_ignores_a_constant_error(self, clips: torch.Tensor) -> None:
        assert TemporalDifference()(clips + 0.1, clips).item() == pytest.approx(0, abs=1e-7)


class TestWarpLoss:
    @pytest.mark.parametrize("criterion", ["l1", "l2"])
    def test_by_hand(self, clips: torch.Tensor, criterion: str) -> None:
        sr = noise(clips, 0.05)
        parts = []
        for b in range(2):
            for t in (1, 2):
                now, before = clips[b, t][None], clips[b, t - 1][None]
                flow = optical_flow(now, before)
                mask = visible(flow, optical_flow(before, now))
                difference = mask * (sr[b, t][None] - warp(sr[b, t - 1][None], flow))
                parts.append((difference.abs() if criterion == "l1" else difference**2).mean())
        value = WarpLoss(criterion=criterion)(sr, clips)
        torch.testing.assert_close(value, torch.stack(parts).mean(), rtol=1e-4, atol=1e-6)

    def test_steady_detail_in_moving_pictures_costs_more_than_detail_that_moves_along(
        self, clips: torch.Tensor
    ) -> None:
        # The same noise in every frame, standing still like dirt on a lens, or moving with the content.
        wide = noise(torch.zeros(1, 1, 3, 40, 40), 0.05)[:, 0]
        still = clips[:1] + wide[:, None, :, 4:36, 4:36]
        moving = clips[:1] + torch.stack(
            [wide[..., 4 + t : 36 + t, 4 - 2 * t : 36 - 2 * t] for t in range(3)], 1
        )
        assert WarpLoss()(moving, clips[:1]) < 0.3 * WarpLoss()(still, clips[:1])

    def test_frozen_frames_cost_much(self, clips: torch.Tensor) -> None:
        frozen = clips[:, :1].expand_as(clips)
        assert WarpLoss()(frozen, clips) > 5 * WarpLoss()(clips, clips)

    def test_what_comes_into_the_picture_is_not_judged(self) -> None:
        hr = moving_photograph(4, 0, frames=2)
        sr = hr.clone().requires_grad_()
        WarpLoss()(sr, hr).backward()
        assert sr.grad is not None
        # What the second frame shows in its left columns was left of the first one.
        assert not sr.grad[0, 1, :, 8:24, :3].any()
        assert sr.grad[0, 1, :, 8:24, 6:-6].abs().mean() > 0

    def test_the_target_gets_no_gradient(self, clips: torch.Tensor) -> None:
        hr = clips[:1].clone().requires_grad_()
        sr = noise(clips[:1], 0.05).requires_grad_()
        WarpLoss()(sr, hr).backward()
        assert hr.grad is None


class TestPingPong:
    @pytest.mark.parametrize("criterion", ["l1", "l2"])
    def test_by_hand(self, clips: torch.Tensor, criterion: str) -> None:
        back = noise(clips, 0.05)
        difference = (clips - back).double().numpy()
        expected = np.abs(difference).mean() if criterion == "l1" else (difference**2).mean()
        value = PingPong(criterion=criterion)(clips, torch.zeros_like(clips), sr_backward=back)
        assert value.item() == pytest.approx(expected, rel=1e-5)

    def test_asks_the_criterion_for_the_way_back(self) -> None:
        assert PingPong.needs == ("sr_backward",)
        assert isinstance(PingPong(), Term)
        assert not hasattr(TemporalDifference(), "needs") or isinstance(TemporalDifference(), nn.Module)

    def test_gradient_flows_both_ways(self, clips: torch.Tensor) -> None:
        there, back = noise(clips, 0.05).requires_grad_(), noise(clips, 0.05, seed=1).requires_grad_()
        PingPong()(there, clips, sr_backward=back).backward()
        assert there.grad is not None
        torch.testing.assert_close(there.grad, -back.grad)

    def test_says_what_is_missing(self, clips: torch.Tensor) -> None:
        with pytest.raises(
            ValueError, match=r"needs the way back of the clip .* got none; run the generator"
        ):
            PingPong()(clips, clips)
        with pytest.raises(ValueError, match=r"got one of shape \(2, 2,"):
            PingPong()(clips, clips, sr_backward=clips[:, :2])
