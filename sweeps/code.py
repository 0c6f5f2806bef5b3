"""Which srloss this is: a hash over its code, and the versions of what it stands on."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("cluster", "shards", "sr", "sweeps")


def code_files() -> Iterator[tuple[str, Path]]:
    """All files of the four packages as this process imports them: name within srloss, and where it lies; sorted."""
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None, package
        assert spec.origin is not None, package
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            # Editors and tools leave hidden files and caches.
            if path.is_file() and not any(part[0] == "." or part == "__pycache__" for part in inside.parts):
                yield f"{package}/{inside.as_posix()}", path


def code_hash() -> str:
    """Twelve digits that differ where a file of the four packages does."""
    digest = hashlib.sha256()
    for name, path in code_files():
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def versions() -> dict[str, str]:
    """What must be the same wherever trials of one sweep run."""
    # Behind the "+" torch says for which GPUs it was built, and a login node may have another build.
    torch = metadata.version("torch").partition("+")[0]
    python = ".".join(platform.python_version_tuple()[:2])
    return {"srloss": code_hash(), "Python": python, "ray": metadata.version("ray"), "torch": torch}


def copy_code(folder: Path) -> None:
    """Copies the four packages into a folder, for machines that have no srloss or another one."""
    for name, path in code_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
