"""Giving a trained model away: a folder with its weights, its configuration and a card that says what it is.

model.safetensors or model.onnx    the weights, or the network ready to run
config.json                        the complete configuration of the trial
model_card.md                      where it comes from, how to use it, what it cannot do
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sr.config import to_plain
from sr.exported import CONFIG_NAME, MODEL_NAME, ONNX_NAME, exported_bytes, portable_config, read_exported
from sr.files import write_atomically
from sr.model_card import CARD_NAME, ModelFile, model_card
from sr.onnx_export import OnnxOptions, onnx_bytes
from sr.pretrained import load_generator

__all__ = ["Exported", "OnnxOptions", "export_onnx", "export_safetensors", "read_exported"]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    model: Path
    size_bytes: int
    sha256: str
    """Of the model file."""
    name: str
    """Which trial it is, at which step."""
    input_shape: tuple[int | str, ...] = ()
    """ONNX: the axes of its input; a word is an axis of any length."""
    max_difference: float = 0.0
    """ONNX: largest absolute difference to the network in torch, on pictures in [0, 1]."""


def export_safetensors(source: Path, out: Path, *, force: bool = False) -> Exported:
    """Writes the averaged weights of a trained generator as a folder that `load_generator` reads.

    Args:
        source: What `sr.pretrained.load_generator` takes.
        out: Folder to make.
        force: Whether to replace a folder that an export made before.

    Raises:
        ValueError: The source cannot be read, or `out` is there already.
        OSError: The folder cannot be written.
    """
    _check_free(out, force=force)
    model = load_generator(source)
    config = portable_config(model.config)
    content = exported_bytes(model.generator.state_dict(), config, name=model.name)
    digest = hashlib.sha256(content).hexdigest()
    card = model_card(model, ModelFile(MODEL_NAME, len(content), digest))
    _write(out, {MODEL_NAME: content, CONFIG_NAME: _json(to_plain(config)), CARD_NAME: card.encode()})
    return Exported(out, out / MODEL_NAME, len(content), digest, model.name)


def export_onnx(
    source: Path, out: Path, *, options: OnnxOptions | None = None, force: bool = False
) -> Exported:
    """Writes a trained generator as ONNX, after running it beside the one in torch on several sizes.

    Args:
        source: What `sr.pretrained.load_generator` takes.
        out: Folder to make.
        options: How to export.
        force: Whether to replace a folder that an export made before.

    Raises:
        ValueError: The source cannot be read, the network cannot be exported, what came out computes something else, the
            packages for it are missing, or `out` is there already.
        OSError: The folder cannot be written.
    """
    _check_free(out, force=force)
    model = load_generator(source)
    config = portable_config(model.config)
    exported = onnx_bytes(model.generator, config, name=model.name, options=options or OnnxOptions())
    digest = hashlib.sha256(exported.content).hexdigest()
    file = ModelFile(ONNX_NAME, len(exported.content), digest, exported)
    card = model_card(model, file)
    _write(out, {ONNX_NAME: exported.content, CONFIG_NAME: _json(to_plain(config)), CARD_NAME: card.encode()})
    return Exported(
        out,
        out / ONNX_NAME,
        len(exported.content),
        digest,
        model.name,
        exported.input_shape,
        exported.max_difference,
    )


def _json(plain: object) -> bytes:
    return (json.dumps(plain, indent=1) + "\n").encode()


def _check_free(out: Path, *, force: bool) -> None:
    """Looked at before the work, which may take minutes."""
    if not out.exists():
        return
    if not force:
        raise ValueError(f"{out}: is there already; give another folder, or replace it with: --force")
    if not (out / CARD_NAME).is_file():
        raise ValueError(
            f"{out}: was not made by srloss export ({CARD_NAME} is missing), so --force does not replace it; "
            "give another folder"
        )


def _write(out: Path, files: dict[str, bytes]) -> None:
    """Makes the folder whole or not at all: written aside and renamed."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    try:
        aside.mkdir()
        for name, content in files.items():
            write_atomically(aside / name, content)
        # A folder with something in it cannot be renamed over.
        if out.exists():
            out.rename(old)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)
