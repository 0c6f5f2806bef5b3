"""What a trial costs besides its steps, beside stock Ray Tune and Ray Train. Run: python tests/bench/trial_cost.py

Small trials one after the other; wall time of all of them less the steps' own, per trial, Ray's own start left out.
`tune`: a Ray Tune function trial that imports torch, builds the same model and makes as many steps on random tensors; no
data set, no validation, no checkpoint. `train`: the same in a Ray Train TorchTrainer, nested in a Tune trial.
Each variant has a Ray of its own, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.hardware import described

TRIALS = 20
TRAIN_TRIALS = 3
"""Of Ray Train, which is slow."""
STEPS = 20
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "OMP_NUM_THREADS": "1",
}


def ours(folder: Path, *, ranks: int) -> dict[str, float]:
    """The sweep's training, as `srloss sweep` does it."""
    from shards.pack import PackOptions, pack
    from sr import checkpoint
    from sweeps import driver, tune
    from sweeps.cli.follow import Follow
    from sweeps.spec import parse_sweep
    from sweeps.sweep import create

    data = folder / "data"
    pack("photos", None, data, PackOptions(), on_progress=lambda _state: None)
    trial = {
        "data": {"path": str(data), "patch_size": 32},
        "model": {"type": "espcn", "channels": 8},
        "training": {
            "steps": STEPS,
            "global_batch_size": 2,
            "validate_every": STEPS,
            "checkpoint_every": STEPS,
        },
        "evaluation": {"tile_size": 48, "max_tiles_per_source": 1},
        "engine": {"device": "cpu"},
        "tracking": {"wandb": "disabled"},
    }
    plain = {
        "ranks": ranks,
        "parameters": {"loss": ["l1"], "seed": list(range(TRIALS))},
        "trial": trial,
        "memory_gb_per_rank": 0.5,
        "max_concurrent_trials": 1,
    }
    sweep = create(parse_sweep(plain, where="bench"), store=folder / "store", command="bench")
    driver._evaluate = lambda *_: None
    machines = tune.Machines(cpus=2, gpus=0, memory_bytes=8e9)
    driver.this_machine = lambda: machines
    begun: list[float] = []

    class Watch(Follow):
        def trials_begin(self, total: int, done: int, steps: int) -> None:
            begun.append(time.perf_counter())
            super().trials_begin(total, done, steps)

    with Watch(sweep) as follow:
        original = tune.run_trials

        def run_trials(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            begun.append(time.perf_counter())
            return result

        tune.run_trials = run_trials
        driver.run(sweep, progress=follow)
    wall = begun[1] - begun[0]
    ledgers = [sweep.ledger(trial) for trial in sweep.trials]
    states = [checkpoint.load(checkpoint.newest_path(ledger.checkpoints)) for ledger in ledgers]
    assert all(ledger.status().state == "finished" for ledger in ledgers)
    return fixed(wall, [state["step_seconds"] for state in states])


def fixed(wall: float, steps: list[float]) -> dict[str, float]:
    return {
        "fixed_s": round((wall - sum(steps)) / len(steps), 3),
        "steps_s": round(sum(steps) / len(steps), 3),
        "wall_s": round(wall, 2),
    }


def hand_written() -> float:
    """Seconds of the steps of a small trial, whose start is on the way."""
    import torch

    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, padding=2),
        torch.nn.Tanh(),
        torch.nn.Conv2d(8, 8, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.Conv2d(8, 12, 3, padding=1),
        torch.nn.PixelShuffle(2),
    )
    optimizer = torch.optim.Adam(model.parameters())
    started = time.perf_counter()
    for _ in range(STEPS):
        loss = torch.nn.functional.l1_loss(model(torch.rand(2, 3, 16, 16)), torch.rand(2, 3, 32, 32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


def fit(trainable: Any, folder: Path, trials: int) -> dict[str, float]:
    from ray import tune

    tuner = tune.Tuner(
        trainable,
        param_space={"seed": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(name="bench", storage_path=str(folder / "ray"), verbose=0),
    )
    started = time.perf_counter()
    results = tuner.fit()
    wall = time.perf_counter() - started
    assert not results.errors, results.errors
    return fixed(wall, [result.metrics["steps"] for result in results])


def stock_tune(folder: Path) -> dict[str, float]:
    import ray
    from ray import tune

    def trial(_config: dict[str, Any]) -> None:
        tune.report({"steps": hand_written()})

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    return fit(tune.with_resources(trial, {"cpu": 1}), folder, TRIALS)


def stock_train(folder: Path) -> dict[str, float]:
    import ray
    from ray import tune

    def trial(_config: dict[str, Any]) -> None:
        import ray.train
        from ray.train.torch import TorchTrainer

        def loop() -> None:
            ray.train.report({"steps": hand_written()})

        TorchTrainer(
            loop,
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(
                name=tune.get_context().get_trial_id(), storage_path=str(folder / "train")
            ),
        ).fit()
        # What the worker reports does not come out where no checkpoint goes with it; its steps take tenths of a second.
        tune.report({"steps": 0.0})

    # Without the dashboard a nested trainer leaks its placement group.
    ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
    return fit(tune.with_resources(trial, {"node:__internal_head__": 0.01}), folder, TRAIN_TRIALS)


VARIANTS: dict[str, Any] = {
    "ranks_1": lambda folder: ours(folder, ranks=1),
    "ranks_2": lambda folder: ours(folder, ranks=2),
    "tune": stock_tune,
    "train": stock_train,
}


def main(names: list[str]) -> None:
    result: dict[str, Any] = {"benchmark": "trial_cost", "trials": TRIALS, "steps_per_trial": STEPS}
    for name in names or VARIANTS:
        done = subprocess.run(
            [sys.executable, __file__, "--variant", name],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, **QUIET},
        )
        result[name] = json.loads(done.stdout.splitlines()[-1])
    for name in ("ranks_1", "ranks_2"):
        if name in result and "tune" in result:
            result[f"{name}_of_tune"] = round(result[name]["fixed_s"] / result["tune"]["fixed_s"], 3)
    print(json.dumps(result | described()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--variant"]:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(VARIANTS[sys.argv[2]](Path(folder))))
    else:
        main(sys.argv[1:])
