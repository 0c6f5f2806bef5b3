"""What W&B shows of a trial: its ledger's rows, in the ledger's order, under W&B's names. Knows nothing of W&B itself.

The n-th row here is W&B's row n, however often a trial was interrupted and whoever sends it: the ledger only grows, and a
step that a later attempt repeats keeps its place. So what W&B has already is known from the number of its rows alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sr.configfile import read_yaml
from sr.ledger import Ledger, State
from sr.scores import mean_scores

STEP = "trainer/step"
"""The axis of all curves."""
_SECTIONS = {"train": "train", "validation": "val", "stage": "ladder"}
_ELSEWHERE = {
    "step": STEP,
    "samples": "trainer/samples",
    "seconds": "trainer/seconds",
    "stage": "ladder/stage",
    "images_per_second": "perf/images_per_second",
    "memory_gb": "perf/memory_gb",
    "device_memory_gb": "perf/device_memory_gb",
}
_UNSENT = ("kind", "attempt")
_MOST_PICTURES = 8
_NAME, _TAG = 128, 64
"""Characters that W&B takes."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file to show."""

    path: Path
    caption: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table to show."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a run, by key."""

    scalars: dict[str, Any]
    pictures: dict[str, tuple[Picture, ...]] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    pages: dict[str, Path] = field(default_factory=dict)
    """HTML files."""


class Tracked(Protocol):
    """Something that W&B shows as one run."""

    key: str
    """Name of its folder, in which no other run lies."""
    run_id: str
    """In W&B, where the same trial may stand in another sweep, or was trained before its folder was deleted."""
    job_type: str
    group: str

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """To find it by."""
        ...

    def config(self) -> dict[str, Any]:
        """Its configuration, nested."""
        ...

    def new_rows(self) -> Iterator[Row]:
        """Rows that were not given before."""
        ...

    def versions(self) -> list[list[Row]]:
        """For each row from the first all that it may be: a step that several attempts took may be that of any of them."""
        ...

    def summary(self) -> dict[str, Any]:
        """What stands beside the curves now."""
        ...

    def exit_code(self) -> int | None:
        """0 where it ended well, 1 where it failed; None while rows may still come."""
        ...


class TrackedTrial:
    """One trial as W&B shows it.

    Args:
        folder: The trial's.
        group: The sweep's id, or empty.
        candidate: The loss as tables show it.
        variant: What tells it from the other trials of that loss besides its seed, e.g. `model.blocks=8`.
        salt: Told apart by it in W&B from the same trial elsewhere.
    """

    job_type = "train"

    def __init__(
        self, folder: Path, *, group: str = "", candidate: str = "", variant: str = "", salt: str = ""
    ) -> None:
        self.ledger = Ledger(folder)
        self.key = folder.name
        self.run_id = f"{folder.name}-{salt}" if salt else folder.name
        self.group = group
        self._candidate = candidate
        self._variant = variant
        self._offset = 0
        self._sent: set[tuple[Any, ...]] = set()
        self._ranks = 1
        self._num_problems = 0
        self._is_evaluated = False

    @cached_property
    def _plain(self) -> dict[str, Any]:
        # Read when it is asked for: of a thousand trials that wait it takes long.
        return read_yaml(self.ledger.folder / "config.yaml")

    @property
    def name(self) -> str:
        """What the sweep, or the trial's own configuration, calls it."""
        own = "" if self.group else self._plain.get("name")
        return (own or f"{self._loss} {self._settings}")[:_NAME]

    @property
    def tags(self) -> tuple[str, ...]:
        """Its loss and scale."""
        return f"loss:{self._loss}"[:_TAG], f"scale:x{self._plain['scale']}"

    @property
    def _loss(self) -> str:
        return self._candidate or _loss(self._plain)

    @property
    def _settings(self) -> str:
        return ", ".join(part for part in (self._variant, f"seed={self._plain['seed']}") if part)

    def config(self) -> dict[str, Any]:
        """The configuration as the trial began, and what the sweep calls it."""
        return {
            **self._plain,
            "candidate": self._loss,
            "settings": self._settings,
            "sweep_id": self.group,
            "command": self.ledger.command(),
        }

    def new_rows(self) -> Iterator[Row]:
        """Rows that stand in the ledger since the last call; a step that attempts repeated comes once, as last measured."""
        # Asked first: what is written between the two would come after the evaluation otherwise.
        clips = self._clips_of_ended()
        found: dict[tuple[Any, ...], Row] = {}
        for row in self.read():
            if row["kind"] in _SECTIONS and _key(row) not in self._sent:
                found[_key(row)] = self.row(row)
        self._sent |= found.keys()
        yield from found.values()
        yield from self._end(clips)

    def read(self) -> Iterator[dict[str, Any]]:
        """All rows that the ledger has got since the last call."""
        path = self.ledger.folder / "metrics.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            # The last line may still be being written.
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for row in map(json.loads, filter(None, whole.split(b"\n"))):
            if row["kind"] == "attempt":
                self._ranks = row.get("ranks", 1)
            self._num_problems += row["kind"] == "problem"
            yield row

    def row(self, row: Mapping[str, Any]) -> Row:
        """One row of the ledger."""
        pictures: dict[str, tuple[Picture, ...]] = {}
        if row["kind"] == "validation":
            shown = self.ledger.previews(row["step"])
            pictures["val/crops"] = tuple(
                Picture(path, f"{path.stem}, step {row['step']}") for path in shown[:_MOST_PICTURES]
            )
        return (
            Row(flat(row) | self._device_hours(row["seconds"]), pictures)
            if "seconds" in row
            else Row(flat(row))
        )

    def _device_hours(self, seconds: float) -> dict[str, float]:
        return {"perf/device_hours": seconds * self._ranks / 3600}

    def _clips_of_ended(self) -> list[dict[str, Any]]:
        """Its evaluation, if that was not given yet; until it is over, its ledger may get rows that come before."""
        if self._is_evaluated or not self.ledger.status().is_over:
            return []
        return self.ledger.evaluation()

    def _end(self, clips: list[dict[str, Any]]) -> Iterator[Row]:
        """The last row, of the evaluation, once."""
        if clips:
            self._is_evaluated = True
            yield self._evaluated(clips)

    def _evaluated(self, clips: list[dict[str, Any]]) -> Row:
        status = self.ledger.status()
        scores = {f"test/{name}": mean for name, mean in mean_scores(clips).items()}
        columns = tuple(clips[0])
        kept = sorted((self.ledger.folder / "crops").glob("*.png"))
        kept = kept[:: max(1, len(kept) // _MOST_PICTURES)][:_MOST_PICTURES]
        return Row(
            {
                STEP: status.step,
                "trainer/seconds": status.seconds,
                **self._device_hours(status.seconds),
                **scores,
            },
            {"test/crops": tuple(Picture(path, path.stem) for path in kept)},
            {"test/clips": Table(columns, tuple(tuple(clip[name] for name in columns) for clip in clips))},
        )

    def versions(self) -> list[list[Row]]:
        """For each row from the first all that it may be: a step that several attempts took may be that of any of them."""
        every: dict[tuple[Any, ...], list[Row]] = {}
        fresh = TrackedTrial(self.ledger.folder)
        clips = fresh._clips_of_ended()
        for row in fresh.read():
            if row["kind"] in _SECTIONS:
                every.setdefault(_key(row), []).append(fresh.row(row))
        return [*every.values(), *([row] for row in fresh._end(clips))]

    def summary(self) -> dict[str, Any]:
        """Where the trial stands, as far as its rows were read."""
        status = self.ledger.status()
        return {
            "trial/state": str(status.state),
            "trial/reason": status.reason,
            "trial/attempts": status.attempt,
            "trial/problems": self._num_problems,
            "trial/stream_hash": status.stream_hash,
        }

    def exit_code(self) -> int | None:
        """None until it was evaluated, or ended without."""
        status = self.ledger.status()
        if status.state in (State.FAILED, State.CANCELLED):
            return 1
        return 0 if status.is_over and self.ledger.evaluation() else None


def _loss(plain: Mapping[str, Any]) -> str:
    """The loss of a trial that no sweep has named."""
    loss = plain["loss"]
    terms = [
        term["type"] if term["weight"] == 1 else f"{term['weight']:g}*{term['type']}"
        for term in loss["terms"]
    ]
    return loss.get("name") or " + ".join(terms)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a later attempt repeats; a stage of a ladder may diverge at the very step at which the last one ended."""
    return row["kind"], row["step"], row["stage"] if row["kind"] == "stage" else None


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A ledger's row in W&B's names: `train/loss`, `train/terms/l1/raw`, `val/psnr_y`."""
    section = _SECTIONS[row["kind"]]
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name not in _UNSENT:
            found |= _leaves(_ELSEWHERE.get(name) or (name if "/" in name else f"{section}/{name}"), value)
    return found


def _leaves(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in _leaves(f"{name}/{key}", part).items()}
    # W&B draws numbers and shows words; lists of either are neither.
    if isinstance(value, list | tuple):
        return {name: json.dumps(value)}
    return {} if value is None else {name: value}


def difference(shown: Mapping[str, Any], row: Row) -> str:
    """What is missing or different in a row as W&B gives it back; empty where all of it is there."""
    for name, value in row.scalars.items():
        if name not in shown:
            return f"{name} is missing"
        if not _is_same(shown[name], value):
            return f"{name} is {shown[name]} instead of {value}"
    for name in [*(name for name, shown_ in row.pictures.items() if shown_), *row.tables, *row.pages]:
        if name not in shown:
            return f"{name} is missing"
    return ""


def _is_same(shown: object, value: object) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
        return shown == words[str(value)] or str(shown) == str(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(shown, int | float):
        return shown == value
    return math.isclose(shown, value, rel_tol=1e-9, abs_tol=0.0)
