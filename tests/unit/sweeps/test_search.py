"""Searches that learn: equal budgets, independent losses, and a memory that the ledgers can restore."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sr.configfile import ConfigError
from sr.ledger import Ledger, State, Status
from sweeps.search import Outcome, Search, num_planned, suggest, suggestions_ahead
from sweeps.sections import ParameterSpec
from sweeps.spec import PlannedTrial, expand, parse_sweep, sweep_id

RATE = {"distribution": "log_uniform_values", "min": 1e-6, "max": 1.0}
BASE: dict[str, Any] = {
    "method": "bayes",
    "run_cap": 32,
    "parameters": {"loss": ["l1", "mse"], "seed": [0, 1], "optimizer.learning_rate": RATE},
    "trial": {"data": {"path": "x"}, "training": {"steps": 10}},
}


def good(trial: PlannedTrial) -> float:
    """Best at a learning rate of 1e-3."""
    return 30 - abs(math.log10(trial.config.optimizer.learning_rate) + 3)


class Played:
    """A sweep whose trials take no time: their ledgers say at once what they came to."""

    def __init__(self, root: Path, value: Callable[[PlannedTrial], float], **changes: Any) -> None:
        self.config = parse_sweep({**BASE, **changes}, where="test")
        self.root = root
        self.value = value
        self.trials = expand(self.config)
        self.stored: list[tuple[int, dict[str, Any]]] = []
        self.ahead = 0
        self.at_once = 4
        for trial in self.trials:
            self.ledger(trial.trial_id).create(trial.config, command="none")

    def ledger(self, trial_id: str) -> Ledger:
        return Ledger(self.root / trial_id)

    def search(self) -> Search:
        def on_suggested(suggestion: tuple[int, dict[str, Any]], trials: list[PlannedTrial]) -> None:
            self.stored.append(suggestion)
            for trial in trials:
                self.ledger(trial.trial_id).create(trial.config, command="none")
                self.trials.append(trial)

        return Search(
            self.config,
            list(self.stored),
            running=[t for t in self.trials if not self.ledger(t.trial_id).status().is_over],
            ledger=self.ledger,
            ahead=self.ahead,
            dataset_fingerprint="",
            on_suggested=on_suggested,
        )

    def finish(self, trial_id: str) -> None:
        trial = next(trial for trial in self.trials if trial.trial_id == trial_id)
        ledger = self.ledger(trial_id)
        ledger.append({"kind": "validation", "step": 10, "val/psnr_y": self.value(trial)})
        ledger.set_status(Status(State.FINISHED, step=10))

    def play(self, *, interrupted_after: int = 10**6, last_first: bool = False) -> Played:
        search, at_work = self.search(), []
        for _ in range(interrupted_after):
            while len(at_work) < self.at_once and (leg := search.next()):
                at_work.append(leg.trial_id)
            if not at_work:
                break
            done = at_work.pop(-1 if last_first else 0)
            self.finish(done)
            search.ended(done, is_dead=False)
        else:
            return self
        assert search.is_over()
        return self

    def rates(self, loss: str, seed: int = 0) -> list[float]:
        chosen = [t for t in self.trials if t.candidate == loss and t.config.seed == seed]
        return [t.config.optimizer.learning_rate for t in chosen]


def test_every_loss_and_seed_gets_the_same_number_of_trials(tmp_path: Path) -> None:
    played = Played(tmp_path, good).play()
    assert Counter((t.candidate, t.config.seed) for t in played.trials) == dict.fromkeys(
        [("l1", 0), ("l1", 1), ("mse", 0), ("mse", 1)], 8
    )
    assert num_planned(played.config) == len(played.trials) == 32
    assert played.rates("l1", 0) == played.rates("l1", 1)


def test_losses_begin_with_equal_luck_and_learn_from_their_own_trials_alone(tmp_path: Path) -> None:
    both = Played(tmp_path / "both", good).play()
    assert both.rates("l1") == both.rates("mse")

    def other(trial: PlannedTrial) -> float:
        return good(trial) if trial.candidate == "l1" else -good(trial)

    contrary = Played(tmp_path / "contrary", other).play()
    assert contrary.rates("l1") == both.rates("l1")
    assert contrary.rates("mse")[:3] == both.rates("mse")[:3]
    assert contrary.rates("mse")[3:] != both.rates("mse")[3:]


def test_what_is_chosen_is_much_better_than_chance() -> None:
    parameters = {"optimizer.learning_rate": ParameterSpec(**RATE)}
    later = []
    for search in range(8):
        history: list[Outcome] = []
        for number in range(16):
            settings = suggest(parameters, history, maximize=True, seed=100 * search + number)
            value = -abs(math.log10(settings["optimizer.learning_rate"]) + 3)
            history.append(Outcome(settings, "finished", value))
        later += [outcome.value for outcome in history[8:]]
    # By chance it would be -1.5.
    assert sum(later) / len(later) > -0.8


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_what_failed_or_was_stopped_is_kept_away_from(state: Any) -> None:
    parameters = {"optimizer.learning_rate": ParameterSpec(**RATE)}

    def outcome(exponent: float) -> Outcome:
        settings = {"optimizer.learning_rate": 10**exponent}
        if exponent > -3:
            return Outcome(settings, state, -9.0, step=2)
        return Outcome(settings, "finished", 1.0)

    history = [outcome(-6 * number / 11) for number in range(12)]
    suggested = [
        suggest(parameters, history, maximize=True, seed=n)["optimizer.learning_rate"] for n in range(20)
    ]
    assert sum(rate < 2e-3 for rate in suggested) >= 17


def test_an_interrupted_search_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    undisturbed = Played(tmp_path / "undisturbed", good).play()
    for after in (1, 14):
        interrupted = Played(tmp_path / str(after), good).play(interrupted_after=after).play()
        assert [t.trial_id for t in interrupted.trials] == [t.trial_id for t in undisturbed.trials]
        assert interrupted.stored == undisturbed.stored


def test_who_is_faster_does_not_matter_when_many_run_at_once(tmp_path: Path) -> None:
    chosen = []
    for last_first in (False, True):
        played = Played(tmp_path / str(last_first), good)
        played.at_once = 12
        played.ahead = suggestions_ahead(played.config, played.at_once)
        assert played.ahead == 2
        chosen.append({loss: played.play(last_first=last_first).rates(loss) for loss in ("l1", "mse")})
    assert chosen[0] == chosen[1]


def test_a_small_list_is_searched_to_its_end_and_not_twice(tmp_path: Path) -> None:
    parameters = {"loss": ["l1", "mse"], "optimizer.learning_rate": [1e-4, 2e-4, 3e-4, 4e-4, 5e-4]}
    played = Played(tmp_path, good, parameters=parameters, run_cap=40).play()
    for loss in ("l1", "mse"):
        assert sorted(played.rates(loss)) == [1e-4, 2e-4, 3e-4, 4e-4, 5e-4]


def test_a_failed_seed_makes_its_settings_bad_and_the_search_goes_on(tmp_path: Path) -> None:
    played = Played(tmp_path, good)
    search = played.search()
    while leg := search.next():
        ledger = played.ledger(leg.trial_id)
        ledger.set_status(Status(State.FAILED, "diverged"))
        search.ended(leg.trial_id, is_dead=False)
    assert search.is_over()
    assert len(played.trials) == 32


def test_the_id_follows_from_what_will_be_suggested() -> None:
    def name(**changes: Any) -> str:
        config = parse_sweep({**BASE, **changes}, where="test")
        return sweep_id(config, expand(config))

    assert name() == name()
    assert len({name(), name(run_cap=36), name(search_seed=1)}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_cap": None}, "run_cap: missing; a bayes search needs"),
        (
            {"run_cap": 15},
            "run_cap: 15 gives 3 settings to each of 4 losses and seeds; bayes needs 4 or more, so",
        ),
        ({"parameters": {"loss": ["l1"], "seed": [0, 1]}}, "method: bayes has nothing to choose"),
        (
            {"parameters": {"loss": ["l1"], "optimizer.learning_rate": {"min": 1e-4, "max": 1e-2}}},
            "parameters.optimizer.learning_rate: a range needs a distribution",
        ),
        ({"parameters": {"loss": ["l1"], "seed": {"min": 0, "max": 3}}}, "nothing to choose"),
    ],
)
def test_mistakes_are_named_with_their_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(parse_sweep({**BASE, **changes}, where="test"))
    assert message in str(caught.value)
