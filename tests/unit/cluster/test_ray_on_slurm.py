"""Nodes of an allocation meet in a folder, and part. They are processes of this machine; a stand-in takes Ray's place."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from cluster import ray_on_slurm
from cluster.ray_on_slurm import Allocation, serve
from tests.unit.cluster.slurm_commands_stand_in import stand_in

HERE = ("127.0.0.1", "127.0.0.2")
"""Names of hosts that every machine knows."""


class StandInRay:
    """Does nothing of what RayNode does, and writes down in its folder what it was to do. See `Told`."""

    told: Path
    last_words: Callable[[], str]

    def __init__(self, arguments: list[str], *, name: str, token: Path, **amounts: Any) -> None:
        self._token = token
        self._path = self.told / name
        self._write("starts.txt", " ".join(arguments))
        self._path.with_suffix(".json").write_text(json.dumps({"token": str(token), **amounts}))

    def _write(self, suffix: str, line: str) -> None:
        with self._path.with_name(f"{self._path.name}.{suffix}").open("a") as file:
            file.write(line + "\n")

    def __enter__(self) -> StandInRay:
        starts = len(self._path.with_name(f"{self._path.name}.starts.txt").read_text().splitlines())
        if starts <= int(os.environ.get("STAND_IN_FAILS", "0")):
            raise OSError("Ray ended on n1: no port")
        return self

    def __exit__(self, *_: object) -> None:
        if "-1" in self._path.name[-2:]:
            time.sleep(0.4)
            self._write("saw.txt", str(self._token.exists()))

    @property
    def has_ended(self) -> bool:
        return self._path.with_name(f"{self._path.name}.ends").exists()

    def tail(self) -> str:
        return "its last words"

    def watched(self, what: str, *, last_words: Callable[[], str]) -> AbstractContextManager[None]:
        self._write("watched.txt", what)
        StandInRay.last_words = staticmethod(last_words)
        return nullcontext()


@pytest.fixture(autouse=True)
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-ins write."""
    monkeypatch.setattr(StandInRay, "told", tmp_path / "told", raising=False)
    StandInRay.told.mkdir()
    monkeypatch.setattr(ray_on_slurm, "RayNode", StandInRay)
    monkeypatch.setattr(ray_on_slurm, "_POLL_S", 0.02)
    monkeypatch.setattr(ray_on_slurm, "_MEET_S", 20.0)
    return StandInRay.told


def allocation(
    tmp_path: Path, node: int = 0, *, hosts: tuple[str, ...] = HERE, start: str = "7-0"
) -> Allocation:
    return Allocation(tmp_path / "jobs" / f"ray-{start}", node, hosts, cpus=3, gpus=1, memory_bytes=None)


def head(
    place: Allocation, *, say: Callable[[str], None], stop: Callable[[], str] = str
) -> AbstractContextManager[str]:
    return ray_on_slurm.head(place, say=say, stop=stop, last_words=lambda: "queued again")


Serve = Callable[..., BaseProcess]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serve]:
    """Starts the second node of an allocation in a process of its own; what it says goes to said.txt."""
    started: list[BaseProcess] = []

    def say(text: str) -> None:
        with (tmp_path / "said.txt").open("a") as file:
            file.write(text + "\n")

    def start(place: Allocation) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(
            target=serve, args=(place,), kwargs={"say": say}
        )
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def said(tmp_path: Path) -> str:
    path = tmp_path / "said.txt"
    return path.read_text() if path.exists() else ""


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended_well(process: BaseProcess) -> None:
    process.join(15)
    assert process.exitcode == 0


def nothing(text: str) -> None:
    pytest.fail(f"said: {text}")


def test_two_nodes_meet_and_part(
    tmp_path: Path, told: Path, serving: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "mine")
    first = allocation(tmp_path)
    other = serving(allocation(tmp_path, 1))
    with head(first, say=nothing) as address:
        assert first.folder.stat().st_mode & 0o777 == 0o700
        token = first.folder / "token"
        assert token.stat().st_mode & 0o777 == 0o600
        assert len(token.read_text()) == 64
        assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]) == ("token", str(token))
        ip, _, port = address.rpartition(":")
        own = (told / "ray-7-0-0.starts.txt").read_text().split()
        assert {"--head", f"--node-ip-address={ip}", f"--port={port}", "--dashboard-host=127.0.0.1"} <= {*own}
        assert ip == "127.0.0.1"
        assert (
            told / "ray-7-0-1.starts.txt"
        ).read_text() == f"--address={address} --node-ip-address=127.0.0.1\n"
        expected = {"token": str(token), "cpus": 3, "gpus": 1, "memory_bytes": None}
        for node in "01":
            assert json.loads((told / f"ray-7-0-{node}.json").read_text()) == expected
        assert (told / "ray-7-0-0.watched.txt").read_text() == f"Ray's head on {os.uname().nodename}\n"
        assert other.is_alive()
    ended_well(other)
    assert (told / "ray-7-0-1.saw.txt").read_text() == "True\n", "cleared before the other node had left"
    assert not first.folder.exists()
    assert os.environ["RAY_AUTH_MODE"] == "mine"
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert said(tmp_path) == ""


def test_the_head_waits_for_who_comes_late(tmp_path: Path, serving: Serve) -> None:
    first = allocation(tmp_path)
    began = time.monotonic()

    def come_late() -> None:
        time.sleep(0.5)
        serve(allocation(tmp_path, 1), say=nothing)

    late = multiprocessing.get_context("fork").Process(target=come_late)
    late.start()
    with head(first, say=nothing):
        assert time.monotonic() - began >= 0.5
        assert (first.folder / "joined-1").exists()
    ended_well(late)


def test_a_node_alone_listens_on_loopback_and_waits_for_nobody(tmp_path: Path, told: Path) -> None:
    first = allocation(tmp_path, hosts=("a-name-that-nobody-knows",))
    # Of a start that was killed.
    first.folder.mkdir(parents=True)
    for name in ("token", "head.json", "done", "joined-1"):
        (first.folder / name).touch()
    with head(first, say=nothing) as address:
        assert address.startswith("127.0.0.1:")
        assert {path.name for path in first.folder.iterdir()} == {"token", "head.json"}
    assert not first.folder.exists()


def test_who_never_joins_is_named_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_on_slurm, "_MEET_S", 0.3)
    words: list[str] = []
    began = time.monotonic()
    with head(allocation(tmp_path, hosts=(*HERE, "127.0.0.3")), say=words.append):
        assert words == ["warning: 127.0.0.2, 127.0.0.3 did not join Ray within 0 s; going on without"]
    assert time.monotonic() - began < 5, "who has not joined need not leave"


def test_who_is_told_to_stop_waits_for_nobody_and_misses_nobody(tmp_path: Path) -> None:
    began = time.monotonic()
    with head(
        allocation(tmp_path), say=nothing, stop=lambda: "SIGUSR2" if time.monotonic() > began + 0.2 else ""
    ):
        assert 0.2 <= time.monotonic() - began < 5


def test_nobody_is_waited_for_once_the_heads_ray_is_gone(tmp_path: Path, told: Path) -> None:
    (told / "ray-7-0-0.ends").touch()
    words: list[str] = []
    began = time.monotonic()
    with head(allocation(tmp_path), say=words.append):
        assert time.monotonic() - began < 5


def test_a_head_that_is_lost_has_the_others_end_and_leaves_nothing(tmp_path: Path, serving: Serve) -> None:
    other = serving(allocation(tmp_path, 1))
    place = allocation(tmp_path)
    with head(place, say=nothing):
        assert StandInRay.last_words() == "queued again"
        assert not place.folder.exists()
        ended_well(other)


def test_what_a_start_that_was_killed_has_left_is_cleared(tmp_path: Path) -> None:
    left, another = (allocation(tmp_path, start=start).folder for start in ("7-0", "77-0"))
    for folder in (left, another):
        folder.mkdir(parents=True)
        (folder / "token").write_text("secret")
    with head(allocation(tmp_path, start="7-1", hosts=("n1",)), say=nothing):
        assert not left.exists()
        assert another.exists(), "of another job, which may run"


def test_a_head_that_does_not_start_is_tried_with_other_ports(
    tmp_path: Path, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "2")
    with head(allocation(tmp_path, hosts=("n1",)), say=nothing) as address:
        tries = (told / "ray-7-0-0.starts.txt").read_text().splitlines()
    ports = [next(word for word in line.split() if word.startswith("--port=")) for line in tries]
    assert len(ports) == 3
    assert ports[-1] == f"--port={address.rpartition(':')[2]}"
    assert len({*ports}) > 1


def test_a_head_that_fails_leaves_nothing_and_the_others_do_not_wait_for_it(
    tmp_path: Path, serving: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "3")
    first = allocation(tmp_path)
    other = serving(allocation(tmp_path, 1))
    with pytest.raises(OSError, match="no port"), head(first, say=nothing):
        pass
    assert not first.folder.exists()
    ended_well(other)
    assert "error" not in said(tmp_path), "the first node has told what there is to tell"


def test_a_host_that_nobody_knows_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str) -> str:
        raise OSError(f"{host}: Name or service not known")

    monkeypatch.setattr(ray_on_slurm, "_own_ip", unknown)
    first = allocation(tmp_path, hosts=("n1", "n2"))
    with pytest.raises(OSError, match="n2: Name or service not known"), head(first, say=nothing):
        pass
    assert not first.folder.exists()


def test_work_that_fails_ends_the_other_nodes_too(tmp_path: Path, serving: Serve) -> None:
    first = allocation(tmp_path)
    other = serving(allocation(tmp_path, 1))
    with pytest.raises(ZeroDivisionError), head(first, say=nothing):
        raise ZeroDivisionError
    ended_well(other)
    assert not first.folder.exists()


def test_a_node_comes_to_a_head_that_is_done_already(tmp_path: Path, told: Path) -> None:
    place = allocation(tmp_path, 1)
    place.folder.mkdir(parents=True)
    (place.folder / "done").touch()
    assert ray_on_slurm._wait_for_head(place.folder) is None


def test_a_node_whose_ray_ends_says_so_and_does_not_hold_up_the_head(
    tmp_path: Path, told: Path, serving: Serve
) -> None:
    first = allocation(tmp_path)
    other = serving(allocation(tmp_path, 1))
    with head(first, say=nothing):
        (told / "ray-7-0-1.ends").touch()
        ended_well(other)
        assert (first.folder / "left-1").exists()
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert (
        said(tmp_path) == f"error: Ray ended on {os.uname().nodename} before the sweep did\nits last words\n"
    )


def test_a_node_that_is_told_to_stop_stays_until_the_head_is_done(tmp_path: Path, serving: Serve) -> None:
    other = serving(allocation(tmp_path, 1))
    with head(allocation(tmp_path), say=nothing):
        assert other.pid is not None
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(other.pid, number)
        time.sleep(0.1)
        assert other.is_alive()
    ended_well(other)


def test_a_node_ends_where_the_folder_is_gone(tmp_path: Path, serving: Serve) -> None:
    other = serving(allocation(tmp_path, 1))
    with head(allocation(tmp_path), say=nothing):
        ray_on_slurm._clear(tmp_path / "jobs" / "ray-7-0")
        ended_well(other)
        (tmp_path / "jobs" / "ray-7-0").mkdir()


def test_another_start_of_the_job_meets_elsewhere(tmp_path: Path, serving: Serve) -> None:
    """A requeued job keeps its number; a node of the start before may still be about."""
    late = serving(allocation(tmp_path, 1, start="7-0"))
    other = serving(allocation(tmp_path, 1, start="7-1"))
    with head(allocation(tmp_path, start="7-1"), say=nothing):
        pass
    ended_well(other)
    assert late.is_alive()


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a task of SLURM, with a scontrol that is a stand-in; gives what that is called with."""
    for name in os.environ:
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    told = {"JOB_ID": "77", "NODEID": "1", "JOB_NODELIST": "n[1-2]", "CPUS_ON_NODE": "8"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(ray_on_slurm, "num_gpus", lambda: 2)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return stand_in(tmp_path / "bin", "scontrol", "n1\nn2\n")


def test_an_allocation_is_what_slurm_says(
    tmp_path: Path, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Allocation.from_environment(tmp_path)
    assert found == Allocation(tmp_path / "ray-77-0", 1, ("n1", "n2"), cpus=8, gpus=2, memory_bytes=None)
    assert task.read_text().endswith("|show hostnames n[1-2]\n")
    assert not found.is_first
    for name, value in {
        "NODEID": "0",
        "RESTART_COUNT": "3",
        "CPUS_PER_TASK": "4",
        "MEM_PER_NODE": "512",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = Allocation.from_environment(tmp_path)
    assert (found.folder.name, found.cpus, found.memory_bytes) == ("ray-77-3", 4, 512 * 2**20)
    assert found.is_first
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")
    assert Allocation.from_environment(tmp_path).memory_bytes is None, "all of the node's"


def test_ports_that_ray_keeps_for_its_workers_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_on_slurm, "_RESERVED", range(48000))
    assert all(ray_on_slurm._free_port("127.0.0.1") >= 48000 for _ in range(20))
