"""One picture file into 8-bit RGB pixels."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
MAX_PIXELS = 64_000_000
"""A picture with more is refused before it is decoded: a few bytes can ask for gigabytes of memory."""
MIN_SIDE = 16
"""Pixels. Nothing can be learnt from less."""
EXIF_ORIENTATION = 0x0112
TIFF_PHOTOMETRIC = 262
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class UnusablePictureError(Exception):
    """A file that cannot become a sample. Its text is the reason, without paths."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels of a file and what was done to get them."""

    rgb: np.ndarray
    """uint8, shape (H, W, 3)."""
    notes: tuple[str, ...]
    """What was converted, in words."""


def open_picture(path: Path) -> Picture:
    """Decodes a file to 8-bit RGB, upright and opaque.

    Raises:
        UnusablePictureError: The file is empty, unreadable, damaged, too large, too small or without a white.
    """
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # Pillow warns of large pictures that are refused here anyway.
            if not file.read(1):
                raise UnusablePictureError("empty file (0 bytes)")
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                return _convert(image)
    except (UnusablePictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnusablePictureError("not a picture by its content") from None
    except Image.DecompressionBombError:
        raise UnusablePictureError(f"more than {MAX_PIXELS // 10**6} Mpx") from None
    except (
        Exception
    ) as error:  # Decoders raise nearly anything on damaged files; the reason goes into the manifest.
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        # Addresses differ from run to run, and the manifest must not.
        text = re.sub(r" at 0x[0-9a-f]+", "", text)
        raise UnusablePictureError(f"cannot be read: {text or type(error).__name__}") from error


def check_size(width: int, height: int, *, smallest: int = 1) -> None:
    """Raises UnusablePictureError for more than `MAX_PIXELS`, or a side of less than `smallest` pixels."""
    if width * height > MAX_PIXELS:
        raise UnusablePictureError(f"more than {MAX_PIXELS // 10**6} Mpx ({width}x{height})")
    if min(width, height) < smallest:
        raise UnusablePictureError(f"smaller than {smallest} px ({width}x{height})")


def _convert(image: Image.Image) -> Picture:
    check_size(image.width, image.height, smallest=MIN_SIDE)
    notes: list[str] = []
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        notes.append(f"first of {pages} pages")
    # Asked before the pixels are loaded: loading forgets the raw mode, and turns a TIFF by itself. Reading
    # the EXIF of a PNG loads it, so the raw mode comes first.
    raw_mode = _raw_mode(image)
    rotated = image.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
    upright = ImageOps.exif_transpose(image)
    if rotated:
        notes.append("rotated by EXIF")
    if upright.mode.startswith("I;16"):
        upright = _from_16_bit_grey(upright, image, raw_mode, notes)
    elif ";16" in raw_mode:
        # Pillow has no 16-bit colour: it keeps the high byte of each value.
        notes.append("16-bit to 8-bit (high byte)")
    if upright.mode in ("I", "F"):
        raise UnusablePictureError(f"pixels of mode {upright.mode} ({raw_mode}) have no defined white")
    rgb = _flatten(upright, raw_mode, notes)
    return Picture(np.ascontiguousarray(rgb), tuple(notes))


def _raw_mode(image: Image.Image) -> str:
    """How the file stores a pixel, in Pillow's words such as "RGB;16B"; "" where it is not told."""
    tile = getattr(image, "tile", None)
    if not tile:
        return ""
    arguments = tile[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _from_16_bit_grey(grey: Image.Image, source: Image.Image, raw_mode: str, notes: list[str]) -> Image.Image:
    bits = 12 if ";12" in raw_mode else 16
    white = 2**bits - 1
    values = np.asarray(grey).astype(np.uint32)
    clear = grey.info.get("transparency")
    mask = values == clear if isinstance(clear, int) else None
    scaled = ((values * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    if source.format == "TIFF" and getattr(source, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == 0:
        scaled = 255 - scaled  # "Min is white": Pillow inverts this for 8 bits only.
    notes.append(f"{bits}-bit to 8-bit")
    if mask is None:
        return Image.fromarray(scaled)
    alpha = np.where(mask, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(scaled), Image.fromarray(alpha)))


def _flatten(image: Image.Image, raw_mode: str, notes: list[str]) -> np.ndarray:
    """Any 8-bit mode to RGB pixels, transparent parts over white."""
    if image.mode in ("1", "L", "LA", "La") or raw_mode.startswith("LA"):
        notes.append("grey to RGB")
    elif image.mode in ("P", "PA"):
        notes.append("palette to RGB")
    elif image.mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        notes.append(f"{image.mode} to RGB")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if (alpha == 255).all():
        notes.append("opaque alpha dropped")
        return colour.astype(np.uint8)
    notes.append("alpha flattened on white")
    # At most 255 * 255 + 127, which fits into 16 bits.
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
