"""What one process of a trial does that is trained by hand, and a program for it: `python -m sweeps.rank`.

The program is started by `sweeps.supervisor`. Under `torchrun` or `srun` the command `srloss train` is itself such a process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.fate import die_with
from sr.config import EngineConfig, TrialConfig
from sr.ledger import Ledger, Status, open_trial
from sr.ranks import Place, free_port, in_words, joined
from sr.rollcall import OtherRankFailedError, RankLostError
from sr.train import Report, Stop, train
from sr.world import World, single_process
from sweeps.cancelling import REASON, is_asked, or_cancelled, settle
from sweeps.interrupt import HEARD, exit_code_for, listening
from sweeps.logs import logging_to

log = logging.getLogger(__name__)

OWN_FAILURE, OTHERS_FAILURE, TRY_AGAIN = 1, 4, 75
"""Exit codes of a rank: the trial failed here, or on another rank; or its surroundings did (EX_TEMPFAIL)."""
_VISIBLE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt at a trial ended."""

    status: Status
    interrupted_by: str = ""
    """The signal that any of its ranks was asked to stop by; empty where none was."""


def train_here(
    folder: Path, *, engine: EngineConfig, place: Place | None, report: Report, stop: Stop
) -> Attempt:
    """Trains the trial in a folder as the process with this place, None: the only one; returns how it ended.

    On rank 0 the folder is there; for the others it appears while they wait for each other.

    Raises:
        ValueError: The trial's own fault, as most other exceptions; it is recorded as failed.
        OSError: That of its surroundings; it can be continued.
        OtherRankFailedError: The fault happened on another rank.
        RankLostError: Another rank died or does not answer; it can be continued.
    """
    with _world(place, engine) as world:
        # The first rank comes with the folder made.
        world.gather(0)
        _wait_for(folder / "state.json")
        ledger, config = open_trial(folder)
        # How it is computed is asked for anew each time; only the result belongs to the folder.
        config = config.model_copy(update={"engine": engine.model_copy(update={"ranks": world.world_size})})
        is_over, is_cancelled = world.gather((ledger.status().is_over, is_asked(folder)))[0]
        if is_cancelled and world.is_first:
            settle(ledger)
        if is_over or is_cancelled:
            return Attempt(ledger.status(), "" if is_over else REASON)
        stop = or_cancelled(folder, stop)
        with logging_to(log_path(folder, world.rank)):
            status = _trained(config, world, ledger, report, stop)
            if world.is_first:
                settle(ledger)
        reasons = world.gather(stop())
    return Attempt(status, "" if status.is_over else next(filter(None, reasons), "a request"))


def _trained(config: TrialConfig, world: World, ledger: Ledger, report: Report, stop: Stop) -> Status:
    try:
        return train(config, world=world, ledger=ledger, report=report, stop=stop, warn=_warn)
    except (OSError, MemoryError, RankLostError) as error:
        log.error("%s", error)
        raise
    except Exception:
        log.exception("the trial failed")
        raise


@contextmanager
def _world(place: Place | None, engine: EngineConfig) -> Iterator[World]:
    if place is None and engine.type != "deepspeed":
        yield single_process(engine.device)
        return
    # DeepSpeed wants a process group, be it of one process.
    place = place or Place(0, 1, 0, "127.0.0.1", free_port())
    with joined(place, device=engine.device, timeout_s=engine.timeout_s) as world:
        yield world


def log_path(folder: Path, rank: int) -> Path:
    """Where a rank of the trial in this folder logs."""
    return folder / ("log.txt" if rank == 0 else f"log-rank{rank}.txt")


def train_and_tell(folder: Path, *, engine: EngineConfig, place: Place | None, stop: Stop) -> Attempt:
    """As `train_here`, with a line for each validation and each stage of a ladder where this is the first rank."""
    if place is not None and place.rank > 0:
        return train_here(folder, engine=engine, place=place, report=lambda _metrics: None, stop=stop)
    reporter = _Reporter(Ledger(folder))
    attempt = train_here(folder, engine=engine, place=place, report=reporter, stop=stop)
    reporter.tell_stages()
    return attempt


class _Reporter:
    """Prints how a trial goes on."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._steps = ledger.config().training.steps
        self._num_stages = len(ledger.rows("stage"))

    def __call__(self, metrics: dict[str, float]) -> None:
        """A line for a validation."""
        from sweeps.cli.show import say

        self.tell_stages()
        scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "step")
        say(f"  step {metrics['step']} of {self._steps}: {scores}")

    def tell_stages(self) -> None:
        """A line for each stage that has ended since this was last asked."""
        from sweeps.cli.show import say

        stages = self._ledger.rows("stage")
        for row in stages[self._num_stages :]:
            say(f"  {row['message']}")
        self._num_stages = len(stages)


def _warn(problem: str) -> None:
    """Prints a problem that the trial survives, where its validations are printed."""
    from sweeps.cli.show import say

    say(f"  warning: {problem}")


def _wait_for(path: Path) -> None:
    """Waits until a file that another machine has written is seen here: network file systems take their time."""
    deadline = time.monotonic() + _VISIBLE_WITHIN_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise OSError(
                f"{path}: not seen on {os.uname().nodename}, though rank 0 has made it; all ranks must share the store"
            )
        time.sleep(0.2)


def main(arguments: list[str]) -> int:
    """Runs a rank for a supervisor, and ends with it."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.rank")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--place", required=True, help="Place, as JSON")
    parser.add_argument("--engine", required=True, help="EngineConfig, as JSON")
    parser.add_argument("--grace-s", type=float, required=True)
    parser.add_argument("--supervisor", type=int, required=True, help="its process id")
    parser.add_argument(
        "--words", type=int, required=True, help="where to write why it failed: a file descriptor"
    )
    given = parser.parse_args(arguments)
    die_with(given.supervisor)
    place = Place(**json.loads(given.place))

    def tell(error: BaseException, code: int) -> int:
        os.write(given.words, in_words(error).encode()[:60_000])
        return code

    with listening(grace_s=given.grace_s) as interruption:
        # The supervisor had them held back until somebody would hear them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        return _run(
            given.folder, EngineConfig.model_validate_json(given.engine), place, interruption.reason, tell
        )


def _run(
    folder: Path,
    engine: EngineConfig,
    place: Place,
    stop: Stop,
    tell: Callable[[BaseException, int], int],
) -> int:
    try:
        attempt = train_and_tell(folder, engine=engine, place=place, stop=stop)
    except OtherRankFailedError as error:
        return tell(error, OTHERS_FAILURE)
    except (OSError, MemoryError, RankLostError) as error:
        return tell(error, TRY_AGAIN)
    except Exception as error:  # noqa: BLE001 - handed to the supervisor; its traceback is in the log
        return tell(error, OWN_FAILURE)
    return exit_code_for(attempt.interrupted_by) if attempt.interrupted_by else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
