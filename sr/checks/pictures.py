"""The pictures that losses are checked on: the user's own, or crops of photographs that scikit-image brings along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SIDE = 192
"""Height in pixels of what is cut from a photograph: multi-scale SSIM needs 161. The width is 16 more, so that a
height taken for a width is noticed."""

_LEAST_SPREAD = 0.02
"""Standard deviation below which a picture is too flat to check losses on."""

_CORNERS = {"astronaut": (10, 130), "coffee": (90, 150), "chelsea": (60, 120), "rocket": (180, 220)}


def bundled() -> Tensor:
    """Crops of four colour photographs, shape (4, 3, 192, 208), float32 in [0, 1]."""
    import skimage

    crops = []
    for name, (top, left) in _CORNERS.items():
        image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)
        crops.append(image[:, top : top + SIDE, left : left + SIDE + 16].float() / 255)
    return torch.stack(crops)


def read(path: Path) -> Tensor:
    """Reads a picture as RGB, upright, shape (3, H, W), float32 in [0, 1].

    Raises:
        ValueError: The file is missing, is no picture, or would have to be changed to be seen: it is partly transparent,
            or its values have no known white.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give a picture (PNG, JPEG, WebP, ...)") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"{path}: not a picture that Pillow reads ({error}); convert it to PNG") from None
    if image.mode.startswith("I;16"):
        # Pillow would cut off what is above 255.
        grey = torch.from_numpy(np.array(image).astype(np.float32)) / 65535
        return grey.expand(3, -1, -1).contiguous()
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{path}: pixels of 32 bits, of which white is not known; convert it to 8 or 16 bits"
        )
    if image.has_transparency_data and np.array(image.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(f"{path}: partly transparent; put it on a background and save it without alpha")
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def from_files(paths: Sequence[Path]) -> Tensor:
    """The middle of each picture, all of the size of the smallest, at most 192 x 208; shape (N, 3, H, W).

    Raises:
        ValueError: A file is no picture, smaller than 64 x 64 pixels, or flat.
    """
    images = [read(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if min(image.shape[-2:]) < 64:
            raise ValueError(
                f"{path}: {image.shape[-1]} x {image.shape[-2]} pixels; the checks need at least 64 x 64, "
                "give a larger picture"
            )
        if image.std() < _LEAST_SPREAD:
            raise ValueError(f"{path}: hardly any contrast; blur and noise show on detail, give a photograph")
    height = min(SIDE, *(image.shape[-2] for image in images)) // 16 * 16
    width = min(SIDE + 16, *(image.shape[-1] for image in images)) // 16 * 16
    crops = [centre_crop(image, height, width) for image in images]
    # One picture cannot show that a batch is averaged: it and its mirror image make two.
    return torch.stack(crops if len(crops) > 1 else [crops[0], crops[0].flip(-1)])


def centre_crop(pictures: Tensor, height: int, width: int) -> Tensor:
    """The middle of the last two axes."""
    top, left = (pictures.shape[-2] - height) // 2, (pictures.shape[-1] - width) // 2
    return pictures[..., top : top + height, left : left + width].contiguous()


def as_moving_clip(pictures: Tensor, *, frames: int, margin: int = 6) -> Tensor:
    """Clips that pan over each picture by 2 and 1 pixels a frame; (N, 3, H, W) to (N, T, 3, H - margin, W - margin)."""
    height, width = (side - margin for side in pictures.shape[-2:])
    cuts = [pictures[..., t : t + height, 2 * t : 2 * t + width] for t in range(frames)]
    return torch.stack(cuts, dim=1)
