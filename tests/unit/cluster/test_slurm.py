"""Batch scripts and what becomes of them, read by bash itself; sbatch and srun are stand-ins that note what they are given."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from cluster import slurm
from cluster.slurm import Call, python_command, refusal, script, submit
from tests.unit.cluster.slurm_commands_stand_in import stand_in

ODD = """it's a "store"; touch $HOME `id` & (x)"""
"""A name that a shell would not take for one."""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on PATH, with an srun that puts its arguments into a file, one a line."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "srun").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {shlex.quote(str(tmp_path / "srun.txt"))}\n'
    )
    (place / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    return place


@pytest.fixture
def sbatch(commands: Path) -> Path:
    """An sbatch that takes everything; gives the folder with what it was given: `tested`, `script`, `environment`."""
    place = commands.parent
    (commands / "sbatch").write_text(
        f"""#!/bin/sh
cd {shlex.quote(str(place))}
if [ "$1" = --test-only ]; then cat > tested; exit; fi
cat "$1" > script
env > environment
echo "Submitted batch job 77"
"""
    )
    (commands / "sbatch").chmod(0o755)
    return place


def add(one: int, two: int) -> int:
    return one + two


def text_for(
    folder: Path, parameters: Mapping[str, Any] | None = None, *, calls: int = 1
) -> tuple[str, dict[str, str]]:
    """The script, and its options as sbatch would split them into words."""
    given = {"name": "odd", "timeout_min": 7, "slurm_stderr_to_stdout": True} | dict(parameters or {})
    text = script([Call(add, {"one": 1, "two": 2})] * calls, folder=folder, parameters=given)
    words = [
        word for line in text.splitlines() if line.startswith("#SBATCH") for word in shlex.split(line)[1:]
    ]
    return text, {
        name: value for name, _, value in (word.removeprefix("--").partition("=") for word in words)
    }


def ran(text: str, place: Path) -> list[str]:
    """What srun is called with when bash runs the script."""
    (place / "script.sh").write_text(text)
    for flags in (["-n"], []):
        done = subprocess.run(
            ["bash", *flags, place / "script.sh"], cwd=place, capture_output=True, text=True, timeout=10
        )
        assert (done.returncode, done.stderr) == (0, "")
    return (place / "srun.txt").read_text().splitlines()


def test_bash_reads_odd_names_as_they_were_meant(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = commands.parent
    folder = place / ODD
    monkeypatch.setattr(sys, "executable", f"/opt/{ODD}/python")
    more = {
        "slurm_comment": ODD,
        "slurm_srun_args": [f"--container={ODD}"],
        "slurm_setup": ["cd /", "export A=b"],
    }
    text, options = text_for(folder, more)
    words = ran(text, place)
    assert words == [
        "--unbuffered",
        "--output",
        f"{folder}/%j_%t_log.out",
        f"--container={ODD}",
        f"/opt/{ODD}/python",
        *("-P", "-m", "cluster.hold_signals", "-u", "-m", "submitit.core._submit"),
        str(folder),
    ]
    assert options["output"] == f"{folder}/%j_0_log.out"
    assert options["comment"] == ODD
    assert (options["job-name"], options["time"]) == ("odd", "7")
    assert "error" not in options
    assert text.index("\ncd /\nexport A=b\n") < text.index("\nsrun ")


@pytest.mark.parametrize("name", ["%j", "two\nlines"])
def test_what_sbatch_would_read_otherwise_is_refused(name: str, commands: Path) -> None:
    with pytest.raises(ValueError, match="meaning of its own for sbatch; choose another --store"):
        text_for(commands.parent / name)


def test_a_command_in_place_of_python_is_taken_as_it_is(commands: Path) -> None:
    command = "apptainer exec --nv 'my image.sif' python"
    assert python_command(command) == f"{command} -P -m cluster.hold_signals"
    words = ran(text_for(commands.parent, {"slurm_python": command})[0], commands.parent)
    assert words[3:9] == ["apptainer", "exec", "--nv", "my image.sif", "python", "-P"]


def test_a_key_of_the_site_is_named_only_where_it_is_given(commands: Path) -> None:
    assert "wckey" not in text_for(commands.parent)[0]
    assert "wckey" not in text_for(commands.parent, {"slurm_wckey": None})[0]
    assert text_for(commands.parent, {"slurm_wckey": "lab"})[1]["wckey"] == "lab"


def test_what_is_null_is_left_to_the_site(commands: Path) -> None:
    _, options = text_for(commands.parent, {"mem_gb": None, "slurm_partition": None, "gpus_per_node": None})
    assert options.keys() == {"job-name", "nodes", "open-mode", "output", "signal", "time"}


def test_several_calls_are_an_array(commands: Path) -> None:
    parameters = {"slurm_array_parallelism": 2}
    _, options = text_for(commands.parent / "logs", parameters, calls=3)
    assert options["array"] == "0-2%2"
    assert options["output"].endswith("/%A_%a_0_log.out")
    assert "array" not in text_for(commands.parent, parameters)[1]


def test_what_sbatch_would_take_is_no_refusal(sbatch: Path) -> None:
    assert refusal("the script") == ""
    assert (sbatch / "tested").read_text() == "the script"
    assert not (sbatch / "script").exists()


@pytest.mark.parametrize(
    ("err", "told"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account\n\n",
            "SLURM refuses the job: Batch job submission failed: Invalid account",
        ),
        (
            "sbatch: error: one\nsbatch: error: two\nallocation failure: three\n",
            "one; two; allocation failure: three",
        ),
        ("sbatch: error: one\nsbatch: error: one\n", "SLURM refuses the job: one"),
        ("", "SLURM refuses the job: exit code 3"),
        (
            "allocation failure: Unable to contact slurm controller (connect failure)\n",
            "SLURM does not answer: allocation failure: Unable to contact slurm controller (connect failure); try again later",
        ),
    ],
)
def test_a_refusal_is_in_the_words_of_slurm(commands: Path, err: str, told: str) -> None:
    stand_in(commands, "sbatch", err=err, code=3)
    assert refusal("").endswith(told)


def test_lines_that_bash_cannot_read_are_told_before_anything_is_submitted(sbatch: Path) -> None:
    parameters = {"slurm_setup": ["echo it's"], "timeout_min": 7}
    with pytest.raises(
        ValueError, match=r"^cluster: bash cannot read the batch script \(line \d+: unexpected EOF"
    ):
        submit([Call(add, {"one": 1, "two": 2})], folder=sbatch / "logs", parameters=parameters)
    assert not (sbatch / "script").exists()


def test_a_silent_and_a_missing_sbatch_are_told(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_TIMEOUT_S", 0.2)
    stand_in(commands, "sbatch", takes_s=5)
    assert (
        refusal("") == "SLURM: sbatch has not answered within 0.2 s; is slurmctld running? See: scontrol ping"
    )
    monkeypatch.setenv("PATH", str(commands / "nothing"))
    assert refusal("") == "SLURM: there is no sbatch on this machine; submit from a login node of the cluster"
    with pytest.raises(ValueError, match="there is no srun on this machine"):
        text_for(commands.parent)


def test_what_slurm_refuses_is_not_submitted(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in(commands, "sbatch", err="sbatch: error: Invalid partition\n", code=1)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    with pytest.raises(ValueError, match=r"^SLURM refuses the job: Invalid partition$"):
        submit([Call(add, {"one": 1, "two": 2})], folder=commands.parent / "logs", parameters={})
    assert os.environ["SLURM_JOB_ID"] == "5"
    assert [line.partition("|")[2] for line in asked.read_text().splitlines()] == ["--test-only"]


def test_a_job_carries_its_call_and_what_was_tested(sbatch: Path) -> None:
    folder = sbatch / ODD
    assert submit([Call(add, {"one": 1, "two": 2})], folder=folder, parameters={"name": "x"}) == "77"
    assert (sbatch / "tested").read_text() == (sbatch / "script").read_text()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert DelayedSubmission.load(folder / "77_submitted.pkl").result() == 3


def test_an_array_is_one_job_whose_elements_keep_the_order(sbatch: Path) -> None:
    calls = [Call(add, {"one": number, "two": 0}) for number in range(3)]
    assert submit(calls, folder=sbatch / "logs", parameters={"slurm_array_parallelism": 5}) == "77"
    assert (sbatch / "tested").read_text() == (sbatch / "script").read_text()
    assert "#SBATCH --array=0-2%3\n" in (sbatch / "script").read_text()
    found = [DelayedSubmission.load(sbatch / "logs" / f"77_{n}_submitted.pkl").result() for n in range(3)]
    assert found == [0, 1, 2]


def test_a_job_that_submits_another_does_not_hand_on_what_is_its_own(
    sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (
        *("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SLURMD_NODENAME", "SBATCH_PARTITION", "SRUN_DEBUG"),
        *("SUBMITIT_EXECUTOR", "PMI_RANK", "PMIX_RANK"),
    )
    for name in own:
        monkeypatch.setenv(name, "5")
    monkeypatch.setenv("SLURM_CONF", "/elsewhere/slurm.conf")
    monkeypatch.setenv("MODULEPATH", "/modules")
    submit([Call(add, {"one": 1, "two": 2})], folder=sbatch / "logs", parameters={})
    seen = dict(line.split("=", 1) for line in (sbatch / "environment").read_text().splitlines())
    assert not seen.keys() & set(own)
    assert (seen["SLURM_CONF"], seen["MODULEPATH"]) == ("/elsewhere/slurm.conf", "/modules")
    assert {os.environ[name] for name in own} == {"5"}
    assert os.environ["SLURM_CONF"] == "/elsewhere/slurm.conf"
