"""A trial's discriminator as a feature network: averaged weights, found by name, clear words where there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sr import checkpoint
from sr.config import parse_trial
from sr.features import load_network
from sr.features.discriminator import DiscriminatorFeatures
from sr.features.network import FeatureNetwork
from sr.ladder.records import RECORD, stage_folder
from sr.ledger import Ledger
from sr.models import DISCRIMINATORS
from sr.store import find_trial
from sr.train import train
from sr.world import World
from tests.conftest import tiny_trial

SMALL = {"type": "patch_d", "channels": 8}


def _trial(photos: Path, folder: Path, discriminator: object = SMALL, **changes: object) -> Ledger:
    ledger = Ledger(folder)
    section = {"loss": "l1 + 0.01*gan_vanilla", "adversarial": {"discriminator": discriminator}}
    ledger.create(parse_trial(tiny_trial(photos, **(section | changes))), command="srloss train")
    return ledger


@pytest.fixture
def adversarial(photos: Path, tmp_path: Path) -> Ledger:
    return _trial(photos, tmp_path / "trial")


def _small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return DISCRIMINATORS["patch_d"](channels=8).eval()


def _save(ledger: Ledger, step: int, tensors: Mapping[str, Tensor] | None = None, **state: object) -> Path:
    averaged = {} if tensors is None else {"discriminator_ema": dict(tensors)}
    return checkpoint.save(ledger.checkpoints, step=step, state=averaged | state, keep=9)


def _inner(network: FeatureNetwork) -> dict[str, Tensor]:
    assert isinstance(network, DiscriminatorFeatures)
    return network.network.state_dict()


def _refusal(**settings: object) -> str:
    """What a user is told; one line, whatever happened."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is the test's subject
        load_network("discriminator", **settings)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_features_are_those_of_the_discriminator(adversarial: Ledger) -> None:
    network = _small(5)
    first = _save(adversarial, 1, _small(6).state_dict())
    _save(adversarial, 2, network.state_dict())
    loaded = load_network("discriminator", path=str(adversarial.folder))
    assert loaded.weights.name == "discriminator(trial at step 2)"
    pictures = torch.rand(2, 3, 64, 64)
    expected = network(pictures)[1]
    found = loaded(pictures, loaded.default_taps)
    assert list(found) == list(expected)
    assert all(torch.equal(found[tap], expected[tap]) for tap in expected)
    earlier = load_network("discriminator", path=str(first))
    assert earlier.weights.sha256 != loaded.weights.sha256
    assert load_network("discriminator", path=str(first)) is earlier


def test_it_is_the_averaged_one_of_a_training_and_stands_still(photos: Path, tmp_path: Path) -> None:
    training = {"steps": 3, "global_batch_size": 2, "validate_every": 3, "log_every": 3}
    ledger = _trial(photos, tmp_path / "trained", training=training)
    train(ledger.config(), world=World(0, 1, torch.device("cpu")), ledger=ledger)
    loaded = load_network("discriminator", path=str(ledger.folder))
    found = _inner(loaded)
    state = checkpoint.load(ledger.checkpoints / "step-00000003.pt")
    averaged, live = state["discriminator_ema"], state["discriminator"]["module"]
    assert all(torch.equal(found[name], averaged[name]) for name in averaged)
    assert any(not torch.equal(found[name], live[name]) for name in live)

    nn.Sequential(loaded).train()
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    before = {name: value.clone() for name, value in _inner(loaded).items()}
    loaded(torch.rand(1, 3, 32, 32), loaded.default_taps)
    # Spectral norm would take a step of its own in training mode.
    assert all(torch.equal(value, before[name]) for name, value in _inner(loaded).items())


def test_a_newer_checkpoint_is_another_network(adversarial: Ledger) -> None:
    for step in (1, 2):
        _save(adversarial, step, _small(step).state_dict())
        loaded = load_network("discriminator", path=str(adversarial.folder))
        assert f"step {step}" in loaded.weights.name
        assert torch.equal(_inner(loaded)["head.bias"], _small(step).state_dict()["head.bias"])


@pytest.fixture
def ladder(photos: Path, tmp_path: Path) -> Path:
    """Stages 0 and 1 have ended, 2 is being trained; `checkpoints` points to 1's."""
    folder = tmp_path / "store" / "trials" / "ab12cd34ef"
    _trial(photos, folder)
    for stage in range(3):
        _save(_trial(photos, stage_folder(folder, stage)), 4, _small(stage).state_dict())
        if stage < 2:
            (stage_folder(folder, stage) / RECORD).write_text("{}")
    (folder / "checkpoints").symlink_to(stage_folder(folder, 1) / "checkpoints")
    return folder


def test_a_stage_by_path_or_by_the_trials_id(
    ladder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRLOSS_STORE", str(tmp_path / "store"))
    newest = load_network("discriminator", path=str(ladder))
    assert newest.weights.name == "discriminator(ab12cd34ef stage 1 at step 4)"
    for other in ({"trial": "ab12cd34ef"}, {"trial": "ab", "stage": 1}, {"path": str(ladder), "stage": 1}):
        assert load_network("discriminator", **other) is newest  # type: ignore[arg-type]
    for stage in range(2):
        found = load_network("discriminator", trial="ab12cd34ef", stage=stage)
        assert torch.equal(_inner(found)["head.bias"], _small(stage).state_dict()["head.bias"])
        assert load_network("discriminator", path=str(stage_folder(ladder, stage))) is found

    assert "stage 2 of" in _refusal(path=str(ladder), stage=2)
    assert "has not ended; give one that has ended (0, 1)" in _refusal(trial="ab", stage=2)
    assert "stage 7 of" in _refusal(trial="ab", stage=7)
    assert "does not exist" in _refusal(trial="ab", stage=7)
    assert "stage 0 has no effect" in _refusal(path=str(stage_folder(ladder, 1)), stage=0)
    file = ladder / "checkpoints" / "step-00000004.pt"
    assert load_network("discriminator", path=str(file)) is newest
    checkpoint.mark_best(file.parent, step=4)
    assert load_network("discriminator", path=str(file.with_name(checkpoint.BEST))) is newest
    assert "stage 1 has no effect" in _refusal(path=str(file), stage=1)
    assert "both name a trial" in _refusal(path=str(ladder), trial="ab")
    # Not even where the trial's link points to one that is being trained.
    for stage in range(2):
        (stage_folder(ladder, stage) / RECORD).unlink()
    assert "none of its stages has ended" in _refusal(path=str(ladder))


def test_trials_are_found_in_the_run_store(tmp_path: Path) -> None:
    for place in ("trials/ab12", "trials/cd34", "sweeps/one/trials/ab56", "sweeps/one/trials/ef78"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "state.json").touch()
    (tmp_path / "sweeps" / "two" / "trials" / "cd99").mkdir(parents=True)
    assert find_trial(tmp_path, "cd") == tmp_path / "trials" / "cd34"
    assert find_trial(tmp_path, "ef78") == tmp_path / "sweeps" / "one" / "trials" / "ef78"
    for place in ("trials/ab", "sweeps/two/trials/cd34"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "state.json").touch()
    # A whole id, though others begin so.
    assert find_trial(tmp_path, "ab") == tmp_path / "trials" / "ab"
    with pytest.raises(ValueError, match=r"fits several .*: sweeps/two/trials/cd34, trials/cd34; give more"):
        find_trial(tmp_path, "cd34")
    for nothing in ("", "zz"):
        with pytest.raises(ValueError, match=r"is no trial of .*; known: sweeps/one/trials/ab56, .*"):
            find_trial(tmp_path, nothing)
    with pytest.raises(ValueError, match=r"has no trials; name the right one by \$SRLOSS_STORE"):
        find_trial(tmp_path / "nowhere", "ab")


def test_trials_without_a_usable_discriminator(photos: Path, adversarial: Ledger, tmp_path: Path) -> None:
    folder = str(adversarial.folder)
    assert "no checkpoint there" in _refusal(path=folder)
    assert "there is no" in _refusal(path=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "no checkpoint there" in _refusal(path=str(tmp_path / "empty"))
    _save(adversarial, 3)
    assert "trained without one" in _refusal(path=folder)
    path = _save(adversarial, 4, _small().state_dict(), adversary={"updates": 0})
    assert "has not learnt anything by step 4" in _refusal(path=folder)
    _save(adversarial, 5, DISCRIMINATORS["vgg_d"](channels=8).state_dict())
    assert "do not fit 'patch_d'" in _refusal(path=folder)
    _save(adversarial, 6, DISCRIMINATORS["patch_d"](channels=4).state_dict())
    assert "has shape" in _refusal(path=folder)
    _save(adversarial, 7, {**_small().state_dict(), "head.bias": torch.tensor([float("nan")])})
    assert "'head.bias' is not finite" in _refusal(path=folder)

    plain = _trial(photos, tmp_path / "plain", loss="l1")
    _save(plain, 1, _small().state_dict())
    assert "trained without one" in _refusal(path=str(plain.folder))
    path = _save(adversarial, 8, _small().state_dict())
    config = adversarial.folder / "config.yaml"
    config.write_text(config.read_text().replace("patch_d", "patch_e"))
    assert "cannot read the config.yaml of its trial" in _refusal(path=str(path))
    (adversarial.folder / "state.json").unlink()
    assert "no trial here" in _refusal(path=str(path))


def test_files_that_are_no_checkpoints(adversarial: Ledger, tmp_path: Path) -> None:
    path = _save(adversarial, 5, _small().state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "damaged" in _refusal(path=str(path))
    digest = path.with_suffix(".sha256")
    for content in (whole[: len(whole) // 2], bytes(range(256)), b""):
        # Even where the hash fits, as where somebody made it anew.
        path.write_bytes(content)
        digest.write_text(hashlib.sha256(content).hexdigest())
        assert "not one of srloss" in _refusal(path=str(path))
    torch.save([1, 2], path)
    digest.write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    assert "format None" in _refusal(path=str(path))
    digest.unlink()
    assert "give a checkpoint with its .sha256 beside it" in _refusal(path=str(path))

    vgg = tmp_path / "vgg19-dcbb9e9d.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, vgg)
    assert "not a checkpoint of a trial" in _refusal(path=str(vgg))


def test_a_discriminator_of_clips_is_refused(photos: Path, tmp_path: Path) -> None:
    ledger = _trial(photos, tmp_path / "clips", {"type": "temporal_d", "channels": 8})
    _save(ledger, 1, DISCRIMINATORS["temporal_d"](channels=8).state_dict())
    assert "cannot look at single pictures" in _refusal(path=str(ledger.folder))
    with pytest.raises(ValueError, match="cannot look at single pictures"):
        load_network("random_discriminator", architecture="temporal_d")


def test_a_random_discriminator_says_that_it_is_and_disturbs_nothing() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    network = load_network("random_discriminator", architecture=SMALL, seed=3)
    assert torch.equal(torch.rand(3), expected)
    assert network.weights.name == "random_discriminator(patch_d(channels=8), seed=3)"
    assert load_network("random_discriminator", architecture=SMALL, seed=3) is network
    other = load_network("random_discriminator", architecture=SMALL, seed=4)
    assert other.weights.sha256 != network.weights.sha256
    assert all(torch.equal(value, _small(3).state_dict()[name]) for name, value in _inner(network).items())
    assert load_network("random_discriminator").weights.name == "random_discriminator(patch_d, seed=0)"
    levels = load_network("random_discriminator", architecture={**SMALL, "levels": 2}, seed=3)
    assert levels.default_taps == ("down1", "down2")
    for wrong in ("patch_e", {"type": "patch_d", "chanels": 8}):
        with pytest.raises(ValueError, match=r"random_discriminator\.architecture.*Did you mean"):
            load_network("random_discriminator", architecture=wrong)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("random_vgg", {"trial": "ab"}),
        ("random_discriminator", {"stage": 0}),
        ("discriminator", {"architecture": "patch_d"}),
        ("discriminator", {"seed": 1}),
    ],
)
def test_settings_without_effect_are_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: .* has no effect on the feature network"):
        load_network(name, **settings)  # type: ignore[arg-type]
