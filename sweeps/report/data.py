"""What a report shows, as plain values: `collect` fills it from the run store, `render` draws it.

Nothing here knows where the values come from or what they will look like.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sweeps.report.findings import Findings


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """One evaluation metric as a reader needs to see it."""

    name: str
    """Key in the tables below, e.g. `psnr_y`."""
    label: str
    """Heading, e.g. `PSNR-Y`."""
    unit: str
    """`dB` or empty."""
    higher_is_better: bool
    decimals: int
    convention: str
    """The protocol in one line, e.g. `luma, 8-bit, border 2 px cut`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Paired difference of a candidate to a reference, over the same clips."""

    estimate: Estimate
    p_adjusted: float | None
    """Holm-adjusted p of the exact sign-flip test over source pictures; None where it cannot be computed."""


@dataclass(frozen=True, slots=True)
class OnWholeSet:
    """What the held-out clips show only together; of several seeds the mean of each number."""

    median: float
    """Of the primary metric over clips, as the two percentiles."""
    p5: float
    p95: float
    of_the_mean: float | None
    """Of a PSNR the PSNR of the mean error, else None: far below the mean where a few clips are very bad."""
    rmse: float | None
    """Distortion as in PIRM 2018, on 0..255."""
    region: int | None
    """PIRM's region 1, 2 or 3 of `rmse`; None beyond."""
    told_from_real: Estimate | None
    """AUC of a classifier that tells SR from HR, interval over source pictures; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One loss in the table; all its seeds together. The bicubic baseline is a row of its own."""

    name: str
    """The loss as written in the sweep, e.g. `l1` or `0.8*l1 + 0.2*ssim`; `bicubic` for the baseline."""
    is_baseline: bool
    num_seeds: int
    scores: dict[str, Estimate]
    """Metric name -> mean over seeds and clips, interval over source pictures."""
    seed_scores: dict[str, tuple[float, ...]]
    """Metric name -> one mean per seed."""
    to_baseline: dict[str, Difference]
    """Metric name -> paired difference to bicubic; empty for the baseline."""
    best_on: tuple[str, ...]
    """Metrics on which this row has the best mean of all trained losses."""
    tied_with_best_on: tuple[str, ...]
    """Metrics on which its paired difference to the best row is not distinguishable from zero."""
    train_seconds: float | None
    """Mean wall seconds of training of one trial; None for the baseline."""
    images_per_second: float | None
    """Training throughput in patches per second."""
    on_whole_set: OnWholeSet | None
    """None where no trial recorded it, or not all of them."""
    device_hours: float | None = None
    """Mean device-hours (ranks x wall seconds) of one training; None for the baseline."""
    memory_gb: float | None = None
    """The most that a rank of its trials took; None where it was not recorded."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Validation during the training of one trial."""

    candidate: str
    seed: int
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]
    samples: tuple[int, ...] = ()
    """Training crops consumed by then; empty where it is not known, as the next."""
    device_hours: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Crop:
    """One held-out crop in every version: LR, bicubic, each loss, HR, in this order."""

    title: str
    """Source picture and position, e.g. `chelsea, tile 3`."""
    reason: str
    """Why it is shown, e.g. `losses disagree most here`."""
    images: tuple[tuple[str, bytes], ...]
    """(label, PNG or WebP file); all of the same pixel size but `LR`, which is smaller by the scale."""
    scores: dict[str, float]
    """Label -> value of the primary metric on this crop; absent for LR and HR."""
    name: str = ""
    """What tells it from the other crops of a page, also of one that is written later."""
    kind: Literal["crop", "preview", "frames", "slice"] = "crop"
    """`frames`, `slice`: of a clip over time (see sr.over_time). `preview`: of a validation clip, while training goes on."""
    is_pinned: bool = False
    """Whether the reader asked for it."""
    notes: dict[str, str] = field(default_factory=dict)
    """Label -> what else stands below a version, e.g. `step 400`."""
    files: dict[str, str] = field(default_factory=dict)
    """Label -> path relative to the page, where the pictures lie beside it rather than in it."""


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial, finished or not; failures are never hidden."""

    trial_id: str
    candidate: str
    settings: str
    """What distinguishes it from its siblings, e.g. `seed=0`."""
    state: str
    """`finished`, `stopped_early`, `failed`, `cancelled`, `running`, `pending` or `interrupted`."""
    reason: str
    """Why it ended: `all 400 steps`, `wall-time cap of 20 s at step 311`, the cause of a failure with the log's path, ..."""
    steps: int
    seconds: float
    attempts: int
    stream_hash: str
    """Hash of the (sample, crop) sequence it consumed, first 12 digits."""
    command: str
    """The command that repeats this trial."""


@dataclass(frozen=True, slots=True)
class LadderStage:
    """One finished stage of one trial's ladder."""

    quality: float
    """Mean of the metric over validation clips."""
    discriminator: float
    """AUC of what the discriminator sees."""
    perceptual: float | None
    """AUC of what the perceptual network sees; None where there was none."""
    fresh: float | None
    """AUC of a fresh discriminator; None where none was trained."""


@dataclass(frozen=True, slots=True)
class LadderTrial:
    """One trial's ladder; one whose records are damaged has no stages, and says so in `outcome`."""

    trial_id: str
    settings: str
    stages: tuple[LadderStage, ...]
    outcome: str
    """Where it stands or how it ended, in a sentence."""
    why: str
    """In words, with the numbers; empty where it goes on."""
    findings: tuple[str, ...]
    """Of all stages, each with its stage."""
    command: str
    """The command that shows all of it."""


@dataclass(frozen=True, slots=True)
class CandidateLadders:
    """The ladders of one loss, a trial for each seed."""

    candidate: str
    metric: MetricInfo | None
    """In which quality is told; None while no stage has ended."""
    trials: tuple[LadderTrial, ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything in one report."""

    title: str
    sweep_id: str
    is_running: bool
    verdict: str
    """The answer, one sentence."""
    caveats: tuple[str, ...]
    """What a sceptical reader must know before believing the verdict; may be empty."""
    metrics: tuple[MetricInfo, ...]
    """The first is the primary metric, fixed before the sweep started."""
    distortion_metric: str
    perception_metric: str
    candidates: tuple[CandidateRow, ...]
    """Best first by the primary metric, then the baseline."""
    why_not_told_from_real: str
    """Why nobody has `told_from_real`; empty where somebody has, or nothing was recorded."""
    curve_metric: MetricInfo
    curves: tuple[Curve, ...]
    curve_baseline: float | None
    """The baseline's value of the curve metric on the same validation clips."""
    ladders: tuple[CandidateLadders, ...]
    """Of the losses that climbed one; empty in other sweeps."""
    crops: tuple[Crop, ...]
    trials: tuple[TrialRow, ...]
    facts: tuple[tuple[str, str], ...]
    """(name, value) pairs: data set, fingerprint, degradation, clips, sources, protocol, environment, ..."""
    command: str
    """The command that repeats the sweep."""
    crops_left_out: int = 0
    """Clips of which pictures were kept, but which are not in `crops`."""
    findings: Findings = field(default_factory=Findings)
    """What is known beside the scores."""
