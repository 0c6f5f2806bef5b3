"""Ray's processes on one machine come, and all go. In Ray's place a stand-in, a script that says what Ray says."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import ray_node
from cluster.ray_node import RayNode

PYTHON = sys.executable
STAND_IN = """\
# Stands in for `python -m ray.scripts.scripts start --block ...`: a process of a session of its own, and it stays.
import os, sys, time

def put(name, text):
    with open(name + ".tmp", "w") as file:
        file.write(text)
    os.rename(name + ".tmp", name)

os.chdir(os.path.dirname(__file__))
put("arguments", " ".join(sys.argv[1:]))
put("environment", "\\n".join(f"{{name}}={{value}}" for name, value in os.environ.items()))
put("pid", str(os.getpid()))
if not (child := os.fork()):
    os.setsid()
    time.sleep(987)
while os.getsid(child) != child:
    time.sleep(0.001)
put("child", str(child))
{first}
print("Ray runtime started.", flush=True)
time.sleep(987)
"""
OWNER = """\
import sys, time
from pathlib import Path
from cluster import ray_node
sys.executable = sys.argv[1]
ray_node._POLL_S = 0.02
node = ray_node.RayNode([], name=sys.argv[2], token=Path("t"), cpus=1, gpus=0, memory_bytes=None)
with node, node.watched("Ray's head on n1", last_words=lambda: f"queued again, {node._temporary.exists()}"):
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"test-{os.getpid()}-{tmp_path.name}"


@pytest.fixture(autouse=True)
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[Path]:
    """The folder of a stand-in for Ray that starts; what it leaves there: `arguments`, `environment`, `pid`, `child`."""
    monkeypatch.setattr(ray_node, "_POLL_S", 0.02)
    place = tmp_path / "ray"
    place.mkdir()
    write_stand_in(place)
    monkeypatch.setattr(sys, "executable", str(place / "stand_in_ray"))
    write_stand_in(place)
    yield place
    ray_node._kill_marked(name)


def write_stand_in(place: Path, first: str = "") -> None:
    (place / "stand_in_ray.py").write_text(STAND_IN.format(first=first))
    command = shlex.join([PYTHON, "-IS", str(place / "stand_in_ray.py")])
    (place / "stand_in_ray").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (place / "stand_in_ray").chmod(0o755)


def node(name: str, *arguments: str, memory_bytes: int | None = None) -> RayNode:
    return RayNode(arguments, name=name, token=Path("/the/token"), cpus=3, gpus=2, memory_bytes=memory_bytes)


def pid_in(path: Path) -> int:
    return int(path.read_text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def temporary(place: Path) -> Path:
    words = (place / "arguments").read_text().split()
    return Path(next(word for word in words if word.startswith("--temp-dir=")).partition("=")[2])


def test_it_is_there_for_the_block_and_gone_with_all_that_it_started(ray: Path, name: str) -> None:
    other = subprocess.Popen(["sleep", "987"], env=os.environ | {"SRLOSS_RAY_NODE": f"{name}0"})
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with node(name) as running:
            assert not running.has_ended
            assert running.tail() == "Ray runtime started."
            pids = [pid_in(ray / "pid"), pid_in(ray / "child")]
            assert os.getsid(pids[0]) not in (os.getsid(0), os.getsid(pids[1]))
            assert all(map(is_alive, pids))
            assert temporary(ray).stat().st_mode & 0o777 == 0o700
            assert len(str(temporary(ray))) < 20, "its sockets have long names"
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
        assert not any(map(is_alive, pids))
        assert not temporary(ray).exists()
        assert running.has_ended
        assert running.tail() == ""
        assert other.poll() is None, "that of another node is not ours to kill"
    finally:
        other.kill()
        other.wait()


def test_what_is_started_while_others_are_killed_is_killed_too(
    ray: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[subprocess.Popen[bytes]] = []
    listed = ray_node._pids

    def pids_before_another_came() -> list[int]:
        found = listed()
        if len(late) < 2:
            late.append(
                subprocess.Popen(["sleep", "987"], env={"SRLOSS_RAY_NODE": name, "PATH": "/bin:/usr/bin"})
            )
        return found

    with node(name):
        monkeypatch.setattr(ray_node, "_pids", pids_before_another_came)
    assert [process.wait(5) for process in late] == [-signal.SIGKILL] * 2


def test_it_starts_with_what_it_is_given_and_the_token(ray: Path, name: str) -> None:
    with node(name, "--head", memory_bytes=2**30):
        words = (ray / "arguments").read_text().split()
        lines = (ray / "environment").read_text().splitlines()
    assert words[:6] == ["-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    assert {
        "--num-cpus=3",
        "--num-gpus=2",
        f"--object-store-memory={2**27}",
        f"--memory={2**30 - 2**27}",
    } <= {*words}
    assert {
        "RAY_AUTH_MODE=token",
        "RAY_AUTH_TOKEN_PATH=/the/token",
        "RAY_enable_metrics_collection=false",
        f"SRLOSS_RAY_NODE={name}",
    } <= {*lines}
    # Ray's workers are to find the same Python.
    assert any(line.startswith(f"PATH={ray}:") for line in lines)
    with node(name):
        assert "--memory" not in (ray / "arguments").read_text()
    with node(name, memory_bytes=5):
        assert "--memory=0" in (ray / "arguments").read_text().split()


def test_what_slurm_sends_to_all_processes_of_a_job_does_not_end_it(ray: Path, name: str) -> None:
    with node(name) as running:
        pids = [pid_in(ray / "pid"), pid_in(ray / "child")]
        for pid in pids:
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
                os.kill(pid, number)
        time.sleep(0.1)
        assert all(map(is_alive, pids))
        assert not running.has_ended


def test_one_that_does_not_come_up_says_why_and_leaves_nothing(ray: Path, name: str) -> None:
    write_stand_in(ray, "sys.exit('port 6379 is taken')")
    began = time.monotonic()
    with (
        pytest.raises(OSError, match=rf"^Ray ended on {os.uname().nodename}:\nport 6379 is taken$"),
        node(name),
    ):
        pass
    assert time.monotonic() - began < 30, "it is not waited for"
    assert not is_alive(pid_in(ray / "child"))
    assert not temporary(ray).exists()


def test_one_that_takes_too_long_is_ended(ray: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_node, "_START_S", 2.0)
    write_stand_in(ray, "print('waiting', flush=True); time.sleep(987)")
    with pytest.raises(OSError, match=r"Ray has not started within 2 s on .*:\nwaiting"), node(name):
        pass
    assert not is_alive(pid_in(ray / "pid"))
    assert not temporary(ray).exists()


def test_its_end_is_seen(ray: Path, name: str) -> None:
    with node(name) as running:
        os.kill(pid_in(ray / "pid"), signal.SIGKILL)
        wait_until(lambda: running.has_ended)
        assert is_alive(pid_in(ray / "child"))
    assert not is_alive(pid_in(ray / "child"))


def owner(ray: Path, name: str) -> subprocess.Popen[str]:
    """A process that has a node, once it is up."""
    process = subprocess.Popen(
        [PYTHON, "-c", OWNER, ray / "stand_in_ray", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_it_dies_with_its_owner_however_that_dies(ray: Path, name: str) -> None:
    with owner(ray, name) as process:
        assert is_alive(pid_in(ray / "pid"))
        process.kill()
        wait_until(lambda: not is_alive(pid_in(ray / "pid")))
    left = temporary(ray)
    (left / "alive").rename(left / "beginning")
    with node(name):
        assert left.exists(), "one without a lock may only just begin"
        (left / "beginning").rename(left / "alive")
        alive = temporary(ray)
        with node(f"{name}-other"):
            assert not left.exists()
            assert alive.exists()


def test_who_needs_it_ends_when_it_ends_and_cleans_up(ray: Path, name: str) -> None:
    with owner(ray, name) as process:
        os.kill(pid_in(ray / "pid"), signal.SIGKILL)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 75
    assert (
        said
        == "error: Ray's head on n1 has ended, and no trial can go on without it\nRay runtime started.\nqueued again, False\n"
    )
    assert not is_alive(pid_in(ray / "child"))
    assert not temporary(ray).exists()


def test_who_needs_it_no_longer_does_not_end_with_it(ray: Path, name: str) -> None:
    with node(name) as running:
        with running.watched("Ray's head", last_words=str):
            assert any(thread.name == "srloss-watch-ray" for thread in threading.enumerate())
        assert not any(thread.name == "srloss-watch-ray" for thread in threading.enumerate())
        os.kill(pid_in(ray / "pid"), signal.SIGKILL)
        wait_until(lambda: running.has_ended)
        time.sleep(0.1)


def test_of_a_dump_only_the_death_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = (
        "2026-11-22 06:34:01,047\tERR scripts.py:128 -- \x1b[31m----- BEGIN gcs_server.out tail -----\x1b[39m\n"
        "[2026-11-22 06:29:11,667 I 74 74] (gcs_server) a record\nmean = 0.04ms\n"
        "2026-11-22 06:34:01,047\tERR scripts.py:128 -- \x1b[31m----- END gcs_server.out tail (exit code(s)=-9 (signal 9)) "
        "-----\x1b[39m\n"
    )
    node = RayNode([], name="x", token=tmp_path / "token", cpus=1, gpus=0, memory_bytes=None)
    monkeypatch.setattr(node, "_said", lambda: dump)
    assert node.tail() == "gcs_server ended with exit code -9"
    monkeypatch.setattr(
        node, "_said", lambda: "[2026-11-22 06:29:11,667 I 74 74] a record\nPort 1 is taken\n"
    )
    assert node.tail() == "Port 1 is taken"
