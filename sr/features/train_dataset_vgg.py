"""Trains a small VGG on the data set at hand, to be looked through by losses (the wish of Chodounsky 2021)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards.manifest import Dataset
from shards.reader import read_member
from shards.records import Sample
from shards.stream import Batch, Stream
from sr.features.corruptions import CORRUPTIONS, corrupt
from sr.features.dataset_vgg import Training, layout_of
from sr.features.layered import Normalise
from sr.features.layouts import random_state

Task = Literal["degradation", "labels"]
_BATCH_SIZE = 16
_LEARNING_RATE = 1e-3
_WARMUP_STEPS = 50
_HELD_OUT_BATCHES = 24


@dataclass(frozen=True)
class _Examples:
    """Makes pictures with their classes out of crops."""

    classes: tuple[str, ...]
    label_of: dict[str, int]
    """Key of a sample to its class; empty where the class is a damage that is drawn."""

    def draw(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures in [0, 1], shape (B, 3, P, P), and classes, shape (B,), from the middle frames of a batch."""
        frames = torch.from_numpy(batch.hr[:, batch.hr.shape[1] // 2].copy()).float() / 255
        if self.label_of:
            return frames, torch.tensor([self.label_of[key] for key in batch.keys])
        labels = torch.randint(len(self.classes), (len(frames),), generator=generator)
        damaged = [
            corrupt(frame, self.classes[label], generator)
            for frame, label in zip(frames, labels.tolist(), strict=True)
        ]
        return torch.stack(damaged), labels


class _Classifier(nn.Module):
    """The layers, the mean over all positions of the last ReLU, and one linear layer that is thrown away afterwards.

    Each convolution is followed by batch normalisation, without which so deep a network learns little in so few steps.
    """

    def __init__(self, width: int, num_classes: int, *, seed: int) -> None:
        super().__init__()
        layout = layout_of(width)
        plain = nn.Sequential(*layout.layers.values())
        plain.load_state_dict(random_state(layout, seed=seed))
        self.plain = plain
        self.norms = nn.ModuleDict(
            {
                str(index): nn.BatchNorm2d(layer.out_channels)
                for index, layer in enumerate(plain)
                if isinstance(layer, nn.Conv2d)
            }
        )
        self.normalise = Normalise("imagenet")
        self.head = nn.Linear(width * 8, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.normalise(pictures)
        for index, layer in enumerate(self.plain):
            x = layer(x)
            if str(index) in self.norms:
                x = self.norms[str(index)](x)
        return self.head(x.mean((2, 3)))

    @torch.no_grad()
    def fold(self) -> None:
        """Moves the normalisation, with the statistics of the whole training, into the convolutions.

        What is left are the plain layers, which treat each picture by itself.
        """
        for index, norm in self.norms.items():
            convolution = self.plain[int(index)]
            assert isinstance(convolution, nn.Conv2d), "made so"
            assert isinstance(norm, nn.BatchNorm2d), "made so"
            assert convolution.bias is not None, "made so"
            assert norm.running_mean is not None, "made so"
            assert norm.running_var is not None, "made so"
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            convolution.weight.mul_(factor[:, None, None, None])
            convolution.bias.sub_(norm.running_mean).mul_(factor).add_(norm.bias)
        self.norms = nn.ModuleDict()


def train_dataset_vgg(
    dataset: Dataset,
    *,
    task: Task = "degradation",
    steps: int = 2000,
    width: int = 16,
    seed: int = 0,
    patch_size: int = 48,
    on_progress: Callable[[int, float], None],
) -> tuple[dict[str, Tensor], Training]:
    """Trains on the split `train`, and judges on `val`.

    Args:
        dataset: The packed data.
        task: `degradation`: which damage of which level a crop has suffered; `labels`: the labels in the data set.
        steps: Updates, of 16 crops each.
        width: Channels of the first block.
        seed: Of weights, crops and damage: the same on one machine gives the same network.
        patch_size: Side of a crop in pixels.
        on_progress: Told the steps done and the training loss, after each step.

    Returns:
        Parameters of the layers by `index.name`, and how they came about.

    Raises:
        ValueError: The data set has no labels, a split is empty, a number does not fit, or the training diverged.
    """
    for name, value, least in (("steps", steps, 1), ("width", width, 1), ("patch_size", patch_size, 16)):
        if value < least:
            raise ValueError(f"features train: {name} is {value}; give at least {least}")
    examples = _examples(dataset, task)
    held_out = _stream(dataset, "val", seed=seed, patch_size=patch_size)
    classifier = _Classifier(width, len(examples.classes), seed=seed)
    stream = _stream(dataset, "train", seed=seed, patch_size=patch_size)
    _fit(classifier, stream, examples, steps, seed, on_progress)
    # Judged is what is delivered.
    classifier.eval().fold()
    right, seen = _judge(classifier, held_out, examples, seed=seed)
    # Damage is drawn with equal chances; labels are as common as they are.
    chance = max(seen.values()) / seen.total() if examples.label_of else 1 / len(examples.classes)
    state = {name: value.detach().clone() for name, value in classifier.plain.state_dict().items()}
    training = Training(
        task=task,
        classes=examples.classes,
        width=width,
        steps=steps,
        seed=seed,
        data_fingerprint=dataset.fingerprint,
        held_out_accuracy=right.total() / seen.total(),
        chance=chance,
        num_held_out=seen.total(),
        accuracy_by_class={examples.classes[label]: right[label] / seen[label] for label in sorted(seen)},
    )
    return state, training


def _fit(
    classifier: _Classifier,
    stream: Stream,
    examples: _Examples,
    steps: int,
    seed: int,
    on_progress: Callable[[int, float], None],
) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=_LEARNING_RATE)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=_WARMUP_STEPS)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps - _WARMUP_STEPS, 1))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [_WARMUP_STEPS])
    for step in range(1, steps + 1):
        pictures, labels = examples.draw(stream.next_batch(), generator)
        loss = F.cross_entropy(classifier(pictures), labels)
        if not torch.isfinite(loss):
            raise ValueError(
                f"features train: the loss is {loss.item()} at step {step}; use another seed or width"
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_progress(step, loss.item())
    stream.close()


@torch.no_grad()
def _judge(
    classifier: _Classifier, stream: Stream, examples: _Examples, *, seed: int
) -> tuple[Counter[int], Counter[int]]:
    """Held-out crops of each class that are classified correctly, and all of them."""
    # A seed of its own, so that held-out damage is not the training's.
    generator = torch.Generator().manual_seed(seed + 1_000_003)
    right: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    for _ in range(_HELD_OUT_BATCHES):
        pictures, labels = examples.draw(stream.next_batch(), generator)
        right.update(labels[classifier(pictures).argmax(1) == labels].tolist())
        seen.update(labels.tolist())
    stream.close()
    return right, seen


def _stream(dataset: Dataset, split: str, *, seed: int, patch_size: int) -> Stream:
    return Stream(
        dataset,
        split,
        data_seed=seed,
        global_batch_size=_BATCH_SIZE,
        patch_size=patch_size,
        augment=split == "train",
        threads=2,
    )


def _examples(dataset: Dataset, task: Task) -> _Examples:
    if task == "degradation":
        return _Examples(tuple(CORRUPTIONS), {})
    texts = {
        sample.key: _label(dataset, sample)
        for split in ("train", "val")
        for sample in dataset.of_split(split)
    }
    missing = [key for key, text in texts.items() if text is None]
    if missing:
        raise ValueError(
            f"data set {dataset.url}: {len(missing)} of {len(texts)} samples have no label, such as '{missing[0]}'; a "
            "label is a member KEY.cls, or 'label' in KEY.json; use --task degradation, which needs none"
        )
    learnt = {texts[sample.key] for sample in dataset.of_split("train")}
    classes = sorted(str(text) for text in learnt)
    unseen = {str(text) for text in texts.values()} - set(classes)
    if len(classes) < 2 or unseen:
        what = (
            f"labels {_some(sorted(unseen))} are only in val"
            if unseen
            else f"all labels are {_some(classes)}"
        )
        raise ValueError(
            f"data set {dataset.url}: {what}; pack it with other splits, or use --task degradation"
        )
    numbers = {text: number for number, text in enumerate(classes)}
    return _Examples(tuple(classes), {key: numbers[str(text)] for key, text in texts.items()})


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def _label(dataset: Dataset, sample: Sample) -> str | None:
    """The label of a sample, where its tar has one."""
    for member in sample.members:
        if member.role != "other":
            continue
        if member.name.endswith(".cls"):
            return read_member(dataset, sample, member).decode().strip()
        if member.kind == "json":
            try:
                content = json.loads(read_member(dataset, sample, member))
            except ValueError:
                continue
            if isinstance(content, dict) and isinstance(content.get("label"), str | int):
                return str(content["label"])
    return None
