"""The only door to Ray Jobs: commands on a Ray cluster that is there already, by way of its dashboard.

The token is where Ray itself looks for it: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN. It goes into
the headers of requests and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.api import JobState
from cluster.records import JobRecord, JobStatus

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient  # noqa: TID251 - this is the door

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where Ray's own command line looks for an address."""
_ANSWER_S = 5.0
"""How long a dashboard may take to say that it is there."""
_REQUEST_S = 60.0
"""How long it may take for anything else, the upload of code for one."""
_SILENCE_S = 15.0
"""How long a job may print nothing before it is asked whether it is still there."""
_STATES = {
    "PENDING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.CANCELLED,
}
GONE = JobStatus(
    JobState.FAILED,
    "GONE",
    "this Ray cluster does not know the job: it was started anew since, or is another one",
)
"""Status of a job that its cluster has never heard of."""


def address_of(named: str | None) -> str:
    """URL of the dashboard that a user means: the one named, else $RAY_API_SERVER_ADDRESS or $RAY_ADDRESS.

    Raises:
        ValueError: None is named, or it is an address of another kind.
    """
    address = named or next((os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)), "")
    if not address:
        raise ValueError(
            "no Ray cluster is named; give the URL of its dashboard: --address http://HEAD:8265, cluster.address, or "
            "$RAY_API_SERVER_ADDRESS"
        )
    if "://" not in address and ":" in address:
        address = f"http://{address}"
    if not address.startswith(("http://", "https://")):
        raise ValueError(
            f"Ray at {address}: give the URL of the dashboard on its head, such as http://10.0.0.1:8265"
        )
    return address.rstrip("/")


def submit(
    entrypoint: Sequence[str],
    *,
    address: str,
    submission_id: str,
    env: Mapping[str, str],
    metadata: Mapping[str, str],
    working_dir: Path | None = None,
    grace_s: int = 60,
) -> str:
    """Has a Ray cluster run a command on its head; returns the job's id.

    Args:
        entrypoint: The command and its arguments; they reach it as they are.
        address: URL of the dashboard.
        submission_id: The job's id. Where a job of this id has ended, this is another attempt with a number behind it.
        env: Variables for the command and for all that it runs on the cluster. The dashboard shows them: no secrets.
        metadata: For people who look at the dashboard.
        working_dir: A folder to send: the command and all that it runs on the cluster can import from it.
        grace_s: How long the command may take to end by itself when it is stopped.

    Raises:
        ValueError: Such a job runs already; or the cluster wants another token, or has another version of Ray.
        ConnectionError: The cluster does not answer.
    """
    client = _client(address, same_version=True)
    attempt, name = 1, submission_id
    while (status := _status(client, name)) is not GONE:
        if status.state in (JobState.PENDING, JobState.RUNNING):
            raise ValueError(f"Ray at {address}: this is submitted already, as job {name} ({status.words})")
        attempt += 1
        name = f"{submission_id}-{attempt}"
    # Ray's own job supervisor reads it among the job's variables, and would allow 3 s.
    runtime_env: dict[str, Any] = {"env_vars": {**env, "RAY_JOB_STOP_WAIT_TIME_S": str(grace_s)}}
    if working_dir is not None:
        runtime_env["working_dir"] = str(working_dir)
    try:
        return client.submit_job(
            # Ray hands it to a shell.
            entrypoint=shlex.join(entrypoint),
            submission_id=name,
            metadata=dict(metadata),
            runtime_env=runtime_env,
        )
    except RuntimeError as error:
        if "already exists" in str(error):
            raise ValueError(f"Ray at {address}: this was submitted a moment ago, as job {name}") from None
        raise ValueError(f"Ray at {address}: did not take the job: {_first_line(error)}") from None
    except OSError as error:
        raise ConnectionError(f"Ray at {address}: was lost while the job was sent: {error}") from None


def look(record: JobRecord) -> JobStatus:
    """Where a job stands, as its cluster says.

    Raises:
        ValueError: The cluster wants another token.
        ConnectionError: It does not answer.
    """
    return _status(_client(record.address), record.job_id)


def logs(record: JobRecord) -> str:
    """All that a job has printed so far. Raises as `look`; ValueError also where the cluster does not know the job."""
    client = _client(record.address)
    with _known(record):
        return client.get_job_logs(record.job_id)


def follow(record: JobRecord) -> Iterator[str]:
    """What a job has printed and goes on to print, in pieces, until it ends. Raises as `logs`."""
    client = _client(record.address)
    if _status(client, record.job_id) is GONE:
        raise ValueError(f"{record.job_id}: {GONE.reason}")
    loop = asyncio.new_event_loop()
    pieces = client.tail_job_logs(record.job_id)
    try:
        while (piece := loop.run_until_complete(_next(pieces, record))) is not None:
            yield piece
    finally:
        loop.run_until_complete(pieces.aclose())  # pyright: ignore[reportAttributeAccessIssue] - a generator
        loop.close()


async def _next(pieces: AsyncIterator[str], record: JobRecord) -> str | None:
    from aiohttp import ClientError

    async def piece() -> str | None:
        return await anext(pieces, None)

    coming = asyncio.ensure_future(piece())
    # A head whose machine vanishes says nothing, and neither does its connection.
    while not (await asyncio.wait({coming}, timeout=_SILENCE_S))[0]:
        look(record)
    try:
        return await coming
    except (ClientError, RuntimeError, OSError):
        raise ConnectionError(f"Ray at {record.address}: was lost; the job's output ends here") from None


def stop(record: JobRecord, *, wait_s: float) -> JobStatus:
    """Asks a job to end and waits for it, so long at most; returns where it then stands. Raises as `look`."""
    client = _client(record.address)
    status = _status(client, record.job_id)
    if status.state not in (JobState.PENDING, JobState.RUNNING):
        return status
    with _known(record):
        client.stop_job(record.job_id)
    deadline = time.monotonic() + wait_s
    while True:
        status = _status(client, record.job_id)
        if status.state not in (JobState.PENDING, JobState.RUNNING) or time.monotonic() >= deadline:
            return status
        time.sleep(0.5)


def _status(client: JobSubmissionClient, job_id: str) -> JobStatus:
    try:
        info = client.get_job_info(job_id)
    except RuntimeError as error:
        if "status code 404" in str(error):
            return GONE
        raise ValueError(f"Ray at {client.get_address()}: {_first_line(error)}") from None
    except OSError:
        raise ConnectionError(
            f"Ray at {client.get_address()}: was there and does not answer any more"
        ) from None
    words = info.status.value
    end_ms = info.end_time or time.time() * 1000
    return JobStatus(
        _STATES[words],
        words,
        reason=_reason(words, info.message or ""),
        nodes=info.driver_info.node_ip_address if info.driver_info else "",
        elapsed_s=max(0.0, (end_ms - info.start_time) / 1000) if info.start_time else None,
    )


def _reason(words: str, message: str) -> str:
    """What people want to know of Ray's message, which may hold the end of the log."""
    if words in ("RUNNING", "SUCCEEDED", "STOPPED") or not message:
        return ""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[0] + (f" (and {len(errors) - 1} more, see its log)" if len(errors) > 1 else "")
    return lines[-1] if words == "FAILED" else lines[0]


@contextmanager
def _known(record: JobRecord) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        told = GONE.reason if "status code 404" in str(error) else _first_line(error)
        raise ValueError(f"{record.job_id}: {told}") from None
    except OSError:
        raise ConnectionError(f"Ray at {record.address}: does not answer any more") from None


def _client(address: str, *, same_version: bool = False) -> JobSubmissionClient:
    """Ray's client, once it is known that the cluster answers and takes the token; Ray's own has no patience limit."""
    import ray  # noqa: TID251
    from ray.exceptions import AuthenticationError  # noqa: TID251
    from ray.job_submission import JobSubmissionClient  # noqa: TID251

    for name in (
        "dashboard.modules.job.sdk",
        "dashboard.modules.dashboard_sdk",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        def _do_request(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Ray has it
            return super()._do_request(*args, **{"timeout": _REQUEST_S, **kwargs})

    there = version_at(address)
    if same_version and there != ray.__version__:
        raise ValueError(
            f"Ray at {address} is {there}, here it is {ray.__version__}; submit from an environment with "
            f"ray=={there}, the cluster's"
        )
    # Ray prefers its variable to what it is told.
    before = os.environ.get(ADDRESS_VARIABLES[0])
    os.environ[ADDRESS_VARIABLES[0]] = address
    try:
        return Client(address, headers=_token_header())
    except (AuthenticationError, RuntimeError) as error:
        raise ValueError(f"Ray at {address}: {_first_line(error)}") from None
    except OSError:
        raise ConnectionError(f"Ray at {address}: does not answer any more") from None
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLES[0]]
        else:
            os.environ[ADDRESS_VARIABLES[0]] = before


def version_at(address: str) -> str:
    """Version of Ray behind a dashboard.

    Raises:
        ValueError: The token is wrong or missing, or it is no such dashboard.
        ConnectionError: Nobody answers.
    """
    try:
        request = urllib.request.Request(f"{address}/api/version", headers=_token_header())
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
            return json.load(answer)["ray_version"]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            has = (
                "the token here is not the cluster's"
                if _token_header()
                else "it wants a token, and there is none here"
            )
            raise ValueError(
                f"Ray at {address}: {has}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file with the cluster's"
            ) from None
        raise ValueError(
            f"Ray at {address}: answers with HTTP {error.code}; is this the dashboard of a Ray (2.0 or later)?"
        ) from None
    except (HTTPException, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"Ray at {address}: answers, but is no dashboard of Ray; check the port") from None
    except OSError as error:
        why = getattr(error, "reason", error)
        raise ConnectionError(
            f"Ray at {address}: does not answer ({why}); check the address, that the head runs, and that Ray was "
            "installed there with its dashboard: pip install 'ray[default]'"
        ) from None


def _token_header() -> dict[str, str]:
    """The token as Ray's own client sends it, read at each call: Ray reads it once a process.

    Raises:
        ValueError: The environment names a token that is not there.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "")
    token, place = os.environ.get("RAY_AUTH_TOKEN", ""), os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if mode == "disabled" or not (mode or token or place):
        return {}
    if not token:
        path = Path(place or "~/.ray/auth_token").expanduser()
        try:
            token = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(
                f"the token of the Ray cluster, $RAY_AUTH_TOKEN_PATH: {path}: {error.strerror}"
            ) from None
    return {"Authorization": f"Bearer {token}"}


def _first_line(error: Exception) -> str:
    """What Ray's server says, without its traceback."""
    # It puts a full stop behind the last line, and that is empty.
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1] if len(lines) > 1 and "Traceback" in lines[0] else (lines or [type(error).__name__])[0]


def job_name(text: str) -> str:
    """`text` as an id of a job, which becomes part of a URL and of file names."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "job"
