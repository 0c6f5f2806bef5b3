"""Splits come from folders, lists or fractions, and the data set says which."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shards.manifest import Dataset
from shards.splits import DEFAULT_FRACTIONS, by_fraction


def splits_of(dataset: Dataset) -> dict[str, str]:
    return {sample.source: sample.split for sample in dataset.samples}


@pytest.mark.parametrize("val", ["val", "valid", "validation", "VAL"])
def test_top_folders_are_splits(save: Callable, pack_folder: Callable, val: str) -> None:
    for name in ("train/a.png", "train/deep/b.png", f"{val}/c.png", "test/d.png", "other/e.png", "f.png"):
        save(name)
    dataset = pack_folder()
    expected = {
        "train/a.png": "train",
        "train/deep/b.png": "train",
        f"{val}/c.png": "val",
        "test/d.png": "test",
    }
    assert splits_of(dataset) == expected
    assert dataset.split_rule == "by top folder; 2 in train, 1 in val, 1 in test"
    reason = "outside of the top folders train, val and test"
    assert [(r.source, r.reason) for r in dataset.rejected] == [("f.png", reason), ("other/e.png", reason)]


def test_a_folder_named_train_alone_is_no_split(save: Callable, pack_folder: Callable) -> None:
    for number in range(20):
        save(f"train/{number}.png")
    assert set(splits_of(pack_folder()).values()) == {"train", "val", "test"}


def test_lists_are_followed(save: Callable, pack_folder: Callable, tmp_path: Path) -> None:
    for name in ("a.png", "b/ü c.png", "d.png", "e.png"):
        save(name)
    (tmp_path / "train.txt").write_text("./a.png\n\n", "utf-8")
    (tmp_path / "test.txt").write_text("b/ü c.png\r\nd.png", "utf-8")
    dataset = pack_folder(split_lists={"train": tmp_path / "train.txt", "test": tmp_path / "test.txt"})
    assert splits_of(dataset) == {"a.png": "train", "b/ü c.png": "test", "d.png": "test"}
    assert (
        dataset.split_rule
        == "by split lists (test by test.txt, train by train.txt); 1 in train, 0 in val, 2 in test"
    )
    assert [(r.source, r.reason) for r in dataset.rejected] == [("e.png", "in no split list")]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": "a.png\nnone.png"}, "no file 'none.png'"),
        ({"train": "a.png", "test": "a.png"}, "'a.png' is in train too"),
        ({"dev": "a.png"}, "unknown split 'dev'"),
        ({"train": None}, "cannot be read"),
    ],
)
def test_wrong_lists_are_refused(
    save: Callable, pack_folder: Callable, tmp_path: Path, lists: dict[str, str | None], message: str
) -> None:
    save("a.png")
    for split, text in lists.items():
        if text is not None:
            (tmp_path / f"{split}.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        pack_folder(split_lists={split: tmp_path / f"{split}.txt" for split in lists})


def test_fractions_depend_on_the_path_alone(save: Callable, pack_folder: Callable) -> None:
    for number in range(30):
        save(f"{number}.png")
    before = splits_of(pack_folder())
    for number in range(30, 40):
        save(f"{number}.png")
    after = splits_of(pack_folder("more"))
    assert all(after[source] == split for source, split in before.items())
    assert set(before.values()) == {"train", "val", "test"}


def test_fractions_are_met() -> None:
    given = [by_fraction(f"{number}.png", DEFAULT_FRACTIONS) for number in range(4000)]
    for split, fraction in DEFAULT_FRACTIONS.items():
        assert abs(given.count(split) / len(given) - fraction) < 0.03


@pytest.mark.parametrize("count", [3, 4, 5])
def test_no_split_is_empty_from_three_pictures_on(save: Callable, pack_folder: Callable, count: int) -> None:
    for number in range(count):
        save(f"{count}-{number}.png")
    save("tiny.png", 4, 4)  # A rejected picture must not count as the only one of its split.
    dataset = pack_folder()
    assert set(splits_of(dataset).values()) == {"train", "val", "test"}
    assert ("which was empty" in dataset.split_rule) == (count < 5)
    assert dataset.split_rule.startswith("by sha256 of the relative path (train 0.7, val 0.1, test 0.2); ")


def test_a_fraction_of_zero_stays_empty(save: Callable, pack_folder: Callable) -> None:
    for number in range(10):
        save(f"{number}.png")
    assert set(splits_of(pack_folder(split={"train": 0.5, "test": 0.5})).values()) == {"train", "test"}


@pytest.mark.parametrize(
    "split", [{"train": 0.5}, {"train": 1.5, "test": -0.5}, {"train": 0.5, "dev": 0.5}, {}]
)
def test_wrong_fractions_are_refused(save: Callable, pack_folder: Callable, split: dict[str, float]) -> None:
    save("a.png")
    with pytest.raises(ValueError, match=r"^split: "):
        pack_folder(split=split)


def test_settings_without_effect_are_refused(save: Callable, pack_folder: Callable, tmp_path: Path) -> None:
    save("train/a.png")
    save("test/b.png")
    (tmp_path / "train.txt").write_text("train/a.png")
    with pytest.raises(ValueError, match="no effect"):
        pack_folder(split_lists={"train": tmp_path / "train.txt"})
    with pytest.raises(ValueError, match="no effect"):
        pack_folder(split={"train": 1.0})
    with pytest.raises(ValueError, match="no effect"):
        pack_folder(split={"train": 1.0}, split_lists={"train": tmp_path / "train.txt"})


def test_of_two_equal_pictures_the_test_one_stays(save: Callable, pack_folder: Callable) -> None:
    for name, seed in (("train/a.png", 1), ("train/b.png", 2), ("val/c.png", 1), ("test/d.png", 1)):
        save(name, seed=seed)
    dataset = pack_folder()
    assert splits_of(dataset) == {"train/b.png": "train", "test/d.png": "test"}
    reason = "same pixels as test/d.png"
    assert [(r.source, r.reason) for r in dataset.rejected] == [
        ("train/a.png", reason),
        ("val/c.png", reason),
    ]
