"""The `srloss` command. Everything heavy is imported inside the commands: `--help` must answer at once."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script; turns exceptions into messages and exit codes."""
    import os

    from sweeps.cli.app import run

    # torch prints C++ stack traces when ranks lose each other; what happened is told in words. Read when torch is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    run()
