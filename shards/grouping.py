"""Which members of a tar make a sample, and what each is for.

Samples are divided as WebDataset divides them: what comes before the first dot of the base name, with the folders
in front of it, is the key; the rest is the suffix; a sample is what stands side by side with one key.

A picture's suffix is a label and perhaps a number: `im3.png` is number 3 of "im", `left.jpg` is "left", `png` is
"". Labels of `LR_LABELS` are low-resolution partners. Of the others, the only one is the frames of the clip, in the
order of their numbers; where there are several, the only one of `FRAME_LABELS`. What stays unclear is for the user.
Arrays (`.npy`) count as pictures where a sample has no others.
"""

import itertools
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from shards.scan import Entry, Problem, shown

LR_LABELS = frozenset({"lr", "lq", "low", "lowres", "low_res", "low_resolution", "low-resolution"})
FRAME_LABELS = frozenset({"", "im", "img", "image", "frame", "hr", "gt", "hq", "high", "target"})
KIND_OF_ENDING = {"png": "png", "jpg": "jpg", "jpeg": "jpg", "webp": "webp", "npy": "npy", "json": "json"}
PICTURE_KINDS = ("png", "jpg", "webp")
ARRAY_KINDS = ("npy",)
EXECUTABLE = frozenset(
    [
        "pkl",
        "pickle",
        "joblib",
        "dill",
        "pyd",
        "pt",
        "pth",
        "ckpt",
        "py",
        "pyc",
        "so",
        "dll",
        "dylib",
        "exe",
        "sh",
    ]
)
"""Endings of members that some readers run or unpickle."""
MAX_MEMBERS = 10_000
"""Of one sample."""


class UnusableSampleError(Exception):
    """A sample that cannot become a clip. Its text is the reason."""


@dataclass(frozen=True)
class RoleChoice:
    """Which pictures of a sample are which, where the user says it; None where the names decide."""

    frames: str | None = None
    """Label of the frames."""
    lr: str | None = None
    """Label of the low-resolution partners."""


@dataclass(frozen=True)
class Group:
    """Members of a tar that stand side by side with one key."""

    key: str
    entries: list[Entry]


@dataclass
class Grouped:
    """All that a tar holds."""

    groups: list[Group] = field(default_factory=list)
    """The samples that may be usable, in the order of the tar."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Key of each sample that is not, to the reason."""
    aside: list[tuple[str, str]] = field(default_factory=list)
    """Members that belong to no sample: name and reason."""
    ungrouped: list[str] = field(default_factory=list)
    """Names of all regular members that are in no group, those with unsafe names included."""
    damage: Problem | None = None
    """What ended the tar early."""


@dataclass(frozen=True)
class Roles:
    """The pictures of a sample that matter, each in the order of time."""

    frames: list[Entry]
    lr: list[Entry]


def split_name(name: str) -> tuple[str, str] | None:
    """Key and suffix; None for what WebDataset passes over: hidden members, and those without a suffix."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem or not dot or re.match(r"__[^/]*__($|/)", name):
        return None
    return folder + slash + stem, suffix


def group(parts: Iterable[Entry | Problem], *, keep_rejected: bool = False) -> Grouped:
    """The samples of a tar, from all that `shards.scan.scan` finds in it.

    The groups are those that are not rejected; with `keep_rejected` these too, as other readers see them.
    """
    grouping = _Grouping()
    for part in parts:
        if isinstance(part, Problem):
            grouping.problem(part)
        else:
            grouping.entry(part)
    grouped = grouping.grouped
    if not keep_rejected:
        grouped.groups = [each for each in grouped.groups if each.key not in grouped.rejected]
    return grouped


def kind_of(name: str) -> str:
    """One of `shards.records.KINDS`, by the ending of the name."""
    return KIND_OF_ENDING.get(name.rpartition(".")[2].lower(), "other")


def is_executable(name: str) -> bool:
    """Whether some readers would run code from such a member."""
    return name.rpartition(".")[2].lower() in EXECUTABLE


def roles_of(sample: Group, choice: RoleChoice) -> Roles:
    """Which pictures are the frames and which their low-resolution partners.

    Raises:
        UnusableSampleError: That is unclear, or some are missing.
    """
    pictures = _by_label(sample, PICTURE_KINDS) or _by_label(sample, ARRAY_KINDS)
    if not pictures:
        raise UnusableSampleError(f"holds no picture ({', '.join(PICTURE_KINDS)})")
    lr_labels = [choice.lr] if choice.lr is not None else sorted(pictures.keys() & LR_LABELS)
    if len(lr_labels) > 1:
        raise UnusableSampleError(
            f"several kinds of low-resolution pictures: {_quoted(lr_labels)}; choose one by label"
        )
    frames = _in_order(pictures[_frame_label(pictures, lr_labels, choice)], "frame")
    lr = (
        _in_order(pictures[lr_labels[0]], "low-resolution frame")
        if lr_labels and lr_labels[0] in pictures
        else []
    )
    if choice.lr is not None and not lr:
        raise UnusableSampleError(f"holds no low-resolution picture with label {choice.lr!r}")
    if lr and len(lr) != len(frames):
        raise UnusableSampleError(f"has {len(frames)} frames and {len(lr)} low-resolution partners")
    return Roles(frames, lr)


class _Grouping:
    """Remembers the keys that are done: one that comes again was not written side by side."""

    def __init__(self) -> None:
        self.grouped = Grouped()
        self.places: dict[str, int] = {}
        self.current: Group | None = None
        self.suffixes: set[str] = set()

    def problem(self, problem: Problem) -> None:
        if problem.fatal:
            self.grouped.damage = problem
            if self.current is not None and problem.kind != "behind":
                self.reject(self.current.key, f"may be incomplete: {problem.what}")
            return
        divided = split_name(problem.name)
        if problem.kind == "name":
            self.grouped.ungrouped.append(problem.name)
        if divided is None or problem.kind == "type":
            self.grouped.aside.append((problem.name, problem.what))
        else:
            self.reject(divided[0], problem.what)

    def entry(self, entry: Entry) -> None:
        divided = split_name(entry.name)
        if divided is None:
            self.grouped.ungrouped.append(entry.name)
            self.grouped.aside.append(
                (entry.name, "hidden or without a suffix: WebDataset passes it over too")
            )
            return
        key, suffix = divided
        if self.current is None or self.current.key != key:
            self.begin(key, entry)
        assert self.current is not None
        if suffix.lower() in self.suffixes:
            self.reject(key, f"{shown(entry.name)} is there twice (WebDataset ignores the case of a suffix)")
        self.suffixes.add(suffix.lower())
        if len(self.current.entries) < MAX_MEMBERS:
            self.current.entries.append(entry)
        else:
            self.reject(key, f"more than {MAX_MEMBERS} members")

    def begin(self, key: str, entry: Entry) -> None:
        first = self.places.setdefault(key, entry.header)
        if first != entry.header:
            self.reject(
                key,
                f"its members are not side by side: the key comes at byte {first} and again at byte "
                f"{entry.header}; write the tar anew, sorted by name",
            )
        self.current = Group(key, [])
        self.suffixes = set()
        self.grouped.groups.append(self.current)

    def reject(self, key: str, reason: str) -> None:
        self.grouped.rejected.setdefault(key, reason)


def _by_label(sample: Group, kinds: Collection[str]) -> dict[str, list[tuple[int | None, Entry]]]:
    """The members of these kinds with their numbers."""
    pictures: dict[str, list[tuple[int | None, Entry]]] = {}
    for entry in sample.entries:
        if kind_of(entry.name) in kinds:
            label, number = _label(entry.name[len(sample.key) + 1 :])
            pictures.setdefault(label, []).append((number, entry))
    return pictures


def _label(suffix: str) -> tuple[str, int | None]:
    """Label, in lower case, and number of a picture: "im3.png" is ("im", 3), "0003.lr.png" is ("lr", 3)."""
    stem = suffix.rpartition(".")[0].lower()
    match = re.fullmatch(r"(.*?)([0-9]{1,18})", stem)
    if match:
        return match[1].strip("._- "), int(match[2])
    match = re.fullmatch(r"([0-9]{1,18})(.*)", stem)
    if match:
        return match[2].strip("._- "), int(match[1])
    return stem, None


def _frame_label(pictures: Iterable[str], lr_labels: list[str], choice: RoleChoice) -> str:
    labels = sorted(set(pictures) - set(lr_labels))
    if choice.frames is not None:
        if choice.frames not in labels:
            raise UnusableSampleError(f"holds no picture with label {choice.frames!r}, but {_quoted(labels)}")
        return choice.frames
    if not labels:
        raise UnusableSampleError("holds low-resolution pictures only")
    if len(labels) > 1:
        labels = [label for label in labels if label in FRAME_LABELS] or labels
    if len(labels) > 1:
        raise UnusableSampleError(
            f"holds several kinds of pictures: {_quoted(labels)}; say which one is the frames by its label"
        )
    return labels[0]


def _in_order(numbered: list[tuple[int | None, Entry]], what: str) -> list[Entry]:
    if len(numbered) == 1:
        return [numbered[0][1]]
    by_number: dict[int, Entry] = {}
    for number, entry in numbered:
        if number is None:
            raise UnusableSampleError(
                f"{shown(entry.name)} has no number, although it is one of {len(numbered)}"
            )
        if number in by_number:
            raise UnusableSampleError(
                f"{shown(by_number[number].name)} and {shown(entry.name)} are both {what} {number}"
            )
        by_number[number] = entry
    numbers = sorted(by_number)
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    # All at the same distance is a choice of frames; two alone show no distance.
    if len(steps) > 1 or (len(numbers) == 2 and steps != {1}):
        step = min(steps) if len(steps) > 1 else 1
        before = next(number for number in numbers if number + step not in by_number)
        raise UnusableSampleError(
            f"{what} {before + step} is missing: there are {len(numbers)} from {numbers[0]} to {numbers[-1]}"
        )
    return [by_number[number] for number in numbers]


def _quoted(labels: Iterable[str]) -> str:
    return ", ".join(repr(shown(label) if label else "") for label in labels)
