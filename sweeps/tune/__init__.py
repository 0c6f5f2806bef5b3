"""The only door to Ray: an embedded cluster, Ray Tune over the trials of a sweep, and plain tasks for evaluation.

Ray Tune decides what runs when and where, stops the hopeless early (ASHA) and starts dead trials again. What a trial
did lives in its ledger and its checkpoints, not in Tune's own state: that is what makes any interruption resumable.
"""

from __future__ import annotations

from sweeps.tune.cluster import Machines, embedded_ray, existing_ray, run_tasks
from sweeps.tune.head import OnLost
from sweeps.tune.trials import Watch, run_trials

__all__ = ["Machines", "OnLost", "Watch", "embedded_ray", "existing_ray", "run_tasks", "run_trials"]
