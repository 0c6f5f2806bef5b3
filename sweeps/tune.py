"""The only door to Ray: an embedded cluster, Ray Tune over the trials of a sweep, and plain tasks for evaluation.

Ray Tune decides what runs when and where, stops the hopeless early (ASHA) and starts dead trials again. What a trial
did lives in its ledger and its checkpoints, not in Tune's own state: that is what makes any interruption resumable.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sr.ledger import Ledger, State
from sweeps.spec import PlannedTrial, SweepConfig


class Watch(Protocol):
    """Whoever wants to know what happens to trials, by their ids."""

    def validated(self, trial_id: str, metrics: dict[str, Any]) -> None:
        """A trial reported a validation."""
        ...

    def ended(self, trial_id: str) -> None:
        """A trial has ended by itself, or was stopped by the scheduler."""
        ...

    def died(self, trial_id: str, *, is_final: bool) -> None:
        """A trial's process died; it is started again unless that was the last time."""
        ...


_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Trials keep the driver's working folder: paths on its command line stay valid.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@contextmanager
def embedded_ray(*, cpus: int, gpus: int) -> Iterator[None]:
    """A Ray cluster that lives in this process's children and ends with the block; needs no network."""
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    import ray

    # address="local": never join a cluster that some killed process left an address file of.
    ray.init(
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=128 * 2**20,
    )
    try:
        yield
    finally:
        ray.shutdown()


def run_trials(
    sweep: SweepConfig,
    trials: Sequence[PlannedTrial],
    trials_folder: Path,
    *,
    storage: Path,
    max_concurrent: int,
    watch: Watch,
) -> set[str]:
    """Runs trials under Ray Tune until each has ended; a failure hides no other trial.

    Args:
        sweep: Scheduler, metric and resources are taken from it.
        trials: What to run.
        trials_folder: Holds a folder per trial, named by its id, already created.
        storage: Where Tune keeps its own state; nothing there is needed later.
        max_concurrent: Trials at once.
        watch: Told what happens.

    Returns:
        Ids of the trials that Tune saw to an end; the others were interrupted, or died too often.
    """
    from ray import tune

    folder = str(trials_folder.resolve())
    replay = sweep.early_terminate is not None

    def trainable(config: dict[str, Any]) -> None:
        run_one_trial(Path(folder) / config["trial_id"], replay=replay, report=tune.report)

    threads = max(trial.config.engine.threads for trial in trials)
    resources = {"cpu": float(threads)} | ({"gpu": sweep.gpus_per_trial} if sweep.gpus_per_trial else {})
    callback = _callback(watch)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"trial_id": tune.grid_search([trial.trial_id for trial in trials])},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=max_concurrent,
            scheduler=_scheduler(sweep, trials),
            # A fresh process for each trial would spend its time importing torch.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage.resolve()),
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            verbose=0,
        ),
    )
    # Tune prints the traceback of its own bookkeeping when a trial's process dies; the watcher says it in a line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner.fit()
    return callback.ended


def _scheduler(sweep: SweepConfig, trials: Sequence[PlannedTrial]) -> Any:  # noqa: ANN401 - Ray's TrialScheduler
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    early = sweep.early_terminate
    if early is None:
        return FIFOScheduler()
    return ASHAScheduler(
        # Not Tune's own iteration count: after a restart that counts from one again.
        time_attr="step",
        metric=sweep.metric.name,
        mode="max" if sweep.metric.goal == "maximize" else "min",
        grace_period=early.min_steps,
        reduction_factor=early.reduction_factor,
        # Above the last step: a trial that gets there has finished, not been stopped.
        max_t=max(trial.config.training.steps for trial in trials) + 1,
    )


def _callback(watch: Watch) -> Any:  # noqa: ANN401 - a class that only exists once Ray is imported
    from ray import tune

    class Callback(tune.Callback):
        """Passes on what Tune sees."""

        def __init__(self) -> None:
            self.ended: set[str] = set()

        def __reduce__(self) -> tuple[type, tuple[()]]:
            # Tune stores its callbacks for a later restore, which this project never does; the terminal behind
            # this one cannot be stored.
            return tune.Callback, ()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:  # noqa: ANN401
            watch.validated(trial.config["trial_id"], result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            self.ended.add(trial.config["trial_id"])
            watch.ended(trial.config["trial_id"])

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            watch.died(trial.config["trial_id"], is_final=False)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            watch.died(trial.config["trial_id"], is_final=True)

    return Callback()


def run_one_trial(folder: Path, *, replay: bool, report: Callable[[dict[str, Any]], None]) -> None:
    """What a Tune actor does: trains the trial in `folder`, and keeps its failure from being anybody else's.

    An exception of the trial is written down and swallowed: starting it again would only repeat it. What Tune should
    start again is a process that died, and that raises nothing.

    Args:
        folder: The trial's folder.
        replay: Report the validations of earlier attempts first, so that a scheduler that has forgotten them knows.
        report: Tune's report.
    """
    from sr.ledger import Status, open_trial
    from sr.train import train
    from sr.world import single_process

    ledger, config = open_trial(folder)
    if replay:
        for row in ledger.rows("validation"):
            report({name: value for name, value in row.items() if name == "step" or name.startswith("val/")})
    if ledger.status().is_over:
        return
    with _logging_to(ledger.log_path):
        try:
            train(config, world=single_process(config.engine.device), ledger=ledger, report=report)
        except Exception as error:
            logging.getLogger(__name__).exception("the trial failed")
            cause = (
                str(error)
                if isinstance(error, ValueError)
                else traceback.format_exception_only(error)[-1].strip()
            )
            status = ledger.status()
            ledger.set_status(
                Status(
                    State.FAILED,
                    cause,
                    step=_last_step(ledger),
                    seconds=status.seconds,
                    attempt=ledger.attempt,
                )
            )


def _last_step(ledger: Ledger) -> int:
    rows = ledger.rows("train")
    return rows[-1]["step"] if rows else 0


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


def run_tasks(
    task: Callable[[Path], int],
    folders: Sequence[Path],
    *,
    cpus: float,
    gpus: float,
    on_done: Callable[[Path, str], None],
) -> None:
    """Runs `task` on each folder, as many at once as the cluster carries.

    Args:
        task: An importable function.
        folders: Its arguments, one call each.
        cpus: CPUs of one call.
        gpus: GPUs of one call.
        on_done: Called with each folder as it is done, and with what went wrong, empty if nothing.
    """
    import ray

    def call(folder: Path) -> int:
        return task(folder)

    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=2)(call)
    pending = {remote.remote(folder.resolve()): folder for folder in folders}
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1)
        folder = pending.pop(done[0])
        try:
            ray.get(done[0])
        except Exception as error:  # noqa: BLE001 - handed to the caller, and the other folders go on
            cause = getattr(error, "cause", None) or error
            on_done(folder, str(cause).strip().splitlines()[-1])
        else:
            on_done(folder, "")
