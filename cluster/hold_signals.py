"""`python -m cluster.hold_signals ARGUMENTS`: Python with these arguments, that hears requests to stop when it is ready to.

A request that SLURM sends while a program is still being loaded would end it at once, unsaved and not requeued. Held back,
it waits until the program unblocks HELD.
"""

from __future__ import annotations

import os
import signal
import sys

HELD = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def release() -> None:
    """Lets what was held back through; to be called when somebody listens."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    os.execv(sys.executable, [sys.executable, "-P", *sys.argv[1:]])
