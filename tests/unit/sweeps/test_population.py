"""Populations: who goes on from whom, independent losses, and rounds that an interruption cuts off."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sr import checkpoint
from sr.configfile import ConfigError
from sr.ledger import Ledger, State, Status
from sweeps import agendas
from sweeps.agenda import Leg
from sweeps.population import Populations, Standing, decide
from sweeps.sections import PopulationSpec
from sweeps.spec import expand, parse_sweep

BASE: dict[str, Any] = {
    "parameters": {"loss": ["l1", "mse"], "optimizer.learning_rate": [1e-4, 2e-4, 3e-4, 4e-4]},
    "population": {"perturb_every": 4, "parameters": {"optimizer.learning_rate": {}}},
    "trial": {"data": {"path": "x"}, "training": {"steps": 12, "validate_every": 2}},
}
SPEC = PopulationSpec(perturb_every=4, quantile=0.25, parameters={"optimizer.learning_rate": {}})  # type: ignore[arg-type]


def standings(*scores: float) -> list[Standing]:
    return [Standing(f"t{n}", score, {"optimizer.learning_rate": 1e-3}) for n, score in enumerate(scores)]


def test_the_worst_quarter_goes_on_from_the_best_quarter() -> None:
    got = decide(SPEC, standings(5, 1, 7, 3, 8, 2, 6, 4), step=4, seed=0, ranges={})
    assert {exploit.trial_id for exploit in got} == {"t1", "t5"}
    assert {exploit.from_trial for exploit in got} <= {"t2", "t4"}
    for exploit in got:
        assert exploit.changes["optimizer.learning_rate"] in (8e-4, 1.2e-3)


def test_what_is_drawn_depends_on_seed_step_and_trial_alone() -> None:
    def drawn(seed: int, step: int) -> list[Any]:
        return decide(SPEC, standings(*range(40)), step=step, seed=seed, ranges={})

    assert drawn(0, 4) == drawn(0, 4)
    assert drawn(0, 4) != drawn(1, 4)
    assert drawn(0, 4) != drawn(0, 8)
    assert len({exploit.from_trial for exploit in drawn(0, 4)}) > 2


def test_a_range_is_never_left_and_one_alone_learns_from_nobody() -> None:
    ranges = {"optimizer.learning_rate": (9e-4, 1.1e-3)}
    for exploit in decide(SPEC, standings(*range(8)), step=4, seed=0, ranges=ranges):
        assert exploit.changes["optimizer.learning_rate"] in (9e-4, 1.1e-3)
    assert decide(SPEC, standings(1.0), step=4, seed=0, ranges={}) == []
    assert [e.trial_id for e in decide(SPEC, standings(1, float("nan")), step=4, seed=0, ranges={})] == ["t1"]


class Played:
    """A sweep whose trials take no time; a trial's checkpoint holds who made it."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.config = parse_sweep({**BASE, **changes}, where="test")
        self.root = root
        self.trials = expand(self.config)
        for trial in self.trials:
            self.ledger(trial.trial_id).create(trial.config, command="none")

    def ledger(self, trial_id: str) -> Ledger:
        return Ledger(self.root / trial_id)

    def agenda(self) -> Populations:
        running = [t for t in self.trials if not self.ledger(t.trial_id).status().is_over]
        return Populations(self.config, self.trials, running=running, ledger=self.ledger)

    def work(self, leg: Leg) -> None:
        ledger = self.ledger(leg.trial_id)
        ledger.begin_attempt()
        rate = ledger.config().optimizer.learning_rate
        # What is better with one loss says nothing about another.
        value = 1e3 * rate + 10 * (ledger.config().loss.terms[0].type == "mse")
        for step in range(checkpoint.newest_step(ledger.checkpoints) + 2, (leg.until or 12) + 1, 2):
            checkpoint.save(ledger.checkpoints, step=step, state={"made": f"{leg.trial_id} {rate}"}, keep=2)
            ledger.append({"kind": "validation", "step": step, "val/psnr_y": value})
        if leg.until is None:
            ledger.set_status(Status(State.FINISHED, step=12))

    def play(self, after_leg: Callable[[int], bool] = lambda _number: False) -> list[Leg]:
        """Runs legs until the end, or until `after_leg` says that the driver is killed now."""
        agenda, at_work, done = self.agenda(), [], []
        while True:
            while leg := agenda.next():
                at_work.append(leg)
            if not at_work:
                break
            done.append(at_work.pop(0))
            self.work(done[-1])
            if after_leg(len(done)):
                return done
            agenda.ended(done[-1].trial_id, is_dead=False)
        assert agenda.is_over()
        return done

    def fate(self) -> dict[str, Any]:
        return {
            trial.trial_id: (
                checkpoint.load(checkpoint.newest_path(self.ledger(trial.trial_id).checkpoints))["made"],
                [
                    {key: value for key, value in row.items() if key != "attempt"}
                    for kind in ("perturbation", "judged", "validation")
                    for row in self.ledger(trial.trial_id).rows(kind)
                ],
            )
            for trial in self.trials
        }


def test_trials_wait_for_their_own_population_and_learn_from_it_alone(tmp_path: Path) -> None:
    played = Played(tmp_path)
    legs = played.play()
    assert Counter(leg.until for leg in legs) == {4: 8, 8: 8, None: 8}
    loss = {trial.trial_id: trial.candidate for trial in played.trials}
    seen = Counter()
    for trial in played.trials:
        for row in played.ledger(trial.trial_id).rows("perturbation"):
            assert loss[row["from_trial"]] == trial.candidate
            seen[trial.candidate, row["step"]] += 1
    assert set(seen.values()) == {1}
    assert len(seen) == 4


def test_a_slow_population_keeps_no_other_waiting(tmp_path: Path) -> None:
    agenda = (played := Played(tmp_path)).agenda()
    first = list(iter(agenda.next, None))
    loss = {trial.trial_id: trial.candidate for trial in played.trials}
    for leg in first:
        if loss[leg.trial_id] == "mse" or leg is first[0]:
            played.work(leg)
            agenda.ended(leg.trial_id, is_dead=False)
    assert {loss[leg.trial_id] for leg in iter(agenda.next, None)} == {"mse"}
    assert not agenda.is_over()


def test_changes_hold_from_then_on_and_the_beginning_stays_known(tmp_path: Path) -> None:
    played = Played(tmp_path)
    played.play()
    for trial in played.trials:
        ledger = played.ledger(trial.trial_id)
        rows = ledger.rows("perturbation")
        expected = (
            rows[-1]["changes"]["optimizer.learning_rate"] if rows else trial.config.optimizer.learning_rate
        )
        assert ledger.config().optimizer.learning_rate == expected
        assert (
            f"learning_rate: {trial.config.optimizer.learning_rate}"
            in (ledger.folder / "config.yaml").read_text()
        )


def test_a_driver_killed_after_any_leg_changes_nothing(tmp_path: Path) -> None:
    undisturbed = Played(tmp_path / "undisturbed")
    undisturbed.play()
    for after in (1, 8, 19):
        killed = Played(tmp_path / str(after))
        killed.play(lambda number, after=after: number == after)
        killed.play()
        assert killed.fate() == undisturbed.fate(), after


@pytest.mark.parametrize("moment", ["copy", "first note", "second note"])
def test_a_driver_killed_in_the_middle_of_a_round_changes_nothing(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Played(tmp_path / "undisturbed")
    undisturbed.play()
    killed = Played(tmp_path / "killed")
    copy, note, notes = checkpoint.copy, Ledger.note, []

    def copied_half(source: Path, folder: Path, *, step: int) -> None:
        copy(source, folder, step=step)
        if moment == "copy":
            # As if the hash had been written and the checkpoint not.
            (folder / f"step-{step:08d}.pt").write_bytes(b"torn")
            raise KeyboardInterrupt

    def noted(ledger: Ledger, row: dict[str, Any]) -> None:
        note(ledger, row)
        notes.append(row)
        if moment == {1: "first note", 2: "second note"}.get(len(notes)):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "copy", copied_half)
        patch.setattr(Ledger, "note", noted)
        with pytest.raises(KeyboardInterrupt):
            killed.play()
    killed.play()
    assert killed.fate() == undisturbed.fate()


def test_who_fails_leaves_the_population_and_the_others_go_on(tmp_path: Path) -> None:
    played = Played(tmp_path, parameters={"loss": ["l1"], "optimizer.learning_rate": [1e-4, 2e-4, 3e-4]})
    agenda = played.agenda()
    legs = list(iter(agenda.next, None))
    played.ledger(legs[0].trial_id).set_status(Status(State.FAILED, "diverged"))
    for leg in legs[1:]:
        played.work(leg)
    for leg, is_dead in zip(legs, (False, True, False), strict=True):
        agenda.ended(leg.trial_id, is_dead=is_dead)
    assert [leg.trial_id for leg in iter(agenda.next, None)] == [legs[2].trial_id]
    assert played.ledger(legs[2].trial_id).rows("judged")[0]["of"] == 1


def test_a_donor_without_a_sound_checkpoint_is_named_and_nobody_stops(tmp_path: Path) -> None:
    played = Played(tmp_path)
    agenda = played.agenda()
    for leg in list(iter(agenda.next, None)):
        played.work(leg)
        ledger = played.ledger(leg.trial_id)
        (ledger.checkpoints / "step-00000004.sha256").write_text("0" * 64)
        agenda.ended(leg.trial_id, is_dead=False)
    assert len(list(iter(agenda.next, None))) == 8
    problems = [row for t in played.trials for row in played.ledger(t.trial_id).rows("problem")]
    assert len(problems) == 2
    assert "goes on as it is, since checkpoint" in problems[0]["problem"]


def test_a_copied_checkpoint_is_the_same_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", step=4, state={"weights": torch.ones(3)}, keep=2)
    (tmp_path / "b").mkdir()
    checkpoint.copy(tmp_path / "a", tmp_path / "b", step=4)
    assert checkpoint.load(tmp_path / "b" / "step-00000004.pt")["weights"].tolist() == [1, 1, 1]
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.copy(tmp_path / "a", tmp_path / "b", step=6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayes", "run_cap": 8}, "population: does not go with method: bayes"),
        ({"early_terminate": {"type": "asha"}}, "population: does not go with early_terminate"),
        ({"parameters": {"loss": ["l1", "mse"], "seed": [0, 1]}}, "has nobody to learn from; raise run_cap"),
        (
            {"parameters": {**BASE["parameters"], "optimizer.weight_decay": [0.0, 0.1]}},
            "parameters.optimizer.weight_decay: varies within a population, but a trial cannot take it over",
        ),
        (
            {"population": {"perturb_every": 3, "parameters": {"optimizer.learning_rate": {}}}},
            "population.perturb_every: 3 is not a multiple of training.validate_every=2",
        ),
        (
            {"population": {"perturb_every": 12, "parameters": {"optimizer.learning_rate": {}}}},
            "population.perturb_every: 12 is not below training.steps=12",
        ),
        (
            {"population": {"perturb_every": 4, "parameters": {"model.channels": {}}}},
            "parameters.model.channels: cannot change in the middle of a training; possible: optimizer.learning_rate",
        ),
        (
            {
                "population": {
                    "perturb_every": 4,
                    "parameters": {"optimizer.learning_rate": {}, "loss.terms.3.weight": {}},
                }
            },
            "population.parameters.loss.terms.3.weight: no trial of this sweep has it",
        ),
        (
            {
                "population": {
                    "perturb_every": 4,
                    "parameters": {"optimizer.learning_rate": {"factors": [0.0, 2.0]}},
                }
            },
            "factors must be above 0",
        ),
        ({"population": {"perturb_evry": 4}}, "unknown key 'perturb_evry'"),
    ],
)
def test_mistakes_are_named_with_their_remedy(changes: dict[str, Any], message: str) -> None:
    def checked() -> None:
        config = parse_sweep({**BASE, **changes}, where="test")
        agendas.check(config, expand(config))

    with pytest.raises(ConfigError) as caught:
        checked()
    assert message in str(caught.value)


def test_losses_without_a_parameter_keep_out_of_it(tmp_path: Path) -> None:
    changes = {
        "parameters": {"loss": ["l1", "l1 + ssim"], "optimizer.learning_rate": [1e-4, 2e-4]},
        "population": {
            "perturb_every": 4,
            "parameters": {"optimizer.learning_rate": {}, "loss.terms.1.weight": {}},
        },
    }
    played = Played(tmp_path, **changes)
    played.play()
    changed: dict[str, set[str]] = {}
    for trial in played.trials:
        for row in played.ledger(trial.trial_id).rows("perturbation"):
            changed.setdefault(trial.candidate, set()).update(row["changes"])
    assert changed == {
        "l1": {"optimizer.learning_rate"},
        "l1 + ssim": {"optimizer.learning_rate", "loss.terms.1.weight"},
    }
