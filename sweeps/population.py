"""Population based training: in rounds, the worst trials of a population go on from the best ones' checkpoints.

The trials of one loss and one seed are a population. They wait for each other at each round, so that what is decided is a pure
function of the sweep file and of the validations at that step: it does not depend on which trial was faster, nor on an
interruption. The ledgers tell what was decided, in this order, and a round that was cut off is taken up again from there:

    perturbation   in each trial that goes on from another's checkpoint: `from_trial`, `from_step`, and in `changes` the
                   parameters that hold from there on
    judged         then in every trial that took part: its `place` among `of`; once all have it the round is over
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sr import checkpoint
from sr.config import TrialConfig, to_plain
from sr.configfile import ConfigError, value_at
from sr.ledger import Ledger
from sweeps.agenda import Leg, has_reached
from sweeps.sections import PopulationSpec
from sweeps.spec import PlannedTrial, SweepConfig, tuned

_FEWEST = 2


def populations(trials: Sequence[PlannedTrial]) -> list[list[PlannedTrial]]:
    """The trials of each loss and seed."""
    grouped: dict[tuple[str, int, int], list[PlannedTrial]] = {}
    for trial in trials:
        key = (trial.candidate, trial.config.seed, trial.config.data.seed)
        grouped.setdefault(key, []).append(trial)
    return list(grouped.values())


def check(sweep: SweepConfig, trials: Sequence[PlannedTrial]) -> None:
    """Checks that the trials of each loss and seed can learn from each other.

    Raises:
        ConfigError: They cannot; what to change.
    """
    spec = sweep.population
    assert spec is not None
    training = trials[0].config.training
    faults = [
        f"parameters.{name}: varies within a population, but a trial cannot take it over from another; give it one value, or "
        "if population.parameters allows it, list it there too"
        for name, values in tuned(sweep).items()
        if len(values.choices() or (0, 0)) > 1 and name not in spec.parameters
    ]
    if any(len(members) < _FEWEST for members in populations(trials)):
        faults.append(
            "population: a loss and seed with 1 trial has nobody to learn from; raise run_cap, or list more values in parameters"
        )
    if spec.perturb_every % training.validate_every:
        faults.append(
            f"population.perturb_every: {spec.perturb_every} is not a multiple of training.validate_every="
            f"{training.validate_every}, and trials are judged by a validation; change one of them"
        )
    if spec.perturb_every >= training.steps:
        faults.append(
            f"population.perturb_every: {spec.perturb_every} is not below training.steps={training.steps}, so there would be no "
            "round; lower it"
        )
    faults += [
        f"population.parameters.{name}: no trial of this sweep has it; leave it out"
        for name in spec.parameters
        if all(value_at(to_plain(trial.config), name) is None for trial in trials)
    ]
    if faults:
        raise ConfigError(faults)


@dataclass(frozen=True, slots=True)
class Standing:
    """A trial at the end of a round."""

    trial_id: str
    score: float
    """The larger the better."""
    values: Mapping[str, float]
    """What its population changes, as it is now."""


@dataclass(frozen=True, slots=True)
class Exploit:
    """A trial that goes on from another one's checkpoint."""

    trial_id: str
    from_trial: str
    changes: dict[str, float]
    """All parameters of the population with the values that hold from now on."""


def ranked(standings: Sequence[Standing]) -> list[Standing]:
    """Best first."""
    return sorted(standings, key=lambda s: (-s.score if math.isfinite(s.score) else math.inf, s.trial_id))


def decide(
    spec: PopulationSpec,
    standings: Sequence[Standing],
    *,
    step: int,
    seed: int,
    ranges: Mapping[str, tuple[float, float]],
) -> list[Exploit]:
    """Who goes on from whom, with which values; equal arguments give equal decisions.

    Args:
        spec: Rules of the population.
        standings: All of the population that take part in the round.
        step: Of the round.
        seed: Of what is left to chance.
        ranges: Smallest and largest value of parameters that have them.
    """
    order = ranked(standings)
    count = min(math.ceil(len(order) * spec.quantile), len(order) // 2)
    exploits = []
    for worst in order[len(order) - count :]:
        generator = _generator(seed, worst.trial_id, step)
        donor = order[int(generator.integers(count))]
        changes = {}
        for name, value in donor.values.items():
            factors = spec.parameters[name].factors
            low, high = ranges.get(name, (-math.inf, math.inf))
            changed = value * factors[int(generator.integers(len(factors)))]
            changes[name] = min(high, max(low, float(f"{changed:.6g}")))
        exploits.append(Exploit(worst.trial_id, donor.trial_id, changes))
    return exploits


def _generator(seed: int, trial_id: str, step: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {trial_id} {step}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:8])))


def values_of(spec: PopulationSpec, config: TrialConfig) -> dict[str, float]:
    """What its population changes in a trial, of what the trial has."""
    plain = to_plain(config)
    found = {name: value_at(plain, name) for name in spec.parameters}
    return {name: value for name, value in found.items() if value is not None}


class _Population:
    """The trials of one loss and one seed."""

    def __init__(
        self,
        config: SweepConfig,
        members: Sequence[PlannedTrial],
        running: set[str],
        ledger: Callable[[str], Ledger],
    ) -> None:
        assert config.population is not None
        self._config = config
        self._spec = config.population
        self._members = [trial.trial_id for trial in members]
        self._ledger = ledger
        self._every = config.population.perturb_every
        self._steps = members[0].config.training.steps
        self._ranges = {
            name: (spec.min, spec.max)
            for name, spec in config.parameters.items()
            if spec.min is not None and spec.max is not None
        }
        self.running = running & set(self._members)
        """Those that have not come to their end, and did not die too often."""
        self._decided = self._last_decided()
        # What earlier runs were doing when they ended is found out now; later it is known.
        self._reached = {name: self._last_round(name) for name in self.running}
        self._resting = set(self.running)
        """Of `running`, those whose leg has ended."""

    def legs(self) -> list[Leg]:
        """What can go on now; what waits for others does not."""
        due = self._decided + self._every
        if due < self._steps and self.running and all(self._waits(name, due) for name in self.running):
            self._settle(due)
        free = [
            name for name in self._members if name in self._resting and self._reached[name] <= self._decided
        ]
        self._resting.difference_update(free)
        return [Leg(name, self._until(name)) for name in free]

    def ended(self, name: str, *, is_dead: bool) -> None:
        """The leg of a member is over."""
        status = self._ledger(name).status()
        self._reached[name] = self._last_round(name)
        if status.has_ended or is_dead:
            self.running.discard(name)
            self._resting.discard(name)
        else:
            self._resting.add(name)

    def _last_decided(self) -> int:
        """The newest round of which everybody who took part has been told."""
        places: dict[int, list[int]] = {}
        for name in self._members:
            for row in self._ledger(name).rows("judged"):
                places.setdefault(row["step"], []).append(row["of"])
        return max((step for step, of in places.items() if len(of) >= max(of)), default=0)

    def _until(self, name: str) -> int | None:
        until = self._reached[name] + self._every
        return until if until < self._steps else None

    def _last_round(self, name: str) -> int:
        ledger = self._ledger(name)
        rounds = [step for step in range(self._every, self._steps, self._every) if has_reached(ledger, step)]
        return max(rounds, default=0)

    def _waits(self, name: str, step: int) -> bool:
        return name in self._resting and self._reached[name] >= step

    def _settle(self, step: int) -> None:
        standings = [self._standing(name, step) for name in sorted(self.running)]
        exploits = decide(
            self._spec, standings, step=step, seed=self._config.search_seed, ranges=self._ranges
        )
        for exploit in exploits:
            self._exploit(exploit, step)
        for place, standing in enumerate(ranked(standings)):
            row = {"kind": "judged", "step": step, "place": place + 1, "of": len(standings)}
            self._ledger(standing.trial_id).note(row)
        self._decided = step

    def _standing(self, name: str, step: int) -> Standing:
        ledger = self._ledger(name)
        metric = self._config.metric
        row = next(row for row in ledger.rows("validation") if row["step"] == step)
        sign = 1 if metric.goal == "maximize" else -1
        return Standing(name, sign * row[metric.name], values_of(self._spec, ledger.config()))

    def _exploit(self, exploit: Exploit, step: int) -> None:
        ledger, donor = self._ledger(exploit.trial_id), self._ledger(exploit.from_trial)
        if any(row["step"] == step for row in ledger.rows("perturbation")):
            # Done before an interruption.
            return
        try:
            checkpoint.copy(donor.checkpoints, ledger.checkpoints, step=step)
        except ValueError as error:
            ledger.note({"kind": "problem", "step": step, "problem": f"goes on as it is, since {error}"})
            return
        # The checkpoint first: with it alone, the round is simply repeated.
        ledger.note(
            {
                "kind": "perturbation",
                "step": step,
                "from_trial": exploit.from_trial,
                "from_step": step,
                "changes": exploit.changes,
            }
        )


class Populations:
    """The agenda of population based training: each trial's next leg as soon as its population lets it go on.

    Args:
        config: The sweep.
        trials: All its trials.
        running: Those that have not come to their end.
        ledger: Finds a trial's ledger by its id.
    """

    def __init__(
        self,
        config: SweepConfig,
        trials: Sequence[PlannedTrial],
        *,
        running: Sequence[PlannedTrial],
        ledger: Callable[[str], Ledger],
    ) -> None:
        names = {trial.trial_id for trial in running}
        self._populations = [_Population(config, members, names, ledger) for members in populations(trials)]
        self._of = {
            trial.trial_id: population
            for members, population in zip(populations(trials), self._populations, strict=True)
            for trial in members
        }
        self._queue: deque[Leg] = deque()

    def next(self) -> Leg | None:
        """The next leg of any trial whose population does not wait."""
        if not self._queue:
            for population in self._populations:
                self._queue.extend(population.legs())
        return self._queue.popleft() if self._queue else None

    def is_over(self) -> bool:
        """Whether all trials have come to their end."""
        return not self._queue and not any(population.running for population in self._populations)

    def ended(self, trial_id: str, *, is_dead: bool) -> None:
        """A leg is over."""
        self._of[trial_id].ended(trial_id, is_dead=is_dead)
