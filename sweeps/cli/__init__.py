"""The `srloss` command. Everything heavy is imported inside the commands: `--help` must answer at once."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script; turns exceptions into messages and exit codes."""
    from sweeps.cli.app import run

    run()
