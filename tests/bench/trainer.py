"""The training loop beside a hand-written one: same model, loss, optimizer, batches and degradation. Run: python tests/bench/trainer.py

Wall time of one thread for a trial's steps, the trial's start, validations and checkpoints left out of both; median of
interleaved rounds, and the median of each round's ratio. The hand-written loop has no averaging of weights, no clipping,
no ledger and no checks; both end with the same weights where those are switched off.
"""

from __future__ import annotations

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

ROUNDS = 5
STEPS = 60
WORLD = single_process("cpu")


def config_of(data: Path) -> TrialConfig:
    """A trial that does nothing but train."""
    return parse_trial(
        {
            "data": {"path": str(data), "patch_size": 96, "threads": 0},
            "model": {"type": "srresnet", "channels": 32, "num_blocks": 4},
            "loss": {"terms": "l1", "calibrate": False},
            "optimizer": {"gradient_clip_norm": None, "ema_decay": 0},
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


def by_trainer(config: TrialConfig, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Seconds in steps, and the weights that the trial ends with."""
    ledger = Ledger(folder)
    ledger.create(config, command="bench")
    train(config, world=WORLD, ledger=ledger)
    state = checkpoint.latest(ledger.checkpoints, on_damaged=print)
    assert state is not None
    return state["step_seconds"], state["ema"]


def main() -> None:
    """Prints one JSON line."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        pack("photos", None, root / "data", PackOptions(), on_progress=lambda _state: None)
        config = config_of(root / "data")
        hand: list[float] = []
        ours: list[float] = []
        for number in range(ROUNDS):
            seconds, model = by_hand(config, root / f"hand{number}")
            hand.append(seconds)
            seconds, weights = by_trainer(config, root / f"ours{number}")
            ours.append(seconds)
            assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    print(
        json.dumps(
            {
                "benchmark": "trainer",
                "steps": STEPS,
                "hand_ms_per_step": round(1e3 * statistics.median(hand) / STEPS, 2),
                "ours_ms_per_step": round(1e3 * statistics.median(ours) / STEPS, 2),
                "ratio": round(statistics.median(a / b for a, b in zip(ours, hand, strict=True)), 3),
                **described(),
            }
        )
    )


if __name__ == "__main__":
    main()
