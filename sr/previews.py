"""Pictures of a few fixed validation clips, kept at every validation: how a training comes along, to look at."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from sr.data import Clip
from sr.evaluate import ClipPictures, middle_frame
from sr.ledger import Ledger
from sr.world import World

log = logging.getLogger(__name__)

_SIDE = 128
"""Of a preview, in HR pixels."""


class Previews:
    """Takes pictures as clips are validated, and has the first rank keep them.

    Args:
        clips: All validation clips.
        count: How many of them are kept; 0: none.
        scale: The upscaling factor.
    """

    def __init__(self, clips: Sequence[Clip], count: int, *, scale: int) -> None:
        places = np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int) if clips else []
        self._names = {clips[place].clip_id: _name(clips[place]) for place in places}
        self._scale = scale
        self._taken: dict[str, dict[str, bytes]] = {}

    def see(self, item: ClipPictures) -> None:
        """Takes the pictures of a clip, if it is one of those that are kept."""
        if name := self._names.get(item.clip.clip_id):
            small = _SIDE // self._scale
            self._taken[name] = {
                "sr": _png(item.sr, small, unit=self._scale),
                "hr": _png(item.hr, small, unit=self._scale),
                "lr": _png(item.lr, small, unit=1),
            }

    def keep(self, ledger: Ledger, step: int, world: World) -> None:
        """Writes what all ranks have taken since the last call; collective."""
        taken, self._taken = self._taken, {}
        if not self._names:
            return
        pictures = {name: found for rank in world.gather(taken) for name, found in rank.items()}
        if not world.is_first:
            return
        try:
            for kind in ("hr", "lr", "sr"):
                ledger.write_previews(kind, step, {name: found[kind] for name, found in pictures.items()})
        except OSError as error:
            # Not worth a trial's life: a full disk is told by what must be written.
            log.warning("pictures of step %d are not kept: %s", step, error)


def _name(clip: Clip) -> str:
    # Keys of shards that others have made may name folders.
    key = clip.sample.key.replace("/", "%2F")
    return f"{key}.{clip.clip_id.rpartition('#')[2]}.png"


def _png(pictures: Tensor, side: int, *, unit: int) -> bytes:
    """The middle of the middle frame of (1, T, 3, H, W) in [0, 1].

    Args:
        pictures: In HR or LR.
        side: Of what is kept, in LR pixels.
        unit: Its pixels to one of LR, so that the same part is cut out of both.
    """
    from PIL import Image

    frame = middle_frame(pictures)
    top, left = (max(0, (length // unit - side) // 2) * unit for length in frame.shape[:2])
    most = side * unit
    out = io.BytesIO()
    Image.fromarray(frame[top : top + most, left : left + most]).save(out, format="PNG")
    return out.getvalue()
