"""The run store: where sweeps and trials lie, and how people name them.

STORE/sweeps/<sweep id>/   plan.json, trials/<trial id>/, baseline/<name>/, wandb/, report.html, verdicts.jsonl
STORE/trials/<trial id>/   trials trained by hand
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.records import records_in
from sr.store import default_store as default_store

if TYPE_CHECKING:
    from sr.ledger import Ledger


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """One sweep on disk."""

    path: Path

    @property
    def sweep_id(self) -> str:
        """Name of the sweep."""
        return self.path.name

    def exists(self) -> bool:
        """Whether the sweep has been made."""
        return (self.path / "plan.json").exists()

    @property
    def report(self) -> Path:
        """Where its report is written."""
        return self.path / "report.html"

    @property
    def resume_command(self) -> str:
        """The command that continues it in the way that it was started."""
        is_submitted = any(record.launcher != "local" for record in records_in(self.path))
        words = ["resume"] if is_submitted else ["sweep", "--resume"]
        return shlex.join(["srloss", *words, self.sweep_id, "--store", str(self.path.parent.parent)])

    def trial(self, trial_id: str) -> Ledger:
        """The ledger of one of its trials."""
        # Imported late, with torch behind it: whoever only asks where things are does not wait for that.
        from sr.ledger import Ledger

        return Ledger(self.path / "trials" / trial_id)

    def baseline(self, name: str) -> Ledger:
        """Evaluation of a generator without training, in the same layout."""
        from sr.ledger import Ledger

        return Ledger(self.path / "baseline" / name)

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Stores the plan, once, when the sweep is made."""
        from sr.files import write_atomically

        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "plan.json", json.dumps(plan, indent=1).encode())

    def verdicts(self) -> list[dict[str, Any]]:
        """The verdicts that were drawn when it ended, the latest last."""
        from sr.ledger import read_rows

        return read_rows(self.path / "verdicts.jsonl")

    def add_verdict(self, verdict: dict[str, Any]) -> None:
        """Keeps a verdict, if it is another one than the last."""
        known = self.verdicts()
        line = json.dumps(verdict)
        # Compared as text: scores may be NaN, which is not equal to itself.
        if not known or json.dumps(known[-1]) != line:
            with (self.path / "verdicts.jsonl").open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def read_plan(self) -> dict[str, Any]:
        """The stored plan."""
        return json.loads((self.path / "plan.json").read_text())


def sweeps_in(store: Path) -> list[SweepFolder]:
    """All sweeps of a store, the latest last."""
    plans = (store / "sweeps").glob("*/plan.json")
    return [SweepFolder(plan.parent) for plan in sorted(plans, key=lambda plan: plan.stat().st_mtime)]


def find_sweep(store: Path, name: str | None) -> SweepFolder:
    """The sweep with this id, or with an id that begins so, or in this folder; the latest where `name` is None.

    Raises:
        ValueError: There is none, or the beginning fits several.
    """
    if name is not None and (Path(name) / "plan.json").exists():
        return SweepFolder(Path(name))
    known = sweeps_in(store)
    if not known:
        raise ValueError(
            f"{store}: no sweep here yet; start one with: srloss sweep FILE (or name the store with --store)"
        )
    if name is None:
        return known[-1]
    fitting = [sweep for sweep in known if sweep.sweep_id == name] or [
        s for s in known if s.sweep_id.startswith(name)
    ]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(sweep.sweep_id for sweep in (fitting or known))
    what = "fits several sweeps" if fitting else "is no sweep"
    raise ValueError(f"'{name}' {what} of {store}; choose one of: {listed}")
