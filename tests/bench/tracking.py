"""What W&B costs a training: off, offline, online, and online with a server that hangs. Run: python tests/bench/tracking.py

The same trial in each mode, in turn, by `srloss train`: milliseconds per training step, and seconds from the end of the
evaluation to the end of the command; median of the rounds, and the median of each round's ratio to W&B off. The server is
the tests' stand-in on 127.0.0.1; under `hangs` it answers nothing any more once rows have arrived.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from shards.pack import PackOptions, pack
from tests.bench.hardware import described
from tests.wandb_server_standin import WandbServerStandin

ROUNDS = int(os.environ.get("ROUNDS", "3"))
STEPS = 600
FINISH_TIMEOUT_S = 10
MODES = {"off": "disabled", "offline": "offline", "online": "online", "hangs": "online"}
SRLOSS = str(Path(sys.executable).with_name("srloss"))


def trial(data: Path) -> dict[str, Any]:
    """A trial whose steps take some milliseconds, so that what comes beside them would show."""
    return {
        "data": {"path": str(data), "patch_size": 48},
        "model": {"type": "espcn", "channels": 32},
        "loss": "l1",
        "training": {
            "steps": STEPS,
            "global_batch_size": 4,
            "log_every": 10,
            "validate_every": STEPS // 2,
            "checkpoint_every": STEPS,
        },
        "evaluation": {"tile_size": 48, "max_tiles_per_source": 1},
        "engine": {"device": "cpu"},
        "tracking": {"finish_timeout_s": FINISH_TIMEOUT_S},
    }


def measured(mode: str, file: Path, folder: Path) -> dict[str, float]:
    """One run of the command."""
    with WandbServerStandin() as server:
        process = subprocess.Popen(
            [SRLOSS, "train", str(file), "--store", str(folder), f"tracking.wandb={MODES[mode]}"],
            env=os.environ | server.environment() | {"HOME": str(folder), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        evaluated = 0.0
        for line in process.stdout:
            if mode == "hangs" and "W&B: online" in line:
                server.fault = "hang"
            if line.startswith("evaluated on"):
                evaluated = time.perf_counter()
        end_s = time.perf_counter() - evaluated
        assert process.wait() == 0
        server.fault = None
        rows = [len(run.history) for run in server.runs.values()]
    text = next(folder.glob("trials/*/metrics.jsonl")).read_text()
    train = [row for row in map(json.loads, text.splitlines()) if row["kind"] == "train"]
    # Of the second half, when W&B's client is surely there; it holds no validation.
    half = [row for row in train if STEPS // 2 < row["step"] < STEPS]
    spent = half[-1]["seconds"] - half[0]["seconds"]
    if mode == "online":
        assert rows == [len(train) + 3], rows
    return {"step_ms": 1000 * spent / (half[-1]["step"] - half[0]["step"]), "end_s": end_s}


def main() -> None:
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack("photos", None, folder / "data", PackOptions(), on_progress=lambda _state: None)
        file = folder / "trial.yaml"
        file.write_text(yaml.safe_dump(trial(folder / "data")))
        for number in range(ROUNDS):
            for mode, runs in found.items():
                place = folder / f"{mode}-{number}"
                place.mkdir()
                runs.append(measured(mode, file, place))
    result: dict[str, Any] = {"benchmark": "tracking", "rounds": ROUNDS, "steps": STEPS}
    result["finish_timeout_s"] = FINISH_TIMEOUT_S
    for mode, runs in found.items():
        ratios = [run["step_ms"] / off["step_ms"] for run, off in zip(runs, found["off"], strict=True)]
        result[mode] = {
            "step_ms": round(statistics.median(run["step_ms"] for run in runs), 3),
            "of_off": round(statistics.median(ratios), 3),
            "end_s": round(statistics.median(run["end_s"] for run in runs), 2),
        }
    print(json.dumps(result | described()))


if __name__ == "__main__":
    main()
