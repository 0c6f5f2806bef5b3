"""Several feature losses on one network, sharing its activations, beside each computing its own. Run: python tests/bench/features.py

Forward and backward of the criterion, wall time of one thread; the median of interleaved rounds, and the median of each
round's ratio. Both ways are first checked to give the same loss and gradient. The network has random weights: time does
not depend on them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sr.losses import LOSSES
from sr.losses.criterion import Criterion
from sr.losses.term import Views
from tests.bench.hardware import described

ROUNDS = 7
BATCH, SIDE = 4, 96
TERMS = {
    "vgg": {"network": "random_vgg", "taps": ["relu1_2", "relu2_2", "relu3_3"]},
    "gram": {"network": "random_vgg"},
    "contextual": {"network": "random_vgg", "taps": ["relu3_2"]},
}


def shared() -> Criterion:
    """All terms on one network object."""
    return Criterion({name: LOSSES[name](**settings) for name, settings in TERMS.items()}, [1.0] * len(TERMS))


def step(criteria: list[Criterion], sr: torch.Tensor, hr: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the sum of criteria."""
    sr = sr.clone().requires_grad_()
    total = torch.stack([criterion(Views(sr, hr))[0] for criterion in criteria]).sum()
    (gradient,) = torch.autograd.grad(total, sr)
    return total.item(), gradient


def main() -> None:
    """Prints one JSON line."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(BATCH, 3, SIDE, SIDE, generator=generator)
    sr = (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
    together = [shared()]
    alone = [Criterion({name: LOSSES[name](**settings)}, [1.0]) for name, settings in TERMS.items()]
    one, other = step(together, sr, hr), step(alone, sr, hr)
    assert abs(one[0] - other[0]) < 1e-4 * abs(other[0])
    assert torch.allclose(one[1], other[1], rtol=1e-3, atol=1e-7)
    seconds: dict[str, list[float]] = {"shared": [], "alone": []}
    for _ in range(ROUNDS):
        for name, criteria in (("shared", together), ("alone", alone)):
            started = time.perf_counter()
            step(criteria, sr, hr)
            seconds[name].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(seconds["shared"], seconds["alone"], strict=True)]
    print(
        json.dumps(
            {
                "benchmark": "features",
                "terms": TERMS,
                "pictures": [BATCH, 3, SIDE, SIDE],
                "shared_ms": round(1e3 * statistics.median(seconds["shared"]), 1),
                "alone_ms": round(1e3 * statistics.median(seconds["alone"]), 1),
                "ratio": round(statistics.median(ratios), 3),
                **described(),
            }
        )
    )


if __name__ == "__main__":
    main()
