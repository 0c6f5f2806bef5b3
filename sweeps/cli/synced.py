"""What `srloss sync` does and prints."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from sr.lock import is_held
from sweeps.cli.show import progress, say, say_json
from sweeps.feeder import Feeder
from sweeps.store import default_store, find_sweep
from sweeps.syncing import Sync, VerifiedRun

_POLL_S = 2.0
OK, FAILED = 0, 1


def synced(name: str | None, *, watch: bool, store: Path | None, as_json: bool) -> int:
    """Sends and verifies; returns the exit code: 0 where W&B has everything."""
    folder = _folder(name, store or default_store())
    sync = Sync(folder)
    if watch:
        _watch(sync, folder, quiet=as_json)
    done: list[VerifiedRun] = []
    with progress("sending", len(sync.runs())) as ticker:
        for run in sync():
            done.append(run)
            ticker.update(len(done), run.name)
    if as_json:
        say_json([asdict(run) | {"complete": run.is_sound} for run in done])
    else:
        _tell(done, folder)
    return OK if all(run.is_sound for run in done) else FAILED


def _folder(name: str | None, store: Path) -> Path:
    """Of a sweep, or of a trial that belongs to none."""
    for path in [Path(name), store / "trials" / name] if name is not None else []:
        if (path / "config.yaml").exists():
            return path
    return find_sweep(store, name).path


def _watch(sync: Sync, folder: Path, *, quiet: bool) -> None:
    """Sends as the ledgers grow, until nobody works there any more and all has ended; Ctrl-C ends it before."""
    tell = (lambda _words: None) if quiet else say
    tell(f"sending what comes from {folder.name}; Ctrl-C to end, nothing is lost")
    with sync.alone():
        feeder = Feeder(sync.client, sync.runs, tell)
        try:
            while True:
                feeder.poll()
                codes = [tracked.exit_code() for tracked in sync.runs()]
                if all(code is not None for code in codes) and not is_held(folder):
                    break
                time.sleep(_POLL_S)
        finally:
            feeder.finish(60.0)
    sync.forget()


def _tell(done: list[VerifiedRun], folder: Path) -> None:
    if not done:
        say(f"{folder.name}: nothing to send yet")
        return
    for run in done:
        if not run.is_sound:
            say(f"  {run.name}: {run.problem}")
        elif run.note:
            say(f"  {run.name}: {run.note}")
    sound = [run for run in done if run.is_sound]
    say(
        f"{len(sound)} of {len(done)} runs are complete in W&B: {sum(run.rows for run in sound)} rows verified, "
        f"{sum(run.sent for run in done)} of them sent now"
    )
    if url := next((run.url for run in done if run.url), ""):
        say(f"W&B: {url}")
    if len(sound) < len(done):
        say("run the same command again to send the rest")
