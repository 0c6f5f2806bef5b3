"""The contract that every launcher keeps, over the whole table."""

import json
import pickle

import pytest

from cluster.api import JobFailedError, JobState, Resources
from cluster.launchers import LAUNCHERS
from tests import launcher_functions as functions


@pytest.fixture(params=LAUNCHERS)
def launcher(request):
    return LAUNCHERS[request.param]()


def test_result_comes_back(launcher, tmp_path):
    job = launcher.submit(functions.add, 2, b=3, resources=Resources(), name="sum", folder=tmp_path / "job")
    assert job.result(20) == 5
    assert job.exception(0) is None
    assert job.done()
    assert job.wait(0)
    assert job.state is JobState.SUCCEEDED


def test_failure_carries_remote_traceback_and_log(launcher, tmp_path):
    job = launcher.submit(
        functions.fail, "no such loss", resources=Resources(), name="bad", folder=tmp_path / "job"
    )
    with pytest.raises(JobFailedError, match="KeyError: 'no such loss'") as caught:
        job.result(20)
    assert job.state is JobState.FAILED
    error = caught.value
    assert "in fail\n    raise KeyError(message)" in error.remote_traceback
    assert error.remote_traceback in str(error)
    assert "'bad'" in str(error)
    assert error.log_path == job.log_path
    assert str(job.log_path) in str(error)
    assert "raise KeyError(message)" in job.log_path.read_text()
    assert str(job.exception(0)) == str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_name_and_resources_are_recorded(launcher, tmp_path):
    resources = Resources(cpus=1, memory_gb=0.5)
    jobs = [
        launcher.submit(functions.add, 1, resources=resources, name="größe 1", folder=tmp_path / str(i))
        for i in range(2)
    ]
    assert jobs[0].job_id != jobs[1].job_id
    for i, job in enumerate(jobs):
        assert job.wait(20)
        assert (job.name, job.resources) == ("größe 1", resources)
        record = json.loads((tmp_path / str(i) / "job.json").read_text())
        assert (record["name"], Resources(**record["resources"])) == ("größe 1", resources)
        assert record["function"] == "tests.launcher_functions:add"


def test_cancel_of_a_finished_job_changes_nothing(launcher, tmp_path):
    job = launcher.submit(functions.add, 1, resources=Resources(), name="sum", folder=tmp_path / "job")
    assert job.wait(20)
    assert job.cancel() is False
    assert job.state is JobState.SUCCEEDED
    assert job.result(0) == 1


def test_function_without_importable_name_is_refused(launcher, tmp_path):
    def local():
        pass

    for fn in (local, lambda: 0, Resources().__repr__):
        with pytest.raises(ValueError, match="top level of an importable module"):
            launcher.submit(fn, resources=Resources(), name="bad", folder=tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_folder_belongs_to_one_job_and_one_user(launcher, tmp_path):
    launcher.submit(functions.add, 1, resources=Resources(), name="a", folder=tmp_path / "deep" / "job").wait(
        20
    )
    assert (tmp_path / "deep" / "job").stat().st_mode & 0o777 == 0o700
    with pytest.raises(ValueError, match="not empty; choose another"):
        launcher.submit(functions.add, 1, resources=Resources(), name="b", folder=tmp_path / "deep" / "job")


def test_more_than_one_node_is_refused(launcher, tmp_path):
    with pytest.raises(ValueError, match="num_nodes is 2"):
        launcher.submit(functions.add, 1, resources=Resources(num_nodes=2), name="a", folder=tmp_path / "job")


def test_more_than_the_machine_has_warns(launcher, tmp_path):
    with pytest.warns(UserWarning, match="100000 CPUs asked for"):
        launcher.submit(
            functions.add, 1, resources=Resources(cpus=100000), name="a", folder=tmp_path / "j"
        ).wait(9)


# Inline


def test_inline_lets_keyboard_interrupt_through(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        LAUNCHERS["inline"]().submit(
            functions.interrupt, resources=Resources(), name="a", folder=tmp_path / "job"
        )


def test_inline_warns_that_it_has_no_timeout(tmp_path):
    with pytest.warns(UserWarning, match="cannot enforce timeout_s"):
        LAUNCHERS["inline"]().submit(
            functions.add, 1, resources=Resources(timeout_s=1), name="a", folder=tmp_path / "job"
        )
