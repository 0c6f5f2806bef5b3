"""An agenda as Ray Tune understands it: a searcher that is asked for the next trial."""

from __future__ import annotations

from typing import Any

from sweeps.agenda import Agenda
from sweeps.interrupt import StopFile


def searcher(agenda: Agenda, stop: StopFile) -> Any:  # noqa: ANN401 - a class that only exists once Ray is imported
    """Ray Tune's way to ask an agenda; each leg is a trial to Tune."""
    from ray.tune.search import Searcher

    class Asks(Searcher):
        """Asks the agenda."""

        def __init__(self) -> None:
            super().__init__()
            self._ids: dict[str, str] = {}

        def __reduce__(self) -> tuple[type, tuple[()]]:
            # As for the callbacks: Tune stores it for a restore that this project never does.
            return Searcher, ()

        def suggest(self, trial_id: str) -> Any:  # noqa: ANN401
            if stop.reason():
                return Searcher.FINISHED
            leg = agenda.next()
            if leg is None:
                return Searcher.FINISHED if agenda.is_over() else None
            self._ids[trial_id] = leg.trial_id
            return {"trial_id": leg.trial_id, "until": leg.until}

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            # What was interrupted says nothing; the next run of the sweep reads from the ledgers how far it came.
            if not stop.reason():
                agenda.ended(self._ids.pop(trial_id), is_dead=error)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the ledgers know."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing: the ledgers know."""

    return Asks()
