"""The only door to Weights & Biases. What is sent through it is decided elsewhere (`sr.tracked`).

Everything here may block for as long as W&B's server likes, or end the client's own process: it is for a process beside the
training, which may be ended at any time, since all that W&B holds can be sent again from the ledgers.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sr.tracked import STEP, Row, Tracked

log = logging.getLogger(__name__)

Mode = Literal["online", "offline"]
_PROBE_S = 3.0
_INIT_S = 20.0
_NOT_ITS_ANSWER = (ValueError, KeyError, TypeError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Answer:
    """What W&B's server said when it was asked who we are."""

    state: Literal["well", "no_key", "wrong_key", "unreachable"]
    words: str
    """Why not, for people; of `well`: who we are."""

    @property
    def is_well(self) -> bool:
        """Whether runs can be sent now."""
        return self.state == "well"


def ask(*, timeout_s: float = _PROBE_S) -> Answer:
    """Asks the server once who the API key of this machine belongs to; takes no longer than `timeout_s`.

    Raises:
        ValueError: A setting of W&B's is not valid, e.g. $WANDB_BASE_URL.
    """
    url, key = _server()
    host = url.partition("://")[2]
    if key is None:
        return Answer("no_key", f"no API key for {host} on this machine (wandb login, or WANDB_API_KEY)")
    try:
        found = _query(url, key, "query Viewer { viewer { id entity username } }", {}, timeout_s=timeout_s)
        viewer = dict(found["viewer"] or {})
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Answer(
                "wrong_key", f"{host} does not accept the API key of this machine (wandb login --relogin)"
            )
        return Answer("unreachable", f"{host} answers with HTTP {error.code}")
    except OSError as error:
        why = getattr(error, "reason", None) or error
        if isinstance(why, TimeoutError):
            return Answer("unreachable", f"{host} does not answer within {timeout_s:g} s")
        return Answer("unreachable", f"{host} cannot be reached ({getattr(why, 'strerror', None) or why})")
    except _NOT_ITS_ANSWER:
        return Answer("unreachable", f"{host} answers, but not as W&B does; is it the page of a proxy?")
    if not viewer:
        return Answer(
            "wrong_key", f"{host} does not know the API key of this machine (wandb login --relogin)"
        )
    return Answer("well", str(viewer.get("entity") or viewer.get("username") or ""))


def num_rows_on_server(run_id: str, *, project: str, entity: str | None, timeout_s: float) -> int:
    """How many rows of a run the server has; -1 where it does not say."""
    url, key = _server()
    question = """query RunResumeStatus($project: String, $entity: String, $name: String!) {
        model(name: $project, entityName: $entity) { bucket(name: $name, missingOk: true) { historyLineCount } } }"""
    try:
        variables = {"project": project, "entity": entity, "name": run_id}
        found = _query(url, key or "", question, variables, timeout_s=timeout_s)
        return int(found["model"]["bucket"]["historyLineCount"])
    except (OSError, *_NOT_ITS_ANSWER):
        return -1


def _query(
    url: str, key: str, query: str, variables: Mapping[str, str | None], *, timeout_s: float
) -> dict[str, Any]:
    """Asks the server; no retries, which the client would make for minutes.

    Raises:
        OSError: It cannot be reached, answers with an error, or not in time.
        _NOT_ITS_ANSWER: What came is no answer of W&B's.
    """
    request = urllib.request.Request(
        f"{url}/graphql",
        data=json.dumps({"query": query, "variables": variables}).encode(),
        headers={
            "Authorization": f"Basic {base64.b64encode(f'api:{key}'.encode()).decode()}",
            "Content-Type": "application/json",
        },
    )
    answers: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()

    def post() -> None:
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                answers.put(json.loads(response.read(10_000_000))["data"])
        except Exception as error:  # noqa: BLE001 - it is raised below
            answers.put(error)

    # The timeout of a socket holds for each piece of an answer, and not for looking up the server's name.
    threading.Thread(target=post, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def server_url() -> str:
    """Address of the server."""
    return _server()[0]


def _server() -> tuple[str, str | None]:
    """Address of the server, and the API key for it; they come from the environment, W&B's settings, and ~/.netrc."""
    # Read when it is imported; what people must know is told elsewhere, and once.
    os.environ["WANDB_SILENT"] = "true"
    from pydantic import ValidationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    try:
        settings = wandb_setup.singleton().settings
    except ValidationError as error:
        wrong = error.errors()[0]
        name = "_".join(map(str, wrong["loc"]))
        raise ValueError(
            f"W&B's setting {name} ($WANDB_{name.upper()}): {wrong['msg']}, got {wrong['input']!r}"
        ) from None
    # The client reads the environment once in a process's life.
    url = os.environ.get("WANDB_BASE_URL") or settings.base_url
    key = os.environ.get("WANDB_API_KEY") or settings.api_key or wbauth.read_netrc_auth(host=url)
    return url.rstrip("/"), key


class RowsLostError(Exception):
    """W&B lacks rows in the middle of a run, where none can be added any more."""


class Client:
    """W&B's client, for all runs of one folder.

    Args:
        folder: Where it keeps its files, in `wandb/`.
        mode: Whether it sends, or writes to `wandb/offline-run-*`.
        project: Of all runs.
        entity: The team or user; None: the default.
        finish_timeout_s: How long the end of a run may take.
        driver_pid: Process that is measured, with its children, for the sweep's run; None: this one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Mode,
        project: str,
        entity: str | None,
        finish_timeout_s: float,
        driver_pid: int | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.mode: Mode = mode
        self._project, self._entity = project, entity
        self.place = f"{server_url()} {entity or ''} {project}" if mode == "online" else ""
        """Where its runs are: another server or project has not got them because this one has."""
        self._finish_timeout_s = finish_timeout_s
        self._driver_pid = driver_pid
        # What W&B stages goes beside its runs: home folders on clusters are small, and a later upload needs it.
        for name in ("CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
            os.environ[f"WANDB_{name}"] = str(self.folder / "wandb" / ".client")
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        # Whoever started this process may have a client of his own; that ends when he does.
        os.environ.pop("WANDB_SERVICE", None)

    def open(self, tracked: Tracked) -> OpenRun:
        """Begins a run, or goes on with it where W&B has it already.

        Raises:
            OSError: The server does not take it now.
            RowsLostError: It will never be whole.
        """
        if self.mode == "online" and not (answer := ask()).is_well:
            # The client itself would try for long.
            raise OSError(answer.words)
        import wandb
        from wandb.errors import Error

        # An offline log is written anew from the first row: two logs of one run would repeat steps when they are uploaded.
        kind = "run" if self.mode == "online" else "offline-run"
        for leftover in (self.folder / "wandb").glob(f"{kind}-*-{tracked.run_id}"):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            run = wandb.init(
                mode=self.mode,
                dir=str(self.folder),
                entity=self._entity,
                project=self._project,
                group=tracked.group or None,
                job_type=tracked.job_type,
                id=tracked.run_id,
                name=tracked.name,
                tags=tracked.tags,
                config=tracked.config(),
                resume="allow" if self.mode == "online" else None,
                reinit="create_new",
                settings=self._settings(is_sweep=tracked.job_type == "sweep"),
            )
        except (Error, TimeoutError) as error:
            raise OSError(" ".join(str(error).split())) from None
        opened = OpenRun(run, is_online=self.mode == "online", finish_timeout_s=self._finish_timeout_s)
        if opened.num_known and 0 <= opened.num_there() < opened.num_known:
            run.finish()
            raise RowsLostError(f"{tracked.run_id}: rows are missing before row {opened.num_known - 1}")
        if tracked.job_type == "train":
            run.define_metric(STEP, hidden=True)
            run.define_metric("*", step_metric=STEP)
        return opened

    def _settings(self, *, is_sweep: bool) -> Any:  # noqa: ANN401 - importing wandb here would cost a second
        import wandb

        return wandb.Settings(
            quiet=True,
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_save_requirements=False,
            # One client serves all trials; it measures its own machine, so for the sweep, and once.
            x_disable_stats=not is_sweep,
            **(
                {"x_stats_pid": self._driver_pid, "x_stats_track_process_tree": True}
                if self._driver_pid
                else {}
            ),
            init_timeout=_INIT_S,
            finish_timeout=self._finish_timeout_s,
            finish_timeout_raises=True,
            # The default of 15 s leaves an empty log behind a killed process, which an upload trips over.
            x_transaction_log_flush_interval=2,
        )


class OpenRun:
    """A run that rows can be sent to. Made by `Client.open`."""

    def __init__(self, run: Any, *, is_online: bool, finish_timeout_s: float) -> None:  # noqa: ANN401 - wandb's Run
        self._run = run
        self._is_online = is_online
        self._finish_timeout_s = finish_timeout_s
        self._num_rows = 0
        self.path = f"{run.entity}/{run.project}/{run.id}"
        # An offline run has no page, and its client warns whoever asks.
        self.url: str = (run.url or "") if is_online else ""
        self.num_known: int = run.starting_step
        """Rows that W&B had when it was opened."""

    def send(self, index: int, row: Row) -> None:
        """Sends the row with this number; rows come in order, and those that W&B has are left out."""
        self._num_rows = index + 1
        if index < self.num_known:
            return
        import wandb

        content: dict[str, Any] = dict(row.scalars)
        for name, pictures in row.pictures.items():
            if pictures:
                content[name] = [wandb.Image(str(one.path), caption=one.caption) for one in pictures]
        for name, table in row.tables.items():
            content[name] = wandb.Table(
                columns=list(table.columns), data=[list(cells) for cells in table.rows]
            )
        for name, path in row.pages.items():
            content[name] = wandb.Html(path.read_text(encoding="utf-8"), inject=False)
        self._run.log(content, step=index, commit=True)

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Replaces what stands beside the curves."""
        self._run.summary.update(dict(values))

    def finish(self, exit_code: int, *, is_unfinished: bool = False) -> None:
        """Ends the run, when W&B has all of it.

        Args:
            exit_code: 0 where the trial ended well.
            is_unfinished: Whether it will be gone on with; W&B then calls it preempted.

        Raises:
            TimeoutError: W&B has not got all of it in time.
        """
        if is_unfinished:
            self._run.mark_preempting()
        self._run.finish(exit_code=exit_code)
        # The client calls a page of some proxy an answer, and what it had sent is gone.
        if self._is_online and self.num_there() < self._num_rows:
            raise TimeoutError("not all rows have arrived")

    def num_there(self) -> int:
        """How many rows the server has; -1 where it does not say."""
        run = self._run
        timeout_s = max(1.0, self._finish_timeout_s)
        return num_rows_on_server(run.id, project=run.project, entity=run.entity, timeout_s=timeout_s)


def rows_on_server(path: str) -> list[dict[str, Any]]:
    """The rows of a run as the server gives them back, in order; without pictures and pages whose files it has not got.

    Args:
        path: ENTITY/PROJECT/ID.

    Raises:
        OSError: It does not answer, or has no such run.
    """
    import wandb

    try:
        run = wandb.Api(timeout=30).run(path)
        rows = list(run.scan_history(page_size=500))
        names = {file.name for file in run.files(per_page=500) if file.size}
    except Exception as error:  # noqa: BLE001 - whatever its client raises, there are no rows
        raise OSError(" ".join(str(error).split())) from None
    return [{key: value for key, value in row.items() if _files_of(value) <= names} for row in rows]


def _files_of(value: object) -> set[str]:
    """The files that a picture list or a page stands for; tables are artifacts, which arrive whole or not at all."""
    if not isinstance(value, dict) or "_type" not in value or "artifact_path" in value:
        return set()
    return {*value.get("filenames", ()), *([value["path"]] if "path" in value else ())}


def offline_rows(folder: Path, run_id: str) -> list[dict[str, Any]]:
    """The rows of a run's offline log, as W&B's own reader gives them.

    Raises:
        ValueError: There is none, or not just one, or it is damaged.
    """
    folders = sorted((folder / "wandb").glob(f"offline-run-*-{run_id}"))
    if len(folders) != 1:
        raise ValueError(f"expected one offline run, found {len(folders)}")
    path = next(folders[0].glob("*.wandb"), None)
    if path is None:
        raise ValueError(f"{folders[0]} holds no .wandb file")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    try:
        records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line]
    except json.JSONDecodeError as error:
        raise ValueError(f"wandb leet inspect printed something else than JSON: {error}") from None
    if done.returncode or not records:
        raise ValueError((done.stderr or "no records").strip().splitlines()[-1])
    return [_whole(record["history"]["item"]) for record in records if record["type"] == "history"]


def _whole(item: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the keys of its pictures, tables and pages, of which that reader gives the parts: `val/crops._type`, ..."""
    media = [name.removesuffix("._type") for name in item if name.endswith("._type")]
    return {**item, **{name: item[f"{name}._type"] for name in media}}


def mark_synced(folder: Path, run_id: str) -> None:
    """Has `wandb sync` leave out the local logs of a run that W&B has whole."""
    for path in (folder / "wandb").glob(f"*run-*-{run_id}/*.wandb"):
        path.with_name(f"{path.name}.synced").touch()
