"""One holder of a folder at a time: through races, kills, pauses, other machines, requeued jobs and full disks."""

import dataclasses
import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sr import lock
from sr.holder import UNKNOWN, Holder, parse_holder, this_process
from sr.lock import exclusive, holder, is_held

BEAT_S, STALE_S = 0.1, 0.9

PRELUDE = f"""
import dataclasses, os, sys, time, uuid
from pathlib import Path
from sr import lock
lock.BEAT_S, lock.STALE_S, lock._POLL_S = {BEAT_S}, {STALE_S}, 0.01
folder = Path(sys.argv[1])
here = lock.this_process
def elsewhere():
    return dataclasses.replace(here(), boot=f"boot {{os.getpid()}}", host=f"n{{os.getpid()}}")
"""
HOLD = """
with lock.exclusive(folder, timeout_s=5, what="this trial is being trained"):
    print("held", flush=True)
    time.sleep(60)
"""
COUNT = """
# Two holders at a time would lose a count, or meet each other's mark while its writer lives.
def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
for _ in range(int(sys.argv[2])):
    with lock.exclusive(folder, timeout_s=60, what="counting"):
        mark, count = folder / "mark", folder / "count"
        text = mark.read_text() if mark.exists() else ""
        assert not text or not lives(int(text)), f"{text} writes here as well"
        mark.write_text(str(os.getpid()))
        number = int(count.read_text() or 0) + 1
        time.sleep(0.002)
        (folder / "new").write_text(str(number))
        (folder / "new").replace(count)
        mark.unlink()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", BEAT_S)
    monkeypatch.setattr(lock, "STALE_S", STALE_S)
    monkeypatch.setattr(lock, "_POLL_S", 0.02)
    for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "CLUSTER_NAME"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "a trial"
    path.mkdir()
    (path / "count").write_text("")
    return path


def start(code: str, *arguments: object, away: bool = False) -> subprocess.Popen[str]:
    """A process; `away`: it says that it is of another machine."""
    text = PRELUDE + ("lock.this_process = elsewhere\n" if away else "") + code
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)], text=True, stdout=-1, stderr=-1
    )


@contextmanager
def held_by_another(folder: Path, *, away: bool = False) -> Iterator[subprocess.Popen[str]]:
    with start(HOLD, folder, away=away) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def take(folder: Path, timeout_s: float = 0.0) -> float:
    """How long it took to get the folder."""
    began = time.monotonic()
    with exclusive(folder, timeout_s=timeout_s, what="this sweep is being run"):
        return time.monotonic() - began


def see_as_from(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    here = this_process
    monkeypatch.setattr(lock, "this_process", lambda: dataclasses.replace(here(), **changes))


def test_held_within_the_block_only_and_old_generations_do_not_pile_up(folder: Path) -> None:
    assert not is_held(folder)
    for _ in range(3):
        with exclusive(folder, timeout_s=0, what="x"):
            found = holder(folder)
            assert found is not None
            assert (found.pid, found.host) == (os.getpid(), os.uname().nodename)
        assert not is_held(folder)
    assert [path.name for path in (folder / ".lease").iterdir()] == ["00000003.json"]


def test_a_copy_of_a_released_folder_is_free(folder: Path, tmp_path: Path) -> None:
    take(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert take(tmp_path / "copy") < 1


def test_who_holds_it_is_named_and_its_kill_frees_it_at_once(folder: Path) -> None:
    with held_by_another(folder) as other:
        with pytest.raises(ValueError, match=f"run by process {other.pid} on {os.uname().nodename} already"):
            take(folder)
        os.kill(other.pid, signal.SIGSTOP)
        time.sleep(1.3 * STALE_S)
        # What runs here can be asked, paused or not.
        assert is_held(folder)
        with pytest.raises(ValueError, match="already"):
            take(folder)
        other.kill()
        # A zombie for as long as nobody waits for it.
        assert take(folder, 5) < STALE_S / 2
        assert not is_held(folder)


def test_a_thread_of_the_holder_waits_like_anybody(folder: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def first() -> None:
        with exclusive(folder, timeout_s=0, what="x"):
            inside.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    take(folder, 5)
    order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_eight_processes_never_hold_it_together(folder: Path) -> None:
    processes = [start(COUNT, folder, 10, away=number % 2 == 1) for number in range(8)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert (folder / "count").read_text() == "80"


def test_kills_at_random_moments_leave_it_usable(folder: Path) -> None:
    draw = random.Random(7)
    survivors = [start(COUNT, folder, 40, away=away) for away in (False, True)]
    for _ in range(6):
        victim = start(COUNT, folder, 10_000)
        time.sleep(draw.uniform(0.08, 0.25))
        victim.kill()
        _, errors = victim.communicate()
        assert "AssertionError" not in errors
    for process in survivors:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert int((folder / "count").read_text()) >= 80
    assert not is_held(folder)


def test_a_silent_holder_elsewhere_is_waited_for_and_then_replaced(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_TELL_AFTER_S", 0.2)
    with held_by_another(folder, away=True) as other:
        other.kill()
        other.wait()
        assert is_held(folder)
        # Longer than the caller would wait for one that is known to live.
        with caplog.at_level(logging.WARNING):
            assert STALE_S < take(folder, 0.1) < 4 * STALE_S
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: this sweep is being run by process {other.pid} on n{other.pid}; waiting for it to end, or to be "
        f"silent for {STALE_S:.0f} s"
    ]


def test_a_living_holder_elsewhere_is_not_replaced(folder: Path) -> None:
    with held_by_another(folder, away=True) as other:
        began = time.monotonic()
        with pytest.raises(ValueError, match=f"by process {other.pid} on n{other.pid} already"):
            take(folder, 1.3 * STALE_S)
        assert time.monotonic() - began < 2.5 * STALE_S
        # As soon as it was heard of there is no need to wait for longer than asked.
        began = time.monotonic()
        with pytest.raises(ValueError, match="already"):
            take(folder)
        assert time.monotonic() - began < STALE_S
        assert other.poll() is None


def test_a_paused_holder_that_was_replaced_ends_itself(folder: Path) -> None:
    with held_by_another(folder, away=True) as other:
        os.kill(other.pid, signal.SIGSTOP)
        with exclusive(folder, timeout_s=0, what="this sweep is being run"):
            os.kill(other.pid, signal.SIGCONT)
            _, errors = other.communicate(timeout=5)
            assert other.returncode == lock.LOST
            assert f"being trained by process {os.getpid()} on " in errors
            assert len(errors.splitlines()) == 1
            assert is_held(folder)


def test_an_observer_that_was_paused_has_observed_nothing(folder: Path) -> None:
    with held_by_another(folder, away=True) as other:
        os.kill(other.pid, signal.SIGSTOP)
        watch = lock._Watch(this_process())
        seen = lock._look(folder / ".lease")
        assert seen.holder is not None
        assert not watch.is_dead(seen, seen.holder)
        watch._looked -= 100 * STALE_S
        assert not watch.is_dead(seen, seen.holder)


def test_a_requeued_job_need_not_wait_for_its_old_attempt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "80")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with held_by_another(folder, away=True) as other:
        with pytest.raises(ValueError, match=r"on n\d+ \(SLURM job 77_3\) already"):
            take(folder)
        other.kill()
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert take(folder) < STALE_S / 2


def test_the_first_attempt_does_not_replace_the_second(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "80")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with held_by_another(folder, away=True):
        monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
        with pytest.raises(ValueError, match="SLURM job 80"):
            take(folder)


@pytest.mark.parametrize("change", [{"boot": "another"}, {"pid_namespace": "pid:[1]"}])
def test_a_machine_is_told_by_boot_and_namespace(change: dict[str, str]) -> None:
    me = this_process()
    assert me.is_alive(me) is True
    assert dataclasses.replace(me, started="1").is_alive(me) is False
    assert dataclasses.replace(me, **change).is_alive(me) is None


@pytest.mark.parametrize(("age_s", "held"), [(0, True), (STALE_S * 5, False), (-3600, True)])
def test_one_look_tells_whether_a_holder_elsewhere_is_fresh(
    folder: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, held: bool
) -> None:
    with exclusive(folder, timeout_s=0, what="x"):
        see_as_from(monkeypatch, boot="another")
        monkeypatch.setattr(lock, "_renewed", lambda lease: True)
        path = folder / ".lease/00000001.json"
        time.sleep(2 * BEAT_S)
        # The file server's clock decides, not how far this machine's is from it.
        now = time.time()
        os.utime(path, (now - age_s, now - age_s))
        assert is_held(folder) is held
        monkeypatch.setattr(time, "time", lambda: now + 7200)
        assert is_held(folder) is held
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_fork_neither_renews_nor_releases(folder: Path) -> None:
    code = """
lock.this_process = here
with lock.exclusive(folder, timeout_s=0, what="x"):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        assert lock.is_held(folder)
        before = (folder / ".lease/00000001.json").stat().st_mtime_ns
        time.sleep(5 * lock.BEAT_S)
        assert (folder / ".lease/00000001.json").stat().st_mtime_ns > before
    else:
        import threading
        assert all(not thread.name.startswith("srloss") for thread in threading.enumerate())
print(child != 0, lock.is_held(folder))
"""
    with start(code, folder) as process:
        text, errors = process.communicate(timeout=10)
    assert (text, errors) == ("False True\nTrue False\n", "")


def test_leftovers_of_killed_processes_are_tolerated_and_swept(folder: Path) -> None:
    place = folder / ".lease"
    place.mkdir()
    for name, age_s in (("a.tmp", 7200), ("b.tmp", 0), ("00000004.json", 0), ("note.json", 0)):
        (place / name).write_bytes(this_process().to_bytes())
        os.utime(place / name, (time.time() - age_s, time.time() - age_s))
    (place / "00000007.json").write_bytes(dataclasses.replace(this_process(), started="1").to_bytes())
    take(folder)
    assert sorted(path.name for path in place.iterdir()) == ["00000008.json", "b.tmp", "note.json"]


def test_a_record_that_cannot_be_read_is_somebodys(folder: Path) -> None:
    (folder / ".lease").mkdir()
    (folder / ".lease/00000001.json").write_bytes(b"")
    assert str(holder(folder)) == "another process"
    assert STALE_S < take(folder) < 4 * STALE_S
    for content in (b"[]", b"{}", b"\xff", b'{"pid": "1"}', b'{"pid": 1, "restarts": 0}'):
        assert parse_holder(content) is UNKNOWN
    me = this_process()
    assert parse_holder(me.to_bytes()) == me
    assert isinstance(me, Holder)


def test_an_old_listing_makes_nobody_a_holder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of NFS may show a folder as it was: the number it would make was given out and deleted long ago."""
    for _ in range(3):
        take(folder)
    with exclusive(folder, timeout_s=0, what="x"):
        assert not lock._make(folder / ".lease", 2, b"late")
        assert [path.name for path in (folder / ".lease").iterdir()] == ["00000004.json"]
        found = holder(folder)
        assert found is not None
        assert found.pid == os.getpid()


def test_a_request_that_was_answered_twice_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def lost_answer(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", lost_answer)
    assert take(folder) < 1


def test_without_hard_links_it_works_as_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with exclusive(folder, timeout_s=0, what="x"), pytest.raises(ValueError, match="already"):
        take(folder)
    assert take(folder) < 1


def test_a_full_disk_is_told_and_does_not_hinder_the_release(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with exclusive(folder, timeout_s=0, what="x"):
        monkeypatch.setattr(Path, "write_bytes", full)
    assert not is_held(folder)
    with pytest.raises(OSError, match=r"a trial: cannot be reserved .*No space left on device.*make room"):
        take(folder)


def test_a_successor_that_was_killed_on_its_way_counts(folder: Path) -> None:
    (folder / ".lease").mkdir()
    record = this_process().to_bytes()
    assert lock._make(folder / ".lease", 1, record)
    lease = lock._Lease(folder, "x", 1)
    assert lock._renewed(lease)
    # It had no time to delete the file before its own.
    (folder / ".lease/00000002.json").write_bytes(record)
    assert not lock._renewed(lease)
