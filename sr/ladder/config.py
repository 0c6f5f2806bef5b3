"""The settings of a ladder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sr.section import Section


class Convergence(Section):
    """When a stage has learnt what it can, as its validations show: all of this must hold."""

    window: int = Field(default=5, ge=2)
    """Validations that are compared with as many before them."""
    improvement: float = Field(default=0.01, ge=0)
    """The median of the perceptual loss, and that of the stop rule's quality, got better by less than this share."""
    auc_spread: float = Field(default=0.02, gt=0)
    """The AUC of the discriminator's own judgement has a smaller standard deviation over the window."""


class StopRule(Section):
    """When there is no further stage."""

    is_binding: bool = True
    """false: the rule is evaluated and recorded, but all stages are done: for comparisons at equal budgets."""
    margin: float = Field(default=0.05, gt=0, lt=0.5)
    """Equally good: the 90 % interval of the difference of both networks' AUC lies within plus and minus this."""
    stages_running: int = Field(default=2, ge=1)
    """So many stages in a row must be equally good, or without a gain in quality."""
    nothing_left_auc: float = Field(default=0.55, ge=0.5, lt=1)
    """Nothing is left to tell apart where the best reader's interval reaches down to this."""
    quality: str = ""
    """Metric of `evaluation.validation` in which a stage must gain; empty: `evaluation.best`, or the first."""


class Probe(Section):
    """How networks are read: how well what they see tells super-resolved from real patches of validation pictures."""

    patch_size: int = Field(default=48, ge=16)
    """Side of a patch in HR pixels; smaller validation clips are one patch."""
    patches_per_clip: int = Field(default=8, ge=1)
    """At most; the same places in SR and HR."""
    least_sources: int = Field(default=8, ge=4)
    """With fewer validation pictures (or videos) everything is undecidable."""
    fresh_steps: int = Field(default=1000, ge=0)
    """Updates of a fresh discriminator that is trained on the stage's finished generator, as a ceiling; 0: none."""
    draws: int = Field(default=2000, ge=100)
    """Of the bootstrap over validation pictures."""


class Remedies(Section):
    """What is done about a failure that the detectors find; each is applied once a stage, logged, and kept from then on."""

    patience: int = Field(default=5, ge=1)
    """Validations in a row that must show a failure."""
    too_strong: Literal["none", "r1", "spectral_norm", "update_ratio"] = "r1"
    """The discriminator's AUC is above 0.995 and its share of the gradient below 1 %. `r1`: penalty of gamma 10;
    `update_ratio`: it learns half as often; `spectral_norm`: from the next stage, where the architecture has a `norm`."""
    collapsed: Literal["none", "restart"] = "restart"
    """Its AUC is within 0.05 of chance while a fresh classifier (`probe.fresh_steps`) reaches 0.8. `restart`: new weights."""
    lr_inconsistent: Literal["none", "consistency"] = "consistency"
    """The output, shrunk again, is not the input: PSNR below `least_lr_psnr`; known where the degradation is bicubic_aa.
    `consistency`: a term `lr_consistency`."""
    least_lr_psnr: float = Field(default=35.0, gt=0)
    """In dB."""
    consistency_weight: float = Field(default=1.0, gt=0)
    """Of the term that `lr_inconsistent: consistency` adds."""


class LadderConfig(Section):
    """A training in stages: the discriminator of each becomes the perceptual loss of the next.

    The trial's `loss` is that of stage 0. Later stages exchange its perceptual terms (those that look through a frozen
    feature network; there may be none) for one through the frozen discriminator. `training.steps` is the budget of all stages.
    """

    stages: int = Field(default=5, ge=1)
    """At most."""
    stage_steps: int | None = Field(default=None, ge=1)
    """Most steps of a stage, over which the learning rate's schedule runs; null: the budget divided by `stages`, rounded up."""
    least_stage_steps: int = Field(default=1, ge=1)
    """A stage does not count as converged before; where the budget leaves fewer, no stage begins."""
    next_loss: Literal["discriminator", "same", "random"] = "discriminator"
    """What a later stage looks through. `same`: still stage 0's loss; `random`: an untrained discriminator; both are controls."""
    begin: Literal["scratch", "warm"] = "scratch"
    """Where later stages begin: from the weights of stage 0's beginning, or from those that the stage before ended with."""
    weight: float | None = Field(default=None, gt=0)
    """Of the perceptual term of later stages; null: the sum of those it takes the place of, 1 if there were none."""
    taps: tuple[str, ...] | None = None
    """Of the discriminator; null: all, one behind each stride-2 block."""
    distance: Literal["unit", "l1", "l2"] = "unit"
    """How features are compared; see the loss `perceptual`."""
    calibration: Literal["value", "gradient", "none"] = "value"
    """Scale of later perceptual terms. `value`: at the bicubic output it is worth as much as stage 0's; `gradient`: its
    gradient there is that of L1, as of all calibrated terms; `none`: as it comes."""
    convergence: Convergence = Convergence()
    stop: StopRule = StopRule()
    probe: Probe = Probe()
    remedies: Remedies = Remedies()

    def most_steps(self, budget: int) -> int:
        """Of a stage; stages that all take so many use up the budget, the last one what is left."""
        return self.stage_steps or -(-budget // self.stages)

    @model_validator(mode="after")
    def _fits(self) -> LadderConfig:
        if self.stage_steps is not None and self.least_stage_steps > self.stage_steps:
            raise ValueError(
                f"least_stage_steps: {self.least_stage_steps} is above stage_steps: {self.stage_steps}"
            )
        return self
