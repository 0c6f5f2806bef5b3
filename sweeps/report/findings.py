"""What a report knows beside the scores, as plain values: cost, clips, tuning, configurations, rungs."""

from __future__ import annotations

from dataclasses import dataclass

COMPARED, NOT_CHOSEN, STOPPED, FAILED = "compared", "not_chosen", "stopped_early", "failed"
CANCELLED, UNFINISHED, REPEATED = "cancelled", "unfinished", "repeated"
PURPOSES: tuple[str, ...] = (COMPARED, NOT_CHOSEN, STOPPED, FAILED, CANCELLED, UNFINISHED, REPEATED)
"""What device-hours were spent on."""


@dataclass(frozen=True, slots=True)
class CandidateCost:
    """What all trials of one loss took."""

    candidate: str
    outcomes: dict[str, int]
    """State -> number of trials."""
    num_restarts: int
    """Attempts beyond the first of each trial: after a death, a preemption or an interruption."""
    device_hours: float
    """Of all its trials, whatever became of them."""
    repeated: float
    """Of these, spent after the checkpoint from which a later attempt went on."""
    memory_gb: float | None
    """The most that a rank of any of its trials took; None where it was not recorded."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Where the device-hours (ranks x wall seconds of training) of the whole sweep went."""

    shares: dict[str, float]
    """Purpose -> device-hours; what adds up to all of them."""
    by_candidate: tuple[CandidateCost, ...]
    memory_of: str
    """`device` or `process`: whose memory was recorded; empty where none was."""


@dataclass(frozen=True, slots=True)
class ClipScores:
    """The primary metric on every held-out clip, means over seeds; the order of clips is the same for everybody."""

    titles: tuple[str, ...]
    by_name: dict[str, tuple[float, ...]]
    """Loss, or the baseline -> a value for each clip."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A hyperparameter that was tuned."""

    name: str
    """Dotted, as in the sweep file."""
    is_log: bool
    """Whether it is shown on a logarithmic axis."""
    choices: tuple[str, ...]
    """Where its values are no numbers: what they are; the trials then have places in this list."""


@dataclass(frozen=True, slots=True)
class TunedTrial:
    """One trial of a search."""

    candidate: str
    trial_id: str
    values: tuple[float | None, ...]
    """Of each parameter; None where its loss has no such thing."""
    quality: float
    """The last validation of the sweep's metric."""
    is_finished: bool
    is_chosen: bool
    """Whether it stands for its loss in the verdict."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was tuned, and how each trial went."""

    parameters: tuple[Parameter, ...]
    trials: tuple[TunedTrial, ...]


@dataclass(frozen=True, slots=True)
class ConfigDifferences:
    """The keys of the configurations in which losses differ, and only these."""

    keys: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    """Loss -> its value of each key."""


@dataclass(frozen=True, slots=True)
class RungCell:
    """The trials of one loss at one rung."""

    reached: int
    stopped: tuple[str, ...]
    """Settings of the trials that ended here."""
    score: float | None
    """Mean of what they were judged by; None where none got here."""


@dataclass(frozen=True, slots=True)
class Rungs:
    """Asynchronous successive halving, as the ledgers tell it."""

    reduction_factor: int
    steps: tuple[int, ...]
    """Budget of each rung."""
    cells: dict[str, tuple[RungCell, ...]]
    """Loss -> a cell for each rung."""
    finished: dict[str, int]
    """Loss -> trials that came to their end."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it; None where there is nothing to show."""

    cost: Cost | None = None
    clips: ClipScores | None = None
    tuning: Tuning | None = None
    configs: ConfigDifferences | None = None
    rungs: Rungs | None = None
    streams: str = ""
    """Whether the compared trials saw the same data, in a sentence."""
    smallest_p: float | None = None
    """The smallest adjusted p that so many pictures and losses can give."""
