"""The W&B workspace: against a golden file, against the keys that are really sent, and saved to a stand-in of the server.

After a change that is meant: `.venv/bin/python -m tests.unit.sweeps.test_wandb_workspace` writes the golden file anew; look at its diff.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sr import track
from sr.adversary import _OBSERVED
from sr.config import parse_trial
from sr.configfile import ConfigError
from sr.ledger import State, Status
from sr.parts import build_criterion
from sr.tracked import TrackedTrial
from sweeps import wandb_workspace
from sweeps.cli import dashboard_wandb
from sweeps.sweep import Sweep
from sweeps.tracked_sweep import TrackedSweep
from tests.made_sweep import planned, rows_of, trial_of
from tests.wandb_server_standin import WandbServerStandin

GOLDEN = Path(__file__).with_name("wandb_workspace.json")
LOSSES = [
    "l1",
    "0.8*l1 + 0.2*ssim",
    {"name": "climbing", "terms": "l1 + 0.01*gan_vanilla", "with": {"ladder.stages": 2}},
]


@cache
def sample() -> Sweep:
    """Three losses, one of them with a ladder, and a tuned rate."""
    return planned(
        Path(tempfile.mkdtemp()),
        parameters={"loss": LOSSES, "optimizer.learning_rate": [1e-3, 2e-3], "seed": [0, 1]},
    )


@cache
def plain() -> Sweep:
    return planned(Path(tempfile.mkdtemp()), parameters={"loss": ["l1", "mse"]})


def spec_of(sweep: Sweep) -> dict[str, Any]:
    return wandb_workspace.spec(wandb_workspace.build(sweep, entity="lab", project="photos"))


def sections_of(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def as_lines(spec: dict[str, Any]) -> list[str]:
    """A line for each section and each panel, and for each part of the rest, so that a difference can be read."""
    section = spec["spec"]["section"]
    lines = []
    for each in section["panelBankConfig"].pop("sections"):
        panels = each.pop("panels")
        lines += [json.dumps(each), *(json.dumps(panel) for panel in panels)]
    return [
        *lines,
        *(json.dumps({key: value}) for key, value in section.items()),
        json.dumps(spec | {"spec": None}),
    ]


def test_the_workspace_is_that_of_the_golden_file() -> None:
    assert as_lines(spec_of(sample())) == json.loads(GOLDEN.read_text())


def test_the_same_sweep_gives_the_same_ids_and_another_gives_others() -> None:
    ids = [panel["__id__"] for panels in sections_of(spec_of(sample())).values() for panel in panels]
    assert len(set(ids)) == len(ids)
    assert ids == [panel["__id__"] for panels in sections_of(spec_of(sample())).values() for panel in panels]


def test_tuning_and_ladder_only_where_there_is_any() -> None:
    assert list(sections_of(spec_of(sample()))) == [
        "Verdict",
        "Learning curves",
        "Quality by loss",
        "Perception against distortion",
        "Tuning",
        "Crops",
        "Loss terms",
        "Cost",
        "Ladder",
    ]
    assert not {"Tuning", "Ladder"} & sections_of(spec_of(plain())).keys()


def test_shares_of_the_gradient_only_of_terms_that_share_it() -> None:
    keys = [key for key in keys_in(spec_of(plain())) if "terms" in key]
    assert keys == ["train/terms/l1/weighted", "train/terms/mse/weighted"]


def test_terms_are_called_as_the_ledger_calls_them() -> None:
    loss = parse_trial(trial_of(loss="l1 + 0.5*ssim + 0.1*l1")).loss
    assert wandb_workspace.term_names(loss) == list(build_criterion(loss).terms) == ["l1", "ssim", "l1_2"]


# --- keys ---


def keys_in(spec: dict[str, Any]) -> Iterator[str]:
    """Every key that some panel, column or order of the workspace asks for; of configurations with `config:`."""
    for panels in sections_of(spec).values():
        for panel in panels:
            yield from _keys_of(panel["viewType"], panel["config"])
    (runs,) = spec["spec"]["section"]["runSets"]
    yield from (
        name.removeprefix("summary:") for name in runs["runFeed"]["columnOrder"] if name != "run:displayName"
    )
    yield from (each["key"]["name"] for each in runs["sort"]["keys"])
    yield from (f"config:{each['name']}" for each in runs["grouping"])


def _keys_of(kind: str, config: dict[str, Any]) -> Iterator[str]:
    if kind == "Run History Line Plot":
        yield from [config["xAxis"], *config["metrics"], f"config:{config['groupBy']}"]
    elif kind == "Bar Chart":
        yield from [*config["metrics"], f"config:{config['groupBy']}"]
    elif kind == "Scatter Plot":
        yield from (config[axis].removeprefix("summary:") for axis in ("xAxis", "yAxis"))
    elif kind == "Parallel Coordinates Plot":
        yield from (column["accessor"].removeprefix("summary:") for column in config["columns"])
    elif kind == "Media Browser":
        yield from config["mediaKeys"]
    elif kind == "Weave":
        yield config["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]
    else:
        assert kind == "Markdown Panel", f"whose keys nobody checks: {kind}"


def sent_by(sweep: Sweep) -> set[str]:
    """What the tracker sends of a trial, of its rows as the loop writes them, and of the sweep."""
    keys: set[str] = set()
    for trial in sweep.trials:
        ledger = sweep.ledger(trial)
        _live(ledger, [term for loss in trial.config.losses for term in wandb_workspace.term_names(loss)])
        tracked = TrackedTrial(
            ledger.folder, group=sweep.folder.sweep_id, candidate=trial.candidate, variant=trial.variant
        )
        for row in tracked.new_rows():
            keys |= (
                row.scalars.keys()
                | {name for name, shown in row.pictures.items() if shown}
                | row.tables.keys()
            )
        keys |= {f"config:{key}" for key in _paths(tracked.config())}
    sweep.folder.report.write_text("<p>report</p>")
    pictures = sweep.folder.path / "baseline" / "bicubic"
    for name in ("hr", "lr", "crops"):
        _picture(pictures / name / "p0.png")
    sweep.folder.add_verdict({"ranking": [], "clips": 12, "verdict": "", "caveats": []})
    for row in TrackedSweep(sweep.folder).new_rows():
        keys |= row.scalars.keys() | row.pictures.keys() | row.tables.keys() | row.pages.keys()
    return keys


def _live(ledger: Any, terms: list[str]) -> None:
    at = {"step": 20, "samples": 80, "seconds": 3.0, "stage": 0}
    values = {"raw": 0.1, "weighted": 0.1, "gradient_share": 0.5}
    used = {"images_per_second": 100.0, "memory_gb": 1.0, "device_memory_gb": 1.0}
    row = {
        "loss": 0.1,
        "terms": dict.fromkeys(terms, values),
        "gradient_norm": 1.0,
        "learning_rate": 1e-3,
        **used,
    }
    ledger.append({"kind": "train", **at, **row, "discriminator": dict.fromkeys(_OBSERVED, 0.5)})
    ledger.append({"kind": "validation", **at, "val/psnr_y": 30.0, "val/ssim_y": 0.9})
    _picture(ledger.folder / "previews" / "00000020" / "p0.png")
    _picture(ledger.folder / "crops" / "p0.png")
    metrics = dict.fromkeys(ledger.config().evaluation.metrics, 1.0)
    ledger.write_evaluation(rows_of("", 0, lambda *_: metrics))
    ledger.set_status(Status(State.FINISHED, "all steps", 20))


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def _paths(plain: object, before: str = "") -> Iterator[str]:
    """As W&B names what a configuration holds: `training.value.steps`."""
    if isinstance(plain, dict) and plain:
        for key, value in plain.items():
            yield from _paths(value, f"{before}.{key}" if before else f"{key}.value")
    else:
        yield before


def test_every_key_of_the_workspace_is_one_that_is_sent() -> None:
    asked = set(keys_in(spec_of(sample())))
    assert len(asked) > 25
    assert sorted(asked - sent_by(sample())) == []


# --- the command ---


PUSH = """
import pathlib, sys
from sweeps.cli.dashboard_wandb import workspace
for _ in range(2):
    workspace(None, store=pathlib.Path(sys.argv[1]), is_wanted=True, dry_run=False, push=True)
"""


def test_it_is_saved_and_the_second_time_in_the_same_place(tmp_path: Path) -> None:
    store = plain().folder.path.parent.parent
    with WandbServerStandin() as server:
        # In a process of its own: the client remembers the first server and key that it meets.
        environment = os.environ | server.environment() | {"HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
        command = [sys.executable, "-c", PUSH, str(store)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 0, done.stderr
    first, second = server.views
    assert done.stdout == 2 * f"W&B workspace: {server.url}/lab/srloss?nw={first['name'][3:-2]}\n"
    assert (first.get("id"), second["id"]) == (None, "view-1")
    assert (first["entityName"], first["projectName"]) == ("lab", "srloss")
    assert first["spec"] == second["spec"]
    assert first["spec"]["section"]["runSets"][0]["filters"]["filters"][0]["value"] == plain().folder.sweep_id
    assert server.unknown == []


def test_without_a_good_key_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*, timeout_s: float) -> track.Answer:
        assert timeout_s <= 10
        return track.Answer("no_key", "no API key for api.example.org on this machine")

    monkeypatch.setattr(track, "ask", refuses)
    monkeypatch.setattr(wandb_workspace, "build", lambda *_, **__: pytest.fail("built in vain"))
    with pytest.raises(
        ValueError, match=r"no API key for api\.example\.org on this machine; nothing was saved"
    ):
        dashboard_wandb.workspace(
            None, store=plain().folder.path.parent.parent, is_wanted=True, dry_run=False, push=True
        )


def test_what_the_server_has_against_it_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb_workspaces.workspaces import internal

    def refuses(*_: object) -> dict[str, Any]:
        raise ValueError("Project `lab/photos` not found.\nmore")

    monkeypatch.setattr(internal, "get_view_dict", refuses)
    built = wandb_workspace.build(plain(), entity="lab", project="photos")
    with pytest.raises(
        ValueError,
        match=r"^W&B did not save .* in lab/photos: Project `lab/photos` not found\..*srloss sync$",
    ):
        wandb_workspace.save(built)


def test_dry_run_prints_json_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        dashboard_wandb.workspace(
            None, store=plain().folder.path.parent.parent, is_wanted=True, dry_run=True, push=False
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["displayName"] == "made-123abc: losses compared"


@pytest.mark.parametrize("both", [False, True])
def test_one_has_to_choose(both: bool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"choose one of --dry-run.*--push"):
        dashboard_wandb.workspace(None, store=tmp_path, is_wanted=True, dry_run=both, push=both)


def test_its_options_go_with_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--push goes with --wandb"):
        dashboard_wandb.workspace(None, store=tmp_path, is_wanted=False, dry_run=False, push=True)


def test_without_the_package_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(
        ValueError, match=r"not installed; install it with: pip install 'srloss\[workspaces\]'"
    ):
        dashboard_wandb.workspace(None, store=tmp_path, is_wanted=True, dry_run=True, push=False)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(as_lines(spec_of(sample())), indent=0, ensure_ascii=False) + "\n")
