"""What the installed wandb client asks of a server, and what sr/track.py relies on in it.

A new version that asks for something else fails here, before anybody's results get lost on the way. When
sr/track.py and the stand-in know the new ways: `python -m tests.integration.test_wandb_contract` writes them down.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.wandb_server_standin import WandbServerStandin

GOLDEN = Path(__file__).parent.parent / "wandb_contract.json"
ROOT = Path(__file__).parents[2]

_COMMON = """
import json, sys
import numpy as np
import wandb

def start(**options):
    settings = wandb.Settings(quiet=True, silent=True, console="off", disable_git=True, disable_code=True,
        x_save_requirements=False, x_disable_stats=True, init_timeout=20, finish_timeout=20)
    return wandb.init(project="losses", id="trial", resume="allow", reinit="create_new", settings=settings, **options)

facts = {}
"""

_FIRST = """
run = start(group="sweep", job_type="train", name="l1", tags=["x4"], config={"loss": {"type": "l1"}, "seed": 0})
run.define_metric("trainer/step")
run.define_metric("*", step_metric="trainer/step")
for n in range(5):
    run.log({"trainer/step": 10 * n, "train/loss": 1 / (n + 1)}, step=n, commit=True)
picture = wandb.Image(np.zeros((8, 8, 3), np.uint8), caption="clip")
run.log({"val/crops": [picture, picture], "verdict/report": wandb.Html("<b>report</b>")}, step=5, commit=True)
run.log({"test/clips": wandb.Table(columns=["clip", "psnr_y"], data=[["a", 31.5]])}, step=6, commit=True)
artifact = wandb.Artifact("weights", "model")
with artifact.new_file("weights.txt") as file:
    file.write("weights")
run.log_artifact(artifact)
run.summary["verdict/sentence"] = "l1 wins"
run.mark_preempting()
run.finish(exit_code=1)
"""

_SECOND = """
run = start(config={"loss": {"type": "l1"}, "seed": 0})
facts["starting_step"] = run.starting_step
facts["resumed"] = run.resumed
run.log({"train/loss": -1}, step=3, commit=True)
run.log({"trainer/step": 70, "train/loss": 0.1}, step=7, commit=True)
run.log({"train/loss": -1}, step=7, commit=True)
run.finish()

api = wandb.Api()
read = api.run("lab/losses/trial")
facts["state"] = read.state
facts["last_step"] = read.lastHistoryStep
facts["steps"] = [row["_step"] for row in read.scan_history()]
facts["losses"] = [row["train/loss"] for row in read.scan_history() if "train/loss" in row]
facts["config"] = read.config
facts["sentence"] = read.summary["verdict/sentence"]
facts["of_group"] = [run.id for run in api.runs("lab/losses", filters={"group": "sweep"})]
print(json.dumps(facts))
"""


@dataclass
class Streamed:
    """What came of a preempted and resumed run."""

    server: WandbServerStandin
    facts: dict[str, Any]


def stream(folder: Path) -> Streamed:
    """Runs the real client against the stand-in, each attempt in a process of its own."""
    with WandbServerStandin() as server:
        folders = {name: str(folder) for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR")}
        environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        environment |= {"HOME": str(folder)} | {f"WANDB_{name}": value for name, value in folders.items()}
        said = ""
        for script in (_FIRST, _SECOND):
            done = subprocess.run(
                [sys.executable, "-c", _COMMON + script],
                env=environment | server.environment(),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            asked = f"; the stand-in does not know: {server.unknown}" if server.unknown else ""
            assert done.returncode == 0, f"{done.stderr}{asked}"
            said = done.stdout
        return Streamed(server, json.loads(said.splitlines()[-1]))


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    """One run for all tests here."""
    return stream(tmp_path_factory.mktemp("wandb"))


def contract_of(server: WandbServerStandin) -> dict[str, list[str]]:
    """What was asked, as sorted lists: operations with the names in their variables and in what they want back."""
    contract: dict[str, set[str]] = {"uploads": set(), "rows": set()}
    for name, sent in server.operations:
        if name == "upload":
            contract["uploads"].add(re.sub(r"[0-9a-f]{20}", "<hash>", sent["name"]))
        else:
            contract.setdefault(name, set()).update(f"sends {path}" for path in _paths(sent, name))
    for name, document in server.documents.items():
        body = document[document.index("{") :]
        contract[name].update(f"wants {word}" for word in re.findall(r"(?<![$\w])[a-zA-Z_]\w*", body))
    for row in server.runs["trial"].history:
        contract["rows"].update(key for key in row if key.startswith("_"))
    return {name: sorted(asked) for name, asked in sorted(contract.items())}


# What stands below these is a person's data, or the client's notes about itself, and not the protocol.
_OPAQUE = {"config", "summaryMetrics", "content", "specs", "filters", "metadata"}


def _paths(sent: object, name: str, before: str = "") -> set[str]:
    if isinstance(sent, dict) and name not in _OPAQUE:
        return {
            path for key, part in sent.items() for path in _paths(part, key, f"{before}.{key}".lstrip("."))
        }
    if isinstance(sent, list) and name not in _OPAQUE and any(isinstance(part, dict) for part in sent):
        return {path for part in sent for path in _paths(part, name, f"{before}[]")}
    return {before} if before else set()


def test_a_new_wandb_asks_for_what_the_old_one_did(streamed: Streamed) -> None:
    golden = json.loads(GOLDEN.read_text())
    differences = different(golden, contract_of(streamed.server))
    assert not differences, (
        f"wandb {version('wandb')} differs from wandb {golden['wandb']}: {'; '.join(differences)}. "
        "Check sr/track.py and tests/wandb_server_standin.py, "
        "then write the new contract with: python -m tests.integration.test_wandb_contract"
    )
    assert streamed.server.unknown == []


def different(golden: dict[str, Any], contract: dict[str, list[str]]) -> list[str]:
    """A phrase for every operation that is new, has gone or has changed."""
    differences = []
    for name in sorted(set(contract) | set(golden["contract"])):
        before, now = set(golden["contract"].get(name, ())), set(contract.get(name, ()))
        if name not in golden["contract"]:
            differences.append(f"it asks for {name}, which the old one did not")
        elif name not in contract:
            differences.append(f"it no longer asks for {name}")
        elif before != now:
            changes = [f"+ {x}" for x in sorted(now - before)] + [f"- {x}" for x in sorted(before - now)]
            differences.append(f"{name} changed ({', '.join(changes)})")
    return differences


def test_every_row_is_there_once_after_a_resume(streamed: Streamed) -> None:
    rows = streamed.server.runs["trial"].history
    assert [row["_step"] for row in rows] == list(range(8))
    assert streamed.facts["starting_step"] == 7
    assert streamed.facts["resumed"]
    # A row of a step that has been sent is dropped, without an exception.
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 0.1]


def test_what_the_server_holds_can_be_read_back(streamed: Streamed) -> None:
    facts = streamed.facts
    assert facts["steps"] == list(range(8))
    assert facts["last_step"] == 7
    assert facts["losses"] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 0.1]
    assert facts["config"] == {"loss": {"type": "l1"}, "seed": 0}
    assert (facts["state"], facts["sentence"], facts["of_group"]) == ("finished", "l1 wins", ["trial"])


def test_pictures_tables_and_files_arrive_whole(streamed: Streamed) -> None:
    run = streamed.server.runs["trial"]
    crops = next(row["val/crops"] for row in run.history if "val/crops" in row)
    assert crops["captions"] == ["clip", "clip"]
    assert all(run.files[name].startswith(b"\x89PNG") for name in crops["filenames"])
    table = next(row["test/clips"] for row in run.history if "test/clips" in row)
    assert json.loads(run.files[table["path"]])["data"] == [["a", 31.5]]
    assert run.artifacts["weights"] == {"weights.txt": b"weights"}


def test_a_preempted_attempt_is_told_as_one(streamed: Streamed) -> None:
    ends = [
        sent for name, sent in streamed.server.operations if name == "file_stream" and sent.get("complete")
    ]
    assert [end["exitcode"] for end in ends] == [1, 0]
    first = streamed.server.operations.index(("file_stream", ends[0]))
    told = [sent for name, sent in streamed.server.operations[:first] if name == "file_stream"]
    assert any(sent.get("preempting") for sent in told)


def main() -> None:
    """Writes the contract of the wandb that is installed."""
    with tempfile.TemporaryDirectory() as folder:
        contract = contract_of(stream(Path(folder)).server)
    GOLDEN.write_text(json.dumps({"wandb": version("wandb"), "contract": contract}, indent=2) + "\n")
    print(f"{GOLDEN.relative_to(ROOT)}: {len(contract)} operations of wandb {version('wandb')}")


if __name__ == "__main__":
    main()
