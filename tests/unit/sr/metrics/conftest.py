from collections.abc import Callable

import pytest
import skimage
import torch

from sr.metrics import METRICS
from sr.resize import bicubic, upscale_bicubic


def moving(size: int, *, frames: int = 2, step: int = 2) -> torch.Tensor:
    """A camera that pans over a photograph: (1, T, 3, size, size) in [0, 1]."""
    picture = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    windows = [picture[:, 20 : 20 + size, 140 + step * t : 140 + step * t + size] for t in range(frames)]
    return torch.stack(windows)[None]


@pytest.fixture(scope="session")
def panning() -> Callable[[str], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """SR by bicubic, HR, LR: clips of two frames, large enough for the metric of that name."""

    def clips(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        size = 168 if METRICS[name].min_side > 60 or METRICS[name].extra else 64
        hr = moving(size)
        lr = bicubic(hr, height=size // 2, width=size // 2)
        return upscale_bicubic(lr, 2), hr, lr

    return clips
