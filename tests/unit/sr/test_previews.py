"""Pictures of the fixed validation clips."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shards.records import Sample
from sr.data import Clip
from sr.evaluate import ClipPictures
from sr.ledger import Ledger
from sr.previews import Previews
from sr.world import single_process


def clip(name: str, tile: int = 0) -> Clip:
    sample = Sample(key=name, split="val", source=f"{name}.png", shard="a.tar", members=())
    return Clip(f"{name}.png#{tile}", sample, 0, 0, 32, 32)


def pictures(of: Clip, *, scale: int, height: int, width: int, frames: int = 1) -> ClipPictures:
    """Each LR pixel has a colour of its own, and so have its HR pixels; frames are told apart by blue."""
    rows, columns = torch.meshgrid(torch.arange(height) % 256, torch.arange(width) % 256, indexing="ij")
    blue = torch.arange(frames)[:, None, None].expand(frames, height, width)
    lr = torch.stack([rows.expand_as(blue), columns.expand_as(blue), blue], dim=1)[None] / 255
    hr = lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    return ClipPictures(of, lr, hr, 1 - hr)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes()))).astype(int)


def kept(folder: Path, clips: list[Clip], count: int, *, scale: int = 2, **size: Any) -> Ledger:
    ledger = Ledger(folder)
    previews = Previews(clips, count, scale=scale)
    for one in clips:
        previews.see(pictures(one, scale=scale, **({"height": 20, "width": 16} | size)))
    previews.keep(ledger, 7, single_process("cpu"))
    return ledger


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4]), (16, [0, 1, 2, 3, 4])]
)
def test_clips_are_taken_evenly(tmp_path: Path, count: int, chosen: list[int]) -> None:
    ledger = kept(tmp_path, [clip(f"p{number}") for number in range(5)], count)
    wanted = [f"p{number}.0.png" for number in chosen]
    for folder in ("hr", "lr", "00000007"):
        assert names(tmp_path / "previews" / folder) == wanted
    assert [path.name for path in ledger.previews(7)] == wanted
    assert ledger.previews() == ledger.previews(7)
    assert ledger.previews(8) == []


@pytest.mark.parametrize(("num_clips", "count"), [(0, 4), (3, 0)])
def test_without_any_nothing_is_written(tmp_path: Path, num_clips: int, count: int) -> None:
    ledger = kept(tmp_path, [clip(f"p{number}") for number in range(num_clips)], count)
    assert not (tmp_path / "previews").exists()
    assert ledger.previews() == []


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(20, 31), (90, 77), (129, 200), (43, 64)])
def test_lr_and_hr_show_the_same_part_of_at_most_128_pixels(
    tmp_path: Path, scale: int, height: int, width: int
) -> None:
    kept(tmp_path, [clip("p")], 1, scale=scale, height=height, width=width)
    folder = tmp_path / "previews"
    lr, hr, sr = (read(folder / kind / "p.0.png") for kind in ("lr", "hr", "00000007"))
    assert hr.shape == (min(height, 128 // scale) * scale, min(width, 128 // scale) * scale, 3)
    assert (hr == lr.repeat(scale, 0).repeat(scale, 1)).all()
    assert (sr == 255 - hr).all()
    # The middle, to a pixel of LR.
    assert abs(int(lr[0, 0, 0]) - (height - lr.shape[0]) / 2) < 1
    assert abs(int(lr[0, 0, 1]) - (width - lr.shape[1]) / 2) < 1


def test_of_a_clip_the_middle_frame_is_shown(tmp_path: Path) -> None:
    kept(tmp_path, [clip("p")], 1, frames=5)
    assert (read(tmp_path / "previews" / "lr" / "p.0.png")[..., 2] == 2).all()


def test_tiles_of_a_picture_and_keys_in_folders_are_files_of_their_own(tmp_path: Path) -> None:
    clips = [clip("人/ä b"), clip("人/ä b", 1), clip("人_ä b")]
    ledger = kept(tmp_path, clips, 3)
    assert len(ledger.previews(7)) == 3


def test_references_are_written_once_and_a_repeated_step_replaces_its_pictures(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for content in (b"1", b"2"):
        for kind in ("hr", "sr"):
            ledger.write_previews(kind, 7, {"a.png": content})
    assert (tmp_path / "previews" / "hr" / "a.png").read_bytes() == b"1"
    assert [path.read_bytes() for path in ledger.previews(7)] == [b"2"]
    assert names(tmp_path / "previews" / "00000007") == ["a.png"]


def test_each_step_keeps_what_was_seen_since_the_last(tmp_path: Path) -> None:
    ledger, previews = Ledger(tmp_path), Previews([clip("p")], 1, scale=2)
    for step in (5, 10):
        previews.see(pictures(clip("p"), scale=2, height=16, width=16))
        previews.keep(ledger, step, single_process("cpu"))
    # A kill came between the folder and its pictures.
    (tmp_path / "previews" / "00000015").mkdir()
    assert [ledger.previews(step) != [] for step in (5, 10, 15)] == [True, True, False]
    assert ledger.previews() == ledger.previews(10)
