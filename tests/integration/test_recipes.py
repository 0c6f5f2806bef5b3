"""The founding documents' experiments: every small recipe trains, is judged, and is what its file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.pack import PackOptions, pack
from shards.sources import SourceOptions
from sr.ladder.records import read_records
from sr.ledger import Ledger, State
from sr.train import train
from sr.world import single_process
from sweeps.evaluation import evaluate_baseline, evaluate_trial
from sweeps.recipes import recipe_path
from sweeps.spec import read_sweep
from sweeps.sweep import plan

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipes' first lines pack, with fewer pictures where that changes nothing."""
    root = tmp_path_factory.mktemp("data")
    for source, name, frames in (
        ("photos", "photos", None),
        ("photo-pans", "pans", None),
        ("moving-digits", "digits", 5),
    ):
        options = PackOptions(clips=SourceOptions(frames=frames))
        pack(source, None, root / name, options, on_progress=lambda _state: None)
    return root


@pytest.mark.parametrize("name", [*(f"seed{number}" for number in range(5)), "ladder"])
def test_the_small_recipe_trains_and_is_judged(name: str, data: Path, tmp_path: Path) -> None:
    sweep = read_sweep(recipe_path(name), small=True)
    path = data / Path(sweep.trial["data"]["path"]).name
    sweep = read_sweep(recipe_path(name), [f"data.path={path}"], small=True)
    trials = {trial.candidate: trial for trial in plan(sweep)}
    assert len(trials) >= 2
    baseline = Ledger(tmp_path / "bicubic")
    evaluate_baseline(baseline, next(iter(trials.values())).config, command="test")
    rows = baseline.evaluation()
    streams: set[str] = set()
    for candidate, trial in trials.items():
        ledger = Ledger(tmp_path / trial.trial_id)
        ledger.create(trial.config, command="test")
        status = train(trial.config, world=single_process("cpu"), ledger=ledger)
        assert status.state is State.FINISHED, candidate
        assert evaluate_trial(ledger.folder) == len(rows)
        mine = ledger.evaluation()
        assert [row["clip"] for row in mine] == [row["clip"] for row in rows]
        assert all(set(trial.config.evaluation.metrics) < row.keys() for row in mine)
        losses = [row["loss"] for row in ledger.rows("train")]
        assert len(losses) >= 2, candidate
        plays = trial.config.adversarial is not None
        assert any("discriminator" in row for row in ledger.rows("train")) == plays
        rungs = 0 if trial.config.ladder is None else trial.config.ladder.stages
        assert [record.stage for record in read_records(ledger.folder)] == list(range(rungs)), candidate
        # Whoever gets there in stages takes as many steps, of the same samples.
        assert status.step == trial.config.training.steps
        streams.add(status.stream_hash)
    assert len(streams) == 1
