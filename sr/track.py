"""The only door to Weights & Biases: a view of the trials' ledgers, fed from outside the trials.

One client process serves all trials of a sweep, from a thread beside the driver, so that neither an outage of W&B nor
its overhead ever reaches training, and a trial that dies loses nothing: what W&B holds is rebuilt from its ledger.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from sr.config import to_plain
from sr.evaluate import mean_scores
from sr.ledger import Ledger

log = logging.getLogger(__name__)

_POLL_S = 1.0
_SECTIONS = {"train": "train", "validation": "val"}


@dataclass
class TrackedTrial:
    """One trial as W&B shows it."""

    ledger: Ledger
    run_id: str
    name: str
    tags: tuple[str, ...]
    _offset: int = 0
    _sent: set[tuple[str, int]] = field(default_factory=set)
    run: Any = None

    def new_rows(self) -> Iterable[dict[str, Any]]:
        """Rows that stand in the ledger since the last call; a step that a later attempt repeated comes once."""
        path = self.ledger.folder / "metrics.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole, _, _ = content.rpartition(b"\n")
        self._offset += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            row = json.loads(line)
            key = (row["kind"], row["step"])
            if row["kind"] in _SECTIONS and key not in self._sent:
                self._sent.add(key)
                yield row


class WandbFeed:
    """Feeds offline W&B runs from ledgers until it is left; use it in a `with`."""

    def __init__(self, root: Path, trials: Sequence[TrackedTrial], *, project: str, group: str) -> None:
        # The client is a process of its own, with a working folder of its own.
        self._root = root.resolve()
        self._trials = list(trials)
        self._project = project
        self._group = group
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="wandb-feed", daemon=True)
        self.problem = ""
        """Why W&B was given up, empty while all is well; the ledgers hold everything all the same."""

    def add(self, trial: TrackedTrial) -> None:
        """Feeds one more trial."""
        self._trials.append(trial)

    def __enter__(self) -> WandbFeed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=120)

    def _serve(self) -> None:
        try:
            self._prepare()
            while not self._stop.wait(_POLL_S):
                self._poll()
            self._poll()
            self._finish()
        except Exception as error:  # noqa: BLE001 - a tracker never stops the work it tracks; the reason is reported
            self.problem = f"{type(error).__name__}: {error}"
            log.warning("W&B is off for the rest of this sweep (%s); the ledgers are complete", self.problem)

    def _prepare(self) -> None:
        # What W&B stages goes beside its runs: home folders on clusters are small, and a later sync needs it.
        for name in ("CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
            os.environ[f"WANDB_{name}"] = str(self._root / "wandb" / ".client")
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        # Whoever started this process may have a client; it ends when he does, in the middle of a sweep.
        os.environ.pop("WANDB_SERVICE", None)
        for trial in self._trials:
            # A run of an interrupted sweep is rebuilt whole rather than continued: two logs of one run would
            # repeat steps when they are uploaded.
            for leftover in offline_runs(self._root, trial.run_id):
                shutil.rmtree(leftover)

    def _poll(self) -> None:
        for trial in self._trials:
            for row in trial.new_rows():
                self._run_of(trial).log(_flat(row))

    def _finish(self) -> None:
        for trial in self._trials:
            if trial.run is None:
                continue
            evaluation = trial.ledger.evaluation()
            run = self._run_of(trial)
            if evaluation:
                means = {f"test/{name}": mean for name, mean in mean_scores(evaluation).items()}
                run.log({"trainer/step": trial.ledger.status().step, **means})
            failed = trial.ledger.status().state in ("failed", "cancelled")
            run.finish(exit_code=1 if failed else 0)

    def _run_of(self, trial: TrackedTrial) -> Any:  # noqa: ANN401 - wandb's Run; importing it here would cost 0.5 s
        import wandb

        if trial.run is None:
            trial.run = wandb.init(
                mode="offline",
                dir=str(self._root),
                project=self._project,
                group=self._group,
                job_type="train",
                id=trial.run_id,
                name=trial.name,
                tags=trial.tags,
                config=to_plain(trial.ledger.config()),
                reinit="create_new",
                settings=_settings(),
            )
            trial.run.define_metric("trainer/step")
            trial.run.define_metric("*", step_metric="trainer/step")
        return trial.run


def _settings() -> Any:  # noqa: ANN401
    import wandb

    return wandb.Settings(
        quiet=True,
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        x_save_requirements=False,
        x_disable_stats=True,
        finish_timeout=60,
        # The default of 15 s leaves an empty log behind a killed driver, which a later upload trips over.
        x_transaction_log_flush_interval=2,
    )


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A ledger row in W&B's names: `train/loss`, `train/terms/l1/raw`, `val/psnr_y`."""
    section = _SECTIONS[row["kind"]]
    flat: dict[str, Any] = {
        "trainer/step": row["step"],
        "trainer/samples": row["samples"],
        "trainer/seconds": row["seconds"],
    }
    for name, value in row.items():
        if name not in ("kind", "step", "samples", "seconds", "attempt"):
            flat |= _leaves(name if "/" in name else f"{section}/{name}", value)
    return flat


def _leaves(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in _leaves(f"{name}/{key}", part).items()}
    return {name: value}


def offline_runs(root: Path, run_id: str) -> list[Path]:
    """Folders of the offline runs with this id."""
    return sorted((root / "wandb").glob(f"offline-run-*-{run_id}"))


@dataclass(frozen=True, slots=True)
class VerifiedRun:
    """What W&B's own reader found in one trial's offline run."""

    name: str
    rows: int
    expected_rows: int
    problem: str

    @property
    def is_sound(self) -> bool:
        """Whether every row of the ledger is in W&B's log, once."""
        return not self.problem and self.rows == self.expected_rows


def verify_offline_run(root: Path, trial: TrackedTrial) -> VerifiedRun:
    """Reads a trial's offline run back with `wandb leet inspect` and compares it with the ledger."""
    expected = (
        len(trial.ledger.rows("train"))
        + len(trial.ledger.rows("validation"))
        + bool(trial.ledger.evaluation())
    )
    folders = offline_runs(root, trial.run_id)
    if len(folders) != 1:
        return VerifiedRun(trial.name, 0, expected, f"expected one offline run, found {len(folders)}")
    log_file = next(folders[0].glob("*.wandb"), None)
    if log_file is None:
        return VerifiedRun(trial.name, 0, expected, f"{folders[0]} holds no .wandb file")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    try:
        records = [json.loads(line) for line in done.stdout.splitlines() if line]
    except json.JSONDecodeError as error:
        return VerifiedRun(
            trial.name, 0, expected, f"wandb leet inspect printed something else than JSON: {error}"
        )
    rows = sum(record["type"] == "history" for record in records)
    if done.returncode or not records:
        return VerifiedRun(trial.name, rows, expected, (done.stderr or "no records").strip().splitlines()[-1])
    return VerifiedRun(trial.name, rows, expected, "")
