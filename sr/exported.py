"""The file of an exported model: its weights as safetensors, with the configuration and a hash over both in its header."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from sr.config import TrialConfig, parse_trial, to_plain

MODEL_NAME = "model.safetensors"
ONNX_NAME = "model.onnx"
CONFIG_NAME = "config.json"
FORMAT_VERSION = "1"
_WRITTEN = {"format_version", "name", "config", "sha256"}


def portable_config(config: TrialConfig) -> TrialConfig:
    """The configuration as it is given away: of a local data folder, only its name is told."""
    path = config.data.path
    if "://" in path:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"path": Path(path).name})})


def exported_bytes(state: dict[str, Tensor], config: TrialConfig, *, name: str) -> bytes:
    """Returns the content of a model file.

    Args:
        state: Weights of the generator, on any device.
        config: Of the trial.
        name: For people: which trial, at which step.
    """
    from safetensors.torch import save

    # Clones: safetensors refuses tensors that share memory.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    text = json.dumps(to_plain(config), sort_keys=True)
    header = {
        "format": "srloss",
        "format_version": FORMAT_VERSION,
        "srloss": srloss_version(),
        "name": name,
        "scale": str(config.scale),
        "config": text,
    }
    return save(tensors, metadata={**header, "sha256": _digest(tensors, header)})


def read_exported(path: Path) -> tuple[dict[str, Tensor], TrialConfig]:
    """Returns weights and configuration of an exported model, verified by its hash.

    Args:
        path: The folder that `srloss export` made, or the model.safetensors in it.

    Raises:
        ValueError: It is missing, damaged, or not one of ours; says what to do.
    """
    state, header = _read(path)
    return state, parse_trial(json.loads(header["config"]))


def exported_name(path: Path) -> str:
    """Which trial an exported model is of, for people."""
    return _read(path)[1]["name"]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    file = path / MODEL_NAME if path.is_dir() else path
    try:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
    except OSError as error:
        raise ValueError(
            f"exported model {file}: cannot be read ({error.strerror or error}); give a folder that was made by: srloss export"
        ) from None
    except SafetensorError as error:
        raise ValueError(f"exported model {file}: damaged ({error}); export it again") from None
    if header.get("format") != "srloss":
        raise ValueError(
            f"exported model {file}: not written by srloss; give a folder made by: srloss export"
        )
    if header.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise ValueError(
            f"exported model {file}: format {header['format_version']}, this srloss reads {FORMAT_VERSION}; update srloss"
        )
    if not header.keys() >= _WRITTEN or _digest(state, header) != header["sha256"]:
        raise ValueError(
            f"exported model {file}: damaged, its content differs from the sha256 in its header; export it again"
        )
    return state, header


def srloss_version() -> str:
    """Version of this package, or `not installed` where it runs from a bare folder."""
    try:
        return metadata.version("srloss")
    except metadata.PackageNotFoundError:
        return "not installed"


def _digest(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """Of the header but for the digest itself, and of each tensor's name, type, shape and bytes."""
    described = {key: value for key, value in header.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # Flattened first: a view as bytes needs an axis.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
