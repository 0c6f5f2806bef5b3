"""Frames in windows: none lost, mirrored ends as numpy pads them, few held, recurrent models warmed up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from sr.models import GENERATORS
from sr.models.middle_frame import MiddleFrame
from sr.models.recurrent import Recurrent
from sr.upscale.model import Upscaler, Windows
from sr.upscale.tiles import Tiling
from sr.upscale.windows import Window, around_each, batches, overlapping

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [0, 1, 4, 9])
@pytest.mark.parametrize("size", [1, 4, 20])
def test_batches_hold_each_frame_once(count: int, size: int) -> None:
    windows = list(batches(range(count), size))
    assert [frame for window in windows for frame in window.frames[window.kept]] == list(range(count))
    assert all(len(window.frames) <= size for window in windows)


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_windows_around_each_frame_are_mirrored_at_the_ends(count: int, size: int) -> None:
    padded = np.pad(np.arange(count), size // 2, mode="reflect") if count > 1 else np.zeros(size, int)
    expected = [tuple(padded[i : i + size]) for i in range(count)]
    windows = list(around_each(range(count), size))
    assert [window.frames for window in windows] == expected
    assert all(window.kept == slice(0, 1) for window in windows)


@pytest.mark.parametrize("count", range(0, 14))
@pytest.mark.parametrize(("length", "warm_up"), [(1, 0), (3, 0), (3, 2), (2, 5), (4, 4), (20, 3)])
def test_overlapping_windows_keep_each_frame_once_and_see_their_neighbours(
    count: int, length: int, warm_up: int
) -> None:
    kept: list[int] = []
    for window in overlapping(range(count), length, warm_up):
        inner = window.frames[window.kept]
        kept += inner
        assert all(b == a + 1 for a, b in pairwise(window.frames))
        assert window.frames[0] == max(0, inner[0] - warm_up)
        assert window.frames[-1] == min(count - 1, inner[-1] + warm_up)
    assert kept == list(range(count))


@pytest.mark.parametrize(
    ("cut", "most"),
    [
        (lambda frames: batches(frames, 4), 4),
        (lambda frames: around_each(frames, 5), 3),
        (lambda frames: overlapping(frames, 4, 2), 8),
    ],
)
def test_windows_run_little_ahead_of_what_they_give(
    cut: Callable[[Iterable[int]], Iterator[Window[int]]], most: int
) -> None:
    taken = 0

    def frames() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 101):
            yield taken - 1

    given = 0
    for window in cut(frames()):
        assert taken - given <= most
        given += window.kept.stop - window.kept.start
    assert given == 100


def upscaler(name: str, *, windows: Windows = Windows(), **parameters: object) -> Upscaler:  # noqa: B008
    torch.manual_seed(0)
    return Upscaler(GENERATORS[name](scale=2, **parameters).eval(), 2, name, CPU, Tiling(), windows)


def clip(count: int, height: int = 16, width: int = 18) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def in_one_pass(of: Upscaler, frames: np.ndarray) -> np.ndarray:
    lr = torch.from_numpy(frames).float().div(255).permute(0, 3, 1, 2)
    with torch.no_grad():
        sr = of.generator(lr[None])[0]
    return sr.clamp(0, 1).mul(255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_generator_is_known_for_what_it_takes(name: str) -> None:
    entry = GENERATORS[name]
    assert isinstance(entry, type)
    stand_in = entry.__new__(entry)
    one = Upscaler(stand_in, 2, name, CPU, Tiling(), Windows())
    assert one.takes_clips == issubclass(entry, (Recurrent, MiddleFrame))


def test_frames_by_themselves_are_those_of_one_pass() -> None:
    one, frames = upscaler("espcn", channels=4), clip(7)
    assert np.array_equal(np.stack(list(one.frames(frames))), in_one_pass(one, frames))


@pytest.mark.parametrize("name", ["convgru_srresnet", "basicvsr_lite"])
def test_a_recurrent_model_that_is_warmed_up_on_all_frames_is_as_in_one_pass(name: str) -> None:
    frames = clip(5)
    one = upscaler(name, windows=Windows(2, 8))
    whole = in_one_pass(one, frames)
    assert np.array_equal(np.stack(list(one.frames(frames))), whole)
    cold = upscaler(name, windows=Windows(2, 0))
    for of in (one.generator, cold.generator):  # At the start many of them are bicubic enlargement.
        torch.manual_seed(1)
        for weights in of.parameters():
            torch.nn.init.normal_(weights, std=0.05)
    whole = in_one_pass(one, frames)
    assert np.array_equal(np.stack(list(one.frames(frames))), whole)
    assert not np.array_equal(np.stack(list(cold.frames(frames))), whole)


def test_a_middle_frame_model_gives_each_frame_with_mirrored_ends() -> None:
    one = upscaler("unet_geu", num_frames=3)
    frames = clip(4)
    sr = list(one.frames(frames))
    assert len(sr) == 4
    for i, three in enumerate(([1, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 2])):
        assert np.array_equal(sr[i], in_one_pass(one, frames[three])[0])


def test_sixteen_bits_stay_sixteen_bits() -> None:
    one = upscaler("nearest")
    frame = np.random.default_rng(0).integers(0, 65536, (5, 6, 3)).astype(np.uint16)
    sr = one.picture(frame)
    assert sr.dtype == np.uint16
    assert np.array_equal(sr[::2, 1::2], frame)


def test_a_model_that_gives_no_numbers_is_told() -> None:
    one = upscaler("espcn", channels=4)
    with torch.no_grad():
        next(one.generator.parameters())[0] = float("nan")
    with pytest.raises(ValueError, match="espcn: gives values that are no numbers"):
        one.picture(clip(1)[0])


def test_windows_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of 0 frames"):
        Windows(0, 1)
