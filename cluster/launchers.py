"""The table of launchers. To add one: a class with `submit`, and a line here; the contract tests run over the table."""

from collections.abc import Callable

from cluster.api import Launcher
from cluster.local import InlineLauncher, ProcessLauncher

LAUNCHERS: dict[str, Callable[[], Launcher]] = {"inline": InlineLauncher, "process": ProcessLauncher}
