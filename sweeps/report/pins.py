"""Which clip a reader means who asks for one by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Clips:
    """The held-out clips that a sweep is judged on."""

    sources: dict[str, str]
    """Clip id to its source."""
    kept: dict[str, str]
    """Clip id to the file name of its pictures, for those of which pictures are kept."""
    why_unknown: str
    """Empty where they are known."""


def clip_of(wish: str, clips: Clips, *, order: Sequence[str]) -> str:
    """The clip that `SOURCE`, `SOURCE:TILE` (tiles count from 1, as in the report) or a clip id names.

    Args:
        wish: A source may be given without folder or extension.
        clips: Those that there are.
        order: Clips with pictures, best first: the first of them stands for a source without tile.

    Raises:
        ValueError: None, or more than one, fits, or there are no pictures of it.
    """
    if clips.why_unknown:
        raise ValueError(f"--crop {wish}: the held-out clips cannot be listed: {clips.why_unknown}")
    if wish in clips.sources:
        return _kept(wish, wish, clips)
    source, tile = _parted(wish, clips)
    own = [clip for clip, of in clips.sources.items() if of == source]
    if tile is None:
        kept = [clip for clip in (*order, *own) if clip in own and clip in clips.kept]
        return kept[0] if kept else _kept(wish, own[0], clips)
    if f"{source}#{tile - 1}" not in own:
        raise ValueError(f"--crop {wish}: {source} has tiles 1 to {len(own)}; choose one of them")
    return _kept(wish, f"{source}#{tile - 1}", clips)


def _parted(wish: str, clips: Clips) -> tuple[str, int | None]:
    """The source and the tile that are meant."""
    sources = sorted(set(clips.sources.values()))
    parted = re.fullmatch(r"(.+):(\d+)", wish)
    for name, tile in [(wish, None), *([(parted[1], int(parted[2]))] if parted else [])]:
        fitting = [source for source in sources if source == name] or [
            s for s in sources if _is_short(name, s)
        ]
        if len(fitting) > 1:
            raise ValueError(f"--crop {wish}: fits {', '.join(fitting)}; write more of the one you mean")
        if fitting:
            return fitting[0], tile
    name = parted[1] if parted else wish
    known = {short: source for source in sources for short in (PurePosixPath(source).stem, source)}
    near = list(
        dict.fromkeys(known[found] for found in difflib.get_close_matches(name, known, n=3, cutoff=0.5))
    )
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {_some(sources)}"
    raise ValueError(f"--crop {wish}: the sweep is judged on no picture of that name; {hint}")


def _is_short(name: str, source: str) -> bool:
    path = PurePosixPath(source)
    return name in (path.name, path.stem, str(path.with_suffix("")))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _kept(wish: str, clip: str, clips: Clips) -> str:
    if clip in clips.kept:
        return clip
    source = clips.sources[clip]
    tiles = [int(other.rpartition("#")[2]) + 1 for other in clips.kept if clips.sources[other] == source]
    instead = f"tiles {', '.join(map(str, tiles))} of it" if tiles else _some(sorted(clips.kept))
    raise ValueError(
        f"--crop {wish}: no pictures of {clip} were kept (those of {len(clips.kept)} of {len(clips.sources)} clips are); "
        f"choose {instead}"
    )
