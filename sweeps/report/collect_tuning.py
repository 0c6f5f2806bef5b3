"""How each trial of a search went, by what was tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sr.config import to_plain
from sr.configfile import value_at
from sr.ledger import State
from sweeps.report.findings import Parameter, TunedTrial, Tuning
from sweeps.report.history import History
from sweeps.sections import ParameterSpec
from sweeps.spec import tuned
from sweeps.sweep import Sweep

_LOG_FROM = 10.0
"""Listed values whose largest is so many times the smallest are spread over a logarithmic axis."""


def collect_tuning(sweep: Sweep, chosen: set[str], histories: Mapping[str, History]) -> Tuning | None:
    """The trials that were validated; None where nothing was tuned."""
    specs = {name: spec for name, spec in tuned(sweep.config).items() if len(spec.choices() or (0, 0)) > 1}
    # What a population changes need not be listed as a parameter.
    names = list(
        dict.fromkeys([*specs, *(sweep.config.population.parameters if sweep.config.population else ())])
    )
    if not names:
        return None
    parameters = tuple(_parameter(name, specs.get(name)) for name in names)
    trials: list[TunedTrial] = []
    for trial in sweep.trials:
        ledger, history = sweep.ledger(trial), histories[trial.trial_id]
        if not history.validations:
            continue
        plain = to_plain(ledger.config() if sweep.config.population else trial.config)
        trials.append(
            TunedTrial(
                candidate=trial.candidate,
                trial_id=trial.trial_id,
                values=tuple(_value(value_at(plain, p.name), p, specs.get(p.name)) for p in parameters),
                quality=history.validations[-1].value,
                is_finished=ledger.status().state is State.FINISHED,
                is_chosen=trial.trial_id in chosen,
            )
        )
    return Tuning(parameters, tuple(trials)) if trials else None


def _parameter(name: str, spec: ParameterSpec | None) -> Parameter:
    if spec is None:
        # Of a population that multiplies it by factors.
        return Parameter(name, is_log=True, choices=())
    choices = spec.choices()
    if choices is None:
        return Parameter(name, is_log=spec.distribution == "log_uniform_values", choices=())
    if not _are_numbers(choices):
        return Parameter(name, is_log=False, choices=tuple(map(str, choices)))
    is_log = min(choices) > 0 and max(choices) >= _LOG_FROM * min(choices)
    return Parameter(name, is_log=is_log, choices=())


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _value(found: Any, parameter: Parameter, spec: ParameterSpec | None) -> float | None:  # noqa: ANN401
    if not parameter.choices:
        return None if found is None else float(found)
    # The configuration may say it in more words than the sweep file, such as `{type: rrdb}` for `rrdb`.
    assert spec is not None
    choices = spec.choices() or ()
    return next((float(place) for place, choice in enumerate(choices) if _is_said(choice, found)), None)


def _is_said(choice: Any, found: Any) -> bool:  # noqa: ANN401
    if isinstance(choice, Mapping) and isinstance(found, Mapping):
        return all(key in found and _is_said(value, found[key]) for key, value in choice.items())
    if isinstance(found, Mapping) and isinstance(choice, str):
        return found.get("type") == choice
    return list(choice) == found if isinstance(choice, tuple | list) else choice == found
