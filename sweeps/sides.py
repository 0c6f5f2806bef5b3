"""The two sides of a comparison as people name them: a loss of a sweep, bicubic, or one trial of anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from sr.config import TrialConfig
from sr.configfile import ConfigError, unknown
from sr.ledger import Ledger
from sweeps.candidates import loss_name
from sweeps.evaluation import BASELINE
from sweeps.spec import PlannedTrial
from sweeps.store import SweepFolder, find_sweep, sweeps_in
from sweeps.sweep import Sweep, reopen
from sweeps.verdict import finished_trials, validated

_FEWEST_DIGITS = 4
"""Of the beginning of a trial's id: fewer are its number in the sweep, or the name of a loss."""
_MOST_TOLD = 8


@dataclass(frozen=True, slots=True)
class Member:
    """One trial."""

    ledger: Ledger
    config: TrialConfig


@dataclass(frozen=True)
class Side:
    """What stands on one side: one trial, or those of a loss, one for each seed."""

    name: str
    """What tables call it."""
    origin: str
    """What it is, e.g. `loss of photos-4f2a91` or `trial 11f7037982`."""
    members: tuple[Member, ...]
    num_left_out: int = 0
    """Trials of the loss that have not finished, while others have."""
    is_baseline: bool = False
    primary: str = ""
    """The metric that its sweep was judged by; empty for what is of no sweep."""

    @property
    def is_evaluated(self) -> bool:
        """Whether there are results on held-out clips."""
        return all(member.ledger.evaluation() for member in self.members)


def find_sides(store: Path, first: str, second: str, *, sweep_id: str | None) -> tuple[Side, Side]:
    """Finds what two names mean.

    A name is a trial's folder, the beginning of a trial's id, a loss (or `bicubic`) of the sweep, a trial's number or name
    there, or `SWEEP/LOSS`. The sweep is the one given, else that of the other side where that is a trial, else the latest.

    Raises:
        ConfigError: A name means nothing, or several things; or both mean the same.
        ValueError: The store has no such sweep.
    """
    home = _Home(store, sweep_id)
    named = {name: home.elsewhere(name) for name in (first, second)}
    sides = [named[name] or home.here(name) for name in (first, second)]
    if {m.ledger.folder for m in sides[0].members} == {m.ledger.folder for m in sides[1].members}:
        raise ConfigError(
            [f"compare: '{first}' and '{second}' are one and the same; name two different ones"]
        )
    if sides[0].name == sides[1].name:
        sides = [replace(side, name=f"{side.name} ({_short(side.origin)})") for side in sides]
    return sides[0], sides[1]


def _short(origin: str) -> str:
    """The id that an origin ends with."""
    return origin.rpartition(" ")[2]


class _Home:
    """The sweep whose losses are meant where nothing else is said."""

    def __init__(self, store: Path, sweep_id: str | None) -> None:
        self._store = store
        self._sweep = reopen(find_sweep(store, sweep_id)) if sweep_id is not None else None
        self._is_given = sweep_id is not None

    def elsewhere(self, name: str) -> Side | None:
        """What a name means by itself, in whichever sweep; None where it is up to a sweep."""
        if folder := self._folder(name):
            return self._trial(folder)
        head, slash, tail = name.partition("/")
        if slash and any(sweep.sweep_id.startswith(head) for sweep in sweeps_in(self._store)):
            sweep = reopen(find_sweep(self._store, head))
            return _of_sweep(sweep, tail) or _refused(sweep, tail)
        return None

    def _folder(self, name: str) -> Path | None:
        for path in (Path(name), self._store / name):
            if (path / "state.json").exists():
                return path
        if len(name) < _FEWEST_DIGITS or "/" in name:
            return None
        fitting = _folders(self._store, lambda trial_id: trial_id.startswith(name))
        if self._is_given and self._sweep is not None:
            mine = [folder for folder in fitting if self._sweep.folder.path in folder.parents]
            fitting = mine or fitting
        if len(fitting) > 1:
            listed = ", ".join(str(folder.relative_to(self._store)) for folder in fitting[:_MOST_TOLD])
            raise ConfigError([f"compare: '{name}' fits several trials; give one of: {listed}"])
        return fitting[0] if fitting else None

    def _trial(self, folder: Path) -> Side:
        """A trial, called as its sweep calls it where it is of one."""
        plan = folder.parent.parent / "plan.json"
        if folder.parent.name == "trials" and plan.exists():
            sweep = reopen(SweepFolder(plan.parent))
            self._sweep = self._sweep or sweep
            for trial in sweep.trials:
                if trial.trial_id == folder.name:
                    return _of_trial(sweep, trial)
        ledger = Ledger(folder)
        config = ledger.config()
        if folder.parent.name == "baseline":
            return Side(
                folder.name,
                f"bicubic of {folder.parent.parent.name}",
                (Member(ledger, config),),
                is_baseline=True,
            )
        return Side(config.name or loss_name(config), f"trial {folder.name}", (Member(ledger, config),))

    def here(self, name: str) -> Side:
        """What a name means in this sweep."""
        self._sweep = self._sweep or reopen(find_sweep(self._store, None))
        return _of_sweep(self._sweep, name) or _refused(self._sweep, name)


def _folders(store: Path, fits: Callable[[str], bool]) -> list[Path]:
    patterns = ("trials/*/state.json", "sweeps/*/trials/*/state.json")
    found = (path.parent for pattern in patterns for path in store.glob(pattern))
    return sorted(folder for folder in found if fits(folder.name))


def _of_sweep(sweep: Sweep, name: str) -> Side | None:
    """A loss, bicubic, or a trial by its number, id or name."""
    if name == BASELINE:
        return _baseline(sweep)
    mine = [trial for trial in sweep.trials if trial.candidate == name]
    if mine:
        return _of_loss(sweep, name, mine)
    if name.isdecimal() and 1 <= int(name) <= len(sweep.trials):
        return _of_trial(sweep, sweep.trials[int(name) - 1])
    called = [
        trial for trial in sweep.trials if name in (trial.trial_id, f"{trial.candidate} {trial.settings}")
    ]
    return _of_trial(sweep, called[0]) if called else None


def _refused(sweep: Sweep, name: str) -> Side:
    known = dict.fromkeys([*(trial.candidate for trial in sweep.trials), BASELINE])
    raise ConfigError(
        [
            f"compare: {unknown(f'loss or trial of {sweep.folder.sweep_id}', name, known)} A trial is named by its number in "
            "srloss status, the beginning of its id, or its folder."
        ]
    )


def _baseline(sweep: Sweep) -> Side:
    ledger = sweep.folder.baseline(BASELINE)
    if not ledger.evaluation():
        raise ConfigError(
            [f"compare: {BASELINE} of {sweep.folder.sweep_id} has not been evaluated yet; try again later"]
        )
    # Of its configuration only what says how it was judged means anything.
    member = Member(ledger, sweep.trials[0].config)
    return Side(BASELINE, f"bicubic of {sweep.folder.sweep_id}", (member,), 0, True, _primary(sweep))


def _of_loss(sweep: Sweep, name: str, trials: list[PlannedTrial]) -> Side:
    """The trials that stand for a loss: those of the settings with most finished seeds, and of these the best validated."""
    variants = [list(seeds.values()) for seeds in finished_trials(sweep).get(name, {}).values()]
    origin = f"loss of {sweep.folder.sweep_id}"
    if variants:
        chosen = max(variants, key=lambda variant: (len(variant), validated(sweep, variant)))
        planned = {(trial.config.seed, trial.config.data.seed) for trial in trials}
        return Side(name, origin, _members(sweep, chosen), len(planned) - len(chosen), False, _primary(sweep))
    begun = [trial for trial in trials if sweep.ledger(trial).rows("validation")]
    return Side(name, origin, _members(sweep, begun or trials), 0, False, _primary(sweep))


def _of_trial(sweep: Sweep, trial: PlannedTrial) -> Side:
    name = f"{trial.candidate} {trial.settings}"
    return Side(name, f"trial {trial.trial_id}", _members(sweep, [trial]), 0, False, _primary(sweep))


def _members(sweep: Sweep, trials: Iterable[PlannedTrial]) -> tuple[Member, ...]:
    return tuple(Member(sweep.ledger(trial), trial.config) for trial in trials)


def _primary(sweep: Sweep) -> str:
    return sweep.config.metric.evaluation_name
