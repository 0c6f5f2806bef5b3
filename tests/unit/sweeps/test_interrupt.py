"""Signals to a process, and requests to the trials of a sweep, with real processes."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps import interrupt
from sweeps.interrupt import HEARD, StopFile, listening

PROGRAM = """
import os, signal, sys, time
from sweeps.interrupt import listening
with listening(grace_s={grace_s}) as interruption:
    {before}
    print("ready", flush=True)
    {body}
    print("reason", interruption.reason(), flush=True)
sys.exit(interruption.exit_code)
"""
UNTIL_ASKED = "while not interruption.reason(): time.sleep(0.01)"
# As in an operation that waits for other ranks.
DEAF = "import ctypes; ctypes.CDLL(None).sleep(60); ctypes.CDLL(None).sleep(60)"


def start(body: str, *, grace_s: float = 30, before: str = "pass") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body, grace_s=grace_s, before=before)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGUSR2, 143), (signal.SIGINT, 130)],
)
def test_a_signal_is_heard_and_the_block_goes_on(number: signal.Signals, code: int) -> None:
    process = start(UNTIL_ASKED)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == (f"reason {number.name}\n", "", code)


def test_after_the_grace_period_the_process_ends_even_in_an_operation_that_heeds_no_signal() -> None:
    process = start(DEAF, grace_s=0.5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "not done within the 0.5 s of grace after SIGTERM" in err
    assert out == ""


def test_a_second_ctrl_c_ends_at_once() -> None:
    process = start("time.sleep(60)")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted twice" in err


def test_where_nothing_can_be_saved_the_end_comes_at_once() -> None:
    process = start('with interruption.at_once("nothing is lost"): time.sleep(60)')
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert (err, process.returncode) == ("interrupted by SIGTERM; nothing is lost\n", 143)


def test_what_is_sent_to_a_forked_child_is_not_meant_for_its_parent() -> None:
    body = """child = os.fork()
    if child == 0:
        time.sleep(60)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    print("child", os.waitpid(child, 0)[1], flush=True)"""
    out, err = start(body).communicate(timeout=20)
    assert (out, err) == ("child 15\nreason \n", "")


def test_handlers_that_a_library_has_replaced_are_put_back() -> None:
    before = "signal.signal(signal.SIGTERM, lambda *_: os._exit(9))"
    body = f"""with listening():
        print("again", flush=True)
        {UNTIL_ASKED}"""
    process = start(body, before=before)
    assert process.stdout is not None
    assert process.stdout.readline() == "again\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "reason SIGTERM\n"


def test_afterwards_all_is_as_before() -> None:
    handlers = [signal.getsignal(number) for number in HEARD]
    descriptors = len(os.listdir("/proc/self/fd"))
    heard: list[str] = []
    with listening() as outer, listening() as inner:
        assert inner is outer
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while not outer.reason() and time.monotonic() < deadline:
            time.sleep(0.01)
        inner.tell(heard.append)
    assert heard == ["SIGUSR1"]
    assert [signal.getsignal(n) for n in HEARD] == handlers
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with listening() as another:
        assert another.reason() == ""


def test_the_stop_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "_POLL_S", 60.0)
    driver = StopFile(tmp_path)
    trial = pickle.loads(pickle.dumps(driver))
    assert trial.reason() == ""
    driver.write("SIGTERM")
    assert trial.reason() == "", "the folder is looked at more often than it should"
    monkeypatch.setattr(interrupt, "_POLL_S", 0.0)
    assert trial.reason() == "SIGTERM"
    driver.clear()
    assert trial.reason() == "SIGTERM", "a trial that has heard it may not change its mind"
    assert StopFile(tmp_path).reason() == ""
    driver.clear()
