"""Stand-ins for SLURM's commands that print what the real ones of 22.05 have printed; for what is too slow or too rare to wait for."""

from __future__ import annotations

import shlex
from pathlib import Path


def stand_in(
    folder: Path, command: str, out: str = "", *, err: str = "", code: int = 0, takes_s: float = 0
) -> Path:
    """Puts a command into a folder that prints this, after a while; what it is called with is added to the file returned."""
    folder.mkdir(exist_ok=True)
    calls = folder / f"{command}.calls"
    lines = [
        "#!/bin/sh",
        f'echo "$LC_ALL $SLURM_TIME_FORMAT ${{SQUEUE_FORMAT-unset}}|$*" >> {shlex.quote(str(calls))}',
        f"sleep {takes_s}" if takes_s else ":",
        f"printf %s {shlex.quote(out)}",
        f"printf %s {shlex.quote(err)} >&2",
        f"exit {code}",
    ]
    (folder / command).write_text("\n".join(lines) + "\n")
    (folder / command).chmod(0o755)
    return calls
