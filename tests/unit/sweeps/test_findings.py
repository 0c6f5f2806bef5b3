"""What the report tells beside the scores, against independent calculations: cost, clips, rungs, tuning, configurations."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr.config import parse_trial
from sr.ledger import Ledger, State, Status
from sweeps.report.clips import NUM_EXTREMES, clips_view, extremes
from sweeps.report.collect import collect
from sweeps.report.collect_findings import _streams, collect_findings, collect_histories, environments
from sweeps.report.collect_rungs import judged_at, rung_steps
from sweeps.report.data import ReportData
from sweeps.report.findings import PURPOSES, ClipScores, Findings
from sweeps.report.found import found
from sweeps.report.history import History, Validation, read_history
from sweeps.report.numbers import device_unit
from sweeps.report.palette import looks
from sweeps.report.tuning import log_marks, tuning_view
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep
from sweeps.verdict import draw
from tests.report_sample import sample
from tests.unit.sweeps.test_verdict import CONFIG, by_loss, planted

METRIC = "val/psnr_y"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, ReportData]:
    """A finished sweep of three losses and three seeds, and what its report shows."""
    sweep = planted(tmp_path_factory.mktemp("plain"), by_loss(l1=1.5, mse=1.0, ssim=0.5))
    return sweep, collect(sweep, draw(sweep))


def findings_of(sweep: Sweep) -> Findings:
    """Without all the rest of a report."""
    return collect_findings(sweep, draw(sweep), collect_histories(sweep))


class Machine:
    """Trains in whole steps and writes the ledger's rows as a trial would, and keeps its own account of every rank-second."""

    def __init__(self, folder: Path, *, log_every: int, validate_every: int) -> None:
        self.ledger = Ledger(folder)
        self.ledger.create(CONFIG, command="")
        self.log_every, self.validate_every = log_every, validate_every
        self.clock = {0: 0.0}
        """Step to the seconds on the trial's clock when it was last done."""
        self.spent: list[tuple[int, int, float]] = []
        """Of every step that was ever done: of which attempt, its number, and what it took in rank-seconds."""
        self.starts: dict[int, int] = {}

    def attempt(self, number: int, *, start: int, steps: int, ranks: int, step_s: float) -> None:
        """Trains from a checkpoint; dies after so many steps, of which the last was logged."""
        self._row(number, kind="attempt", step=start, ranks=ranks)
        self.starts[number] = start
        seconds = self.clock[start]
        for step in range(start + 1, start + steps + 1):
            seconds += step_s
            self.clock[step] = seconds
            self.spent.append((number, step, step_s * ranks))
            if step % self.log_every == 0:
                self._row(
                    number,
                    kind="train",
                    step=step,
                    samples=4 * step,
                    seconds=seconds,
                    memory_gb=1 + step / 100,
                )
            if step % self.validate_every == 0:
                self._row(
                    number,
                    kind="validation",
                    step=step,
                    samples=4 * step,
                    seconds=seconds,
                    **{METRIC: step / 10},
                )
        self.ledger.set_status(Status(State.RUNNING, "", start + steps, seconds, number))

    def _row(self, number: int, **row: Any) -> None:
        with (self.ledger.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"attempt": number, **row}) + "\n")

    def history(self) -> History:
        return read_history(self.ledger, metric=METRIC, ranks=1)

    def truth(self) -> tuple[float, float]:
        """All device-hours, and those of steps that no later attempt built upon."""
        lost = [
            spent
            for number, step, spent in self.spent
            if any(start < step for later, start in self.starts.items() if later > number)
        ]
        return sum(spent for *_, spent in self.spent) / 3600, sum(lost) / 3600


@pytest.mark.parametrize("seed", range(12))
def test_device_hours_equal_an_account_of_every_step(tmp_path: Path, seed: int) -> None:
    """Deaths at random, ranks and speeds that change, checkpoints that are damaged so that an older one has to do."""
    chance = random.Random(seed)
    machine = Machine(tmp_path / "trial", log_every=1, validate_every=5)
    start = 0
    for number in range(1, 6):
        steps = chance.randint(3, 20)
        machine.attempt(
            number, start=start, steps=steps, ranks=chance.choice([1, 2, 4]), step_s=chance.uniform(0.5, 3)
        )
        reached = start + steps
        start = max(0, reached - reached % 5 - 5 * chance.choice([0, 0, 1, 3]))
    history = machine.history()
    spent, repeated = machine.truth()
    assert history.device_hours == pytest.approx(spent)
    assert history.repeated == pytest.approx(repeated)
    assert history.num_attempts == 5
    assert history.validations[-1].seconds == pytest.approx(machine.clock[history.validations[-1].step])


def test_the_time_of_a_checkpoint_between_two_rows_is_interpolated(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "trial", log_every=10, validate_every=1000)
    machine.attempt(1, start=0, steps=40, ranks=2, step_s=1.0)
    machine.attempt(2, start=25, steps=15, ranks=2, step_s=1.0)
    history = machine.history()
    assert history.repeated * 3600 == pytest.approx(2 * 15)
    assert history.kept * 3600 == pytest.approx(2 * 40)
    assert history.memory_gb == pytest.approx(1.4)
    assert history.device_memory_gb is None


def test_device_hours_of_a_validation_leave_out_what_was_repeated(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "trial", log_every=5, validate_every=10)
    machine.attempt(1, start=0, steps=18, ranks=4, step_s=2.0)
    machine.attempt(2, start=10, steps=20, ranks=1, step_s=3.0)
    by_step = {v.step: v.device_hours * 3600 for v in machine.history().validations}
    assert by_step == pytest.approx({10: 10 * 2 * 4, 20: 10 * 2 * 4 + 10 * 3, 30: 10 * 2 * 4 + 20 * 3})


def test_a_trial_that_took_over_a_checkpoint_keeps_what_it_spent_before(tmp_path: Path) -> None:
    """Its clock is then that of the other trial."""
    donor, taker = (Machine(tmp_path / name, log_every=5, validate_every=10) for name in ("donor", "taker"))
    donor.attempt(1, start=0, steps=10, ranks=1, step_s=7.0)
    taker.attempt(1, start=0, steps=10, ranks=1, step_s=1.0)
    taker._row(1, kind="perturbation", step=10, from_trial="donor", changes={})
    taker.clock[10] = 70.0
    taker.attempt(2, start=10, steps=10, ranks=1, step_s=2.0)
    history = read_history(taker.ledger, metric=METRIC, ranks=1, donor=lambda _: donor.ledger)
    assert history.device_hours * 3600 == pytest.approx(10 * 1 + 10 * 2)
    assert history.repeated == 0


# --- cost -------------------------------------------------------------------------------------------------------------


def _spend(trial: PlannedTrial, ledger: Ledger, *, seconds: float, ranks: int) -> None:
    row = {"kind": "attempt", "step": 0, "ranks": ranks}
    text = (ledger.folder / "metrics.jsonl").read_text()
    (ledger.folder / "metrics.jsonl").write_text(json.dumps({"attempt": 1, **row}) + "\n" + text)
    ledger.set_status(replace(ledger.status(), seconds=seconds))
    del trial


def test_every_device_hour_has_a_purpose(tmp_path: Path) -> None:
    sweep = planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    for place, trial in enumerate(sweep.trials):
        _spend(trial, sweep.ledger(trial), seconds=3600.0 * 2**place, ranks=2)
    for trial, state in zip(sweep.trials[:2], (State.FAILED, State.CANCELLED), strict=True):
        sweep.ledger(trial).set_status(replace(sweep.ledger(trial).status(), state=state))
    again = sweep.ledger(sweep.trials[8])
    again.attempt = 2
    again.append({"kind": "attempt", "step": 0, "ranks": 2})
    again.set_status(replace(again.status(), attempt=2))
    cost = findings_of(sweep).cost
    assert cost is not None
    # The first attempt of the last trial got to its row of second 1.
    assert cost.shares["repeated"] == pytest.approx(2 / 3600)
    assert cost.by_candidate[-1].num_restarts == 1
    assert sum(cost.shares.values()) == pytest.approx(2 * (2**9 - 1) + 2 / 3600)
    assert cost.shares["failed"] == pytest.approx(2 * 1)
    assert cost.shares["cancelled"] == pytest.approx(2 * 2)
    # Its loss is left out of the ranking, as two of its seeds are missing.
    assert cost.shares["not_chosen"] == pytest.approx(2 * 4)
    assert list(cost.shares) == list(PURPOSES)
    by_name = {one.candidate: one for one in cost.by_candidate}
    assert by_name["l1"].device_hours == pytest.approx(2 * (1 + 2 + 4))
    assert by_name["l1"].outcomes == {"failed": 1, "cancelled": 1, "finished": 1}


@pytest.mark.parametrize(
    ("hours", "word", "shown"),
    [
        (0.0, "device-seconds", "0"),
        (0.01, "device-seconds", "36.0"),
        (0.5, "device-minutes", "30.0"),
        (4.25, "device-hours", "4.25"),
    ],
)
def test_device_time_is_told_in_a_unit_that_can_be_read(hours: float, word: str, shown: str) -> None:
    unit = device_unit(hours)
    assert (unit.word, unit.number(hours)) == (word, shown)


# --- clips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("higher", [True, False])
def test_extremes_are_those_of_a_full_search(higher: bool) -> None:
    generator = np.random.default_rng(5)
    for count in (1, 2, 3, 5, 6, 7, 50):
        a, b = generator.normal(size=(2, count)).tolist()
        best, worst = extremes(a, b, higher_is_better=higher)
        gains = [(x - y) * (1 if higher else -1) for x, y in zip(a, b, strict=True)]
        assert len(best) == min(NUM_EXTREMES, math.ceil(count / 2))
        assert len(worst) == min(NUM_EXTREMES, count - len(best))
        assert not set(best) & set(worst)
        assert [gains[i] for i in best] == sorted(gains, reverse=True)[: len(best)]
        assert [gains[i] for i in worst] == sorted(gains)[: len(worst)]


def test_clip_scores_are_means_over_seeds(plain: tuple[Sweep, ReportData]) -> None:
    sweep, data = plain
    clips = data.findings.clips
    assert clips is not None
    assert clips.titles[4] == "picture1, tile 2"
    for name in ("l1", "mse", "ssim"):
        tables = [sweep.ledger(t).evaluation() for t in sweep.trials if t.candidate == name]
        for place in range(len(clips.titles)):
            assert clips.by_name[name][place] == pytest.approx(sum(t[place]["psnr_y"] for t in tables) / 3)
    baseline = sweep.folder.baseline("bicubic").evaluation()
    assert clips.by_name["bicubic"] == tuple(row["psnr_y"] for row in baseline)


def test_of_too_many_clips_those_at_the_ends_stay() -> None:
    data = sample(num_losses=40, num_crops=0)
    assert data.findings.clips is not None
    generator = np.random.default_rng(2)
    names = [row.name for row in data.candidates]
    scores = {name: tuple(generator.normal(28, 3, 2000).tolist()) for name in names}
    clips = ClipScores(tuple(f"clip {number}" for number in range(2000)), scores)
    view = clips_view(replace(data, findings=replace(data.findings, clips=clips)), looks(data))
    assert view is not None
    kept = view.numbers["clips"]
    assert view.num_in_page == len(kept) == 12_000 // 41
    for table in view.tables:
        assert {row.title for row in (*table.wins, *table.losses)} <= set(kept)
    values = {loss["name"]: loss["values"] for loss in view.numbers["losses"]}
    place = clips.titles.index(kept[7])
    assert values["mse"][7] / 1000 == pytest.approx(scores["mse"][place], abs=0.0006)


# --- rungs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "factor", "steps", "expected"),
    [
        # As ASHAScheduler of Ray 2.60 has them, but for a rung one above the last step, which nobody reaches.
        (200, 3, 2000, (200, 600, 1800)),
        (100, 2, 800, (100, 200, 400, 800)),
        (5, 4, 5, (5,)),
        (3, 3, 81, (3, 9, 27, 81)),
        (3, 3, 80, (3, 9, 27)),
        (10, 3, 9, ()),
    ],
)
def test_rungs_are_all_budgets_up_to_the_last_step(
    least: int, factor: int, steps: int, expected: tuple[int, ...]
) -> None:
    assert rung_steps(least, factor, steps) == expected


def test_a_validation_counts_at_the_highest_rung_that_is_free() -> None:
    def at(*steps: int) -> dict[int, int]:
        found = judged_at([Validation(step, 0, 0.0, 0.0, 1.0) for step in steps], (100, 300, 900))
        return {rung: validation.step for rung, validation in found.items()}

    assert at(50, 100, 200, 300, 600, 900, 1000) == {100: 100, 300: 300, 900: 900}
    assert at(120, 320) == {100: 120, 300: 320}
    # One that passed two rungs at once counts at the higher; the lower gets the next.
    assert at(350, 400) == {300: 350, 100: 400}
    assert at(99) == {}


def _early(folder: Path, gain: Callable[[PlannedTrial], float]) -> Sweep:
    return planted(
        folder,
        gain,
        early_terminate={"min_steps": 10, "reduction_factor": 2},
        trial={"data": {"path": "nowhere"}, "training": {"steps": 40}},
    )


def test_the_ledgers_tell_who_was_stopped_at_which_rung(tmp_path: Path) -> None:
    sweep = _early(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        ledger.attempt = 1
        last = {"l1": 40, "mse": 20, "ssim": 10}[trial.candidate]
        for step in range(20, last + 1, 10):
            row = {"kind": "validation", "step": step, "seconds": 1.0, "samples": 0, METRIC: 30 + step / 10}
            ledger.append(row)
        if trial.candidate != "l1":
            ledger.set_status(Status(State.STOPPED_EARLY, "", last, 1.0, 1))
    rungs = findings_of(sweep).rungs
    assert rungs is not None
    assert rungs.steps == (10, 20, 40)
    assert [[cell.reached for cell in rungs.cells[name]] for name in ("l1", "mse", "ssim")] == [
        [3, 3, 3],
        [3, 3, 0],
        [3, 0, 0],
    ]
    assert rungs.cells["mse"][1].stopped == ("seed=0", "seed=1", "seed=2")
    assert [cell.stopped for cell in rungs.cells["mse"]][::2] == [(), ()]
    assert rungs.cells["l1"][2].score == pytest.approx(34.0)
    assert rungs.finished == {"l1": 3, "mse": 0, "ssim": 0}


# --- tuning -----------------------------------------------------------------------------------------------------------


def test_what_was_tuned_is_read_from_the_configurations(tmp_path: Path) -> None:
    rates = [1e-4, 1e-3, 1e-2]
    sweep = planted(
        tmp_path,
        lambda trial: -abs(math.log10(trial.config.optimizer.learning_rate) + 3),
        parameters={
            "loss": ["l1", "mse"],
            "seed": [0, 1],
            "optimizer.learning_rate": rates,
            "model": ["espcn", "srcnn"],
        },
    )
    data = collect(sweep, draw(sweep))
    tuning = data.findings.tuning
    assert tuning is not None
    assert [(p.name, p.is_log, p.choices) for p in tuning.parameters] == [
        ("optimizer.learning_rate", True, ()),
        ("model", False, ("espcn", "srcnn")),
    ]
    assert len(tuning.trials) == len(sweep.trials) == 24
    for one, trial in zip(tuning.trials, sweep.trials, strict=True):
        assert one.values == (
            trial.config.optimizer.learning_rate,
            float(["espcn", "srcnn"].index(trial.config.model.type)),
        )
        assert one.quality == sweep.ledger(trial).rows("validation")[-1][METRIC]
    assert {trial.values[0] for trial in tuning.trials if trial.is_chosen} == {1e-3}
    view = tuning_view(data, looks(data))
    assert view is not None
    assert [len(loss.panels) for loss in view.losses] == [2, 2]
    assert view.parallel is None
    assert view.losses[0].panels[0].count('class="tried"') == 12 - 2


def test_nothing_tuned_nothing_shown(plain: tuple[Sweep, ReportData]) -> None:
    assert plain[1].findings.tuning is None
    assert plain[1].findings.rungs is None


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-2), (2e-4, 6e-4), (0.3, 30), (1e-9, 1.0)])
def test_logarithmic_ticks_are_round_inside_and_few(low: float, high: float) -> None:
    marks = log_marks(math.log10(low), math.log10(high), 4)
    assert 1 <= len(marks) <= 6
    for place, text in marks:
        assert low * 0.999 <= float(text) <= high * 1.001
        assert 10**place == pytest.approx(float(text))
        assert f"{float(text):e}"[0] in "1235"


# --- configurations, streams, p ---------------------------------------------------------------------------------------


def test_only_what_differs_is_told(tmp_path: Path) -> None:
    ladder = {
        "name": "gan",
        "terms": "l1 + 1e-3*gan_ragan",
        "with": {"adversarial.learning_rate_factor": 0.5},
    }
    sweep = planted(
        tmp_path,
        lambda trial: 1.0 + (trial.config.optimizer.learning_rate == 1e-3) * (trial.candidate == "l1"),
        parameters={"loss": ["l1", ladder], "seed": [0, 1], "optimizer.learning_rate": [1e-4, 1e-3]},
    )
    configs = findings_of(sweep).configs
    assert configs is not None
    assert "adversarial" in configs.keys
    assert not [key for key in configs.keys if "seed" in key or key.startswith("adversarial.")]
    told = {name: dict(zip(configs.keys, values, strict=True)) for name, values in configs.values.items()}
    assert told["l1"]["loss"] == "l1"
    assert told["gan"]["loss"] == "l1 + 0.001*gan_ragan"
    assert (told["l1"]["adversarial"], told["gan"]["adversarial"]) == ("\u2013", "yes")
    assert told["l1"]["optimizer.learning_rate"] == "0.001"


def test_equal_configurations_have_no_differences(plain: tuple[Sweep, ReportData]) -> None:
    configs = plain[1].findings.configs
    assert configs is not None
    assert configs.keys == ()
    assert list(configs.values) == ["l1", "mse", "ssim"]


def test_agreeing_streams_are_said_to_agree(tmp_path: Path) -> None:
    sweep = planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))
    verdict, histories = draw(sweep), collect_histories(sweep)

    def told() -> str:
        return collect_findings(sweep, verdict, histories).streams

    assert told() == (
        "The 9 compared trials saw the same samples and crops in the same order (stream hashes agree, 3 data seeds)."
    )
    ledger = sweep.ledger(sweep.trials[4])
    ledger.set_status(replace(ledger.status(), step=7, stream_hash="shorter"))
    assert "not trained on equally many samples" in told()
    ledger.set_status(replace(ledger.status(), step=10, stream_hash="other"))
    assert "did not all see the same" in told()
    # One alone has nobody to agree with.
    assert _streams(sweep, sweep.trials[:1]) == ""


@pytest.mark.parametrize(
    ("least", "said"),
    [(0.375, "cannot give such a p below 0.38"), (0.0003, "can be below 0.0003"), (None, "")],
)
def test_the_smallest_p_is_told(least: float | None, said: str) -> None:
    data = sample(num_losses=2, num_crops=0)
    shown = found(replace(data, findings=replace(data.findings, smallest_p=least)), looks(data)).smallest_p
    assert said in shown
    assert bool(shown) == bool(said)


def test_the_smallest_p_is_that_of_so_many_pictures_and_losses(plain: tuple[Sweep, ReportData]) -> None:
    _, data = plain
    assert data.findings.smallest_p == pytest.approx(3 * 2 / 2**8)
    assert min(row.to_baseline["psnr_y"].p_adjusted or 1 for row in data.candidates[:3]) == pytest.approx(
        3 * 2 / 2**8
    )


def test_differing_environments_are_told(tmp_path: Path) -> None:
    sweep = planted(tmp_path, by_loss(l1=1.5, mse=1.0, ssim=0.5))

    assert environments(sweep).endswith("the same in all trials that ran")
    path = sweep.ledger(sweep.trials[0]).folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch": "1.0"}))
    assert "not the same in all trials: torch 1.0 or" in environments(sweep)


def test_the_sample_is_what_its_types_say() -> None:
    """So that tests of the page test what `collect` would fill in."""
    data: ReportData = sample(is_searched=True)
    assert data.findings.clips is not None
    assert {len(values) for values in data.findings.clips.by_name.values()} == {
        len(data.findings.clips.titles)
    }
    assert parse_trial({"scale": 2, "data": {"path": "nowhere"}, "loss": "l1"}) == CONFIG
