"""Small real data for tests, packed once a session."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from tests.clusters.fixtures import (  # noqa: F401 - known to all tests
    accounting_slurm_cluster,
    pytest_runtest_makereport,
    ray_cluster,
    slurm_cluster,
)

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers give way to everything else (15), so that on a busy machine trials would hardly move on.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of crops of real photographs: 4 to train, 1 to validate, 3 to test."""
    from shards.pack import PackOptions, pack

    root = tmp_path_factory.mktemp("photos")
    crops = {
        "train": [skimage.data.astronaut()[:160, 150:330], skimage.data.coffee()[100:260, 200:380]],
        "val": [skimage.data.chelsea()[40:180, 100:260]],
        "test": [
            skimage.data.chelsea()[160:296, 200:360],
            skimage.data.rocket()[100:240, 250:410],
            np.asarray(skimage.data.camera())[100:240, 180:340],
        ],
    }
    crops["train"] += [crops["train"][0][::-1, :, ::-1], skimage.data.coffee()[200:360, 20:200]]
    for split, images in crops.items():
        for number, image in enumerate(images):
            path = root / "pictures" / split / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(image)).save(path)
    out = root / "packed"
    pack("folder", root / "pictures", out, PackOptions(), on_progress=lambda _state: None)
    return out


@pytest.fixture(scope="session")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of small crops of real photographs: 6 to train, 12 to validate, 4 to test."""
    from shards.pack import PackOptions, pack

    root = tmp_path_factory.mktemp("many_photos")
    whole = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    for split, count, top in (("train", 6, 0), ("val", 12, 96), ("test", 4, 192)):
        for number in range(count):
            photo, left = whole[number % 4], 100 + number // 4 * 96
            path = root / "pictures" / split / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(photo[top : top + 96, left : left + 96])).save(path)
    out = root / "packed"
    pack("folder", root / "pictures", out, PackOptions(), on_progress=lambda _state: None)
    return out


OF_THE_MACHINE = ("attempt", "seconds", "images_per_second", "memory_gb", "device_memory_gb")
"""What rows of two ledgers may differ in though the trainings are one and the same."""


def tiny_trial(photos: Path, **changes: object) -> dict[str, object]:
    """Plain configuration of a trial that trains in a second or two."""
    training = {
        "steps": 12,
        "global_batch_size": 2,
        "validate_every": 4,
        "checkpoint_every": 4,
        "log_every": 2,
    }
    return {
        "data": {"path": str(photos), "patch_size": 32},
        "model": {"type": "espcn", "channels": 8},
        "loss": "l1",
        "optimizer": {"warmup_steps": 2},
        "training": training,
        "evaluation": {"tile_size": 48, "max_tiles_per_source": 2},
        "tracking": {"wandb": "disabled"},
        **changes,
    }


@pytest.fixture
def tiny(photos: Path) -> dict[str, object]:
    """See tiny_trial."""
    return tiny_trial(photos)
