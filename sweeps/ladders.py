"""What has to be said beside a verdict of the ladders in it, in few lines: one for each kind of remark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sr.ladder.records import Outcome, StageRecord

_UNSHOWN = {
    Outcome.UNDECIDABLE: "ended undecidable at this sample size: whether discriminator and perceptual network are equally good "
    "cannot be said with {sources} validation pictures.",
    Outcome.BUDGET: "ended with their budget: that discriminator and perceptual network had become equally good was not shown.",
}


@dataclass(frozen=True, slots=True)
class Climb:
    """One ladder of a sweep."""

    records: Sequence[StageRecord]
    """Of its stages, at least one."""
    steps: int
    """That it took in all."""
    budget: int
    """Steps that it had."""
    met_wall_time_cap: bool


def remarks(ladders: Mapping[str, Sequence[Climb]], num_compared: int) -> list[str]:
    """One line for ladders that ended early, and one for each way in which ladders ended without showing their goal.

    Args:
        ladders: Name of a loss to its ladders, one for each seed.
        num_compared: Trials behind the verdict, others than ladders included.
    """
    everyone = [climb for climbs in ladders.values() for climb in climbs]
    # What time cut off is told of all trials alike.
    early = [climb for climb in everyone if climb.steps < climb.budget and not climb.met_wall_time_cap]
    found: list[str] = []
    if early:
        reasons = Counter(_outcome(climb).value.replace("_", " ") for climb in early)
        found.append(
            f"{len(early)} of {num_compared} compared trials ended their ladder before the budget of {early[0].budget} steps "
            f"({', '.join(f'{reason}: {count}' for reason, count in reasons.items())}), so budgets were not equal in steps; "
            "ladder.stop.is_binding: false and ladder.least_stage_steps as large as stage_steps make them so."
        )
    for outcome, words in _UNSHOWN.items():
        so_ended = {
            name: sum(_outcome(climb) is outcome for climb in climbs) for name, climbs in ladders.items()
        }
        named = [f"'{name}' ({n} of {len(ladders[name])} seeds)" for name, n in so_ended.items() if n]
        if named:
            sources = min(
                climb.records[-1].reading.num_sources for climb in everyone if _outcome(climb) is outcome
            )
            found.append(f"The ladders of {', '.join(named)} {words.format(sources=sources)}")
    return found


def _outcome(climb: Climb) -> Outcome:
    last = climb.records[-1]
    # Without a decision it was the stage itself that ended the ladder.
    return last.decision or last.ended
