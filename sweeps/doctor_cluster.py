"""`srloss doctor --on slurm|ray`: the examination as a job on the nodes of a cluster, and what it found there."""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cluster import ray_jobs, slurm, slurm_queue, slurm_site
from cluster.api import JobState
from cluster.records import JobRecord, JobStatus, now
from sr.configfile import ConfigError
from sweeps import doctor_far_side, ray_submission, slurm_submission
from sweeps.cluster_section import ClusterSection
from sweeps.code import copy_code, versions
from sweeps.doctor import Check
from sweeps.doctor_answers import SHARED, combined, of_answers
from sweeps.doctor_far_side import ANSWER, NOT_SEEN, Request

NAME = "srloss-doctor"
_LIMIT_MIN = 10
"""Time limit of the job; it needs one."""
_LOOK_EVERY_S = 1.0
_PATIENCE_S = 60.0
"""How long a scheduler may not answer before that is an error."""
_SETTLE_S = 15.0
"""How long the file system may take to show what nodes have written, and a cancelled job to end."""

Tell = Callable[[str], None]


class NotStarted(Exception):  # noqa: N818 - it is what the reader wants to know
    """The job waited for too long, and was cancelled; says for what."""


def on_slurm(
    section: ClusterSection, *, store: Path, data: Path | None, wait_s: float, tell: Tell
) -> list[Check]:
    """Examines as many nodes of SLURM as the block asks for.

    Args:
        section: What the job asks for.
        store: Run store; the job's folder lies in it.
        data: Folder of a packed data set, or None to leave it out.
        wait_s: How long the job may wait in the queue.
        tell: Told how the job stands.

    Raises:
        ConfigError: The block names what this cluster does not have.
        ValueError: SLURM refuses the job, in its words.
        ConnectionError: SLURM does not answer.
    """
    if faults := slurm_submission.faults_of_partition(section):
        raise ConfigError(faults)
    with _folder(store) as (folder, keep):
        remedy = (
            "the same environment must be seen by all nodes; cluster.slurm_python names another Python there"
        )
        request = _request(folder, section, store=store, data=data, remedy=remedy)
        call = slurm.Call(doctor_far_side.on_slurm, {"request": asdict(request)})
        job = slurm.submit([call], folder=folder, parameters=parameters(section, request))
        name = f"SLURM job {job}"
        with _cancelled_with(name, lambda: _cancel_slurm(job)):
            status = _ended(lambda: _slurm_status(job), name, wait_s=wait_s, tell=tell)
        if not _is_unseen(status):
            _wait_until(lambda: len(list(folder.glob("answer-*.json"))) >= section.nodes)
        found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("answer-*.json")]
        answers = sorted(found, key=lambda answer: answer["number"])
        checks = of_answers(answers, is_seen_back=_seen_back(folder))
        hosts = slurm_site.hostnames(status.nodes)
        if silent := of_silent(hosts, {answer["node"] for answer in answers}, status, folder, store):
            checks = [*silent, *(_after(silent, check) for check in checks)]
            if not _is_unseen(status):
                keep()
        checks += _unasked_gpus(section)
        return [Check("job", "ok", f"{name} on {status.nodes}"), *checks]


def on_ray(
    section: ClusterSection, *, store: Path, data: Path | None, wait_s: float, tell: Tell
) -> list[Check]:
    """Examines all machines of a Ray cluster. Arguments as of `on_slurm`.

    Raises:
        ValueError: No cluster is named, it cannot be used, or the job failed on its head.
        ConnectionError: It does not answer.
    """
    address = ray_jobs.address_of(section.address)
    with _folder(store) as (folder, _), ExitStack() as stack:
        remedy = "install the same there, or send yours: cluster.ship_code=true"
        request = _request(folder, section, store=store, data=data, remedy=remedy)
        shipped = None
        if section.ship_code:
            shipped = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="srloss-")))
            copy_code(shipped)
        port = str(20000 + secrets.randbelow(20000))
        command = ray_submission.on_head("sweeps.doctor_far_side", json.dumps(asdict(request)), port)
        job = ray_jobs.submit(
            command,
            address=address,
            submission_id=f"{NAME}-{secrets.token_hex(4)}",
            env=ray_submission.environment(),
            metadata={"examines": "the nodes"},
            working_dir=shipped,
            grace_s=5,
        )
        record = JobRecord("ray", job, "sweep", NAME, now(), "", address=address)
        name = f"Ray job {job}"
        with _cancelled_with(name, lambda: _stop_ray(record)):
            status = _ended(lambda: ray_jobs.look(record), name, wait_s=wait_s, tell=tell)
        log = ray_jobs.logs(record)
        found = [line.partition(ANSWER)[2] for line in log.splitlines() if line.startswith(ANSWER)]
        if not found:
            told = [line.strip() for line in log.splitlines() if line.strip()]
            raise ValueError(f"{name} at {address}: {told[-1] if told else status.reason or status.words}")
        checks = of_answers(json.loads(found[-1]), is_seen_back=_seen_back(folder))
        return [Check("job", "ok", f"{name} at {address}"), *checks]


def parameters(section: ClusterSection, request: Request) -> dict[str, Any]:
    """What the job asks for, in submitit's vocabulary."""
    given = slurm_submission.parameters_of(section, name=NAME)
    cpus = section.cpus_per_node or 1
    # It is run while somebody waits, and by itself it would not end up in the queue again.
    more = given["slurm_additional_parameters"] | {"output": "/dev/null", "no-requeue": True}
    more.pop("requeue", None)
    nonce = shlex.quote(f"{request.folder}/nonce")
    seen = f'[ "$(cat {nonce} 2>/dev/null)" = {request.nonce} ]'
    return given | {
        "timeout_min": min(section.timeout_min, _LIMIT_MIN),
        "slurm_signal_delay_s": min(section.slurm_signal_delay_s, 30),
        "nodes": section.nodes,
        "tasks_per_node": 1,
        "cpus_per_task": cpus,
        "gpus_per_node": section.gpus_per_node,
        "slurm_array_parallelism": None,
        "slurm_setup": [
            *section.slurm_setup,
            f"for _ in $(seq {request.wait_s:.0f}); do {seen} && break; sleep 1; done",
            f"{seen} || exit {NOT_SEEN}",
        ],
        "slurm_srun_args": [
            *section.slurm_srun_args,
            f"--cpus-per-task={cpus}",
            # One node's trouble is not to hide what the others find.
            "--kill-on-bad-exit=0",
            "--wait=0",
        ],
        "slurm_additional_parameters": more,
    }


def of_silent(
    hosts: Sequence[str], answered: Set[str], status: JobStatus, folder: Path, store: Path
) -> list[Check]:
    """What is known of nodes that left no answer.

    Args:
        hosts: All nodes of the job, in SLURM's order.
        answered: Those that did leave one.
        status: How the job ended.
        folder: Its logs lie there.
        store: The run store.
    """
    unseen = f"does not see {store.absolute()}, or has another folder there"
    if _is_unseen(status):
        found = unseen + "; other nodes were not asked" * (len(hosts) > 1)
        return [Check("store", "problem", found, SHARED, tuple(hosts[:1]))]
    why = f"no answer; the job ended as {status.words}{f' ({status.reason})' * bool(status.reason)}"
    checks: dict[str, Check] = {}
    for number, host in enumerate(hosts):
        if host in answered:
            continue
        # A node that does not see the folder has put its log elsewhere.
        logs = list(folder.glob(f"*_{number}_log.out"))
        lines = logs[0].read_text(errors="replace").split("\n") if logs else []
        if told := [line.strip() for line in lines if line.strip()]:
            fix = f"repair what it names; the whole log: {shlex.quote(str(logs[0]))}"
            checks[host] = Check("answer", "problem", f"{why}: {told[-1]}", fix)
        elif answered:
            checks[host] = Check("store", "problem", f"no answer, and no log of it: it {unseen}", SHARED)
        else:
            fix = f"does every node see {store.absolute()}? If not, {SHARED}"
            checks[host] = Check("answer", "problem", f"{why}, and printed nothing", fix)
    return combined({host: [check] for host, check in checks.items()})


def _after(silent: Sequence[Check], check: Check) -> Check:
    """Nodes that say nothing cannot be met either."""
    if check.name != "between nodes" or check.status == "ok":
        return check
    return replace(check, fix=f"first see to {', '.join(node for one in silent for node in one.nodes)}")


def _is_unseen(status: JobStatus) -> bool:
    """Whether the job ended at once since its first node does not see the store."""
    return status.reason.endswith(f"exit code {NOT_SEEN}")


def _unasked_gpus(section: ClusterSection) -> list[Check]:
    """GPUs of the partition that the job did not ask for, and so did not see."""
    if section.gpus_per_node is not None or section.slurm_gres is not None:
        return []
    wanted = (section.slurm_partition or "").split(",")
    for partition in slurm_site.partitions():
        asked = partition.name in wanted or (partition.is_default and section.slurm_partition is None)
        if asked and "gpu" in partition.gres:
            found = f"partition {partition.name} has {partition.gres}, and this job asked for none"
            return [
                Check(
                    "gpus asked for", "warning", found, "cluster.gpus_per_node=1, or as many as a trial takes"
                )
            ]
    return []


def _request(
    folder: Path, section: ClusterSection, *, store: Path, data: Path | None, remedy: str
) -> Request:
    nonce = secrets.token_hex(8)
    (folder / "nonce").write_text(nonce, encoding="utf-8")
    return Request(
        folder=str(folder),
        nonce=nonce,
        store=str(store.absolute()),
        data=None if data is None else str(data.absolute()),
        node_cache=section.node_cache,
        versions=versions(),
        cpus=section.cpus_per_node,
        mem_gb=section.mem_gb,
        gpus=bool(section.gpus_per_node) or "gpu" in (section.slurm_gres or ""),
        remedy=remedy,
    )


@contextmanager
def _folder(store: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder for the job in the store, gone at the end unless it is kept; so is what was made for it."""
    place = store.absolute() / "doctor"
    made = [parent for parent in (place, *place.parents) if not parent.exists()]
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{time.strftime('%Y%m%d-%H%M%S')}-", dir=place))
    kept: list[bool] = []
    try:
        yield folder, lambda: kept.append(True)
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                for parent in dict.fromkeys([place, *made]):
                    parent.rmdir()


def _slurm_status(job: str) -> JobStatus:
    return slurm_queue.look([job])[job]


def _cancel_slurm(job: str) -> None:
    with suppress(OSError):
        slurm_queue.cancel([job])
        # Else it would write into a folder that is being deleted.
        _wait_until(lambda: _slurm_status(job).state not in (JobState.PENDING, JobState.RUNNING))


def _stop_ray(record: JobRecord) -> None:
    with suppress(OSError, ValueError):
        ray_jobs.stop(record, wait_s=_SETTLE_S)


def _ended(look: Callable[[], JobStatus], name: str, *, wait_s: float, tell: Tell) -> JobStatus:
    """Waits until the job is over; where it then stands.

    Raises:
        NotStarted: It did not start within `wait_s`.
        ConnectionError: The scheduler has not answered for long.
    """
    started = answered = time.monotonic()
    while True:
        try:
            status = look()
            answered = time.monotonic()
        except ConnectionError:
            if time.monotonic() - answered > _PATIENCE_S:
                raise
            time.sleep(_LOOK_EVERY_S)
            continue
        why = status.reason or status.words
        if status.state is JobState.PENDING:
            tell(f"{name} waits: {why}")
            if time.monotonic() - started > wait_s:
                raise NotStarted(f"{name} has not started within {wait_s:g} s: {why}; it is cancelled")
        elif status.state is JobState.RUNNING:
            tell(f"{name} runs{f' on {status.nodes}' * bool(status.nodes)}")
        else:
            return status
        time.sleep(_LOOK_EVERY_S)


@contextmanager
def _cancelled_with(name: str, cancel: Callable[[], None]) -> Iterator[None]:
    """Cancels the job where the block is left before its end."""
    try:
        yield
    except KeyboardInterrupt:
        cancel()
        raise KeyboardInterrupt(f"interrupted; {name} is cancelled") from None
    except BaseException:
        cancel()
        raise


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.25)


def _seen_back(folder: Path) -> Callable[[int], bool]:
    def is_seen(number: int) -> bool:
        path = folder / f"back-{number}"
        _wait_until(path.exists)
        return path.exists()

    return is_seen
