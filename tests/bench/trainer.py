"""The training loop beside two others: same model, loss, optimizer, batches and degradation. Run: python tests/bench/trainer.py

Wall time of one thread for a trial's steps, the trial's start, validations and checkpoints left out of all; median of
interleaved rounds, and the median of each round's ratio. The loop by hand has no averaging of weights, no clipping,
no ledger and no checks; the one in the style of BasicSR (written anew) averages weights, schedules by torch, and
reads each step's losses for its log, as that framework does. Each pair ends with the same weights.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from shards.pack import PackOptions, pack
from sr import checkpoint
from sr.config import TrialConfig, parse_trial
from sr.data import hr_and_lr, open_dataset, open_stream, training_keys
from sr.ledger import Ledger
from sr.parts import build_generator
from sr.schedule import learning_rate
from sr.train import train
from sr.world import single_process
from tests.bench.hardware import described

ROUNDS = 3
STEPS = 12
WORLD = single_process("cpu")


DECAY = 0.999


def config_of(data: Path, *, ema_decay: float) -> TrialConfig:
    """A trial that does nothing but train."""
    return parse_trial(
        {
            "data": {"path": str(data), "patch_size": 96, "threads": 0},
            "model": {"type": "srresnet", "channels": 32, "num_blocks": 4},
            "loss": {"terms": "l1", "calibrate": False},
            "optimizer": {"gradient_clip_norm": None, "ema_decay": ema_decay},
            "training": {
                "steps": STEPS,
                "validate_every": STEPS,
                "checkpoint_every": STEPS,
                "global_batch_size": 8,
            },
            "evaluation": {"max_tiles_per_source": 1},
        }
    )


def by_hand(config: TrialConfig, folder: Path) -> tuple[float, torch.nn.Module]:
    """Seconds and the model of the loop that a researcher would write."""
    ledger = Ledger(folder)
    ledger.create(config, command="bench")
    stream = open_stream(config, open_dataset(config), WORLD, ledger)
    model = build_generator(config.model, scale=config.scale, seed=config.seed)
    optimizer = torch.optim.Adam(model.parameters())
    started = time.perf_counter()
    for step in range(STEPS):
        batch = stream.next_batch()
        hr, lr = hr_and_lr(batch.hr, batch.lr, config, WORLD.device, keys=training_keys(batch, config))
        loss = F.l1_loss(model(lr), hr)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.optimizer, steps=STEPS)
        optimizer.step()
    seconds = time.perf_counter() - started
    stream.close()
    return seconds, model


def in_the_style_of_basicsr(config: TrialConfig, folder: Path) -> tuple[float, torch.nn.Module]:
    """Seconds and the averaged model of a loop with that framework's parts: scheduler, log of losses, average."""
    ledger = Ledger(folder)
    ledger.create(config, command="bench")
    stream = open_stream(config, open_dataset(config), WORLD, ledger)
    model = build_generator(config.model, scale=config.scale, seed=config.seed)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, config.optimizer, steps=STEPS)
    )
    log: dict[str, float] = {}
    started = time.perf_counter()
    for step in range(STEPS):
        batch = stream.next_batch()
        hr, lr = hr_and_lr(batch.hr, batch.lr, config, WORLD.device, keys=training_keys(batch, config))
        optimizer.zero_grad()
        output = model(lr)
        losses = {"l_pix": F.l1_loss(output, hr)}
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        optimizer.step()
        scheduler.step()
        log = {name: value.mean().item() for name, value in losses.items()}
        parameters = dict(model.named_parameters())
        # srloss lets early steps weigh more; else the averages could not be compared.
        decay = min(DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in average.named_parameters():
                value.mul_(decay).add_(parameters[name], alpha=1 - decay)
    seconds = time.perf_counter() - started
    assert log
    stream.close()
    return seconds, average


def by_trainer(config: TrialConfig, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Seconds in steps, and the weights that the trial ends with."""
    ledger = Ledger(folder)
    ledger.create(config, command="bench")
    train(config, world=WORLD, ledger=ledger)
    state = checkpoint.latest(ledger.checkpoints, on_damaged=print)
    assert state is not None
    return state["step_seconds"], state["ema"]


def _ratio(ours: list[float], others: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ours, others, strict=True)), 3)


def main() -> None:
    """Prints one JSON line."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        pack("photos", None, root / "data", PackOptions(), on_progress=lambda _state: None)
        times: dict[str, list[float]] = {"hand": [], "ours": [], "basicsr_style": [], "ours_averaging": []}
        pairs = (
            ("hand", "ours", by_hand, 0.0),
            ("basicsr_style", "ours_averaging", in_the_style_of_basicsr, DECAY),
        )
        for number in range(ROUNDS):
            for name, own, loop, decay in pairs:
                config = config_of(root / "data", ema_decay=decay)
                seconds, model = loop(config, root / f"{name}{number}")
                times[name].append(seconds)
                seconds, weights = by_trainer(config, root / f"{own}{number}")
                times[own].append(seconds)
                # lerp_ rounds otherwise than mul_ and add_ do.
                assert all(
                    torch.allclose(value, weights[name], rtol=1e-5, atol=1e-6 if decay else 0)
                    for name, value in model.state_dict().items()
                )
    print(
        json.dumps(
            {
                "benchmark": "trainer",
                "steps": STEPS,
                **{
                    f"{name}_ms_per_step": round(1e3 * statistics.median(seconds) / STEPS, 2)
                    for name, seconds in times.items()
                },
                "ratio": _ratio(times["ours"], times["hand"]),
                "ratio_to_basicsr_style": _ratio(times["ours_averaging"], times["basicsr_style"]),
                **described(),
            }
        )
    )


if __name__ == "__main__":
    main()
