"""The conformance suite: is a loss what it claims to be? Every check by name, in one table.

What only a known value can catch, so that a new loss should have one in `known_values.py`: a wrong constant (an epsilon, a
factor, the weight of one of two terms), a constant added, the luma of another range, luma or another colour space beside
RGB, output and target exchanged in a loss that is not symmetric, a norm over the wrong axis of a network's activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sr.checks import game_checks, gradient_checks, network_checks, number_checks, order_checks, sight_checks
from sr.checks.bench import Bench, NotCheckableError, Traits, quiet_randomness
from sr.checks.exemptions import SHIPPED
from sr.checks.named import NamedLoss, named
from sr.checks.results import Outcome, Result, run_table
from sr.losses.adversarial import AdversarialLoss

CHECKS: dict[str, Callable[[Bench], Outcome]] = {
    "scalar in float32": order_checks.is_a_scalar_in_float32,
    "minimum at identity": order_checks.minimum_at_identity,
    "rises with blur": order_checks.rises_with_blur,
    "rises with noise": order_checks.rises_with_noise,
    "rises with JPEG": order_checks.rises_with_jpeg,
    "rises with a shift": order_checks.rises_with_shift,
    "sees places": order_checks.sees_where_things_are,
    "mirror images": sight_checks.mirrored_pictures_are_alike,
    "fine patterns": sight_checks.sees_fine_patterns,
    "faint errors": sight_checks.sees_faint_errors,
    "dark and bright": sight_checks.sees_dark_and_bright,
    "gradient reaches the generator": gradient_checks.reaches_the_generator,
    "finite differences": gradient_checks.agrees_with_finite_differences,
    "a step lowers it": gradient_checks.a_step_lowers_it,
    "finite in hard cases": gradient_checks.finite_where_it_is_hard,
    "gradient beyond [0, 1]": gradient_checks.overshoot_is_pulled_back,
    "every pixel counts": gradient_checks.every_pixel_counts,
    "only the output learns": gradient_checks.only_the_output_learns,
    "precision": number_checks.single_precision_is_enough,
    "autocast": number_checks.stays_single_under_autocast,
    "batch is the mean": order_checks.batch_is_the_mean,
    "crops agree": order_checks.crops_agree_with_the_whole,
    "clips are pictures": order_checks.clips_are_pictures,
    "clip length": sight_checks.clip_length_is_no_weight,
    "known values": number_checks.has_its_known_values,
    "range": order_checks.range_matters,
    "channel order": order_checks.channels_in_order,
    "network input": network_checks.network_input,
    "taps": network_checks.taps_are_what_they_are_called,
    "NaN in the output": number_checks.nan_in_the_output,
    "NaN in the target": number_checks.nan_in_the_target,
    "memory layout": order_checks.layout_does_not_matter,
    "deterministic": order_checks.deterministic,
    "generator's step": game_checks.generator_step_convinces,
    "discriminator's step": game_checks.discriminator_step_tells_apart,
    "players' gradients": game_checks.players_agree_with_finite_differences,
    "players are opponents": game_checks.players_are_opponents,
    "discriminator's penalty": game_checks.penalty_restrains_the_discriminator,
}
"""All checks, in the order in which they are shown."""

_GAME = "a judgement of the discriminator: how like the target a picture is, is not asked"
_GAME_EXEMPT = dict.fromkeys(
    (
        "minimum at identity",
        "rises with blur",
        "rises with noise",
        "rises with JPEG",
        "rises with a shift",
        "sees places",
        "fine patterns",
        "faint errors",
        "dark and bright",
        "crops agree",
        "batch is the mean",
        "NaN in the target",
        "channel order",
        "range",
    ),
    _GAME,
)


def check(
    loss: str | nn.Module, pictures: Tensor, *, name: str = "", has_defaults: bool = True
) -> list[Result]:
    """Runs every check on one loss.

    Args:
        loss: A name from LOSSES, with settings in brackets if need be; or a module.
        pictures: Natural pictures, float32 in [0, 1], shape (N >= 2, 3, H, W), better 192 x 208 than smaller.
        name: What the module claims to be, for known values and exemptions; a name from LOSSES, or anything else.
        has_defaults: The module has the default settings of that name, so that its known values are those.

    Returns:
        One result for each of CHECKS, in their order.

    Raises:
        ValueError: The loss cannot be built (weights are missing), takes no picture of any size that is tried, or needs
            something the checks cannot supply.
    """
    if isinstance(loss, str):
        entry = named(loss)
        name, has_defaults, loss = entry.name, not entry.settings, entry.build()
    with quiet_randomness():
        bench = Bench(name, loss, traits_of(loss, name), pictures, has_defaults=has_defaults)
        return run_table(CHECKS, bench, bench.traits.exempt)


@dataclass(frozen=True, slots=True)
class Report:
    """What the suite says about one loss of the table."""

    loss: str
    results: list[Result]
    """One for each of CHECKS; empty where the loss could not be run."""
    not_run: str = ""
    """Why it could not be run."""
    note: str = ""
    """What must be known to read the results."""

    @property
    def failures(self) -> list[Result]:
        """The results that say fail."""
        return [result for result in self.results if result.verdict == "fail"]


def report(loss: str | NamedLoss, pictures: Tensor, *, stand_in_weights: bool = False) -> Report:
    """As `check`, for an entry of LOSSES; one that cannot be run here says why instead of raising.

    Args:
        loss: Key of LOSSES, with settings in brackets if need be.
        pictures: See `check`.
        stand_in_weights: Take random weights where the real ones are missing.
    """
    entry = named(loss) if isinstance(loss, str) else loss
    name = str(entry)
    try:
        module, note = entry.build_or_stand_in(stand_in_weights=stand_in_weights)
    except (ValueError, ImportError, OSError) as error:
        return Report(name, [], not_run=str(error))
    try:
        # A stand-in has other taps than the defaults; the values of feature losses are known for any.
        results = check(module, pictures, name=entry.name, has_defaults=not entry.settings)
        return Report(name, results, note=note)
    except NotCheckableError as error:
        return Report(name, [], not_run=str(error))
    except Exception as error:  # noqa: BLE001 - it is reported as a failure, and the other losses go on
        return Report(name, _all_fail(f"raised {type(error).__name__}: {error}"), note=note)


def _all_fail(reason: str) -> list[Result]:
    first, *others = CHECKS
    return [
        Result(first, "fail", reason, {}),
        *(Result(c, "not run", "it cannot be called", {}) for c in others),
    ]


def traits_of(loss: nn.Module, name: str) -> Traits:
    """What the loss says about itself by its attributes `is_local` and `exempt`, else what is known of its name."""
    exempt: Mapping[str, str] = getattr(loss, "exempt", None) or SHIPPED.get(name, {})
    if isinstance(loss, AdversarialLoss):
        exempt = {**_GAME_EXEMPT, **exempt}
    unknown = sorted(set(exempt) - set(CHECKS))
    if unknown:
        raise ValueError(
            f"{type(loss).__name__}.exempt: no check is called {', '.join(unknown)}; known: {', '.join(CHECKS)}"
        )
    return Traits(is_local=bool(getattr(loss, "is_local", True)), exempt=exempt)
