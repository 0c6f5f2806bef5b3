"""A trained generator, from wherever it lies: a trial's folder, one of its checkpoints, or an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sr import checkpoint
from sr.config import TrialConfig
from sr.exported import MODEL_NAME, ONNX_NAME, exported_name, read_exported
from sr.ladder.records import folder_name
from sr.ledger import Ledger, open_trial
from sr.parts import build_generator


@dataclass(frozen=True)
class Pretrained:
    """A generator with its averaged weights, in evaluation mode on the CPU, and the configuration it was trained with."""

    generator: nn.Module
    config: TrialConfig
    name: str
    """For people: the trial's id and the step."""
    ledger: Ledger | None = None
    """The trial's folder; None for an exported model, which has left it."""
    step: int | None = None
    """Optimizer updates that the weights have seen; None for an exported model."""


def load_generator(path: Path) -> Pretrained:
    """Loads the averaged weights of a trial's newest sound checkpoint, of one checkpoint, or of an exported model.

    Args:
        path: Folder of a trial, `TRIAL/checkpoints/step-NNNNNNNN.pt`, a folder that `srloss export` made, or the
            `model.safetensors` in it.

    Raises:
        ValueError: There is no trial, no sound checkpoint or no sound model, or it is an ONNX export; says where and
            what to give instead.
    """
    if path.suffix == ".onnx" or (path / ONNX_NAME).exists():
        raise ValueError(
            f"{path}: an ONNX export, which is for other runtimes; give the trial, or export it again with: "
            "--format safetensors"
        )
    if path.suffix == ".safetensors" or (path / MODEL_NAME).exists():
        weights, config = read_exported(path)
        return Pretrained(_generator(config, weights), config, exported_name(path))
    state, ledger, config = _trained(path)
    name = f"{folder_name(ledger.folder)} at step {state['step']}"
    return Pretrained(_generator(config, state["ema"]), config, name, ledger, state["step"])


def _trained(path: Path) -> tuple[dict[str, Any], Ledger, TrialConfig]:
    if path.is_dir():
        ledger, config = open_trial(path.resolve())
        damaged: list[str] = []
        state = checkpoint.latest(ledger.checkpoints, on_damaged=damaged.append)
        if state is None:
            raise ValueError("; ".join([f"{path}: no sound checkpoint; train the trial first", *damaged]))
    else:
        state = checkpoint.load(path)
        ledger, config = open_trial(path.resolve().parent.parent)
    return state, ledger, config


def _generator(config: TrialConfig, weights: dict[str, Tensor]) -> nn.Module:
    generator = build_generator(config.model, scale=config.scale, seed=config.seed)
    generator.load_state_dict(weights)
    return generator.eval()
