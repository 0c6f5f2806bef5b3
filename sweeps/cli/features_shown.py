"""What the `srloss features` commands do and print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal, cast

from shards import manifest
from sr.configfile import ConfigError, unknown
from sr.features import NETWORKS
from sr.features.dataset_vgg import save_dataset_vgg
from sr.features.train_dataset_vgg import train_dataset_vgg
from sr.features.weights import (
    FILES,
    download,
    export_features,
    exported_name,
    find,
    find_or_none,
    folders,
)
from sweeps.cli.show import progress, say, say_json

_CLASSES_TOLD = 16


def list_networks(*, as_json: bool) -> None:
    """Prints a line for each network, and one for each file that a loss needs besides."""
    rows = [
        {
            "name": name,
            "note": NETWORKS[name].note if name in NETWORKS else "weights of DISTS' channels",
            "found": str(find_or_none(name) or "") if name in FILES else "",
            "how": _how(name),
        }
        for name in (*NETWORKS, *(name for name in FILES if name not in NETWORKS))
    ]
    if as_json:
        say_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say(f"{row['name']:<{width}} {row['note']}")
        say(f"{'':<{width}} {row['found'] or row['how']}")
    say()
    say(f"looked for in: {', '.join(map(str, folders()))}")


def train(
    data: str,
    out: Path,
    *,
    task: str,
    steps: int,
    width: int,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Trains a network on a data set, writes it, and says how good it is."""
    if out.exists() and not force:
        raise ConfigError([f"features train: {out} is there already; give --force to replace it"])
    if out.suffix != ".safetensors":
        raise ConfigError([f"features train: {out} does not end in .safetensors; name the file so"])
    dataset = manifest.load(data)
    with progress("training", steps) as ticker:
        state, training = train_dataset_vgg(
            dataset,
            task=cast(Literal["degradation", "labels"], task),
            steps=steps,
            width=width,
            seed=seed,
            on_progress=lambda step, loss: None if as_json else ticker.update(step, f"loss {loss:.3f}"),
        )
    sha256 = save_dataset_vgg(out, state, training)
    if as_json:
        say_json({"file": str(out), "sha256": sha256, **asdict(training)})
        return
    say(
        f"held-out accuracy {training.held_out_accuracy:.1%} on {training.num_held_out} crops, "
        f"chance {training.chance:.1%}, {len(training.classes)} classes"
    )
    say(_by_class(training.accuracy_by_class))
    say(f"wrote {out}, sha256 {sha256[:12]}")
    say(f'use it in a loss: "l1 + 0.1*vgg(network=dataset_vgg, path={str(out)!r})"')


def _by_class(accuracies: dict[str, float]) -> str:
    """Of many classes only those that are learnt worst."""
    worst = sorted(accuracies, key=lambda name: accuracies[name])[:_CLASSES_TOLD]
    told = ", ".join(f"{name} {accuracies[name]:.0%}" for name in accuracies if name in worst)
    return f"by class: {told}" if len(worst) == len(accuracies) else f"the worst classes: {told}"


def fetch(name: str, *, to: Path | None) -> None:
    """Downloads published weights."""
    _check_published(name)
    path = download(name, to or folders()[0])
    say(f"{path}: {path.stat().st_size:,} bytes" + (", sha256 as published" if FILES[name].sha256 else ""))


def export(name: str, out: Path, *, path: Path | None) -> None:
    """Writes the convolutional part of published weights."""
    _check_published(name)
    if out.is_dir():
        out = out / exported_name(name)
    if out.suffix != ".safetensors":
        raise ConfigError([f"features export: {out} does not end in .safetensors; name the file so"])
    source = find(name, path=str(path) if path else None)
    export_features(name, source, out)
    say(f"{out}: {out.stat().st_size:,} bytes, from {source}")


def _check_published(name: str) -> None:
    if name not in FILES:
        raise ConfigError([f"features: {unknown('published network', name, FILES)}"])


def _how(name: str) -> str:
    if name not in FILES:
        uses = NETWORKS[name].uses
        needs = "a path, or a trial's id" if "trial" in uses else "a path" if "path" in uses else "no file"
        return f"needs {needs}"
    known = FILES[name]
    return f"missing; get it with: {f'srloss features fetch {name}' if known.url else known.install}"
