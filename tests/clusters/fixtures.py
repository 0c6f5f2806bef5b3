"""The clusters as fixtures; tests/conftest.py makes them known to all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.hosts import NoHosts, require_hosts
from tests.clusters.ray_cluster import RayCluster
from tests.clusters.slurm import NoSlurm, SlurmCluster, require_slurm


@pytest.fixture(scope="module")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Two nodes of 2 CPUs without accounting; they see the tests' temporary folders."""
    demand(require_hosts, require_slurm)
    with SlurmCluster(share=[tmp_path_factory.getbasetemp()]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def accounting_slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """As slurm_cluster, and `sacct` works."""
    demand(require_hosts, lambda: require_slurm(accounting=True))
    with SlurmCluster(share=[tmp_path_factory.getbasetemp()], accounting=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head and a worker of 1 CPU each; they see the tests' temporary folders."""
    demand(require_hosts)
    with RayCluster(share=[tmp_path_factory.getbasetemp()]) as cluster:
        yield cluster


def demand(*requirements: Callable[[], None]) -> None:
    """Skips the test where something is missing here, with the reason; in CI it fails instead."""
    for requirement in requirements:
        try:
            requirement()
        except (NoHosts, NoSlurm) as missing:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """A failed test shows the logs of the clusters that it used."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, SlurmCluster | RayCluster):
                report.sections.append((f"logs of {name}", value.logs()))
                report.sections += [(str(path), _tail(path)) for path in sorted(_output_of_jobs(item))]
    return report


def _output_of_jobs(item: pytest.Item) -> list[Path]:
    store = getattr(item, "funcargs", {}).get("tmp_path")
    return [] if store is None else [*store.rglob("jobs/slurm/*.out"), *store.rglob("jobs/slurm/*.err")]


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-60:])
