"""Exported models: what is read back, what runs as ONNX, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from shards.manifest import load
from sr import checkpoint
from sr.config import fingerprint, parse_trial
from sr.data import held_out
from sr.evaluate import evaluate
from sr.export import Exported, OnnxOptions, export_onnx, export_safetensors, read_exported
from sr.exported import exported_bytes, portable_config
from sr.ledger import Ledger
from sr.models import GENERATORS
from sr.onnx_export import onnx_bytes
from sr.pretrained import load_generator
from sr.train import train
from sr.world import single_process
from tests.conftest import tiny_trial


@pytest.fixture(scope="module")
def trial(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial of a few real steps, fast enough that its residual is not zero."""
    plain = tiny_trial(photos, optimizer={"learning_rate": 0.01, "warmup_steps": 1, "ema_decay": 0.5})
    plain["data"] = {**plain["data"], "fingerprint": load(photos).fingerprint}  # type: ignore[dict-item]
    config = parse_trial({**plain, "loss": "0.5*l1 + 0.5*charbonnier"})
    ledger = Ledger(tmp_path_factory.mktemp("trials") / fingerprint(config))
    ledger.create(config, command="test")
    train(config, world=single_process("cpu"), ledger=ledger)
    return ledger.folder


@pytest.fixture(scope="module")
def onnx_model(trial: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An export takes seconds; this one is looked at from several sides."""
    return export_onnx(trial, tmp_path_factory.mktemp("onnx") / "out")


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


def test_an_exported_model_is_the_trained_one(trial: Path, tmp_path: Path) -> None:
    done = export_safetensors(trial, tmp_path / "out")
    assert sorted(p.name for p in done.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "model_card.md",
    ]
    state = checkpoint.latest(Ledger(trial).checkpoints, on_damaged=pytest.fail)
    assert state is not None
    weights, config = read_exported(done.folder)
    assert weights.keys() == state["ema"].keys()
    assert all(torch.equal(weights[key], state["ema"][key]) for key in weights)
    assert fingerprint(config) == trial.name
    assert done.sha256 == hashlib.sha256(done.model.read_bytes()).hexdigest()

    trained, lr = load_generator(trial), picture(1, 3, 12, 16)
    for path in (done.folder, done.model):
        loaded = load_generator(path)
        assert loaded.name == trained.name == f"{trial.name} at step 12"
        assert not loaded.generator.training
        with torch.no_grad():
            assert torch.equal(loaded.generator(lr), trained.generator(lr))


def test_no_place_of_this_machine_is_given_away(
    trial: Path, photos: Path, onnx_model: Exported, tmp_path: Path
) -> None:
    assert str(photos.parent) in (trial / "config.yaml").read_text()
    places = [str(path).encode() for path in (photos.parent, Path(__file__).parents[3])]
    for folder in (export_safetensors(trial, tmp_path / "a").folder, onnx_model.folder):
        for file in folder.iterdir():
            assert not [place for place in places if place in file.read_bytes()], file
    config = parse_trial({"data": {"path": "https://host/data"}, "loss": "l1"})
    assert portable_config(config) == config


def test_one_checkpoint_can_be_exported(trial: Path, tmp_path: Path) -> None:
    done = export_safetensors(trial / "checkpoints" / "step-00000008.pt", tmp_path / "out")
    assert done.name.endswith("at step 8")
    card = (done.folder / "model_card.md").read_text()
    assert "these weights are of step 8" in card
    assert "validation pictures only" in card
    step_8 = next(row for row in Ledger(trial).rows("validation") if row["step"] == 8)
    assert f"| val/psnr_y | {step_8['val/psnr_y']:.4f} |" in card


@pytest.mark.parametrize("place", ["weights", "config", "name", "scale", "srloss", "key", "length"])
def test_a_damaged_file_is_refused(trial: Path, tmp_path: Path, place: str) -> None:
    done = export_safetensors(trial, tmp_path / "out")
    content = bytearray(done.model.read_bytes())
    if place == "length":
        del content[-8:]
    else:
        at = {
            "weights": len(content) - 100,
            "config": content.index(b"steps") + 10,
            "name": content.index(b'"name":"') + 10,
            "scale": content.index(b'"scale":"') + 9,
            "srloss": content.index(b'"srloss":"') + 10,
            "key": content.index(b'"scale":"') + 3,
        }[place]
        content[at] ^= 1
    done.model.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors.*(damaged|not written by srloss)"):
        load_generator(done.folder)


def test_what_is_no_exported_model_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not written by srloss; give a folder made by: srloss export"):
        load_generator(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_generator(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="no trial here"):
        load_generator(tmp_path.parent)


def test_a_changed_configuration_is_noticed(trial: Path, tmp_path: Path) -> None:
    done = export_safetensors(trial, tmp_path / "out")
    content = done.model.read_bytes()
    # A sound file of the same length, of another loss: the weights alone would not show it.
    assert content.count(b'\\"calibrate\\": true') == 1
    done.model.write_bytes(content.replace(b'\\"calibrate\\": true', b'\\"calibrate\\":false'))
    with pytest.raises(ValueError, match=r"damaged, its content differs.*export it again"):
        load_generator(done.folder)


def test_shared_and_scalar_weights_survive(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {"a": shared, "b": shared.T, "n": torch.tensor(5), "h": shared.half()}
    config = parse_trial({"data": {"path": "x"}, "loss": "l1"})
    (tmp_path / "model.safetensors").write_bytes(exported_bytes(state, config, name="x"))
    weights, read = read_exported(tmp_path)
    assert read == config
    assert all(
        torch.equal(weights[key], state[key]) and weights[key].dtype == state[key].dtype for key in state
    )


def test_nothing_is_overwritten_unless_asked(trial: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    export_safetensors(trial, out)
    before = (out / "model.safetensors").stat().st_ino
    with pytest.raises(ValueError, match=r"is there already.*--force"):
        export_safetensors(trial, out)
    assert (out / "model.safetensors").stat().st_ino == before
    export_safetensors(trial, out, force=True)
    assert (out / "model.safetensors").stat().st_ino != before
    assert [p.name for p in out.parent.iterdir()] == ["out"]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="was not made by srloss export"):
        export_safetensors(trial, tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_failed_export_leaves_nothing(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    export_safetensors(trial, out)
    kept = (out / "model_card.md").read_bytes()

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("sr.export.write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        export_safetensors(trial, out, force=True)
    with pytest.raises(OSError, match="No space left"):
        export_safetensors(trial, tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / "model_card.md").read_bytes() == kept


def test_the_card_says_what_it_is(trial: Path, photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / trial.name
    shutil.copytree(trial, copy)
    ledger, model = Ledger(copy), load_generator(copy)
    dataset = load(photos)
    clips = held_out(dataset, model.config).test
    rows = evaluate(
        model.generator, dataset, clips, model.config, device=torch.device("cpu"), metrics=("psnr_y",)
    )
    ledger.write_evaluation(rows)
    card = (export_safetensors(copy, tmp_path / "out").folder / "model_card.md").read_text()
    mean = np.mean([row["psnr_y"] for row in rows])
    assert f"| psnr_y | {mean:.4f} |" in card
    assert f"{len(rows)} clips of {len({row['source'] for row in rows})} held-out sources" in card
    for fact in (
        "# espcn x2, trained with 0.5*l1 + 0.5*charbonnier",
        f"fingerprint {dataset.fingerprint}",
        "| degradation | bicubic_aa |",
        "load_generator",
        "never identify a person",
    ):
        assert fact in card
    again = export_safetensors(tmp_path / "out", tmp_path / "again").folder
    assert "exported from an exported model" in (again / "model_card.md").read_text()


def test_the_code_on_the_cards_runs(
    trial: Path, onnx_model: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr = picture(1, 3, 10, 14)
    with torch.no_grad():
        wanted = load_generator(trial).generator(lr).clamp(0, 1)
    for done, given in ((export_safetensors(trial, tmp_path / "out"), lr), (onnx_model, lr.numpy())):
        code = (done.folder / "model_card.md").read_text().split("```python\n")[1].split("```")[0]
        monkeypatch.chdir(done.folder)
        names: dict[str, Any] = {"lr": given}
        with torch.no_grad():
            exec(code.replace("FOLDER", "."), names)
        assert np.abs(np.asarray(names["sr"]) - wanted.numpy()).max() < 1e-5


def test_an_onnx_export_is_not_taken_for_a_model_to_load(onnx_model: Exported) -> None:
    for given in (onnx_model.folder, onnx_model.model):
        with pytest.raises(ValueError, match=r"an ONNX export.*--format safetensors"):
            load_generator(given)


def test_onnx_runs_on_sizes_it_was_not_compared_on(trial: Path, onnx_model: Exported) -> None:
    import onnx
    import onnxruntime

    assert onnx_model.input_shape == ("batch", 3, "height", "width")
    assert onnx_model.max_difference < 1e-5
    assert "opset 18" in (onnx_model.folder / "model_card.md").read_text()
    session = onnxruntime.InferenceSession(onnx_model.model, providers=["CPUExecutionProvider"])
    generator = load_generator(trial).generator
    for shape in ((1, 3, 2, 3), (4, 3, 51, 17), (1, 3, 90, 64)):
        lr = picture(*shape)
        with torch.no_grad():
            wanted = generator(lr).numpy()
        assert np.abs(session.run(None, {"lr": lr.numpy()})[0] - wanted).max() < 1e-5
    facts = {item.key: item.value for item in onnx.load(onnx_model.model).metadata_props}
    assert facts["scale"] == "2"
    assert parse_trial(json.loads(facts["config"])).model == load_generator(trial).config.model


class ReadsItsInput(nn.Module):
    """Decides by the values of the picture: no graph can hold that."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return lr * 2 if lr.mean().item() > 0.5 else lr


class Remembers(nn.Module):
    """Computes something else in a file than in torch, as an exporter with a defect would make it."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        larger = lr.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
        return larger + 0.001 if torch.compiler.is_exporting() else larger


class OnlyClips(nn.Module):
    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        if lr.ndim != 5:
            raise ValueError("needs clips")
        return lr.mean(dim=1)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (ReadsItsInput(), OnnxOptions(), r"the exporter cannot do it.*--height H --width W"),
        (ReadsItsInput(), OnnxOptions(height=8, width=8), r"the exporter cannot do it.*--format safetensors"),
        (Remembers(), OnnxOptions(), r"differs from torch by 0\.001.*nothing was written"),
        (OnlyClips(), OnnxOptions(), r"needs clips.*--clip T"),
        (OnlyClips(), OnnxOptions(height=8), r"--height and --width go together"),
        (OnlyClips(), OnnxOptions(clip=0), r"--clip is 0"),
        (OnlyClips(), OnnxOptions(opset=9), r"--opset is 9"),
    ],
)
def test_what_cannot_be_onnx_is_refused(network: nn.Module, options: OnnxOptions, message: str) -> None:
    config = parse_trial({"data": {"path": "x"}, "loss": "l1"})
    with pytest.raises(ValueError, match=message) as caught:
        onnx_bytes(network.eval(), config, name="x", options=options)
    assert len(str(caught.value)) < 600


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    config = parse_trial({"data": {"path": "x"}, "loss": "l1"})
    with pytest.raises(ValueError, match=r"needs onnxscript, which is not installed.*srloss\[onnx\]"):
        onnx_bytes(GENERATORS["nearest"](scale=2), config, name="x", options=OnnxOptions())


def test_the_command(trial: Path, tmp_path: Path) -> None:
    import typer

    from sweeps.cli.export import export

    app = typer.Typer()
    app.command()(export)
    done = CliRunner().invoke(app, [str(trial), str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert "model.safetensors" in done.output
    onnx = ["--format", "onnx", "--clip", "2", "--height", "12", "--width", "20", "--json"]
    done = CliRunner().invoke(app, [str(tmp_path / "a"), str(tmp_path / "b"), *onnx])
    told = json.loads(done.stdout)
    assert told["input_shape"] == ["batch", 2, 3, 12, 20]
    assert Path(told["model"]).is_file()
    assert "exactly (batch, 2, 3, 12, 20)" in (tmp_path / "b" / "model_card.md").read_text()
    refused = CliRunner().invoke(app, [str(trial), str(tmp_path / "c"), "--clip", "2"])
    assert "add --format onnx or drop them" in str(refused.exception)
