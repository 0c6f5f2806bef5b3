"""Pictures to benchmark on, made from scikit-image's photographs: moving clips, and one of 2K size."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.peers.work import FRAMES, HEIGHT, WIDTH, Work

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
JPEG_QUALITY = 88
NOISE = 0.3
"""Standard deviation in grey levels: PNG then takes about 0.46 of raw; the published Vimeo-90K takes about 0.37."""
PICTURE_SIZE = (2040, 1356)
PICTURE_GRID = (2, 2)
PICTURE_NOISE = 0.8


def write_all(work: Work) -> None:
    """Writes what is missing; the same pixels on every machine with the same Pillow."""
    for number in range(work.samples):
        _write_clip(work, number)
    names = [work.clip(number) for number in range(work.samples)]
    (work.vimeo / "sep_trainlist.txt").write_text("".join(f"{name}\n" for name in names))
    (work.vimeo / "sep_testlist.txt").write_text("")
    work.picture.mkdir(exist_ok=True)
    if not (work.picture / "large.png").exists():
        large_picture().save(work.picture / "large.png")


def _write_clip(work: Work, number: int) -> None:
    files = work.frames(number)
    if files[-1].exists():
        return
    files[0].parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng([1, number])
    photo = photograph(number)
    # The part of the photograph that a frame shows, and how it moves from frame to frame.
    width = draw.uniform(0.25, 0.6) * min(photo.width, photo.height * WIDTH / HEIGHT)
    if width > WIDTH:
        # Made smaller beforehand: bicubic interpolation alone would alias, and aliases are noise to a PNG.
        photo = photo.resize([round(side * WIDTH / width) for side in photo.size], Image.Resampling.LANCZOS)
        width = WIDTH
    centre = draw.uniform(0.45, 0.55, 2) * photo.size
    angle, turn = draw.uniform(-0.3, 0.3), draw.normal(0, 0.004)
    zoom, pan = draw.normal(0, 0.004), draw.normal(0, 2.0, 2)
    for frame, file in enumerate(files):
        scale = width / WIDTH * (1 + zoom * frame)
        shown = _seen(photo, centre + pan * frame, scale, angle + turn * frame)
        _degraded(shown, NOISE, draw).save(file)


def photograph(number: int) -> Image.Image:
    """One of the bundled photographs, in turn."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "scikit-image is not installed, whose photographs are used: pip install scikit-image"
        )
    file = Path(spec.origin).parent / "data" / PHOTOGRAPHS[number % len(PHOTOGRAPHS)]
    with Image.open(file) as image:
        return image.convert("RGB")


def _seen(photo: Image.Image, centre: np.ndarray, scale: float, angle: float) -> Image.Image:
    """A frame around a point, `scale` photograph pixels for each of its own, mirrored beyond the borders."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    margin = max(photo.size) // 2
    wide = np.pad(np.asarray(photo), [(margin, margin), (margin, margin), (0, 0)], mode="symmetric")
    x, y = centre + margin
    matrix = (
        cos,
        -sin,
        x - cos * WIDTH / 2 + sin * HEIGHT / 2,
        sin,
        cos,
        y - sin * WIDTH / 2 - cos * HEIGHT / 2,
    )
    image = Image.fromarray(wide)
    return image.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _degraded(image: Image.Image, noise: float, draw: np.random.Generator) -> Image.Image:
    """As if it came out of a compressed video, with the noise of a sensor."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    with Image.open(buffer) as seen:
        pixels = np.asarray(seen.convert("RGB"), np.float32)
    noisy = pixels + draw.normal(0, noise, pixels.shape)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def large_picture() -> Image.Image:
    """A mosaic of photographs of the size that DIV2K's pictures have."""
    columns, rows = PICTURE_GRID
    width, height = PICTURE_SIZE[0] // columns, PICTURE_SIZE[1] // rows
    mosaic = Image.new("RGB", PICTURE_SIZE)
    for place in range(columns * rows):
        tile = photograph(place).resize((width, height), Image.Resampling.BICUBIC)
        mosaic.paste(tile, (place % columns * width, place // columns * height))
    return _degraded(mosaic, PICTURE_NOISE, np.random.default_rng(2))


def reference(work: Work, number: int) -> np.ndarray:
    """The clip as Pillow reads its files: uint8, shape (7, 3, H, W)."""
    frames = []
    for file in work.frames(number):
        with Image.open(file) as image:
            frames.append(np.asarray(image.convert("RGB")))
    assert len(frames) == FRAMES
    return np.stack(frames).transpose(0, 3, 1, 2)
