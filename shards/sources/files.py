"""What the sources of picture files share: paths and options checked, files stamped, measured and read."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from shards.picture import FORMATS, MAX_PIXELS, PNG_SIGNATURE, UnusablePictureError, open_picture
from shards.sources.base import RawFrame, SourceOptions

GROWTH = 8
"""About how many times larger a picture is raw than as a file; only where its header cannot be read."""
DEGRADED_WORDS = {"lr", "lq", "low", "lowres", "input", "blur", "blurred", "noisy", "bicubic", "degraded"}
"""In a folder's name they tell that its pictures are no ground truth."""


def require_folder(kind: str, path: Path | None, holds: str) -> Path:
    """The path, which must be a folder.

    Raises:
        ValueError: It is none; the text says that a source of this kind needs a folder of `holds`.
    """
    if path is None:
        raise ValueError(
            f"source '{kind}': no path was given; name the folder of {holds}: srloss shard pack {kind} "
            "FOLDER OUT"
        )
    if not path.is_dir():
        raise ValueError(f"{path}: not a folder; the source '{kind}' needs the folder that holds the {holds}")
    return path


def refuse_options(kind: str, options: SourceOptions, names: Iterable[str], why: str) -> None:
    """Raises ValueError where one of the named options is set: it would have no effect on this source."""
    for name in names:
        value = getattr(options, name)
        if value is not None:
            raise ValueError(
                f"{name}: got {value}, which has no effect on the source '{kind}' ({why}); leave it out"
            )


def clip_length(options: SourceOptions, default: int) -> tuple[int, int]:
    """Frames of a clip, and from the start of one to the start of the next.

    Raises:
        ValueError: One of them is not positive.
    """
    frames = default if options.frames is None else options.frames
    stride = frames if options.stride is None else options.stride
    for name, value in (("frames", frames), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name}: must be 1 or more, got {value}")
    return frames, stride


def folder_name(path: Path) -> str:
    """The name of a data set that lies at the path."""
    return path.resolve().name or "root"


def degraded_warnings(kind: str, names: Iterable[str]) -> tuple[str, ...]:
    """Warns of folders that by their names hold no ground truth, given relative names of files."""
    folders: dict[str, None] = {}
    for name in names:
        parents = name.split("/")[:-1]
        for depth, part in enumerate(parents, start=1):
            if DEGRADED_WORDS & set(re.split(r"[^a-z]+", part.lower())):
                folders["/".join(parents[:depth])] = None
                break
    return tuple(
        f"{folder}: by its name it holds degraded pictures, which the source '{kind}' takes as ground truth; "
        "leave it "
        "out, or pack it with its originals by the source 'paired'"
        for folder in sorted(folders)
    )


def stamp_of(files: Iterable[tuple[str, Path]], *settings: object) -> str:
    """A digest of relative names, sizes, times of change, and settings that change what is made of them."""
    digest = hashlib.sha256(repr(settings).encode("utf-8", "surrogateescape"))
    for name, file in files:
        digest.update(os.fsencode(name) + b"\0")
        try:
            status = file.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\0".encode())
        except OSError:
            digest.update(b"gone\0")  # Reading it will say what happened.
    return digest.hexdigest()


def picture_size(file: Path) -> tuple[int, int] | None:
    """Width and height of a picture by its header, as it is stored; None where that cannot be read."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            return image.size
    except Exception:  # noqa: BLE001 - Decoders raise nearly anything; reading it later says what.
        return None


def raw_bytes(file: Path) -> int:
    """Bytes of a picture as 8-bit RGB, by its header; roughly, by its file, where that tells nothing."""
    size = picture_size(file)
    if size is not None:
        return 3 * min(size[0] * size[1], MAX_PIXELS)
    try:
        return GROWTH * file.stat().st_size
    except OSError:
        return 0


def read_frame(file: Path) -> tuple[RawFrame, tuple[str, ...]]:
    """A picture file as a frame, with what was converted; its own bytes are kept where nothing was.

    Raises:
        UnusablePictureError: It is none, or damaged; the text is the reason, without paths.
    """
    picture = open_picture(file)
    if picture.notes:
        return RawFrame(picture.rgb), picture.notes
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UnusablePictureError(f"cannot be read: {error.strerror}") from error
    kind = _kept_kind(data)
    return RawFrame(picture.rgb, data if kind else None, kind), ()


def _kept_kind(data: bytes) -> str:
    """How a file that needed no conversion is kept as it is; "" for formats that are not kept."""
    if data.startswith(PNG_SIGNATURE):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    return "webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else ""
