"""The sections of a configuration that people write in short forms (a name, a sum), written out in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sr.components import complete
from sr.config import AdversarialConfig
from sr.configfile import ConfigError, unknown, validate
from sr.expression import parse_loss
from sr.ladder.config import LadderConfig
from sr.losses import LOSSES
from sr.losses.adversarial import AdversarialLoss, FeatureMatching
from sr.metrics import METRICS
from sr.models import GENERATORS
from sr.models.discriminators import DISCRIMINATORS

_OF_EVERY_TERM = ("weight", "calibration")
"""What any term of a loss may have besides its own parameters."""


def model(value: object) -> dict[str, Any]:
    """Returns a generator with all its settings.

    Raises:
        ConfigError: A name or setting does not exist or does not fit.
    """
    return complete(value, GENERATORS, where="model", what="model", given_elsewhere=frozenset({"scale"}))


def unknown_metrics(evaluation: object) -> list[str]:
    """One fault for each name in a section `evaluation` that is no metric."""
    section = evaluation if isinstance(evaluation, dict) else {}
    lists = {key: section.get(key) for key in ("metrics", "validation")}
    return [
        f"evaluation.{key}: {unknown('metric', str(name), METRICS)}"
        for key, names in lists.items()
        if isinstance(names, list)
        for name in names
        if name not in METRICS
    ]


def loss(value: object) -> dict[str, Any]:
    """Returns a loss in any of its forms (a sum, one term, a list of terms, a section) as a complete section.

    Raises:
        ConfigError: A term or a parameter does not exist, or the forms are mixed.
    """
    if value is None:
        raise ConfigError(["loss: missing; give a loss, e.g. loss: l1 (srloss losses lists them)"])
    section: dict[str, Any] = dict(value) if isinstance(value, dict) else {"terms": value}
    if "type" in section:
        if "terms" in section:
            raise ConfigError(
                ["loss: has both 'type' and 'terms'; 'type' is the short form for one term, keep one of them"]
            )
        own = {key: section.pop(key) for key in ("name", "calibrate") if key in section}
        section = {"terms": [section], **own}
    terms = section.get("terms")
    if isinstance(terms, str):
        terms = parse_loss(terms)
    if not isinstance(terms, Sequence) or not terms:
        raise ConfigError(
            [f"loss.terms: expected a sum such as '0.8*l1 + 0.2*ssim' or a list of terms, got {terms!r}"]
        )
    return section | {"terms": [_term(term, LOSSES, f"loss.terms.{i}") for i, term in enumerate(terms)]}


def adversarial(value: object, loss_section: Mapping[str, Any]) -> dict[str, Any] | None:
    """The opponent of a trial whose loss has adversarial terms, complete; None for every other loss.

    A sweep's trials share one such section, also those whose losses have no use for it: there it cannot change anything.

    Raises:
        ConfigError: The terms do not make one game, or the discriminator does not exist.
    """
    games, matching = _of_kind(AdversarialLoss, loss_section), _of_kind(FeatureMatching, loss_section)
    if len(games) > 1:
        raise ConfigError([f"loss.terms: {' and '.join(games)} are two games; a discriminator plays one"])
    if matching and not games:
        raise ConfigError(
            [
                "loss.terms: feature_matching needs a discriminator that learns; add a gan_* term, e.g. 0*gan_vanilla"
            ]
        )
    if value is not None and not isinstance(value, dict):
        raise ConfigError([f"adversarial: expected a section with 'discriminator', got {value!r}"])
    section = dict(value or {})
    section["discriminator"] = complete(
        section.get("discriminator", "unet_sn_d"),
        DISCRIMINATORS,
        where="adversarial.discriminator",
        what="discriminator",
    )
    if section.get("pixel_loss") is not None:
        section["pixel_loss"] = loss(section["pixel_loss"])
    if games:
        if (
            section.get("start_step")
            and not section.get("pixel_loss")
            and len(games + matching) == len(loss_section["terms"])
        ):
            raise ConfigError(
                [
                    "adversarial.pixel_loss: missing; the loss has adversarial terms only, so the pixel phase has nothing to minimise"
                ]
            )
        return section
    # Also where it has no use, a mistake in it is told.
    validate(AdversarialConfig, section, where="adversarial")
    return None


def ladder(value: object, loss_section: Mapping[str, Any]) -> dict[str, Any] | None:
    """The ladder of a trial whose loss has adversarial terms; None for every other loss, and where no ladder is asked for.

    Like the opponent it is shared by a sweep's trials, also by those whose losses have no discriminator that could climb.

    Raises:
        ConfigError: It is no section, or of no use and wrong.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ConfigError([f"ladder: expected a section such as {{stages: 5}}, or null, got {value!r}"])
    if _of_kind(AdversarialLoss, loss_section):
        return value
    # Also where it has no use, a mistake in it is told.
    validate(LadderConfig, value, where="ladder")
    return None


def _of_kind(kind: type, loss_section: Mapping[str, Any]) -> list[str]:
    """Those terms of a complete loss."""
    entries = [(term["type"], LOSSES[term["type"]]) for term in loss_section["terms"]]
    return [name for name, entry in entries if isinstance(entry, type) and issubclass(entry, kind)]


def _term(term: object, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    own: dict[str, Any] = {}
    if isinstance(term, dict):
        term = dict(term)
        own = {key: term.pop(key) for key in _OF_EVERY_TERM if key in term}
    return complete(term, table, where=where, what="loss", also_known=_OF_EVERY_TERM) | own
