"""Every entry of LOSSES goes through the whole suite; a new one does so as soon as its line stands in the table."""

import pytest
from torch import Tensor

from sr.checks.conformance import CHECKS, Report, check, report
from sr.losses import LOSSES

_SHALLOW = {"network": "random_vgg", "taps": ["conv1_2", "relu2_1"]}
"""A network's first layers prove the mathematics as well as all of it, in a fortieth of the time."""
_STAND_INS: dict[str, dict[str, object]] = {
    "vgg": _SHALLOW,
    "gram": _SHALLOW,
    "contextual": {"network": "random_vgg", "taps": ["relu2_1"]},
    "lpips": {"weights": "random"},
    "dists": {"weights": "random"},
    "perceptual": {"network": "random_discriminator", "architecture": {"type": "patch_d", "channels": 8}},
}


def _failures(result: Report) -> str:
    return "\n".join(f"{r.check}: {r.meaning}" for r in result.failures)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(_STAND_INS)))
def test_loss_passes_every_check(name: str, pictures: Tensor) -> None:
    result = report(name, pictures)
    assert not result.not_run
    assert [r.check for r in result.results] == list(CHECKS)
    assert not result.failures, _failures(result)


@pytest.mark.parametrize("name", sorted(_STAND_INS))
def test_feature_loss_passes_every_check_on_random_weights(name: str, pictures: Tensor) -> None:
    loss = LOSSES[name](**_STAND_INS[name])
    result = Report(name, check(loss, pictures, name=name))
    assert not result.failures, _failures(result)


def test_feature_loss_with_genuine_weights(pictures: Tensor) -> None:
    loss = LOSSES["vgg"](network="effnet_lite0", taps=["stem", "block2"])
    results = {r.check: r for r in check(loss, pictures, name="vgg")}
    assert [r.check for r in results.values() if r.verdict == "fail"] == []
    assert results["network input"].verdict == "pass"
