"""`srloss evaluate`: trained models measured again, on their own held-out clips or on any other pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

    from sr.config import TrialConfig
    from sr.judge import Comparison, Row
    from sr.ledger import Ledger
    from sr.summary import Summary
    from sweeps.cli.show import Ticker


@dataclass(frozen=True)
class _Wishes:
    """The options that make it another measurement than the trial's own."""

    data: str | None
    split: str | None
    degradation: str | None
    scale: int | None
    profile: str | None
    metrics: str | None
    crops: Path | None
    device: str


def evaluate(
    what: Annotated[
        str | None,
        typer.Argument(
            help="Sweep id, folder of a trial, checkpoint, exported model, bicubic or nearest; "
            "the latest sweep if left out.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A packed data set, or a folder of pictures; the model's own unless given.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Of a packed data set: train, val or test (unless given).", show_default=False),
    ] = None,
    degradation: Annotated[
        str | None,
        typer.Option(
            help="How LR is made, a name or {type: ..., parameter: ...}; the model's own unless given.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="Factor of bicubic and nearest.", show_default=False)
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Metrics by convention, e.g. sr-y or rgb.", show_default=False)
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics by name, with commas between.", show_default=False)
    ] = None,
    crops: Annotated[
        Path | None, typer.Option(help="Folder for the pictures of up to 48 clips.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    store: Annotated[
        Path | None, typer.Option(help="Run store; $SRLOSS_STORE, or ./runs.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Measure trained models, each beside bicubic on the same clips.

    Without options a trial, or each trial of a sweep, is measured as when it was trained, and its record renewed. With
    --data, --metrics and so on, nothing is recorded.
    """
    from sweeps.cli.show import progress, say_json

    wishes = _Wishes(data, split, degradation, scale, profile, metrics, crops, device)
    if as_json:
        results = _results(what, wishes, store, _Silent())
        say_json({result.name: _plain(result) for result in results})
        return
    with progress("evaluating", 1) as ticker:
        results = _results(what, wishes, store, ticker)
    for result in results:
        _print(result)


_HEADINGS = ("", "mean", "median", "5 %", "95 %", "of the mean", "bicubic", "over bicubic", "better on")


class _Silent:
    """Stands for the progress where only JSON may be printed."""

    def update(
        self, done: float, note: str = "", *, total: float | None = None, label: str | None = None
    ) -> None:
        """Says nothing."""


@dataclass(frozen=True)
class _Result:
    """A model, measured."""

    name: str
    on: str
    """The data, in words."""
    sources: int
    compared: dict[str, Comparison]
    notes: list[str]
    summary: Summary


def _results(
    what: str | None, wishes: _Wishes, store: Path | None, ticker: Ticker | _Silent
) -> list[_Result]:
    from sr.upscale.model import BASELINES

    if what is not None and what in BASELINES and not Path(what).exists():
        return [_untrained(what, wishes, ticker)]
    if wishes.scale is not None:
        raise ValueError("--scale: a trained model has its own; leave it out")
    trials = _trials(what, store)
    if trials is None:
        assert what is not None
        return [_elsewhere(what, Path(what), wishes, ticker, shown=1)]
    results: list[_Result] = []
    for number, (name, ledger) in enumerate(trials.items(), start=1):
        if wishes == _Wishes(None, None, None, None, None, None, None, wishes.device):
            results.append(_again(name, ledger))
            ticker.update(number, name, total=len(trials))
        else:
            results.append(_elsewhere(name, ledger.folder, wishes, ticker, shown=len(trials)))
    return results


def _trials(what: str | None, store: Path | None) -> dict[str, Ledger] | None:
    """Of a trial's folder or a sweep, by name; None for another file or folder, which may hold a model."""
    from sr.ledger import open_trial
    from sweeps.store import default_store, find_sweep
    from sweeps.sweep import reopen

    if what is not None and (Path(what) / "state.json").exists():
        ledger = open_trial(Path(what))[0]
        return {Path(what).resolve().name: ledger}
    if what is not None and Path(what).exists() and not (Path(what) / "plan.json").exists():
        return None
    sweep = reopen(find_sweep(store or default_store(), what))
    over = [trial for trial in sweep.trials if sweep.ledger(trial).status().is_over]
    if not over:
        raise ValueError(
            f"sweep {sweep.folder.sweep_id}: no trial is finished; continue with: {sweep.folder.resume_command}"
        )
    return {f"{trial.candidate} {trial.settings}": sweep.ledger(trial) for trial in over}


def _again(name: str, ledger: Ledger) -> _Result:
    """As when it was trained; the record is renewed."""
    from sr.judge import BASELINE, Packed, compare, judge
    from sr.ledger import open_trial
    from sr.models import GENERATORS
    from sr.world import single_process
    from sweeps.evaluation import evaluate_trial

    evaluate_trial(ledger.folder)
    config = open_trial(ledger.folder)[1]
    rows = ledger.evaluation()
    names = tuple(key for key in rows[0] if key not in ("clip", "source"))
    material = Packed(config, "test")
    device = single_process(config.engine.device).device
    baseline = GENERATORS[BASELINE](scale=config.scale)
    bicubic, _ = judge(baseline, material, config, device=device, metrics=names)
    summary = ledger.summary()
    assert summary is not None, "evaluate_trial writes one"
    return _Result(
        name, material.what, _sources(rows), compare(rows, bicubic, names), material.notes, summary
    )


def _elsewhere(name: str, path: Path, wishes: _Wishes, ticker: Ticker | _Silent, *, shown: int) -> _Result:
    from sr.judge import with_data
    from sr.pretrained import load_generator

    loaded = load_generator(path)
    config = with_data(loaded.config, data=wishes.data, degradation=_parsed(wishes.degradation))
    return _judged(loaded.generator, config, loaded.name if shown == 1 else name, wishes, ticker)


def _untrained(name: str, wishes: _Wishes, ticker: Ticker | _Silent) -> _Result:
    from sr.judge import untrained, with_data
    from sr.upscale.model import BASELINES

    if wishes.data is None or wishes.scale is None:
        raise ValueError(f"{name}: has no data and no scale of its own; add --data PATH and --scale 2")
    config = untrained(name, scale=wishes.scale, data=wishes.data)
    config = with_data(config, data=None, degradation=_parsed(wishes.degradation))
    return _judged(BASELINES[name](scale=wishes.scale), config, name, wishes, ticker)


def _parsed(degradation: str | None) -> Any:  # noqa: ANN401 - checked where it becomes a configuration
    import yaml

    if degradation is None:
        return None
    try:
        return yaml.safe_load(degradation)
    except yaml.YAMLError:
        raise ValueError(
            f"--degradation {degradation}: not understood; give a name such as bicubic_aa, or "
            "'{type: noise, ...}'"
        ) from None


def _judged(
    generator: nn.Module, config: TrialConfig, name: str, wishes: _Wishes, ticker: Ticker | _Silent
) -> _Result:
    from sr.judge import chosen_metrics, compare, judge, open_material
    from sr.metrics import DEFAULT_PROFILE, PROFILES
    from sr.summary import WholeSet
    from sr.world import single_process

    metrics = chosen_metrics(wishes.profile, wishes.metrics, default=PROFILES[DEFAULT_PROFILE].metrics)
    material = open_material(config, split=wishes.split or "test")
    if wishes.split == "train":
        material.notes.append("judged on training clips: a model knows those it was trained on")
    whole = WholeSet(config)
    own, bicubic = judge(
        generator,
        material,
        config,
        device=single_process(wishes.device).device,
        metrics=metrics,
        crops=wishes.crops,
        on_progress=lambda done, clip: ticker.update(
            done, clip, total=len(material), label=f"evaluating {name}"
        ),
        on_clip=lambda item: whole.see(item.source, lr=item.lr, hr=item.hr, sr=item.sr),
    )
    compared = compare(own, bicubic, metrics)
    return _Result(name, material.what, _sources(own), compared, material.notes, whole.summary(own))


def _sources(rows: list[Row]) -> int:
    return len({row["source"] for row in rows})


def _plain(result: _Result) -> dict[str, Any]:
    from sr.metrics import METRICS

    told = result.summary.separability
    return {
        name: {
            **asdict(one.own),
            "sources": result.sources,
            "data": result.on,
            "convention": METRICS[name].convention,
            "bicubic": asdict(one.baseline),
            "over_bicubic": one.gain,
            "better_than_bicubic_on": one.better_on,
            "told_from_real": None if told is None else asdict(told),
            "warnings": [asdict(finding) for finding in result.summary.warnings],
        }
        for name, one in result.compared.items()
    }


def _print(result: _Result) -> None:
    from sr.metrics import METRICS
    from sweeps.cli.show import say, warn

    say(f"{result.name}, on {result.on}")
    lines: list[tuple[str, ...]] = [_HEADINGS]
    for name, one in result.compared.items():
        metric, own = METRICS[name], one.own
        values = (own.mean, own.median, own.p5, own.p95, own.of_the_mean, one.baseline.mean)
        shown = ["-" if value is None else f"{value:.{metric.decimals}f}" for value in values]
        clips = own.n + own.num_undefined
        gain = f"{one.gain:+.{metric.decimals}f}"
        lines.append((f"{metric.label} {metric.unit}".rstrip(), *shown, gain, f"{one.better_on} of {clips}"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADINGS))]
    for first_word, *rest in lines:
        say(
            first_word.ljust(widths[0])
            + "".join(f"  {x:>{w}}" for x, w in zip(rest, widths[1:], strict=True))
        )
    first = next(iter(result.compared.values())).own
    say(f"{first.n + first.num_undefined} clips of {result.sources} pictures")
    for name, one in result.compared.items():
        undefined = f"; undefined on {one.own.num_undefined} clips" if one.own.num_undefined else ""
        say(f"  {METRICS[name].label}: {METRICS[name].convention}{undefined}")
    say(f"  {_told_from_real(result.summary)}")
    for note in (*result.notes, *(finding.message for finding in result.summary.warnings)):
        warn(note)
    say()


def _told_from_real(summary: Summary) -> str:
    told = summary.separability
    if told is None:
        return f"told from real pictures: not measured, {summary.why_not_separated}"
    return (
        f"told from real pictures: AUC {told.auc:.3f}, 95 % interval {told.low:.3f} to {told.high:.3f}; 0.5: cannot be told, "
        f"1: always ({told.num_patches} patches of {told.num_sources} pictures that the classifier has not seen)"
    )
