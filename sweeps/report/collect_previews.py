"""What the validation clips look like while training goes on: the newest pictures that each loss has left."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from sweeps.evaluation import BASELINE
from sweeps.report.data import Crop
from sweeps.report.pictures import pixels
from sweeps.spec import PlannedTrial
from sweeps.sweep import Sweep


@dataclass
class _Newest:
    """The pictures of the trial of a loss that has come farthest."""

    trial: PlannedTrial
    step: int
    by_name: dict[str, Path] = field(default_factory=dict)


def collect_previews(sweep: Sweep) -> list[Crop]:
    """A crop for each of the fixed validation clips, with every loss as it was when it last left pictures."""
    newest = _newest(sweep)
    names = sorted({name for found in newest.values() for name in found.by_name})
    return [crop for name in names if (crop := _crop(name, newest, sweep)) is not None]


def _newest(sweep: Sweep) -> dict[str, _Newest]:
    found: dict[str, _Newest] = {}
    for trial in sweep.trials:
        paths = sweep.ledger(trial).previews()
        if not paths:
            continue
        step = int(paths[0].parent.name)
        if trial.candidate not in found or step > found[trial.candidate].step:
            found[trial.candidate] = _Newest(trial, step, {path.name: path for path in paths})
    return found


def _crop(name: str, newest: dict[str, _Newest], sweep: Sweep) -> Crop | None:
    having = {candidate: one for candidate, one in newest.items() if name in one.by_name}
    # They are the same in all trials.
    folder = sweep.ledger(next(iter(having.values())).trial).folder / "previews"
    lr, hr = folder / "lr" / name, folder / "hr" / name
    if not (lr.exists() and hr.exists()):
        return None
    images = [("LR", lr.read_bytes()), (BASELINE, _enlarged(lr.read_bytes(), sweep.trials[0].config.scale))]
    images += [(candidate, one.by_name[name].read_bytes()) for candidate, one in having.items()]
    return Crop(
        title=name.removesuffix(".png"),
        reason="validation clip, while training goes on",
        images=(*images, ("HR", hr.read_bytes())),
        scores={},
        name=f"preview/{name}",
        kind="preview",
        notes={candidate: f"step {one.step}" for candidate, one in having.items()},
    )


@lru_cache(maxsize=64)
def _enlarged(lr: bytes, scale: int) -> bytes:
    """What the baseline makes of a picture, as PNG."""
    import torch
    from PIL import Image

    from sr.data import to_unit
    from sr.metrics import to_8bit
    from sr.models import GENERATORS

    frames = to_unit(pixels(lr).transpose(2, 0, 1)[None, None], torch.device("cpu"))
    levels = to_8bit(GENERATORS[BASELINE](scale=scale)(frames)[0, 0]).mul(255).round().to(torch.uint8)
    out = io.BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(out, "PNG")
    return out.getvalue()
