"""A machine of a Ray cluster dies while trials of two ranks run: both nodes are on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from sr.ledger import State
from sweeps import driver
from tests.integration.test_ranks_under_ray import (
    Trouble,
    equal,
    make,
    problems,
    result,
    train,
)

pytestmark = pytest.mark.timeout(280)


@pytest.mark.slow
def test_a_sweep_survives_the_death_of_a_node(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_evaluate", lambda *_: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    parameters = {"loss": ["l1", "mse"], "seed": [0]}
    # The first trial fits the head, and the second has a rank on each node.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "object_store_memory": 80 * 2**20})
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        cluster.wait_for_nodes()
        undisturbed = make(photos, tmp_path / "undisturbed", parameters=parameters)
        train(undisturbed, ray_address=cluster.address)
        sweep = make(photos, tmp_path / "disturbed", parameters=parameters)
        trouble = Trouble(sweep, lambda: cluster.remove_node(second, allow_graceful=False), number=1)
        train(sweep, ray_address=cluster.address)
    finally:
        cluster.shutdown()
    assert trouble.is_done
    assert len(problems(sweep)) == 1
    assert {sweep.ledger(t).status().state for t in sweep.trials} == {State.FINISHED}
    assert [sweep.ledger(t).status().attempt for t in sweep.trials] == [1, 2]
    assert equal(result(sweep), result(undisturbed))
