"""Tiles: each pixel once, and the same as one pass where the overlap covers the receptive field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sr.models import GENERATORS
from sr.upscale.tiles import ALIGNMENT, Tiling, stretches, upscale_tiled


@pytest.mark.parametrize("side", [1, 15, 16, 17, 48, 100, 131])
@pytest.mark.parametrize(
    "tiling", [Tiling(16, 0), Tiling(16, 16), Tiling(40, 7), Tiling(0, 8), Tiling(64, 128)]
)
def test_tiles_cover_each_pixel_once_and_see_as_far_as_they_may(side: int, tiling: Tiling) -> None:
    kept = np.zeros(side, int)
    for one in stretches(side, tiling):
        kept[one.kept] += 1
        assert one.seen.start == 0 or one.kept.start - one.seen.start >= tiling.overlap
        assert one.seen.stop == side or one.seen.stop - one.kept.stop >= tiling.overlap
        assert one.seen.start % ALIGNMENT == 0
        assert one.seen.stop % ALIGNMENT == 0 or one.seen.stop == side
    assert (kept == 1).all()


def generator(name: str, scale: int, *, std: float = 0.1, **parameters: Any) -> nn.Module:
    torch.manual_seed(0)
    model = GENERATORS[name](scale=scale, **parameters)
    for weights in model.parameters():  # Some begin as bicubic enlargement, with zeros.
        nn.init.normal_(weights, std=std)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "scale", "parameters", "overlap"),
    [
        ("bicubic", 3, {}, 16),
        ("nearest", 2, {}, 0),
        ("espcn", 2, {"channels": 8}, 16),
        ("srresnet", 4, {"channels": 8, "num_blocks": 3}, 32),
        ("rrdbnet", 2, {"channels": 8, "num_blocks": 1}, 48),
    ],
)
@pytest.mark.parametrize("shape", [(70, 101), (64, 33)])
@torch.no_grad()
def test_tiled_is_untiled_where_the_overlap_covers_the_receptive_field(
    name: str, scale: int, parameters: dict[str, Any], overlap: int, shape: tuple[int, int]
) -> None:
    model = generator(name, scale, **parameters)
    lr = torch.rand(1, 1, 3, *shape)
    whole = model(lr)
    tiled = upscale_tiled(model, lr, scale=scale, tiling=Tiling(32, overlap))
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() < 1e-5 * whole.abs().max().clamp(min=1)


@torch.no_grad()
def test_tiles_lie_on_the_grid_of_a_network_that_pools() -> None:
    model = generator("unet_geu", 2, num_frames=1, std=0.03)
    lr = torch.rand(1, 1, 3, 18, 150)
    whole = model(lr)
    tiled = upscale_tiled(model, lr, scale=2, tiling=Tiling(48, 48))
    assert whole.std() > 0.01
    assert (tiled - whole).abs().max() < 1e-5 * whole.abs().max()


@torch.no_grad()
def test_too_small_an_overlap_shows() -> None:
    model = generator("srresnet", 2, channels=8, num_blocks=3)
    lr = torch.rand(1, 1, 3, 64, 64)
    tiled = upscale_tiled(model, lr, scale=2, tiling=Tiling(32, 0))
    assert (tiled - model(lr)).abs().max() > 1e-3


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match=r"tile: got -1"):
        Tiling(-1, 0)
    with pytest.raises(ValueError, match=r"makes 64 x 64 px of 32 x 32 px, which is not x4"):
        upscale_tiled(GENERATORS["nearest"](scale=2), torch.rand(3, 32, 32), scale=4, tiling=Tiling())
