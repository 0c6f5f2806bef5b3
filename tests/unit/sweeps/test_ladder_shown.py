"""What is shown of a ladder: printed, as JSON, on its page, in the report of a sweep, and while it is climbed."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from sr import checkpoint
from sr.ladder.records import RECORD, Comparison, Interval, Network, Outcome, read_records, stage_folder
from sr.ledger import Ledger, State, Status
from sr.parts import build_generator
from sweeps.cli.follow import Follow
from sweeps.cli.ladder_shown import show
from sweeps.evaluation import evaluate_trial
from sweeps.interrupt import Interruption
from sweeps.rank import _Reporter
from sweeps.report.collect_ladders import collect_ladders
from sweeps.report.ladder import read_ladder
from sweeps.report.ladder_page import render_ladder
from sweeps.report.render import render
from sweeps.report.svg import clean
from sweeps.spec import expand, parse_sweep
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep
from sweeps.watch import SweepWatch
from tests.conftest import tiny_trial
from tests.ladder_sample import FINDING, QUALITY, TRANSFER, evaluated, planted, record
from tests.report_sample import NASTY, sample

Said = Callable[..., str]


@pytest.fixture
def ladder(photos: Path, tmp_path: Path) -> Path:
    """Three stages, evaluated."""
    folder = tmp_path / "runs" / "trials" / "abc123"
    records = [record(stage) for stage in range(3)]
    planted(folder, photos, records)
    evaluated(folder, photos, records)
    return folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def shown(trial: Path | str, **options: Any) -> str:
        show(str(trial), **{"out": None, "store": None, "as_json": False} | options)
        return capsys.readouterr().out

    return shown


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)]


# --- printed ----------------------------------------------------------------------------------------------------------


def test_records_come_back_as_they_were_written(ladder: Path) -> None:
    assert read_records(ladder) == [record(stage) for stage in range(3)]


def test_every_stage_is_printed_with_its_numbers(ladder: Path, said: Said) -> None:
    lines = [" ".join(line.split()) for line in said(ladder).splitlines()]
    assert "1 1200 budget spent 28.99 [28.68, 29.30] +0.58 [+0.48, +0.68]" in "\n".join(lines)
    assert (
        "0 0.931 [0.901, 0.961] \u2013 \u2013 no perceptual network 0.950 [0.930, 0.970] 0.962 [0.932, 0.992] 0.950 [0.920, 0.980]"
        in lines
    )
    assert (
        "2 0.781 [0.751, 0.811] 0.776 [0.746, 0.806] +0.005 [\u22120.015, +0.025] equally good 0.790 [0.770, 0.810] 0.803 [0.773, 0.833] 0.950 [0.920, 0.980]"
        in lines
    )
    assert lines[lines.index("k\\j 0 1 2") + 1 :][:3] == [
        "0 0.950 0.610 0.430",
        "1 0.980 0.880 0.570",
        "2 0.990 0.930 0.790",
    ]
    assert f"found: {FINDING}" in lines
    assert "1 1a1a1a1a1a1a 1b1b1b1b1b1b 0b0b0b0b0b0b" in lines
    assert "stage 1 looked through: discriminator of stage 0" in lines
    assert lines[-3:] == [
        "Ended after stage 2: discriminator and perceptual network are equally good.",
        "AUC differs by 0.005 [-0.015, 0.025], within the margin of 0.05",
        f"page: {ladder / 'ladder.html'}",
    ]
    assert (ladder / "ladder.html").exists()


def test_quality_on_test_clips_is_their_mean(ladder: Path, said: Said) -> None:
    stage = json.loads(said(ladder, as_json=True))["stages"][1]
    rows = Ledger(stage_folder(ladder, 1)).evaluation()
    assert stage["test"]["mean"] == pytest.approx(sum(row["psnr_y"] for row in rows) / len(rows))
    assert stage["test"]["low"] < stage["test"]["mean"] < stage["test"]["high"]


def test_json_holds_the_records_and_nothing_else_is_done(ladder: Path, said: Said) -> None:
    plain = json.loads(said(ladder, as_json=True))
    for stage, found in enumerate(plain["stages"]):
        wanted = json.loads(json.dumps(asdict(record(stage))))
        assert {name: found[name] for name in wanted} == wanted
        assert found["folder"] == str(stage_folder(ladder, stage))
    assert plain["transfer"] == [list(row) for row in TRANSFER]
    assert (plain["outcome"], plain["state"]) == ("equally_good", "finished")
    assert not (ladder / "ladder.html").exists()


def test_json_has_no_numbers_that_json_has_not(photos: Path, tmp_path: Path, said: Said) -> None:
    planted(tmp_path, photos, [record(0, own_judgement=Interval(math.nan, math.nan, math.inf))])
    (stage,) = json.loads(said(tmp_path, as_json=True))["stages"]
    assert stage["own_judgement"] == {"value": None, "low": None, "high": None}


def test_a_trial_is_found_by_the_beginning_of_its_id(ladder: Path, said: Said, tmp_path: Path) -> None:
    page = tmp_path / "elsewhere" / "page.html"
    assert f"page: {page}" in said("abc", store=tmp_path / "runs", out=page)
    assert page.exists()
    assert not (ladder / "ladder.html").exists()
    with pytest.raises(ValueError, match="'xyz': is no trial"):
        said("xyz", store=tmp_path / "runs")


@pytest.mark.parametrize(
    ("stages", "status", "wanted"),
    [
        (0, Status(State.PENDING), "Not begun yet."),
        (2, Status(State.RUNNING), "Stage 2 was interrupted: step 2,100 of at most 12 of all stages."),
        (1, Status(State.FAILED, "NaN in l1"), "Failed in stage 1, not by the stop rule: NaN in l1."),
    ],
)
def test_a_ladder_that_has_not_ended_says_where_it_is(
    photos: Path, tmp_path: Path, said: Said, stages: int, status: Status, wanted: str
) -> None:
    planted(tmp_path, photos, [record(stage) for stage in range(stages)]).set_status(status)
    text = said(tmp_path)
    assert wanted in text
    assert text.count("not evaluated yet") == stages
    assert wanted in html.unescape((tmp_path / "ladder.html").read_text())


def test_a_stop_rule_that_is_not_binding_is_told_and_the_ladder_went_on(
    photos: Path, tmp_path: Path, said: Said
) -> None:
    planted(tmp_path, photos, [record(0, decision=Outcome.NO_GAIN), record(1)])
    assert (
        "stage 0: converged (nothing got better over 5 validations); no gain in quality; goes on all the same"
        in said(tmp_path)
    )


def test_what_is_no_ladder_or_damaged_is_refused(
    photos: Path, tmp_path: Path, ladder: Path, said: Said
) -> None:
    planted(tmp_path / "plain", photos, [], ladder=None)
    with pytest.raises(ValueError, match="this trial is no ladder"):
        said(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"no trial here \(state.json is missing\)"):
        said(photos)
    path = stage_folder(ladder, 1) / RECORD
    path.write_text(path.read_text().replace('"ended"', '"end"'))
    with pytest.raises(ValueError, match=r"stages/1/stage.json: damaged .*'ended'"):
        said(ladder)


def test_a_metric_that_tests_do_not_measure_is_told(photos: Path, tmp_path: Path, said: Said) -> None:
    records = [record(0, quality_metric="lpips")]
    planted(tmp_path, photos, records)
    evaluated(tmp_path, photos, records)
    assert "stage 0, test clips: not measured on the test clips; add lpips to evaluation.metrics" in said(
        tmp_path
    )
    planted(tmp_path / "other", photos, [record(0, quality_metric="beauty")])
    with pytest.raises(ValueError, match="judged by 'beauty', which this srloss does not have"):
        said(tmp_path / "other")


# --- its page ---------------------------------------------------------------------------------------------------------


def test_the_page_asks_nothing_of_the_network_and_holds_every_number(ladder: Path) -> None:
    page = render_ladder(read_ladder(ladder))
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    text = html.unescape(page)
    for number in (
        "28.42",
        "29.05",
        "0.931",
        "+0.041",
        "[\u22120.015, +0.025]",
        "0.43",
        FINDING,
        "2b2b2b2b2b2b",
    ):
        assert number in text, number


def test_every_stage_is_drawn_and_every_discriminator_on_every_generator(ladder: Path) -> None:
    charts = drawings(render_ladder(read_ladder(ladder)))
    quality, _, aucs, _ = (chart for chart in charts if chart.get("class") == "chart stages")
    (matrix,) = (chart for chart in charts if chart.get("class") == "chart matrix")
    texts = [
        text.text for text in matrix.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "value"
    ]
    assert texts == [f"{value:.2f}" for row in TRANSFER for value in row]

    def marks(chart: ElementTree.Element) -> dict[str | None, int]:
        series = [group for group in chart.iter("{http://www.w3.org/2000/svg}g") if group.get("data-loss")]
        return {
            group.get("data-loss"): sum("mark" in (e.get("class") or "").split() for e in group.iter())
            for group in series
        }

    assert marks(quality) == {"validation": 3, "test": 3}
    assert marks(aucs) == {"discriminator": 3, "perceptual": 2, "fresh": 2}


def test_crops_show_every_stage_where_they_differ_most_first(ladder: Path) -> None:
    page = render_ladder(read_ladder(ladder))
    labels = re.findall(r'data-label="(.*?)"', page)
    assert labels == ["LR", "bicubic", "stage 0", "stage 1", "stage 2", "HR"] * 3
    spreads = [float(found) for found in re.findall(r"of the stages differs by ([\d.]+) here", page)]
    assert len(spreads) == 3
    assert spreads == sorted(spreads, reverse=True)
    assert 'data-a="2" data-b="4"' in page


def test_without_its_data_set_the_page_has_no_pictures(ladder: Path) -> None:
    found = read_ladder(ladder)
    data = found.config.data.model_copy(update={"path": "/gone"})
    page = render_ladder(replace(found, config=found.config.model_copy(update={"data": data})))
    assert "their data set is not here" in page
    assert "data-label" not in page


def test_names_are_escaped_and_numbers_that_cannot_be_drawn_left_out(photos: Path, tmp_path: Path) -> None:
    nan = Interval(math.nan, math.nan, math.nan)
    nasty = record(
        0,
        perceptual=(Network(NASTY, NASTY),),
        generator=Network(NASTY, NASTY),
        ended_why=NASTY,
        decision_why=NASTY,
        findings=(NASTY,),
        quality=nan,
        own_judgement=nan,
        judged_by=(math.nan,),
        on_generators=(math.nan,),
        comparison=Comparison.UNDECIDABLE,
        decision=Outcome.UNDECIDABLE,
        is_last=True,
    )
    planted(tmp_path, photos, [nasty], name=NASTY.replace("\x00", "").replace("\x08", ""))
    page = render_ladder(read_ladder(tmp_path))
    assert "<script>alert" not in page
    assert html.unescape(page).count(clean(NASTY)) >= 4
    for drawing in drawings(page):
        for element in drawing.iter():
            for name, value in element.attrib.items():
                assert name == "aria-label" or not re.search(r"\bnan\b|\binf\b", value), (
                    element.tag,
                    name,
                    value,
                )


# --- in the report of a sweep -----------------------------------------------------------------------------------------


@pytest.fixture
def sweep(photos: Path, tmp_path: Path) -> Sweep:
    """A loss with a ladder and one without, two seeds each; of the ladder's second seed two stages."""
    trial = tiny_trial(photos, ladder={"stages": 3})
    data = {
        "name": "t",
        "trial": trial,
        "parameters": {"loss": ["l1 + 0.01*gan_vanilla", "l1"], "seed": [0, 1]},
    }
    config = parse_sweep(data, where="test")
    made = Sweep(config, list(expand(config)), SweepFolder(tmp_path / "sweeps" / "t-1"), "test")
    for one in made.trials:
        ledger = made.ledger(one)
        ledger.create(one.config, command="test")
        if one.config.ladder is not None:
            count = 3 - one.config.seed
            planted(ledger.folder, photos, [record(stage) for stage in range(count)])
    return made


def test_the_report_shows_the_ladders_of_a_sweep(sweep: Sweep) -> None:
    (ladders,) = collect_ladders(sweep.trials, sweep)
    assert ladders.candidate == "l1 + 0.01*gan_vanilla"
    assert [len(trial.stages) for trial in ladders.trials] == [3, 2]
    assert ladders.trials[0].stages[1].quality == QUALITY[1]
    data = sample(num_losses=2, num_crops=0)
    page = render(replace(data, ladders=(replace(ladders, candidate=data.candidates[0].name),)))
    start = page.index('id="ladders"')
    section = html.unescape(page[start : page.index("</section>", start)])
    rows = re.findall(r'<th scope="row">(\d)</th>(.*?)</tr>', section)
    cells = [re.findall(r'<td class="num">(.*?)</td>', row) for _, row in rows]
    assert cells == [
        ["2", "28.42", "0.931", "\u2013", "0.962"],
        ["2", "28.99", "0.834", "0.793", "\u2013"],
        ["1", "29.05", "0.781", "0.776", "0.803"],
    ]
    assert section.count('class="seed"') == 2 * (4 + 4 + 2 + 2)
    assert "Ended after stage 2: discriminator and perceptual network are equally good." in section
    assert f"stage 1: {FINDING}" in section
    assert f"srloss ladder show {sweep.ledger(sweep.trials[0]).folder}" in section
    assert 'id="ladders"' not in render(data)


def test_a_damaged_ladder_does_not_cost_the_report_and_is_told(sweep: Sweep) -> None:
    climbed = next(trial for trial in sweep.trials if trial.config.ladder is not None)
    (stage_folder(sweep.ledger(climbed).folder, 0) / RECORD).write_text("{")
    (ladders,) = collect_ladders(sweep.trials, sweep)
    assert "stage.json: damaged" in ladders.trials[0].outcome
    assert ladders.trials[0].stages == ()
    hostile = replace(
        ladders,
        candidate=sample().candidates[0].name,
        trials=tuple(
            replace(one, outcome=NASTY, why=NASTY, findings=(NASTY,), settings=NASTY, command=NASTY)
            for one in ladders.trials
        ),
    )
    page = render(replace(sample(num_crops=0), ladders=(hostile,)))
    assert "<script>alert" not in page
    assert all(drawings(page))


# --- while it is climbed ----------------------------------------------------------------------------------------------


def test_each_stage_of_a_sweeps_trial_is_told_once(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    trial = sweep.trials[0]
    ledger = sweep.ledger(trial)
    ledger.append({"kind": "stage", "step": 2, "stage": 0, "message": "told by an earlier run"})
    watch = SweepWatch(sweep, Follow(sweep), sweep.trials, Interruption(30))
    ledger.append({"kind": "stage", "step": 4, "stage": 1, "message": "stage 1 converged"})
    for _ in range(2):
        watch.validated(trial.trial_id, {"step": 5, sweep.config.metric.name: 30.0})
    ledger.append({"kind": "stage", "step": 9, "stage": 2, "message": "stage 2 converged"})
    ledger.set_status(Status(State.FINISHED, "equally good", step=9))
    watch.ended(trial.trial_id)
    told = [line for line in capsys.readouterr().out.splitlines() if " stage " in line]
    name = f"  {trial.candidate} {trial.settings}: "
    assert told == [f"{name}stage 1 converged", f"{name}stage 2 converged"]


def test_a_trial_by_hand_tells_its_stages_between_its_validations(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = planted(tmp_path, photos, [])
    report = _Reporter(ledger)
    report({"step": 4, "val/psnr_y": 30.0})
    ledger.append({"kind": "stage", "step": 4, "stage": 0, "message": "stage 0 converged"})
    report({"step": 8, "val/psnr_y": 31.0})
    ledger.append({"kind": "stage", "step": 8, "stage": 1, "message": "stage 1 converged"})
    report.tell_stages()
    report.tell_stages()
    assert capsys.readouterr().out.splitlines() == [
        "  step 4 of 12: val/psnr_y 30.0000",
        "  stage 0 converged",
        "  step 8 of 12: val/psnr_y 31.0000",
        "  stage 1 converged",
    ]


# --- evaluated --------------------------------------------------------------------------------------------------------


def test_every_stage_is_evaluated_once_and_the_trial_is_what_its_checkpoints_are(
    photos: Path, tmp_path: Path
) -> None:
    records = [record(0), record(1, is_last=True, decision=Outcome.BUDGET)]
    ledger = planted(tmp_path, photos, records)
    config = ledger.config()
    for one in records:
        generator = build_generator(config.model, scale=config.scale, seed=0)
        # A new generator is bicubic, whatever its seed.
        torch.nn.init.constant_([*generator.parameters()][-1], 0.02 * one.stage)
        folder = stage_folder(tmp_path, one.stage) / "checkpoints"
        checkpoint.save(folder, step=4, state={"ema": generator.state_dict()}, keep=2)
    ledger.checkpoints.symlink_to("stages/1/checkpoints")

    stages = [Ledger(stage_folder(tmp_path, one.stage)) for one in records]
    assert evaluate_trial(tmp_path) == len(ledger.evaluation()) > 0
    first, second = (stage.evaluation() for stage in stages)
    assert first != second == ledger.evaluation()
    assert ledger.summary() == stages[1].summary() != stages[0].summary()
    for picture in (stages[1].folder / "crops").iterdir():
        assert (ledger.folder / "crops" / picture.name).read_bytes() == picture.read_bytes()

    marked = [{**row, "psnr_y": 1.0} for row in first]
    stages[0].write_evaluation(marked)
    (ledger.folder / "evaluation.jsonl").unlink()
    evaluate_trial(tmp_path)
    assert stages[0].evaluation() == marked
    assert ledger.evaluation() == second


def test_a_stage_without_a_sound_checkpoint_is_told_and_the_trial_evaluated(
    photos: Path, tmp_path: Path
) -> None:
    ledger = planted(tmp_path, photos, [record(0), record(1)])
    config = ledger.config()
    generator = build_generator(config.model, scale=config.scale, seed=0)
    folder = stage_folder(tmp_path, 1) / "checkpoints"
    checkpoint.save(folder, step=4, state={"ema": generator.state_dict()}, keep=2)
    ledger.checkpoints.symlink_to("stages/1/checkpoints")
    evaluate_trial(tmp_path)
    assert ledger.evaluation() == Ledger(stage_folder(tmp_path, 1)).evaluation()
    (row,) = ledger.rows("problem")
    assert "stages/0: no sound checkpoint" in row["problem"]
