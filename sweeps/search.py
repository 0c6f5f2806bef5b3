"""A search that learns (`method: bayes`): each loss is tuned by a study of its own, from its own trials alone.

What is suggested is a pure function of the sweep file and of how earlier trials of the same loss went. It does not depend on
which of several trials was faster, nor on an interruption: a sweep that was killed and continued suggests the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sr.ledger import Ledger, State
from sweeps.agenda import Leg
from sweeps.sections import ParameterSpec
from sweeps.spec import (
    PlannedTrial,
    SweepConfig,
    crossed_in_full,
    drawn_settings,
    num_random_first,
    num_settings,
    plan_trial,
    tuned,
)

_TRIES = 20
"""How often another suggestion is asked for in place of one that has been tried already."""

Stored = tuple[int, dict[str, Any]]
"""Number of a study and settings that it suggested, as they stand in plan.json."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one suggestion."""

    settings: Mapping[str, Any]
    state: Literal["pending", "failed", "stopped", "finished"]
    value: float = math.nan
    """The sweep's metric, averaged over the seeds: the last one of each."""
    step: int = 0
    """stopped: how far the first of its trials got."""


@dataclass(frozen=True, slots=True)
class _Suggestion:
    settings: dict[str, Any]
    trials: list[PlannedTrial]
    """One for each seed."""


@dataclass(slots=True)
class _Study:
    """What was suggested for one loss."""

    combinations: list[dict[str, Any]]
    """The loss with each of the seeds."""
    suggestions: list[_Suggestion] = field(default_factory=list)


def suggest(
    parameters: Mapping[str, ParameterSpec], history: Sequence[Outcome], *, maximize: bool, seed: int
) -> dict[str, Any]:
    """Settings to try next, by Optuna's TPE; equal arguments give equal settings.

    Args:
        parameters: What is tuned.
        history: All suggestions before this one. Those that are pending are kept away from.
        maximize: Whether larger values are better.
        seed: Of the sampler.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(spec) for name, spec in parameters.items()}
    with warnings.catch_warnings():
        # Optuna warns that it may change, or take back before its version 6, what is asked for here.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        # Optuna's own idea of the good ones, the best tenth, is one single trial in searches as small as ours.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=1, gamma=lambda n: math.ceil(n / 4), constant_liar=True, seed=seed
        )
        study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
        for outcome in history:
            study.add_trial(_told(outcome, parameters, distributions))
        asked = study.ask(distributions).params
    return {name: _value(spec, asked[name]) for name, spec in parameters.items()}


def _distribution(spec: ParameterSpec) -> Any:  # noqa: ANN401 - one of Optuna's
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    choices = spec.choices()
    if choices is not None:
        # By their places: what is listed may be of any type.
        return CategoricalDistribution(tuple(range(len(choices))))
    assert spec.min is not None
    assert spec.max is not None
    if spec.distribution == "int_uniform":
        return IntDistribution(int(spec.min), int(spec.max))
    return FloatDistribution(spec.min, spec.max, log=spec.distribution == "log_uniform_values")


def _told(outcome: Outcome, parameters: Mapping[str, ParameterSpec], distributions: dict[str, Any]) -> Any:  # noqa: ANN401
    from optuna.trial import TrialState, create_trial

    # Of pruned trials Optuna thinks the less the earlier they ended, and least where nothing was measured.
    states = {
        "pending": TrialState.RUNNING,
        "failed": TrialState.PRUNED,
        "stopped": TrialState.PRUNED,
        "finished": TrialState.COMPLETE,
    }
    params = {
        name: value if (choices := parameters[name].choices()) is None else choices.index(value)
        for name, value in outcome.settings.items()
    }
    return create_trial(
        state=states[outcome.state],
        value=outcome.value if outcome.state == "finished" else None,
        intermediate_values={outcome.step: outcome.value} if outcome.state == "stopped" else {},
        params=params,
        distributions=distributions,
    )


def _value(spec: ParameterSpec, asked: Any) -> Any:  # noqa: ANN401
    choices = spec.choices()
    if choices is not None:
        return choices[asked]
    if spec.distribution == "int_uniform":
        return int(asked)
    assert spec.min is not None
    assert spec.max is not None
    # As many digits as are shown, so that what is shown can be repeated.
    return min(spec.max, max(spec.min, float(f"{asked:.6g}")))


class Search:
    """The agenda of a bayes search: what is left of the planned trials, then suggestions as they become possible.

    Args:
        config: The sweep, its data set bound.
        stored: What was suggested so far beyond the first, random settings.
        running: Trials to run (again) of those that are planned already.
        ledger: Finds a trial's ledger by its id.
        ahead: How many suggestions of one loss may be under way at once, less one.
        dataset_fingerprint: Of the data set all trials learn from.
        on_suggested: Called with each suggestion before it is given out, and its new trials; must make their folders.
    """

    def __init__(
        self,
        config: SweepConfig,
        stored: Sequence[Stored],
        *,
        running: Sequence[PlannedTrial],
        ledger: Callable[[str], Ledger],
        ahead: int,
        dataset_fingerprint: str,
        on_suggested: Callable[[Stored, list[PlannedTrial]], None],
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._ahead = ahead
        self._fingerprint = dataset_fingerprint
        self._on_suggested = on_suggested
        self._queue = deque(running)
        self._ended: set[str] = set()
        self._tuned = tuned(config)
        self._count = min(num_settings(config), _num_different(self._tuned))
        self._studies = [_Study(combinations) for combinations in _by_loss(config)]
        first = [
            (number, settings)
            for settings in _unlike(drawn_settings(config, num_random_first(config)))
            for number in range(len(self._studies))
        ]
        for number, settings in [*first, *stored]:
            self._add(number, settings)

    def next(self) -> Leg | None:
        """The next planned trial, else one of a new suggestion for the loss that has had the fewest."""
        if not self._queue:
            self._suggest()
        return Leg(self._queue.popleft().trial_id) if self._queue else None

    def is_over(self) -> bool:
        """Whether every loss has had its share."""
        return not self._queue and all(len(study.suggestions) >= self._count for study in self._studies)

    def ended(self, trial_id: str, *, is_dead: bool) -> None:
        """One more result to go by."""
        del is_dead
        self._ended.add(trial_id)

    def _suggest(self) -> None:
        for number in sorted(range(len(self._studies)), key=lambda n: len(self._studies[n].suggestions)):
            study = self._studies[number]
            known = study.suggestions[: max(0, len(study.suggestions) - self._ahead)]
            if len(study.suggestions) >= self._count or not all(self._is_over(s) for s in known):
                continue
            history = [self._outcome(suggestion) for suggestion in known]
            # Also those that happen to be over already: who was faster must not matter.
            history += [Outcome(s.settings, "pending") for s in study.suggestions[len(known) :]]
            settings = self._new(history)
            suggestion = self._add(number, settings)
            self._on_suggested((number, settings), suggestion.trials)
            self._queue.extend(suggestion.trials)
            return

    def _add(self, number: int, settings: dict[str, Any]) -> _Suggestion:
        study = self._studies[number]
        trials = [
            plan_trial(self._config, combination | settings, self._fingerprint)
            for combination in study.combinations
        ]
        suggestion = _Suggestion(settings, trials)
        study.suggestions.append(suggestion)
        return suggestion

    def _new(self, history: Sequence[Outcome]) -> dict[str, Any]:
        """A suggestion that has not been tried."""
        tried = {_key(outcome.settings) for outcome in history}
        maximize = self._config.metric.goal == "maximize"
        for attempt in range(_TRIES):
            seed = _seed(self._config.search_seed, len(history), attempt)
            settings = suggest(self._tuned, history, maximize=maximize, seed=seed)
            if _key(settings) not in tried:
                return settings
        # Few settings are left; some are, or there would be nothing more to suggest.
        generator = np.random.Generator(np.random.Philox(_seed(self._config.search_seed, len(history), -1)))
        while True:
            settings = {name: spec.draw(generator) for name, spec in self._tuned.items()}
            if _key(settings) not in tried:
                return settings

    def _is_over(self, suggestion: _Suggestion) -> bool:
        return all(
            trial.trial_id in self._ended or self._ledger(trial.trial_id).status().has_ended
            for trial in suggestion.trials
        )

    def _outcome(self, suggestion: _Suggestion) -> Outcome:
        ledgers = [self._ledger(trial.trial_id) for trial in suggestion.trials]
        states = {ledger.status().state for ledger in ledgers}
        rows = [ledger.rows("validation")[-1:] for ledger in ledgers]
        if State.FAILED in states or not all(rows):
            return Outcome(suggestion.settings, "failed")
        value = float(np.mean([row[self._config.metric.name] for (row,) in rows]))
        if not math.isfinite(value):
            return Outcome(suggestion.settings, "failed")
        finished = Outcome(suggestion.settings, "finished", value)
        if states == {State.FINISHED}:
            return finished
        return dataclasses.replace(finished, state="stopped", step=min(row["step"] for (row,) in rows))


def num_planned(config: SweepConfig) -> int:
    """How many trials a bayes search will have made in the end."""
    return int(min(num_settings(config), _num_different(tuned(config)))) * len(crossed_in_full(config))


def suggestions_ahead(config: SweepConfig, at_once: int) -> int:
    """How many suggestions of a loss must be made without knowing the one before, to keep so many trials running."""
    return math.ceil(at_once / len(crossed_in_full(config))) - 1


def _by_loss(config: SweepConfig) -> list[list[dict[str, Any]]]:
    """Combinations of losses and seeds, those of one loss together."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for combination in crossed_in_full(config):
        loss = {name: value for name, value in combination.items() if name not in ("seed", "data.seed")}
        grouped.setdefault(_key(loss), []).append(combination)
    return list(grouped.values())


def _num_different(parameters: Mapping[str, ParameterSpec]) -> float:
    """How many different settings there are."""
    count = 1.0
    for spec in parameters.values():
        choices = spec.choices()
        if choices is not None:
            count *= len({_key(choice) for choice in choices})
        elif spec.distribution == "int_uniform":
            assert spec.min is not None
            assert spec.max is not None
            count *= int(spec.max) - int(spec.min) + 1
        else:
            return math.inf
    return count


def _unlike(settings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({_key(one): one for one in settings}.values())


def _key(value: Any) -> str:  # noqa: ANN401 - plain values
    return json.dumps(value, sort_keys=True)


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4])
