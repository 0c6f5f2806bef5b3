"""A trial's discriminator as a feature network: averaged weights, clear words where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sr import checkpoint
from sr.config import parse_trial
from sr.features import load_network
from sr.ledger import Ledger
from sr.models import DISCRIMINATORS
from tests.conftest import tiny_trial


def _trial(photos: Path, folder: Path, **changes: object) -> Ledger:
    ledger = Ledger(folder)
    ledger.create(parse_trial(tiny_trial(photos, **changes)), command="srloss train")
    return ledger


@pytest.fixture
def adversarial(photos: Path, tmp_path: Path) -> Ledger:
    return _trial(
        photos,
        tmp_path / "trial",
        loss="l1 + 0.01*gan_vanilla",
        adversarial={"discriminator": {"type": "patch_d"}},
    )


def _save(ledger: Ledger, step: int, **state: object) -> Path:
    return checkpoint.save(ledger.checkpoints, step=step, state=state, keep=9)


def test_features_are_those_of_the_averaged_discriminator(adversarial: Ledger) -> None:
    torch.manual_seed(5)
    network = DISCRIMINATORS["patch_d"]().eval()
    older = DISCRIMINATORS["patch_d"]().eval()
    first = _save(adversarial, 1, discriminator_ema=older.state_dict())
    _save(adversarial, 2, discriminator_ema=network.state_dict())
    loaded = load_network("discriminator", path=str(adversarial.folder))
    assert "at step 2" in loaded.weights.name
    pictures = torch.rand(2, 3, 64, 64)
    expected = network(pictures)[1]
    found = loaded(pictures, loaded.default_taps)
    assert list(found) == list(expected)
    assert all(torch.equal(found[tap], expected[tap]) for tap in expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    earlier = load_network("discriminator", path=str(first))
    assert earlier.weights.sha256 != loaded.weights.sha256
    assert load_network("discriminator", path=str(first)) is earlier


def test_a_newer_checkpoint_is_another_network(adversarial: Ledger) -> None:
    for step in (1, 2):
        _save(adversarial, step, discriminator_ema=DISCRIMINATORS["patch_d"]().state_dict())
        assert f"step {step}" in load_network("discriminator", path=str(adversarial.folder)).weights.name


def test_trials_without_a_usable_discriminator(photos: Path, adversarial: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint there"):
        load_network("discriminator", path=str(adversarial.folder))
    with pytest.raises(ValueError, match="there is no"):
        load_network("discriminator", path=str(tmp_path / "nowhere"))
    _save(adversarial, 3)
    with pytest.raises(ValueError, match="trained without one, or not yet"):
        load_network("discriminator", path=str(adversarial.folder))
    other = DISCRIMINATORS["vgg_d"]().state_dict()
    _save(adversarial, 4, discriminator_ema=other)
    with pytest.raises(ValueError, match="do not fit 'patch_d'"):
        load_network("discriminator", path=str(adversarial.folder))
    path = _save(adversarial, 5, discriminator_ema=DISCRIMINATORS["patch_d"]().state_dict())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        load_network("discriminator", path=str(path))

    plain = _trial(photos, tmp_path / "plain")
    _save(plain, 1, discriminator_ema=DISCRIMINATORS["patch_d"]().state_dict())
    with pytest.raises(ValueError, match="trained without one"):
        load_network("discriminator", path=str(plain.folder))


def test_a_discriminator_of_clips_is_refused(photos: Path, tmp_path: Path) -> None:
    ledger = _trial(
        photos,
        tmp_path / "clips",
        loss="l1 + 0.01*gan_vanilla",
        adversarial={"discriminator": {"type": "temporal_d"}},
    )
    _save(ledger, 1, discriminator_ema=DISCRIMINATORS["temporal_d"]().state_dict())
    with pytest.raises(ValueError, match="cannot look at single pictures"):
        load_network("discriminator", path=str(ledger.folder))
