"""Splits come from folders, lists or fractions, and the data set says which."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shards.manifest import Dataset
from shards.records import Rejected
from shards.sources.base import Listing
from shards.splits import DEFAULT_FRACTIONS, by_fraction, plan
from tests.unit.shards.conftest import array_item, noise_clip


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
    assert dataset.description.split_rule == "by top folder; 2 in train, 1 in val, 1 in test"
    reason = "outside of the top folders train, val and test"
    assert [(r.source, r.reason) for r in dataset.description.rejected] == [
        ("f.png", reason),
        ("other/e.png", reason),
    ]


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
        dataset.description.split_rule
        == "by split lists (test by test.txt, train by train.txt); 1 in train, 0 in val, 2 in test"
    )
    assert [(r.source, r.reason) for r in dataset.description.rejected] == [("e.png", "in no split list")]


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
    assert ("which was empty" in dataset.description.split_rule) == (count < 5)
    assert dataset.description.split_rule.startswith(
        "by sha256 of the relative path (train 0.7, val 0.1, test 0.2); "
    )


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
    assert [(r.source, r.reason) for r in dataset.description.rejected] == [
        ("train/a.png", reason),
        ("val/c.png", reason),
    ]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("DIV2K_train_HR", "DIV2K_valid_HR", None),
        ("train_sharp", "val_sharp", None),
        ("Train-1", "validation", "test_set"),
    ],
)
def test_top_folders_may_say_more_than_the_split(train: str, val: str, test: str | None) -> None:
    folders = {train: "train", val: "val"} | ({test: "test"} if test else {})
    items = tuple(array_item(f"{folder}/{n}") for folder in folders for n in range(2))
    chosen = plan(Listing("x", items), DEFAULT_FRACTIONS, {})
    assert chosen.fixed == {item.source: folders[item.source.split("/")[0]] for item in items}
    shown = ", ".join(f"{split} by {folder}" for folder, split in folders.items())
    assert chosen.rule == f"by top folder ({shown})"


@pytest.mark.parametrize("folder", ["training", "latest", "tests", "mytrain", "DIV2K"])
def test_folders_that_only_look_like_a_split_are_none(folder: str) -> None:
    items = (array_item("train/1"), array_item(f"{folder}/2"))
    assert plan(Listing("x", items), DEFAULT_FRACTIONS, {}).fixed is None


def test_all_clips_of_a_source_are_in_one_split(pack_items: Callable) -> None:
    items = [
        array_item(
            f"film{n}/{part}", *(noise_clip(f"film{n}/{part}/{c}") for c in range(2)), source=f"film{n}"
        )
        for n in range(12)
        for part in range(2)
    ]
    dataset = pack_items(*items)
    found: dict[str, set[str]] = {}
    for sample in dataset.samples:
        found.setdefault(sample.source, set()).add(sample.split)
    assert len(found) == 12
    assert all(len(splits) == 1 for splits in found.values())
    assert {split for splits in found.values() for split in splits} == {"train", "val", "test"}
    counts = {split: sum(split in splits for splits in found.values()) for split in ("train", "val", "test")}
    text = ", ".join(f"{count} in {split}" for split, count in counts.items())
    assert dataset.description.split_rule.endswith(text)


def test_a_list_may_name_items_but_not_tear_a_source(pack_items: Callable, tmp_path: Path) -> None:
    items = [array_item(f"film{n}/{part}", source=f"film{n}") for n in range(2) for part in range(2)]
    (tmp_path / "train.txt").write_text("film0/0\nfilm0/1")
    (tmp_path / "test.txt").write_text("film1")
    lists = {split: tmp_path / f"{split}.txt" for split in ("train", "test")}
    assert splits_of(pack_items(*items, split_lists=lists)) == {"film0": "train", "film1": "test"}
    (tmp_path / "test.txt").write_text("film1\nfilm0/1")
    with pytest.raises(ValueError, match="'film0' is in train too"):
        pack_items(*items, split_lists=lists, force=True)


def test_a_source_may_fix_the_splits_and_leave_some_out(pack_items: Callable) -> None:
    items = [array_item(name) for name in "abc"]
    listing = {"splits": {"a": "train", "b": "test"}, "split_rule": "by sep_testlist.txt"}
    dataset = pack_items(*items, listing=listing)
    assert splits_of(dataset) == {"a": "train", "b": "test"}
    assert dataset.description.split_rule == "by sep_testlist.txt; 1 in train, 0 in val, 1 in test"
    assert dataset.description.rejected == (Rejected("c", "in no split of the source"),)
    with pytest.raises(ValueError, match=r"its own splits .by sep_testlist.txt.*no effect"):
        pack_items(*items, listing=listing, split={"train": 1.0}, out="two")
