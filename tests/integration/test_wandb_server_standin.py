"""The stand-in for the W&B server keeps lines where they belong and breaks in the way it is told to."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wandb_server_standin import WandbServerStandin


@pytest.fixture
def server() -> Iterator[WandbServerStandin]:
    """One that knows a run."""
    with WandbServerStandin() as server:
        create_run(server)
        yield server


def create_run(server: WandbServerStandin) -> None:
    config = '{"seed": {"value": 1}, "_wandb": {"value": 0}}'
    variables = {"name": "trial", "project": "losses", "config": config}
    ask(server, "/graphql", {"query": "mutation UpsertBucket { x }", "variables": variables})


def ask(server: WandbServerStandin, path: str, body: object, *, key: str = "", timeout_s: float = 5) -> Any:
    """The parsed answer of a POST, or its status where that is not 200."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
    signed = base64.b64encode(f"api:{key or server.key}".encode()).decode()
    try:
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Basic {signed}"})
        answer = connection.getresponse()
        content = answer.read()
        return json.loads(content) if answer.status == 200 else answer.status
    finally:
        connection.close()


def send_rows(server: WandbServerStandin, offset: int, *steps: int, **options: Any) -> Any:
    """Rows of a run's history."""
    part = {"offset": offset, "content": [json.dumps({"_step": step}) for step in steps]}
    return ask(
        server, "/files/lab/losses/trial/file_stream", {"files": {"wandb-history.jsonl": part}}, **options
    )


def resume_status(server: WandbServerStandin) -> Any:
    """What a client asks when it begins."""
    variables = {"name": "trial", "project": "losses", "entity": "lab"}
    return ask(server, "/graphql", {"query": "query RunResumeStatus { x }", "variables": variables})


def end(server: WandbServerStandin, exit_code: int) -> str:
    """The run's state after its end."""
    ask(server, "/files/lab/losses/trial/file_stream", {"complete": True, "exitcode": exit_code})
    return server.runs["trial"].state


def steps_of(server: WandbServerStandin) -> list[int]:
    return [row["_step"] for row in server.runs["trial"].history]


def test_lines_that_are_sent_again_replace_themselves(server: WandbServerStandin) -> None:
    send_rows(server, 0, 0, 1, 2)
    send_rows(server, 1, 1, 2, 3)
    assert steps_of(server) == [0, 1, 2, 3]
    assert [rows for _, rows in server.runs["trial"].arrivals] == [3, 4]


def test_rows_that_are_sent_twice_stay_visible(server: WandbServerStandin) -> None:
    send_rows(server, 0, 0, 1)
    send_rows(server, 2, 1, 2)
    assert steps_of(server) == [0, 1, 1, 2]


def test_a_client_that_resumes_is_told_where_to_go_on(server: WandbServerStandin) -> None:
    send_rows(server, 0, 0, 1)
    bucket = resume_status(server)["data"]["model"]["bucket"]
    assert bucket["historyLineCount"] == 2
    assert json.loads(json.loads(bucket["historyTail"])[-1]) == {"_step": 1}
    assert server.runs["trial"].config == {"seed": 1}


@pytest.mark.parametrize(("fault", "status"), [("error500", 500), ("too_many", 429)])
def test_a_fault_answers_and_keeps_nothing(server: WandbServerStandin, fault: str, status: int) -> None:
    server.fault = fault
    assert send_rows(server, 0, 0) == status
    server.fault = None
    assert steps_of(server) == []
    assert send_rows(server, 0, 0) == {"exitcode": None, "limits": {}}


def test_garbage_is_no_json(server: WandbServerStandin) -> None:
    server.fault = "garbage"
    with pytest.raises(json.JSONDecodeError):
        send_rows(server, 0, 0)
    assert steps_of(server) == []


@pytest.mark.parametrize(("fault", "kept"), [("close", []), ("lost_answer", [0])])
def test_a_connection_ends_without_an_answer(server: WandbServerStandin, fault: str, kept: list[int]) -> None:
    server.fault = fault
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        send_rows(server, 0, 0)
    assert steps_of(server) == kept


def test_a_hanging_server_says_nothing(server: WandbServerStandin) -> None:
    server.fault = "hang"
    with pytest.raises(TimeoutError):
        send_rows(server, 0, 0, timeout_s=0.3)
    assert steps_of(server) == []


def test_a_slow_server_answers_in_the_end(server: WandbServerStandin) -> None:
    server.fault, server.slow_s = "slow", 0.3
    started = time.monotonic()
    assert send_rows(server, 0, 0) != 500
    assert time.monotonic() - started >= 0.3
    assert steps_of(server) == [0]


def test_a_stopped_server_refuses_and_comes_back_with_what_it_had(server: WandbServerStandin) -> None:
    send_rows(server, 0, 0)
    port = server.port
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        send_rows(server, 1, 1)
    server.start()
    assert server.port == port
    send_rows(server, 1, 1)
    assert steps_of(server) == [0, 1]


def test_a_stop_ends_the_connections_that_are_open(server: WandbServerStandin) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("POST", "/graphql", "{}")
    connection.getresponse().read()
    assert connection.sock is not None
    server.stop()
    assert connection.sock.recv(1) == b""


def test_states_follow_what_the_client_says(server: WandbServerStandin) -> None:
    run = server.runs["trial"]
    assert (run.state, run.exit_code) == ("running", None)
    ask(server, "/files/lab/losses/trial/file_stream", {"preempting": True})
    assert run.state == "preempting"
    assert end(server, 1) == "preempted"
    resume_status(server)
    create_run(server)
    assert (run.state, run.exit_code) == ("running", None)
    assert end(server, 1) == "failed"
    assert end(server, 0) == "finished"


def test_another_key_is_refused(server: WandbServerStandin) -> None:
    assert send_rows(server, 0, 0, key="x" * 40) == 401
    assert (steps_of(server), server.refused) == ([], 1)


def test_an_operation_it_does_not_know_is_remembered(server: WandbServerStandin) -> None:
    assert ask(server, "/graphql", {"query": "query FlyToTheMoon { x }"}) == 400
    assert ask(server, "/graphql", {"query": "query RunHistoryKeys { x }", "variables": {}}) == 400
    assert server.unknown[0] == "FlyToTheMoon"
    assert "KeyError('entity')" in server.unknown[1]
