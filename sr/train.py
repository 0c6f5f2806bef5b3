"""One trial, from its configuration to its last checkpoint. Knows neither Ray nor YAML."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sr.config import TrialConfig
from sr.ladder.climb import climb
from sr.ledger import Ledger, Onlooker, Status
from sr.lock import exclusive
from sr.loop import Report, Stop, Warn, run_loop
from sr.step import TrialDivergedError
from sr.world import World

__all__ = ["Report", "Stop", "TrialDivergedError", "Warn", "train"]


def train(
    config: TrialConfig,
    *,
    world: World,
    ledger: Ledger,
    report: Report = lambda _metrics: None,
    stop: Stop = lambda: "",
    warn: Warn = lambda _problem: None,
) -> Status:
    """Trains one trial to its end, continuing from its newest checkpoint where there is one.

    Every rank of a trial calls it, with the same configuration and folder; the first one writes and reports.

    Args:
        config: The complete configuration.
        world: This process's place among the trial's ranks.
        ledger: The trial's folder, already created.
        report: Called after each validation, which a checkpoint goes with, with `step` and the validation metrics. It
            may raise SystemExit to stop the trial early; it is then raised on all ranks.
        stop: Asked at every step, on every rank; a reason such as "SIGTERM" ends the attempt with a checkpoint.
        warn: Told, on the first rank, of problems that the trial survives, when they happen; perhaps from another thread.

    Returns:
        The status as written to the ledger: final, or pending where `stop` gave a reason.

    Raises:
        ValueError: The data set is missing, damaged or another one than before; a setting is impossible.
        TrialDivergedError: A loss or gradient became NaN or infinite.
        OSError: The last checkpoint cannot be written. The trial can be continued.
    """
    with _writing(ledger, world) as own_ledger:
        torch.set_num_threads(config.engine.threads)
        way = run_loop if config.ladder is None else climb
        return way(config, world=world, ledger=own_ledger, report=report, stop=stop, warn=warn)


@contextmanager
def _writing(ledger: Ledger, world: World) -> Iterator[Ledger]:
    """The ledger as this rank may use it: the first one writes, and nobody else of another attempt."""
    if not world.is_first:
        onlooker = Onlooker(ledger.folder)
        onlooker.attempt = world.gather(0)[0]
        yield onlooker
        return
    # What a lost machine has left of it may go on for a minute.
    with exclusive(ledger.folder, timeout_s=120, what="this trial is being trained"):
        world.gather(ledger.begin_attempt())
        yield ledger
