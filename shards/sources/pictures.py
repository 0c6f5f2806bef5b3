"""Single pictures: folders of them, and the photographs that ship inside scikit-image."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from shards.records import Rejected
from shards.sources.base import Listing, RawClip, SourceOptions
from shards.sources.files import (
    degraded_warnings,
    folder_name,
    raw_bytes,
    read_frame,
    refuse_options,
    require_folder,
    stamp_of,
)
from shards.sources.walk import find_files

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

DIV2K_FOLDERS = {"DIV2K_train_HR": "train", "DIV2K_valid_HR": "val"}
"""Of the published DIV2K; its other folders hold low-resolution partners."""


@dataclass(frozen=True)
class PictureItem:
    """A picture: a clip of one frame."""

    name: str
    root: Path
    """Of the source: the name is relative to it."""

    @property
    def file(self) -> Path:
        """Where it lies on this machine."""
        return self.root / self.name

    @property
    def source(self) -> str:
        """Each picture is an original of its own."""
        return self.name

    def stamp(self) -> str:
        """Changes with the file."""
        return stamp_of([(self.name, self.file)])

    def estimated_bytes(self) -> int:
        """By its header."""
        return raw_bytes(self.file)

    def clips(self) -> Iterator[RawClip]:
        """The one clip.

        Raises:
            UnusablePictureError: The file is no usable picture.
        """
        frame, notes = read_frame(self.file)
        yield RawClip(self.name, (frame,), notes=notes)


def list_folder(path: Path | None, options: SourceOptions) -> Listing:
    """All pictures below a folder. Hidden files are passed over; others are listed or rejected with a reason.

    Raises:
        ValueError: There is no such folder, or an option has no effect.
    """
    refuse_options(
        "folder", options, ("frames", "stride"), "each picture is a clip; 'frames' makes longer ones"
    )
    root = require_folder("folder", path, "pictures")
    found = find_files(root)
    items = tuple(PictureItem(name, root) for name in found.files)
    listing = Listing(folder_name(root), items, found.rejected)
    tops = {item.name.partition("/")[0] for item in items}
    if tops & set(DIV2K_FOLDERS):
        return div2k_splits(listing)
    return replace(listing, warnings=degraded_warnings("folder", found.files))


def list_photos(path: Path | None, options: SourceOptions) -> Listing:
    """The photographs that ship inside scikit-image: no network, and the same splits for everybody.

    Raises:
        ValueError: A path or an option without effect was given, or scikit-image lacks a picture.
    """
    refuse_options("photos", options, ("frames", "stride"), "each picture is a clip")
    if path is not None:
        raise ValueError(
            f"source 'photos': takes no path, got {path}; leave it out, or use the source 'folder'"
        )
    folder = photos_folder()
    splits = {name: split for split, names in PHOTOS.items() for name in names}
    missing = [name for name in splits if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"source 'photos': this scikit-image lacks {', '.join(missing)}; "
            "install another: pip install 'scikit-image>=0.25'"
        )
    items = tuple(PictureItem(name, folder) for name in sorted(splits))
    return Listing("photos", items, splits=splits, split_rule="fixed by the source")


def photos_folder() -> Path:
    """Where scikit-image keeps its photographs.

    Raises:
        ValueError: It is not installed.
    """
    spec = importlib.util.find_spec("skimage")  # Only finds it: importing scikit-image takes a second.
    if spec is None or spec.origin is None:
        raise ValueError(
            "source 'photos': scikit-image is not installed; install it with: pip install scikit-image"
        )
    return Path(spec.origin).parent / "data"


def div2k_splits(listing: Listing) -> Listing:
    """Only what lies in DIV2K's high-resolution folders, split by them where both are there."""
    tops = {item.source: item.source.partition("/")[0] for item in listing.items}
    reason = "outside of DIV2K's high-resolution folders; low-resolution partners need the source 'paired'"
    outside = (
        Rejected(item.name, reason) for item in listing.items if tops[item.source] not in DIV2K_FOLDERS
    )
    inside = tuple(item for item in listing.items if tops[item.source] in DIV2K_FOLDERS)
    listing = replace(listing, items=inside, rejected=(*listing.rejected, *outside))
    if set(DIV2K_FOLDERS) - set(tops.values()):
        return listing
    splits = {item.source: DIV2K_FOLDERS[tops[item.source]] for item in inside}
    words = ", ".join(f"{split} is {folder}" for folder, split in DIV2K_FOLDERS.items())
    return replace(listing, splits=splits, split_rule=f"by DIV2K's folders ({words})")
