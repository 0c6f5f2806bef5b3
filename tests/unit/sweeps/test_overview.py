"""How a sweep stands, seen from outside, and how it is ended from there: by its files and what a scheduler says."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cluster import slurm_queue
from cluster.api import JobState
from cluster.records import JobRecord, JobStatus, write_record
from sr.configfile import ConfigError
from sr.ledger import Ledger, State, Status
from sr.lock import exclusive
from sweeps import cancelling, jobs
from sweeps.caveats import caveats
from sweeps.cli import cancelled
from sweeps.cli.cancelled import cancel_sweep, cancel_trial
from sweeps.cli.logs_shown import show_logs
from sweeps.cli.overview_shown import as_plain, duration, shown, status_words
from sweeps.cli.watched import find_trial, watched
from sweeps.interrupt import Interruption, StopFile
from sweeps.overview import Overview, overview
from sweeps.rank import train_here
from sweeps.spec import expand, parse_sweep
from sweeps.store import SweepFolder
from sweeps.sweep import Sweep
from sweeps.trial_view import Memory
from sweeps.tune.trial import run_one_trial
from sweeps.verdict import draw

PENDING = JobStatus(JobState.PENDING, "PENDING", "Resources", starts_at="2031-01-02T14:05:00")
RUNNING = JobStatus(JobState.RUNNING, "RUNNING", nodes="n1", elapsed_s=180.0, left_s=3420.0, restarts=2)
OVER = JobStatus(JobState.FAILED, "GONE", "SLURM does not know it any more")
Say = Callable[..., None]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    data = {
        "name": "test",
        "trial": {"data": {"path": "nowhere"}, "training": {"steps": 100, "max_seconds": 40.0}},
        "parameters": {"loss": ["l1", "mse"], "seed": [0, 1]},
    }
    config = parse_sweep(data, where="test")
    sweep = Sweep(config, list(expand(config)), SweepFolder(tmp_path / "sweeps" / "test-1"), "test")
    for trial in sweep.trials:
        sweep.ledger(trial).create(trial.config, command="test")
    trials = [[trial.trial_id, trial.candidate, trial.variant] for trial in sweep.trials]
    sweep.folder.write_plan({"sweep": config.model_dump(mode="json"), "trials": trials, "command": "test"})
    return sweep


@pytest.fixture
def slurm_says(monkeypatch: pytest.MonkeyPatch) -> Say:
    """Has the scheduler say this of jobs; its own words are tests/unit/cluster's business."""

    def says(found: dict[str, JobStatus]) -> None:
        monkeypatch.setattr(
            slurm_queue, "look", lambda jobs: {j: OVER for j in jobs if j not in str(found)} | found
        )

    return says


def submit(sweep: Sweep, job: str = "77", kind: str = "sweep", trials: tuple[str, ...] = ()) -> None:
    logs = str(sweep.folder.path / "jobs" / "slurm")
    write_record(
        sweep.folder.path,
        JobRecord("slurm", job, kind, "test", f"2026-01-01T00:00:0{job[-1]}", logs, trials=trials),
    )


def begin(sweep: Sweep, number: int, *, step: int = 50, beat_age_s: float = 0.0) -> Ledger:
    """A trial that has come so far, at 5 steps a second, in its second attempt."""
    ledger = sweep.ledger(sweep.trials[number])
    for attempt, first in ((1, 0), (2, 20)):
        ledger.attempt = attempt
        ledger.append({"kind": "attempt", "step": first})
        for at in range(first + 10, step + 1, 10):
            ledger.append({"kind": "train", "step": at, "seconds": at / 5, "loss": 0.1})
            ledger.append({"kind": "validation", "step": at, "seconds": at / 5, "val/psnr_y": 30 + at % 30})
    ledger.set_status(Status(State.RUNNING, step=step, attempt=2))
    ledger.beat(f"step {step + 1}: reading")
    then = time.time() - beat_age_s
    os.utime(ledger.folder / "heartbeat", (then, then))
    return ledger


def text(view: Overview, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(shown(view, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_trial_that_runs_is_told_with_step_rate_time_left_and_best(sweep: Sweep) -> None:
    begin(sweep, 0)
    view = overview(sweep.folder)
    trial = view.trials[0]
    assert (trial.state, trial.step, trial.steps, trial.attempt) == ("running", 50, 100, 2)
    assert trial.rate == pytest.approx(5)
    assert trial.left_s == pytest.approx(10)
    assert (trial.best, trial.best_step) == (50.0, 20)
    assert trial.host == os.uname().nodename
    # The three others take as long as one, one after the other.
    assert view.left_s == pytest.approx(10 + 3 * 20)
    assert view.best is trial
    assert "l1 seed=0" in text(view)
    assert "50/100" in text(view)


def test_its_time_left_is_bounded_by_its_wall_time_cap(sweep: Sweep) -> None:
    ledger = begin(sweep, 0, step=50)
    ledger.append({"kind": "train", "step": 60, "seconds": 39.0})
    assert overview(sweep.folder).trials[0].left_s == pytest.approx(1.0)


def test_a_running_trial_without_sign_of_life_and_without_a_job_is_interrupted(
    sweep: Sweep, slurm_says: Say
) -> None:
    begin(sweep, 0, beat_age_s=600)
    view = overview(sweep.folder)
    assert view.trials[0].state == "interrupted"
    assert not view.is_active
    assert "srloss sweep --resume test-1" in text(view)
    submit(sweep)
    slurm_says({"77": RUNNING})
    assert overview(sweep.folder).trials[0].state == "running"
    assert "no sign of life for 10 min" in text(overview(sweep.folder), 120)
    slurm_says({"77": PENDING})
    requeued = overview(sweep.folder).trials[0]
    assert (requeued.state, requeued.reason) == ("pending", "Resources")
    slurm_says({})
    assert overview(sweep.folder).trials[0].state == "interrupted"


def test_what_waits_is_told_with_the_schedulers_reason(sweep: Sweep, slurm_says: Say) -> None:
    submit(sweep)
    slurm_says({"77": PENDING})
    view = overview(sweep.folder)
    assert {(trial.state, trial.reason) for trial in view.trials} == {("pending", "Resources")}
    assert "SLURM job 77: pending (Resources), expected to start 2031-01-02 14:05" in text(view)
    assert status_words(RUNNING) == ("running on n1 for 3 min, 57 min until its time limit, requeued 2 times")


def test_elements_of_an_array_stand_for_their_own_trials(sweep: Sweep, slurm_says: Say) -> None:
    ids = tuple(trial.trial_id for trial in sweep.trials[:3])
    submit(sweep, "77", "array", ids)
    submit(sweep, "78", "finish")
    begin(sweep, 0, beat_age_s=600)
    slurm_says({"77_0": RUNNING, "77_1": PENDING, "77": OVER, "78": PENDING})
    view = overview(sweep.folder)
    assert [trial.state for trial in view.trials] == ["running", "pending", "pending", "pending"]
    assert [trial.reason for trial in view.trials[1:]] == ["Resources", "", ""]
    assert "SLURM array 77: 1 running, 1 pending (Resources), 1 over" in text(view)


def test_a_scheduler_that_does_not_answer_hides_nothing_else(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def silent(jobs: list[str]) -> dict[str, JobStatus]:
        raise ConnectionError("SLURM does not answer: nobody home")

    submit(sweep)
    begin(sweep, 0)
    monkeypatch.setattr(slurm_queue, "look", silent)
    view = overview(sweep.folder)
    assert view.trials[0].state == "running"
    assert "warning: SLURM does not answer: nobody home" in text(view)
    sweep.ledger(sweep.trials[0]).set_status(Status(State.PENDING))
    assert "nothing runs" not in text(overview(sweep.folder)), "nobody knows"
    assert cancel_sweep(sweep.folder, keep=True) == 1
    assert capfd.readouterr().out == ""
    json.dumps(as_plain(view), allow_nan=False)


def test_files_that_are_missing_or_half_written_are_survived(sweep: Sweep) -> None:
    ledger = begin(sweep, 0, step=40)
    memory = Memory()
    with (ledger.folder / "metrics.jsonl").open("a") as file:
        file.write(
            '{"attempt": 2, "kind": "validation", "step": 50, "val/psnr_y": NaN}\n{"attempt": 2, "kind": "tr'
        )
    assert overview(sweep.folder, memory).trials[0].step == 40
    with (ledger.folder / "metrics.jsonl").open("a") as file:
        file.write('ain", "step": 60, "seconds": 12.0}\n')
    assert overview(sweep.folder, memory).trials[0].step == 60
    assert overview(sweep.folder, memory).trials[0].best == 50.0
    for name, content in (("state.json", '{"state": "run'), ("heartbeat", ""), ("config.yaml", "\0")):
        (ledger.folder / name).write_text(content)
    (sweep.ledger(sweep.trials[1]).folder / "state.json").unlink()
    view = overview(sweep.folder)
    assert [trial.state for trial in view.trials[:2]] == ["pending", "pending"]
    assert "state.json" in view.trials[1].reason
    (sweep.folder.path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match="not a sweep that can be shown"):
        overview(sweep.folder)


def test_the_exit_code_is_that_of_the_sweep(sweep: Sweep) -> None:
    ledgers = [sweep.ledger(trial) for trial in sweep.trials]
    assert watched(sweep.folder, every_s=0.01) == jobs.INTERRUPTED
    for ledger in ledgers:
        ledger.set_status(Status(State.FAILED, "diverged"))
    assert watched(sweep.folder, every_s=0.01) == jobs.FAILED
    for ledger in ledgers[1:]:
        ledger.set_status(Status(State.FINISHED, "all 100 steps"))
        ledger.write_evaluation([{"clip": "a"}])
    assert overview(sweep.folder).exit_code == jobs.SOME_TRIALS_FAILED
    ledgers[0].set_status(Status(State.STOPPED_EARLY, "stopped early"))
    assert overview(sweep.folder).exit_code == jobs.OK


def test_trials_are_found_by_number_id_and_name(sweep: Sweep) -> None:
    view = overview(sweep.folder)
    first = sweep.trials[0]
    assert find_trial(view, "1").trial_id == first.trial_id
    assert find_trial(view, first.trial_id[:7]).trial_id == first.trial_id
    assert find_trial(view, "mse seed=1").number == 4
    with pytest.raises(ConfigError, match=r"'mse' fits several trials of test-1; .*3: mse seed=0"):
        find_trial(view, "mse")
    with pytest.raises(ConfigError, match="'nope' is no trial"):
        find_trial(view, "nope")


def test_logs_say_why_there_are_none_and_where_to_look(
    sweep: Sweep, slurm_says: Say, capfd: pytest.CaptureFixture[str]
) -> None:
    def logs(trial: str | None = None, rank: int = 0, lines: int = 2) -> str:
        show_logs(sweep.folder, trial=trial, rank=rank, lines=lines, follow=False)
        return capfd.readouterr().out

    with pytest.raises(ValueError, match="trial l1 seed=0 has no log yet: it is pending"):
        logs("1")
    submit(sweep)
    slurm_says({"77": PENDING})
    with pytest.raises(ValueError, match=r"SLURM job 77: pending \(Resources\).*it has printed nothing yet"):
        logs()
    slurm_says({"77": replace(OVER, words="FAILED", reason="JobLaunchFailure")})
    with pytest.raises(
        ValueError, match=r"failed \(JobLaunchFailure\); it has printed nothing: do the nodes see /"
    ):
        logs()
    place = sweep.folder.path / "jobs" / "slurm"
    place.mkdir()
    (place / "77_0_log.out").write_text("one\ntwo\nthree\n")
    assert logs() == "two\nthree\n"
    (place / "77_0_log.err").write_text("oh\n")
    assert logs().splitlines() == [
        f"==> {place}/77_0_log.out <==", "two", "three", f"==> {place}/77_0_log.err <==", "oh",
    ]  # fmt: skip
    (sweep.ledger(sweep.trials[0]).folder / "log.txt").write_text("x" * 200_000 + "\nlast\n")
    assert logs("1", lines=1) == "last\n"
    with pytest.raises(ValueError, match="no log of rank 3 yet; there are those of: 0"):
        logs("1", rank=3)


def test_a_trial_that_nobody_trains_is_cancelled_at_once_and_counts_as_such(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = sweep.ledger(sweep.trials[0])
    assert cancel_trial(sweep.folder, "1", keep=True) == 0
    assert "trial l1 seed=0: cancelled before it began" in capsys.readouterr().out
    status = ledger.status()
    assert (status.state, status.has_ended, status.is_over) == (State.CANCELLED, True, False)
    assert cancel_trial(sweep.folder, "1", keep=True) == 0
    verdict = draw(sweep)
    assert "1 of 4 trials have ended (0 failed, 1 cancelled)" in verdict.sentence
    assert any("1 of 4 trials were cancelled by hand (l1)" in caveat for caveat in caveats(verdict, sweep))
    sweep.try_again()
    assert (ledger.status().state, cancelling.is_asked(ledger.folder)) == (State.PENDING, False)
    ledger.set_status(Status(State.FINISHED, "all 100 steps"))
    with pytest.raises(ValueError, match="trial l1 seed=0 is finished already: all 100 steps"):
        cancel_trial(sweep.folder, "1", keep=True)


def test_a_trial_that_somebody_trains_is_asked_and_left_to_them(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cancelled, "_SAVE_S", 0.1)
    ledger = begin(sweep, 0)
    with exclusive(ledger.folder, timeout_s=0, what="this trial is being trained"):
        assert cancel_trial(sweep.folder, "1", keep=False) == 0
    captured = capsys.readouterr()
    assert "asked to end; it does so at its next safe point" in captured.out
    assert ledger.status().state is State.RUNNING
    assert cancelling.is_asked(ledger.folder)


def test_the_elements_and_jobs_of_slurm_are_cancelled_by_its_own_command(
    sweep: Sweep, slurm_says: Say, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[list[str], int | None]] = []

    def cancel(ids: list[str], element: int | None = None) -> None:
        calls.append((list(ids), element))
        slurm_says({"77_0": OVER, "77_1": OVER, "78": OVER})

    monkeypatch.setattr(slurm_queue, "cancel", cancel)
    submit(sweep, "77", "array", (sweep.trials[0].trial_id, sweep.trials[1].trial_id))
    submit(sweep, "78", "finish")
    slurm_says({"77_0": PENDING, "77_1": PENDING, "78": PENDING})
    cancel_trial(sweep.folder, "2", keep=True)
    assert calls == [(["77"], 1)]
    assert sweep.ledger(sweep.trials[1]).status().state is State.CANCELLED
    slurm_says({"77_0": PENDING, "77_1": OVER, "78": PENDING})
    assert cancel_sweep(sweep.folder, keep=True) == 0
    # What waits for the array must not begin at its end.
    assert calls[1:] == [(["78", "77"], None)]
    out = capsys.readouterr().out
    assert "SLURM job 77_1: cancelled" in out
    assert "3 trials of 4 unfinished, 0 of them begun; go on with: srloss resume test-1 --store" in out


def test_checkpoints_are_deleted_only_of_what_is_unfinished(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, state in ((0, State.FINISHED), (1, State.PENDING)):
        ledger = sweep.ledger(sweep.trials[number])
        ledger.checkpoints.mkdir()
        (ledger.checkpoints / "step-00000004.pt").write_bytes(b"x" * 2_000_000)
        ledger.set_status(Status(state, step=4, attempt=1))
    assert cancel_sweep(sweep.folder, keep=True) == 0
    assert sweep.ledger(sweep.trials[1]).checkpoints.exists()
    assert cancel_sweep(sweep.folder, keep=False) == 0
    assert sweep.ledger(sweep.trials[0]).checkpoints.exists()
    assert not sweep.ledger(sweep.trials[1]).checkpoints.exists()
    assert "checkpoints of 3 of 3 trials deleted: 2.0 MB" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["under Tune", "by ranks"])
def test_a_trial_in_training_saves_and_ends_for_good(
    tiny: dict[str, object], tmp_path: Path, way: str
) -> None:
    from sr.config import parse_trial

    assert isinstance(tiny["training"], dict)
    config = parse_trial(tiny | {"training": tiny["training"] | {"steps": 100_000}})
    ledger = Ledger(tmp_path / "trial")
    ledger.create(config, command="test")

    def report(metrics: dict[str, float]) -> None:
        cancelling.ask_trial(ledger.folder)

    if way == "under Tune":
        run_one_trial(ledger.folder, replay=False, report=report, stop=str)
    else:
        attempt = train_here(ledger.folder, engine=config.engine, place=None, report=report, stop=str)
        assert attempt.interrupted_by == cancelling.REASON
    status = ledger.status()
    assert status.state is State.CANCELLED
    assert status.reason == f"cancelled at step {status.step}"
    assert (ledger.checkpoints / f"step-{status.step:08}.pt").exists()
    rows = len(ledger.rows("train"))
    run_one_trial(ledger.folder, replay=False, report=report, stop=str)
    assert len(ledger.rows("train")) == rows


def test_a_driver_hears_of_a_request_by_file(tmp_path: Path) -> None:
    interruption, stop = Interruption(30), StopFile(tmp_path)
    interruption.heed(stop.reason)
    assert interruption.reason() == ""
    cancelling.ask_all(tmp_path)
    assert StopFile(tmp_path).reason() == cancelling.REASON
    time.sleep(1.1)
    assert interruption.reason() == cancelling.REASON
    assert interruption.exit_code == 143


def test_durations_are_short() -> None:
    assert [duration(s) for s in (5, 720, 11100, 190_000)] == ["5 s", "12 min", "3 h 05 min", "2 d 4 h"]
