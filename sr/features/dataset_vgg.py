"""The file of a small VGG that was trained on a data set, and the network in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from sr.features.layered import LayeredNetwork, Layout, Normalise
from sr.features.layouts import on_meta, vgg
from sr.features.network import Weights
from sr.features.weights import hash_tensors, read_safetensors
from sr.files import write_atomically

_FORMAT = "srloss-dataset-vgg-1"
_CONVOLUTIONS = (2, 2, 2, 2)


@dataclass(frozen=True)
class Training:
    """How such a network came about; stored in its file."""

    task: str
    """`degradation` or `labels`."""
    classes: tuple[str, ...]
    width: int
    """Channels of the first block; each block has twice as many as the one before."""
    steps: int
    seed: int
    data_fingerprint: str
    held_out_accuracy: float
    """Share of held-out pictures that it classifies correctly, in [0, 1]."""
    chance: float
    """What guessing the commonest class would reach."""
    num_held_out: int
    """Pictures behind the accuracy."""
    accuracy_by_class: dict[str, float]
    """The same share, of the held-out pictures of each class; a class of which there was none is left out."""


def layout_of(width: int) -> Layout:
    """Four blocks of two convolutions, `width` to 8 x `width` channels."""
    return vgg(_CONVOLUTIONS, channels=tuple(width * 2**block for block in range(len(_CONVOLUTIONS))))


def save_dataset_vgg(out: Path, state: Mapping[str, Tensor], training: Training) -> str:
    """Writes the file, whole or not at all; returns the sha256 of its tensors.

    Args:
        out: Where to; its folder is made if missing.
        state: Parameters of the layers, by `index.name`.
        training: How they came about.
    """
    import safetensors.torch

    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    sha256 = hash_tensors(tensors)
    metadata = {"format": _FORMAT, "sha256": sha256, "training": json.dumps(asdict(training))}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, safetensors.torch.save(tensors, metadata))
    return sha256


def read_training(path: Path) -> tuple[dict[str, Tensor], Training, str]:
    """Returns the tensors, how they came about, and their sha256.

    Raises:
        ValueError: The file is damaged or of another kind.
    """
    tensors, metadata = read_safetensors(
        path, format_name=_FORMAT, what="a file made by: srloss features train"
    )
    try:
        values = json.loads(metadata["training"])
        training = Training(**{**values, "classes": tuple(values["classes"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: its description cannot be read ({error}); make it again with: srloss features train"
        ) from None
    return tensors, training, metadata["sha256"]


def load_dataset_vgg(path: Path) -> LayeredNetwork:
    """The frozen network in such a file.

    Raises:
        ValueError: The file is damaged or of another kind.
    """
    tensors, training, sha256 = read_training(path)
    name = f"dataset_vgg({training.task}, width {training.width}, data {training.data_fingerprint[:12]})"
    return LayeredNetwork(
        on_meta(lambda: layout_of(training.width)),
        tensors,
        normalise=Normalise("imagenet"),
        weights=Weights(name, sha256, str(path)),
    )
