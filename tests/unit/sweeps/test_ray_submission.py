"""What goes to a Ray cluster with a sweep, and what its machines are asked."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sweeps import code, ray_submission
from sweeps.cluster_section import ClusterSection
from sweeps.ray_submission import submit_sweep
from sweeps.store import SweepFolder
from sweeps.tune.nodes import faults_of, sees

WANTED = {"srloss": "0123456789ab", "Python": "3.11", "ray": "2.60.0", "torch": "2.15.0"}
GOOD = {"versions": WANTED, "sees_folder": True, "sees_data": True}


def faults(answer: dict[str, Any], *, ships_code: bool = False) -> list[str]:
    return faults_of(answer, WANTED, folder=Path("/store/s"), data="/data", ships_code=ships_code)


def test_a_machine_with_the_same_of_all_is_fit() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            {**GOOD, "versions": {**WANTED, "srloss": "ba9876543210"}},
            "has srloss ba9876543210; the sweep was submitted with srloss 0123456789ab; install the same there, or send "
            "yours: cluster.ship_code=true",
        ),
        (
            {**GOOD, "versions": {**WANTED, "torch": "2.14.0"}},
            "has torch 2.14.0; the sweep was submitted with torch 2.15.0; install the same there",
        ),
        (
            {"missing": "No module named 'sweeps'"},
            "srloss cannot be imported there (No module named 'sweeps'); install it, or send yours: cluster.ship_code=true",
        ),
        (
            {**GOOD, "sees_folder": False},
            "does not see the run store (/store/s); the store must be on a file system that all nodes share",
        ),
        (
            {**GOOD, "sees_data": False},
            "does not see the data set (/data); it must be on a file system that all nodes share, or at a URL",
        ),
    ],
)
def test_what_is_wrong_with_a_machine_comes_with_the_cure(answer: dict[str, Any], told: str) -> None:
    assert faults(answer) == [told]


def test_who_sends_the_code_is_not_told_to_send_it() -> None:
    assert "ship_code" not in faults({"missing": "No module named 'torch'"}, ships_code=True)[0]


def test_a_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "token"
    threading.Timer(0.2, path.write_text, ["right"]).start()
    assert sees(path, "right", wait_s=5)
    assert not sees(path, "other", wait_s=0.1)
    assert not sees(tmp_path / "not-there" / "token", "right", wait_s=0.1)


def test_the_hash_is_that_of_the_copy_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = code.code_hash()
    code.copy_code(tmp_path)
    (tmp_path / "sr" / "__pycache__").mkdir()
    (tmp_path / "sr" / "__pycache__" / "x.pyc").touch()
    (tmp_path / "sr" / ".train.py.swp").touch()
    monkeypatch.setattr(code, "find_spec", lambda name: _Spec(tmp_path / name / "__init__.py"))
    assert code.code_hash() == here
    template = next((tmp_path / "sweeps").rglob("*.j2"))
    template.write_text(template.read_text() + " ")
    assert code.code_hash() != here


class _Spec:
    def __init__(self, origin: Path) -> None:
        self.origin = str(origin)


def test_only_what_is_meant_for_the_cluster_is_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "SRLOSS_WEIGHTS": "weights",
        "SRLOSS_CACHE_BYTES": "1000",
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": "secret",
        "RAY_AUTH_TOKEN": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    assert ray_submission.environment() == {
        "SRLOSS_WEIGHTS": str(tmp_path / "weights"),
        "SRLOSS_CACHE_BYTES": "1000",
        "WANDB_MODE": "offline",
    }
    monkeypatch.setenv("WANDB_BASE_URL", "https://me:password@wandb.lab")
    with pytest.raises(ValueError, match=r"\$WANDB_BASE_URL: holds a name or password"):
        ray_submission.environment()


def test_a_cluster_that_does_not_answer_leaves_no_record(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="does not answer"):
        submit_sweep(SweepFolder(tmp_path / "s"), ClusterSection(address="http://127.0.0.1:9"))
    assert time.monotonic() - began < 8
    assert list(tmp_path.iterdir()) == []


def test_the_cache_of_the_block_goes_before_that_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRLOSS_NODE_CACHE", "$HOME/own")
    assert ray_submission.environment()["SRLOSS_NODE_CACHE"] == "$HOME/own"
    assert ray_submission.environment("$TMPDIR")["SRLOSS_NODE_CACHE"] == "$TMPDIR"
