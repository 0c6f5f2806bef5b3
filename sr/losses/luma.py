"""What the losses that model the eye look at: luma in grey levels."""

from __future__ import annotations

from torch import Tensor

from sr.losses.term import as_frames


def luma_255(pictures: Tensor) -> Tensor:
    """Luma of pictures or clips, frame by frame.

    Args:
        pictures: RGB or luma in [0, 1], shape (B, C, H, W) or (B, T, C, H, W), C being 3 or 1; not clipped.

    Returns:
        Full range, 255 being white, shape (N, 1, H, W) with N = B or B * T; dtype of `pictures`.

    Raises:
        ValueError: Neither one nor three channels.

    Source: ITU-R BT.601, in the full range of JPEG, for which the tables of visibility were measured.
    """
    frames = as_frames(pictures)
    channels = frames.shape[1]
    if channels == 1:
        return 255 * frames
    if channels != 3:
        raise ValueError(
            f"luma: expected RGB or one channel, got {channels} channels; give pictures of 3 or 1"
        )
    red, green, blue = frames.split(1, dim=1)
    return 255 * (0.299 * red + 0.587 * green + 0.114 * blue)
