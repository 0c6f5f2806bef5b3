"""Upscaling pictures: any that Pillow reads, 16-bit ones as such; upright, with alpha, colour profile kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.picture import FORMATS, MAX_PIXELS
from shards.sources.walk import PICTURE_ENDINGS, find_files
from sr.resize import bicubic
from sr.upscale.deep import ENCODERS as DEEP_ENDINGS
from sr.upscale.deep import read_deep, write_deep
from sr.upscale.model import Upscaler
from sr.upscale.output import refuse_to_replace, whole_or_nothing

_SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".bmp": ("BMP", {}),
}
_WITHOUT_ALPHA = (".jpg", ".jpeg", ".bmp")
_LOSSY = (".jpg", ".jpeg")
_MIN_IS_WHITE = 0
_TIFF_PHOTOMETRIC = 262


@dataclass(frozen=True)
class Opened:
    """A picture, upright."""

    colour: np.ndarray
    """(H, W, 3); uint8 or uint16."""
    alpha: np.ndarray | None
    """(H, W), of the same type."""
    is_grey: bool
    profile: bytes | None
    """ICC; the values are as it defines them."""
    notes: tuple[str, ...]
    """What was converted, in words."""


@dataclass(frozen=True)
class Done:
    """What became of a folder of pictures."""

    written: list[Path]
    failed: list[str]
    """One line for each picture that could not be upscaled."""
    notes: list[str]
    """What was converted, and files that are no pictures."""


def upscale_picture(source: Path, out: Path, upscaler: Upscaler, *, force: bool = False) -> tuple[str, ...]:
    """Upscales one picture; returns what was converted, in words.

    The colours are the generator's, 16 bits stay 16 bits where `out` is PNG or TIFF, alpha is enlarged bicubically,
    grey stays grey, and EXIF orientation is applied. JPEG is written with quality 95, all else without loss.

    Raises:
        ValueError: `source` is no picture, or `out` cannot be written or cannot hold it.
    """
    _check_ending(out)
    refuse_to_replace(out, force=force)
    opened = open_for_upscaling(source)
    colour, alpha = opened.colour, opened.alpha
    notes = list(opened.notes)
    if alpha is not None and out.suffix.lower() in _WITHOUT_ALPHA:
        raise ValueError(
            f"{out}: {source} has transparent parts, which {out.suffix} cannot hold; name a .png"
        )
    sr = upscaler.picture(colour)
    if alpha is not None:
        sr = np.dstack([sr, _enlarged(alpha, upscaler.scale)])
    if opened.is_grey:
        sr = _grey(sr)
    with whole_or_nothing(out, force=force) as temporary:
        if sr.dtype == np.uint16 and out.suffix.lower() in DEEP_ENDINGS and sr.shape[2] != 2:
            write_deep(temporary, sr)
        else:
            if sr.dtype == np.uint16:
                notes.append("16-bit to 8-bit")
                sr = ((sr.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
            form, options = _SAVED[out.suffix.lower()]
            pixels = sr[..., 0] if sr.shape[2] == 1 else sr
            _encode(
                Image.fromarray(np.ascontiguousarray(pixels)), temporary, form, opened.profile, options, out
            )
    return tuple(notes)


def upscale_folder(
    source: Path,
    out: Path,
    upscaler: Upscaler,
    *,
    force: bool = False,
    on_progress: Callable[[int, int, str], None],
) -> Done:
    """Upscales all pictures below a folder into the same tree below `out`; JPEGs become PNGs.

    A picture that cannot be read is named and the rest goes on.

    Raises:
        ValueError: There is no picture, or a file of `out` would be replaced without `force`.
    """
    found = find_files(source)
    if not found.files:
        raise ValueError(
            f"{source}: no pictures there; give a folder with {', '.join(PICTURE_ENDINGS)} files"
        )
    targets = _targets(list(found.files), out)
    for target in targets.values():
        refuse_to_replace(target, force=force)
    done = Done([], [], [f"{one.source}: {one.reason}" for one in found.rejected])
    for number, (name, file) in enumerate(found.files.items()):
        on_progress(number, len(found.files), name)
        try:
            notes = upscale_picture(file, targets[name], upscaler, force=force)
        except ValueError as error:
            done.failed.append(str(error))
            continue
        done.written.append(targets[name])
        if notes:
            done.notes.append(f"{name}: {', '.join(notes)}")
    return done


def _targets(names: list[str], out: Path) -> dict[str, Path]:
    """Where each picture goes: JPEGs under a lossless ending, and no two under one name."""
    plain = {name: _lossless(name) for name in names}
    taken = list(plain.values())
    return {name: out / (new if taken.count(new) == 1 else f"{name}.png") for name, new in plain.items()}


def _lossless(name: str) -> str:
    path = Path(name)
    return str(path.with_suffix(".png")) if path.suffix.lower() in _LOSSY else name


def open_for_upscaling(path: Path) -> Opened:
    """Decodes a picture, upright.

    Raises:
        ValueError: It is no picture, is damaged, too large, or its values have no defined white.
    """
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; they are refused below.
            with Image.open(file, formats=FORMATS) as image:
                return _opened(image, path)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture by its content; give a {', '.join(FORMATS)} file") from None
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give a picture, a folder of pictures, or a video") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        # Decoders raise many things on damaged files.
        raise ValueError(f"{path}: damaged or unreadable ({error}); give a sound picture") from error


def _opened(image: Image.Image, path: Path) -> Opened:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{path}: {image.width} x {image.height} px; give a picture of at most {MAX_PIXELS // 10**6} Mpx"
        )
    notes = [f"first of {image.n_frames} pages"] if getattr(image, "n_frames", 1) > 1 else []  # type: ignore[attr-defined]
    # Asked before the pixels are loaded: loading forgets it.
    is_deep = image.mode.startswith("I;16") or ";16" in str(getattr(image, "tile", None))
    profile = image.info.get("icc_profile")
    if is_deep:
        return _opened_deep(image, path, profile, notes)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{path}: its values (mode {image.mode}) have no defined white; convert it to 16 bits first"
        )
    upright = ImageOps.exif_transpose(image)
    is_grey = upright.mode in ("1", "L", "LA", "La")
    if upright.mode not in ("1", "L", "LA", "La", "RGB", "RGBA", "RGBa", "P", "PA"):
        notes.append(f"{upright.mode} to RGB")
        profile = None  # That of another kind of colour.
    alpha = None
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        alpha = np.asarray(upright.getchannel("A"))
        if (alpha == 255).all():
            alpha = None
    return Opened(np.asarray(upright.convert("RGB")), alpha, is_grey, profile, tuple(notes))


def _opened_deep(image: Image.Image, path: Path, profile: bytes | None, notes: list[str]) -> Opened:
    if image.format not in ("PNG", "TIFF"):
        raise ValueError(f"{path}: 16-bit {image.format} is not supported; convert it to PNG first")
    if image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == _MIN_IS_WHITE:  # type: ignore[attr-defined]
        raise ValueError(f"{path}: 16-bit TIFF in which 0 is white is not supported; convert it to PNG first")
    orientation = image.getexif().get(0x0112, 1)
    try:
        stored = read_deep(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; give a sound picture, or convert it to PNG first") from error
    pixels = _turned(stored, orientation)
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    if alpha is not None and (alpha == 65535).all():
        alpha = None
    is_grey = pixels.shape[2] == 1 or image.mode in ("LA", "La")
    colour = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
    if profile is not None:
        notes.append("colour profile dropped")
    return Opened(np.ascontiguousarray(colour), alpha, is_grey, None, tuple(notes))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As the EXIF orientation asks for: 2 to 8 are mirrored, turned, or both."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::down, ::across]


def _enlarged(alpha: np.ndarray, scale: int) -> np.ndarray:
    white = np.iinfo(alpha.dtype).max
    values = torch.from_numpy(alpha.astype(np.float32))
    larger = bicubic(values, height=alpha.shape[0] * scale, width=alpha.shape[1] * scale)
    return larger.clamp(0, white).round().numpy().astype(alpha.dtype)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """A colour model makes nearly grey of grey: its BT.601 luma; (H, W, 3 or 4) to (H, W, 1 or 2)."""
    luma = pixels[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = np.rint(luma).clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return np.dstack([grey, pixels[..., 3:]])


def _check_ending(out: Path) -> None:
    if out.suffix.lower() not in _SAVED:
        raise ValueError(f"{out}: not a picture by its ending; name one of {', '.join(_SAVED)}, or a folder")


def _encode(
    image: Image.Image, path: Path, form: str, profile: bytes | None, options: dict[str, Any], out: Path
) -> None:
    if profile is not None:
        options = options | {"icc_profile": profile}
    try:
        image.save(path, format=form, **options)
    except (OSError, ValueError) as error:
        # WebP ends at 16383 px and JPEG at 65535, by their formats.
        raise ValueError(
            f"{out}: cannot be written as {form} ({error}); name another ending, e.g. .png"
        ) from error
