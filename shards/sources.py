"""Where pictures come from. A new source is one function and one line in `SOURCES`."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from shards.records import Rejected

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

PHOTOS: dict[str, tuple[str, ...]] = {
    # Of the stereo pair only the left half: the right one in another split would be nearly the same picture.
    "train": (
        "astronaut.png",
        "coffee.png",
        "hubble_deep_field.jpg",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "val": ("brick.png", "page.png"),
    "test": (
        "camera.png",
        "chelsea.png",
        "clock_motion.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "ihc.png",
        "moon.png",
    ),
}
"""Photographs and micrographs inside the scikit-image wheel, by split."""


@dataclass(frozen=True)
class Listing:
    """The files of a source."""

    name: str
    """Of the data set; without the rest of the path, which is of this machine."""
    files: dict[str, Path]
    """Relative path, "/" between folders, to the file."""
    rejected: tuple[Rejected, ...] = ()
    splits: dict[str, str] = field(default_factory=dict)
    """Relative path to split, where the source fixes it; empty where the user chooses."""


Source = Callable[[Path | None], Listing]


def list_folder(path: Path | None) -> Listing:
    """All pictures below a folder. Hidden files are passed over; others are listed or rejected with a reason.

    Raises:
        ValueError: There is no such folder.
    """
    if path is None:
        raise ValueError(
            "source 'folder': no path was given; name the folder of pictures: "
            "srloss shard pack folder PICTURES OUT"
        )
    if not path.is_dir():
        raise ValueError(f"{path}: not a folder; name the folder that holds the pictures")
    files: dict[str, Path] = {}
    rejected: list[Rejected] = []
    visited: dict[tuple[int, int], str] = {}

    def not_listed(error: OSError) -> None:
        folder = Path(error.filename).relative_to(path).as_posix()
        rejected.append(Rejected(folder, f"folder cannot be listed ({error.strerror})"))

    for top, folders, names in os.walk(path, followlinks=True, onerror=not_listed):
        relative_top = Path(top).relative_to(path)
        folders[:] = _unvisited(Path(top), path, folders, visited, rejected)
        for name in sorted(names):
            if name.startswith("."):
                continue
            relative = (relative_top / name).as_posix()
            reason = _reason_against(Path(top) / name)
            if reason is None:
                files[relative] = Path(top) / name
            else:
                rejected.append(Rejected(relative, reason))
    return Listing(path.resolve().name, dict(sorted(files.items())), tuple(rejected))


def list_photos(path: Path | None) -> Listing:
    """The photographs that ship inside scikit-image: no network, and the same splits for everybody.

    Raises:
        ValueError: A path was given, or the installed scikit-image lacks a picture.
    """
    if path is not None:
        raise ValueError(
            f"source 'photos': takes no path, got {path}; leave it out, or use the source 'folder'"
        )
    spec = importlib.util.find_spec("skimage")  # Only finds it: importing scikit-image takes a second.
    if spec is None or spec.origin is None:
        raise ValueError(
            "source 'photos': scikit-image is not installed; install it with: pip install scikit-image"
        )
    folder = Path(spec.origin).parent / "data"
    splits = {name: split for split, names in PHOTOS.items() for name in names}
    missing = [name for name in splits if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"source 'photos': this scikit-image lacks {', '.join(missing)}; "
            "install another: pip install 'scikit-image>=0.25'"
        )
    return Listing("photos", {name: folder / name for name in sorted(splits)}, splits=splits)


def _unvisited(
    top: Path, root: Path, folders: list[str], visited: dict[tuple[int, int], str], rejected: list[Rejected]
) -> list[str]:
    """The subfolders to descend into: a link may lead back to a folder already walked, round and round."""
    if not visited:
        visited[_identity(root)] = "."
    fresh: list[str] = []
    for name in sorted(folders):
        if name.startswith("."):
            continue
        relative = (top / name).relative_to(root).as_posix()
        first = visited.setdefault(_identity(top / name), relative)
        if first == relative:
            fresh.append(name)
        else:
            rejected.append(Rejected(relative, f"a link to a folder that is already listed ({first})"))
    return fresh


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _reason_against(file: Path) -> str | None:
    ending = PurePosixPath(file.name).suffix
    if ending.lower() not in ENDINGS:
        return f"not a picture by its ending ({ending or 'none'})"
    if file.is_symlink() and not file.exists():
        return "a link to a file that does not exist"
    return None if file.is_file() else "not a regular file"


SOURCES: dict[str, Source] = {"folder": list_folder, "photos": list_photos}
