import math

import numpy as np
import pytest
import torch

from sr.metrics import METRICS, PSNR_CAP_DB, aggregate, measure


def test_statistics_are_those_of_numpy_and_a_loop() -> None:
    hr = torch.rand(7, 1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    sr = hr + torch.linspace(0.02, 0.3, 7).view(-1, 1, 1, 1, 1) * torch.randn(
        hr.shape, generator=torch.Generator().manual_seed(1)
    )
    values = measure(sr, hr, names=("psnr_y", "mse_y", "ssim_seed4"), scale=0)
    found = aggregate(values["psnr_y"], "psnr_y")
    listed = values["psnr_y"].tolist()
    assert found.n == 7
    assert found.mean == pytest.approx(sum(listed) / 7)
    assert found.median == pytest.approx(sorted(listed)[3])
    assert (found.p5, found.p95) == pytest.approx(tuple(np.percentile(listed, [5, 95])))
    mean_mse = sum(values["mse_y"].tolist()) / 7
    assert found.of_the_mean == pytest.approx(10 * math.log10(255**2 / mean_mse), abs=1e-9)
    assert found.mean - found.of_the_mean > 1
    assert aggregate(values["ssim_seed4"], "ssim_seed4").of_the_mean is None


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7])
def test_the_mean_does_not_depend_on_how_clips_are_batched(batch: int) -> None:
    hr = torch.rand(7, 2, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    sr = hr * torch.linspace(0.5, 0.99, 7).view(-1, 1, 1, 1, 1)
    names = ("psnr_y", "psnr_seed0", "mse_seed2")
    parts = [
        measure(a, b, names=names, scale=0) for a, b in zip(sr.split(batch), hr.split(batch), strict=True)
    ]
    one_by_one = [measure(sr[i : i + 1], hr[i : i + 1], names=names, scale=0) for i in range(7)]
    for name in names:
        found = aggregate(torch.cat([part[name] for part in parts]), name)
        assert found.n == 7
        assert found.mean == pytest.approx(sum(v[name].item() for v in one_by_one) / 7, abs=1e-9)


def test_capped_and_undefined_values_are_counted() -> None:
    found = aggregate([30.0, PSNR_CAP_DB, math.nan, PSNR_CAP_DB], "psnr_y")
    assert (found.n, found.num_capped, found.num_undefined) == (3, 2, 1)
    assert found.mean == pytest.approx(230 / 3)
    assert found.of_the_mean == pytest.approx(30 + 10 * math.log10(3), abs=1e-5)
    assert aggregate([100.0, 120.0], "mse_y").num_capped == 0


def test_very_low_values_do_not_overflow() -> None:
    assert aggregate([-4000.0, 30.0], "psnr_seed2").of_the_mean == pytest.approx(-4000 + 10 * math.log10(2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "undefined on all 0 clips"),
        ([math.nan] * 3, "undefined on all 3 clips"),
        ([1.0, math.inf], "1 of 2 values are infinite"),
    ],
)
def test_nothing_to_sum_up_is_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aggregate(values, "psnr_y")


def test_only_metrics_in_decibels_have_a_value_of_the_mean() -> None:
    for name, metric in METRICS.items():
        assert (aggregate([0.2, 0.4], name).of_the_mean is not None) == metric.in_decibels_of_mse
        assert metric.unit == "dB" or not metric.in_decibels_of_mse
