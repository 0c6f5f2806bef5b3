"""Frame numbers in file names: what follows what, and where a frame is missing."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Runs:
    """Consecutive frames of one folder."""

    runs: tuple[tuple[str, ...], ...]
    """File names in the order of time."""
    gaps: tuple[tuple[str, str], ...] = ()
    """Neighbouring files between which a number is missing."""
    repeated: tuple[tuple[str, str], ...] = ()
    """A file that is in no run, and the one with the same number."""
    irregular: tuple[str, ...] = ()
    """The first file of each run whose names tell no regular numbers: they follow each other by name."""


def natural_key(name: str) -> tuple[tuple[str, int, str], ...]:
    """Sorts "im2" before "im10"."""
    # The digits themselves at the end: "01" and "1" are one number, and still two names.
    return tuple((text, int(digits or -1), digits) for text, digits in _parts(name))


def find_runs(names: Iterable[str]) -> Runs:
    """Sorts files into runs of consecutive frames, by the numbers in their names.

    The number that changes from file to file is the frame's. Files that differ in anything else are different
    recordings. A step between numbers that is larger than the usual one is a gap.
    """
    groups: dict[tuple[object, ...], dict[int | None, list[str]]] = defaultdict(lambda: defaultdict(list))
    for shape, files in _by_shape(names).items():
        column = _frame_column(files)
        for file in files:
            numbers = _numbers(file)
            others = tuple(number for at, number in enumerate(numbers) if at != column)
            number = None if column is None else numbers[column]
            groups[(shape, column, others if column is not None else ())][number].append(file)
    found = [_runs_of_group(group) for group in groups.values()]
    return Runs(
        tuple(sorted((run for one in found for run in one.runs), key=lambda run: natural_key(run[0]))),
        tuple(gap for one in found for gap in one.gaps),
        tuple(pair for one in found for pair in one.repeated),
        tuple(name for one in found for name in one.irregular),
    )


def _parts(name: str) -> list[tuple[str, str]]:
    """A name without its ending as pairs of text and the digits that follow it."""
    return re.findall(r"([^0-9]*)([0-9]*)", PurePosixPath(name).stem)[:-1]


def _numbers(name: str) -> list[int]:
    return [int(digits) for _, digits in _parts(name) if digits]


def _by_shape(names: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """Files whose names are the same but for the numbers; all names without a number count as the same."""
    shapes: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in sorted(names, key=lambda name: (natural_key(name), name)):
        parts = _parts(name)
        numbered = any(digits for _, digits in parts)
        shapes[tuple(text + "0" * bool(digits) for text, digits in parts) if numbered else ()].append(name)
    return shapes


def _frame_column(files: list[str]) -> int | None:
    """Which of the numbers in the names counts the frames; None where it is none of them.

    It is the one without which the fewest recordings are told apart; of several the last.
    """
    rows = [_numbers(file) for file in files]
    if not rows[0]:
        return None
    recordings = {
        column: len({tuple(row[:column] + row[column + 1 :]) for row in rows})
        for column in range(len(rows[0]))
    }
    best = min(recordings, key=lambda column: (recordings[column], -column))
    # All numbers change with every file, as a counter and a time do: then none of them can be left out.
    return None if recordings[best] == len(files) > 1 else best


def _runs_of_group(group: dict[int | None, list[str]]) -> Runs:
    if None in group:
        files = group[None]
        return Runs((tuple(files),), irregular=(files[0],) if len(files) > 1 else ())
    numbers = sorted(number for number in group if number is not None)
    repeated = tuple((file, group[n][0]) for n in numbers for file in group[n][1:])
    files = [group[number][0] for number in numbers]
    step = _usual_step([after - before for before, after in pairwise(numbers)])
    if step is None:
        return Runs((tuple(files),), repeated=repeated, irregular=(files[0],))
    runs: list[list[str]] = [[files[0]]]
    gaps: list[tuple[str, str]] = []
    for place in range(1, len(files)):
        if numbers[place] - numbers[place - 1] > step:
            gaps.append((files[place - 1], files[place]))
            runs.append([])
        runs[-1].append(files[place])
    return Runs(tuple(map(tuple, runs)), tuple(gaps), repeated)


def _usual_step(steps: list[int]) -> int | None:
    """Between the numbers of consecutive frames; None where they tell none."""
    if not steps or 1 in steps:  # A step of one cannot leave out anything, so every larger one does.
        return 1
    step, times = min(Counter(steps).items(), key=lambda counted: (-counted[1], counted[0]))
    return step if step == min(steps) and 2 * times >= len(steps) else None
