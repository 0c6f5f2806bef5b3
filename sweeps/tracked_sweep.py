"""What W&B shows of a sweep: a run for each trial, and one of its own with the verdict. Reads files only, without torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sr.tracked import Picture, Row, Table, Tracked, TrackedTrial
from sweeps.store import SweepFolder

_MOST_PICTURES = 8


class TrackedSweep:
    """The sweep's own run: how many trials stand where, and each verdict that was drawn."""

    job_type = "sweep"

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        self._plan = folder.read_plan()
        self.key = self.group = folder.sweep_id
        self.run_id = f"{folder.sweep_id}-{salt_of(self._plan.get('created', ''))}"
        self.name = f"sweep {self._plan['sweep'].get('name', folder.sweep_id)}"
        self.tags: tuple[str, ...] = ("sweep",)
        self._num_given = 0

    def config(self) -> dict[str, Any]:
        """The sweep file, complete."""
        return {**self._plan["sweep"], "sweep_id": self.folder.sweep_id, "command": self._plan["command"]}

    def new_rows(self) -> Iterator[Row]:
        """A row for each verdict since the last call."""
        verdicts = self.folder.verdicts()
        for number, verdict in enumerate(verdicts[self._num_given :], start=self._num_given):
            yield self._row(number, verdict)
        self._num_given = len(verdicts)

    def versions(self) -> list[list[Row]]:
        """There is one of each."""
        return [[row] for row in TrackedSweep(self.folder).new_rows()]

    def _row(self, number: int, verdict: dict[str, Any]) -> Row:
        ranking = verdict["ranking"]
        metrics = list(ranking[0]["scores"]) if ranking else []
        columns = ["loss", "seeds"]
        for metric in metrics:
            columns += [
                metric,
                f"{metric} over bicubic",
                f"{metric} low",
                f"{metric} high",
                f"{metric} p (Holm)",
            ]
        rows = [tuple(_cells(candidate, metrics)) for candidate in ranking]
        report = self.folder.report
        return Row(
            {"verdict/number": number, "verdict/losses": len(ranking), "verdict/clips": verdict["clips"]},
            {f"reference/{name}": self._pictures(folder) for name, folder in _REFERENCES.items()},
            {"verdict/table": Table(tuple(columns), tuple(rows))},
            {"verdict/report": report} if report.exists() else {},
        )

    def _pictures(self, name: str) -> tuple[Picture, ...]:
        paths = sorted((self.folder.path / "baseline" / "bicubic" / name).glob("*.png"))
        paths = paths[:: max(1, len(paths) // _MOST_PICTURES)][:_MOST_PICTURES]
        return tuple(Picture(path, path.stem) for path in paths)

    def summary(self) -> dict[str, Any]:
        """How many trials stand where, and the answer."""
        states = Counter(
            str(self.folder.trial(trial_id).status().state)
            for trial_id, *_ in self.folder.read_plan()["trials"]
        )
        found: dict[str, Any] = {f"trials/{state}": count for state, count in states.items()}
        if verdicts := self.folder.verdicts():
            last = verdicts[-1]
            found |= {"verdict/sentence": last["verdict"], "verdict/caveats": "\n".join(last["caveats"])}
            if last["ranking"]:
                found["verdict/best"] = last["ranking"][0]["loss"]
        return found

    def exit_code(self) -> int | None:
        """None until all its trials have ended and a verdict was drawn; whoever resumes it may draw another."""
        trials = [self.folder.trial(trial_id).status() for trial_id, *_ in self.folder.read_plan()["trials"]]
        is_over = all(status.has_ended for status in trials) and self.folder.verdicts()
        return (0 if any(status.is_over for status in trials) else 1) if is_over else None


_REFERENCES = {"hr": "hr", "lr": "lr", "bicubic": "crops"}


def _cells(candidate: dict[str, Any], metrics: list[str]) -> Iterator[Any]:
    yield candidate["loss"]
    yield len(candidate["trials"])
    for metric in metrics:
        over = candidate["over_bicubic"].get(metric, {})
        yield candidate["scores"][metric]
        yield from (over.get(part) for part in ("mean", "low", "high", "p_adjusted"))


class RunsOf:
    """The runs of a sweep's folder, or of a lone trial's; new trials of a search appear as it goes.

    Args:
        folder: The sweep's, or a trial's, within a sweep or not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder = folder.resolve()
        above = SweepFolder(folder.parent.parent)
        self.sweep = (
            SweepFolder(folder) if SweepFolder(folder).exists() else above if above.exists() else None
        )
        self._is_trial = (folder / "config.yaml").exists()
        self._known: dict[str, Tracked] = {}
        self._seen = -1

    @property
    def root(self) -> Path:
        """Folder of the client's files: that of the sweep, where there is one."""
        return self.sweep.path if self.sweep else self.folder

    def first_config(self) -> Path:
        """A trial's config.yaml: what concerns W&B is the same in all of a sweep."""
        if self._is_trial:
            return self.folder / "config.yaml"
        assert self.sweep is not None, "a folder is one or the other"
        return self.sweep.trial(self.sweep.read_plan()["trials"][0][0]).folder / "config.yaml"

    def __call__(self) -> list[Tracked]:
        """All that are known now."""
        if self.sweep is None:
            if not self._known:
                made = (self.folder / "config.yaml").stat().st_mtime
                self._known[self.folder.name] = TrackedTrial(self.folder, salt=salt_of(f"{made:.0f}"))
            return list(self._known.values())
        changed = (self.sweep.path / "plan.json").stat().st_mtime_ns
        if changed != self._seen:
            self._seen = changed
            plan = self.sweep.read_plan()
            for trial_id, candidate, variant in plan["trials"]:
                if trial_id not in self._known and (not self._is_trial or trial_id == self.folder.name):
                    self._known[trial_id] = TrackedTrial(
                        self.sweep.trial(trial_id).folder,
                        group=self.sweep.sweep_id,
                        candidate=candidate,
                        variant=variant,
                        salt=salt_of(plan.get("created", "")),
                    )
            if not self._is_trial and self.sweep.sweep_id not in self._known:
                self._known[self.sweep.sweep_id] = TrackedSweep(self.sweep)
        return list(self._known.values())


def salt_of(made: str) -> str:
    """Tells what was made then from the same made at another time; W&B gives no id a second time, not even a deleted one's."""
    return hashlib.sha256(made.encode()).hexdigest()[:4]


def feed_lock(root: Path, name: str, *, mode: str = "online") -> Path:
    """Folder that whoever feeds W&B with this sweep or trial holds: two would overwrite each other's rows there.

    Args:
        root: Folder of the client's files.
        name: Of the sweep or trial.
        mode: Whoever writes offline runs is in nobody's way who sends, and the other way around.
    """
    place = root / "wandb" / "feeds" / (name if mode == "online" else f"{name}-{mode}")
    place.mkdir(parents=True, exist_ok=True)
    return place
