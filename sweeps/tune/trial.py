"""What the process of a trial does under Ray Tune."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sr.ledger import Ledger
from sweeps.agenda import has_reached
from sweeps.cancelling import or_cancelled, settle
from sweeps.deaths import record_failure, write_death
from sweeps.logs import logging_to
from sweeps.tune.ranks import world_of

log = logging.getLogger(__name__)


Report = Callable[[dict[str, Any]], None]


class _Leg:
    """Tune's report, and after it an end to training where the leg has one."""

    def __init__(self, report: Report, until: int | None) -> None:
        self._report = report
        self._until = until
        self.is_over = False

    def __call__(self, metrics: dict[str, Any]) -> None:
        self._report(metrics)
        if self._until is not None and metrics["step"] >= self._until:
            self.is_over = True
            raise SystemExit


def run_one_trial(
    folder: Path,
    *,
    replay: bool,
    report: Report,
    stop: Callable[[], str],
    until: int | None = None,
) -> None:
    """What a Tune actor does: trains the trial in `folder`, and keeps its failure from being anybody else's.

    An exception of the trial is written down and swallowed: starting it again would only repeat it. What Tune should
    start again is a trial whose process died, or that its surroundings ended.

    Args:
        folder: The trial's folder.
        replay: Report the validations of earlier attempts first, so that a scheduler that has forgotten them knows.
        report: Tune's report.
        stop: Says why the trial shall leave a checkpoint and end, if it shall.
        until: Stop after the validation of this step, for another call to go on from there; None: train to the end.

    Raises:
        RankLostError: A rank died or does not answer; the trial can be continued.
        OSError: E.g. the disk is full; the trial can be continued.
        MemoryError: Likewise.
    """
    from sr.ledger import open_trial

    ledger, config = open_trial(folder)
    ledger.beat("starting")
    if replay:
        for row in ledger.rows("validation"):
            report({name: value for name, value in row.items() if name == "step" or name.startswith("val/")})
    stop = or_cancelled(folder, stop)
    settle(ledger)
    # Also one that failed: whoever wants it tried again has set it back before.
    if ledger.status().has_ended or stop():
        return
    if until is not None and has_reached(ledger, until):
        return
    heard = _Heard(report)
    leg = _Leg(heard, until)
    with logging_to(ledger.log_path):
        try:
            _train(ledger, config, leg, stop)
        except SystemExit:
            if not leg.is_over:
                raise
    if heard.is_over:
        # A trial at its last step ends as if it had not been told; Tune waits until its word is heeded.
        raise SystemExit


class _Heard:
    """Tune's report, and whether it has said that the trial is over."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.is_over = False

    def __call__(self, metrics: dict[str, Any]) -> None:
        try:
            self._report(metrics)
        except SystemExit:
            self.is_over = True
            raise


def _train(
    ledger: Ledger,
    config: Any,  # noqa: ANN401
    report: Report,
    stop: Callable[[], str],
) -> None:
    from sr.ranks import in_words
    from sr.rollcall import RankLostError
    from sr.train import train

    def tell(problem: str) -> None:
        log.error(problem)
        write_death(ledger, problem)

    try:
        with ExitStack() as stack:
            train(
                config,
                world=stack.enter_context(world_of(ledger.folder, config, tell=tell)),
                ledger=ledger,
                report=report,
                stop=stop,
            )
        settle(ledger)
    except (RankLostError, OSError, MemoryError) as error:
        tell(in_words(error))
        raise
    except Exception as error:
        log.exception("the trial failed")
        record_failure(ledger, in_words(error))
