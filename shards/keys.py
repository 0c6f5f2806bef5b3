"""Names of samples inside the shards."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

MAX_SLUG = 60
VIDEO_ENDING = re.compile(r"\.(avi|m4v|mkv|mov|mp4|webm)(?=/)")
"""In the middle of a clip's name: a clip of a video is named like a file in a folder of the video's name."""


def keys_for(sources: Iterable[str]) -> dict[str, str]:
    """A unique key for each name of a clip (a relative path), plain enough for every tar reader.

    A key is the path without its ending, in lower case, folders joined by `_`, accents dropped: only `a-z`,
    `0-9`, `_` and `-`. Where more than case, folders or the ending got lost, or where two paths would share a
    key, 8 hex digits of the path's sha256 follow.

    Returns:
        Relative path to key.
    """
    slugs = {source: _slug(source) for source in sources}
    shared = Counter(slug for slug, _ in slugs.values())
    keys = {
        source: f"{slug}-{path_digest(source).hex()[:8]}" if lossy or shared[slug] > 1 else slug
        for source, (slug, lossy) in slugs.items()
    }
    assert len(set(keys.values())) == len(keys), "two paths share a key"
    return keys


def path_digest(source: str) -> bytes:
    """sha256 of a relative path; names that are not UTF-8 keep their bytes."""
    return hashlib.sha256(os.fsencode(source)).digest()


def _slug(source: str) -> tuple[str, bool]:
    """The readable part of a key, and whether it lost something worth telling apart."""
    name = str(PurePosixPath(source).with_suffix("")).lower()
    plain = VIDEO_ENDING.sub("", name).replace("/", "_")
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9_-]+", "-", ascii_only).strip("-_")[:MAX_SLUG]
    return slug or "picture", slug != plain
