"""Metrics of clips against loops, and on motion that is known."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from sr.metrics import luma, measure, perceptual, temporal
from tests.unit.sr.metrics.conftest import moving


def value(name: str, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    return measure(sr, hr, names=(name,), scale=2)[name]


def test_flicker_is_a_loop_over_frames() -> None:
    hr = torch.rand(2, 4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    sr = torch.rand(2, 4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    s, y = ((v.double() * 255).round().numpy()[..., 2:-2, 2:-2] for v in (sr, hr))
    for n in range(2):
        expected = np.mean([np.abs((s[n, t] - s[n, t - 1]) - (y[n, t] - y[n, t - 1])) for t in (1, 2, 3)])
        assert value("flicker", sr, hr)[n].item() == pytest.approx(expected, abs=1e-9)


def test_flicker_does_not_see_a_constant_error() -> None:
    hr = moving(32, frames=3) * 0.5
    assert value("flicker", hr + 20 / 255, hr).item() == pytest.approx(0, abs=0.7)  # But for rounding.
    flashing = hr.clone()
    flashing[:, 1] += 20 / 255
    assert value("flicker", flashing, hr).item() == pytest.approx(20, abs=0.5)


def test_flow_finds_a_known_motion_right_first() -> None:
    picture = moving(80, frames=1)[0, 0].mean(dim=0).double()
    found = temporal.flow(picture[4:68, 6:70], picture[3:67, 4:68])
    assert found[1, 8:-8, 8:-8].median().item() == pytest.approx(1, abs=0.1)
    assert found[0, 8:-8, 8:-8].median().item() == pytest.approx(2, abs=0.1)


def test_flow_is_deterministic_and_defined_on_black() -> None:
    hr = moving(48, frames=2)
    assert torch.equal(value("tof", hr * 0, hr), value("tof", hr * 0, hr))
    assert value("tof", hr * 0, hr * 0).item() == 0


def test_tof_of_a_still_output_is_the_speed_of_the_target() -> None:
    hr = moving(72, frames=3, step=2)
    still = hr[:, :1].expand_as(hr)
    assert value("tof", still, hr).item() == pytest.approx(2, abs=0.3)
    assert value("tof", hr, hr).item() == 0


def test_warping_error_is_a_sum_over_trusted_pixels_with_the_targets_flow() -> None:
    hr = moving(40, frames=3)
    sr = (hr + torch.randn(hr.shape, generator=torch.Generator().manual_seed(5)) * 0.05).clamp(0, 1)
    s, y = ((v[0].double() * 255).round()[..., 2:-2, 2:-2] / 255 for v in (sr, hr))
    grey = luma(y) / 255
    error = weight = 0.0
    for t in (0, 1):
        forward, backward = temporal.flow(grey[t], grey[t + 1]), temporal.flow(grey[t + 1], grey[t])
        rows, columns = np.mgrid[:36, :36] + forward.flip(0).numpy()
        places = [rows, columns]
        back = [ndimage.map_coordinates(b, places, order=1, mode="nearest") for b in backward.numpy()]
        residual, size = (
            ((forward.numpy() + back) ** 2).sum(0),
            (forward.numpy() ** 2 + np.square(back)).sum(0),
        )
        # A tenth of a pixel beyond the edge is still inside.
        inside = (np.minimum(rows, columns) >= -0.1) & (np.maximum(rows, columns) <= 35.1)
        mask = (residual < 0.01 * size + 0.5) & inside
        for c in range(3):
            fetched = ndimage.map_coordinates(s[t + 1, c].numpy(), places, order=1, mode="nearest")
            error += (mask * (s[t, c].numpy() - fetched) ** 2).sum()
        weight += mask.sum()
        assert 0.3 < mask.mean() < 0.99
    assert value("warping_error", sr, hr).item() == pytest.approx(error / weight, rel=1e-6)


def test_warping_error_forgives_motion_and_not_flashes() -> None:
    hr = moving(64, frames=2, step=2) * 0.8
    flashing = hr + torch.tensor([0.0, 0.1]).view(1, 2, 1, 1, 1)
    by_motion, by_flash = value("warping_error", hr, hr).item(), value("warping_error", flashing, hr).item()
    assert by_motion < 0.002
    assert by_flash == pytest.approx(3 * 0.1**2, rel=0.1)


def test_warping_error_is_undefined_where_no_flow_can_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporal, "flow", lambda first, second: first.new_full((2, *first.shape), 1000.0))
    clip = moving(32, frames=2)
    assert np.isnan(value("warping_error", clip, clip).item())


@pytest.mark.usefixtures("random_networks")
def test_tlp_is_a_loop_over_consecutive_frames() -> None:
    hr = torch.cat([moving(40, frames=3), moving(40, frames=3, step=5)])
    sr = torch.rand(hr.shape, generator=torch.Generator().manual_seed(6))
    s, y = ((v.double() * 255).round()[..., 2:-2, 2:-2] / 255 for v in (sr, hr))
    for n in range(2):
        changes = [
            [perceptual.lpips(v[n, t - 1 : t], v[n, t : t + 1]).item() for t in (1, 2)] for v in (s, y)
        ]
        expected = np.mean([100 * abs(a - b) for a, b in zip(*changes, strict=True)])
        assert value("tlp", sr, hr)[n].item() == pytest.approx(expected, rel=1e-4)
        assert expected > 0
