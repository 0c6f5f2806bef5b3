"""kill -9 in the middle of a trial, then of the driver; the resumed sweep ends as the undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from sweeps.syncing import verify_offline
from tests.conftest import tiny_trial

SRLOSS = str(Path(sys.executable).with_name("srloss"))
pytestmark = pytest.mark.timeout(280)


def wait_for(what: Callable[[], Any], *, seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail(f"not seen within {seconds} s: {what}")


def states(store: Path) -> list[dict[str, Any]]:
    files = store.glob("sweeps/*/trials/*/state.json")
    return [json.loads(path.read_text()) | {"trial": path.parent} for path in files]


def actors(driver: int) -> list[psutil.Process]:
    """Processes of the driver's Ray that run trials."""
    processes = psutil.Process(driver).children(recursive=True)
    return [p for p in processes if "ImplicitFunc" in " ".join(p.cmdline())]


def result(store: Path) -> dict[str, Any]:
    done = subprocess.run(
        [SRLOSS, "report", "--store", str(store), "--json"], capture_output=True, text=True, check=True
    )
    plain = json.loads(done.stdout)
    return {key: plain[key] for key in ("verdict", "ranking", "bicubic")}


def checkpoints(trial: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in trial.glob("checkpoints/*.sha256")}


@pytest.fixture
def sweep_file(photos: Path, tmp_path: Path) -> Path:
    training = {
        "steps": 400,
        "global_batch_size": 4,
        "validate_every": 40,
        "checkpoint_every": 40,
        "log_every": 10,
    }
    trial = tiny_trial(
        photos, training=training, model={"type": "espcn", "channels": 16}, tracking={"wandb": "auto"}
    )
    path = tmp_path / "sweep.yaml"
    parameters = {"loss": ["l1", "mse", "charbonnier"], "seed": [0]}
    path.write_text(yaml.safe_dump({"parameters": parameters, "trial": trial, "memory_gb_per_rank": 0.5}))
    return path


def test_a_sweep_survives_kill_9_of_a_trial_and_of_its_driver(sweep_file: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(
        [SRLOSS, "sweep", str(sweep_file), "--store", str(undisturbed)], check=True, capture_output=True
    )

    log = tmp_path / "output.txt"
    with log.open("w") as output:
        command = [SRLOSS, "sweep", str(sweep_file), "--store", str(killed)]
        driver = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    wait_for(lambda: [s for s in states(killed) if s["state"] == "running" and s["step"] >= 80])
    victims = actors(driver.pid)
    assert victims
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    # Ray starts the trials again by itself, from their checkpoints.
    wait_for(lambda: [s for s in states(killed) if s["attempt"] == 2])
    finished = wait_for(lambda: [s for s in states(killed) if s["state"] == "finished"])
    family = actors(driver.pid)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {state["trial"]: checkpoints(state["trial"]) for state in finished}
    # A trial may come to its end while its process has not yet heard of the driver's.
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    attempts = {state["trial"]: state["attempt"] for state in states(killed) if state["state"] == "finished"}
    unfinished = [s for s in states(killed) if s["state"] != "finished"]
    assert unfinished, "the driver was killed too late for this test to show anything"
    assert "its process died after step" in log.read_text()
    assert "Traceback" not in log.read_text()

    sweep_id = next((killed / "sweeps").iterdir()).name
    command = [SRLOSS, "sweep", "--resume", sweep_id[:6], "--store", str(killed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"({len(attempts)} of them finished before)" in done.stdout
    assert result(killed) == result(undisturbed)
    for trial, hashes in before.items():
        assert checkpoints(trial) == hashes
    after = {state["trial"]: state["attempt"] for state in states(killed)}
    assert {trial: after[trial] for trial in attempts} == attempts
    runs = verify_offline(killed / "sweeps" / sweep_id)
    assert [run for run in runs if not run.is_sound] == []
    # Every logged loss too, digit by digit.
    for trial in undisturbed.glob("sweeps/*/trials/*"):
        rows = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
        other = killed / "sweeps" / sweep_id / "trials" / trial.name
        other_rows = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
        assert last_losses(rows) == last_losses(other_rows)


def last_losses(rows: list[dict[str, Any]]) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(sweep_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    driver = subprocess.Popen(
        [SRLOSS, "sweep", str(sweep_file), "parameters.loss=[l1]", "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: [s for s in states(store) if s["state"] == "running" and s["step"] >= 40])
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, out + err
    assert "srloss sweep --resume" in out
    assert "Traceback" not in out + err
    assert {state["state"] for state in states(store)} <= {"pending", "running", "finished"}
