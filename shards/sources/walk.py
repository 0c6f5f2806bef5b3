"""The files below a folder, found in the same order on every machine."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.records import Rejected

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Found:
    """What lies below a folder."""

    files: dict[str, Path]
    """Relative path, "/" between folders, to the file; ordered by relative path."""
    rejected: tuple[Rejected, ...]
    """Other files, and folders that cannot be listed, with the reason."""


def find_files(root: Path, endings: Collection[str] = PICTURE_ENDINGS, what: str = "picture") -> Found:
    """All files below a folder with one of the endings (lower case, with dot), which make it a `what`.

    Hidden files and folders are passed over, links are followed but not in circles, and everything else is
    rejected with a reason. Names that are not UTF-8 keep their bytes.
    """
    walk = _Walk(root, endings, what)
    for top, folders, names in os.walk(root, followlinks=True, onerror=walk.not_listed):
        folders[:] = walk.unvisited(Path(top), folders)
        for name in sorted(names):
            if not name.startswith("."):
                walk.take(Path(top) / name)
    return Found(dict(sorted(walk.files.items())), tuple(walk.rejected))


class _Walk:
    """Remembers the folders that were visited: a link may lead back to one, round and round."""

    def __init__(self, root: Path, endings: Collection[str], what: str) -> None:
        self.root = root
        self.endings = endings
        self.what = what
        self.files: dict[str, Path] = {}
        self.rejected: list[Rejected] = []
        self.visited = {_identity(root): "."}

    def not_listed(self, error: OSError) -> None:
        self.rejected.append(
            Rejected(self.relative(Path(error.filename)), f"folder cannot be listed ({error.strerror})")
        )

    def unvisited(self, top: Path, folders: list[str]) -> list[str]:
        """The subfolders to descend into."""
        fresh: list[str] = []
        for name in sorted(folders):
            if name.startswith("."):
                continue
            relative = self.relative(top / name)
            try:
                first = self.visited.setdefault(_identity(top / name), relative)
            except OSError as error:  # The folder above may be listed but not entered.
                self.rejected.append(Rejected(relative, f"folder cannot be listed ({error.strerror})"))
                continue
            if first == relative:
                fresh.append(name)
            else:
                self.rejected.append(
                    Rejected(relative, f"a link to a folder that is already listed ({first})")
                )
        return fresh

    def take(self, file: Path) -> None:
        """Lists a file or rejects it."""
        relative = self.relative(file)
        reason = self.reason_against(file)
        if reason is None:
            self.files[relative] = file
        else:
            self.rejected.append(Rejected(relative, reason))

    def reason_against(self, file: Path) -> str | None:
        ending = PurePosixPath(file.name).suffix
        if ending.lower() not in self.endings:
            return f"not a {self.what} by its ending ({ending or 'none'})"
        try:
            if file.is_symlink() and not file.exists():
                return "a link to a file that does not exist"
            return None if file.is_file() else "not a regular file"
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
