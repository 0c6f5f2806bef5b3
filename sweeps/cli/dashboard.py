"""What `srloss dashboard` does."""

from __future__ import annotations

import os
from pathlib import Path

from sweeps.cli.show import say
from sweeps.store import default_store


def dashboard(sweep_id: str | None, *, port: int | None, store: Path | None) -> int:
    """Serves the pages of a run store on this machine until Ctrl-C; the exit code.

    Raises:
        ValueError: There is no such sweep, the port is taken, or what serves pages is not installed.
    """
    try:
        from sweeps.dashboard import serve
    except ModuleNotFoundError as error:
        raise ValueError(
            f"srloss dashboard needs {error.name}, which is not installed: pip install starlette uvicorn "
            "(without it: srloss report --watch writes the same page again and again)"
        ) from None
    token = os.environ.get("SRLOSS_DASHBOARD_TOKEN")
    return serve(store or default_store(), sweep_id, port=port, token=token, say=say)
