"""The discriminator of a trial as a feature network: what the iterative ladder compares pictures through."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sr.features.network import INPUT, FeatureNetwork, Features, Weights, check_pictures
from sr.features.weights import hash_tensors

_PROBE_SIDE = 64
"""Pixels of the picture that tells which features a discriminator has."""


class DiscriminatorFeatures(FeatureNetwork):
    """A frozen discriminator. It runs whole, whatever the taps: its features come out of it together.

    Args:
        network: `network(pictures)` returns logits and features by name.
        weights: Where it came from.
    """

    def __init__(self, network: nn.Module, *, weights: Weights) -> None:
        super().__init__()
        self.network = network
        self.weights = weights
        self.freeze()
        with torch.no_grad():
            names = tuple(network(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))[1])
        self.tap_names = (INPUT, *names)
        self.default_taps = names

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        """See FeatureNetwork.forward."""
        check_pictures(pictures, self.weights.name)
        self.resolve(taps)
        features = self.network(pictures)[1] if set(taps) != {INPUT} else {}
        return {tap: pictures if tap == INPUT else features[tap] for tap in taps}


def checkpoint_of(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the newest of a trial's folder.

    Raises:
        ValueError: There is none.
    """
    from sr import checkpoint

    if path.is_file():
        return path
    newest = checkpoint.newest_path(path / "checkpoints")
    if newest is None:
        raise ValueError(
            f"discriminator {path}: no checkpoint there; give the folder of an adversarial trial that has been trained, "
            "or one of its checkpoints/step-*.pt"
        )
    return newest


def load_discriminator(path: Path) -> DiscriminatorFeatures:
    """The averaged discriminator in a checkpoint of a trial.

    Args:
        path: `TRIAL/checkpoints/step-NNNNNNNN.pt`.

    Raises:
        ValueError: The checkpoint is damaged, of a trial without a discriminator, or its trial is not beside it.
    """
    from sr import checkpoint
    from sr.ledger import open_trial
    from sr.models import DISCRIMINATORS

    state = checkpoint.load(path)
    ledger, config = open_trial(path.resolve().parent.parent)
    adversarial = getattr(config, "adversarial", None)
    tensors = state.get("discriminator_ema")
    if adversarial is None or not isinstance(tensors, dict):
        raise ValueError(
            f"discriminator {path}: the trial was trained without one, or not yet in its adversarial phase; give a later "
            "checkpoint, or another trial"
        )
    component = adversarial.discriminator
    if component.type not in DISCRIMINATORS:
        raise ValueError(
            f"discriminator {path}: this srloss has no '{component.type}'; known: {', '.join(DISCRIMINATORS)}"
        )
    network = DISCRIMINATORS[component.type](**component.parameters)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"discriminator {path}: its weights do not fit '{component.type}' as this srloss builds it ({error}); "
            "train the trial again"
        ) from None
    name = f"discriminator({ledger.folder.name} at step {state['step']})"
    weights = Weights(name, hash_tensors(tensors), str(path))
    try:
        return DiscriminatorFeatures(network, weights=weights)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"discriminator {path}: '{component.type}' cannot look at single pictures ({error}); give one that can, "
            f"such as patch_d"
        ) from None
