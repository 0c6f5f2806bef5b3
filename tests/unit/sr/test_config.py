"""From YAML and overrides to a configuration, and what a user's mistakes are answered with."""

import re
from pathlib import Path
from typing import Any

import pytest

from sr.config import fingerprint, parse_trial, to_plain
from sr.configfile import ConfigError, apply_overrides, parse_yaml, read_yaml
from sr.expression import format_loss, parse_loss

BASE: dict[str, Any] = {"data": {"path": "somewhere"}, "loss": "l1"}


def parse(**changes: Any) -> Any:
    return parse_trial({**BASE, **changes})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        ("-1.5e+2", -150.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("12", 12),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("null", None),
        ("[1, a, {b: 1e3}]", [1, "a", {"b": 1000.0}]),
        ("0.8*l1 + 0.2*ssim", "0.8*l1 + 0.2*ssim"),
        ("1_000", "1_000"),
    ],
)
def test_yaml_scalars_mean_what_people_mean(text: str, value: object) -> None:
    got = parse_yaml(text, where="here")
    assert got == value
    assert type(got) is type(value)


def test_a_key_given_twice_is_an_error_with_its_line() -> None:
    with pytest.raises(ConfigError, match="file: line 3: 'steps' is given twice"):
        parse_yaml("a: 1\nsteps: 2\nsteps: 3\n", where="file")


def test_broken_yaml_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\nb: [1, 2\nc: 3\n")
    with pytest.raises(ConfigError, match=r"x\.yaml, line \d: not valid YAML"):
        read_yaml(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: no such file"):
        read_yaml(tmp_path / "nothing.yaml")


def test_overrides_reach_any_depth_and_do_not_touch_the_original() -> None:
    data = {"a": {"b": 1}, "terms": [{"w": 1}, {"w": 2}], "model": "espcn"}
    changed = apply_overrides(data, ["a.b=2", "a.c.d=1e-3", "terms.1.w=5", "model.channels=8"])
    assert changed == {
        "a": {"b": 2, "c": {"d": 1e-3}},
        "terms": [{"w": 1}, {"w": 5}],
        "model": {"type": "espcn", "channels": 8},
    }
    assert data == {"a": {"b": 1}, "terms": [{"w": 1}, {"w": 2}], "model": "espcn"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "expected a.b=value"),
        ("=3", "expected a.b=value"),
        ("terms.7.w=1", "must be a number from 0 to 0"),
        ("a.b.c=1", "'a.b' is 1, not a section"),
    ],
)
def test_impossible_overrides_are_errors(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"a": {"b": 1}, "terms": [{"w": 1}]}, [override])


def test_a_configuration_survives_being_written_out() -> None:
    config = parse(loss="0.8*l1 + 0.2*ssim", model={"type": "srresnet", "num_blocks": 2}, seed=3)
    assert parse_trial(to_plain(config)) == config


def test_defaults_of_components_are_filled_in() -> None:
    config = parse(model="srresnet", loss="charbonnier")
    assert config.model.parameters == {"channels": 64, "num_blocks": 16, "norm": "none"}
    assert config.loss.terms[0].parameters == {"epsilon": 1e-3}


def test_the_data_seed_follows_the_seed_unless_given() -> None:
    assert parse(seed=5).data.seed == 5
    assert parse(seed=5, data={"path": "x", "seed": 1}).data.seed == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainin": {}}, "unknown key 'trainin'. Did you mean 'training'?"),
        ({"training": {"stps": 3}}, "training.stps: unknown key 'stps'. Did you mean 'steps'?"),
        ({"training": {"steps": "many"}}, "training.steps: input should be a valid integer, got 'many'"),
        ({"training": {"steps": 0}}, "training.steps: input should be greater than or equal to 1, got 0"),
        ({"training": {"steps": True}}, "training.steps: input should be a valid integer, got True"),
        ({"loss": "l3"}, "unknown loss 'l3'. Did you mean 'l1'"),
        ({"loss": "2*"}, "cannot read '2*'"),
        ({"loss": None}, "loss: missing"),
        ({"loss": {"name": "best\u202e", "terms": "l1"}}, "holds characters that cannot be seen"),
        ({"tracking": {"api_key": "x"}}, "an API key is never read from a configuration"),
        ({"tracking": {"project": ".."}}, "tracking.project"),
        ({"loss": []}, "loss.terms: expected a sum"),
        (
            {"loss": {"terms": [{"type": "charbonnier", "epsilon": "x"}]}},
            "loss.terms.0.epsilon: input should be",
        ),
        (
            {"loss": {"terms": [{"type": "l1", "wieght": 2}]}},
            "unknown parameter of l1 'wieght'. Did you mean 'weight'?",
        ),
        ({"loss": {"type": "l1", "terms": ["mse"]}}, "has both 'type' and 'terms'"),
        (
            {"model": {"type": "srresnet", "norm": "bach"}},
            "model.norm: input should be 'none' or 'batch', got 'bach'",
        ),
        ({"model": "espnc"}, "unknown model 'espnc'. Did you mean 'espcn'?"),
        ({"model": {"channels": 3}}, "model.type: missing"),
        ({"data": {}}, "data.path: missing; this key has no default"),
        (
            {"scale": 4, "data": {"path": "x", "patch_size": 50}},
            "data.patch_size: 50 is not a multiple of scale 4",
        ),
        ({"optimizer": {"learning_rate": -1.0}}, "optimizer.learning_rate: input should be greater than 0"),
    ],
)
def test_mistakes_are_named_with_their_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    assert message in str(caught.value)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(loss="l3", model="espnc", training={"stps": 1})
    assert len(caught.value.faults) == 3


def test_fingerprint_ignores_only_what_cannot_change_the_result() -> None:
    base = fingerprint(parse())
    same = (
        {"name": "x"},
        {"data": {"path": "elsewhere"}},
        {"training": {"log_every": 7}},
        {"tracking": {"project": "p"}},
    )
    other = (
        {"seed": 1},
        {"data": {"path": "somewhere", "fingerprint": "abc"}},
        {"data": {"path": "somewhere", "seed": 9}},
        {"training": {"steps": 7}},
        {"loss": "mse"},
        {"loss": {"terms": "l1", "calibrate": False}},
        {"optimizer": {"learning_rate": 0.5}},
        {"model": {"type": "espcn", "channels": 8}},
        {"scale": 4},
    )
    assert [fingerprint(parse(**change)) for change in same] == [base] * len(same)
    prints = [fingerprint(parse(**change)) for change in other]
    assert len({base, *prints}) == len(other) + 1


def test_fingerprint_does_not_depend_on_how_a_thing_is_written() -> None:
    ways = (
        "l1",
        {"type": "l1"},
        {"terms": "l1"},
        {"terms": ["l1"]},
        {"terms": [{"type": "l1", "weight": 1}]},
        "1.0*l1",
    )
    assert len({fingerprint(parse(loss=way)) for way in ways}) == 1


def test_loss_expressions_round_trip() -> None:
    terms = parse_loss("0.84*ssim + 1e-2*l1 + mse")
    assert terms == [
        {"type": "ssim", "weight": 0.84},
        {"type": "l1", "weight": 0.01},
        {"type": "mse", "weight": 1.0},
    ]
    assert format_loss([(t["type"], t["weight"], {}) for t in terms]) == "0.84*ssim + 0.01*l1 + mse"


def test_terms_of_an_expression_have_settings() -> None:
    text = "l1 + 0.5*vgg(preset=esrgan, taps=['8', conv5_4], path='a/b.pth', allow_download=true) + 5e-3*gan_ragan"
    terms = parse_loss(text)
    assert terms[1] == {
        "type": "vgg",
        "weight": 0.5,
        "preset": "esrgan",
        "taps": ["8", "conv5_4"],
        "path": "a/b.pth",
        "allow_download": True,
    }
    shown = format_loss(
        [(t["type"], t["weight"], {k: v for k, v in t.items() if k not in ("type", "weight")}) for t in terms]
    )
    assert parse_loss(shown) == terms


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("l1 - mse", "l1 - mse"),
        ("l1*0.5", "l1 * 0.5"),
        ("l1 + vgg(8)", "vgg(8)"),
        ("l1 + true*mse", "true * mse"),
        ("l1 + vgg(weight=2)", "vgg(weight=2)"),
        ("l1 + __import__('os').system('x')", "__import__('os').system('x')"),
        ("l1 +", "l1 +"),
    ],
)
def test_what_is_no_sum_is_shown(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"cannot read {part!r}")):
        parse_loss(text)
