"""The suite catches what it must: each planted bug by a check of its own name, and it lets the right versions pass."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from sr.checks.conformance import check
from sr.checks.metric_checks import check_metric
from sr.metrics import METRICS
from tests.unit.sr.checks.planted import MORE, RIGHT, THE_SEVEN
from tests.unit.sr.checks.planted_more import RIGHT_TOO, STILL_MORE

_RIGHT = RIGHT | RIGHT_TOO
_BUGS = THE_SEVEN | MORE | STILL_MORE


@pytest.mark.parametrize("name", sorted(_RIGHT))
def test_right_version_passes(name: str, pictures: Tensor) -> None:
    results = check(_RIGHT[name](), pictures, name=name)
    assert [f"{r.check}: {r.meaning}" for r in results if r.verdict == "fail"] == []


@pytest.mark.parametrize("bug", sorted(_BUGS))
def test_planted_bug_is_caught_by_the_check_of_that_name(bug: str, pictures: Tensor) -> None:
    make, claims, catcher = _BUGS[bug]
    threads = torch.get_num_threads()
    verdicts = {r.check: r.verdict for r in check(make(), pictures, name=claims)}
    torch.set_num_threads(threads)
    assert verdicts[catcher] == "fail"


class TestMetricAveragedWrongly:
    def test_sum_by_last_index_plus_one(self, pictures: Tensor) -> None:
        def average(values: Tensor) -> float:
            # As found in the field: `sum / index + 1` where `sum / (index + 1)` was meant.
            index = len(values) - 1
            return float(values.sum()) / index + 1

        verdicts = _verdicts(check_metric("ssim_y", pictures, average=average))
        assert verdicts["average is the mean"] == "fail"

    def test_mean_of_means_of_uneven_batches(self, pictures: Tensor) -> None:
        def average(values: Tensor) -> float:
            return (
                (float(values[:-1].mean()) + float(values[-1])) / 2 if len(values) > 1 else float(values[0])
            )

        verdicts = _verdicts(
            check_metric("psnr_y", torch.cat([pictures, pictures.flip(-1)]), average=average)
        )
        assert verdicts["average is the mean"] == "fail"

    def test_one_value_of_the_whole_batch(self, pictures: Tensor) -> None:
        right = METRICS["psnr_rgb"]

        def compute(sr: Tensor, hr: Tensor) -> Tensor:
            mse = (sr - hr).square().mean().clamp(min=1e-10)
            return torch.full((len(sr),), -10 * math.log10(float(mse)), dtype=torch.float64)

        verdicts = _verdicts(check_metric(dataclasses.replace(right, compute=compute), pictures))
        assert verdicts["one value per picture"] == "fail"

    def test_right_average_passes(self, pictures: Tensor) -> None:
        for name in ("psnr_y", "ssim_y"):
            assert "fail" not in _verdicts(check_metric(name, pictures)).values()


def test_metric_that_points_the_wrong_way(pictures: Tensor) -> None:
    wrong = dataclasses.replace(METRICS["gmsd"], higher_is_better=True)
    verdicts = _verdicts(check_metric(wrong, pictures))
    assert verdicts["worse with noise"] == verdicts["best at identity"] == "fail"


def test_metric_that_takes_bgr(pictures: Tensor) -> None:
    right = METRICS["psnr_y"]
    wrong = dataclasses.replace(right, compute=lambda sr, hr: right.compute(sr.flip(1), hr.flip(1)))
    assert _verdicts(check_metric(wrong, pictures))["channel order"] == "fail"


# Slow ones are left out, and those that judge faces, of which there are none in the middle of these pictures.
_QUICK = sorted(
    name
    for name, metric in METRICS.items()
    if name not in ("tof", "warping_error", "ms_ssim") and not metric.extra
)


@pytest.mark.usefixtures("random_networks")
@pytest.mark.parametrize("name", _QUICK)
def test_every_metric_passes(name: str, pictures: Tensor) -> None:
    results = check_metric(name, pictures)
    assert [f"{r.check}: {r.meaning}" for r in results if r.verdict == "fail"] == []


def _verdicts(results: list) -> dict[str, str]:
    return {r.check: r.verdict for r in results}
