"""Discriminators as feature networks, trained or not: what the iterative ladder compares pictures through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sr import checkpoint
from sr.features.network import INPUT, FeatureNetwork, Features, Weights, check_pictures
from sr.features.weights import hash_tensors
from sr.ladder.records import RECORD, STAGES, folder_name, stage_folder
from sr.store import default_store, find_trial

Architecture = str | dict[str, Any]
"""A name in DISCRIMINATORS, or a mapping of `type` and parameters."""

_PROBE_SIDE = 64
"""Pixels of the picture that tells which features a discriminator has."""
_CHECKPOINT = re.compile(r"step-\d{8}\.pt")
_WANTED = (
    "give the folder of an adversarial trial that has been trained, or of a stage of one (TRIAL/stages/0), "
    "or one of their checkpoints/step-*.pt"
)


class DiscriminatorFeatures(FeatureNetwork):
    """A frozen discriminator. It runs whole, whatever the taps: its features come out of it together.

    Args:
        network: `network(pictures)` returns logits and features by name.
        weights: Where it came from.

    Raises:
        ValueError: It cannot look at single pictures.
    """

    def __init__(self, network: nn.Module, *, weights: Weights) -> None:
        super().__init__()
        self.network = network
        self.weights = weights
        self.freeze()
        try:
            with torch.no_grad():
                names = tuple(network(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))[1])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{weights.name}, {weights.source}: it cannot look at single pictures "
                f"({_first_line(error).partition(';')[0]}); take one that can, such as patch_d"
            ) from None
        self.tap_names = (INPUT, *names)
        self.default_taps = names

    def forward(self, pictures: Tensor, taps: tuple[str, ...]) -> Features:
        """See FeatureNetwork.forward."""
        check_pictures(pictures, self.weights.name)
        self.resolve(taps)
        features = self.network(pictures)[1] if set(taps) != {INPUT} else {}
        return {tap: pictures if tap == INPUT else features[tap] for tap in taps}


def find_checkpoint(*, path: str | None, trial: str | None, stage: int | None) -> Path:
    """The file of the checkpoint that is meant.

    Args:
        path: A trial's folder, or that of a ladder's stage, or one of their checkpoints.
        trial: Id of a trial of the run store, or the beginning of one, in place of `path`.
        stage: A stage that has ended, where the trial is a ladder; without it the newest that has.

    Raises:
        ValueError: There is none, or what is given does not go together.
    """
    if trial is not None:
        if path is not None:
            raise ValueError(
                f"discriminator: path {path!r} and trial {trial!r} both name a trial; remove one of them"
            )
        folder = find_trial(default_store(), trial)
    elif path is None:
        raise ValueError(f"discriminator: path is missing; {_WANTED}; or trial, an id in the run store")
    else:
        folder = Path(path).expanduser()
        if not folder.exists():
            raise ValueError(f"discriminator: there is no {folder}; {_WANTED}")
    if stage is not None:
        folder = _ended_stage(folder, stage)
    elif (folder / STAGES).is_dir():
        # What a ladder's own link points to may be its first stage, in the middle of its training.
        ended = _ended(folder)
        if not ended:
            raise ValueError(f"discriminator {folder}: none of its stages has ended; {_WANTED}")
        folder = stage_folder(folder, ended[-1])
    return _checkpoint_of(folder)


def _ended(trial: Path) -> list[int]:
    """The stages of a ladder that have ended."""
    return [number for number in _stages(trial) if (stage_folder(trial, number) / RECORD).exists()]


def _stages(trial: Path) -> list[int]:
    return sorted(int(found.name) for found in trial.glob(f"{STAGES}/*") if found.name.isdecimal())


def _ended_stage(trial: Path, stage: int) -> Path:
    stages = _stages(trial)
    if not stages:
        raise ValueError(
            f"discriminator: stage {stage} has no effect, for {trial} is not the folder of a ladder; remove it"
        )
    ended = _ended(trial)
    if stage not in ended:
        what = "has not ended" if stage in stages else "does not exist"
        listed = ", ".join(map(str, ended)) or "none yet"
        raise ValueError(
            f"discriminator: stage {stage} of {trial} {what}; give one that has ended ({listed})"
        )
    return stage_folder(trial, stage)


def _checkpoint_of(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the newest in a trial's folder; links (best.pt, a ladder's) followed."""
    if path.is_file():
        file = path.resolve()
        if not _CHECKPOINT.fullmatch(file.name):
            raise ValueError(f"discriminator {path}: not a checkpoint of a trial; {_WANTED}")
        return file
    newest = checkpoint.newest_path(path / "checkpoints")
    if newest is None:
        raise ValueError(f"discriminator {path}: no checkpoint there; {_WANTED}")
    return newest.resolve()


def load_discriminator(path: Path) -> DiscriminatorFeatures:
    """The averaged discriminator in a checkpoint of a trial, in evaluation mode.

    With `norm: batch` its features here are not those that it had while it learnt, which depended on the batch.

    Args:
        path: `TRIAL/checkpoints/step-NNNNNNNN.pt`.

    Raises:
        ValueError: The checkpoint is damaged, of a trial without a discriminator, of one that has not learnt, or its
            trial is not beside it.
    """
    from sr.configfile import ConfigError
    from sr.ledger import open_trial
    from sr.models import DISCRIMINATORS

    where = f"discriminator {path}"
    state = checkpoint.load(path)
    folder = path.resolve().parent.parent
    try:
        config = open_trial(folder)[1]
    except ConfigError as error:
        raise ValueError(
            f"{where}: this srloss cannot read the config.yaml of its trial ({_first_line(error)}); "
            "use the srloss that trained it, or another trial"
        ) from None
    tensors = state.get("discriminator_ema")
    if config.adversarial is None or not isinstance(tensors, dict):
        raise ValueError(
            f"{where}: the trial was trained without one; give a trial whose loss has a gan_* term"
        )
    if state.get("adversary", {}).get("updates") == 0:
        raise ValueError(
            f"{where}: it has not learnt anything by step {state['step']}; give a checkpoint of the adversarial phase"
        )
    component = config.adversarial.discriminator
    network = DISCRIMINATORS[component.type](**component.parameters)
    misfit = _misfit(network.state_dict(), tensors)
    if misfit:
        raise ValueError(
            f"{where}: its weights do not fit '{component.type}' as config.yaml and this srloss build it ({misfit}); "
            "give another checkpoint, or train the trial again"
        )
    network.load_state_dict(tensors)
    name = f"discriminator({folder_name(folder)} at step {state['step']})"
    return DiscriminatorFeatures(network, weights=Weights(name, hash_tensors(tensors), str(path)))


def random_discriminator(architecture: Architecture, *, seed: int) -> DiscriminatorFeatures:
    """An untrained discriminator, for those who ask for that by name: the control of every trained one.

    Args:
        architecture: Which one.
        seed: Of the weights.

    Raises:
        ValueError: There is no such architecture, or it cannot look at single pictures.
    """
    from sr.components import complete
    from sr.models import DISCRIMINATORS

    settings = complete(
        architecture, DISCRIMINATORS, where="random_discriminator.architecture", what="discriminator"
    )
    kind = settings.pop("type")
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reach the accelerators too.
        torch.default_generator.manual_seed(seed)
        network = DISCRIMINATORS[kind](**settings)
    given = {} if isinstance(architecture, str) else architecture
    told = ", ".join(f"{key}={value}" for key, value in sorted(given.items()) if key != "type")
    name = f"random_discriminator({kind}{f'({told})' if told else ''}, seed={seed})"
    weights = Weights(name, hash_tensors(network.state_dict()), f"drawn with seed {seed}")
    return DiscriminatorFeatures(network, weights=weights)


def _misfit(expected: Mapping[str, Tensor], given: Mapping[str, Any]) -> str:
    """The first reason why tensors are not a network's, or are of no use; empty where there is none."""
    for name in sorted(expected.keys() | given.keys()):
        value = given.get(name)
        if name not in expected:
            return f"'{name}' is not part of it"
        if not isinstance(value, Tensor):
            return f"'{name}' is missing"
        if value.shape != expected[name].shape:
            return f"'{name}' has shape {tuple(value.shape)}, not {tuple(expected[name].shape)}"
        if not value.isfinite().all():
            return f"'{name}' is not finite"
    return ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
