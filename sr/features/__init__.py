"""Feature networks by name: frozen, hashed, and never random unless the name says so.

To add one: a way to build it and one line in NETWORKS.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sr.configfile import unknown
from sr.features.layered import LayeredNetwork, Normalisation, Normalise, Pooling
from sr.features.layouts import LAYOUTS, on_meta, random_state
from sr.features.network import FeatureNetwork, Weights
from sr.features.weights import find, hash_tensors, read


@dataclass(frozen=True, slots=True)
class Settings:
    """How a network is to be made; what it has no use for must stay at its default."""

    path: str | None = None
    allow_download: bool = False
    seed: int = 0
    normalisation: Normalisation | None = None
    """None: the network's own."""
    input_range: float = 1.0
    pooling: Pooling = "max"
    trial: str | None = None
    stage: int | None = None
    architecture: str | dict[str, Any] | None = None
    """None: patch_d."""


@dataclass(frozen=True, slots=True)
class Network:
    """An entry of NETWORKS."""

    locate: Callable[[Settings], Path | None]
    """The file that the weights come from; None where there is none. Raises ValueError where one is missing."""
    build: Callable[[Settings, Path | None], FeatureNetwork]
    uses: frozenset[str]
    """Settings that have an effect."""
    note: str
    """For people: what it is."""


def load_network(
    name: str,
    *,
    path: str | None = None,
    allow_download: bool = False,
    seed: int = 0,
    normalisation: Normalisation | None = None,
    input_range: float = 1.0,
    pooling: Pooling = "max",
    trial: str | None = None,
    stage: int | None = None,
    architecture: str | dict[str, Any] | None = None,
) -> FeatureNetwork:
    """Returns a frozen network; the same object for the same arguments, so that losses share its features.

    Args:
        name: Key of NETWORKS.
        path: File of weights; of `discriminator` a trial's folder or checkpoint, of `dataset_vgg` what
            `srloss features train` made. Published weights are looked for if it is not given.
        allow_download: Whether missing published weights may be fetched.
        seed: Of `random_vgg` and `random_discriminator`.
        normalisation: Of the input; the network's own unless given.
        input_range: What a white pixel is before normalisation; with `normalisation="none"` only.
        pooling: `max`, or `l2` as in DISTS.
        trial: Of `discriminator`, in place of `path`: id of a trial in the run store, or an unambiguous beginning of it.
        stage: Of `discriminator`, where the trial is a ladder: a stage that has ended; the newest unless given.
        architecture: Of `random_discriminator`: a discriminator's name, or a mapping of `type` and parameters.

    Raises:
        ValueError: No such network, its weights are missing, damaged or foreign, or a setting has no effect on it.
    """
    if name not in NETWORKS:
        raise ValueError(f"feature network: {unknown('network', name, NETWORKS)}")
    entry = NETWORKS[name]
    settings = Settings(
        path, allow_download, seed, normalisation, input_range, pooling, trial, stage, architecture
    )
    _check_uses(name, entry, settings)
    file = entry.locate(settings)
    stamp = (str(file.resolve()), file.stat().st_mtime_ns, file.stat().st_size) if file else None
    # Path, trial and stage are in the file that they lead to.
    key = (name, seed, normalisation, input_range, pooling, json.dumps(architecture, sort_keys=True), stamp)
    network = _LOADED.get(key)
    # Somebody may have turned the shared object into float64: then others must not get that one.
    if network is None or any(p.dtype != torch.float32 for p in network.parameters()):
        network = _keep(key, entry.build(settings, file))
    return network


def random_network(
    layout: str,
    *,
    seed: int = 0,
    normalisation: Normalisation = "imagenet",
    pooling: Pooling = "max",
    input_range: float = 1.0,
    name: str | None = None,
) -> FeatureNetwork:
    """A network of a known layout with random weights, for those who ask for that by name.

    Args:
        layout: Key of LAYOUTS.
        seed: Of the weights.
        normalisation: Of the input.
        pooling: See `load_network`.
        input_range: See `load_network`.
        name: For people; `random_LAYOUT` unless given.

    Source: the idea that random features are of use: Liu et al., CVPR 2021; Amir and Weiss, CVPR 2021.
    """
    key = ("random", layout, seed, normalisation, input_range, pooling, name)
    network = _LOADED.get(key)
    if network is None or any(p.dtype != torch.float32 for p in network.parameters()):
        plan = on_meta(partial(LAYOUTS[layout], pooling))
        state = random_state(plan, seed=seed)
        weights = Weights(
            f"{name or f'random_{layout}'}(seed={seed})", hash_tensors(state), f"drawn with seed {seed}"
        )
        normalise = Normalise(normalisation, input_range=input_range)
        network = _keep(key, LayeredNetwork(plan, state, normalise=normalise, weights=weights))
    return network


def _keep(key: tuple[object, ...], network: FeatureNetwork) -> FeatureNetwork:
    """Remembers a network; forgets the oldest, since a process that runs many trials would hold all of theirs."""
    _LOADED.pop(key, None)
    while len(_LOADED) >= _MAX_LOADED:
        del _LOADED[next(iter(_LOADED))]
    _LOADED[key] = network
    return network


def _published(layout: str, settings: Settings, file: Path | None) -> FeatureNetwork:
    assert file is not None, "located before"
    tensors, sha256 = read(layout, file)
    prefix = "features."
    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    normalise = Normalise(settings.normalisation or "imagenet", input_range=settings.input_range)
    plan = on_meta(partial(LAYOUTS[layout], settings.pooling))
    return LayeredNetwork(plan, state, normalise=normalise, weights=Weights(layout, sha256, str(file)))


def _locate_published(name: str, settings: Settings) -> Path:
    return find(name, path=settings.path, allow_download=settings.allow_download)


def _effnet_lite0(_settings: Settings, file: Path | None) -> FeatureNetwork:
    from sr.features.effnet_lite0 import EffnetLite0

    assert file is not None, "located before"
    tensors, sha256 = read("effnet_lite0", file)
    return EffnetLite0(tensors, weights=Weights("effnet_lite0", sha256, str(file)))


def _random_vgg(settings: Settings, _file: Path | None) -> FeatureNetwork:
    return random_network(
        "vgg19",
        seed=settings.seed,
        normalisation=settings.normalisation or "imagenet",
        pooling=settings.pooling,
        input_range=settings.input_range,
        name="random_vgg",
    )


def _locate_given(name: str, what: str, settings: Settings) -> Path:
    if settings.path is None:
        raise ValueError(f"{name}: path is missing; give {what}")
    path = Path(settings.path).expanduser()
    if not path.exists():
        raise ValueError(f"{name}: there is no {path}; give {what}")
    return path


def _dataset_vgg(_settings: Settings, file: Path | None) -> FeatureNetwork:
    from sr.features.dataset_vgg import load_dataset_vgg

    assert file is not None, "located before"
    return load_dataset_vgg(file)


def _locate_discriminator(settings: Settings) -> Path:
    from sr.features.discriminator import find_checkpoint

    return find_checkpoint(path=settings.path, trial=settings.trial, stage=settings.stage)


def _discriminator(_settings: Settings, file: Path | None) -> FeatureNetwork:
    from sr.features.discriminator import load_discriminator

    assert file is not None, "located before"
    return load_discriminator(file)


def _random_discriminator(settings: Settings, _file: Path | None) -> FeatureNetwork:
    from sr.features.discriminator import random_discriminator

    architecture = "patch_d" if settings.architecture is None else settings.architecture
    return random_discriminator(architecture, seed=settings.seed)


def _check_uses(name: str, entry: Network, settings: Settings) -> None:
    default = Settings()
    for field in _CHOSEN:
        value = getattr(settings, field)
        if value != getattr(default, field) and field not in entry.uses:
            raise ValueError(f"{field}: {value!r} has no effect on the feature network {name}; remove it")


def _torchvision(name: str, note: str, *uses: str) -> Network:
    return Network(
        partial(_locate_published, name),
        partial(_published, name),
        frozenset({"path", "normalisation", "input_range", *uses}),
        note,
    )


_CHOSEN = ("path", "seed", "normalisation", "input_range", "pooling", "trial", "stage", "architecture")
"""Settings that must have an effect; `allow_download` is a permission."""
_MAX_LOADED = 16
_LOADED: dict[tuple[object, ...], FeatureNetwork] = {}

NETWORKS: dict[str, Network] = {
    "vgg19": _torchvision("vgg19", "ImageNet weights of torchvision, 548 MB", "pooling"),
    "vgg16": _torchvision("vgg16", "ImageNet weights of torchvision, 528 MB", "pooling"),
    "alexnet": _torchvision("alexnet", "ImageNet weights of torchvision, 233 MB"),
    "squeezenet1_1": _torchvision("squeezenet1_1", "ImageNet weights of torchvision, 5 MB"),
    "effnet_lite0": Network(
        partial(_locate_published, "effnet_lite0"),
        _effnet_lite0,
        frozenset({"path"}),
        "ImageNet weights from a Python package, 19 MB, no download",
    ),
    "random_vgg": Network(
        lambda _settings: None,
        _random_vgg,
        frozenset({"seed", "normalisation", "input_range", "pooling"}),
        "VGG19 with random weights, for rehearsals",
    ),
    "dataset_vgg": Network(
        partial(_locate_given, "dataset_vgg", "the file that `srloss features train` made"),
        _dataset_vgg,
        frozenset({"path"}),
        "a small VGG trained on the data set at hand (srloss features train)",
    ),
    "discriminator": Network(
        _locate_discriminator,
        _discriminator,
        frozenset({"path", "trial", "stage"}),
        "the discriminator of an adversarial trial, or of a ladder's stage",
    ),
    "random_discriminator": Network(
        lambda _settings: None,
        _random_discriminator,
        frozenset({"architecture", "seed"}),
        "an untrained discriminator, the control of trained ones",
    ),
}
