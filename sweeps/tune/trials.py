"""Ray Tune over the trials of a sweep."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from sr.ledger import Ledger, State
from sweeps.agenda import Agenda
from sweeps.interrupt import StopFile, hear_again
from sweeps.spec import PlannedTrial, SweepConfig
from sweeps.tune.head import end_with_raylet, lost_raylet
from sweeps.tune.schedule import scheduler
from sweeps.tune.searcher import searcher
from sweeps.tune.trial import run_one_trial
from sweeps.tune.watchdog import Watchdog


class Watch(Protocol):
    """Whoever wants to know what happens to trials, by their ids."""

    def validated(self, trial_id: str, metrics: dict[str, Any]) -> None:
        """A trial reported a validation."""
        ...

    def ended(self, trial_id: str) -> None:
        """A trial has ended by itself, or was stopped by the scheduler."""
        ...

    def died(self, trial_id: str, *, is_final: bool, hint: str) -> None:
        """A trial was ended from outside; it is started again unless that was the last time. `hint`: why, if Ray knows."""
        ...


def run_trials(
    sweep: SweepConfig,
    trials: Sequence[PlannedTrial],
    trials_folder: Path,
    *,
    storage: Path,
    max_concurrent: int,
    watch: Watch,
    stop: StopFile,
    agenda: Agenda | None = None,
) -> set[str]:
    """Runs trials under Ray Tune until each has ended; a failure hides no other trial.

    Args:
        sweep: Scheduler, metric and resources are taken from it.
        trials: What to run.
        trials_folder: Holds a folder per trial, named by its id, already created.
        storage: Where Tune keeps its own state; nothing there is needed later.
        max_concurrent: Trials at once.
        watch: Told what happens.
        stop: Where trials look whether they shall leave a checkpoint and end.
        agenda: Says what runs and when; None: all of `trials`, in order.

    Returns:
        Ids of the trials that Tune saw to an end; the others were interrupted, or died too often.
    """
    from ray import tune

    folder = str(trials_folder.resolve())
    replay = sweep.early_terminate is not None

    def trainable(config: dict[str, Any]) -> None:
        end_with_raylet()
        run_one_trial(
            Path(folder) / config["trial_id"],
            replay=replay,
            report=tune.report,
            stop=lambda: stop.reason() or lost_raylet(),
            until=config.get("until"),
        )
        # To return would mean that the trial is over.
        if gone := lost_raylet():
            raise RuntimeError(gone)

    engine = trials[0].config.engine
    bundle = {"CPU": float(engine.threads)} | ({"GPU": sweep.gpus_per_rank} if sweep.gpus_per_rank else {})
    # All of a trial or nothing, so that trials never wait for each other's ranks.
    resources = tune.PlacementGroupFactory([bundle] * engine.ranks, strategy="PACK")
    watchdog = Watchdog(trials_folder.resolve(), timeout_s=engine.timeout_s)
    callback = _callback(watch, watchdog)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={} if agenda else {"trial_id": tune.grid_search([trial.trial_id for trial in trials])},
        tune_config=tune.TuneConfig(
            search_alg=searcher(agenda, stop) if agenda else None,
            # An agenda ends by itself.
            num_samples=-1 if agenda else 1,
            max_concurrent_trials=max_concurrent,
            scheduler=scheduler(sweep, trials),
            # A fresh process for each trial would spend its time importing torch.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage.resolve()),
            callbacks=[callback, _silent()],
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            verbose=0,
            stop=_stopper(callback, trials_folder.resolve(), stop),
        ),
    )
    # Tune prints the traceback of its own bookkeeping when a trial's process dies; the watcher says it in a line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with watchdog:
        tuner.fit()
    return callback.ended


def _callback(watch: Watch, watchdog: Watchdog) -> Any:  # noqa: ANN401 - a class that only exists once Ray is imported
    from ray import tune

    class Callback(tune.Callback):
        """Passes on what Tune sees."""

        def __init__(self) -> None:
            self.ended: set[str] = set()
            self.trials: list[Any] = []

        def __reduce__(self) -> tuple[type, tuple[()]]:
            # Tune stores its callbacks for a later restore, which this project never does; the terminal behind
            # this one cannot be stored.
            return tune.Callback, ()

        def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:  # noqa: ANN401
            self.trials = trials
            # Tune has put its own handlers in their place, which would end the trials without a checkpoint.
            hear_again()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:  # noqa: ANN401
            watch.validated(trial.config["trial_id"], result)

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            watchdog.began(trial)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            watchdog.over(trial)
            self.ended.add(trial.config["trial_id"])
            watch.ended(trial.config["trial_id"])

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            watchdog.over(trial)
            watch.died(trial.config["trial_id"], is_final=False, hint=_hint(trial))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            watchdog.over(trial)
            watch.died(trial.config["trial_id"], is_final=True, hint=_hint(trial))

    return Callback()


def _silent() -> Any:  # noqa: ANN401 - as above
    from ray.tune.progress_reporter import TrialProgressCallback

    class Silent(TrialProgressCallback):
        """Takes the place of Tune's own, which prints a line for each trial that ended without a result."""

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            """Prints nothing."""

    return Silent()


def _stopper(callback: Any, folder: Path, stop: StopFile) -> Any:  # noqa: ANN401 - as above
    from ray import tune
    from ray.tune.stopper import NoopStopper

    class WhenSaved(tune.Stopper):
        """Ends all once trials are asked to stop and have done so, rather than begin those that wait only to end them."""

        def __reduce__(self) -> tuple[type, tuple[()]]:
            # As for the callback.
            return NoopStopper, ()

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return bool(stop.reason()) and all(
                Ledger(folder / trial.config["trial_id"]).status().state is not State.RUNNING
                for trial in callback.trials
                if trial.status == "RUNNING"
            )

    return WhenSaved()


def _hint(trial: Any) -> str:  # noqa: ANN401 - Tune's Trial
    """What Ray knows of why a trial's process ended."""
    from ray.exceptions import OutOfMemoryError

    error = trial.get_error()
    is_out_of_memory = isinstance(error, OutOfMemoryError) or "low on memory" in str(error)
    return "out of memory: Ray ended a process because the machine had none left" if is_out_of_memory else ""
