"""Near-duplicates across splits are found and named, whatever was done to them; different pictures are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import skimage
from PIL import Image, ImageEnhance, ImageOps

from shards import leaks
from shards.leaks import THRESHOLD, Thumbnails, compare, merged, stack, thumbnail
from shards.records import NearDuplicate
from shards.sources.base import RawClip, RawFrame
from tests.unit.shards.conftest import array_item, noise_clip

PHOTOS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "camera",
    "coins",
    "moon",
    "page",
    "brick",
    "grass",
    "gravel",
)


def photo(name: str) -> Image.Image:
    return Image.fromarray(np.asarray(getattr(skimage.data, name)())).convert("RGB")


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def compared(first: list[bytes], second: list[bytes]) -> leaks.Found:
    return compare(
        stack([f"a{n}" for n in range(len(first))], [(data,) for data in first]),
        stack([f"b{n}" for n in range(len(second))], [(data,) for data in second]),
        on_block=lambda _done, _total: None,
    )


def similarity(first: np.ndarray, second: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> float:
    with monkeypatch.context() as patch:
        patch.setattr(leaks, "THRESHOLD", 0.0)
        pairs = compared([thumbnail(first)], [thumbnail(second)]).pairs
    return pairs[0].similarity if pairs else 0.0


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 20, rgb(image).shape)
    return Image.fromarray((rgb(image) + noise).clip(0, 255).astype(np.uint8))


def trimmed(image: Image.Image) -> Image.Image:
    x, y = image.width // 100, image.height // 100
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "nothing": lambda image: image,
    "jpeg": lambda image: as_jpeg(image, 25),
    "smaller": lambda image: image.resize((image.width // 5, image.height // 5), Image.Resampling.BICUBIC),
    "larger": lambda image: image.resize((image.width * 3 // 2, image.height * 3 // 2)),
    "squeezed": lambda image: image.resize((64, 64)),
    "mirrored": ImageOps.mirror,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    "grey": lambda image: image.convert("L"),
    "noisy": noisy,
    "trimmed": trimmed,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins"):
        original = photo(name)
        found = similarity(rgb(original), rgb(CHANGES[change](original)), monkeypatch)
        assert found >= THRESHOLD, name
        if change in ("nothing", "mirrored"):
            assert found == 1.0


def test_different_photographs_are_far_from_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [rgb(photo(name)) for name in PHOTOS]
    # Mean photographs and skies with a gradient, which are alike but for what is in them.
    most = max(
        similarity(first, second, monkeypatch)
        for number, first in enumerate(pictures)
        for second in pictures[:number]
    )
    assert 0.2 < most < 0.9


@pytest.mark.parametrize("turned", [False, True])
def test_two_skies_are_not_the_same_sky(monkeypatch: pytest.MonkeyPatch, turned: bool) -> None:
    rows = np.linspace(40, 220, 200)[:, None]
    skies = []
    for seed in (1, 2):
        clouds = np.random.default_rng(seed).normal(0, 12, (10, 15))
        clouds = np.asarray(Image.fromarray(clouds.astype(np.float32)).resize((300, 200), 3))
        skies.append(np.repeat((rows + clouds).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))
    assert np.corrcoef(skies[0].ravel(), skies[1].ravel())[0, 1] > 0.95
    if turned:
        skies = [sky.transpose(1, 0, 2) for sky in skies]
    assert similarity(*skies, monkeypatch) < 0.5


@pytest.mark.parametrize(
    "picture",
    [
        np.full((40, 50, 3), 255, np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.repeat(np.linspace(0, 255, 400).astype(np.uint8)[:, None, None], 300, axis=1).repeat(3, axis=2),
        np.random.default_rng(0).integers(118, 138, (256, 256, 3), dtype=np.uint8),
    ],
)
def test_flat_pictures_are_not_compared(picture: np.ndarray) -> None:
    assert thumbnail(picture) == b""


def test_cells_are_exact_means_of_their_areas() -> None:
    for height, width in ((16, 16), (17, 33), (5, 100), (64, 48), (131, 97)):
        picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        # Every pixel becomes 16 x 16 pixels: then each cell is a whole number of them.
        grey = (picture @ np.array([77, 150, 29])).repeat(16, axis=0).repeat(16, axis=1)
        means = grey.reshape(16, height, 16, width).mean(axis=(1, 3)) / 256
        if not thumbnail(picture):
            continue
        cells = np.frombuffer(thumbnail(picture), np.uint8).reshape(16, 16).astype(float)
        stretched = (means - means.min()) * 255 / (means.max() - means.min())
        assert np.abs(cells - stretched).max() <= 0.6


def test_scores_are_exact_whatever_adds_them_up() -> None:
    random = np.random.default_rng(3)
    cells = random.integers(0, 256, (300, 1, 256), dtype=np.uint8)
    cells[0] = np.where(np.arange(256) % 16 < 8, 0, 255)  # Its odd part is as long as any.
    even, odd = leaks._vectors(cells)
    for part in (even, odd):
        exact = part.astype(np.int64) @ part.astype(np.int64).T
        assert np.array_equal((part @ part.T).astype(np.int64), exact)
        assert np.abs(exact).max() < 2**24
        assert np.array_equal(part, np.rint(part))


def test_any_frame_of_a_clip_may_leak_and_counts_once() -> None:
    random = np.random.default_rng(4)
    shots = [random.integers(0, 256, (16, 16), dtype=np.uint8).tobytes() for _ in range(6)]
    first = stack(["a", "b"], [shots[:3], [shots[3]]])
    second = stack(["x", "y"], [[shots[4], shots[2], shots[1]], [shots[5]]])
    found = compare(first, second, on_block=lambda _done, _total: None)
    assert found.total == 1
    assert found.pairs == [NearDuplicate("a", "x", 1.0)]
    assert found.closest == {"a": NearDuplicate("a", "x", 1.0)}


def test_blocks_miss_nothing_and_more_pairs_than_are_listed_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(5)
    cells = random.integers(0, 256, (70, 1, 256), dtype=np.uint8)
    noise = random.integers(0, 30, (70, 1, 256))
    others = (cells * 0.8 + noise).astype(np.uint8)
    keys = [f"{n:02d}" for n in range(70)]
    monkeypatch.setattr(leaks, "BLOCK_ROWS", 16)
    monkeypatch.setattr(leaks, "BLOCK_COLUMNS", 9)
    blocks: list[tuple[int, int]] = []
    found = compare(
        Thumbnails(keys, cells),
        Thumbnails(keys, others),
        on_block=lambda done, total: blocks.append((done, total)),
    )
    assert [(pair.first, pair.second) for pair in found.pairs] == [(key, key) for key in keys]
    assert blocks == [(n, 5) for n in range(1, 6)]
    monkeypatch.setattr(leaks, "MAX_LISTED", 3)
    some = compare(Thumbnails(keys, cells), Thumbnails(keys, others), on_block=lambda _done, _total: None)
    assert (some.total, len(some.pairs), len(some.closest)) == (70, 3, 70)
    best = sorted(found.pairs, key=lambda pair: -pair.similarity)[:3]
    assert {pair.similarity for pair in some.pairs} == {pair.similarity for pair in best}
    listed, total = merged({("train", "val"): some, ("train", "test"): some})
    assert (len(listed), total) == (3, 140)


def shot(name: str, shift: int = 0, size: int = 96) -> RawFrame:
    top = 100 + shift
    return RawFrame(np.ascontiguousarray(rgb(photo(name))[top : top + size, 100 : 100 + size]))


def leaking_items() -> list:
    """train/a is nearly test/a and val/a; val/b is nearly test/b; nothing else is alike."""
    frames = {
        "train/a": shot("astronaut"),
        "val/a": shot("astronaut", 1),
        "test/a": RawFrame(rgb(ImageOps.mirror(Image.fromarray(shot("astronaut").rgb)))),
        "val/b": shot("coffee"),
        "test/b": shot("coffee", 1),
        "train/c": shot("chelsea"),
        "test/c": shot("chelsea", 60),
    }
    return [array_item(name, RawClip(name, (frame,))) for name, frame in frames.items()]


def test_leaks_are_named_with_the_learnt_side_first(pack_items: Callable) -> None:
    found = pack_items(*leaking_items()).description.near_duplicates
    assert [(pair.first, pair.second) for pair in found] == [
        ("train_a", "test_a"),
        ("train_a", "val_a"),
        ("val_a", "test_a"),
        ("val_b", "test_b"),
    ]
    assert found[0].similarity == 1.0
    assert all(THRESHOLD <= pair.similarity < 1 for pair in found[1:])


def test_leaks_are_left_out_on_demand_from_the_side_that_is_learnt_from(pack_items: Callable) -> None:
    dataset = pack_items(*leaking_items(), drop_leaks=True)
    assert [sample.key for sample in dataset.samples] == ["train_c", "test_a", "test_b", "test_c"]
    reasons = {rejected.source: rejected.reason for rejected in dataset.description.rejected}
    assert set(reasons) == {"train/a", "val/a", "val/b"}
    assert reasons["train/a"] == "nearly the same as test_a in test (similarity 1.000)"
    assert dataset.description.near_duplicates == ()
    assert dataset.description.split_rule.endswith("1 in train, 0 in val, 3 in test")


def test_what_is_left_out_of_val_takes_nothing_out_of_train(pack_items: Callable) -> None:
    # A slow pan: train is near val, val is near test, but train is not near test.
    names = {"train/a": 0, "val/a": 2, "test/a": 4}
    items = [array_item(name, RawClip(name, (shot("astronaut", shift),))) for name, shift in names.items()]
    found = pack_items(*items).description.near_duplicates
    assert [(pair.first, pair.second) for pair in found] == [("train_a", "val_a"), ("val_a", "test_a")]
    dataset = pack_items(*items, drop_leaks=True, force=True)
    assert [sample.key for sample in dataset.samples] == ["train_a", "test_a"]


def test_clips_of_one_source_are_never_compared(pack_items: Callable) -> None:
    frames = [shot("astronaut", n) for n in range(4)]
    clips = [RawClip(f"film/{n}", (frame,)) for n, frame in enumerate(frames)]
    dataset = pack_items(array_item("film", *clips), *(array_item(f"p{n}") for n in range(9)))
    assert dataset.description.near_duplicates == ()


def test_too_many_pairs_are_counted_in_a_warning(
    pack_items: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "MAX_LISTED", 2)
    items = [
        array_item(
            f"{split}/{n}",
            RawClip(f"{split}/{n}", (RawFrame(shot("astronaut").rgb // (1 + n) + (split == "test")),)),
        )
        for split in ("train", "test")
        for n in range(2)
    ]
    description = pack_items(*items).description
    assert len(description.near_duplicates) == 2
    (warning,) = description.warnings
    assert warning.startswith("4 pairs of clips in different splits are nearly the same; the 2 most alike")


def test_clips_that_are_all_flat_pass(pack_items: Callable) -> None:
    flat = [RawFrame(np.full((20, 20, 3), grey, np.uint8)) for grey in (10, 20)]
    items = [
        array_item("train/a", RawClip("train/a", (flat[0],))),
        array_item("test/a", RawClip("test/a", (flat[1],))),
        array_item("test/b", noise_clip("test/b")),
    ]
    assert pack_items(*items).description.near_duplicates == ()
