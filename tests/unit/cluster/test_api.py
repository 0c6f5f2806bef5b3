"""What a request for resources may say, and which functions have a name to be imported by."""

import functools
import json
import os
import subprocess
import sys

import pytest

from cluster.api import JobState, Resources, reference_to
from cluster.launchers import LAUNCHERS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_nodes", 0),
        ("cpus", 0),
        ("gpus", -1),
        ("memory_gb", 0),
        ("timeout_s", -1),
        ("timeout_s", float("nan")),
    ],
)
def test_impossible_resources_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"Resources.{field}: got {value}"):
        Resources(**{field: value})


def test_defaults_are_one_small_job_without_limits():
    assert Resources() == Resources(num_nodes=1, cpus=1, gpus=0, memory_gb=None, timeout_s=None)


def test_reference_names_functions_methods_and_builtins():
    assert reference_to(json.dumps) == "json:dumps"
    assert reference_to(json.JSONDecoder.decode) == "json.decoder:JSONDecoder.decode"
    assert reference_to(os.getpid) == "posix:getpid"


@pytest.mark.parametrize("fn", [lambda: 0, functools.partial(print), json.JSONDecoder().decode])
def test_nameless_functions_are_refused(fn):
    with pytest.raises(ValueError, match="Define it with def at the top level"):
        reference_to(fn)


def test_function_of_the_script_being_run_is_refused():
    code = "from cluster.api import reference_to\ndef f(): pass\nreference_to(f)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "f is defined in the script being run" in run.stderr


def test_importing_the_launchers_is_light():
    heavy = "{'torch', 'ray', 'wandb', 'numpy', 'submitit', 'sr', 'shards', 'sweeps'}"
    code = f"import sys, cluster.launchers; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_table_and_states():
    assert set(LAUNCHERS) >= {"inline", "process"}
    assert [str(state) for state in JobState] == ["pending", "running", "succeeded", "failed", "cancelled"]
