"""The process beside a sweep or a trial: it is started again when it breaks, ends in time, and is never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sr.config import TrackingConfig, parse_trial
from sr.ledger import Ledger
from sr.lock import exclusive
from sweeps import tracking
from sweeps.feeder import REFUSED
from sweeps.tracked_sweep import feed_lock
from sweeps.tracking import Feed, fed, sync_command

_HEAD = "import json, os, pathlib, sys, time\nplace = pathlib.Path(sys.argv[1])\n"
_DECIDED = "print(json.dumps({'mode': 'online', 'words': 'W&B: decided'}), flush=True)\n"
_NOTED = "with (place / 'starts').open('a') as f: f.write(f'{os.getpid()}\\n')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path / "trials" / "0123456789")
    ledger.create(parse_trial({"data": {"path": "x"}, "loss": "l1"}), command="srloss train x.yaml")
    return ledger.folder


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets another program stand in for `sweeps.feeder` in the child."""

    def put(program: str) -> None:
        package = tmp_path / "stand_in" / "sweeps"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "feeder.py").write_text(_HEAD + _NOTED + program)
        monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])

    return put


def started(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "starts").read_text().splitlines()]


def until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_its_lines_are_passed_on_and_it_is_told_to_finish(
    folder: Path, stand_in: Callable[[str], None]
) -> None:
    stand_in(_DECIDED + "print('W&B: 人 ü', flush=True)\n(place / 'told').write_text(sys.stdin.readline())\n")
    said: list[str] = []
    with fed(folder, TrackingConfig(finish_timeout_s=7), say=said.append) as feed:
        assert feed is not None
        until(lambda: len(said) == 2)
    assert said == ["W&B: decided", "W&B: 人 ü"]
    assert (folder / "told").read_text() == "finish 7.0\n"
    (pid,) = started(folder)
    assert not psutil.pid_exists(pid)
    # Whatever comes after that does nothing.
    feed.end()
    assert said == ["W&B: decided", "W&B: 人 ü"]


@pytest.mark.parametrize(("at_most_s", "told"), [(None, 60.0), (9.0, 4.0), (3.0, 0.0), (1000.0, 60.0)])
def test_it_gets_as_long_as_there_is(
    folder: Path, stand_in: Callable[[str], None], at_most_s: float | None, told: float
) -> None:
    stand_in("(place / 'told').write_text(sys.stdin.readline())\n")
    feed = Feed(folder, TrackingConfig(), lambda _words: None)
    feed.end(at_most_s=at_most_s)
    assert (folder / "told").read_text() == f"finish {told}\n"


def test_one_that_does_not_end_is_killed_and_the_rest_is_told(
    folder: Path, stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_LEAVE_S", 0.3)
    stand_in(_DECIDED + "time.sleep(60)\n")
    said: list[str] = []
    feed = Feed(folder, TrackingConfig(finish_timeout_s=0), said.append)
    until(lambda: said)
    began = time.monotonic()
    feed.end()
    assert time.monotonic() - began < 3
    assert said[1:] == [f"W&B: send the rest with: {sync_command(folder)}"]
    assert not psutil.pid_exists(started(folder)[0])


def test_one_that_breaks_is_started_again_but_not_forever(
    folder: Path, stand_in: Callable[[str], None]
) -> None:
    stand_in(_DECIDED + "raise SystemExit(7)\n")
    said: list[str] = []
    feed = Feed(folder, TrackingConfig(), said.append)
    until(lambda: not feed._thread.is_alive())
    feed.end()
    assert len(started(folder)) == 3
    # The decision was told by the first.
    assert said == [
        "W&B: decided",
        f"W&B: its client ended with exit code 7 again and again (see {folder}/wandb/feeder.log)",
        f"W&B: send the rest with: {sync_command(folder)}",
    ]


def test_one_that_was_killed_is_started_again_and_goes_on(
    folder: Path, stand_in: Callable[[str], None]
) -> None:
    stand_in(_DECIDED + "sys.stdin.readline()\n")
    said: list[str] = []
    feed = Feed(folder, TrackingConfig(), said.append)
    until(lambda: said)
    os.kill(started(folder)[0], signal.SIGKILL)
    until(lambda: len(started(folder)) == 2)
    feed.end()
    assert said == ["W&B: decided"]
    assert not psutil.pid_exists(started(folder)[1])


@pytest.mark.parametrize("wanted", ["online", "auto"])
def test_a_refusal_is_an_error_where_somebody_insists(
    folder: Path, stand_in: Callable[[str], None], wanted: Any
) -> None:
    stand_in("print(json.dumps({'mode': 'refused', 'words': 'no key'}), flush=True)\nraise SystemExit(2)\n")
    said: list[str] = []
    if wanted == "online":
        with (
            pytest.raises(ValueError, match="no key"),
            fed(folder, TrackingConfig(wandb=wanted), say=said.append),
        ):
            pytest.fail("it must not go on")
        assert said == []
    else:
        with fed(folder, TrackingConfig(wandb=wanted), say=said.append) as feed:
            assert feed is not None
            until(lambda: not feed._thread.is_alive())
        assert said == ["no key"]
    assert len(started(folder)) == 1


def test_without_wandb_nothing_is_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "Feed", lambda *_arguments: pytest.fail("started"))
    with fed(folder, TrackingConfig(wandb="disabled"), say=lambda _words: None) as feed:
        assert feed is None


def test_no_two_feed_the_same_runs(folder: Path) -> None:
    """The real one; offline ones would delete each other's logs."""
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("wandb: auto", "wandb: offline"))
    program = "import sweeps.feeder as f; f._LOCK_S = 0.1; import sys; sys.exit(f.main(sys.argv[1:]))"
    with exclusive(lock := feed_lock(folder, folder.name, mode="offline"), timeout_s=1, what="fed"):
        command = [sys.executable, "-c", program, str(folder), "--parent", str(os.getpid())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    said = done.stdout.splitlines()
    assert done.returncode == REFUSED, done.stderr
    assert said[1].startswith(f"W&B: nothing is sent from here: {lock}: ")


_PARENT = """
import sys, time
from pathlib import Path
from sr.config import TrackingConfig
from sweeps.tracking import Feed
feed = Feed(Path(sys.argv[1]), TrackingConfig(), lambda words: print(words, flush=True))
print(feed._process.pid, flush=True)
time.sleep(60)
"""


def test_it_dies_with_its_parent(folder: Path) -> None:
    """The real one, with a server that nobody can reach; its log tells nothing of it."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("wandb: auto", "wandb: online"))
    environment = os.environ | {"WANDB_BASE_URL": f"http://{address}", "WANDB_API_KEY": "k" * 40}
    environment.pop("WANDB_MODE", None)
    command = [sys.executable, "-c", _PARENT, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        words = parent.stdout.readline().strip()
        process = psutil.Process(pid)
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
        is_alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        # Whatever it is stuck in.
        process.suspend()
        parent.kill()
    try:
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert words.startswith(f"W&B: {address} cannot be reached (Connection refused); ")
    assert is_alive, "what SLURM sends to all processes is for its parent"
    assert (folder / "wandb" / "feeder.log").read_text() == ""


def test_where_nothing_can_be_written_the_work_goes_on(folder: Path) -> None:
    (folder / "wandb").write_text("in the way")
    said: list[str] = []
    with fed(folder, TrackingConfig(), say=said.append) as feed:
        assert feed is None
    assert len(said) == 1
    assert "W&B: cannot be fed" in said[0]
    assert f"srloss sync {folder}" in said[0]
