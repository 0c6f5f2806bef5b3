"""What is made of the words of SLURM's commands, recorded from the real ones (22.05); tests/e2e asks the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import slurm_queue
from cluster.api import JobState
from cluster.slurm_queue import GONE, STATE_OF, cancel, is_here, look, of_element, partitions
from tests.unit.cluster.slurm_commands_stand_in import stand_in

QUEUE = """\
2_0|PENDING||0:00|1:00:00|2026-11-22T04:18:59|1|0|JobArrayTaskLimit|
2_1|RUNNING|h3a|0:02|59:58|2026-11-22T04:16:58|0|0|None|
1|PENDING||0:00|1-00:00:00|N/A|1|0|ReqNodeNotAvail, UnavailableNodes:h3a,h3b|
4|TIMEOUT|h3b|1:12|INVALID|2026-11-22T04:16:58|0|15|TimeLimit|
3|FAILED|h3a|0:00|1:00:00|2026-11-22T04:17:00|0|768|NonZeroExitCode|
8|FAILED|h3a|0:00|1:00:00|2026-11-22T04:18:44|0|9|JobLaunchFailure|
9|CANCELLED|h3a|0:51|59:09|2026-11-22T04:16:09|0|15|Resources|
10|RUNNING|h3[a-b]|1-02:03:04|UNLIMITED|2026-11-22T04:16:09|2|0|None|
"""
ACCOUNTS = """\
5|CANCELLED by 1000|h3a|51|0:0
6|FAILED|h3a|0|3:0
7_[1-2,5%2]|CANCELLED by 0|None assigned|0|0:0
7_0|OUT_OF_MEMORY|h3b|155|0:125
"""
NO_ACCOUNTS = "Slurm accounting storage is disabled\n"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on PATH."""
    place = tmp_path / "it's \"bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setattr(slurm_queue, "_has_accounting", True)
    return place


def test_the_queue_in_our_words(commands: Path) -> None:
    calls = stand_in(commands, "squeue", QUEUE)
    found = look(["1", "2", "3", "4", "8", "9", "10"])
    assert {job: status.state for job, status in found.items()} == {
        "1": JobState.PENDING,
        "2_0": JobState.PENDING,
        "2_1": JobState.RUNNING,
        "3": JobState.FAILED,
        "4": JobState.FAILED,
        "8": JobState.FAILED,
        "9": JobState.CANCELLED,
        "10": JobState.RUNNING,
    }
    assert found["1"].reason == "ReqNodeNotAvail, UnavailableNodes:h3a,h3b"
    assert (found["2_0"].starts_at, found["2_0"].restarts) == ("2026-11-22T04:18:59", 1)
    assert (found["2_1"].nodes, found["2_1"].elapsed_s, found["2_1"].left_s) == ("h3a", 2.0, 3598.0)
    assert (found["2_1"].reason, found["2_1"].starts_at) == ("", "")
    assert found["3"].reason == "exit code 3"
    assert found["4"].reason == "TimeLimit"
    assert found["8"].reason == "JobLaunchFailure, killed by SIGKILL"
    assert found["9"].reason == ""
    assert (found["10"].elapsed_s, found["10"].left_s) == (93784.0, None)
    assert calls.read_text().startswith(
        "C standard unset|--noheader --array --states=all --jobs=1,2,3,4,8,9,10"
    )


def test_what_left_the_queue_is_looked_up_in_the_accounts_and_else_is_gone(commands: Path) -> None:
    stand_in(commands, "squeue", "5|RUNNING|h3a|0:02|59:58|N/A|0|0|None|\n")
    stand_in(commands, "sacct", ACCOUNTS)
    found = look(["5", "6", "7", "777"])
    # The queue knows better.
    assert found["5"].state is JobState.RUNNING
    assert (found["6"].state, found["6"].reason) == (JobState.FAILED, "exit code 3")
    assert [of_element(found, "7", index).words for index in (0, 1, 2, 3, 5)] == [
        "OUT_OF_MEMORY", "CANCELLED by 0", "CANCELLED by 0", GONE, "CANCELLED by 0",
    ]  # fmt: skip
    assert (found["777"].state, found["777"].words) == (JobState.FAILED, GONE)


def test_elements_that_never_began_are_told_of_as_one_job(commands: Path) -> None:
    stand_in(commands, "squeue", "2|CANCELLED||0:00|1:00:00|N/A|0|0|None|\n2_0|RUNNING|a|1|9|N/A|0|0|None|\n")
    found = look(["2"])
    assert of_element(found, "2", 0).state is JobState.RUNNING
    assert of_element(found, "2", 4).state is JobState.CANCELLED


@pytest.mark.parametrize(
    "err", [NO_ACCOUNTS, "sacct: error: Problem talking to the database: Connection refused\n"]
)
def test_without_accounting_it_is_asked_for_once(commands: Path, err: str) -> None:
    stand_in(commands, "squeue", err="slurm_load_jobs error: Invalid job id specified\n", code=1)
    calls = stand_in(commands, "sacct", err=err, code=1)
    assert look(["1"])["1"].words == GONE
    assert look(["1"])["1"].words == GONE
    assert len(calls.read_text().splitlines()) == 1


def test_a_controller_that_is_down_or_slow_is_told_in_a_line(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = "squeue: error: something first\nslurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    stand_in(commands, "squeue", err=err, code=1)
    with pytest.raises(
        ConnectionError,
        match=r"^SLURM does not answer: squeue: Unable to contact slurm controller \(connect failure\); try again",
    ):
        look(["1"])
    monkeypatch.setattr(slurm_queue, "_TIMEOUT_S", 0.2)
    stand_in(commands, "squeue", takes_s=5)
    with pytest.raises(ConnectionError, match=r"squeue took more than 0\.2 s"):
        look(["1"])


def test_a_machine_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_here()
    with pytest.raises(ConnectionError, match="squeue is not on this machine"):
        look(["1"])


def test_jobs_are_cancelled_in_one_call_and_a_refusal_is_told(commands: Path) -> None:
    calls = stand_in(commands, "scancel")
    cancel(["7", "8"])
    cancel(["7"], 3)
    assert [line.partition("|")[2] for line in calls.read_text().splitlines()] == ["7 8", "7_3"]
    err = "scancel: error: Kill job error on job id 7: Access/permission denied\n"
    stand_in(commands, "scancel", err=err, code=1)
    with pytest.raises(PermissionError, match="Access/permission denied"):
        cancel(["7"])


def test_partitions_and_their_time_limits(commands: Path) -> None:
    stand_in(commands, "sinfo", "short|1:00:00\nlong|infinite\nweek|7-00:00:00\nbrief|30:00\n")
    assert partitions() == {"short": 3600.0, "long": None, "week": 604800.0, "brief": 1800.0}


def test_every_state_of_the_manual_has_a_meaning() -> None:
    manual = (
        "BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING PREEMPTED "
        "RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED "
        "SUSPENDED TIMEOUT"
    )
    assert set(manual.split()) <= STATE_OF.keys()
