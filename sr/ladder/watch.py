"""Looks on at the validations of a stage: what they say of both networks, whether the stage has converged, what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sr.adversary import Adversary
from sr.evaluate import ClipPictures
from sr.ladder.config import LadderConfig
from sr.ladder.detectors import Failure, Finding, find, needs_fresh
from sr.ladder.examine import fresh_discriminator
from sr.ladder.probe import auc, cut, own_scores, patch_side
from sr.ladder.remedies import applied
from sr.ladder.rules import converged
from sr.ladder.stages import is_bicubic
from sr.losses.term import Views
from sr.metrics import measure
from sr.parts import Parts, build_adversary

_NEW_WEIGHTS = 104_729
"""Between the seeds of a stage's discriminators, where one is replaced."""


class StageWatch:
    """The watch over one stage; see `sr.loop.Watch`.

    What it decides follows from the rows of the stage's ledger, so that it decides the same after an interruption.

    Args:
        parts: The stage in the making.
        ladder: The ladder's settings.
        quality: Name of the metric that the stop rule goes by.
        tell: Told of each failure that is found, on the first rank.
    """

    def __init__(
        self, parts: Parts, ladder: LadderConfig, *, quality: str, tell: Callable[[str], None]
    ) -> None:
        self._parts = parts
        self._ladder = ladder
        self._quality = quality
        self._tell = tell
        self._side = patch_side(parts.validation_clips, ladder.probe.patch_size)
        self._perceptual: dict[str, float] = {}
        self._lr_psnr: dict[str, float] = {}
        self._patches: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._done: set[Failure] = set()

    @property
    def _adversary(self) -> Adversary:
        assert isinstance(self._parts.adversary, Adversary), "a ladder has an opponent"
        return self._parts.adversary

    def see(self, item: ClipPictures) -> None:
        """Measures a clip: the perceptual loss, the fidelity to the input, and patches for the discriminator."""
        parts, clip = self._parts, item.clip.clip_id
        criterion = parts.criterion
        with torch.no_grad():
            values = criterion.values(Views(item.sr, item.hr, item.lr), criterion.perceptual)
        if values:
            self._perceptual[clip] = sum(
                criterion.factor(name) * value.item() for name, value in values.items()
            )
        if is_bicubic(parts.config):
            fidelity = measure(item.sr, item.hr, names=("lr_psnr",), scale=parts.config.scale, lr=item.lr)
            self._lr_psnr[clip] = fidelity["lr_psnr"].item()
        self._patches[clip] = cut(item.sr, item.hr, size=self._side, most=self._ladder.probe.patches_per_clip)

    def scores(self) -> dict[str, float]:
        """Of the averaged generator that was just validated; see `Watch`."""
        parts = self._parts
        row: dict[str, float] = {}
        perceptual, lr_psnr = self._all(self._perceptual), self._all(self._lr_psnr)
        if lr_psnr:
            row["val/lr_psnr"] = float(np.nanmean(lr_psnr))
        if perceptual:
            row["val/perceptual"] = float(np.mean(perceptual))
        if self._adversary.plays(parts.progress.step - 1):
            row["val/auc_discriminator"] = self._judged(self._adversary.ema.module)
            if self._ladder.probe.fresh_steps and self._is_fresh_needed(row):
                fresh = fresh_discriminator(
                    parts.config,
                    parts.ema.module,
                    self._ladder.probe,
                    parts.world,
                    ledger=parts.ledger,
                    at=parts.at,
                )
                row["val/auc_fresh"] = self._judged(fresh)
        for seen in (self._perceptual, self._lr_psnr, self._patches):
            seen.clear()
        return row

    def _is_fresh_needed(self, row: dict[str, float]) -> bool:
        step = self._parts.progress.step
        # An earlier attempt may have been here already.
        before = [known for known in self._rows("validation") if known["step"] < step]
        needed = needs_fresh([*before, {"step": step, **row}], self._ladder.remedies)
        return self._parts.world.gather(needed)[0]

    def _all(self, own: dict[str, float]) -> list[float]:
        """The values of all ranks, in the order of clips."""
        by_clip = {clip: value for shared in self._parts.world.gather(own) for clip, value in shared.items()}
        return [by_clip[clip] for clip in sorted(by_clip)]

    def _judged(self, discriminator: torch.nn.Module) -> float:
        """AUC of a discriminator's own logits on the patches of all ranks."""
        own = {
            clip: tuple(own_scores(discriminator, pictures) for pictures in pair)
            for clip, pair in self._patches.items()
        }
        shared = {clip: pair for ranks in self._parts.world.gather(own) for clip, pair in ranks.items()}
        fake, real = (np.concatenate([shared[clip][i] for clip in sorted(shared)]) for i in (0, 1))
        return auc(real, fake)

    def verdict(self) -> str:
        """Why the stage ends here, or empty; what the detectors find is told, and its remedy applied."""
        parts, ladder = self._parts, self._ladder
        step = parts.progress.step
        found: list[Finding] = []
        ended = ""
        if parts.world.is_first and (validations := self._rows("validation")):
            found = find(validations, self._rows("train"), ladder.remedies, quality=self._quality)
            is_late = step >= ladder.least_stage_steps and validations[-1]["step"] == step
            if is_late:
                ended = converged(validations, ladder.convergence, quality=self._quality)
        found, ended = parts.world.gather((found, ended))[0]
        self._remedy([finding for finding in found if finding.failure not in self._done])
        return ended

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        """Up to this step: an earlier attempt may have come further."""
        return [row for row in self._parts.ledger.rows(kind) if row["step"] <= self._parts.progress.step]

    def _remedy(self, findings: Sequence[Finding]) -> None:
        parts, step = self._parts, self._parts.progress.step
        for finding in findings:
            self._done.add(finding.failure)
            is_new = finding.step == step
            is_in_force = finding.remedy in ("r1", "consistency") and parts.config == applied(
                parts.config, [finding], self._ladder.remedies
            )
            if is_new:
                self._tell(finding.message + " (as it has been before)" * is_in_force)
            if finding.remedy == "restart":
                # At a later step the weights in the checkpoint are the new ones already.
                if is_new:
                    game = parts.criterion.game
                    assert game is not None, "a ladder has an opponent"
                    parts.adversary = build_adversary(
                        parts.config, game, parts.world, seed=parts.config.seed + _NEW_WEIGHTS
                    )
            elif finding.remedy != "spectral_norm":
                # That one changes the architecture, so it waits for the next stage.
                parts.config = applied(parts.config, [finding], self._ladder.remedies)
                assert parts.config.adversarial is not None, "a ladder has an opponent"
                self._adversary.config = parts.config.adversarial
                for name, term in zip(parts.criterion.terms, parts.config.loss.terms, strict=True):
                    parts.criterion.weights[name] = term.weight
