"""Requests to stop that come before a program is ready for them, sent to real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import signal, sys

print("loading", flush=True)
sys.stdin.readline()  # The signal has come.
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda heard, _: print("heard", signal.Signals(heard).name, *sys.argv[1:], flush=True))
print("ready", flush=True)
from cluster.hold_signals import release
release()
print("path", sys.path[0])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_that_comes_while_a_program_is_loaded_is_heard_when_it_listens(
    number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-P", "-m", "cluster.hold_signals", str(tmp_path / "program.py"), "a b", "--c"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        os.kill(process.pid, number)
        out, _ = process.communicate("\n", timeout=30)
    assert process.returncode == 0
    said = out.splitlines()
    assert said[:2] == ["ready", f"heard {number.name} a b --c"]
    # A stranger's folder named like ours would be imported from there.
    assert said[2] != f"path {tmp_path}"
    assert len(said) == 3
