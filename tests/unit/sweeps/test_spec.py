"""From a sweep file to its trials."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sr.configfile import ConfigError
from sweeps.recipes import recipe_path
from sweeps.spec import expand, parse_sweep, read_sweep, sweep_id

BASE: dict[str, Any] = {
    "parameters": {"loss": {"values": ["l1", "mse"]}, "seed": {"values": [0, 1]}},
    "trial": {"data": {"path": "x"}, "training": {"steps": 10}},
}


def trials(**changes: Any) -> list[Any]:
    return expand(parse_sweep({**BASE, **changes}, where="test"))


def test_a_grid_is_every_combination_in_order() -> None:
    got = [(t.candidate, t.config.seed) for t in trials()]
    assert got == [("l1", 0), ("l1", 1), ("mse", 0), ("mse", 1)]


def test_duplicates_are_planned_once() -> None:
    doubled = {"loss": ["l1", {"type": "l1"}, "1.0*l1", "mse"], "seed": [0]}
    assert [t.candidate for t in trials(parameters=doubled)] == ["l1", "mse"]


def test_short_and_long_forms_mean_the_same() -> None:
    short = trials(parameters={"loss": ["l1", "mse"], "seed": 0})
    long = trials(parameters={"loss.type": {"values": ["l1", "mse"]}, "seed": {"value": 0}})
    assert [t.trial_id for t in short] == [t.trial_id for t in long]


def test_calibration_given_for_all_trials_survives_the_loss() -> None:
    trial = {**BASE["trial"], "loss": {"calibrate": False}}
    assert not any(t.config.loss.calibrate for t in trials(trial=trial))


def test_tuned_settings_make_variants_not_candidates() -> None:
    parameters = {"loss": ["l1 + ssim", "mse"], "optimizer.learning_rate": [1e-3, 1e-4], "seed": [0]}
    got = trials(parameters=parameters)
    assert Counter(t.candidate for t in got) == {"l1 + ssim": 2, "mse": 2}
    assert {t.variant for t in got} == {"optimizer.learning_rate=0.001", "optimizer.learning_rate=0.0001"}
    assert got[0].settings == "optimizer.learning_rate=0.001, seed=0"


def test_a_tuned_weight_stays_within_its_candidate() -> None:
    parameters = {"loss": ["l1 + ssim"], "loss.terms.1.weight": [0.1, 0.5], "seed": [0]}
    got = trials(parameters=parameters)
    assert {t.candidate for t in got} == {"l1 + ssim"}
    assert [t.config.loss.terms[1].weight for t in got] == [0.1, 0.5]


def test_candidates_with_other_parameters_have_other_names() -> None:
    losses = ["charbonnier", {"type": "charbonnier", "epsilon": 0.1}, "2*charbonnier"]
    got = [t.candidate for t in trials(parameters={"loss": losses, "seed": [0]})]
    assert got == ["charbonnier", "charbonnier(epsilon=0.1)", "2*charbonnier"]


def test_a_random_search_draws_the_same_for_every_loss_and_seed() -> None:
    parameters = {
        **BASE["parameters"],
        "optimizer.learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    }
    got = trials(method="random", run_cap=13, parameters=parameters)
    rates = {(t.candidate, t.config.seed): [] for t in got}
    for t in got:
        rates[t.candidate, t.config.seed].append(t.config.optimizer.learning_rate)
    assert len(got) == 12
    assert len({tuple(drawn) for drawn in rates.values()}) == 1
    assert len(set(rates["l1", 0])) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates["l1", 0])
    assert [t.trial_id for t in got] == [
        t.trial_id for t in trials(method="random", run_cap=13, parameters=parameters)
    ]
    other = trials(method="random", run_cap=13, parameters=parameters, search_seed=1)
    assert {t.trial_id for t in got}.isdisjoint(t.trial_id for t in other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methd": "grid"}, "test: methd: unknown key 'methd'. Did you mean 'method'?"),
        ({"parameters": {}}, "parameters"),
        (
            {"parameters": {"loss": {"valus": ["l1"]}}},
            "parameters.loss.valus: unknown key 'valus'. Did you mean 'values'?",
        ),
        ({"parameters": {"loss": {"values": ["l1"], "value": "l1"}}}, "give just one of"),
        ({"parameters": {"loss": ["l1"], "seed": {"min": 0, "max": 3}}}, "a grid needs 'values'"),
        ({"parameters": {"loss": ["l1"], "lerning_rate": [1]}}, "unknown key 'lerning_rate'"),
        ({"parameters": {"loss": ["l1", "l7"]}}, "trial (loss=l7): loss.terms.0: unknown loss 'l7'"),
        ({"metric": {"name": "val/psnr"}}, "unknown metric 'val/psnr'. Did you mean 'val/psnr_y'?"),
        ({"metric": {"name": "val/psnr_y", "goal": "minimize"}}, "better the higher; write goal: maximize"),
        ({"method": "random"}, "run_cap: missing"),
        (
            {
                "method": "random",
                "run_cap": 3,
                "parameters": {**BASE["parameters"], "training.steps": [2, 4]},
            },
            "run_cap: 3 is below one draw",
        ),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate.type"),
        ({"name": "a b/c"}, "name"),
        ({"trial": {"training": {"steps": 5}}}, "data: missing"),
    ],
)
def test_mistakes_are_named_with_their_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trials(**changes)
    assert message in str(caught.value)


def test_overrides_reach_the_sweep_or_every_trial(tmp_path: Path) -> None:
    path = tmp_path / "my sweep.yaml"
    path.write_text("parameters: {loss: [l1]}\ntrial: {data: {path: x}}\n")
    sweep = read_sweep(
        path, ["training.steps=7", "parameters.seed=[0, 1]", "max_concurrent_trials=1", "trial.scale=4"]
    )
    got = expand(sweep)
    assert sweep.name == "my-sweep"
    assert sweep.max_concurrent_trials == 1
    assert [(t.config.training.steps, t.config.scale, t.config.seed) for t in got] == [(7, 4, 0), (7, 4, 1)]


def test_the_id_follows_from_what_decides_the_result() -> None:
    def name(**changes: Any) -> str:
        sweep = parse_sweep({**BASE, "name": "x", **changes}, where="")
        return sweep_id(sweep, expand(sweep))

    assert name() == name(max_concurrent_trials=1) == name(max_failures=0)
    assert (
        len({name(), name(early_terminate={"min_steps": 5}), name(trial={"data": {"path": "x"}, "scale": 4})})
        == 3
    )


@pytest.mark.parametrize("recipe", sorted(path.stem for path in recipe_path("demo").parent.glob("*.yaml")))
def test_every_recipe_is_a_valid_sweep(recipe: str) -> None:
    assert len(expand(read_sweep(recipe_path(recipe)))) >= 8


def test_a_loss_may_have_a_name_that_changes_nothing_else() -> None:
    named = {"name": "mixed", "terms": "0.5*l1 + 0.5*ssim"}
    sweep = parse_sweep({**BASE, "parameters": {"loss": ["l1", named], "seed": [0, 1]}}, where="")
    plain = parse_sweep({**BASE, "parameters": {"loss": ["l1", named["terms"]], "seed": [0, 1]}}, where="")
    assert {trial.candidate for trial in expand(sweep)} == {"l1", "mixed"}
    assert [t.trial_id for t in expand(sweep)] == [t.trial_id for t in expand(plain)]
    one = parse_sweep(
        {**BASE, "parameters": {"loss": [{"name": "c", "type": "charbonnier", "epsilon": 0.1}]}}, where=""
    )
    assert expand(one)[0].candidate == "c"
    clash = [named, {"name": "mixed", "terms": "mse"}]
    with pytest.raises(ConfigError, match="several losses are named mixed"):
        expand(parse_sweep({**BASE, "parameters": {"loss": clash}}, where=""))


def test_small_makes_the_files_own_changes_first(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "parameters: {loss: [l1, mse], seed: [0, 1]}\n"
        "trial: {data: {path: x}, model: {type: espcn, channels: 64}, training: {steps: 1000}}\n"
        "small: {parameters.seed: [0], trial.model.channels: 4, trial.training.steps: 5}\n"
    )
    trials = expand(read_sweep(path, ["training.steps=7"], small=True))
    assert len(trials) == 2
    assert trials[0].config.model.parameters["channels"] == 4
    assert trials[0].config.training.steps == 7
    assert len(expand(read_sweep(path))) == 4
    path.write_text("parameters: {loss: [l1]}\n")
    with pytest.raises(ConfigError, match="no 'small'"):
        read_sweep(path, small=True)


def test_what_a_sweep_is_tuned_and_judged_on_is_measured() -> None:
    trial = {"data": {"path": "x"}, "evaluation": {"metrics": ["ssim_y"]}}
    (first, *_) = expand(parse_sweep({**BASE, "trial": trial}, where=""))
    assert first.config.evaluation.metrics == ("ssim_y", "psnr_y")
    assert first.config.evaluation.validation == ("psnr_y", "ssim_y")
    metric = {"name": "val/gmsd", "goal": "minimize"}
    (first, *_) = expand(parse_sweep({**BASE, "metric": metric}, where=""))
    assert first.config.evaluation.validation == ("psnr_y", "ssim_y", "gmsd")
    assert first.config.evaluation.best == "gmsd"
    assert "gmsd" in first.config.evaluation.metrics
    with pytest.raises(ConfigError, match="goal: val/gmsd is better the lower"):
        parse_sweep({**BASE, "metric": {"name": "val/gmsd"}}, where="")
