import functools

import pytest

from sr.losses.dists import Dists
from sr.losses.lpips import Lpips
from sr.metrics import perceptual


@pytest.fixture
def random_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS and DISTS with their own arithmetic and random backbones: the published weights are no part of a checkout."""
    monkeypatch.setattr(perceptual, "_lpips", _lpips)
    monkeypatch.setattr(perceptual, "_dists", _dists)


@functools.cache
def _lpips() -> Lpips:
    return Lpips(net="alex", weights="random")


@functools.cache
def _dists() -> Dists:
    return Dists(weights="random")
