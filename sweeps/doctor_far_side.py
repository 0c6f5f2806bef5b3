"""The far side of `srloss doctor --on slurm|ray`: what is looked at on each node of a cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.machine import available_cpus, available_memory_bytes
from sweeps import code, doctor
from sweeps.doctor import Check, Outcome, guarded, writable_folder

ANSWER = "srloss-doctor-answer: "
"""Before what a job on Ray has found, in its log."""
NOT_SEEN = 77
"""Exit code of a job whose first node does not see the store."""
SKEW_S = 5.0
"""Clocks that are further apart than this are told of."""
OPEN_FILES = 4096
"""Ray and data workers want as many."""
SCARCE_TMP_GB = 0.5
"""Less than this in the temporary folder is told of."""
MEET_S = 45.0
"""How long nodes wait for each other."""
_START_S = 60.0
"""Beyond that, for a process that loads torch."""
_ANSWER_S = 3.0
"""How long a server may take to answer."""
_LEFT_OUT = ("store", "temporary folder", "cpus", "memory", "trials at once")
"""What `doctor.examine` says of a machine that is all ours; a job has its own share of a node."""
_DATA = "put it on a file system that all nodes share, or at a URL (s3://, https://)"


@dataclass(frozen=True, slots=True)
class Request:
    """What the submitter tells every node."""

    folder: str
    """In the store; what nodes write there is seen by the submitter."""
    nonce: str
    """What the submitter has written there, in `nonce`."""
    store: str
    data: str | None
    node_cache: str | None
    versions: Mapping[str, str]
    """What `sweeps.code.versions` says where it was submitted."""
    cpus: int | None
    """What the job asked for on each node; None: nothing, so likewise the next."""
    mem_gb: float | None
    gpus: bool
    """Whether it asked for any."""
    remedy: str
    """How to get the same srloss there."""
    wait_s: float = 10.0
    """How long a node may take to see a new file, as network file systems do."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A node's place among those that are looked at."""

    number: int
    count: int
    address: str
    """Of the first, as the others are to find it."""
    port: int


def on_slurm(request: dict[str, Any]) -> None:
    """The work of a job's task: it leaves its answer in the folder, as `answer-K.json`."""
    from cluster.hold_signals import HELD, release
    from sr.ranks import place_from_environment

    for number in HELD:
        signal.signal(number, signal.SIG_DFL)
    release()
    asked = Request(**request)
    place = place_from_environment()
    seat = (
        Seat(0, 1, "", 0) if place is None else Seat(place.rank, place.world_size, place.address, place.port)
    )
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    path = Path(asked.folder) / f"answer-{seat.number}.json"
    answer = {
        "node": name,
        "number": seat.number,
        "checks": [asdict(check) for check in examine(asked, seat)],
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(answer), encoding="utf-8")
    temporary.rename(path)


def on_ray(request: dict[str, Any], port: int) -> None:
    """The work of a job on Ray's head: a task on each machine, and a line with their answers."""
    from sweeps.tune import existing_ray
    from sweeps.tune.nodes import on_every_node

    # Sent as it is, being local: it has to run where srloss cannot be imported, and say so.
    def look(number: int, addresses: list[str]) -> dict[str, Any]:
        try:
            from dataclasses import asdict

            from sweeps.doctor_far_side import Request, Seat, examine
        except ImportError as error:
            return {"missing": str(error)}
        seat = Seat(number, len(addresses), addresses[0], port)
        return {"checks": [asdict(check) for check in examine(Request(**request), seat)]}

    # Ray says where it is in the environment of its jobs.
    with existing_ray("auto"):
        found = on_every_node(look, patience_s=_START_S + 2 * MEET_S + request["wait_s"] + _START_S)
    answers = [
        {"node": name.removeprefix("node "), "number": number, **answer}
        for number, (name, answer) in enumerate(found.items())
    ]
    sys.stdout.write(f"\n{ANSWER}{json.dumps(answers)}\n")


def examine(request: Request, seat: Seat) -> list[Check]:
    """All that is to be known of this node."""
    data = None if request.data is None else Path(request.data)
    local = [
        check for check in doctor.examine(store=Path(request.store), data=data) if check.name not in _LEFT_OUT
    ]
    checks: dict[str, Callable[[], Outcome]] = {
        "same srloss": partial(_same_code, request),
        "store": partial(_store, request, seat),
        "temporary folder": partial(_temporary_folder, Path(tempfile.gettempdir())),
        "clock": partial(_clock, Path(request.folder)),
        "cpus": partial(_cpus, request.cpus),
        "memory": partial(_memory, request.mem_gb),
        "open files": _open_files,
        "wandb server": _wandb_server,
    }
    if data is not None and not data.exists():
        local.remove(next(check for check in local if check.name == "data"))
        checks["data"] = lambda: ("problem", f"does not see {data}", _DATA)
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        # So Ray hides them from a task that takes none.
        local.remove(next(check for check in local if check.name == "gpus"))
        checks["gpus"] = _hidden_gpus
    if request.node_cache is not None:
        checks["node cache"] = partial(_node_cache, request.node_cache)
    if request.gpus:
        checks["nccl"] = _nccl
    checks["between nodes"] = partial(_between_nodes, request, seat)
    return local + [Check(name, *guarded(check)) for name, check in checks.items()]


def _same_code(request: Request) -> Outcome:
    has = code.versions()
    told = ", ".join(f"{name} {version}" for name, version in has.items())
    if different := [name for name, version in has.items() if version != request.versions[name]]:
        here = ", ".join(f"{name} {request.versions[name]}" for name in different)
        there = ", ".join(f"{name} {has[name]}" for name in different)
        return "problem", f"{there} at {sys.executable}; it was submitted with {here}", request.remedy
    return "ok", f"{told}; as here", ""


def _store(request: Request, seat: Seat) -> Outcome:
    folder = Path(request.folder)
    fix = "choose a folder on a file system that all nodes share: --store /shared/runs"
    if not _sees(folder / "nonce", request.nonce, wait_s=request.wait_s):
        return "problem", f"does not see {request.store}, or has another folder there", fix
    try:
        (folder / f"back-{seat.number}").write_text(request.nonce, encoding="utf-8")
    except OSError as error:
        return "problem", f"sees {request.store} and cannot write there: {error.strerror}", fix
    return writable_folder(Path(request.store))


def _sees(path: Path, text: str, *, wait_s: float) -> bool:
    from sweeps.tune.nodes import sees

    return sees(path, text, wait_s=wait_s)


def _temporary_folder(folder: Path) -> Outcome:
    """Ray's logs go there; checkpoints do not."""
    status, found, _ = writable_folder(folder)
    if status == "problem":
        return status, found, "cluster.slurm_setup=['export TMPDIR=/a/folder/of/yours']"
    free_gb = shutil.disk_usage(folder).free / 1e9
    found = f"{folder}: {free_gb:.1f} GB free"
    if free_gb < SCARCE_TMP_GB:
        return "warning", f"{found}; Ray's logs may not fit", "delete old files there, or ask the site to"
    return "ok", found, ""


def _clock(folder: Path) -> Outcome:
    """This node's clock beside that of the file server, which writes the times of files."""
    probe = folder / f"clock-{socket.gethostname()}-{os.getpid()}"
    try:
        before = time.time()
        probe.write_bytes(b"x")
        written, after = probe.stat().st_mtime, time.time()
        probe.unlink()
    except OSError as error:
        return "warning", f"cannot be compared ({error.strerror})", "first see to the store"
    # Time that the writing took is nobody's fault.
    skew = max(before - written, written - after, 0.0)
    found = f"{skew:.1f} s from that of the file server"
    if skew > SKEW_S:
        way = "ahead of" if before > written else "behind"
        return (
            "warning",
            f"{skew:.1f} s {way} that of the file server; a job may be taken for dead while it runs, or the reverse",
            "ask the site to run chrony or ntpd there",
        )
    return "ok", found, ""


def _cpus(asked: int | None) -> Outcome:
    usable = available_cpus()
    found = f"{usable:g} usable by the job" + (f", {asked} asked for" if asked else "")
    if asked and usable < asked:
        return (
            "problem",
            f"{found}; ranks would share",
            "check cluster.cpus_per_node, and cluster.slurm_srun_args",
        )
    return "ok", found, ""


def _memory(asked_gb: float | None) -> Outcome:
    free_gb = available_memory_bytes() / 1e9
    found = f"{free_gb:.1f} GB free for the job" + (f", {asked_gb:g} GB asked for" if asked_gb else "")
    # Of what was asked for the job itself has taken some already.
    if asked_gb and free_gb < 0.8 * asked_gb:
        return "warning", f"{found}; others use it", "cluster.slurm_exclusive=true, or a lower cluster.mem_gb"
    if free_gb < (needed := doctor.memory_gb_per_rank()):
        return (
            "warning",
            f"{found}; a rank needs {needed:g} GB",
            f"cluster.mem_gb={needed:g} for each rank there",
        )
    return "ok", found, ""


def _open_files() -> Outcome:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    found = f"{'no limit' if soft == unlimited else f'{soft} at once'}"
    if soft != unlimited and soft < OPEN_FILES:
        may_raise = hard == unlimited or hard >= OPEN_FILES
        fix = (
            f"cluster.slurm_setup=['ulimit -n {OPEN_FILES}'], or, on a Ray cluster, the same before `ray start`"
            if may_raise
            else f"ask the site to raise the limit of open files (nofile) to {OPEN_FILES}"
        )
        return "warning", f"{found}; Ray and data workers need {OPEN_FILES}", fix
    return "ok", found, ""


def _node_cache(named: str) -> Outcome:
    fix = "cluster.node_cache: name a folder on a disk of each node that you may write to"
    path = os.path.expandvars(named)
    if "$" in path:
        return "problem", f"{named}: a variable in it is not set here", fix
    status, found, cure = writable_folder(Path(path).expanduser())
    return status, found, cure and fix


def _wandb_server() -> Outcome:
    mode = os.environ.get("WANDB_MODE", "online")
    if mode in ("offline", "disabled"):
        return "ok", f"not needed, WANDB_MODE is {mode}", ""
    from sr.track import server_url

    url = urlsplit(server_url())
    scheme, host = url.scheme or "https", url.hostname or ""
    server, port, way = host, url.port or (443 if scheme == "https" else 80), ""
    if (proxy := urllib.request.getproxies().get(scheme)) and not urllib.request.proxy_bypass(host):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        server, port, scheme = parts.hostname or "", parts.port or 80, parts.scheme
        way = f" by way of the proxy {server}"
    why = _unreachable(server, port, with_tls=scheme == "https")
    if why:
        return (
            "warning",
            f"cannot reach {host}{way} ({why}), so nothing can be sent while a trial trains",
            "export WANDB_MODE=offline before srloss submit; afterwards send the runs from a machine that can, with srloss sync",
        )
    return "ok", f"reaches {host}{way}", ""


def _unreachable(host: str, port: int, *, with_tls: bool) -> str:
    """Why nobody answers there; empty where somebody does."""
    told = [f"no answer within {_ANSWER_S:g} s"]

    def call() -> None:
        try:
            with socket.create_connection((host, port), timeout=_ANSWER_S) as plain:
                if with_tls:
                    ssl.create_default_context().wrap_socket(plain, server_hostname=host).close()
            told[0] = ""
        except OSError as error:
            told[0] = (getattr(error, "strerror", None) or str(error)).lower()

    # To look up a name has a patience of its own.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    return told[0]


def _hidden_gpus() -> Outcome:
    """What is built in, without a touch: others may be using it."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "ok", "none; trials run on the CPU", ""
    return "ok", f"{', '.join(line.strip() for line in listed.splitlines())}; seen, not tried", ""


def _nccl() -> Outcome:
    import torch
    from torch.cuda import nccl

    if not torch.cuda.is_available():
        return "problem", "torch sees no GPU, though the job asked for one", "see: gpus"
    return "ok", ".".join(map(str, nccl.version())), ""


def _between_nodes(request: Request, seat: Seat) -> Outcome:
    if seat.count == 1:
        return "ok", "not tried, with one node", ""
    backend = "NCCL" if request.gpus else "gloo"
    if why := _unknown_name(seat.address):
        return (
            "problem",
            f"{seat.address}: {why}",
            "ask the site to make the names of nodes known to each other",
        )
    # The packages are not installed where they came with a job of Ray.
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    arguments = [str(seat.number), str(seat.count), seat.address, str(seat.port), backend]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "sweeps.doctor_meeting", *arguments, f"{MEET_S:g}"],
            env=os.environ | {"PYTHONPATH": path.rstrip(os.pathsep), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=2 * MEET_S + _START_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _no_meeting(backend, f"no end within {2 * MEET_S + _START_S:.0f} s")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return _no_meeting(backend, lines[-1] if lines else f"exit code {done.returncode}")
    return "ok", f"{backend} over {seat.count} nodes: {done.stdout.strip()}", ""


def _no_meeting(backend: str, why: str) -> Outcome:
    interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
    variable = f"{backend.upper()}_SOCKET_IFNAME"
    fix = (
        f"if nodes have several networks, name the right one (here: {', '.join(interfaces)}), as in cluster.slurm_setup=['export "
        f"{variable}={(interfaces or ['eth0'])[0]}']; else ask the site to open all TCP ports between nodes"
    )
    return "problem", f"{backend}: {why}", fix


def _unknown_name(host: str) -> str:
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        return f"this name of the first node is not known here ({error.strerror})"
    return ""


def main(arguments: list[str]) -> int:
    """On Ray's head: `python -m sweeps.doctor_far_side REQUEST PORT`."""
    try:
        on_ray(json.loads(arguments[0]), int(arguments[1]))
    except (ValueError, OSError) as error:
        sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
