"""Planted failures of a stage, just on both sides of each threshold, and what the remedies change."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sr.config import TrialConfig, fingerprint, parse_trial, to_plain
from sr.ladder.config import LadderConfig, Probe, Remedies
from sr.ladder.detectors import Failure, Finding, find, needs_fresh, scale_drift
from sr.ladder.remedies import applied, problems
from sr.models.discriminators import DISCRIMINATORS

PATIENCE = 3
REMEDIES = Remedies(patience=PATIENCE)
NAN = math.nan
Rows = list[dict[str, Any]]


def validations(**columns: Sequence[float | None]) -> Rows:
    """Rows every 100 steps; None: not in the row. `lr_psnr=[...]` is `val/lr_psnr`."""
    count = max(map(len, columns.values()))
    rows: Rows = [{"kind": "validation", "step": 100 * (i + 1)} for i in range(count)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[f"val/{name}"] = value
    return rows


def trains(shares: Sequence[float | None], *, every: int = 50, name: str = "gan_ragan") -> Rows:
    """Rows with the adversarial term's share of the gradient; None: the pixel phase."""

    def terms(share: float | None) -> dict[str, Any]:
        rest = {"l1": {"raw": 0.1, "weighted": 0.1, "gradient_share": 1 - (share or 0)}}
        own = {name: {"raw": 0.7, "weighted": 0.01, "gradient_share": share}}
        return rest if share is None else rest | own

    return [{"step": every * (i + 1), "terms": terms(share)} for i, share in enumerate(shares)]


def failures(rows: Rows, train_rows: Rows | None = None, *, patience: int = PATIENCE) -> list[Failure]:
    found = find(rows, train_rows or [], Remedies(patience=patience), quality="psnr_y")
    return [finding.failure for finding in found]


WEAK = trains([0.009] * 20)


@pytest.mark.parametrize(
    ("aucs", "shares", "is_found"),
    [
        ([0.996] * 3, [0.009] * 6, True),
        ([0.995] * 3, [0.009] * 6, False),
        ([0.996] * 3, [0.01] * 6, False),
        ([0.996] * 2, [0.009] * 6, False),
        ([0.996, 0.99, 0.996, 0.996], [0.009] * 8, False),
        ([0.996, NAN, 0.996], [0.009] * 6, False),
        # The pixel phase does not count, neither its validations nor its steps.
        ([None, 0.996, 0.996], [None, None, 0.009, 0.009, 0.009, 0.009], False),
        ([None, 0.996, 0.996, 0.996], [None, None, *[0.009] * 6], True),
        # What was before the first of these validations does not, nor what is not finite.
        ([0.8, 0.996, 0.996, 0.996], [0.5, 0.5, 0.5, *[0.009] * 5], True),
        ([0.996] * 3, [0.009, NAN, 0.009, NAN, 0.009, 0.009], True),
        ([0.996] * 3, [NAN] * 6, False),
        ([0.996] * 3, [], False),
    ],
)
def test_a_discriminator_that_is_too_strong(
    aucs: list[float | None], shares: list[float | None], is_found: bool
) -> None:
    assert failures(validations(auc_discriminator=aucs), trains(shares)) == [Failure.TOO_STRONG] * is_found


def test_the_share_is_a_mean_over_adversarial_terms_only() -> None:
    rows = validations(auc_discriminator=[0.999] * 3)
    assert failures(rows, trains([0.9, 0.0, 0.0, 0.0, 0.0, 0.04])) == [Failure.TOO_STRONG]
    assert failures(rows, trains([0.0, 0.06, 0.0, 0.0, 0.0, 0.0])) == []
    assert failures(rows, trains([0.001] * 6, name="gan_hinge_2")) == [Failure.TOO_STRONG]
    assert failures(rows, trains([0.001] * 6, name="feature_matching")) == []
    # What came after a validation was not known then.
    assert failures(rows, trains([0.015] * 6 + [0.0] * 14)) == []
    # Rows are rarer than validations: the newest before counts.
    assert failures(rows[-1:], trains([0.5, 0.001], every=125), patience=1) == [Failure.TOO_STRONG]


def failures_of(findings: Sequence[Finding]) -> list[Failure]:
    return [finding.failure for finding in findings]


@pytest.mark.parametrize(
    ("aucs", "fresh", "is_found"),
    [
        ([0.5, 0.45, 0.55], [None, None, 0.81], True),
        ([0.5, 0.45, 0.55], [None, None, 0.8], False),
        ([0.5, 0.45, 0.551], [None, None, 0.81], False),
        ([0.449, 0.45, 0.55], [None, None, 0.81], False),
        ([0.5, 0.5], [None, 0.9], False),
        ([0.5, 0.5, NAN], [None, None, 0.9], False),
        ([0.5, 0.5, 0.5], [None, None, None], False),
        ([0.5, 0.5, 0.5], [None, None, NAN], False),
        # The newest one counts, and only one of these validations.
        ([0.5, 0.5, 0.5], [0.9, None, 0.6], False),
        ([0.7, 0.5, 0.5, 0.5], [0.9, None, None, None], False),
    ],
)
def test_a_discriminator_that_has_collapsed(
    aucs: list[float], fresh: list[float | None], is_found: bool
) -> None:
    rows = validations(auc_discriminator=aucs, auc_fresh=fresh)
    assert failures(rows) == [Failure.COLLAPSED] * is_found


def test_a_fresh_classifier_is_asked_for_once_in_so_many_validations_near_chance() -> None:
    asked: list[int] = []
    rows: Rows = []
    for i, auc in enumerate([None, 0.7, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.5, 0.5]):
        rows.append({"step": i, **({} if auc is None else {"val/auc_discriminator": auc})})
        if needs_fresh(rows, REMEDIES):
            asked.append(i)
            rows[-1]["val/auc_fresh"] = 0.6
    assert asked == [4, 7]
    assert failures(rows) == []


def test_a_collapse_that_is_known_is_not_asked_about_again() -> None:
    rows = validations(auc_discriminator=[0.5] * 9, auc_fresh=[None, None, 0.9, *[None] * 6])
    assert failures(rows[:3]) == [Failure.COLLAPSED]
    assert not any(needs_fresh(rows[:count], REMEDIES) for count in range(4, 10))


@pytest.mark.parametrize(
    ("values", "is_found"),
    [
        ([34.9, 34.9, 34.9], True),
        ([34.9, 35.0, 34.9], False),
        ([34.9, 34.9], False),
        ([34.9, NAN, 34.9], False),
        ([40.0, 34.9, 20.0, 30.0, 50.0], True),
    ],
)
def test_an_output_that_is_not_true_to_the_input(values: list[float], is_found: bool) -> None:
    assert failures(validations(lr_psnr=values)) == [Failure.LR_INCONSISTENT] * is_found


FALLING = [1.0, 1.1, 0.9, 0.98, 0.9, 2.0]
BETTER, WORSE = [30.0, 29.0, 31.0, 31.1, 30.5, 10.0], [30.0, 29.0, 31.0, 29.9, 29.0, 40.0]
LOWER, HIGHER = [0.3, 0.2, 0.4, 0.29, 0.1, 0.9], [0.3, 0.2, 0.4, 0.31, 0.1, 0.9]


@pytest.mark.parametrize(
    ("columns", "is_found"),
    [
        ({"perceptual": FALLING, "psnr_y": WORSE}, True),
        ({"perceptual": FALLING, "psnr_y": BETTER}, False),
        ({"perceptual": [1.0, 1.1, 0.9, 0.99, 0.9, 2.0], "psnr_y": WORSE}, False),
        ({"perceptual": FALLING[:5], "psnr_y": WORSE[:5]}, False),
        ({"psnr_y": WORSE}, False),
        ({"perceptual": [NAN, *FALLING[1:]], "psnr_y": WORSE}, False),
        ({"perceptual": FALLING, "psnr_y": [*WORSE[:5], NAN]}, False),
        # The majority of the others must agree, each in its own direction.
        ({"perceptual": FALLING, "psnr_y": WORSE, "gmsd": HIGHER}, True),
        ({"perceptual": FALLING, "psnr_y": WORSE, "gmsd": LOWER}, False),
        ({"perceptual": FALLING, "psnr_y": WORSE, "gmsd": HIGHER, "ssim_y": BETTER}, False),
        ({"perceptual": FALLING, "psnr_y": WORSE, "gmsd": HIGHER, "ssim_y": BETTER, "dss": WORSE}, True),
        # The best sharpness difference is zero.
        ({"perceptual": FALLING, "psnr_y": WORSE, "sharpness_seed4": [-x for x in HIGHER]}, True),
        ({"perceptual": FALLING, "psnr_y": WORSE, "sharpness_seed4": [-x for x in LOWER]}, False),
        # LR-PSNR says nothing of HR, and the AUC is no metric.
        ({"perceptual": FALLING, "psnr_y": WORSE, "lr_psnr": [x + 20 for x in BETTER]}, True),
        ({"perceptual": FALLING, "psnr_y": WORSE, "auc_discriminator": [0.9, 0.9, 0.9, 0.7, 0.7, 0.7]}, True),
    ],
)
def test_a_loss_that_is_hacked(columns: dict[str, list[float]], is_found: bool) -> None:
    found = find(validations(**columns), [], REMEDIES, quality="psnr_y")
    assert failures_of(found) == [Failure.LOSS_HACKING] * is_found
    assert all(finding.remedy == "none" and finding.step == 600 for finding in found)


def everything() -> tuple[Rows, Rows]:
    """A stage in which all goes wrong, some of it twice."""
    rows = validations(
        auc_discriminator=[None, 0.999, 0.999, 0.999, 0.5, 0.5, 0.5, 0.999, 0.999, 0.999],
        auc_fresh=[None] * 6 + [0.95] + [None] * 3,
        lr_psnr=[20.0, 21.0, 22.0, 40.0, 40.0, 40.0, 40.0, 20.0, 20.0, 20.0],
        perceptual=[1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
        psnr_y=[30.0, 30.1, 30.2, 30.3, 30.2, 30.1, 30.0, 29.9, 29.8, 29.7],
    )
    return rows, WEAK


def test_each_failure_is_found_once_and_stays_found() -> None:
    rows, train_rows = everything()
    whole = find(rows, train_rows, REMEDIES, quality="psnr_y")
    assert [(f.failure, f.step) for f in whole] == [
        (Failure.LR_INCONSISTENT, 300),
        (Failure.TOO_STRONG, 400),
        (Failure.COLLAPSED, 700),
        (Failure.LOSS_HACKING, 700),
    ]
    for count in range(len(rows) + 1):
        part = find(rows[:count], train_rows, REMEDIES, quality="psnr_y")
        assert part == whole[: len(part)]
        assert part == find(rows[:count], train_rows[: 2 * count], REMEDIES, quality="psnr_y")


def test_messages_say_what_was_seen_and_what_is_done() -> None:
    rows, train_rows = everything()
    lr, strong, collapsed, hacking = find(rows, train_rows, REMEDIES, quality="psnr_y")
    assert [lr.remedy, strong.remedy, collapsed.remedy] == ["consistency", "r1", "restart"]
    assert "22.00 dB" in lr.message
    assert "lr_consistency of weight 1" in lr.message
    assert "0.9990" in strong.message
    assert "0.90%" in strong.message
    assert "gamma at least 10" in strong.message
    assert "0.950" in collapsed.message
    assert "PSNR-Y 30.2 -> 30.1" in hacking.message
    assert "PSNR-Y" in hacking.message
    none = Remedies(patience=PATIENCE, too_strong="none", collapsed="none", lr_inconsistent="none")
    for finding in find(rows, train_rows, none, quality="psnr_y")[:3]:
        assert finding.remedy == "none"
        assert "nothing is done" in finding.message


@pytest.mark.parametrize(
    ("factors", "is_found"),
    [
        ([], False),
        ([3.0], False),
        ([1.0, 100.0], False),
        ([1.0, 101.0], True),
        ([1.0, 0.009], True),
        ([1.0, 1000.0, 50.0], False),
        ([1.0, NAN], False),
        ([0.0, 1.0], False),
    ],
)
def test_factors_that_drift_apart(factors: list[float], is_found: bool) -> None:
    found = scale_drift(factors)
    assert (found is not None) == is_found
    if found is not None:
        assert (found.failure, found.remedy) == (Failure.SCALE_DRIFT, "none")


def finding(remedy: str, step: int = 100) -> Finding:
    return Finding(Failure.TOO_STRONG, step, remedy, "")


@pytest.fixture
def trial(tiny: dict[str, Any]) -> dict[str, Any]:
    return {
        **tiny,
        "loss": "l1 + 0*lr_consistency + 0.01*gan_ragan",
        "adversarial": {
            "discriminator": {"type": "patch_d", "channels": 8, "norm": "group"},
            "update_every": 3,
        },
        "ladder": {"remedies": {"consistency_weight": 0.5}},
    }


def changes(before: TrialConfig, after: TrialConfig) -> dict[str, Any]:
    """What differs, by path, with its new value."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for key, one in value.items() for k, v in flat(one, f"{path}.{key}").items()}
        if isinstance(value, list):
            return {k: v for i, one in enumerate(value) for k, v in flat(one, f"{path}.{i}").items()}
        return {path[1:]: value}

    one, other = flat(to_plain(before), ""), flat(to_plain(after), "")
    return {key: value for key, value in other.items() if key not in one or one[key] != value}


@pytest.mark.parametrize(
    ("remedy", "changed"),
    [
        ("none", {}),
        ("restart", {}),
        ("r1", {"adversarial.r1_gamma": 10.0}),
        ("update_ratio", {"adversarial.update_every": 6}),
        ("spectral_norm", {"adversarial.discriminator.norm": "spectral"}),
        ("consistency", {"loss.terms.1.weight": 0.5}),
    ],
)
def test_a_remedy_changes_what_it_says_and_nothing_else(
    trial: dict[str, Any], remedy: str, changed: dict[str, Any]
) -> None:
    config = parse_trial(trial)
    before = to_plain(config)
    after = applied(config, [finding(remedy)], Remedies(consistency_weight=0.5))
    assert changes(config, after) == changed
    assert to_plain(config) == before
    assert applied(config, [finding(remedy), finding(remedy)], Remedies(consistency_weight=0.5)) == after
    again = parse_trial(to_plain(after))
    assert again == after
    assert fingerprint(again) == fingerprint(after)


def test_what_is_given_and_stronger_stays(trial: dict[str, Any]) -> None:
    trial["adversarial"]["r1_gamma"] = 20.0
    trial["loss"] = "l1 + 2*lr_consistency + 0.01*gan_ragan"
    config = parse_trial(trial)
    assert (
        applied(config, [finding("r1"), finding("consistency")], Remedies(consistency_weight=0.5)) == config
    )


def test_a_missing_consistency_term_is_added_and_a_fixed_architecture_stays(trial: dict[str, Any]) -> None:
    trial["loss"] = "l1 + 0.01*gan_ragan"
    trial["adversarial"]["discriminator"] = {"type": "unet_sn_d", "channels": 8}
    config = parse_trial(trial)
    added = applied(
        config, [finding("spectral_norm"), finding("consistency")], Remedies(consistency_weight=0.5)
    )
    assert changes(config, added) == {
        "loss.terms.2.type": "lr_consistency",
        "loss.terms.2.weight": 0.5,
        "loss.terms.2.calibration": None,
    }
    assert parse_trial(to_plain(added)) == added


def test_two_findings_of_one_remedy_apply_it_twice(trial: dict[str, Any]) -> None:
    after = applied(
        parse_trial(trial),
        [finding("update_ratio", 100), finding("update_ratio", 200)],
        Remedies(consistency_weight=0.5),
    )
    assert after.adversarial is not None
    assert after.adversarial.update_every == 12


def found_problems(trial: dict[str, Any], **ladder: Any) -> list[str]:
    return problems(parse_trial(trial), LadderConfig(**ladder))


def test_a_sound_ladder_has_no_problems_whatever_the_discriminator(trial: dict[str, Any]) -> None:
    for name in set(DISCRIMINATORS) - {"temporal_d"}:
        trial["adversarial"]["discriminator"] = {"type": name, "channels": 8}
        before = torch.random.get_rng_state()
        assert found_problems(trial, taps=("down1", "down3"), probe=Probe(patch_size=32)) == []
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("section", "ladder", "told"),
    [
        (
            {"discriminator": {"type": "patch_d", "channels": 8, "norm": "batch"}},
            {},
            "patch_d has batch norm",
        ),
        (
            {"discriminator": {"type": "temporal_d", "channels": 8}},
            {},
            "temporal_d cannot judge single pictures of ladder.probe.patch_size 48 (temporal_d: needs clips",
        ),
        (
            {"discriminator": {"type": "patch_d", "channels": 8, "levels": 4}},
            {"probe": Probe(patch_size=47)},
            "ladder.probe.patch_size 47",
        ),
        (
            {},
            {"taps": ("down1", "down_2")},
            "ladder.taps: unknown tap of patch_d 'down_2'. Did you mean 'down2'?",
        ),
        (
            {"discriminator": {"type": "unet_sn_d", "channels": 8}},
            {"remedies": Remedies(too_strong="spectral_norm")},
            "unet_sn_d has no parameter 'norm'",
        ),
        (
            {"discriminator": {"type": "patch_d", "channels": 8}},
            {"remedies": Remedies(too_strong="spectral_norm")},
            "patch_d has it from the start",
        ),
    ],
)
def test_settings_that_cannot_work_are_told(
    trial: dict[str, Any], section: dict[str, Any], ladder: dict[str, Any], told: str
) -> None:
    trial["adversarial"] |= section
    (line,) = found_problems(trial, **ladder)
    assert told in line
    assert "\n" not in line


def test_a_stage_must_be_longer_than_its_pixel_phase(trial: dict[str, Any]) -> None:
    trial["training"] = {"steps": 90}
    trial["adversarial"]["start_step"] = 30
    (line,) = found_problems(trial, stages=3)
    assert "start_step: 30, but a stage has 30 steps" in line
    assert found_problems(trial, stages=2) == []


def test_perceptual_terms_without_weight_are_told(trial: dict[str, Any]) -> None:
    none = "l1 + 0*perceptual(network=random_discriminator) + 0.01*gan_ragan"
    (line,) = found_problems({**trial, "loss": none})
    assert "add up to 0" in line


def test_an_architecture_cannot_change_under_weights_that_go_on(trial: dict[str, Any]) -> None:
    trial["adversarial"]["discriminator"] = {"type": "patch_d", "channels": 8, "norm": "none"}
    spectral = Remedies(too_strong="spectral_norm")
    (line,) = found_problems(trial, begin="warm", remedies=spectral)
    assert "begin: scratch" in line
    assert found_problems(trial, remedies=spectral) == []


def test_a_ladder_needs_a_game_and_no_penalty_on_spread_weights(trial: dict[str, Any]) -> None:
    (line,) = found_problems({**trial, "loss": "l1"})
    assert "no adversarial term" in line
    trial["engine"] = {"type": "deepspeed", "zero_stage": 3}
    (line,) = found_problems(trial)
    assert "zero_stage 2" in line
    assert found_problems(trial, remedies=Remedies(too_strong="update_ratio")) == []
    trial["engine"] = {"type": "deepspeed", "zero_stage": 2}
    assert found_problems(trial) == []
