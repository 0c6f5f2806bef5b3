"""`srloss demo`: the real thing, small. Real photographs, real shards, real Ray, a real verdict; no network, no account."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from shards.pack import PackOptions, pack
from sr.ledger import State
from sr.metrics import METRICS
from sweeps import driver
from sweeps.cli.follow import Follow
from sweeps.cli.show import progress, say
from sweeps.cli.table import as_plain, print_verdict
from sweeps.jobs import FAILED, OK, SOME_TRIALS_FAILED
from sweeps.recipes import recipe_path
from sweeps.report.build import write_report
from sweeps.spec import read_sweep
from sweeps.sweep import Sweep, create
from sweeps.syncing import VerifiedRun, verify_offline
from sweeps.tracking import fed
from sweeps.verdict import Verdict


def run_demo(folder: Path) -> int:
    """Runs the five steps in `folder`, starting over what an earlier demo left there; returns the exit code.

    Raises:
        ValueError: The folder holds something that is not a demo.
    """
    started = time.monotonic()
    _clear(folder)
    data = folder / "data"
    _data(data)
    config = read_sweep(recipe_path("demo"), [f"data.path={data}"])
    sweep = create(config, store=folder, command=f"srloss demo --folder {folder}")
    report = folder / "report.html"
    with fed(sweep.folder.path, sweep.trials[0].config.tracking, say=say):
        with Follow(sweep, headings=("[2/5] sweep:   ", "[3/5] evaluate:")) as follow:
            driver.run(sweep, progress=follow)
        verdict = write_report(sweep, report)
        sweep.folder.add_verdict(as_plain(verdict))
    say(f"[4/5] report:   {report} ({report.stat().st_size / 1e6:.1f} MB, opens without a network)")
    all_sound = _wandb(sweep)
    say()
    print_verdict(verdict)
    say()
    say(_beats_bicubic(verdict))
    say(f"\ntotal {time.monotonic() - started:.0f} s. Open {report.resolve()} in a browser.")
    say(
        "Next, on your own pictures: srloss shard pack folder PICTURES data; then see 'A first sweep' in the README."
    )
    failed = sweep.with_state(State.FAILED)
    for trial in failed:
        say(f"failed: {trial.candidate} {trial.settings}; log: {sweep.ledger(trial).log_path}")
    if len(failed) == len(sweep.trials) or not verdict.ranking:
        return FAILED
    return SOME_TRIALS_FAILED if failed else OK if all_sound else FAILED


def _clear(folder: Path) -> None:
    marker = folder / ".srloss-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise ValueError(
            f"{folder}: not empty, and not made by an earlier demo; name another folder with --folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def _data(folder: Path) -> None:
    started = time.monotonic()
    with progress("packing", 1) as ticker:
        dataset = pack(
            "photos",
            None,
            folder,
            PackOptions(),
            on_progress=lambda state: ticker.update(state.done / state.total),
        )
    counts = ", ".join(f"{len(dataset.of_split(split))} {split}" for split in ("train", "val", "test"))
    seconds = time.monotonic() - started
    say(
        f"[1/5] data:     {counts} photographs in {len(dataset.shards)} shards with a manifest ({seconds:.0f} s)"
    )


def _wandb(sweep: Sweep) -> bool:
    with progress("reading back", len(sweep.trials) + 1) as ticker:
        done: list[VerifiedRun] = []

        def on_done(run: VerifiedRun) -> None:
            done.append(run)
            ticker.update(len(done), run.name)

        runs = verify_offline(sweep.folder.path, on_done=on_done)
    sound = [run for run in runs if run.is_sound]
    folder = sweep.folder.path / "wandb"
    say(
        f"[5/5] W&B check: {len(sound)} of {len(runs)} offline runs verified, {sum(run.rows for run in sound)} rows "
        f"equal to the ledgers (look at them: wandb leet {folder})"
    )
    for run in runs:
        if not run.is_sound:
            say(
                f"  {run.name}: {run.problem or f'{run.rows} rows in W&B, {run.expected_rows} in the ledger'}"
            )
    return len(sound) == len(runs)


def _beats_bicubic(verdict: Verdict) -> str:
    """The plain truth about whether training helped, on held-out pictures."""
    label = METRICS[verdict.primary].label
    gains = verdict.to_baseline.get(verdict.primary, {})
    better = [name for name in gains if _is_better(verdict, verdict.primary, name)]
    text = f"{len(better)} of {len(gains)} losses beat bicubic on {label} on pictures they have not seen"
    for name in gains:
        if name not in better:
            elsewhere = [METRICS[m].label for m in verdict.metrics if _is_better(verdict, m, name)]
            text += (
                f"; {name} is not shown to, but does on {', '.join(elsewhere)}"
                if elsewhere
                else f"; {name} on no metric"
            )
    return f"{text}."


def _is_better(verdict: Verdict, metric: str, name: str) -> bool:
    gain = verdict.to_baseline[metric][name]
    return gain.is_clear and (gain.mean > 0) == METRICS[metric].higher_is_better
