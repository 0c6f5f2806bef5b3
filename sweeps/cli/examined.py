"""`srloss doctor`: what is there, what is wrong, and how to repair it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from sr.configfile import ConfigError, apply_overrides, validate
from sweeps import doctor, doctor_schedulers, jobs
from sweeps.cli.show import err, say, say_json
from sweeps.cluster_section import ClusterSection
from sweeps.doctor import Check
from sweeps.store import default_store

_NODES_SHOWN = 4


def here(*, data: Path | None, store: Path | None, as_json: bool) -> int:
    """Prints the examination of this machine; 1 if something is wrong."""
    checks = doctor.examine(store=store or default_store(), data=data)
    return _shown([*checks, *doctor_schedulers.examine()], as_json=as_json)


def on_cluster(
    target: str,
    overrides: Sequence[str],
    *,
    address: str | None,
    data: Path | None,
    store: Path | None,
    wait_s: float,
    as_json: bool,
) -> int:
    """Prints the examination of a cluster's nodes; 1 if something is wrong."""
    from sweeps import doctor_cluster
    from sweeps.submission import target_of

    to = target_of(target, option="--on")
    section = _section(overrides, address)
    examine = doctor_cluster.on_slurm if to == "slurm" else doctor_cluster.on_ray
    try:
        with _progress() as tell:
            checks = examine(section, store=store or default_store(), data=data, wait_s=wait_s, tell=tell)
    except doctor_cluster.NotStarted as error:
        fix = "ask for less, or another cluster.slurm_partition; --wait SECONDS waits longer"
        checks = [Check("job", "problem", str(error), fix)]
    return _shown([*(doctor_schedulers.slurm() if to == "slurm" else []), *checks], as_json=as_json)


def _section(overrides: Sequence[str], address: str | None) -> ClusterSection:
    if alien := [text for text in overrides if not text.startswith("cluster.")]:
        raise ConfigError([f"doctor: {alien[0]}: only what the job asks for, as cluster.NAME=value"])
    plain = apply_overrides({"cluster": ClusterSection().model_dump()}, overrides)["cluster"]
    return validate(ClusterSection, plain | ({"address": address} if address else {}), where="cluster")


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line that changes on a terminal; else one for each change. On stderr, for stdout may be JSON."""
    if err.is_terminal:
        with err.status("submitting") as status:
            yield status.update
        return
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        if text != last:
            err.print(text, markup=False)
        last = text

    yield tell


def _shown(checks: Sequence[Check], *, as_json: bool) -> int:
    if as_json:
        say_json([asdict(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            say(f"{check.status:8} {check.name:{width}}  {_where(check.nodes)}{check.found}")
            if check.fix:
                say(f"{'':8} {'':{width}}  fix: {check.fix}")
    return jobs.FAILED if any(check.status == "problem" for check in checks) else jobs.OK


def _where(nodes: Sequence[str]) -> str:
    if not nodes:
        return ""
    more = f" and {len(nodes) - _NODES_SHOWN} more" if len(nodes) > _NODES_SHOWN else ""
    return f"{', '.join(nodes[:_NODES_SHOWN])}{more}: "
