"""The card of an exported model: where it comes from, how good it was found, how to use it, what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sr.config import TrialConfig, fingerprint
from sr.degrade import GIVEN
from sr.exported import CONFIG_NAME, portable_config, srloss_version
from sr.onnx_export import TOLERANCE, OnnxModel
from sr.pretrained import Pretrained
from sr.scores import mean_scores

CARD_NAME = "model_card.md"


@dataclass(frozen=True)
class ModelFile:
    """The file that the card is about."""

    name: str
    size_bytes: int
    sha256: str
    onnx: OnnxModel | None = None


def model_card(model: Pretrained, file: ModelFile) -> str:
    """Returns the card as Markdown."""
    config = portable_config(model.config)
    parts = [
        f"# {config.model.type} x{config.scale}, trained with {_loss(config)}",
        f"Super-resolution by a factor of {config.scale}, made with srloss {srloss_version()}. Trial {model.name}.",
        _table(_facts(model, config, file)),
        f"Everything else stands in {CONFIG_NAME}.",
        "## How good it was found",
        _measured(model),
        "## How to use it",
        _onnx_use(file.onnx) if file.onnx else _torch_use(),
        "## What it cannot do",
        "\n".join(f"- {line}" for line in _limits(config, file)),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(model: Pretrained, config: TrialConfig, file: ModelFile) -> dict[str, str]:
    facts = {
        "model": _component(config.model.type, config.model.parameters),
        "parameters": f"{sum(p.numel() for p in model.generator.parameters()):,}",
        "scale": str(config.scale),
        "loss": _loss(config) + (", calibrated" if config.loss.calibrate else ""),
        "degradation": _component(config.degradation.type, config.degradation.parameters),
        "data set": f"{config.data.path}, fingerprint {config.data.fingerprint or 'not recorded'}",
        "training": f"{config.training.steps} steps of {config.training.global_batch_size} crops of "
        f"{config.data.patch_size} px, Adam, learning rate {config.optimizer.learning_rate:g}, seed {config.seed}",
        "weights": "averaged over the last steps" if config.optimizer.ema_decay else "those of the last step",
        "trial": fingerprint(config),
        "file": f"{file.name}, {file.size_bytes:,} bytes",
        "sha256": file.sha256,
    }
    if model.step is not None:
        facts["training"] += f"; these weights are of step {model.step}"
    if file.onnx:
        facts["ONNX"] = (
            f"opset {file.onnx.opset}, input {_axes(file.onnx)}; on inputs of {_listed(file.onnx.compared_on)} at most "
            f"{file.onnx.max_difference:.2g} away from torch ({TOLERANCE:g} is allowed)"
        )
    return facts


def _measured(model: Pretrained) -> str:
    if model.ledger is None:
        return "This was exported from an exported model; its results are in the card of that one."
    if rows := model.ledger.evaluation() if model.step == model.ledger.status().step else []:
        sources = len({row["source"] for row in rows})
        return (
            f"Means over {len(rows)} clips of {sources} held-out sources of the data set above, under the degradation "
            f"above, against the true pictures:\n\n{_scores(mean_scores(rows))}"
        )
    validation = [row for row in model.ledger.rows("validation") if row["step"] == model.step]
    if not validation:
        return "These weights were not measured. Run: srloss evaluate TRIAL, and export again."
    scores = {key: value for key, value in validation[-1].items() if key.startswith("val/")}
    return (
        "Measured on the validation pictures only, which early stopping and tuning have seen; for held-out ones run "
        f"srloss evaluate TRIAL and export again:\n\n{_scores(scores)}"
    )


def _torch_use() -> str:
    return """`srloss upscale FOLDER IN OUT` takes this folder. In Python:

```python
from pathlib import Path
from sr.pretrained import load_generator

generator = load_generator(Path("FOLDER")).generator
sr = generator(lr).clamp(0, 1)
```

`lr` is a float32 tensor of RGB values in [0, 1], shape (B, 3, H, W) or (B, T, 3, H, W); `sr` is larger by the scale.
Loading verifies the hash in the file's header, over weights and configuration."""


def _onnx_use(onnx: OnnxModel) -> str:
    return f"""```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
sr = session.run(None, {{"lr": lr}})[0].clip(0, 1)
```

`lr` is a float32 array of RGB values in [0, 1], shape {_axes(onnx)}; words are axes of any length. `sr` is larger by the
scale. The file's metadata hold the configuration."""


def _limits(config: TrialConfig, file: ModelFile) -> list[str]:
    degradation = (
        "the low-resolution pictures of its data set"
        if config.degradation.type == GIVEN
        else f"pictures made small by {config.degradation.type}"
    )
    limits = [
        f"It was trained on {degradation}. On others (another reduction, noise, compression) expect less, often less than "
        "plain enlargement gives.",
        f"It enlarges by {config.scale} only. Its output is not clipped to [0, 1].",
        "It was trained on one data set; on pictures of another kind it was not measured.",
        "What it adds is a guess that fits its training data, not a record of what was there: never identify a person or "
        "prove a fact with it.",
        "The licence of the weights is not stated here; it depends on the pictures they were trained on.",
    ]
    fixed = [axis for axis in file.onnx.input_shape[-2:] if isinstance(axis, int)] if file.onnx else []
    if file.onnx and fixed:
        limits.insert(
            0, f"This file takes pictures of exactly {_axes(file.onnx)}; export again for another size."
        )
    return limits


def _loss(config: TrialConfig) -> str:
    terms = [
        (f"{term.weight:g}*" if term.weight != 1 or len(config.loss.terms) > 1 else "") + term.type
        for term in config.loss.terms
    ]
    return " + ".join(terms)


def _component(name: str, parameters: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in parameters.items())
    return f"{name} ({settings})" if settings else name


def _axes(onnx: OnnxModel) -> str:
    return f"({', '.join(str(axis) for axis in onnx.input_shape)})"


def _listed(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(" x ".join(str(side) for side in shape) for shape in shapes)


def _scores(scores: Mapping[str, float]) -> str:
    return _table({name: f"{value:.4f}" for name, value in scores.items()}, head="| metric | mean |")


def _table(rows: Mapping[str, str], *, head: str = "| | |") -> str:
    lines = [f"| {name} | {value.replace('|', '/')} |" for name, value in rows.items()]
    return "\n".join([head, "|---|---|", *lines])
