"""What the detached process adds to the launchers' contract: kills, cancels, timeouts, and being found again."""

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from cluster import jobfolder
from cluster.api import JobFailedError, JobState, Resources
from cluster.local import ProcessLauncher
from cluster.localjobs import ProcessJob
from tests import launcher_functions as functions

ROOT = Path(__file__).parents[3]


@pytest.fixture
def submit(tmp_path):
    """Submit to a ProcessLauncher with a short grace period; everything is stopped at the end."""
    jobs = []

    def _submit(fn, *args, grace_s=5.0, timeout_s=None, folder=None, **kwargs):
        folder = folder or tmp_path / f"job-{len(jobs)}"
        resources = Resources(timeout_s=timeout_s)
        job = ProcessLauncher(grace_s=grace_s).submit(
            fn, *args, resources=resources, name="probe", folder=folder, **kwargs
        )
        jobs.append(job)
        return job

    yield _submit
    for job in jobs:
        job.cancel()
        assert job.wait(10)


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


def read_pid(path):
    return int(wait_for(lambda: path.exists() and path.read_text()))


def exists(pid):
    """Whether the process table has the process, zombies included."""
    return Path(f"/proc/{pid}").exists()


def test_killed_process_is_named_as_such(submit, tmp_path):
    job = submit(functions.note_pid_and_sleep, tmp_path / "pid", 60)
    os.kill(read_pid(tmp_path / "pid"), signal.SIGKILL)
    with pytest.raises(JobFailedError, match="killed by SIGKILL, possibly out of memory") as caught:
        job.result(10)
    assert (caught.value.signal_name, caught.value.exit_code) == ("SIGKILL", None)
    assert caught.value.remote_traceback is None
    assert str(job.log_path) in str(caught.value)


def test_crash_is_named_and_its_trace_is_in_the_message(submit):
    with pytest.raises(JobFailedError, match=r"killed by SIGSEGV(?s:.)*in kill_self"):
        submit(functions.kill_self, signal.SIGSEGV).result(10)


def test_exit_without_result_is_a_failure(submit):
    error = submit(functions.exit_hard, 0).exception(10)
    assert "exited with code 0 without returning a result" in str(error)
    assert error.exit_code == 0
    assert "SystemExit: 4" in str(submit(functions.leave_python, 4).exception(10))


def test_unpicklable_result_is_a_failure_that_says_so(submit):
    assert "returned a lock that cannot be pickled" in str(submit(functions.return_unpicklable).exception(10))


def test_unpicklable_argument_is_refused(submit, tmp_path):
    with pytest.raises(ValueError, match=r"launcher_functions:add cannot be sent .*pass plain data"):
        submit(functions.add, threading.Lock(), folder=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_log_has_stdout_and_stderr_while_the_job_runs(submit, tmp_path):
    job = submit(functions.say, "crème brûlée")
    assert job.wait(10)
    assert {"crème brûlée", "crème brûlée (stderr)"} <= set(job.log_path.read_text().splitlines())


def test_result_timeout_leaves_the_job_running(submit, tmp_path):
    job = submit(functions.note_pid_and_sleep, tmp_path / "pid", 60)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not done after 0\.2 s"):
        job.result(0.2)
    assert time.monotonic() - started < 2
    assert job.state is JobState.RUNNING
    assert not job.wait(0)


def test_cancel_stops_the_job_and_leaves_nothing(submit, tmp_path):
    job = submit(functions.note_pid_and_sleep, tmp_path / "pid", 60)
    pid, watcher = read_pid(tmp_path / "pid"), job.process.pid
    assert job.cancel()
    assert job.wait(4), "SIGTERM alone was enough, so the grace period must not pass"
    assert job.state is JobState.CANCELLED
    with pytest.raises(concurrent.futures.CancelledError, match="was cancelled"):
        job.result(0)
    wait_for(lambda: not exists(pid) and not exists(watcher))


def test_cancel_kills_a_job_that_ignores_sigterm(submit, tmp_path):
    job = submit(functions.ignore_sigterm_and_sleep, tmp_path / "pid", 60, grace_s=0.3)
    pid = read_pid(tmp_path / "pid")
    started = time.monotonic()
    assert job.cancel()
    assert job.wait(10)
    assert time.monotonic() - started >= 0.3
    assert job.state is JobState.CANCELLED
    wait_for(lambda: not exists(pid))


def test_cancel_right_after_submit_works(submit):
    # The signal may come before the other side has set anything up.
    for delay_s in (0, 0.01, 0.02, 0.03, 0.04):
        job = submit(time.sleep, 60)
        time.sleep(delay_s)
        assert job.cancel()
        assert job.wait(4)
        assert job.state is JobState.CANCELLED


def test_sigterm_from_outside_is_a_failure_not_a_cancel(submit, tmp_path):
    job = submit(functions.note_pid_and_sleep, tmp_path / "pid", 60)
    read_pid(tmp_path / "pid")
    os.kill(job.process.pid, signal.SIGTERM)
    assert "killed by SIGTERM\n" in str(job.exception(4))
    assert job.state is JobState.FAILED


def test_timeout_is_enforced(submit, tmp_path):
    job = submit(functions.ignore_sigterm_and_sleep, tmp_path / "pid", 60, timeout_s=0.5, grace_s=0.2)
    pid = read_pid(tmp_path / "pid")
    assert "stopped after its timeout_s of 0.5 s" in str(job.exception(10))
    assert job.state is JobState.FAILED
    wait_for(lambda: not exists(pid))


def test_what_the_function_started_ends_with_it(submit, tmp_path):
    job = submit(functions.leave_a_grandchild, tmp_path / "pid")
    assert job.result(10) is None
    grandchild = read_pid(tmp_path / "pid")
    wait_for(lambda: not jobfolder.Process.of(grandchild).started)


def test_no_zombie_remains_even_if_nobody_asks(submit, tmp_path):
    job = submit(functions.add, 1)
    watcher = job.process.pid
    wait_for(lambda: (job.folder / jobfolder.END).exists())
    wait_for(lambda: not exists(watcher))


def test_function_does_not_outlive_its_watcher(submit, tmp_path):
    job = submit(functions.note_pid_and_sleep, tmp_path / "pid", 60)
    pid = read_pid(tmp_path / "pid")
    os.kill(job.process.pid, signal.SIGKILL)
    assert "vanished: killed from outside" in str(job.exception(10))
    wait_for(lambda: not jobfolder.Process.of(pid).started)


def test_reopened_job_is_the_same_job(submit, tmp_path):
    job = submit(functions.note_pid_and_sleep, tmp_path / "pid", 1.0)
    code = f"""
        from pathlib import Path
        from cluster.localjobs import ProcessJob
        job = ProcessJob.open(Path({str(job.folder)!r}))
        print(job.job_id, job.name, job.state, job.result(20), job.state)
    """
    seen = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert seen.split() == [job.job_id, "probe", "running", "slept", "succeeded"]


def test_open_refuses_a_folder_without_a_job(tmp_path):
    with pytest.raises(ValueError, match="no job was started here"):
        ProcessJob.open(tmp_path)


def test_open_refuses_a_running_job_of_another_machine(submit, tmp_path):
    job = submit(functions.note_pid_and_sleep, tmp_path / "pid", 60)
    path = job.folder / jobfolder.PROCESS
    record = path.read_text()
    jobfolder.write_json(path, {**json.loads(record), "host": "node-17"})
    with pytest.raises(ValueError, match="was started on node-17"):
        ProcessJob.open(job.folder)
    path.write_text(record)


def test_recycled_pid_is_not_the_job(submit, tmp_path):
    job = submit(functions.add, 1)
    assert job.wait(10)
    (job.folder / jobfolder.END).unlink()
    (job.folder / jobfolder.RESULT).unlink()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        # The number is now that of a process that started later.
        record = jobfolder.read_json(job.folder / jobfolder.PROCESS)
        jobfolder.write_json(job.folder / jobfolder.PROCESS, {**record, "pid": bystander.pid})
        assert job.done()
        assert job.cancel() is False
        assert "vanished" in str(job.exception(0))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_zombie_is_not_alive():
    # Where process 1 reaps nothing, as in many containers, a finished watcher stays in the table for good.
    child = subprocess.Popen(["sleep", "60"])
    process = jobfolder.Process.of(child.pid)
    assert process.is_alive()
    child.kill()
    wait_for(lambda: ") Z " in Path(f"/proc/{child.pid}/stat").read_text())
    assert not process.is_alive()
    child.wait()


def test_job_survives_ctrl_c_in_the_submitters_terminal(tmp_path):
    code = f"""
        import signal
        import time
        from pathlib import Path
        from cluster.api import Resources
        from cluster.local import ProcessLauncher
        from tests import launcher_functions as functions
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Shells ignore it for background commands.
        tmp_path = Path({str(tmp_path)!r})
        ProcessLauncher().submit(functions.note_pid_and_sleep, tmp_path / "pid", 1.0,
                                 resources=Resources(), name="probe", folder=tmp_path / "job")
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    pid = read_pid(tmp_path / "pid")
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(10) != 0
    assert exists(pid), "the job ended with its submitter"
    job = ProcessJob.open(tmp_path / "job")
    assert job.state is JobState.RUNNING
    assert job.result(10) == "slept"


@pytest.mark.parametrize("name", ["with space", "quo'te\"s", "größe-模型", "$HOME; true", "-rf"])
def test_odd_folder_names_work(submit, tmp_path, name):
    assert submit(functions.add, 1, b=1, folder=tmp_path / name).result(10) == 2


def test_relative_folder_stays_valid_after_chdir(submit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = submit(functions.add, 1, folder=Path("job"))
    monkeypatch.chdir("/")
    assert job.result(10) == 1
    assert job.log_path.is_absolute()


def test_child_imports_from_where_the_parent_does(submit, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def answer():\n    return 42\n")
    # A folder in the current directory that looks like ours must not be picked up.
    (tmp_path / "elsewhere" / "cluster").mkdir(parents=True)
    (tmp_path / "elsewhere" / "cluster" / "__init__.py").write_text("raise RuntimeError('a stranger')")
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/original")
    monkeypatch.chdir(tmp_path / "elsewhere")
    import only_here  # pyright: ignore[reportMissingImports]

    assert submit(only_here.answer).result(10) == 42
    seen = submit(functions.surroundings).result(10)
    assert seen["sys_path"][0] == str(tmp_path)
    assert seen["pythonpath"] == "/original"
    assert Path(seen["watcher"]).is_relative_to(tmp_path / "cluster")
    assert seen["sid"] != os.getsid(0)
