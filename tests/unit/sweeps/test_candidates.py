"""Losses with a name and settings of their own: what becomes of them in trials, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from sr.configfile import ConfigError
from sweeps import agendas
from sweeps.recipes import recipe_path
from sweeps.search import num_planned
from sweeps.spec import PlannedTrial, SweepConfig, expand, parse_sweep, read_sweep, sweep_id

GAN = "l1 + gan_ragan"
RATE = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
CLIMBERS = [
    {"name": "pixels", "terms": "l1"},
    {"name": "short", "terms": GAN, "with": {"ladder.stages": 3, "adversarial.r1_gamma": 2.0}},
    {"name": "none", "terms": GAN, "with": {"ladder": None}},
    {"name": "shared", "terms": GAN},
]


def sweep_of(losses: list[Any], parameters: dict[str, Any] | None = None, **changes: Any) -> SweepConfig:
    data: dict[str, Any] = {
        "parameters": {"loss": losses, "seed": [0, 1], **(parameters or {})},
        "trial": {
            "data": {"path": "x"},
            "ladder": {"stages": 5},
            "training": {"steps": 40, "validate_every": 10},
        },
    }
    return parse_sweep(data | changes, where="")


def by_name(trials: list[PlannedTrial]) -> dict[str, list[PlannedTrial]]:
    grouped: dict[str, list[PlannedTrial]] = {}
    for trial in trials:
        grouped.setdefault(trial.candidate, []).append(trial)
    return grouped


def stages(trial: PlannedTrial) -> int | None:
    return None if trial.config.ladder is None else trial.config.ladder.stages


def test_settings_belong_to_their_loss_alone() -> None:
    trials = by_name(expand(sweep_of(CLIMBERS)))
    assert list(trials) == ["pixels", "short", "none", "shared"]
    assert {name: [stages(t) for t in of_loss] for name, of_loss in trials.items()} == {
        "pixels": [None, None],
        "short": [3, 3],
        "none": [None, None],
        "shared": [5, 5],
    }
    opponents = {name: of_loss[0].config.adversarial for name, of_loss in trials.items()}
    assert opponents["pixels"] is None
    assert {name: o.r1_gamma for name, o in opponents.items() if o} == {
        "short": 2.0,
        "none": 0.0,
        "shared": 0.0,
    }
    assert all(t.variant == "" for of_loss in trials.values() for t in of_loss)


def test_trials_with_other_settings_are_other_trials() -> None:
    ids = {trial.trial_id for trial in expand(sweep_of(CLIMBERS))}
    assert len(ids) == 8
    longer = [CLIMBERS[0], {**CLIMBERS[1], "with": {"ladder.stages": 4}}, *CLIMBERS[2:]]
    sweeps = [sweep_of(CLIMBERS), sweep_of(longer)]
    assert len({sweep_id(sweep, expand(sweep)) for sweep in sweeps}) == 2
    renamed = [{**loss, "name": loss["name"].upper()} for loss in CLIMBERS]
    assert {trial.trial_id for trial in expand(sweep_of(renamed))} == ids


def test_a_whole_section_may_be_a_losses_own() -> None:
    own = {"name": "warm", "terms": GAN, "with": {"ladder": {"begin": "warm"}, "ladder.stages": 2}}
    sweep = sweep_of([own])
    for _ in range(2):
        (trial, _other) = expand(sweep)
        assert trial.config.ladder is not None
        assert (trial.config.ladder.begin, trial.config.ladder.stages) == ("warm", 2)
    assert sweep.parameters["loss"].choices() == (own,)


def test_a_plan_that_was_stored_gives_the_same_trials() -> None:
    sweep = sweep_of(CLIMBERS)
    again = parse_sweep(sweep.model_dump(mode="json"), where="")
    assert [t.trial_id for t in expand(again)] == [t.trial_id for t in expand(sweep)]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_searches_tune_each_loss_with_what_it_has(method: str) -> None:
    losses = CLIMBERS[1:]
    sweep = sweep_of(losses, {"optimizer.learning_rate": RATE}, method=method, run_cap=24)
    trials = by_name(expand(sweep))
    drawn = {name: [t.config.optimizer.learning_rate for t in of_loss] for name, of_loss in trials.items()}
    assert drawn["short"] == drawn["none"] == drawn["shared"]
    assert len(set(drawn["short"])) > 1
    assert {name: {stages(t) for t in of_loss} for name, of_loss in trials.items()} == {
        "short": {3},
        "none": {None},
        "shared": {5},
    }
    if method == "bayes":
        # As many settings for each: three losses on two seeds.
        assert num_planned(sweep) == 24


def test_a_tuned_setting_does_not_bring_back_what_a_loss_leaves_out() -> None:
    trials = by_name(expand(sweep_of(CLIMBERS[2:], {"ladder.stages": [2, 3]})))
    assert [stages(t) for t in trials["shared"]] == [2, 3, 2, 3]
    assert [stages(t) for t in trials["none"]] == [None, None]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            {"terms": GAN, "with": {"ladder.stages": 3}},
            "parameters.loss.values.1.name: missing; what has settings of its own ('with') needs a name",
        ),
        (
            {"name": "x", "terms": GAN, "with": {"model.channels": 3}},
            "parameters.loss.values.1.with.model.channels: only settings of ladder and adversarial can belong to one loss",
        ),
        (
            {"name": "x", "terms": GAN, "with": {"training": None}},
            "parameters.loss.values.1.with.training: only settings of",
        ),
        (
            {"name": "x", "terms": GAN, "with": 3},
            "parameters.loss.values.1.with: expected settings by their names",
        ),
        (
            {"name": "x", "terms": GAN, "with": {"ladder.stagess": 3}},
            "trial (loss=x, seed=0, adversarial.r1_gamma=0): ladder.stagess: unknown key 'stagess'. Did you mean 'stages'?",
        ),
        (
            {"name": "x", "terms": "mse", "with": {"ladder.stages": 3}},
            "with.ladder.stages: has no effect, the loss has no gan_* term; leave it out",
        ),
        (
            {"name": "x", "terms": GAN, "with": {"ladder.stages": 5}},
            "trial (loss=x, seed=0, adversarial.r1_gamma=0): just the same as that of 'shared'; leave one out",
        ),
        (
            {"name": "x", "terms": GAN, "with": {"adversarial.r1_gamma": 1}},
            "parameters.loss.values.1.with.adversarial.r1_gamma: parameters.adversarial.r1_gamma sets it too",
        ),
        (
            {"name": "x", "terms": GAN, "with": {"adversarial": {"r1_gamma": 1}}},
            "parameters.loss.values.1.with.adversarial: parameters.adversarial.r1_gamma sets it too",
        ),
    ],
)
def test_mistakes_are_named_with_their_place_and_remedy(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(sweep_of([CLIMBERS[3], loss], {"adversarial.r1_gamma": [0]}))
    assert message in str(caught.value)


def test_mistakes_in_the_shared_ladder_are_told_also_where_it_has_no_use() -> None:
    trial = {"data": {"path": "x"}, "ladder": {"stages": 0}}
    with pytest.raises(ConfigError, match=r"ladder: stages"):
        expand(sweep_of(["l1"], trial=trial))
    with pytest.raises(ConfigError, match="ladder: expected a section such as"):
        expand(sweep_of(["l1"], trial={**trial, "ladder": 3}))


def test_ladders_do_not_go_with_what_compares_trials_half_way() -> None:
    population = {"perturb_every": 10, "parameters": {"optimizer.learning_rate": {}}}
    rates = {"optimizer.learning_rate": [1e-3, 1e-4]}
    ladders = sweep_of(CLIMBERS, rates, population=population)
    with pytest.raises(ConfigError, match="population: does not go with ladder"):
        agendas.check(ladders, expand(ladders))
    with pytest.raises(ConfigError, match="early_terminate: does not go with ladder"):
        agendas.check(early := sweep_of(CLIMBERS, early_terminate={"min_steps": 5}), expand(early))
    none = sweep_of([CLIMBERS[0], CLIMBERS[2]], rates, population=population)
    agendas.check(none, expand(none))
    agendas.check(none := sweep_of(["l1"], early_terminate={"min_steps": 5}), expand(none))


@pytest.mark.parametrize("small", [False, True])
def test_the_recipe_gives_every_control_the_budget_of_the_ladder(small: bool) -> None:
    trials = by_name(expand(read_sweep(recipe_path("ladder"), small=small)))
    first = {name: of_loss[0].config for name, of_loss in trials.items()}
    ladder = first["ladder"]
    assert ladder.ladder is not None
    assert ladder.ladder.stages * (ladder.ladder.stage_steps or 0) == ladder.training.steps
    assert ladder.ladder.least_stage_steps == ladder.ladder.stage_steps
    assert not ladder.ladder.stop.is_binding
    assert {name for name, config in first.items() if config.ladder is not None} == {
        "ladder",
        "restarts alone",
    }
    assert all(config.training == ladder.training for config in first.values())
    assert (
        first["first loss throughout"].loss.terms == ladder.loss.terms == first["restarts alone"].loss.terms
    )
    # What the control looks through must be what the ladder will: the same architecture, but untrained.
    assert ladder.adversarial is not None
    (untrained,) = [t.parameters for t in first["random discriminator"].loss.terms if t.type == "perceptual"]
    asked = untrained["architecture"]
    wanted = {"type": asked} if isinstance(asked, str) else asked
    assert wanted.items() <= ladder.adversarial.discriminator.model_dump().items()
