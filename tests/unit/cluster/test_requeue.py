"""Requeueing: what asks for it, what does not, and when it ends. scontrol is a stand-in that notes what it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.requeue import MOST_FRUITLESS, requeued


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in notes its arguments; `says` beside it is its complaint, `job` what it shows of the job."""
    stand_in = tmp_path / "stand_in_scontrol"
    stand_in.write_text(
        f"""#!/bin/sh
if [ "$1" = show ]; then cat {tmp_path}/job; exit; fi
echo "$@" >> {tmp_path}/asked
if [ -e {tmp_path}/says ]; then cat {tmp_path}/says >&2; exit 1; fi
"""
    )
    stand_in.chmod(0o755)
    (tmp_path / "scontrol").symlink_to(stand_in)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    return tmp_path / "asked"


@pytest.mark.parametrize("reason", ["SIGUSR1", "SIGUSR2"])
def test_the_time_limit_asks_for_it(reason: str, asked: Path) -> None:
    assert requeued(reason) == "requeued as SLURM job 77"
    assert asked.read_text() == "requeue 77\n"


def test_a_refusal_is_told(asked: Path) -> None:
    asked.with_name("says").write_text("Invalid job id")
    assert requeued("SIGUSR2") == "SLURM job 77 could not be requeued: Invalid job id"


@pytest.mark.parametrize(
    ("shown", "is_requeued"),
    [
        ("JobState=RUNNING PreemptEligibleTime=2026-01-02T03:04:05 PreemptTime=None", False),
        ("JobState=RUNNING PreemptEligibleTime=None PreemptTime=2026-01-02T03:04:05", True),
        ("JobState=TIMEOUT PreemptTime=None", True),
        ("JobState=CANCELLED PreemptTime=None", False),
    ],
)
def test_sigterm_asks_for_it_where_slurm_itself_ends_the_job(
    shown: str, is_requeued: bool, asked: Path
) -> None:
    asked.with_name("job").write_text(f"JobId=77 {shown}")
    assert requeued("SIGTERM") == ("requeued as SLURM job 77" if is_requeued else "")
    assert asked.exists() == is_requeued


def test_an_element_of_an_array_is_named_as_one(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeued("SIGUSR2") == "requeued as SLURM job 70_3"
    assert asked.read_text() == "requeue 70_3\n"


@pytest.mark.parametrize("reason", ["", "SIGINT", "cancelled"])
def test_nobody_asks(reason: str, asked: Path) -> None:
    assert requeued(reason) == ""
    assert not asked.exists()


def test_outside_of_slurm(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert requeued("SIGUSR2") == ""
    assert not asked.exists()


def test_a_job_that_comes_no_further_is_not_started_for_ever(
    asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(progress: int) -> str:
        return requeued("SIGUSR2", folder=tmp_path, progress=progress)

    assert told(5).startswith("requeued")
    for _ in range(MOST_FRUITLESS - 1):
        assert told(5).startswith("requeued")
    assert told(6).startswith("requeued"), "it has come further: the count begins again"
    for _ in range(MOST_FRUITLESS - 1):
        assert told(6).startswith("requeued")
    assert f"is not requeued: {MOST_FRUITLESS} starts in a row came no further" in told(6)
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert told(6).startswith("requeued"), "a person has submitted it anew"
