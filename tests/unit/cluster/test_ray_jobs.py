"""What a person sees of a Ray cluster that cannot be used: one line each, soon."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import ray

from cluster import ray_jobs
from cluster.api import JobState
from cluster.records import JobRecord

TOKEN = "the-token-of-this-cluster-0123456789"


@pytest.fixture(autouse=True)
def no_ray_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ray_jobs.ADDRESS_VARIABLES, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Dashboard(BaseHTTPRequestHandler):
    """As much of Ray's as the client asks."""

    version = ray.__version__
    wants_token = False
    jobs: dict[str, dict[str, Any]]
    taken: list[dict[str, Any]]

    def answer(self, code: int, content: object) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.wants_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {})
        path = urlsplit(self.path).path
        if path == "/api/version":
            return self.answer(200, {"version": "4", "ray_version": self.version, "ray_commit": ""})
        job = self.jobs.get(path.removeprefix("/api/jobs/"))
        return self.answer(200, job) if job else self.answer(404, {})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.taken.append(request)
        if request["submission_id"] == "taken-just-now":
            trace = "Traceback (most recent call last):\n  somewhere\nValueError: Job with submission_id X already exists."
            return self.answer(500, trace.encode())
        name = {"job_id": request["submission_id"], "submission_id": request["submission_id"]}
        return self.answer(200, name)

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@contextmanager
def served(**what: Any) -> Iterator[tuple[str, type[Dashboard]]]:
    handler = type("Handler", (Dashboard,), {"jobs": {}, "taken": [], **what})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()


def job(name: str, status: str, message: str = "") -> dict[str, Any]:
    return {
        "type": "SUBMISSION",
        "submission_id": name,
        "status": status,
        "entrypoint": "true",
        "message": message,
        "start_time": 1_000_000,
        "end_time": 1_090_000,
    }


def submitted(address: str, name: str = "sweep", **changes: Any) -> str:
    return ray_jobs.submit(
        ["true"], **{"address": address, "submission_id": name, "env": {}, "metadata": {}, **changes}
    )


def record(address: str, name: str = "sweep") -> JobRecord:
    return JobRecord("ray", name, "sweep", name, "now", "/store", address=address)


def test_a_named_address_comes_before_rays_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://b:8265")
    assert ray_jobs.address_of(None) == "http://b:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://a:8265/")
    assert ray_jobs.address_of(None) == "http://a:8265"
    assert ray_jobs.address_of("10.0.0.1:8265") == "http://10.0.0.1:8265"


def test_a_job_goes_to_the_named_cluster_although_ray_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    with served() as (address, handler):
        assert submitted(address) == "sweep"
        assert len(handler.taken) == 1


@pytest.mark.parametrize("address", ["auto", "ray://10.0.0.1:10001", "10.0.0.1"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="give the URL of the dashboard"):
        ray_jobs.address_of(address)


def test_no_address_at_all_is_told() -> None:
    with pytest.raises(ValueError, match="--address http://HEAD:8265"):
        ray_jobs.address_of(None)


def test_nobody_at_the_address_is_told_at_once() -> None:
    with served() as (address, _):
        pass
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=r"does not answer .*refused.*ray\[default\]"):
        submitted(address)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"version": "2.3.1"}, rf"is 2\.3\.1, here it is {ray.__version__}; .*ray==2\.3\.1"),
        ({"wants_token": True}, "it wants a token, and there is none here"),
        ({"do_GET": lambda self: self.answer(404, {})}, "HTTP 404; is this the dashboard"),
        ({"do_GET": lambda self: self.answer(200, b"<html>")}, "is no dashboard of Ray"),
        ({"do_GET": lambda self: self.wfile.write(b"\x00\x00\x04")}, "is no dashboard of Ray"),
    ],
)
def test_a_cluster_that_cannot_be_used_says_why_in_a_line(what: dict[str, Any], told: str) -> None:
    with served(**what) as (address, _), pytest.raises(ValueError, match=told) as caught:
        submitted(address)
    assert "\n" not in str(caught.value)


def test_the_token_is_where_ray_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with served(wants_token=True) as (address, handler):
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        assert submitted(address) == "sweep"
        assert TOKEN not in json.dumps(handler.taken)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
        with pytest.raises(ValueError, match=r"RAY_AUTH_TOKEN_PATH: .*none: No such file"):
            submitted(address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "another-token-0123456789")
        with pytest.raises(ValueError, match="the token here is not the cluster's"):
            submitted(address)


def test_a_job_of_another_version_can_be_looked_at() -> None:
    with served(version="2.53.0", jobs={"sweep": job("sweep", "RUNNING")}) as (address, _):
        status = ray_jobs.look(record(address))
    assert (status.state, status.words, status.elapsed_s) == (JobState.RUNNING, "RUNNING", 90)


def test_a_job_that_runs_is_not_submitted_again() -> None:
    with (
        served(jobs={"sweep": job("sweep", "FAILED"), "sweep-2": job("sweep-2", "PENDING")}) as (
            address,
            handler,
        ),
        pytest.raises(ValueError, match=r"submitted already, as job sweep-2 \(PENDING\)"),
    ):
        submitted(address)
    assert handler.taken == []


def test_after_an_end_the_next_attempt_has_a_number() -> None:
    jobs = {"sweep": job("sweep", "FAILED"), "sweep-2": job("sweep-2", "STOPPED")}
    with served(jobs=jobs) as (address, _):
        assert submitted(address) == "sweep-3"


def test_two_at_once_do_not_both_submit() -> None:
    with served() as (address, _), pytest.raises(ValueError, match="a moment ago, as job taken-just-now"):
        submitted(address, "taken-just-now")


def test_what_a_user_has_named_reaches_no_shell_unquoted() -> None:
    import shlex

    words = ["python", "-m", "x", "/store/it's; rm -rf $HOME/a b", '"']
    with served() as (address, handler):
        ray_jobs.submit(
            words,
            address=address,
            submission_id="s",
            env={"SRLOSS_CACHE": "/c"},
            metadata={"sweep": "a b"},
            grace_s=45,
        )
    [request] = handler.taken
    assert shlex.split(request["entrypoint"]) == words
    # Ray would kill a stopped job after 3 s.
    assert request["runtime_env"]["env_vars"] == {"SRLOSS_CACHE": "/c", "RAY_JOB_STOP_WAIT_TIME_S": "45"}
    assert request["metadata"] == {"sweep": "a b"}


def test_a_job_its_cluster_does_not_know_is_gone() -> None:
    with served() as (address, _):
        assert ray_jobs.look(record(address)) is ray_jobs.GONE
        assert ray_jobs.stop(record(address), wait_s=1) is ray_jobs.GONE
        with pytest.raises(ValueError, match="does not know the job"):
            ray_jobs.logs(record(address))
        with pytest.raises(ValueError, match="does not know the job"):
            next(ray_jobs.follow(record(address)))


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        ("FAILED", "failed with exit code 1, logs:\nsome line\nerror: node b: c\n", "node b: c"),
        ("FAILED", "failed, logs:\nerror: one\nerror: two\n", "one (and 1 more, see its log)"),
        ("FAILED", "failed, logs:\nsome line\nKilled\n", "Killed"),
        (
            "PENDING",
            "Job has not started yet. Perhaps no room.\nMore.",
            "Job has not started yet. Perhaps no room.",
        ),
        ("RUNNING", "Job is currently running.", ""),
    ],
)
def test_of_rays_message_the_reason_remains(status: str, message: str, reason: str) -> None:
    with served(jobs={"sweep": job("sweep", status, message)}) as (address, _):
        assert ray_jobs.look(record(address)).reason == reason


def test_a_job_name_can_be_part_of_a_url() -> None:
    assert ray_jobs.job_name("srloss-it's a/b 'c'-12ab") == "srloss-it-s-a-b-c--12ab"
