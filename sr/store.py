"""The run store, as far as a trial needs it: where trials lie, and how one is found by its id."""

from __future__ import annotations

import os
from pathlib import Path

_MOST_TOLD = 12


def default_store() -> Path:
    """`$SRLOSS_STORE`, or `runs` in the working folder."""
    return Path(os.environ.get("SRLOSS_STORE", "runs"))


def find_trial(store: Path, trial_id: str) -> Path:
    """The folder of the trial with this id, or of the only one whose id begins so; trained by hand or in a sweep.

    Raises:
        ValueError: There is none, or there are several.
    """
    known = sorted(
        path.parent
        for pattern in ("trials/*/state.json", "sweeps/*/trials/*/state.json")
        for path in store.glob(pattern)
    )
    fitting = [folder for folder in known if folder.name == trial_id] or [
        folder for folder in known if trial_id and folder.name.startswith(trial_id)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not known:
        raise ValueError(
            f"trial '{trial_id}': the run store {store} has no trials; name the right one by $SRLOSS_STORE, "
            "or give path, a trial's folder, in place of trial"
        )
    told = [str(folder.relative_to(store)) for folder in fitting or known]
    listed = ", ".join(told[:_MOST_TOLD]) + (
        f" and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    )
    if fitting:
        raise ValueError(
            f"trial '{trial_id}': fits several trials of {store}: {listed}; give more of the id, or path, a trial's folder"
        )
    raise ValueError(f"trial '{trial_id}': is no trial of {store}; known: {listed}")
