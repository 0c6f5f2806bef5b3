"""Results reach W&B while they come, and nothing of them is lost or doubled, whatever ends or stands still in between.

The real wandb client sends to a stand-in for the server. Trainings are suspended where something shall be seen in the middle.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from sr.ledger import Ledger, State
from sweeps.spec import parse_sweep
from sweeps.sweep import create
from tests.conftest import tiny_trial
from tests.e2e.test_kill_and_resume import wait_for
from tests.wandb_server_standin import WandbServerStandin
from tests.wandb_standin_answers import StandinRun

SRLOSS = str(Path(sys.executable).with_name("srloss"))
TRAINING = {
    "steps": 1500,
    "global_batch_size": 2,
    "validate_every": 250,
    "checkpoint_every": 50,
    "log_every": 25,
}
pytestmark = pytest.mark.timeout(280)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WandbServerStandin]:
    """The stand-in; whatever a test does, its key must not have come to rest anywhere."""
    with WandbServerStandin() as server:
        yield server
    assert server.unknown == []
    holding = [
        path for path in tmp_path.rglob("*") if path.is_file() and server.key.encode() in path.read_bytes()
    ]
    assert holding == []


@dataclass
class Place:
    """A user at a machine of his own."""

    folder: Path
    server: WandbServerStandin

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        return kept | self.server.environment() | {"HOME": str(self.folder)} | changes

    def write(self, photos: Path, **changes: Any) -> Path:
        """The file of a trial that takes a few seconds."""
        training = TRAINING | changes.pop("training", {})
        trial = tiny_trial(photos, training=training, tracking={"wandb": "auto"}, **changes)
        path = self.folder / "trial.yaml"
        path.write_text(yaml.safe_dump(trial))
        return path

    def run(self, *words: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            [SRLOSS, *map(str, words), "--store", str(self.store)],
            env=self.environment(**changes),
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    @contextlib.contextmanager
    def running(self, *words: object, **changes: str) -> Iterator[Running]:
        """A command in the background, which ends with the block at the latest."""
        output = self.folder / f"output-{time.monotonic_ns()}.txt"
        with output.open("w") as file:
            process = psutil.Popen(
                [SRLOSS, *map(str, words), "--store", str(self.store)],
                env=self.environment(**changes),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Running(process, output)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def trial(self) -> Path:
        """Folder of the only trial."""
        return wait_for(lambda: next(iter(self.store.glob("trials/*/metrics.jsonl")), None)).parent

    def tracked(self) -> StandinRun:
        """Its run."""
        return run_of(self.server, self.trial())

    def num_there(self) -> int:
        """How many of its rows have arrived."""
        return sum(len(run.history) for run in self.server.runs.values())


@dataclass
class Running:
    """A command in the background."""

    process: psutil.Popen
    output: Path

    def feeder(self) -> psutil.Process | None:
        """The process beside it that feeds W&B."""
        for child in self.process.children():
            with contextlib.suppress(psutil.Error):
                if "sweeps.feeder" in child.cmdline():
                    return child
        return None

    def ended(self) -> tuple[int, str]:
        """Waits for its end; the exit code and what it printed."""
        return self.process.wait(120), self.output.read_text()


@pytest.fixture
def place(tmp_path: Path, server: WandbServerStandin) -> Place:
    return Place(tmp_path, server)


def run_of(server: WandbServerStandin, folder: Path) -> StandinRun:
    """The only run of a trial or sweep: its id begins with that of the folder."""
    (run,) = (run for run in server.runs.values() if run.id.startswith(folder.name))
    return run


def ledger_rows(trial: Path) -> list[tuple[str, int]]:
    """What W&B shall show of a ledger: each step once, where it came first."""
    lines = (trial / "metrics.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()
    rows = (json.loads(line) for line in lines)
    return list(dict.fromkeys((r["kind"], r["step"]) for r in rows if r["kind"] in ("train", "validation")))


def shown_rows(run: StandinRun) -> list[tuple[str, int]]:
    """What W&B shows; each row is that of its number."""
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    kinds = {"train/loss": "train", "val/psnr_y": "validation", "test/psnr_y": "test"}
    found = [(next(kind for key, kind in kinds.items() if key in row), row) for row in run.history]
    return [(kind, row["trainer/step"]) for kind, row in found]


def train_to(place: Place, running: Running, step: int) -> None:
    """Suspends a training at this step, or soon after, and waits until W&B has got its rows up to there."""
    trial = place.trial()
    wait_for(lambda: last(trial) >= step or running.process.poll() is not None)
    assert running.process.poll() is None, running.output.read_text()
    running.process.suspend()
    wait_for(lambda: place.num_there() == len(ledger_rows(trial)))


def last(trial: Path) -> int:
    """The last step with a row."""
    return max((step for _, step in ledger_rows(trial)), default=0)


def whole(run: StandinRun, trial: Path) -> None:
    """All of a trial has arrived, and once: rows, pictures, and the clips' table."""
    test = ("test", Ledger(trial).status().step)
    assert shown_rows(run) == [*ledger_rows(trial), test]
    losses = {row["step"]: row["loss"] for row in Ledger(trial).rows("train")}
    assert {row["trainer/step"] for row in run.history if "train/loss" in row} == set(losses)
    sent = set(run.files.values())
    pictures = [*trial.glob("previews/[0-9]*/*.png"), *trial.glob("crops/*.png")]
    assert pictures
    assert [path for path in pictures if path.read_bytes() not in sent] == []
    (table,) = (json.loads(content) for name, content in run.files.items() if "table/test/clips" in name)
    clips = Ledger(trial).evaluation()
    assert table["data"] == [list(clip.values()) for clip in clips]


# --- one run, whatever happens to its processes, or to the server ----------------------------------------------------


def test_a_trial_streams_through_kills_and_outages(place: Place, photos: Path) -> None:
    server, file = place.server, place.write(photos)
    command = ("train", file, "tracking.finish_timeout_s=30")
    with place.running(*command) as first:
        train_to(place, first, 250)
        first.process.resume()
        # W&B stands still; the training does not.
        server.fault = "hang"
        before = last(place.trial())
        wait_for(lambda: last(place.trial()) >= before + 100)
        server.fault = None
        first.process.terminate()
        code, said = first.ended()
    trial, run = place.trial(), place.tracked()
    assert code == 143, said
    assert said.count("W&B:") == 1, said
    assert (run.state, shown_rows(run)) == ("preempted", ledger_rows(trial))
    assert len(run.arrivals) > 2

    with place.running(*command) as second:
        train_to(place, second, last(trial) + 100)
        second.process.resume()
        feeder = wait_for(second.feeder)
        feeder.kill()
        wait_for(lambda: (other := second.feeder()) is not None and other.pid != feeder.pid)
        train_to(place, second, last(trial) + 25)
        second.process.kill()
        second.process.wait()

    with place.running(*command) as third:
        train_to(place, third, last(trial) + 25)
        third.process.resume()
        server.stop()
        before = last(trial)
        wait_for(lambda: last(trial) >= before + 100)
        server.start()
        code, said = third.ended()
    assert code == 0, said
    assert run.state == "finished"
    whole(run, trial)
    assert (run.project, run.job_type, run.group) == ("srloss", "train", "")
    assert {"loss:l1", "scale:x2"} <= set(run.tags)
    assert (run.config["candidate"], run.config["settings"]) == ("l1", "seed=0")
    assert run.config["training"]["log_every"] == 25
    assert run.summary["trial/attempts"] == 3


def test_a_server_that_is_gone_at_the_end_delays_it_no_longer_than_it_may(place: Place, photos: Path) -> None:
    server, file = place.server, place.write(photos, training={"steps": 500})
    with place.running("train", file, "tracking.finish_timeout_s=2") as running:
        train_to(place, running, 100)
        server.stop()
        running.process.resume()
        wait_for(lambda: "evaluated on" in running.output.read_text())
        began = time.monotonic()
        code, said = running.ended()
        assert time.monotonic() - began < 12
    trial = place.trial()
    assert code == 0, said
    assert f"send the rest with: srloss sync {trial}" in said
    assert "Traceback" not in said
    assert 0 < place.num_there() < len(ledger_rows(trial))
    # It is still gone.
    refused = place.run("sync", trial)
    assert (refused.returncode, "nothing is lost" in refused.stderr) == (1, True), refused
    server.start()
    done = place.run("sync", trial)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 runs are complete in W&B" in done.stdout
    whole(place.tracked(), trial)
    # That one server has everything is nothing to another.
    with WandbServerStandin() as other:
        elsewhere = place.run("sync", trial, "--json", WANDB_BASE_URL=other.url)
        assert [run["sent"] for run in json.loads(elsewhere.stdout)] == [len(ledger_rows(trial)) + 1]
        whole(run_of(other, trial), trial)


@pytest.mark.slow
def test_rows_that_a_proxy_has_swallowed_are_sent_in_another_run(place: Place, photos: Path) -> None:
    server, file = place.server, place.write(photos)
    with place.running("train", file, "tracking.finish_timeout_s=5", "tracking.preview_clips=0") as running:
        train_to(place, running, 100)
        server.fault = "garbage"
        running.process.resume()
        # The client takes the page for an answer.
        wait_for(lambda: sum(path.endswith("file_stream") for path in server.faulty) > 1)
        running.process.suspend()
        server.fault = None
        running.process.resume()
        code, said = running.ended()
    trial = place.trial()
    assert code == 0, said
    assert place.num_there() < len(ledger_rows(trial)) + 1
    done = place.run("sync", trial)
    assert done.returncode == 0, done.stdout + done.stderr
    broken, repaired = server.runs.values()
    assert f"lost rows of run {broken.id}, which stays as it is; all are in run {repaired.id}" in done.stdout
    whole(repaired, trial)
    again = place.run("sync", trial, "--json")
    assert [(run["complete"], run["sent"]) for run in json.loads(again.stdout)] == [(True, 0)]


# --- sync ------------------------------------------------------------------------------------------------------------


def attempt(ledger: Ledger, first: int, end: int, *, is_torn: bool) -> None:
    """Rows of an attempt, as one that was preempted leaves them; each attempt has measured something of its own."""
    number = ledger.begin_attempt()
    ledger.append({"kind": "attempt", "step": first - 1, "engine": "single", "ranks": 1, "device": "cpu"})
    for step in range(first, end):
        row = {"step": step, "samples": 2 * step, "seconds": step / 10}
        ledger.append({"kind": "train", **row, "loss": 1 / step + number, "terms": {"l1": {"raw": 1 / step}}})
        if step % 5 == 0:
            ledger.append({"kind": "validation", **row, "val/psnr_y": 30 + number / 10})
    if is_torn:
        with (ledger.folder / "metrics.jsonl").open("a") as file:
            file.write('{"attempt": 1, "kind": "train", "st')
    ledger.set_status(replace(ledger.status(), state=State.RUNNING, step=end - 1, attempt=number))


def finish(ledger: Ledger) -> None:
    clips = [{"clip": f"{n}#0", "source": str(n), "psnr_y": 30.0 + n} for n in range(3)]
    ledger.write_evaluation(clips)
    ledger.set_status(replace(ledger.status(), state=State.FINISHED))


def test_a_folder_of_preempted_runs_is_sent_with_each_row_once(place: Place, photos: Path) -> None:
    parameters = {"loss": ["l1", "mse"], "seed": list(range(10))}
    plain = {
        "name": "twenty",
        "parameters": parameters,
        "trial": tiny_trial(photos, tracking={"wandb": "auto"}),
    }
    sweep = create(parse_sweep(plain, where="test"), store=place.store, command="test")
    ledgers = [sweep.ledger(trial) for trial in sweep.trials]
    # Half of them have not begun when it is called first.
    for number, ledger in enumerate(ledgers[::2]):
        attempt(ledger, 1, 8 + number, is_torn=number % 2 == 0)
        attempt(ledger, 4 + number // 2, 12 + number, is_torn=number % 3 == 0)
        # What killed processes leave of their offline logs: nothing, or the beginning.
        log = sweep.folder.path / "wandb" / f"offline-run-20260101_000000-{ledger.folder.name}"
        log.mkdir(parents=True)
        if number % 3:
            (log / f"run-{ledger.folder.name}.wandb").write_bytes(b":W&B\x06\xbe\x00"[: number % 3 * 7 - 7])
    half = place.run("sync", "--json")
    assert half.returncode == 0, half.stdout + half.stderr
    for number, ledger in enumerate(ledgers):
        attempt(ledger, 1 + ledger.status().step // 2, 20 + number, is_torn=number % 4 == 1)
        attempt(ledger, 12, 21 + number, is_torn=False)
        finish(ledger)

    done = place.run("sync", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {run["url"].rpartition("/")[2]: run for run in json.loads(done.stdout)}
    assert set(found) == set(place.server.runs)
    assert len(found) == 20
    for ledger in ledgers:
        run, rows = run_of(place.server, ledger.folder), ledger_rows(ledger.folder)
        assert shown_rows(run) == [*rows, ("test", ledger.status().step)]
        assert (run.state, run.group) == ("finished", sweep.folder.sweep_id)
        measured = {row["trainer/step"]: row["train/loss"] for row in run.history if "train/loss" in row}
        assert all(loss in [1 / step + number for number in (1, 2, 3, 4)] for step, loss in measured.items())
        assert (found[run.id]["rows"], found[run.id]["complete"]) == (len(rows) + 1, True)
    sent = [sum(run["sent"] for run in json.loads(text)) for text in (half.stdout, done.stdout)]
    assert sum(sent) == sum(len(run.history) for run in place.server.runs.values())

    again = place.run("sync")
    assert (again.returncode, ", 0 of them sent now" in again.stdout) == (0, True), again.stdout
    assert f"20 of 20 runs are complete in W&B: {sum(sent)} rows verified" in again.stdout


def test_sync_watches_an_offline_sweep_as_it_runs(place: Place, photos: Path) -> None:
    trial = tiny_trial(photos, training=TRAINING | {"steps": 750}, tracking={"wandb": "auto"})
    file = place.folder / "sweep.yaml"
    parameters = {"loss": ["l1", "mse"], "seed": [0]}
    file.write_text(yaml.safe_dump({"parameters": parameters, "trial": trial, "memory_gb_per_rank": 0.5}))
    with place.running("sweep", file, WANDB_API_KEY="") as sweep:
        path = wait_for(lambda: next(iter(place.store.glob("sweeps/*/plan.json")), None)).parent
        with place.running("sync", "--watch") as sync:
            wait_for(lambda: sum(len(run.history) for run in place.server.runs.values()) > 2)
            assert sweep.process.poll() is None
            code, said = sweep.ended()
            assert code == 0, said
            assert said.count("W&B:") == 1
            assert f"no API key for {place.server.url.partition('://')[2]} on this machine" in said
            assert f"to send them later: srloss sync {path.name}" in said
            code, sent = sync.ended()
    assert code == 0, sent
    assert "3 of 3 runs are complete in W&B" in sent
    trials = list(path.glob("trials/*"))
    assert len(place.server.runs) == 3
    for one in trials:
        whole(run_of(place.server, one), one)
    run = run_of(place.server, path)
    assert (run.job_type, run.state) == ("sweep", "finished")
    assert (path / "report.html").read_bytes() in run.files.values()
    (table,) = (json.loads(content) for name, content in run.files.items() if "table/verdict/table" in name)
    assert {row[0] for row in table["data"]} == {"l1", "mse"}
    assert run.summary["verdict/sentence"]


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_has_auto_write_offline_and_online_refuse(place: Place, photos: Path) -> None:
    file = place.write(photos, training={"steps": 50})
    refused = place.run("train", file, "tracking.wandb=online", WANDB_API_KEY="w" * 40)
    assert refused.returncode == 1
    assert "does not accept the API key of this machine (wandb login --relogin)" in refused.stderr
    # Nothing was trained.
    assert not list(place.store.glob("trials/*/metrics.jsonl"))
    plain = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(plain | {"seed": 1}))
    done = place.run("train", file, WANDB_API_KEY="w" * 40)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("W&B:") == 1
    assert "runs are written offline for the whole sweep, nothing is lost; to send them" in done.stdout
    assert list(place.store.glob("trials/*/wandb/offline-run-*/*.wandb"))
    assert place.server.runs == {}


def test_a_key_in_a_file_is_refused_and_not_repeated(place: Place, photos: Path) -> None:
    plain = yaml.safe_load(place.write(photos).read_text())
    file = place.folder / "trial.yaml"
    file.write_text(yaml.safe_dump(plain | {"tracking": {"api_key": place.server.key}}))
    done = place.run("train", file)
    file.unlink()
    assert (done.returncode, done.stdout) == (2, "")
    assert "tracking.api_key: an API key is never read from a configuration" in done.stderr
    assert place.server.key not in done.stderr
