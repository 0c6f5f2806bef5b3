"""Evaluation of finished trials and of the bicubic baseline on the held-out clips of their data set."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import torch

from sr import checkpoint
from sr.config import TrialConfig
from sr.data import held_out, open_dataset
from sr.evaluate import (
    ClipPictures,
    crop_names,
    evaluate,
    save_pictures,
    save_png,
    upscale_clips,
    validation_scores,
)
from sr.ladder.records import read_records, stage_folder
from sr.ledger import Ledger, State, Status, open_trial
from sr.lock import exclusive
from sr.models import GENERATORS
from sr.parts import build_generator
from sr.summary import WholeSet
from sr.world import single_process

BASELINE = "bicubic"


def evaluate_trial(folder: Path) -> int:
    """Measures a trial's newest sound checkpoint (its averaged weights) on the test clips; returns their number.

    Writes evaluation.jsonl, summary.json and crops/ of the trial's folder, and to its ledger which checkpoints are damaged.
    Of a ladder, each finished stage that has not been measured yet is, in its own folder.

    Raises:
        ValueError: There is no trial, no sound checkpoint, or no clip to judge it on.
    """
    ledger, config = open_trial(folder)
    # The trial stands for the stage whose checkpoints it shows: what is measured there holds for both.
    shown = ledger.checkpoints.resolve().parent
    stages = [stage_folder(folder, record.stage).resolve() for record in read_records(folder)]
    for stage in stages:
        try:
            if not Ledger(stage).evaluation():
                _evaluate_checkpoint(*open_trial(stage), notes=ledger)
        except ValueError as error:
            if stage == shown:
                raise
            # The trial is judged all the same.
            _note(ledger, ledger.status().step, str(error))
    if shown in stages:
        return _copy_evaluation(Ledger(shown), ledger)
    return _evaluate_checkpoint(ledger, config, notes=ledger)


def _copy_evaluation(source: Ledger, target: Ledger) -> int:
    shutil.copytree(source.folder / "crops", target.folder / "crops", dirs_exist_ok=True)
    summary, rows = source.summary(), source.evaluation()
    assert summary is not None, "written before the rows"
    target.write_summary(summary)
    target.write_evaluation(rows)
    return len(rows)


def _note(ledger: Ledger, step: int, problem: str) -> None:
    ledger.note({"kind": "problem", "step": step, "problem": f"evaluation: {problem}"})


def _evaluate_checkpoint(ledger: Ledger, config: TrialConfig, *, notes: Ledger) -> int:
    """Measures the newest sound checkpoint of a folder; problems are told in the ledger `notes`."""
    damaged: list[str] = []
    state = checkpoint.latest(ledger.checkpoints, on_damaged=damaged.append)
    if state is None:
        raise ValueError(
            "; ".join([f"{ledger.folder}: no sound checkpoint to evaluate; train the trial first", *damaged])
        )
    for problem in damaged:
        _note(notes, state["step"], problem)
    generator = build_generator(config.model, scale=config.scale, seed=config.seed)
    generator.load_state_dict(state["ema"])
    return _evaluate(generator, ledger, config)


def evaluate_baseline(ledger: Ledger, config: TrialConfig, *, command: str) -> int:
    """Measures bicubic enlargement on the test clips and, for the learning curves, on the validation clips.

    Also keeps the LR and HR pictures of the clips, which belong to no trial, in `lr/` and `hr/` of the folder.

    Args:
        ledger: Where to write; created if missing.
        config: Any trial of the sweep: data, degradation and scale are taken from it.
        command: What to record as the repeating command.
    """
    ledger.create(config, command=command)
    generator = GENERATORS[BASELINE](scale=config.scale)
    device = single_process(config.engine.device).device
    dataset = open_dataset(config)
    clips = held_out(dataset, config)
    scores = validation_scores(generator, dataset, clips.val, config, device=device)
    ledger.append({"kind": "validation", "step": 0, "samples": 0, "seconds": 0.0, **scores})
    kept = crop_names(clips.test)
    shown = [clip for clip in clips.test if clip.clip_id in kept]
    for item in upscale_clips(generator, dataset, shown, config, device=device):
        save_png(ledger.folder / "lr" / kept[item.clip.clip_id], item.lr)
        save_pictures(ledger.folder / "hr" / kept[item.clip.clip_id], item.hr, hr=item.hr)
    count = _evaluate(generator, ledger, config)
    ledger.set_status(Status(State.FINISHED, reason="needs no training"))
    return count


def _evaluate(generator: torch.nn.Module, ledger: Ledger, config: TrialConfig) -> int:
    torch.set_num_threads(config.engine.threads)
    device = single_process(config.engine.device).device
    dataset = open_dataset(config)
    clips = held_out(dataset, config).test
    crops = ledger.folder / "crops"
    whole = WholeSet(config)

    def on_clip(item: ClipPictures) -> None:
        whole.see(item.clip.sample.source, lr=item.lr, hr=item.hr, sr=item.sr)

    generator = generator.to(device)
    rows = evaluate(generator, dataset, clips, config, device=device, crops_folder=crops, on_clip=on_clip)
    # The rows last: a trial that has them counts as evaluated.
    ledger.write_summary(whole.summary(rows))
    ledger.write_evaluation(rows)
    return len(rows)


def mark_stopped_early(ledger: Ledger) -> None:
    """Records that the scheduler, not an interruption, ended this trial before its last step."""
    # A process that is only just ending would write its own word over this one.
    with exclusive(ledger.folder, timeout_s=60, what="this trial is being trained"):
        status = ledger.status()
        ledger.set_status(dataclasses.replace(status, state=State.STOPPED_EARLY, reason=stop_reason(status)))


def stop_reason(status: Status) -> str:
    """Says that the scheduler ended a trial, and when."""
    return f"stopped early by ASHA at step {status.step}"
