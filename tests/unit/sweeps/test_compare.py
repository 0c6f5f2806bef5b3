"""Two sides of a comparison: how they are named, what differs, the statistics against brute force, and the words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr.configfile import ConfigError
from sr.ledger import State, Status
from sweeps.cli import compared
from sweeps.compare import Compared, Stream, compare
from sweeps.sides import Side, find_sides
from tests.made_sweep import CLIPS, finish, finished, lone_trial, of, planned, rows_of, validated

Shown = Callable[..., tuple[int, str, str]]


def scores(loss: str, seed: int, clip: str) -> dict[str, float]:
    """l1 gains on PSNR-Y everywhere, differently on each picture; on GMSD nobody does."""
    source, tile = int(clip[1]), int(clip[-1])
    rng = np.random.default_rng([source, tile, seed, len(loss)])
    gain = {"l1": 0.5 + 0.2 * source + 0.05 * tile, "mse": 0.0, "bicubic": -2.0}.get(loss, 0.0)
    return {"psnr_y": 30 + source + gain + 0.02 * rng.normal(), "gmsd": 0.01 + 0.001 * float(rng.normal())}


def seen(store: Path, first: str, second: str, **more: Any) -> Compared:
    return compare(*find_sides(store, first, second, sweep_id=more.pop("sweep_id", None)))


# --- statistics ---


def brute_force(first: list[list[dict]], second: list[list[dict]], metric: str) -> tuple[float, float]:
    """Mean difference and p by all sign patterns over pictures, one number after the other."""
    by_source: dict[str, float] = {}
    count = 0
    for ours, theirs in zip(first, second, strict=True):
        for row, other in zip(ours, theirs, strict=True):
            assert row["clip"] == other["clip"]
            by_source[row["source"]] = by_source.get(row["source"], 0.0) + row[metric] - other[metric]
            count += 1
    values = list(by_source.values())
    observed = abs(sum(values))
    patterns = list(itertools.product((1, -1), repeat=len(values)))
    extreme = sum(
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= observed - 1e-12 for signs in patterns
    )
    return sum(values) / count, extreme / len(patterns)


def test_the_statistics_are_those_of_brute_force(tmp_path: Path) -> None:
    finished(tmp_path, scores)
    found = {contrast.metric: contrast for contrast in seen(tmp_path, "l1", "mse").contrasts}
    tables = {loss: [rows_of(loss, seed, scores) for seed in range(3)] for loss in ("l1", "mse")}
    raw = {metric: brute_force(tables["l1"], tables["mse"], metric) for metric in ("psnr_y", "gmsd")}
    assert found.keys() == raw.keys()
    for metric, (mean, p) in raw.items():
        comparison = found[metric].comparison
        assert comparison.mean == pytest.approx(mean)
        # Holm over two: the smaller times two, the larger no less than that.
        smaller, larger = sorted(one for _, one in raw.values())
        assert comparison.p_adjusted == pytest.approx(
            2 * smaller if p == smaller else max(2 * smaller, larger)
        )
        assert found[metric].first - found[metric].second == pytest.approx(mean)
        assert (found[metric].num_clips, found[metric].num_sources) == (16, 8)
    assert found["psnr_y"].better == 0
    assert found["gmsd"].better is None
    low, high = found["psnr_y"].comparison.low, found["psnr_y"].comparison.high
    assert (low, high) == pytest.approx(resampled(tables), abs=0.03)


def resampled(tables: dict[str, list[list[dict]]]) -> tuple[float, float]:
    """The interval by drawing pictures and seeds, one after the other."""
    rng = np.random.default_rng(5)
    rows = list(zip(*(zip(*tables[loss], strict=True) for loss in ("l1", "mse")), strict=True))
    means = []
    for _ in range(1500):
        seeds, sources = rng.integers(0, 3, 3), rng.integers(0, 8, 8)
        drawn = [
            ours[s]["psnr_y"] - theirs[s]["psnr_y"]
            for p in sources
            for ours, theirs in rows[2 * p : 2 * p + 2]
            for s in seeds
        ]
        means.append(sum(drawn) / len(drawn))
    return tuple(np.quantile(means, [0.025, 0.975]))


def test_lower_is_better_where_it_is(tmp_path: Path) -> None:
    finished(
        tmp_path,
        lambda loss, seed, clip: {"gmsd": 0.01 + 0.001 * len(loss) + 1e-5 * int(clip[1]) + 1e-6 * seed},
    )
    (contrast,) = seen(tmp_path, "mse", "l1").contrasts
    assert contrast.comparison.mean > 0
    assert contrast.better == 1


def test_sides_are_paired_by_the_seeds_that_both_have(tmp_path: Path) -> None:
    sweep = planned(tmp_path)
    for trial in sweep.trials:
        if (trial.candidate, trial.config.seed) != ("mse", 1):
            finish(sweep.ledger(trial), rows_of(trial.candidate, trial.config.seed, scores))
    found = seen(tmp_path, "l1", "mse")
    assert found.seeds == ((0, 0), (2, 2))
    expected = brute_force(
        *([rows_of(loss, seed, scores) for seed in (0, 2)] for loss in ("l1", "mse")), "psnr_y"
    )
    assert found.contrasts[0].comparison.mean == pytest.approx(expected[0])
    assert found.doubts == ("of mse, 1 seed has not finished; left out",)


def test_sides_without_a_seed_in_common_are_compared_by_their_means(tmp_path: Path) -> None:
    sweep = finished(tmp_path, lambda loss, seed, clip: {"psnr_y": 30 + 10 * seed + int(clip[1]) + len(loss)})
    found = seen(tmp_path, of(sweep, "l1", 0).trial_id, of(sweep, "mse", 2).trial_id)
    assert found.seeds == ()
    assert found.contrasts[0].comparison.mean == pytest.approx(-21)
    assert found.stream is Stream.OTHER_SEEDS


def test_so_are_unequally_many_seeds(tmp_path: Path) -> None:
    def by_seed(loss: str, seed: int, clip: str) -> dict[str, float]:
        return {"psnr_y": 30 + seed + 0.1 * int(clip[1])}

    finished(tmp_path, by_seed, name="first", parameters={"loss": ["l1"], "seed": [0, 1]})
    finished(tmp_path, by_seed, name="second", parameters={"loss": ["l1"], "seed": [2, 3, 4]})
    (contrast,) = seen(tmp_path, "first/l1", "second/l1").contrasts
    assert contrast.comparison.mean == pytest.approx(0.5 - 3)
    assert contrast.comparison.seed_spread == 0


def test_the_baseline_stands_against_each_seed(tmp_path: Path) -> None:
    finished(tmp_path, scores)
    found = seen(tmp_path, "bicubic", "l1")
    tables = [[rows_of("bicubic", 0, scores)] * 3, [rows_of("l1", seed, scores) for seed in range(3)]]
    assert found.contrasts[0].comparison.mean == pytest.approx(brute_force(tables[0], tables[1], "psnr_y")[0])
    assert found.contrasts[0].better == 1
    assert found.settings == ()
    assert found.stream is Stream.NONE
    assert found.costs[0] is None


def test_the_clips_where_they_differ_most_come_from_both_ends(tmp_path: Path) -> None:
    def uneven(loss: str, seed: int, clip: str) -> dict[str, float]:
        place = [name for name, _ in CLIPS].index(clip)
        return {"psnr_y": 30 + (place - 7) * (loss == "l1") + 0 * seed}

    finished(tmp_path, uneven)
    found = seen(tmp_path, "l1", "mse")
    gains = [round(clip.first - clip.second) for clip in found.clips]
    assert gains == [8, 7, 6, -5, -6, -7]


def test_few_pictures_are_told_from_no_difference(tmp_path: Path) -> None:
    sweep = finished(tmp_path, scores)
    assert seen(tmp_path, "l1", "mse").smallest_p == pytest.approx(2 * 2**-7)
    for trial in sweep.trials:
        sweep.ledger(trial).write_evaluation(rows_of(trial.candidate, 0, scores, CLIPS[:8]))
    found = seen(tmp_path, "l1", "mse")
    assert found.smallest_p == pytest.approx(2 * 2**-3)
    assert not any(contrast.better is not None for contrast in found.contrasts)


# --- what differs, and what forbids a comparison ---


def test_only_differing_keys_are_told_and_losses_as_sums(tmp_path: Path) -> None:
    sweep = finished(
        tmp_path,
        scores,
        parameters={
            "loss": ["l1", "0.5*l1 + 0.5*ssim"],
            "optimizer.learning_rate": [1e-3, 2e-3],
            "seed": [0],
        },
    )
    first, second = sweep.trials[0], sweep.trials[-1]
    told = {s.key: (s.first, s.second) for s in seen(tmp_path, first.trial_id, second.trial_id).settings}
    assert told == {"loss.terms": ("l1", "0.5*l1 + 0.5*ssim"), "optimizer.learning_rate": ("0.001", "0.002")}


def test_a_section_that_only_one_has_is_one_line(tmp_path: Path) -> None:
    finish(plain := lone_trial(tmp_path, loss="l1"), rows_of("l1", 0, scores))
    finish(gan := lone_trial(tmp_path, loss="l1 + 0.01*gan_vanilla", seed=0), rows_of("gan", 0, scores))
    told = {s.key: (s.first, s.second) for s in seen(tmp_path, plain.folder.name, gan.folder.name).settings}
    assert told["loss.terms"] == ("l1", "l1 + 0.01*gan_vanilla")
    assert told["adversarial"][0] == "none"
    assert told["adversarial"][1].endswith(" settings")
    assert told.keys() == {"loss.terms", "adversarial"}


def test_of_a_loss_with_several_settings_the_best_validated_stands(tmp_path: Path) -> None:
    parameters = {"loss": ["l1", "mse"], "optimizer.learning_rate": [1e-3, 2e-3], "seed": [0]}
    sweep = finished(tmp_path, scores, parameters=parameters)
    best = next(t for t in sweep.trials if t.candidate == "mse" and t.config.optimizer.learning_rate == 2e-3)
    validated(sweep.ledger(best), 40, better=1.0)
    (member,) = find_sides(tmp_path, "l1", "mse", sweep_id=None)[1].members
    assert member.ledger.folder.name == best.trial_id


@pytest.mark.parametrize(
    ("hashed", "step", "relation"),
    [("", 40, Stream.SAME), ("f" * 64, 40, Stream.DIFFERENT), ("f" * 64, 20, Stream.OTHER_LENGTH)],
)
def test_whether_they_saw_the_same_stream(tmp_path: Path, hashed: str, step: int, relation: Stream) -> None:
    sweep = finished(tmp_path, scores)
    ledger = sweep.ledger(of(sweep, "mse", 1))
    finish(ledger, ledger.evaluation(), step=step, stream_hash=hashed)
    assert seen(tmp_path, "l1", "mse").stream is relation


def test_other_held_out_clips_forbid_a_comparison(tmp_path: Path) -> None:
    sweep = finished(tmp_path, scores)
    finish(lone := lone_trial(tmp_path, loss="ssim"), rows_of("ssim", 0, scores, CLIPS[:-2]))
    found = seen(tmp_path, of(sweep, "l1").trial_id, lone.folder.name)
    assert found.not_comparable == (
        "they were judged on different held-out clips: 14 in common, 2 only of l1 seed=0, 0 only of ssim",
    )
    assert found.contrasts == found.clips == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": 4}, "one enlarges x2 and the other x4"),
        (
            {"degradation": "bilinear"},
            "their LR pictures are made in different ways (type=bicubic_aa; type=bilinear",
        ),
    ],
)
def test_another_scale_or_degradation_forbids_a_comparison(tmp_path: Path, changes: dict, words: str) -> None:
    sweep = finished(tmp_path, scores)
    finish(lone := lone_trial(tmp_path, loss="l1", **changes), rows_of("l1", 0, scores))
    (why,) = seen(tmp_path, of(sweep, "l1").trial_id, lone.folder.name).not_comparable
    assert why.startswith(words)


def test_another_data_set_is_doubted_loudly(tmp_path: Path) -> None:
    sweep = finished(tmp_path, scores)
    data = {"path": "/data/photos", "patch_size": 32, "fingerprint": "cd" * 32}
    finish(lone := lone_trial(tmp_path, loss="l1", data=data), rows_of("l1", 0, scores))
    found = seen(tmp_path, of(sweep, "mse").trial_id, lone.folder.name)
    assert found.contrasts
    assert "the data sets differ (fingerprints abababababab and cdcdcdcdcdcd)" in found.doubts[0]


def test_a_metric_measured_by_another_convention_is_left_out(tmp_path: Path) -> None:
    sweep = finished(tmp_path, scores)
    for loss, convention in (("l1", "luma"), ("mse", "three channels")):
        metrics = {
            "psnr_y": {"convention": convention, "protocol": {"crop": "scale"}},
            "gmsd": {"convention": "", "protocol": {}},
        }
        for seed in range(3):
            path = sweep.ledger(of(sweep, loss, seed)).folder / "summary.json"
            path.write_text(json.dumps({"metrics": metrics}))
    found = seen(tmp_path, "l1", "mse")
    assert [contrast.metric for contrast in found.contrasts] == ["gmsd"]
    assert "PSNR-Y is left out: it was measured by different conventions (luma; " in found.doubts[0]


def test_unfinished_trials_are_compared_at_their_latest_common_validation(tmp_path: Path) -> None:
    sweep = planned(tmp_path, parameters={"loss": ["l1", "mse"], "seed": [0]})
    validated(sweep.ledger(of(sweep, "l1")), 20, 40, 60, better=0.5)
    validated(sweep.ledger(of(sweep, "mse")), 20, 40)
    found = seen(tmp_path, "l1", "mse")
    assert found.contrasts == ()
    assert found.validation is not None
    assert found.validation.step == 40
    assert found.validation.values["psnr_y"] == pytest.approx((30.9, 30.4))


# --- names ---


def test_the_ways_to_name_a_side(tmp_path: Path) -> None:
    sweep = finished(tmp_path, scores)
    trial = of(sweep, "l1", 1)
    folder = sweep.ledger(trial).folder
    for name in (trial.trial_id, trial.trial_id[:6], "2", "l1 seed=1", str(folder), f"made/{trial.trial_id}"):
        side = find_sides(tmp_path, name, "mse", sweep_id=None)[0]
        assert (side.name, side.origin) == ("l1 seed=1", f"trial {trial.trial_id}")
    relative = find_sides(tmp_path, str(folder.relative_to(tmp_path)), "mse", sweep_id="made")[0]
    assert relative.name == "l1 seed=1"


def test_losses_of_two_sweeps_and_of_the_sweep_of_the_trial(tmp_path: Path) -> None:
    finished(tmp_path, scores, name="older", trial={"model": {"type": "espcn", "channels": 8}})
    newer = finished(tmp_path, scores, name="newer")
    sides = find_sides(tmp_path, "older/l1", "newer/l1", sweep_id=None)
    assert [side.name for side in sides] == ["l1 (older-123abc)", "l1 (newer-123abc)"]
    (tmp_path / "sweeps" / "older-123abc" / "plan.json").touch()
    trial = of(newer, "l1").trial_id
    # The latest sweep is the older one, but the loss is meant of the one that the trial is of.
    assert find_sides(tmp_path, trial, "mse", sweep_id=None)[1].origin == "loss of newer-123abc"
    assert find_sides(tmp_path, "l1", "mse", sweep_id=None)[1].origin == "loss of older-123abc"
    assert find_sides(tmp_path, "l1", "mse", sweep_id="new")[1].origin == "loss of newer-123abc"


def test_two_lone_trials_need_no_sweep(tmp_path: Path) -> None:
    lone = [lone_trial(tmp_path, loss=loss) for loss in ("l1", "mse")]
    for ledger, loss in zip(lone, ("l1", "mse"), strict=True):
        finish(ledger, rows_of(loss, 0, scores))
    found = seen(tmp_path, *(ledger.folder.name for ledger in lone))
    assert [side.name for side in found.sides] == ["l1", "mse"]
    assert found.contrasts[0].better == 0


def test_names_that_mean_nothing_or_too_much(tmp_path: Path) -> None:
    sweep = finished(tmp_path, scores)
    twin = of(sweep, "l1")
    config = sweep.ledger(twin).config()
    from sr.ledger import Ledger

    Ledger(tmp_path / "trials" / twin.trial_id).create(config, command="")

    def refused(first: str, second: str = "mse") -> str:
        with pytest.raises(ConfigError) as caught:
            find_sides(tmp_path, first, second, sweep_id=None)
        return str(caught.value)

    assert "unknown loss or trial of made-123abc 'msee'. Did you mean 'mse'?" in refused("msee", "l1")
    both = f"sweeps/made-123abc/trials/{twin.trial_id}, trials/{twin.trial_id}"
    assert refused(twin.trial_id) == f"compare: '{twin.trial_id}' fits several trials; give one of: {both}"
    assert "one and the same" in refused("mse")
    assert "has not been evaluated yet" not in refused("99")


# --- words ---


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setenv("COLUMNS", "60")

    def call(first: str, second: str, *, as_json: bool = False) -> tuple[int, str, str]:
        code = compared.show(first, second, sweep_id=None, store=tmp_path, as_json=as_json)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_what_is_said(tmp_path: Path, shown: Shown) -> None:
    finished(tmp_path, scores)
    code, text, _ = shown("l1", "mse")
    lines = text.splitlines()
    assert code == 0
    assert not any(line != line.rstrip() for line in lines)
    assert any(line.split() == ["loss.terms", "l1", "mse"] for line in lines)
    assert "both saw the same samples and crops in the same order, 40 steps each" in lines
    # However narrow a terminal says it is: what goes into a pipe is not folded.
    (psnr,) = [line for line in lines if line.startswith("PSNR-Y ")]
    assert psnr.endswith("  l1 is better")
    (gmsd,) = [line for line in lines if line.startswith("GMSD ↓")]
    assert gmsd.endswith("  not distinguishable")
    assert "l1 is better on PSNR-Y; not distinguishable on GMSD." in lines
    assert (
        "p is that of this one pair, adjusted over these 2 metrics; the report's is adjusted over all losses of the sweep"
        in lines
    )
    cost = lines.index("cost of a training  time  patches/s  device-hours")
    assert lines[cost + 1].split() == ["l1", "36", "s", "100.0", "0.0100"]


@pytest.mark.parametrize(
    ("clip", "title"), [("a/chelsea.png#2", "a/chelsea.png, tile 3"), ("c#x", "c#x"), ("c", "c")]
)
def test_clips_are_called_as_in_the_report(clip: str, title: str) -> None:
    assert compared._clip_title(clip) == title


def test_json_holds_the_same(tmp_path: Path, shown: Shown) -> None:
    finished(tmp_path, scores)
    code, text, _ = shown("l1", "bicubic", as_json=True)
    found = json.loads(text)
    assert code == 0
    assert found["comparable"]
    assert found["metrics"]["psnr_y"]["mean"] == pytest.approx(
        found["metrics"]["psnr_y"]["first"] - found["metrics"]["psnr_y"]["second"]
    )
    assert [side["name"] for side in found["sides"]] == ["l1", "bicubic"]
    assert found["sides"][0]["cost"] == {"seconds": 36.0, "images_per_second": 100.0, "device_hours": 0.01}


def test_what_cannot_be_compared_says_why_and_ends_with_1(tmp_path: Path, shown: Shown) -> None:
    sweep = finished(tmp_path, scores)
    finish(lone := lone_trial(tmp_path, loss="ssim"), rows_of("ssim", 0, scores, CLIPS[:-2]))
    names = of(sweep, "l1").trial_id, lone.folder.name
    code, text, problem = shown(*names)
    assert code == 1
    assert problem.startswith("not comparable: they were judged on different held-out clips")
    assert "PSNR" not in text
    assert shown(*names, as_json=True)[0] == 1


def test_unfinished_ones_are_said_to_be_so(tmp_path: Path, shown: Shown) -> None:
    sweep = planned(tmp_path, parameters={"loss": ["l1", "mse"], "seed": [0]})
    _, text, _ = shown("l1", "mse")
    assert "so there is nothing to compare" in text
    for trial in sweep.trials:
        sweep.ledger(trial).set_status(Status(State.RUNNING, step=30))
        validated(sweep.ledger(trial), 20)
    _, text, _ = shown("l1", "mse")
    assert "l1 has no results on the held-out clips yet (running)" in text
    assert "the validation at step 20, their latest common one; it proves nothing" in text
    assert isinstance(find_sides(tmp_path, "l1", "mse", sweep_id=None)[0], Side)
