"""Examines machine and installation before a sweep does: what is there, what is wrong, how to repair it."""

import importlib
import importlib.util
import netrc
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cluster.machine import available_cpus, available_memory_bytes, num_gpus

Status = Literal["ok", "warning", "problem"]
Outcome = tuple[Status, str, str]
"""A Check without its name."""

OWN_PACKAGES = ("cluster", "shards", "sr", "sweeps")
"""Top-level names of srloss; PyPI has strangers under each of them."""

LOOKED_UP = ("deepspeed", "lpips", "webdataset", "submitit")
"""Distributions that are not imported, because that takes seconds."""

SCARCE_DISK_GB = 10.0
"""Below this a sweep's checkpoints may not fit."""
SCARCE_SHM_GB = 1.0
"""Below this Ray's object store and data workers spill to disk; Docker gives 64 MB."""

_UNIX_SOCKET_BYTES = 107
"""Longest path of a socket on Linux."""
_RAY_SOCKET = "session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Longest that Ray appends to its temporary folder."""


@dataclass(frozen=True)
class Check:
    """One line of the examination."""

    name: str
    status: Status
    found: str
    """What is there and, unless the status is "ok", what is wrong with it."""
    fix: str = ""
    """What to do; empty where nothing is wrong."""
    nodes: tuple[str, ...] = ()
    """Of a cluster, where it was found; empty for this machine."""


def examine(*, store: Path, data: Path | None) -> list[Check]:
    """Run all checks. One that breaks is reported as a problem and does not stop the others.

    Args:
        store: Folder of sweeps' results; need not exist yet.
        data: Folder of a packed data set, or None to leave it out.
    """
    checks: dict[str, Callable[[], Outcome]] = {
        "python": _python,
        "srloss packages": _own_packages,
        "rival packages": _rival_packages,
        "torch": _torch,
        "gpus": _gpus,
        "ray": partial(_installed, "ray", is_imported=True),
        "ray[default]": _ray_default,
        "wandb": _wandb,
        "wandb leet": _wandb_leet,
        **{package: partial(_installed, package) for package in LOOKED_UP},
        "decoders": _decoders,
        "cpus": _cpus,
        "memory": _memory,
        "trials at once": _trials_at_once,
        "store": partial(writable_folder, store),
        "temporary folder": partial(writable_folder, Path(tempfile.gettempdir())),
        "/dev/shm": partial(_shared_memory, Path("/dev/shm")),
        "ray cluster file": _ray_cluster_file,
        "ray socket path": _ray_socket_path,
    }
    if data is not None:
        checks["data"] = partial(_data, data)
    return [Check(name, *guarded(check)) for name, check in checks.items()]


def guarded(check: Callable[[], Outcome]) -> Outcome:
    """What the check says; one that breaks is a problem."""
    try:
        return check()
    except metadata.PackageNotFoundError as error:
        what = "-e . (in the checkout)" if error.name == "srloss" else error.name
        return "problem", f"{error.name} is not installed", f"pip install {what}"
    except Exception as error:  # noqa: BLE001 (reported; the other checks go on)
        found = f"the check itself failed: {type(error).__name__}: {error}"
        return "problem", found, "repair what the message names, then run srloss doctor again"


def _python() -> Outcome:
    from packaging.specifiers import SpecifierSet

    version, needed = platform.python_version(), metadata.metadata("srloss")["Requires-Python"]
    if not SpecifierSet(needed).contains(version):
        return "problem", f"{version}; srloss needs {needed}", "install srloss with a Python in that range"
    return "ok", f"{version} at {sys.executable}", ""


def _own_packages() -> Outcome:
    """All of srloss must come from the installation that this file is part of."""
    home = Path(__file__).resolve().parents[1]
    astray: list[str] = []
    for package in OWN_PACKAGES:
        spec = importlib.util.find_spec(package)
        places = [] if spec is None else list(spec.submodule_search_locations or [spec.origin or "unknown"])
        if [Path(place).resolve() for place in places] != [home / package]:
            astray.append(f"{package} is {' and '.join(places) or 'missing'}")
    if astray:
        fix = "remove rival packages, and folders of these names in the current one; then reinstall srloss"
        return "problem", f"not all in {home}: {'; '.join(astray)}", fix
    return "ok", f"all in {home}", ""


def _rival_packages() -> Outcome:
    owners = metadata.packages_distributions()
    rivals = sorted({owner for package in OWN_PACKAGES for owner in owners.get(package, ())} - {"srloss"})
    if rivals:
        found = f"{', '.join(rivals)} installed, with packages named like ours, which may be imported instead"
        return "problem", found, f"pip uninstall {' '.join(rivals)}"
    return "ok", "none installed", ""


def _torch() -> Outcome:
    import torch

    found = f"{torch.__version__}, {torch.get_num_threads()} CPU threads"
    if not _multiplies(device="cpu"):
        return "problem", f"{found}; a matrix product is wrong", "pip install --force-reinstall torch"
    return "ok", found, ""


def _gpus() -> Outcome:
    import torch

    if not torch.cuda.is_available():
        if installed := num_gpus():
            found = f"{installed} in the machine that torch {torch.__version__} cannot use"
            return "problem", found, "install a torch built for the driver that nvidia-smi shows"
        return "ok", "none; trials run on the CPU", ""
    indices = range(torch.cuda.device_count())
    if broken := [index for index in indices if not _multiplies(device=f"cuda:{index}")]:
        return "problem", f"GPUs {broken} multiply wrongly", "leave them out with CUDA_VISIBLE_DEVICES"
    gpus = [torch.cuda.get_device_properties(index) for index in indices]
    return "ok", ", ".join(f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in gpus), ""


def _multiplies(*, device: str) -> bool:
    import torch

    ones = torch.ones(8, 8, device=device)
    return bool((ones @ ones == 8).all())


def _installed(package: str, *, is_imported: bool = False) -> Outcome:
    version = metadata.version(package)  # Says how to install it where it is missing.
    if is_imported:
        importlib.import_module(package)
    return "ok", version, ""


def _ray_default() -> Outcome:
    """The dashboard's dependencies: without its State API, Tune leaks placement groups of stopped trials."""
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in metadata.requires("ray") or ()]
    asked_for = {r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": "default"})}
    if missing := sorted(name for name in asked_for if not any(metadata.Distribution.discover(name=name))):
        found = f"{', '.join(missing)} missing; stopped trials would never give back their resources"
        return "problem", found, 'pip install "ray[default,tune]"'
    return "ok", "complete", ""


def _wandb() -> Outcome:
    mode, has_key = os.environ.get("WANDB_MODE", "online"), _has_wandb_key()
    found = f"{metadata.version('wandb')}, mode {mode}, key present: {'yes' if has_key else 'no'}"
    if mode == "online" and not has_key:
        return "warning", f"{found}; nothing can be sent", "wandb login, or export WANDB_MODE=offline"
    return "ok", found, ""


def _has_wandb_key() -> bool:
    """Whether W&B will find a key. The key goes nowhere, nor does a parser's message, which may quote it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    from sr.track import server_url

    host = urlsplit(server_url()).hostname
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        if path.is_file():
            try:
                return host in netrc.netrc(path).hosts
            except (netrc.NetrcParseError, UnicodeDecodeError):
                raise ValueError(f"{path} cannot be parsed; correct it, or run wandb login") from None
    return False


def _wandb_leet() -> Outcome:
    if any(file.name == "leet.py" for file in metadata.files("wandb") or ()):
        return "ok", "available", ""
    return "warning", "missing; runs cannot be viewed in the terminal", "pip install -U wandb"


def _decoders() -> Outcome:
    """What reads pictures from shards; the pixels are the same whatever it is, the time is not."""
    from shards.decode import available_decoders

    found = ", ".join(f"{kind}: {name}" for kind, name in available_decoders().items())
    if "zlib" in found:
        return "warning", f"{found}; there are faster ones", "pip install 'srloss[fast]'"
    return "ok", found, ""


def _cpus() -> Outcome:
    found = f"{available_cpus():g} of {os.cpu_count()} usable by this process"
    if available_cpus() < 2:
        return "warning", f"{found}; data loading and training share one", "ask the scheduler for 2"
    return "ok", found, ""


def _memory() -> Outcome:
    free_gb = available_memory_bytes() / 1e9
    if free_gb < memory_gb_per_rank():
        return "warning", f"{free_gb:.1f} GB available, too little for a trial", "raise the memory limit"
    return "ok", f"{free_gb:.1f} GB available", ""


def memory_gb_per_rank() -> float:
    """What a sweep reckons for a trial where its file does not say; larger patches and models need more."""
    from sweeps.spec import SweepConfig

    return SweepConfig.model_fields["memory_gb_per_rank"].default


def _trials_at_once() -> Outcome:
    limits = {
        "CPUs": int(available_cpus()),
        "memory": int(available_memory_bytes() / 1e9 / memory_gb_per_rank()),
    }
    if gpus := num_gpus():
        limits["GPUs"] = gpus
    scarcest = min(limits, key=lambda what: limits[what])
    found = f"{limits[scarcest]}, limited by {scarcest}, at 1 CPU and {memory_gb_per_rank():g} GB each"
    if limits[scarcest] < 1:
        return "warning", found, f"give this process more {scarcest}"
    return "ok", found, ""


def writable_folder(folder: Path) -> Outcome:
    """A folder that will be written to: room, and the right to."""
    folder = folder.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    found = f"{folder}: {free_gb:.1f} GB free{', will be created' * (existing != folder)}"
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        return "problem", f"{found}; cannot write in {existing}: {error.strerror}", "choose another folder"
    if free_gb < SCARCE_DISK_GB:
        return "warning", f"{found}; checkpoints may not fit", "delete old ones, or choose a larger disk"
    return "ok", found, ""


def _shared_memory(folder: Path) -> Outcome:
    if not folder.is_dir():
        return "warning", "missing; Ray and data workers will use slower disk", f"mount a tmpfs at {folder}"
    size_gb = shutil.disk_usage(folder).total / 1e9
    if size_gb < SCARCE_SHM_GB:
        return "warning", f"{size_gb:.2f} GB; data workers may die", "start the container with --shm-size=8g"
    return "ok", f"{size_gb:.1f} GB", ""


def _ray_folder() -> Path:
    """Where Ray keeps its sessions; the same rule as Ray's."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def _ray_cluster_file() -> Outcome:
    path = _ray_folder() / "ray_current_cluster"
    if not path.is_file():
        return "ok", "none", ""
    address = path.read_text().strip()
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        found = f"{path} names a cluster at {address!r} that does not answer; Ray may try to join it and hang"
        return "warning", found, f"rm {path}"
    return "ok", f"a cluster runs at {address}", ""


def _ray_socket_path() -> Outcome:
    length = len(os.fsencode(_ray_folder() / _RAY_SOCKET))
    found = f"{length} of {_UNIX_SOCKET_BYTES} bytes under {_ray_folder()}"
    if length > _UNIX_SOCKET_BYTES:
        return "problem", f"{found}; Ray will refuse to start", "export RAY_TMPDIR=/tmp"
    return "ok", found, ""


def _data(folder: Path) -> Outcome:
    from shards import manifest

    try:
        dataset = manifest.load(folder)
    except ValueError as error:
        return "problem", str(error), f"correct the path, or: srloss shard pack PICTURES {folder}"
    found = f"{folder}: {len(dataset.samples)} samples in {len(dataset.shards)} shards"
    return "ok", f"{found}, fingerprint {dataset.fingerprint[:8]}", ""
