"""Resampling against an independent brute-force implementation and against torch's own inside the border."""

import math

import pytest
import torch
import torch.nn.functional as F

from sr.degrade import degrade
from sr.resize import bicubic, upscale_bicubic


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def brute_force(row: list[float], size_out: int) -> list[float]:
    """imresize of one row as MATLAB documents it: one output at a time, symmetric padding, normalised weights."""
    size_in = len(row)
    ratio = size_out / size_in
    stretch = min(ratio, 1.0)
    result = []
    for i in range(size_out):
        centre = (i + 0.5) / ratio - 0.5
        total = weight_sum = 0.0
        for tap in range(math.floor(centre - 2 / stretch), math.ceil(centre + 2 / stretch) + 1):
            weight = cubic((centre - tap) * stretch)
            folded = tap % (2 * size_in)
            folded = folded if folded < size_in else 2 * size_in - 1 - folded
            total += weight * row[folded]
            weight_sum += weight
        result.append(total / weight_sum)
    return result


@pytest.mark.parametrize(("size_in", "size_out"), [(24, 12), (24, 6), (12, 24), (10, 40), (9, 27), (17, 5)])
def test_a_row_is_resampled_as_matlab_does(size_in: int, size_out: int) -> None:
    row = torch.rand(size_in, generator=torch.Generator().manual_seed(size_in))
    got = bicubic(row.expand(size_in, -1), height=size_in, width=size_out)[0]
    assert got.tolist() == pytest.approx(brute_force(row.tolist(), size_out), abs=2e-6)


def test_both_axes_are_resampled_alike() -> None:
    image = torch.rand(20, 28, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(
        bicubic(image, height=10, width=14).T, bicubic(image.T.contiguous(), height=14, width=10), atol=1e-6
    )


def test_agrees_with_torch_antialias_inside_the_border() -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    theirs = F.interpolate(image, size=(32, 32), mode="bicubic", antialias=True, align_corners=False)
    ours = bicubic(image, height=32, width=32)
    assert (ours - theirs)[..., 4:-4, 4:-4].abs().max() < 1e-5


def test_a_constant_picture_stays_constant() -> None:
    image = torch.full((1, 3, 30, 42), 0.37)
    assert torch.allclose(bicubic(image, height=10, width=14), torch.tensor(0.37), atol=1e-6)
    assert torch.allclose(upscale_bicubic(image, 3), torch.tensor(0.37), atol=1e-6)


def test_lr_is_an_8_bit_picture() -> None:
    hr = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    lr = degrade(hr, kind="bicubic_aa", scale=2, parameters={}, keys=["a", "b"])
    assert lr.shape == (2, 1, 3, 8, 8)
    assert torch.equal((lr * 255).round() / 255, lr)
    assert lr.min() >= 0
    assert lr.max() <= 1


def test_a_size_that_is_no_multiple_of_the_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of scale 4"):
        degrade(torch.rand(1, 3, 18, 16), kind="bicubic_aa", scale=4, parameters={}, keys=["a"])
