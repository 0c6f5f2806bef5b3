"""A data set of pairs: the low-resolution pictures are read, cut where the others are, and never made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from shards.manifest import load
from shards.pack import PackOptions, pack
from shards.stream import Stream
from sr.config import parse_trial
from sr.data import held_out, open_dataset
from sr.evaluate import upscale_clips
from sr.ledger import Ledger, State
from sr.models import GENERATORS
from sr.train import train
from sr.world import single_process
from tests.conftest import tiny_trial


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of which the smaller one is every second pixel: no degradation of this project makes that."""
    root = tmp_path_factory.mktemp("pairs")
    photo = skimage.data.astronaut()
    for number in range(6):
        hr = photo[40 * number : 40 * number + 97 + number, 100 : 100 + 120 - number]
        hr = hr[: hr.shape[0] // 2 * 2, : hr.shape[1] // 2 * 2]
        split = "train" if number < 4 else "val" if number < 5 else "test"
        for name, pixels in (("HR", hr), ("LR", hr[::2, ::2])):
            path = root / "set" / name / f"{split}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    lists = {}
    for split in ("train", "val", "test"):
        lists[split] = root / f"{split}.txt"
        names = sorted(path.name for path in (root / "set" / "HR").glob(f"{split}_*"))
        lists[split].write_text("\n".join(names))
    out = root / "packed"
    pack("paired", root / "set", out, PackOptions(split_lists=lists, jobs=1), on_progress=lambda _state: None)
    return out


@pytest.mark.parametrize("cache_bytes", [0, 2**24])
@pytest.mark.parametrize("patch_size", [32, 112])
def test_both_pictures_are_cut_and_turned_alike(pairs: Path, cache_bytes: int, patch_size: int) -> None:
    dataset = load(pairs)
    assert dataset.description.lr_scale == 2
    stream = Stream(
        dataset,
        data_seed=1,
        global_batch_size=4,
        patch_size=patch_size,
        augment=True,
        paired=True,
        cache_bytes=cache_bytes,
    )
    for _ in range(8):
        batch = stream.next_batch()
        assert batch.lr is not None
        assert batch.lr.shape == (4, 1, 3, patch_size // 2, patch_size // 2)
        for hr, lr in zip(batch.hr, batch.lr, strict=True):
            # Turned, "every second pixel" may begin at the second; padded, it holds only where there is a picture.
            phases = [hr[..., y::2, x::2] for y in (0, 1) for x in (0, 1)]
            agreement = max((phase == lr).mean() for phase in phases)
            assert agreement == 1 if patch_size == 32 else agreement > 0.8


def test_a_trial_trains_and_is_judged_on_the_given_pictures(pairs: Path, tmp_path: Path) -> None:
    config = parse_trial(tiny_trial(pairs, degradation="given"))
    ledger = Ledger(tmp_path / "trial")
    ledger.create(config, command="test")
    assert train(config, world=single_process("cpu"), ledger=ledger).state is State.FINISHED
    dataset = open_dataset(config)
    clips = held_out(dataset, config).test
    bicubic = GENERATORS["bicubic"](scale=2)
    for item in upscale_clips(bicubic, dataset, clips, config, device=torch.device("cpu")):
        assert torch.equal(item.lr, item.hr[..., ::2, ::2])


def test_what_the_data_set_lacks_is_said(pairs: Path, photos: Path) -> None:
    with pytest.raises(
        ValueError, match=r"degradation: 'given'.*has no LR pictures of its own.*shard pack paired"
    ):
        open_dataset(parse_trial(tiny_trial(photos, degradation="given")))
    with pytest.raises(ValueError, match="has LR pictures of scale 2, not 4"):
        open_dataset(parse_trial(tiny_trial(pairs, degradation="given", scale=4)))
    with pytest.raises(ValueError, match="degradation"):
        parse_trial(tiny_trial(pairs, degradation={"type": "given", "sigma": 1}))
    with pytest.raises(ValueError, match="no multiple of the data set's own scale 2; nearest: 32"):
        Stream(load(pairs), data_seed=0, global_batch_size=1, patch_size=33, augment=False, paired=True)
    with pytest.raises(ValueError, match=r"4 of 4 clips of split 'train' have no low-resolution partners"):
        Stream(load(photos), data_seed=0, global_batch_size=1, patch_size=32, augment=False, paired=True)
