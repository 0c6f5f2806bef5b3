"""The verdict on sweeps whose outcome is known because the test wrote it: planted winners, ties and troubles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch

from sr.config import parse_trial
from sr.ledger import State, Status
from sr.resize import bicubic, upscale_bicubic
from sr.summary import Summary, WholeSet
from sweeps.deaths import write_death
from sweeps.report.collect import collect
from sweeps.report.render import render
from sweeps.spec import PlannedTrial, expand, parse_sweep
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep
from sweeps.verdict import Verdict, draw

CLIPS = [(f"picture{source}#{tile}", f"picture{source}") for source in range(8) for tile in range(3)]
DIFFICULTY = np.repeat(np.random.default_rng(0).normal(30, 4, 8), 3)
CONFIG = parse_trial({"scale": 2, "data": {"path": "nowhere"}, "loss": "l1"})
Gain = Callable[[PlannedTrial], float]


def planted(folder: Path, gain: Gain, *, noise: float = 0.05, **changes: Any) -> Sweep:
    """A finished sweep in which each trial is better than bicubic by `gain(trial)` dB, give or take `noise`."""
    data: dict[str, Any] = {
        "parameters": {"loss": ["l1", "mse", "ssim"], "seed": [0, 1, 2]},
        "trial": {"data": {"path": "nowhere"}},
    }
    config = parse_sweep({**data, **changes}, where="test")
    sweep = Sweep(
        config, tuple(expand(config)), SweepFolder(folder / "sweeps" / "test-1"), "srloss sweep test.yaml"
    )
    generator = np.random.default_rng(1)
    baseline = sweep.folder.baseline("bicubic")
    baseline.create(sweep.trials[0].config, command="")
    baseline.write_evaluation(rows(DIFFICULTY))
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        ledger.create(trial.config, command="srloss train x")
        ledger.begin_attempt()
        wanted = gain(trial)
        ledger.append(
            {
                "kind": "validation",
                "step": 10,
                "seconds": 1.0,
                "samples": 10,
                "val/psnr_y": 30 + wanted,
                "val/ssim_y": 0.9,
            }
        )
        ledger.write_evaluation(rows(DIFFICULTY + wanted + generator.normal(0, noise, len(CLIPS))))
        ledger.set_status(
            Status(State.FINISHED, "all 10 steps", 10, 1.0, 1, stream_hash=f"same{trial.config.data.seed}")
        )
    return sweep


def rows(psnr: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "clip": clip,
            "source": source,
            "psnr_y": float(p),
            "ssim_y": 0.9,
            "haarpsi": 0.9 + float(p) / 1e4,
            "gmsd": 0.1,
        }
        for (clip, source), p in zip(CLIPS, psnr, strict=True)
    ]


def by_loss(**gains: float) -> Gain:
    return lambda trial: gains[trial.candidate]


def names(verdict: Verdict) -> list[str]:
    return [candidate.name for candidate in verdict.ranking]


def test_a_clear_winner_is_named_first(tmp_path: Path) -> None:
    verdict = draw(planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5)))
    assert names(verdict) == ["l1", "mse", "ssim"]
    assert verdict.sentence.startswith("Train with l1: +1.5")
    assert "better than every other loss tried: mse −0.5" in verdict.sentence
    assert verdict.caveats == ()


def test_what_cannot_be_told_apart_is_not_ranked_in_words(tmp_path: Path) -> None:
    verdict = draw(planted(tmp_path, by_loss(l1=1.0, mse=1.0, ssim=0.2), noise=0.3))
    assert verdict.sentence.startswith("Train with ")
    head = verdict.sentence.split(",")[0]
    assert "l1" in head
    assert "mse" in head
    assert "Clearly worse: ssim −0.8" in verdict.sentence


def test_no_difference_at_all_is_said_so(tmp_path: Path) -> None:
    verdict = draw(planted(tmp_path, by_loss(l1=1.0, mse=1.0, ssim=1.0), noise=0.3))
    assert verdict.sentence.startswith("No loss is distinguishable from the best")


def test_losses_below_bicubic_are_not_recommended(tmp_path: Path) -> None:
    verdict = draw(planted(tmp_path, by_loss(l1=-0.5, mse=-0.6, ssim=-0.7)))
    assert verdict.sentence.startswith("None of the 3 losses beats bicubic")


def test_a_difference_smaller_than_the_spread_of_seeds_is_no_win(tmp_path: Path) -> None:
    """Equal on average over many seeds, but one of them lucky with these three."""

    def gain(trial: PlannedTrial) -> float:
        return {"l1": (0.1, 1.0, 1.9), "mse": (1.4, 0.9, -0.4), "ssim": (0.0, 0.0, 0.0)}[trial.candidate][
            trial.config.seed
        ]

    verdict = draw(planted(tmp_path, gain))
    comparison = verdict.to_best["psnr_y"]["mse"]
    assert abs(comparison.mean) < comparison.seed_spread
    assert not comparison.is_clear
    assert not verdict.sentence.startswith("Train with l1:")


def test_a_loss_with_a_failed_seed_is_left_out_and_named(tmp_path: Path) -> None:
    sweep = planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    lost = next(trial for trial in sweep.trials if trial.candidate == "l1")
    sweep.ledger(lost).set_status(Status(State.FAILED, "the loss is nan"))
    verdict = draw(sweep)
    assert names(verdict) == ["mse", "ssim"]
    assert "l1 is left out of the ranking: 2 of its 3 seeds finished and were evaluated." in verdict.caveats
    assert any("1 of 9 trials failed" in caveat for caveat in verdict.caveats)


def test_a_running_sweep_is_judged_on_the_seeds_all_losses_have(tmp_path: Path) -> None:
    sweep = planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    for trial in sweep.trials:
        if trial.config.seed == 2 or (trial.candidate, trial.config.seed) == ("mse", 0):
            sweep.ledger(trial).set_status(Status(State.RUNNING))
    verdict = draw(sweep)
    assert names(verdict) == ["l1", "mse", "ssim"]
    assert {tuple(t.config.seed for t in candidate.trials) for candidate in verdict.ranking} == {(1,)}
    assert any("have not finished; this is a verdict so far" in caveat for caveat in verdict.caveats)


def test_nothing_finished_is_no_verdict_but_a_report_all_the_same(tmp_path: Path) -> None:
    sweep = planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    for trial in sweep.trials:
        sweep.ledger(trial).set_status(Status(State.FAILED, "the loss is nan"))
    verdict = draw(sweep)
    assert verdict.sentence.startswith("No verdict: no trial")
    assert "the loss is nan" in render(collect(sweep, verdict))


def test_tuning_is_decided_on_validation_and_never_on_the_held_out_clips(tmp_path: Path) -> None:
    parameters = {"loss": ["l1", "mse"], "seed": [0, 1, 2], "optimizer.learning_rate": [1e-3, 1e-4]}
    sweep = planted(tmp_path, lambda _trial: 1.0, parameters=parameters)
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        low = trial.config.optimizer.learning_rate == 1e-4
        ledger.append(
            {
                "kind": "validation",
                "step": 10,
                "seconds": 1.0,
                "samples": 1,
                "val/psnr_y": 35.0 if low else 20.0,
                "val/ssim_y": 0.9,
            }
        )
        ledger.write_evaluation(rows(DIFFICULTY + (0.5 if low else 3.0)))
    verdict = draw(sweep)
    assert {t.config.optimizer.learning_rate for c in verdict.ranking for t in c.trials} == {1e-4}
    assert all(c.measured["psnr_y"].mean == pytest.approx(DIFFICULTY.mean() + 0.5) for c in verdict.ranking)


def test_a_met_wall_time_cap_is_a_caveat(tmp_path: Path) -> None:
    sweep = planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    ledger = sweep.ledger(sweep.trials[0])
    ledger.set_status(dataclasses.replace(ledger.status(), met_wall_time_cap=True))
    assert any("1 of 9 compared trials met the wall-time cap" in caveat for caveat in draw(sweep).caveats)


def test_problems_that_a_trial_survived_are_a_caveat_and_stand_in_its_row(tmp_path: Path) -> None:
    sweep = planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    ledger = sweep.ledger(sweep.trials[0])
    for problem in ("the newest checkpoint is damaged", "the disk is full"):
        ledger.append({"kind": "problem", "step": 5, "problem": problem})
    write_death(sweep.ledger(sweep.trials[1]), "its process died")
    verdict = draw(sweep)
    assert [c for c in verdict.caveats if c.startswith("1 of 9 trials met problems")]
    rows_ = {row.trial_id: row.reason for row in collect(sweep, verdict).trials}
    assert rows_[sweep.trials[0].trial_id] == (
        "all 10 steps; survived: the newest checkpoint is damaged; survived: the disk is full"
    )
    assert rows_[sweep.trials[1].trial_id] == "all 10 steps"


def test_different_data_streams_are_a_caveat(tmp_path: Path) -> None:
    sweep = planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    ledger = sweep.ledger(sweep.trials[0])
    ledger.set_status(dataclasses.replace(ledger.status(), stream_hash="other"))
    assert any("did not consume the same samples" in caveat for caveat in draw(sweep).caveats)


def test_few_seeds_and_few_pictures_are_caveats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.CLIPS", CLIPS[:12])
    monkeypatch.setattr(f"{__name__}.DIFFICULTY", DIFFICULTY[:12])
    parameters = {"loss": ["l1", "mse"], "seed": [0]}
    verdict = draw(planted(tmp_path, by_loss(l1=2.0, mse=1.0), parameters=parameters))
    assert any(caveat.startswith("1 seed per loss") for caveat in verdict.caveats)
    assert any("4 held-out pictures cannot show a difference" in caveat for caveat in verdict.caveats)
    assert verdict.sentence.startswith("No loss is distinguishable")


@pytest.fixture(scope="module")
def photographs() -> list[torch.Tensor]:
    """One of 64 x 64 for each source of CLIPS, about equally hard; shape (1, 1, 3, 64, 64)."""
    coffee = torch.from_numpy(skimage.data.coffee()[100:164, 60:572]).permute(2, 0, 1).float() / 255
    return [coffee[None, None, ..., 64 * i : 64 * (i + 1)] for i in range(8)]


def seen(
    photographs: list[torch.Tensor],
    model: Callable[[torch.Tensor], torch.Tensor],
    *,
    psnr: np.ndarray = DIFFICULTY,
    step: int = 0,
) -> Summary:
    """What a model leaves of the photographs; `step` > 0 takes every such pixel for LR in place of antialiasing."""
    whole = WholeSet(CONFIG)
    for number, hr in enumerate(photographs):
        lr = hr[..., ::step, ::step] if step else bicubic(hr, height=32, width=32).clamp(0, 1)
        whole.see(f"picture{number}", lr=lr, hr=hr, sr=model(lr))
    return whole.summary(rows(psnr))


def cubic(lr: torch.Tensor) -> torch.Tensor:
    return upscale_bicubic(lr, 2)


def black(lr: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(cubic(lr))


def summarised(
    folder: Path, photographs: list[torch.Tensor], models: dict[str, Callable[..., torch.Tensor]], **how: Any
) -> Sweep:
    """A planted sweep whose trials, and bicubic, have looked at the photographs; cubic where no model is named."""
    sweep = planted(folder, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    found = {name: seen(photographs, model, **how) for name, model in {"other": cubic, **models}.items()}
    sweep.folder.baseline("bicubic").write_summary(found["other"])
    for trial in sweep.trials:
        sweep.ledger(trial).write_summary(found.get(trial.candidate, found["other"]))
    return sweep


def test_a_black_model_is_named_once_and_before_the_other_caveats(
    tmp_path: Path, photographs: list[torch.Tensor]
) -> None:
    sweep = summarised(tmp_path, photographs, {"mse": black, "ssim": black})
    ledger = sweep.ledger(sweep.trials[0])
    ledger.set_status(dataclasses.replace(ledger.status(), met_wall_time_cap=True))
    caveats = draw(sweep).caveats
    assert len(caveats) == 3
    assert caveats[0].startswith("mse and ssim: the output spans 0 to 0")
    assert caveats[1].startswith("mse and ssim: PSNR-RGB ")
    assert "no more than a black picture's" in caveats[1]
    assert caveats[1].endswith("(numbers of mse).")
    assert "met the wall-time cap" in caveats[2]


def test_below_bicubic_and_no_better_than_black_are_two_lines(
    tmp_path: Path, photographs: list[torch.Tensor]
) -> None:
    models = {"mse": black, "l1": lambda lr: cubic(lr).roll(1, dims=-1)}
    sweep = summarised(tmp_path, photographs, models)
    below = [caveat for caveat in draw(sweep).caveats if "is below bicubic's" in caveat]
    assert len(below) == 1
    assert below[0].startswith("l1: ")
    lucky = next(trial for trial in sweep.trials if trial.candidate == "l1")
    sweep.ledger(lucky).write_summary(seen(photographs, cubic))
    below = [caveat for caveat in draw(sweep).caveats if "is below bicubic's" in caveat]
    assert below[0].startswith("l1 (2 of 3 seeds): ")


def test_what_is_wrong_with_the_data_is_said_once_and_of_nobody(
    tmp_path: Path, photographs: list[torch.Tensor]
) -> None:
    caveats = draw(summarised(tmp_path, photographs, {}, step=2)).caveats
    assert len(caveats) == 1
    assert caveats[0].startswith(
        "The held-out pictures: LR differs from HR brought down by antialiased bicubic"
    )


def test_a_model_that_explodes_on_a_few_pictures_is_named_and_their_variety_is_not(
    tmp_path: Path, photographs: list[torch.Tensor]
) -> None:
    # Flat ones are restored exactly by all, which pulls the mean of the PSNRs up.
    varied = [torch.full_like(hr, 0.5) if i > 2 else hr for i, hr in enumerate(photographs)]
    assert not [c for c in draw(summarised(tmp_path / "a", varied, {})).caveats if "of the mean error" in c]

    darkest = min(photographs, key=lambda hr: hr.mean().item()).mean().item()
    models = {"mse": lambda lr: cubic(lr) + 0.8 * (lr.mean() < darkest + 1e-3)}
    caveats = draw(summarised(tmp_path / "b", photographs, models)).caveats
    assert [c[:14] for c in caveats if "of the mean error" in c] == ["mse: the mean "]


def test_the_report_tells_the_spread_and_what_is_told_from_real(
    tmp_path: Path, photographs: list[torch.Tensor]
) -> None:
    sweep = summarised(tmp_path, photographs, {"ssim": black})
    verdict = draw(sweep)
    data = collect(sweep, verdict)
    by_name = {row.name: row.on_whole_set for row in data.candidates}
    l1, worst = by_name["l1"], by_name["ssim"]
    assert l1 is not None
    assert worst is not None
    assert (l1.p5, l1.median, l1.p95) == pytest.approx(tuple(np.percentile(DIFFICULTY, (5, 50, 95))))
    assert l1.told_from_real == by_name["bicubic"].told_from_real  # type: ignore[union-attr]
    assert worst.told_from_real is not None
    assert worst.told_from_real.mean == 1.0
    page = render(data)
    assert "no more than a black picture" in page
    assert page.index("no more than a black picture") < page.index('id="main-table"')
    # One seed without a record: the mean of the others is not the loss's.
    (sweep.ledger(verdict.ranking[0].trials[0]).folder / "summary.json").unlink()
    assert collect(sweep, verdict).candidates[0].on_whole_set is None


def test_few_pictures_are_the_reason_why_nothing_is_told_from_real(
    tmp_path: Path, photographs: list[torch.Tensor]
) -> None:
    sweep = summarised(tmp_path, photographs[:3], {})
    data = collect(sweep, draw(sweep))
    assert data.why_not_told_from_real == "3 held-out pictures; it takes 4 or more"
    assert "not measured: 3 held-out pictures" in render(data)


def test_trials_that_would_be_judged_differently_are_refused() -> None:
    for name, values in (("scale", [2, 4]), ("evaluation.tile_size", [96, 144]), ("data.path", ["a", "b"])):
        data = {"parameters": {"loss": ["l1"], name: values}, "trial": {"data": {"path": "x"}}}
        with pytest.raises(ValueError, match="must be equal in all trials of a sweep"):
            expand(parse_sweep(data, where="test"))
