"""The configuration of one trial: parsed once, at the edge, into a frozen and complete `TrialConfig`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sr.configfile import ConfigError, validate
from sr.ladder.config import LadderConfig
from sr.section import Component, Section


class Term(Component):
    """One weighted term of a loss."""

    weight: float = 1.0
    """Factor of this term in the sum."""
    calibration: float | None = Field(default=None, gt=0)
    """A factor that takes the place of the measured one; null: measured if `loss.calibrate` says so."""


class LossConfig(Section):
    """A loss is a weighted list of terms."""

    name: str = Field(default="", max_length=120)
    """For tables and charts, where the sum would be long; not part of the fingerprint."""
    terms: tuple[Term, ...] = Field(min_length=1)
    """The terms; the short form is a sum such as `0.8*l1 + 0.2*ssim`."""
    calibrate: bool = True
    """Scale each term so that its gradient RMS at the bicubic output equals that of L1: only then are weights
    comparable between losses, and the optimizer sees gradients of one size whatever the loss."""

    @field_validator("name")
    @classmethod
    def _is_readable(cls, name: str) -> str:
        if not name.isprintable():
            # One that turns the direction of writing would turn a verdict around.
            raise ValueError("holds characters that cannot be seen; use letters, digits, signs and spaces")
        return name


class DataConfig(Section):
    """The data a trial learns from."""

    path: str
    """Folder or URL (https, s3) of a packed data set (made by: srloss shard pack)."""
    fingerprint: str = ""
    """Fingerprint of the data set; filled in when the trial is made, and checked when it starts."""
    seed: int = Field(ge=0)
    """Seed of the order of samples, crops and flips; the trial's seed unless given."""
    patch_size: int = Field(default=96, ge=16)
    """Side of a training crop of the HR picture, in pixels."""
    augment: bool = True
    """Flips and quarter turns at random."""
    threads: int = Field(default=2, ge=0)
    """Threads that read and decode ahead of the training; 0: none. Over a network at least 16."""
    on_damage: Literal["raise", "substitute"] = "raise"
    """What to do about a damaged clip: stop, or take another one in its place (the same in all trials) and say so."""
    damage_budget: float = Field(default=0.001, ge=0, le=1)
    """Share of the training clips that may be damaged before the trial stops in spite of "substitute"."""


class OptimizerConfig(Section):
    """Adam, clipped, with warm-up and a decay, and an average of the weights."""

    learning_rate: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    """Added to the gradient as this times the weight (Adam's L2)."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps over which the rate rises linearly to `learning_rate`."""
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    """After the warm-up: half a cosine down to `final_fraction`; nothing; or times `step_factor` at each of `milestones`."""
    final_fraction: float = Field(default=0.01, ge=0, le=1)
    """cosine: the rate at the last step, as a fraction of `learning_rate`."""
    milestones: tuple[int, ...] = ()
    """steps: the updates at which the rate falls."""
    step_factor: float = Field(default=0.1, gt=0, le=1)
    """steps: what the rate is multiplied with at each milestone."""
    gradient_clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient of all parameters together; null leaves it alone."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Decay per step of the averaged weights that are validated, evaluated and exported; 0 keeps the last ones."""


class AdversarialConfig(Section):
    """The generator's opponent. Used where the loss has a gan_* term, and left out of every other trial."""

    discriminator: Component
    """Architecture and its parameters; without batch norm unless asked for by name."""
    start_step: int = Field(default=0, ge=0)
    """Length of the pixel phase: before this step the discriminator neither learns nor is asked."""
    ramp_steps: int = Field(default=0, ge=0)
    """Steps over which the weight of the adversarial terms rises linearly from 0 to 1, the discriminator learning."""
    pixel_loss: LossConfig | None = None
    """What the generator minimises in the pixel phase (SRGAN: mse); null: the loss without its adversarial terms."""
    learning_rate_factor: float = Field(default=1.0, gt=0)
    """The discriminator's rate as a multiple of the generator's, all along its schedule."""
    betas: tuple[float, float] | None = None
    """Of the discriminator's Adam; null: the generator's."""
    gradient_clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the discriminator's gradient; null leaves it alone."""
    updates_per_step: int = Field(default=1, ge=1)
    """Updates of the discriminator in a step that has any; all on the generator's batch, so that streams stay equal."""
    update_every: int = Field(default=1, ge=1)
    """It learns in one of so many steps."""
    skip_above_accuracy: float | None = Field(default=None, gt=0.5, le=1)
    """It does not learn while its running accuracy is above this; null: it always does."""
    r1_gamma: float = Field(default=0.0, ge=0)
    """Weight of the penalty on its gradient at real pictures (10 is usual); 0: none."""
    r1_every: int = Field(default=16, ge=1)
    """The penalty is computed in one of so many updates, and so much stronger."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay per update of the averaged discriminator that is saved as a feature network."""


class TrainingConfig(Section):
    """How long, how many at once, and how often to look."""

    steps: int = Field(default=2000, ge=1)
    """Optimizer updates of the generator."""
    global_batch_size: int = Field(default=16, ge=1)
    """Crops per step, over all ranks."""
    accumulation_steps: int = Field(default=1, ge=1)
    """Parts in which each rank works through its share of a step, to save memory. What looks at a batch as a whole (batch
    norm, relativistic averages) sees the parts."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Wall-time cap of training; a trial that meets it ends early and says so. null: no cap."""
    validate_every: int = Field(default=200, ge=1)
    """Steps between validations (also what early stopping sees)."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between checkpoints; one goes with every validation as well."""
    log_every: int = Field(default=20, ge=1)
    """Steps between rows of the ledger."""
    keep_checkpoints: int = Field(default=2, ge=2)
    """Newest checkpoints kept, besides the best; at least two, so that a damaged one has a predecessor."""


class EvaluationConfig(Section):
    """How finished models are judged: on clips, which are tiles grouped by source picture."""

    tile_size: int = Field(default=144, ge=32)
    """Side of a tile in HR pixels; smaller pictures are one tile."""
    max_tiles_per_source: int = Field(default=4, ge=1)
    """Tiles of one picture, spread evenly over it, so that no large picture dominates."""
    metrics: tuple[str, ...] = Field(default=("psnr_y", "ssim_y", "haarpsi", "gmsd"), min_length=1)
    """What is measured on each held-out clip (srloss config parts metrics); a sweep adds what its verdict is drawn on."""
    validation: tuple[str, ...] = Field(default=("psnr_y", "ssim_y"), min_length=1)
    """What each validation measures, as `val/NAME`; a sweep adds what it tunes on."""
    best: str = ""
    """The metric of `validation` by which `checkpoints/best.pt` is chosen; empty: the first. A sweep's is what it tunes on."""


class EngineConfig(Section):
    """How a trial computes. Of all this only `precision` is part of the fingerprint: the rest changes the last bits."""

    type: Literal["auto", "single", "ddp", "deepspeed"] = "auto"
    """auto: one process by itself, several by DDP. deepspeed: ZeRO, which spreads optimizer, gradients and weights."""
    ranks: int = Field(default=1, ge=1)
    """Processes of a trial, one per GPU; `training.global_batch_size` is divided among them."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """deepspeed: what is spread over the ranks: 0 nothing, 1 optimizer state, 2 also gradients, 3 also weights."""
    offload_optimizer: bool = False
    """deepspeed from stage 1: keep the optimizer's state in the memory of the machine."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the networks' forward and backward passes; weights, optimizer and losses stay fp32. fp16 is for GPUs."""
    channels_last: Literal["auto"] | bool = "auto"
    """Memory layout of convolutions; auto: in half precision on a GPU."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile of the generator; auto: of single-frame networks in long trials on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=1, ge=1)
    """CPU threads of each rank; on a CPU results are bit-identical only for an equal number of threads and ranks."""
    timeout_s: float = Field(default=300.0, gt=0)
    """How long ranks wait for one that does not come before they name it and give up."""

    @model_validator(mode="after")
    def _fits(self) -> EngineConfig:
        if self.type == "single" and self.ranks > 1:
            raise ValueError(
                f"ranks: {self.ranks}, but type 'single' is one process; use type ddp or deepspeed"
            )
        if self.precision == "fp16" and self.type == "deepspeed":
            raise ValueError("precision: fp16 does not go with deepspeed here; use bf16, or type ddp")
        if self.compile is True and self.type == "deepspeed":
            raise ValueError("compile: true does not go with deepspeed here; use auto, or type ddp")
        if self.offload_optimizer and (self.type != "deepspeed" or self.zero_stage == 0):
            raise ValueError("offload_optimizer: has an effect only with type deepspeed from zero_stage 1")
        return self


class TrackingConfig(Section):
    """Where results go besides the ledger."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online where W&B answers within 3 s and takes this machine's API key, else offline, for the whole sweep. offline:
    runs are written to disk without any network; `srloss sync` sends them later."""
    project: str = Field(default="srloss", min_length=1, max_length=128, pattern=r"^[^/\\#?%:.][^/\\#?%:]*$")
    entity: str | None = None
    """The W&B team or user; null: the default of the API key."""
    finish_timeout_s: float = Field(default=60.0, ge=0)
    """How long the end may take while W&B gets what it has not got yet; the rest waits for `srloss sync`."""
    preview_clips: int = Field(default=4, ge=0, le=16)
    """Validation clips whose pictures are kept at every validation; also without W&B."""


class TrialConfig(Section):
    """Everything that decides the result of one trial."""

    name: str = ""
    """For people; not part of the fingerprint."""
    seed: int = Field(default=0, ge=0)
    """Seed of the initial weights."""
    scale: int = Field(default=2, ge=2, le=8)
    """Upscaling factor."""
    data: DataConfig
    degradation: Component
    model: Component
    loss: LossConfig
    adversarial: AdversarialConfig | None = None
    ladder: LadderConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    engine: EngineConfig = EngineConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def losses(self) -> tuple[LossConfig, ...]:
        """All that the generator minimises at some time: the loss, and that of the pixel phase where it has its own."""
        own = self.adversarial.pixel_loss if self.adversarial is not None else None
        return (self.loss,) if own is None else (self.loss, own)

    @model_validator(mode="after")
    def _sizes_fit(self) -> TrialConfig:
        for name, size in (
            ("data.patch_size", self.data.patch_size),
            ("evaluation.tile_size", self.evaluation.tile_size),
        ):
            if size % self.scale:
                nearest = max(self.scale, round(size / self.scale) * self.scale)
                raise ValueError(
                    f"{name}: {size} is not a multiple of scale {self.scale}; nearest: {nearest}"
                )
        check_division(self, self.engine.ranks)
        best = self.evaluation.best
        if best and best not in self.evaluation.validation:
            raise ValueError(
                f"evaluation.best: '{best}' is not measured by validations; add it to evaluation.validation"
            )
        return self

    @model_validator(mode="after")
    def _ladder_fits(self) -> TrialConfig:
        ladder = self.ladder
        if ladder is None:
            return self
        quality = ladder.stop.quality
        if quality and quality not in self.evaluation.validation:
            raise ValueError(
                f"ladder.stop.quality: '{quality}' is not measured by validations; add it to evaluation.validation"
            )
        if ladder.least_stage_steps > self.training.steps:
            raise ValueError(
                f"ladder.least_stage_steps: {ladder.least_stage_steps} is above training.steps: {self.training.steps}, "
                "the budget of all stages; raise that"
            )
        if ladder.calibration == "gradient" and not self.loss.calibrate:
            raise ValueError(
                "ladder.calibration: 'gradient' needs loss.calibrate; set that, or calibration: value"
            )
        return self


def check_division(config: TrialConfig, ranks: int) -> None:
    """Checks that a step's crops can be divided among ranks and their parts of a step.

    Raises:
        ValueError: They cannot; names the nearest possible batch sizes.
    """
    size, parts = config.training.global_batch_size, config.training.accumulation_steps
    if size % (ranks * parts):
        below = size // (ranks * parts) * ranks * parts
        nearest = " or ".join(str(n) for n in (below, below + ranks * parts) if n)
        divided = f"{ranks} rank{'s' * (ranks > 1)}" + (f" in {parts} parts each" if parts > 1 else "")
        raise ValueError(
            f"training.global_batch_size: {size} cannot be divided among {divided}; nearest possible: {nearest}"
        )


# What cannot change the result: names, places, and how often we look or save.
_NOT_IN_FINGERPRINT: Mapping[str, frozenset[str]] = {
    "data": frozenset({"path", "threads"}),
    "loss": frozenset({"name"}),
    "training": frozenset({"log_every", "checkpoint_every", "keep_checkpoints"}),
    "evaluation": frozenset({"best"}),
    "engine": frozenset(EngineConfig.model_fields) - {"precision"},
}


def parse_trial(data: Mapping[str, Any]) -> TrialConfig:
    """Returns the complete configuration for plain data as read from YAML.

    Short forms are written out: `loss: 0.8*l1 + 0.2*ssim`, `model: espcn`, a missing `data.seed`.

    Raises:
        ConfigError: Something is unknown, missing, of the wrong type or out of range.
    """
    # Here, because the tables import torch and reading `--help` must not.
    from sr import short_forms
    from sr.degrade import complete_degradation

    full = json.loads(json.dumps(dict(data)))
    given = {"degradation": "bicubic_aa", "model": "espcn", "loss": None, "adversarial": None} | full
    faults: list[str] = []
    written_out: tuple[tuple[str, Callable[[], object], object], ...] = (
        (
            "degradation",
            lambda: complete_degradation(given["degradation"], "degradation"),
            {"type": "bicubic_aa"},
        ),
        ("model", lambda: short_forms.model(given["model"]), {"type": "espcn"}),
        ("loss", lambda: short_forms.loss(given["loss"]), {"terms": [{"type": "l1"}]}),
        ("adversarial", lambda: short_forms.adversarial(given["adversarial"], full["loss"]), None),
        ("ladder", lambda: short_forms.ladder(full.get("ladder"), full["loss"]), None),
    )
    for key, write_out, fallback in written_out:
        try:
            full[key] = write_out()
        except ConfigError as error:
            faults += error.faults
            full[key] = fallback
    if isinstance(full.get("data"), dict):
        full["data"].setdefault("seed", full.get("seed", 0))
    faults += short_forms.unknown_metrics(full.get("evaluation"))
    if secrets := _secrets(full.get("tracking")):
        raise ConfigError(secrets)
    try:
        config = validate(TrialConfig, full)
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults]) from None
    if faults:
        raise ConfigError(faults)
    return config


def to_plain(config: TrialConfig) -> dict[str, Any]:
    """The configuration as plain values; `parse_trial` of it gives an equal configuration."""
    return config.model_dump(mode="json")


def _secrets(tracking: object) -> list[str]:
    """What somebody has written into the tracking section that belongs in no file: configurations are shown and copied."""
    names = tracking if isinstance(tracking, Mapping) else ()
    return [
        f"tracking.{name}: an API key is never read from a configuration, which is kept and shown with the results; remove it, "
        "and make a new one if others have seen it; then: wandb login, or export WANDB_API_KEY=..."
        for name in names
        if any(word in str(name).lower() for word in ("key", "token", "secret", "password"))
    ]


def fingerprint(config: TrialConfig) -> str:
    """Ten hex digits that name a trial: equal for configurations with the same result, else different.

    It names the trial's folder, its W&B run, what resumes it, and what would be a duplicate of it.
    """
    plain = to_plain(config)
    for key in ("name", "tracking"):
        del plain[key]
    for section, keys in _NOT_IN_FINGERPRINT.items():
        for key in keys:
            del plain[section][key]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:10]
