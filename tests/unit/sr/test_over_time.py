"""Clips as single pictures: the place is where the most moves, found by trying all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sr import evaluate as judging
from sr.config import parse_trial
from sr.data import Clip
from sr.evaluate import ClipPictures, save_pictures
from sr.over_time import Place, frame_strip, names, place_of_motion, slice_over_time
from sr.resize import upscale_bicubic


def clip(frames: int, height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    """Noise that stands still but for one patch."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.rand(1, 3, height, width, generator=generator).repeat(frames, 1, 1, 1)
    still[:, :, 70:82, 20:60] = torch.rand(frames, 3, 12, 40, generator=generator)
    return still


def levels(frames: torch.Tensor) -> np.ndarray:
    return frames.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def test_the_place_is_the_window_and_row_that_change_most() -> None:
    frames = clip(5, 100, 90)
    place = place_of_motion(frames)
    weights = np.array([65.481, 128.553, 24.966]) / 255
    change = np.abs(np.diff(levels(frames).astype(float) @ weights, axis=0)).mean(axis=0)
    sums = {
        (top, left): change[top : top + 64, left : left + 64].sum() for top in range(37) for left in range(27)
    }
    assert sums[place.top, place.left] == pytest.approx(max(sums.values()))
    rows = change[place.top : place.top + 64].sum(axis=1)
    assert place.row == place.top + int(rows.argmax())
    assert 70 <= place.row < 82
    assert (place.height, place.width) == (64, 64)


def test_where_nothing_moves_it_is_the_middle_and_small_clips_are_shown_whole() -> None:
    assert place_of_motion(torch.full((3, 3, 100, 90), 0.5)) == Place(18, 13, 64, 64, 50)
    small = place_of_motion(torch.zeros(2, 3, 40, 90))
    assert (small.top, small.height) == (0, 40)


@pytest.mark.parametrize(("frames", "first"), [(2, 0), (7, 0), (8, 0), (12, 2)])
def test_strips_and_slices_hold_the_very_pixels(frames: int, first: int) -> None:
    moving = clip(frames, 90, 80, seed=1) * 1.2 - 0.1
    place = Place(8, 4, 64, 64, 75)
    strip, row = frame_strip(moving, place), slice_over_time(moving, place)
    expected = levels(moving)
    shown = min(frames, 7)
    assert strip.shape == (64, 64 * shown, 3)
    for n in range(shown):
        assert np.array_equal(strip[:, 64 * n : 64 * (n + 1)], expected[first + n, 8:72, 4:68])
    times = 64 // frames
    assert row.shape == (times * frames, 80, 3)
    assert np.array_equal(row, expected[:, 75].repeat(times, axis=0))


def test_all_versions_of_a_clip_show_the_same_place_and_stills_none(tmp_path: Path) -> None:
    hr = clip(4, 100, 90)[None]
    sr = hr.clone()
    sr[0, :, :, :10] = torch.rand(4, 3, 10, 90)
    save_pictures(tmp_path / "hr" / "a.0.png", hr, hr=hr)
    save_pictures(tmp_path / "sr" / "a.0.png", sr, hr=hr)
    for path in names("a.0.png").values():
        assert (tmp_path / "hr" / path).read_bytes() == (tmp_path / "sr" / path).read_bytes()
    save_pictures(tmp_path / "still" / "a.0.png", hr[:, :1], hr=hr[:, :1])
    assert [path.name for path in (tmp_path / "still").iterdir()] == ["a.0.png"]


def test_an_evaluation_keeps_clips_over_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hr = clip(3, 96, 64)[None]
    lr = hr[..., ::2, ::2]
    sr = upscale_bicubic(lr[0], 2)[None]
    sample = type("Sample", (), {"key": "a", "source": "a.mp4"})()
    one = Clip("a.mp4#0", sample, 0, 0, 96, 64)
    monkeypatch.setattr(judging, "upscale_clips", lambda *_a, **_k: iter([ClipPictures(one, lr, hr, sr)]))
    config = parse_trial({"scale": 2, "data": {"path": "nowhere"}, "loss": "l1"})
    judging.evaluate(
        torch.nn.Identity(), None, [one], config, device=torch.device("cpu"), metrics=("psnr_y",), crops_folder=tmp_path
    )  # fmt: skip
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a.0.png"]
    place = place_of_motion(hr[0])
    for kind, expected in (("frames", frame_strip(sr[0], place)), ("slice", slice_over_time(sr[0], place))):
        assert np.array_equal(np.asarray(Image.open(tmp_path / names("a.0.png")[kind])), expected)
