"""Trials that no supervisor watches write down themselves what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sr.config import parse_trial
from sr.ledger import Ledger, State
from sr.lock import exclusive
from sweeps import jobs
from sweeps.deaths import deaths


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "trial")
    ledger.create(
        parse_trial({"data": {"path": "nowhere"}, "loss": "l1", "tracking": {"wandb": "disabled"}}),
        command="srloss train",
    )
    return ledger


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(jobs, "train_and_tell", fail)


def ends(ledger: Ledger, error: type[Exception]) -> None:
    with pytest.raises(error):
        jobs.run_train(ledger.folder, engine=ledger.config().engine)


@pytest.mark.parametrize(
    "error",
    [ValueError("the gradient is not finite"), jobs.OtherRankFailedError("the gradient is not finite")],
)
def test_a_trial_that_fails_by_its_own_fault_counts_as_failed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_with(monkeypatch, error)
    ends(ledger, ValueError)
    assert (ledger.status().state, ledger.status().reason) == (State.FAILED, "the gradient is not finite")


@pytest.mark.parametrize("error", [jobs.RankLostError("rank 1 has died"), OSError("rank 1 has died")])
def test_one_that_is_ended_from_outside_can_go_on_and_says_why_it_ended(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_with(monkeypatch, error)
    ends(ledger, OSError)
    assert ledger.status().state is State.PENDING
    assert [cause.removeprefix("OSError: ") for cause in deaths(ledger)] == ["rank 1 has died"]


def test_who_finds_another_at_work_leaves_its_trial_alone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, ValueError("is being trained already"))
    with exclusive(ledger.folder, timeout_s=0, what="this trial is being trained"):
        ends(ledger, ValueError)
    assert ledger.status().state is State.PENDING


def test_only_the_first_rank_writes_it_down(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ValueError("the gradient is not finite"))
    monkeypatch.setattr(jobs, "place_from_environment", lambda: jobs.Place(1, 2, 1, "127.0.0.1", 1))
    ends(ledger, ValueError)
    assert ledger.status().state is State.PENDING
