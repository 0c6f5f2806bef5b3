"""What has to be said beside a verdict: where the comparison is incomplete, unequal, or shows less than it seems to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shards import manifest
from sr.ladder.records import read_records
from sr.ledger import State
from sr.statistics import ALPHA, smallest_p
from sweeps.deaths import survived
from sweeps.evaluation import BASELINE
from sweeps.ladders import Climb, remarks
from sweeps.spec import PlannedTrial
from sweeps.suspicions import suspicions

if TYPE_CHECKING:
    from sweeps.sweep import Sweep
    from sweeps.verdict import Verdict

_POPULATIONS = (
    "Each loss is represented by the best trial of a population for each seed, as validated on other pictures; what it cost is "
    "the training of the whole population, equally large for every loss."
)


def caveats(verdict: Verdict, sweep: Sweep) -> list[str]:
    """Why to trust a verdict less than its numbers, a line for each reason.

    Args:
        verdict: Complete but for its words.
        sweep: What it was drawn from.
    """
    found = [_POPULATIONS] * (sweep.config.population is not None and bool(verdict.ranking))
    found += _of_all_trials(sweep)
    return found + (_of_the_compared(verdict, sweep) if verdict.ranking else [])


def _of_all_trials(sweep: Sweep) -> list[str]:
    found = []
    failed = sweep.with_state(State.FAILED)
    if failed:
        found.append(f"{len(failed)} of {len(sweep.trials)} trials failed; the table of trials says why.")
    if cancelled := sweep.with_state(State.CANCELLED):
        losses = ", ".join(dict.fromkeys(trial.candidate for trial in cancelled))
        found.append(
            f"{len(cancelled)} of {len(sweep.trials)} trials were cancelled by hand ({losses}); who is left out by hand is not "
            "compared fairly."
        )
    unfinished = sweep.with_state(State.PENDING, State.RUNNING)
    if unfinished:
        found.append(
            f"{len(unfinished)} of {len(sweep.trials)} trials have not finished; this is a verdict so far."
        )
    troubled = [trial for trial in sweep.trials if survived(sweep.ledger(trial))]
    if troubled:
        found.append(
            f"{len(troubled)} of {len(sweep.trials)} trials met problems that they survived; the table of trials says which."
        )
    return found


def _of_the_compared(verdict: Verdict, sweep: Sweep) -> list[str]:
    found = _suspicions(verdict, sweep)
    compared = [trial for candidate in verdict.ranking for trial in candidate.trials]
    capped = [trial for trial in compared if sweep.ledger(trial).status().met_wall_time_cap]
    if capped:
        found.append(
            f"{len(capped)} of {len(compared)} compared trials met the wall-time cap before their last step, so budgets "
            "were not equal in steps; raise training.max_seconds for a fair comparison."
        )
    found += _ladders(verdict, sweep, len(compared))
    seeds = len(verdict.ranking[0].trials)
    if seeds < 3:
        found.append(
            f"{seeds} seed{'s' if seeds > 1 else ''} per loss: how much luck there is in one training is hardly known; use 3 or more."
        )
    comparisons = max(1, len(verdict.ranking) - 1)
    if smallest_p(verdict.num_sources) * comparisons >= ALPHA:
        found.append(
            f"{verdict.num_sources} held-out pictures cannot show a difference: the smallest possible p is "
            f"{smallest_p(verdict.num_sources) * comparisons:.2g} after adjustment; add pictures."
        )
    damaged = max(sweep.ledger(trial).status().damaged_clips for trial in compared)
    if damaged:
        found.append(
            f"{damaged} training clips are damaged and others took their places (the same in all trials); see "
            "damaged_clips.jsonl of the trials, and: srloss shard verify."
        )
    if leaks := _num_near_duplicates(compared[0].config.data.path):
        found.append(
            f"{leaks} pairs of clips in different splits show nearly the same (srloss shard info names them): what was "
            "learnt by heart may look like quality; pack again with --drop-leaks."
        )
    if not _saw_the_same_data(sweep, compared):
        found.append(
            "The compared trials did not consume the same samples and crops (see the stream hashes); the comparison is not fair."
        )
    return found


def _suspicions(verdict: Verdict, sweep: Sweep) -> list[str]:
    # Trials that were evaluated before summaries were written have none.
    by_name = {
        candidate.name: [s for trial in candidate.trials if (s := sweep.ledger(trial).summary()) is not None]
        for candidate in verdict.ranking
    }
    baseline = sweep.folder.baseline(BASELINE).summary()
    return suspicions(by_name, None if baseline is None else (BASELINE, baseline))


def _ladders(verdict: Verdict, sweep: Sweep, num_compared: int) -> list[str]:
    climbs: dict[str, list[Climb]] = defaultdict(list)
    for candidate in verdict.ranking:
        for trial in candidate.trials:
            ledger = sweep.ledger(trial)
            try:
                records = read_records(ledger.folder)
            except ValueError as error:
                return [f"What became of the ladders cannot be told: {error}."]
            if records:
                status = ledger.status()
                climb = Climb(records, status.step, trial.config.training.steps, status.met_wall_time_cap)
                climbs[candidate.name].append(climb)
    return remarks(climbs, num_compared)


def _num_near_duplicates(place: str) -> int:
    try:
        return len(manifest.load(place).description.near_duplicates)
    except ValueError:
        # A verdict outlives its data set.
        return 0


def _saw_the_same_data(sweep: Sweep, trials: Sequence[PlannedTrial]) -> bool:
    hashes: dict[tuple[int, int], set[str]] = defaultdict(set)
    for trial in trials:
        status = sweep.ledger(trial).status()
        # Trials that saw a different number of samples have different hashes without having seen different data.
        hashes[trial.config.data.seed, status.step * trial.config.training.global_batch_size].add(
            status.stream_hash
        )
    return all(len(values) == 1 for values in hashes.values())
