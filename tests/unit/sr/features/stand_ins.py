"""Files that look like the published ones, with random weights, built by torchvision itself."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from sr.features.weights import FILES, FOLDER_VARIABLE


def torchvision_features(name: str) -> nn.Sequential:
    """The reference: torchvision's layers, random, in evaluation mode."""
    torch.manual_seed(1)
    if name == "vgg19":
        layers = make_layers(cfgs["E"])
    elif name == "vgg16":
        layers = make_layers(cfgs["D"])
    elif name == "squeezenet1_1":
        layers = torchvision.models.squeezenet1_1(weights=None).features
    else:
        layers = torchvision.models.alexnet(weights=None).features
    for module in layers.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.05)
    return layers.eval().requires_grad_(False)


def install(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """Puts such a file into a folder where it is found, and declares its hash the published one."""
    layers = torchvision_features(name)
    state = {f"features.{key}": value for key, value in layers.state_dict().items()}
    path = folder / FILES[name].file
    torch.save({**state, "classifier.6.bias": torch.zeros(3)}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(FILES, name, dataclasses.replace(FILES[name], sha256=sha256[:8]))
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return layers
