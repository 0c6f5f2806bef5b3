"""Remedies as changes of a trial's configuration, and the settings of a ladder that cannot work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sr.components import parameters_of
from sr.config import AdversarialConfig, LossConfig, Term, TrialConfig
from sr.configfile import unknown
from sr.ladder.config import LadderConfig, Remedies
from sr.ladder.detectors import R1_GAMMA, Finding
from sr.ladder.stages import perceptual_terms
from sr.models.discriminators import DISCRIMINATORS
from sr.section import Component

CONSISTENCY = "lr_consistency"
"""The term that the remedy `consistency` raises."""


def applied(config: TrialConfig, findings: Sequence[Finding], remedies: Remedies) -> TrialConfig:
    """The configuration with the remedies of what was found; the same finding twice counts once.

    `spectral_norm` changes the discriminator's architecture, so it is for a stage that has not begun; `restart` is no
    change of the configuration.
    """
    for finding in dict.fromkeys(findings):
        config = _with_remedy(config, finding.remedy, remedies.consistency_weight)
    return config


def _with_remedy(config: TrialConfig, remedy: str, consistency_weight: float) -> TrialConfig:
    opponent = config.adversarial
    if remedy == "consistency":
        return config.model_copy(update={"loss": _consistent(config.loss, consistency_weight)})
    if opponent is None:
        return config
    changes: dict[str, dict[str, Any]] = {
        "r1": {"r1_gamma": max(R1_GAMMA, opponent.r1_gamma)},
        "update_ratio": {"update_every": 2 * opponent.update_every},
        "spectral_norm": {"discriminator": _spectral(opponent.discriminator)},
    }
    changed = opponent.model_copy(update=changes.get(remedy, {}))
    return config.model_copy(update={"adversarial": changed})


def _consistent(loss: LossConfig, weight: float) -> LossConfig:
    """The loss with its first consistency term at this weight, or above where it was; with one more if it has none."""
    terms = list(loss.terms)
    for i, term in enumerate(terms):
        if term.type == CONSISTENCY:
            terms[i] = term.model_copy(update={"weight": max(weight, term.weight)})
            break
    else:
        terms.append(Term(type=CONSISTENCY, weight=weight))
    return loss.model_copy(update={"terms": tuple(terms)})


def _spectral(discriminator: Component) -> Component:
    """The discriminator with spectral norm; as it is where its architecture has no choice."""
    if "norm" not in _parameters(discriminator):
        return discriminator
    return Component(**{**discriminator.model_dump(), "norm": "spectral"})


def problems(config: TrialConfig, ladder: LadderConfig) -> list[str]:
    """One line for each setting with which a ladder cannot work, before anything is trained."""
    opponent = config.adversarial
    if opponent is None:
        return [
            "ladder: the loss has no adversarial term, so there is no discriminator to become the next stage's perceptual "
            "loss; add one, e.g. loss: ... + 0.01*gan_ragan"
        ]
    return [
        *_of_stages(config, opponent, ladder),
        *_of_remedies(config, opponent, ladder),
        *_of_discriminator(config, opponent, ladder),
    ]


def _of_stages(config: TrialConfig, opponent: AdversarialConfig, ladder: LadderConfig) -> list[str]:
    found: list[str] = []
    steps = ladder.most_steps(config.training.steps)
    if opponent.start_step >= steps:
        found.append(
            f"adversarial.start_step: {opponent.start_step}, but a stage has {steps} steps, so its discriminator would never "
            "learn; lower it, or raise ladder.stage_steps"
        )
    weights = [term.weight for term in perceptual_terms(config.loss.terms)]
    if weights and sum(weights) <= 0:
        found.append(
            f"loss.terms: the weights of the perceptual terms add up to {sum(weights):g}, and the ladder's later terms are to "
            "be worth as much; give them weight, or remove them"
        )
    return found


def _of_remedies(config: TrialConfig, opponent: AdversarialConfig, ladder: LadderConfig) -> list[str]:
    found: list[str] = []
    discriminator, engine, remedy = opponent.discriminator, config.engine, ladder.remedies.too_strong
    if remedy == "r1" and engine.type == "deepspeed" and engine.zero_stage == 3:
        found.append(
            "ladder.remedies.too_strong: 'r1' is a penalty on gradients, which engine.zero_stage 3 cannot train on; use "
            "zero_stage 2, or the remedy update_ratio"
        )
    if remedy == "spectral_norm" and "norm" not in _parameters(discriminator):
        found.append(
            f"ladder.remedies.too_strong: 'spectral_norm' has no effect, for {discriminator.type} has no parameter 'norm'; "
            "use r1 or update_ratio"
        )
    if remedy == "spectral_norm" and ladder.begin == "warm":
        found.append(
            "ladder.remedies.too_strong: 'spectral_norm' changes the architecture, and ladder.begin: 'warm' goes on with the "
            "old weights; use r1 or update_ratio, or begin: scratch"
        )
    elif remedy == "spectral_norm" and discriminator.parameters.get("norm") == "spectral":
        found.append(
            f"ladder.remedies.too_strong: 'spectral_norm' has no effect, for {discriminator.type} has it from the start; "
            "use r1 or update_ratio"
        )
    return found


def _of_discriminator(config: TrialConfig, opponent: AdversarialConfig, ladder: LadderConfig) -> list[str]:
    """What building it and showing it a picture of each size tells."""
    component = opponent.discriminator
    with torch.random.fork_rng(devices=[]):
        network = DISCRIMINATORS[component.type](**component.parameters).eval()
    found: list[str] = []
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        found.append(
            f"adversarial.discriminator: {component.type} has batch norm, which judges otherwise once it is frozen; choose "
            "norm spectral, group or none"
        )
    features: dict[str, torch.Tensor] = {}
    for where, size in (("ladder.probe", ladder.probe.patch_size), ("data", config.data.patch_size)):
        try:
            with torch.no_grad():
                features = network(torch.zeros(1, 3, size, size))[1]
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            return [
                *found,
                f"adversarial.discriminator: {component.type} cannot judge single pictures of {where}.patch_size {size} "
                f"({error}); choose one that can, such as patch_d, or other sizes",
            ]
    return found + _of_taps(component.type, tuple(features), ladder)


def _of_taps(discriminator: str, known: tuple[str, ...], ladder: LadderConfig) -> list[str]:
    if ladder.taps is not None:
        return [
            f"ladder.taps: {unknown(f'tap of {discriminator}', tap, known)}"
            for tap in ladder.taps
            if tap not in known
        ]
    if known or ladder.next_loss == "same":
        return []
    return [
        f"adversarial.discriminator: {discriminator} returns no features, so there is nothing to look through; return "
        "activations by name beside the logits, or choose another, such as patch_d"
    ]


def _parameters(component: Component) -> frozenset[str]:
    """What may be set of a discriminator's architecture."""
    return frozenset(parameters_of(DISCRIMINATORS[component.type], given_elsewhere=frozenset()))
