"""A sweep on disk that a test lets grow: its ledgers are written as trials write them, only nobody trains."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sr.data import held_out, open_dataset
from sr.evaluate import evaluate
from sr.ledger import Ledger, State, Status
from sr.lock import exclusive
from sweeps.evaluation import BASELINE, evaluate_baseline
from sweeps.spec import parse_sweep
from sweeps.sweep import Sweep, create
from tests.conftest import tiny_trial

STEPS = 100


class _Blurred(torch.nn.Module):
    """Enlarges without a blur or with one: stands for a loss that is better or worse."""

    def __init__(self, scale: int, mode: str) -> None:
        super().__init__()
        self._scale, self._mode = scale, mode

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        frames = torch.nn.functional.interpolate(
            lr.flatten(0, 1), scale_factor=self._scale, mode=self._mode, align_corners=False
        )
        return frames.clamp(0, 1)[None]


class GrowingSweep:
    """See above. Trials are named by their place in the plan."""

    def __init__(
        self, photos: Path, store: Path, *, losses: list[str], seeds: int = 1, **changes: object
    ) -> None:
        training = {"steps": STEPS, "global_batch_size": 2, "validate_every": 10, "max_seconds": 500}
        data = {
            "name": "growing",
            "parameters": {"loss": losses, "seed": list(range(seeds))},
            "trial": {
                **tiny_trial(photos, training=training),
                "evaluation": {"tile_size": 48, "max_tiles_per_source": 1, "metrics": ["psnr_y", "ssim_y"]},
            },
            **changes,
        }
        self.store = store
        self.sweep: Sweep = create(
            parse_sweep(data, where="test"), store=store, command="srloss sweep test.yaml"
        )

    @property
    def sweep_id(self) -> str:
        """Its id."""
        return self.sweep.folder.sweep_id

    @contextmanager
    def driven(self) -> Iterator[None]:
        """As if a driver ran it."""
        with exclusive(self.sweep.folder.path, timeout_s=5, what="this sweep is being run"):
            yield

    def baseline(self) -> None:
        """Evaluates the baseline."""
        evaluate_baseline(self.sweep.folder.baseline(BASELINE), self.sweep.trials[0].config, command="test")

    def ledger(self, number: int) -> Ledger:
        """Of one of its trials, in its first attempt."""
        ledger = self.sweep.ledger(self.sweep.trials[number])
        ledger.attempt = 1
        return ledger

    def begin(self, number: int) -> None:
        """A trial starts."""
        ledger = self.ledger(number)
        ledger.append({"kind": "attempt", "step": 0})
        ledger.set_status(Status(State.RUNNING, attempt=1))
        ledger.beat("starting")

    def validate(self, number: int, step: int, quality: float) -> None:
        """A trial comes to a validation."""
        ledger, seconds = self.ledger(number), step / 5
        common = {"step": step, "seconds": seconds, "samples": 2 * step}
        ledger.append({"kind": "train", "loss": 1 / step, "images_per_second": 10.0, **common})
        ledger.append({"kind": "validation", "val/psnr_y": quality, **common}, sync=True)
        ledger.set_status(Status(State.RUNNING, step=step, seconds=seconds, attempt=1))
        ledger.beat(f"step {step + 1}: reading")

    def preview(self, number: int, step: int, shade: int) -> None:
        """A trial keeps a picture of a validation clip."""
        out = io.BytesIO()
        ramp = np.linspace(0, shade, 48, dtype=np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
        Image.fromarray(np.ascontiguousarray(ramp)).save(out, format="PNG")
        for kind in ("hr", "lr", "sr"):
            self.ledger(number).write_previews(kind, step, {"photo.png": out.getvalue()})

    def finish(self, number: int, *, mode: str = "bicubic") -> None:
        """A trial ends, and is evaluated."""
        ledger, config = self.ledger(number), self.sweep.trials[number].config
        status = Status(
            State.FINISHED,
            reason=f"all {STEPS} steps",
            step=STEPS,
            seconds=STEPS / 5,
            attempt=1,
            stream_hash="0" * 16,
        )
        ledger.set_status(status)
        dataset = open_dataset(config)
        rows = evaluate(
            _Blurred(config.scale, mode),
            dataset,
            held_out(dataset, config).test,
            config,
            device=torch.device("cpu"),
            crops_folder=ledger.folder / "crops",
        )
        ledger.write_evaluation(rows)

    def fail(self, number: int, reason: str) -> None:
        """A trial fails."""
        self.ledger(number).set_status(Status(State.FAILED, reason=reason, step=30, seconds=6.0, attempt=1))
