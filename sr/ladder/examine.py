"""What a stage has come to: both networks, the generator and the opponent are examined on validation pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sr import checkpoint
from sr.adversary import build_discriminator
from sr.config import TrialConfig
from sr.data import Clip, held_out, judged_frames, open_dataset, open_stream
from sr.evaluate import upscale_clips
from sr.features.discriminator import DiscriminatorFeatures
from sr.features.network import INPUT, FeatureNetwork, Weights
from sr.features.weights import hash_tensors
from sr.ladder import rules
from sr.ladder.config import LadderConfig, Probe
from sr.ladder.fresh import train_fresh
from sr.ladder.probe import (
    Seen,
    auc,
    auc_interval,
    cut,
    describe,
    mean_interval,
    own_scores,
    patch_side,
    read,
)
from sr.ladder.records import Interval, Network, Outcome, StageRecord, stage_folder
from sr.ladder.stages import final_state
from sr.ledger import Ledger, Status, read_rows
from sr.loop import all_steps
from sr.losses.term import FeatureLoss
from sr.metrics import METRICS, measure
from sr.metrics.perception_distortion import features as texture
from sr.parts import build_criterion, build_generator, pictures_of
from sr.world import World

At = Callable[[str], None]
"""Told where the work is. It is called equally often on all ranks, so that it may decide something with them."""

_FRESH_BATCH = 16
_FRESH_SEED = 15_485_863
"""Between the seeds of a stage's discriminator and data and those of a fresh one."""


@dataclass(frozen=True)
class Judges:
    """The networks that look at a stage's pictures."""

    discriminators: list[nn.Module]
    """Of stages 0 to this one, averaged weights."""
    features: FeatureNetwork
    """This stage's discriminator as a feature network."""
    taps: tuple[str, ...]
    perceptual: list[FeatureLoss]


@dataclass(frozen=True)
class Observed:
    """What was seen of all validation clips, in their order; arrays have a row for each patch."""

    sources: list[str]
    """Of each patch."""
    source_of: dict[str, str]
    """Of each clip."""
    quality: dict[str, float]
    """By clip."""
    arrays: dict[str, np.ndarray]
    patches: tuple[Tensor, Tensor]
    """SR and HR, uint8."""


def examine(
    config: TrialConfig,
    ladder: LadderConfig,
    *,
    trial: Ledger,
    before: Sequence[StageRecord],
    status: Status,
    world: World,
    at: At,
) -> StageRecord:
    """Examines the stage that has just ended; collective, with an equal answer on all ranks.

    Args:
        config: The stage's.
        ladder: The ladder's settings.
        trial: The trial's ledger.
        before: The records of the stages before.
        status: How the stage's training ended.
        world: This process's place among the ranks.
        at: Told where the work is; may raise, on all ranks together.

    Returns:
        Its record, the decision not made yet.
    """
    started = perf_counter()
    stage = len(before)
    folder = stage_folder(trial.folder, stage) / "checkpoints"
    own_state = checkpoint.load(checkpoint.path_of(folder, status.step))
    states = [*(final_state(trial.folder, record) for record in before), own_state]
    judges = _judges(config, ladder, trial, states, world)
    generators = [_generator(config, state, world) for state in states]
    quality = quality_metric(config, ladder)
    observed = _observe(config, ladder.probe, judges, generators, quality, world, trial, at)
    a, draws, sources = observed.arrays, ladder.probe.draws, observed.sources
    has_perceptual = bool(judges.perceptual)
    reading = read(
        Seen(a["D sr"], a["D hr"]),
        Seen(a["P sr"], a["P hr"]) if has_perceptual else None,
        sources,
        draws=draws,
    )
    fresh = None
    if ladder.probe.fresh_steps:
        network = fresh_discriminator(config, generators[-1], ladder.probe, world, ledger=trial, at=at)
        scores = [own_scores(network, pictures) for pictures in observed.patches]
        fresh = auc_interval(scores[1], scores[0], sources, draws=draws)
    described = [texture(pictures.float().div(255)) for pictures in observed.patches]
    is_all_steps = status.reason == all_steps(config)
    means = mean_interval(observed.quality, observed.source_of, draws=draws)
    record = StageRecord(
        stage=stage,
        ended=Outcome.BUDGET if status.met_wall_time_cap or is_all_steps else Outcome.CONVERGED,
        ended_why=status.reason,
        steps=status.step,
        seconds=status.seconds,
        judging_seconds=perf_counter() - started,
        generator=_network("generator", stage, own_state["ema"]),
        discriminator=_network("discriminator", stage, own_state["discriminator_ema"]),
        perceptual=tuple(_looked_through(judges.perceptual)),
        calibration=_given_calibration(config) if stage else None,
        reading=reading,
        own_judgement=auc_interval(a[f"D{stage} hr"], a[f"D{stage} sr"], sources, draws=draws),
        fresh=fresh,
        texture=read(Seen(*described), None, sources, draws=draws).discriminator,
        comparison=rules.compare(reading, ladder.stop, ladder.probe),
        quality_metric=quality,
        quality=means,
        quality_by_clip=observed.quality,
        gain=_gain(quality, observed, before[-1], draws) if before else None,
        judged_by=tuple(auc(a[f"D{i} hr"], a[f"D{i} sr"]) for i in range(stage + 1)),
        on_generators=tuple(auc(a[f"D{stage} hr"], a[f"G{j}"]) for j in range(stage + 1)),
        findings=_findings(trial, stage),
        decision=None,
        decision_why="",
        is_last=False,
    )
    return world.gather(record)[0]


def quality_metric(config: TrialConfig, ladder: LadderConfig) -> str:
    """The metric that the stop rule goes by."""
    return ladder.stop.quality or config.evaluation.best or config.evaluation.validation[0]


def fresh_discriminator(
    config: TrialConfig, generator: nn.Module, probe: Probe, world: World, *, ledger: Ledger, at: At
) -> nn.Module:
    """A discriminator trained from new weights on a finished generator; every rank trains the same one."""
    assert config.adversarial is not None, "a ladder has an opponent"
    alone = World(rank=0, world_size=1, device=world.device)
    # Each rank has the whole batch, so that must not grow with their number.
    size = min(_FRESH_BATCH, config.training.global_batch_size)
    training = config.training.model_copy(update={"global_batch_size": size})
    data = config.data.model_copy(update={"seed": config.data.seed + _FRESH_SEED})
    stream = open_stream(
        config.model_copy(update={"data": data, "training": training}), open_dataset(config), alone, ledger
    )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            hr, lr = pictures_of(stream.next_batch(), config, world.device)
            yield judged_frames(hr, config.model), lr

    try:
        network = train_fresh(
            config.adversarial,
            generator,
            batches(),
            steps=probe.fresh_steps,
            seed=config.seed + _FRESH_SEED,
            device=world.device,
            at=at,
        )
    finally:
        stream.close()
    # On a device that does not repeat itself to the bit the copies differ by now.
    state = {name: value.cpu() for name, value in network.state_dict().items()} if world.is_first else {}
    network.load_state_dict(world.gather(state)[0])
    return network


def _judges(
    config: TrialConfig,
    ladder: LadderConfig,
    trial: Ledger,
    states: Sequence[Mapping[str, Any]],
    world: World,
) -> Judges:
    discriminators: list[nn.Module] = []
    for stage, state in enumerate(states):
        # Its own configuration: a remedy may have changed the architecture between stages.
        own = Ledger(stage_folder(trial.folder, stage)).config()
        assert own.adversarial is not None, "a ladder has an opponent"
        network = build_discriminator(own.adversarial, seed=own.seed)
        network.load_state_dict(state["discriminator_ema"])
        discriminators.append(network.eval())
    weights = Weights("discriminator", hash_tensors(states[-1]["discriminator_ema"]), "this stage")
    features = DiscriminatorFeatures(discriminators[-1], weights=weights).to(world.device)
    criterion = build_criterion(config.loss).to(world.device)
    perceptual = [term for term in criterion.terms.values() if isinstance(term, FeatureLoss)]
    on_device = [discriminator.to(world.device) for discriminator in discriminators]
    return Judges(on_device, features, ladder.taps or features.default_taps, perceptual)


def _generator(config: TrialConfig, state: Mapping[str, Any], world: World) -> nn.Module:
    generator = build_generator(config.model, scale=config.scale, seed=config.seed)
    generator.load_state_dict(state["ema"])
    return generator.to(world.device).eval()


def _observe(
    config: TrialConfig,
    probe: Probe,
    judges: Judges,
    generators: Sequence[nn.Module],
    quality: str,
    world: World,
    trial: Ledger,
    at: At,
) -> Observed:
    """Each rank looks at its share of the clips; all get to know what all have seen."""
    dataset = open_dataset(config)
    clips = held_out(dataset, config).val
    side = patch_side(clips, probe.patch_size)
    own_clips = clips[world.rank :: world.world_size]
    seen: dict[str, dict[str, Any]] = {clip.clip_id: {} for clip in own_clips}
    for number, generator in enumerate(generators):
        at(f"examining stage {number}")
        is_own = number == len(generators) - 1
        for item in upscale_clips(generator, dataset, own_clips, config, device=world.device):
            # Not collective: ranks have different numbers of clips.
            where = f"examining {item.clip.clip_id}"
            world.at(where)
            trial.beat(where)
            found = seen[item.clip.clip_id]
            sr, hr = cut(item.sr, item.hr, size=side, most=probe.patches_per_clip)
            found[f"G{number}"] = own_scores(judges.discriminators[-1], sr)
            if is_own:
                score = measure(item.sr, item.hr, names=(quality,), scale=config.scale, lr=item.lr)
                found |= {"quality": score[quality].item(), "sr": sr.cpu(), "hr": hr.cpu()}
                found |= _looks(judges, sr, hr)
    by_clip = {clip: found for shared in world.gather(seen) for clip, found in shared.items()}
    return _together(clips, [by_clip[clip.clip_id] for clip in clips])


def _looks(judges: Judges, sr: Tensor, hr: Tensor) -> dict[str, np.ndarray]:
    """What each judge makes of the patches of a clip."""
    found: dict[str, np.ndarray] = {}
    for name, patches in (("sr", sr), ("hr", hr)):
        for number, discriminator in enumerate(judges.discriminators):
            found[f"D{number} {name}"] = own_scores(discriminator, patches)
        found[f"D {name}"] = describe(judges.features, judges.taps, patches)
        if judges.perceptual:
            # Of several terms on one network each with its own taps.
            parts = [describe(term.network, term.taps, patches) for term in judges.perceptual]
            found[f"P {name}"] = np.concatenate(parts, axis=1)
    return found


def _together(clips: Sequence[Clip], seen: Sequence[Mapping[str, Any]]) -> Observed:
    names = [name for name in seen[0] if name not in ("quality", "sr", "hr")]
    source_of = {clip.clip_id: clip.sample.source for clip in clips}
    return Observed(
        sources=[
            clip.sample.source
            for clip, found in zip(clips, seen, strict=True)
            for _ in range(len(found["hr"]))
        ],
        source_of=source_of,
        quality={
            clip.clip_id: found["quality"]
            for clip, found in zip(clips, seen, strict=True)
            if math.isfinite(found["quality"])
        },
        arrays={name: np.concatenate([found[name] for found in seen]) for name in names},
        patches=(torch.cat([found["sr"] for found in seen]), torch.cat([found["hr"] for found in seen])),
    )


def _gain(quality: str, observed: Observed, before: StageRecord, draws: int) -> Interval:
    """Quality minus that of the stage before on the same clips, above 0 where it is better."""
    goodness = METRICS[quality].goodness
    differences = {
        clip: goodness(value) - goodness(before.quality_by_clip[clip])
        for clip, value in observed.quality.items()
        if clip in before.quality_by_clip
    }
    return mean_interval(differences, observed.source_of, draws=draws)


def _network(what: str, stage: int, tensors: Mapping[str, Tensor]) -> Network:
    return Network(f"{what} of stage {stage}", hash_tensors(dict(tensors)))


def _looked_through(terms: Sequence[FeatureLoss]) -> Iterator[Network]:
    told = {
        term.network.weights.sha256: term.network.weights.name for term in terms if set(term.taps) != {INPUT}
    }
    for sha256, name in told.items():
        yield Network(name, sha256)


def _given_calibration(config: TrialConfig) -> float | None:
    return next((term.calibration for term in config.loss.terms if term.type == "perceptual"), None)


def _findings(trial: Ledger, stage: int) -> tuple[str, ...]:
    """What the detectors have told; told again after an interruption, it counts once."""
    rows = read_rows(stage_folder(trial.folder, stage) / "metrics.jsonl")
    return tuple(dict.fromkeys(row["problem"] for row in rows if row.get("is_finding")))


def decided(
    record: StageRecord, before: Sequence[StageRecord], ladder: LadderConfig, *, no_budget: str
) -> StageRecord:
    """The record with what follows from it: whether there is a further stage, and why.

    Args:
        record: The newest.
        before: Those of the stages before.
        ladder: The settings.
        no_budget: What has run out, in words; empty while there is enough for another stage.
    """
    records = [*before, record]
    decision, why = rules.decide(records, ladder.stop, ladder.probe)
    if (decision is None or not ladder.stop.is_binding) and no_budget:
        spent, why_spent = rules.out_of_budget(records, no_budget)
        decision, why = (decision or spent), (f"{why}; {why_spent}" if decision else why_spent)
    is_last = bool(no_budget) or (decision is not None and ladder.stop.is_binding)
    return dataclasses.replace(record, decision=decision, decision_why=why, is_last=is_last)
