"""A VGG trained on the data at hand: its file, its tasks, and that it learns."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import skimage
import torch
from PIL import Image
from typer.testing import CliRunner

from shards.foreign import IndexOptions, index_foreign
from shards.manifest import Dataset, load
from sr.expression import parse_loss
from sr.features import load_network
from sr.features.corruptions import CORRUPTIONS, corrupt
from sr.features.dataset_vgg import read_training, save_dataset_vgg
from sr.features.train_dataset_vgg import _Classifier, train_dataset_vgg
from sr.losses.vgg import Vgg
from sweeps.cli.features import app


def _quiet(_step: int, _loss: float) -> None:
    pass


def _train(dataset: Dataset, **changes: object) -> tuple[dict[str, torch.Tensor], object]:
    options = {"steps": 2, "width": 2, "patch_size": 16, "on_progress": _quiet, **changes}
    return train_dataset_vgg(dataset, **options)


def test_file_round_trip(photos: Path, tmp_path: Path) -> None:
    dataset = load(photos)
    state, training = train_dataset_vgg(dataset, steps=2, width=2, patch_size=16, on_progress=_quiet)
    out = tmp_path / "new" / "vgg.safetensors"
    sha256 = save_dataset_vgg(out, state, training)
    tensors, read_back, read_sha256 = read_training(out)
    assert read_back == training
    assert read_sha256 == sha256
    assert all(torch.equal(tensors[name], value) for name, value in state.items())
    assert training.data_fingerprint == dataset.fingerprint
    assert training.chance == 1 / len(CORRUPTIONS)
    network = load_network("dataset_vgg", path=str(out))
    assert network.weights.sha256 == sha256
    features = network(torch.rand(1, 3, 32, 32), network.default_taps)
    assert [x.shape[1] for x in features.values()] == [2, 4, 8, 16]
    loss = Vgg(network="dataset_vgg", path=str(out))
    assert loss(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)) > 0


def test_same_seed_same_network(photos: Path) -> None:
    dataset = load(photos)
    first, second, other = (_train(dataset, seed=seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_folding_the_normalisation_changes_nothing() -> None:
    torch.manual_seed(0)
    classifier = _Classifier(4, 3, seed=0)
    torch.nn.init.normal_(classifier.head.weight)
    for norm in classifier.norms.values():
        torch.nn.init.normal_(norm.weight)  # type: ignore[arg-type]
        torch.nn.init.normal_(norm.bias)  # type: ignore[arg-type]
    for _ in range(3):
        classifier(torch.rand(4, 3, 32, 32))
    pictures = torch.rand(2, 3, 32, 32)
    before = classifier.eval()(pictures)
    classifier.fold()
    torch.testing.assert_close(classifier(pictures), before, rtol=1e-4, atol=1e-4)


def test_damaged_and_foreign_files_are_refused(photos: Path, tmp_path: Path) -> None:
    state, training = train_dataset_vgg(load(photos), steps=1, width=1, patch_size=16, on_progress=_quiet)
    out = tmp_path / "vgg.safetensors"
    save_dataset_vgg(out, state, training)
    content = bytearray(out.read_bytes())
    content[-3] ^= 1
    out.write_bytes(content)
    with pytest.raises(ValueError, match="damaged, its tensors differ"):
        load_network("dataset_vgg", path=str(out))
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, out)
    with pytest.raises(ValueError, match="a file made by: srloss features train"):
        load_network("dataset_vgg", path=str(out))
    out.write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be read"):
        load_network("dataset_vgg", path=str(out))


def _tar(root: Path, labels: dict[str, str | None], *, as_json: bool) -> Dataset:
    """Shards of somebody else's: bright pictures are called "day", dark ones "night"."""
    root.mkdir()
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-000000.tar", "w") as tar:
            for number, (name, label) in enumerate(labels.items()):
                level = 200 if label == "day" else 40
                pixels = np.clip(level + generator.normal(0, 10, (24, 24, 3)), 0, 255).astype(np.uint8)
                picture = io.BytesIO()
                Image.fromarray(pixels).save(picture, "PNG")
                members = {"png": picture.getvalue()}
                if label is not None:
                    ending = "json" if as_json else "cls"
                    members[ending] = json.dumps({"label": label}).encode() if as_json else label.encode()
                for ending, content in members.items():
                    info = tarfile.TarInfo(f"{split}{name}{number}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return index_foreign(root, IndexOptions(jobs=1, check_leaks=False), on_progress=lambda _state: None)


@pytest.mark.parametrize("as_json", [True, False])
def test_labels_are_learnt(tmp_path: Path, as_json: bool) -> None:
    dataset = _tar(tmp_path / "set", {c: "day" if c in "abc" else "night" for c in "abcdef"}, as_json=as_json)
    losses: list[float] = []
    _, training = train_dataset_vgg(
        dataset,
        task="labels",
        steps=60,
        width=4,
        patch_size=16,
        on_progress=lambda _step, loss: losses.append(loss),
    )
    assert training.classes == ("day", "night")
    assert training.chance == pytest.approx(0.5, abs=0.1)
    assert len(losses) == 60
    assert training.held_out_accuracy > 0.95
    assert set(training.accuracy_by_class) == {"day", "night"}
    assert min(training.accuracy_by_class.values()) > 0.9


def test_labels_that_are_missing(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"have no label, such as .*--task degradation"):
        _train(load(photos), task="labels")
    one = _tar(tmp_path / "one", {"a": "day", "b": "day"}, as_json=False)
    with pytest.raises(ValueError, match="all labels are 'day'"):
        _train(one, task="labels")
    some = _tar(tmp_path / "some", {"a": "day", "b": None}, as_json=False)
    with pytest.raises(ValueError, match="2 of 4 samples have no label"):
        _train(some, task="labels")


# --- the damage ---


def _photo() -> torch.Tensor:
    pixels = skimage.data.astronaut()[40:104, 180:244].copy()
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def test_blur_is_scipys() -> None:
    photo = _photo()
    for sigma in (0.7, 1.2, 2.0):
        radius = int(3 * sigma + 0.5)
        expected = scipy.ndimage.gaussian_filter(
            photo.double().numpy(), (0, sigma, sigma), mode="mirror", radius=(0, radius, radius)
        )
        found = corrupt(photo, f"blur sigma {sigma:g}", torch.Generator())
        assert np.abs(found.numpy() - expected).max() <= 0.5 / 255 + 1e-5


def test_higher_levels_are_worse_and_repeatable() -> None:
    photo = _photo()
    errors: dict[str, list[float]] = {}
    for name in CORRUPTIONS:
        first, second = (corrupt(photo, name, torch.Generator().manual_seed(0)) for _ in range(2))
        assert torch.equal(first, second)
        assert torch.equal(first, first.mul(255).round().div(255))
        errors.setdefault(name.split(" ")[0], []).append((first - photo).square().mean().sqrt().item())
    assert errors.pop("clean") == [0.0]
    assert all(levels == sorted(levels) and levels[0] > 0 for levels in errors.values())
    noise = torch.full((3, 64, 64), 0.5)
    found = corrupt(noise, "noise sigma 15", torch.Generator().manual_seed(0)) - noise
    assert found.std().item() * 255 == pytest.approx(15, rel=0.03)


# --- the command ---


def test_train_and_list_by_command(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "vgg.safetensors"
    command = ["train", str(photos), str(out), "--steps", "2", "--width", "1"]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["chance"] == pytest.approx(1 / 12)
    assert load_network("dataset_vgg", path=str(out)).weights.sha256 == json.loads(result.stdout)["sha256"]
    assert set(json.loads(result.stdout)["accuracy_by_class"]) <= set(CORRUPTIONS)
    told = CliRunner().invoke(app, [*command, "--force"]).stdout
    assert re.search(r"^by class: clean \d+%, blur sigma 0.7 \d+%", told, re.MULTILINE), told
    quoted = re.search(r'^use it in a loss: "(.+)"$', told, re.MULTILINE)
    assert quoted is not None, told
    assert parse_loss(quoted[1])[1] == {
        "type": "vgg",
        "weight": 0.1,
        "network": "dataset_vgg",
        "path": str(out),
    }
    with pytest.raises(ValueError, match="names of files need quotes"):
        parse_loss("vgg(network=dataset_vgg, path=my.safetensors)")
    again = CliRunner().invoke(app, command)
    assert "--force" in str(again.exception)
    listed = CliRunner().invoke(app, ["list", "--json"])
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert {"vgg19", "effnet_lite0", "dists", "discriminator"} <= set(rows)
    assert rows["effnet_lite0"]["found"].endswith(".pth")
    assert "srloss features fetch vgg19" in rows["vgg19"]["how"]
