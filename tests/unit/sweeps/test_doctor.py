"""Each check is shown a machine on which it must speak up, and says what was found and what to do."""

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import types
from collections import namedtuple

import pytest

from sweeps import doctor

SECRET = "0123456789abcdef0123456789abcdef01234567"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def examined(tmp_path):
    """Run one check by its name."""

    def _examined(name, *, store=tmp_path, data=None):
        # Torch and Ray take seconds to import, so a single check is not run through all of them.
        return {check.name: check for check in doctor.examine(store=store, data=data)}[name]

    return _examined


@pytest.fixture(autouse=True)
def no_heavy_imports(request, monkeypatch, tmp_path):
    if "real" not in request.fixturenames:
        for name in ("_torch", "_gpus"):
            monkeypatch.setattr(doctor, name, lambda: ("ok", "left out", ""))
        monkeypatch.setattr(
            doctor.importlib, "import_module", lambda name: types.SimpleNamespace(__version__="2")
        )
        monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def real():
    """Asks for the real torch and Ray."""


def test_this_installation_has_a_line_for_everything(real, tmp_path):
    checks = doctor.examine(store=tmp_path, data=tmp_path / "nowhere")
    by_name = {check.name: check for check in checks}
    assert len(by_name) == len(checks) == 23
    for check in checks:
        assert check.status in ("ok", "warning", "problem")
        assert check.found
        assert bool(check.fix) == (check.status != "ok"), check
        assert "the check itself failed" not in check.found, check
    for name in (
        "python",
        "srloss packages",
        "torch",
        "ray",
        "ray[default]",
        "deepspeed",
        "lpips",
        "wandb leet",
    ):
        assert by_name[name].status == "ok", by_name[name]
    assert importlib.metadata.version("torch") in by_name["torch"].found
    assert by_name["ray"].found == importlib.metadata.version("ray")


def test_importing_the_doctor_is_light():
    heavy = "{'torch', 'ray', 'wandb', 'numpy', 'deepspeed', 'packaging'}"
    code = f"import sys, sweeps.doctor; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_broken_check_is_a_problem_and_the_others_go_on(monkeypatch, tmp_path):
    def explode():
        raise RuntimeError("no such register")

    monkeypatch.setattr(doctor, "available_cpus", explode)
    checks = {check.name: check for check in doctor.examine(store=tmp_path, data=None)}
    assert checks["cpus"].status == "problem"
    assert "RuntimeError: no such register" in checks["cpus"].found
    assert checks["memory"].status == "ok"
    assert len(checks) == 22


def test_unsupported_python_is_a_problem(examined, monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    check = examined("python")
    assert (check.status, check.found) == ("problem", "3.9.1; srloss needs >=3.11")


def test_rivals_are_named_with_the_command_that_removes_them(examined, monkeypatch):
    owners = {"sweeps": ["sweeps"], "sr": ["srloss", "sr-tools"], "shards": ["srloss"], "numpy": ["numpy"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    check = examined("rival packages")
    assert (check.status, check.fix) == ("problem", "pip uninstall sr-tools sweeps")


def test_package_from_elsewhere_is_a_problem(examined, monkeypatch, tmp_path):
    real = importlib.util.find_spec

    def find_spec(name, package=None):
        if name == "sr":
            return types.SimpleNamespace(origin=None, submodule_search_locations=[str(tmp_path / "sr")])
        return None if name == "shards" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    check = examined("srloss packages")
    assert check.status == "problem"
    assert f"sr is {tmp_path / 'sr'}" in check.found
    assert "shards is missing" in check.found
    assert "cluster is" not in check.found


@pytest.mark.parametrize("gone", ["lpips", "submitit", "wandb", "ray"])
def test_missing_package_is_named(examined, monkeypatch, gone):
    hide_distribution(monkeypatch, gone)
    check = examined(gone)
    assert (check.status, check.found) == ("problem", f"{gone} is not installed")
    assert check.fix == f"pip install {gone}"


def test_ray_without_dashboard_is_a_problem(examined, monkeypatch):
    hide_distribution(monkeypatch, "aiohttp_cors")
    check = examined("ray[default]")
    assert check.status == "problem"
    assert check.found.startswith("aiohttp")
    assert "ray[default,tune]" in check.fix


def test_wandb_without_a_key_warns_unless_offline(examined, monkeypatch):
    assert examined("wandb").status == "warning"
    assert "mode online, key present: no" in examined("wandb").found
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert examined("wandb").status == "ok"
    assert "mode offline, key present: no" in examined("wandb").found


@pytest.mark.parametrize("place", ["environment", "netrc", "other host", "broken netrc"])
def test_wandb_key_is_found_and_never_shown(monkeypatch, tmp_path, place):
    if place == "environment":
        monkeypatch.setenv("WANDB_API_KEY", SECRET)
    host = "api.other.org" if place == "other host" else "wandb.lab"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab")
    netrc_lines = {"broken netrc": f"machine {host} password\n {SECRET} {SECRET}"}
    text = netrc_lines.get(place, f"machine {host} login user password {SECRET}\n")
    if place != "environment":
        (tmp_path / ".netrc").write_text(text)
    checks = doctor.examine(store=tmp_path, data=None)
    check = next(check for check in checks if check.name == "wandb")
    expected = {"environment": "present: yes", "netrc": "present: yes", "other host": "present: no"}
    assert expected.get(place, "cannot be parsed") in check.found
    assert SECRET[:8] not in repr(checks)


def test_one_cpu_and_little_memory_warn(examined, monkeypatch):
    monkeypatch.setattr(doctor, "available_cpus", lambda: 1.5)
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: 10**9)
    assert (examined("cpus").status, examined("memory").status) == ("warning", "warning")
    assert examined("cpus").found.startswith(f"1.5 of {os.cpu_count()} usable")


@pytest.mark.parametrize(
    ("cpus", "memory_gb", "gpus", "expected"),
    [
        (8.5, 64, 0, "8, limited by CPUs"),
        (64.0, 9, 0, "6, limited by memory"),
        (64.0, 640, 2, "2, limited by GPUs"),
    ],
)
def test_trials_at_once_are_limited_by_what_is_scarcest(
    examined, monkeypatch, cpus, memory_gb, gpus, expected
):
    monkeypatch.setattr(doctor, "available_cpus", lambda: cpus)
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: memory_gb * 10**9)
    monkeypatch.setattr(doctor, "num_gpus", lambda: gpus)
    assert examined("trials at once").found.startswith(expected)


def test_store_that_does_not_exist_is_looked_at_through_its_parent(examined, tmp_path):
    check = examined("store", store=tmp_path / "a" / "b")
    assert check.status == "ok"
    assert "will be created" in check.found
    assert list(tmp_path.iterdir()) == []


def test_store_that_cannot_be_written_is_a_problem(examined, monkeypatch, tmp_path):
    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    check = examined("store")
    assert check.status == "problem"
    assert f"cannot write in {tmp_path}: Permission denied" in check.found


def test_full_disk_and_small_shared_memory_warn(examined, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 * 2**20, 0, 3 * 10**9))
    assert examined("store").status == examined("temporary folder").status == "warning"
    assert "--shm-size" in examined("/dev/shm").fix


def test_stale_ray_cluster_file_warns_and_a_live_one_does_not(examined, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    path = tmp_path / "ray" / "ray_current_cluster"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        path.write_text(address)
        assert examined("ray cluster file").found == f"a cluster runs at {address}"
    check = examined("ray cluster file")
    assert (check.status, check.fix) == ("warning", f"rm {path}")
    path.write_text("nonsense")
    assert examined("ray cluster file").status == "warning"


def test_temporary_folder_too_deep_for_sockets_is_a_problem(examined, monkeypatch):
    room = 107 - len("/ray/" + doctor._RAY_SOCKET)
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * (room - 1))
    assert examined("ray socket path").status == "ok"
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * room)
    assert examined("ray socket path").status == "problem"


def test_data_set_is_described_or_its_damage_is(examined, monkeypatch, tmp_path):
    from shards import manifest

    dataset = types.SimpleNamespace(samples=(1, 2, 3), shards=(1,), fingerprint="abcdef0123")
    monkeypatch.setattr(manifest, "load", lambda path: dataset)
    assert "3 samples in 1 shards, fingerprint abcdef01" in examined("data", data=tmp_path).found

    def refuse(path):
        raise ValueError("shard 17: sha256 differs")

    monkeypatch.setattr(manifest, "load", refuse)
    check = examined("data", data=tmp_path)
    assert (check.status, check.found) == ("problem", "shard 17: sha256 differs")
    assert "srloss shard pack" in check.fix


def hide_distribution(monkeypatch, name):
    """Let importlib.metadata find nothing under this name."""
    real = importlib.metadata.Distribution.discover

    def discover(**kwargs):
        return iter(()) if kwargs.get("name") == name else real(**kwargs)

    monkeypatch.setattr(importlib.metadata.Distribution, "discover", staticmethod(discover))


def test_slow_decoders_warn(examined, monkeypatch):
    from shards import decode

    assert examined("decoders").found.startswith("banded png: ")
    monkeypatch.setattr(decode, "available_decoders", lambda: {"banded png": "zlib + numpy"})
    assert (examined("decoders").status, examined("decoders").fix) == (
        "warning",
        "pip install 'srloss[fast]'",
    )
