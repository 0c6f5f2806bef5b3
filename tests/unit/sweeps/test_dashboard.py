"""The dashboard's door and pages, without a browser: who is let in, what can be asked for, and what it costs."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from sweeps import live
from sweeps.dashboard import FIRST_PORT, application, listening, ssh_line, told
from sweeps.dashboard_pages import list_page, stamp, sweep_page
from sweeps.live import Drawn, LivePage
from sweeps.store import SweepFolder, sweeps_in
from tests.growing_sweep import GrowingSweep

TOKEN = "a-token-in-the-hands-of-the-test"
HERE = "http://127.0.0.1:8550"


class Visitor:
    """Asks the application without a network, and keeps its cookies."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._cookies = httpx.Cookies()

    def get(self, path: str, headers: dict[str, Any] | None = None, *, method: str = "GET") -> httpx.Response:
        return asyncio.run(self._ask(path, headers or {}, method))

    async def _ask(self, path: str, headers: dict[str, Any], method: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url=HERE, cookies=self._cookies) as client:
            answer = await client.request(method, path, headers=headers)
            self._cookies.update(client.cookies)
            return answer


@pytest.fixture(scope="module")
def growing(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> GrowingSweep:
    growing = GrowingSweep(photos, tmp_path_factory.mktemp("store"), losses=["l1", "mse"])
    growing.baseline()
    growing.begin(0)
    growing.validate(0, 10, 30.0)
    growing.finish(0)
    return growing


@pytest.fixture
def stranger(growing: GrowingSweep) -> Visitor:
    """Somebody without the token."""
    app = application(growing.store, None, token=TOKEN, cookie="srloss-8550")
    return Visitor(app)


@pytest.fixture
def client(stranger: Visitor) -> Visitor:
    stranger.get(f"/?token={TOKEN}")
    return stranger


def test_the_printed_address_gives_a_cookie_and_drops_the_token(stranger: Visitor) -> None:
    answer = stranger.get(f"/sweeps?token={TOKEN}&x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sweeps?x=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert stranger.get("/sweeps").status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/sweeps", "/sweeps/x", "/events", "/pictures/x", "/nothing", "/?token=", "/?token=wrong"]
)
def test_without_the_token_there_is_nothing(stranger: Visitor, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 403
    assert "srloss dashboard has printed" in answer.text
    assert "set-cookie" not in answer.headers


def test_a_wrong_cookie_or_one_of_another_port_does_not_help(stranger: Visitor) -> None:
    for cookie in ("srloss-8550=wrong", f"srloss-8551={TOKEN}", "srloss-8550=\u00e9"):
        assert stranger.get("/sweeps", headers={"cookie": cookie.encode("latin-1")}).status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:8550", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("localhost:9000", 200),
        ("[::1]:1", 200),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(client: Visitor, host: str, status: int) -> None:
    assert client.get("/sweeps", headers={"host": host}).status_code == status
    assert client.get(f"/sweeps?token={TOKEN}", headers={"host": host}).status_code == (
        303 if status == 200 else 403
    )


def test_the_token_leads_nowhere_else(stranger: Visitor) -> None:
    answer = stranger.get(f"{HERE}//evil.example/?token={TOKEN}")
    assert answer.headers["location"] == "/evil.example/"


def test_only_pages_of_the_store_can_be_asked_for(client: Visitor, growing: GrowingSweep) -> None:
    for path in (
        "/sweeps/%2e%2e%2f%2e%2e",
        "/pictures/..%2f..%2fplan.json",
        f"/sweeps/{growing.sweep_id}/plan.json",
    ):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "plan" not in answer.text
    assert client.get("/sweeps", method="POST").status_code == 405


def test_a_page_is_the_report_with_its_pictures_beside_it(client: Visitor, growing: GrowingSweep) -> None:
    assert client.get("/").headers["location"] == f"/sweeps/{growing.sweep_id}"
    answer = client.get(f"/sweeps/{growing.sweep_id}")
    assert 'id="main-table"' in answer.text
    assert "connect-src 'self'" in answer.text
    assert "base64" not in answer.text.partition('id="crops"')[2].partition("</section>")[0]
    name = answer.text.partition('src="/pictures/')[2].partition('"')[0]
    picture = client.get(f"/pictures/{name}")
    assert picture.headers["content-type"].startswith("image/")
    assert "immutable" in picture.headers["cache-control"]
    assert answer.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["srloss-version"] in answer.text


def test_the_list_names_every_sweep_and_its_verdict(client: Visitor, growing: GrowingSweep) -> None:
    page = client.get("/sweeps").text
    assert f'href="/sweeps/{growing.sweep_id}"' in page
    assert "unfinished" in page
    assert "1 of 2 trials done" in page


def test_half_made_and_foreign_sweeps_are_told_and_recover(
    growing: GrowingSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_S", 0.01)
    store = tmp_path / "store"
    shutil.copytree(growing.store, store)
    (folder,) = sweeps_in(store)
    state = folder.path / "trials" / growing.sweep.trials[1].trial_id / "config.yaml"
    text = state.read_text()
    state.unlink()
    foreign = store / "sweeps" / "foreign"
    foreign.mkdir()
    (foreign / "plan.json").write_text(json.dumps({"made_by": "somebody else"}))
    app = application(store, None, token=TOKEN, cookie="c")
    client = Visitor(app)
    client.get(f"/sweeps?token={TOKEN}")
    page = client.get(f"/sweeps/{folder.sweep_id}").text
    assert "cannot be shown" in page
    assert "config.yaml" in page
    assert "not a sweep that can be shown" in client.get("/sweeps/foreign").text
    listed = client.get("/sweeps").text
    assert "cannot be read" in listed
    assert folder.sweep_id in listed
    state.write_text(text)
    until = time.monotonic() + 5
    while 'id="main-table"' not in client.get(f"/sweeps/{folder.sweep_id}").text:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_stamp_sees_rows_states_and_evaluations_and_no_heartbeat(
    growing: GrowingSweep, tmp_path: Path
) -> None:
    shutil.copytree(growing.sweep.folder.path, tmp_path / "sweep")
    folder = SweepFolder(tmp_path / "sweep")
    ledger = folder.trial(growing.sweep.trials[1].trial_id)
    # The first row makes the file, which its folder tells; the others only its own time.
    ledger.append({"kind": "train", "step": 0})
    seen = [stamp(folder)]
    for change in (
        lambda: ledger.append({"kind": "train", "step": 1}),
        lambda: ledger.set_status(ledger.status()),
        lambda: ledger.write_evaluation([]),
    ):
        time.sleep(0.01)
        change()
        seen.append(stamp(folder))
    assert len(set(seen)) == 4
    (ledger.folder / "heartbeat").write_text("{}")
    first = stamp(folder)
    time.sleep(0.01)
    (ledger.folder / "heartbeat").write_text("{ }")
    assert stamp(folder) == first
    assert stamp(SweepFolder(tmp_path / "nothing")) is not None


def test_a_page_is_drawn_once_per_change_for_all_who_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_S", 0.02)
    state = {"stamp": 1, "drawn": 0}

    def draw() -> Drawn:
        state["drawn"] += 1
        time.sleep(0.01)
        return Drawn(f"<body>{state['stamp']}")

    page = LivePage(lambda: state["stamp"], draw, str)

    async def look() -> None:
        first = await asyncio.gather(*(page.current() for _ in range(5)))
        assert {served.page[-1:] for served in first} == {b"1"}
        assert state["drawn"] == 1
        await asyncio.sleep(0.1)
        await page.current()
        assert state["drawn"] == 1
        state["stamp"] = 2
        until = time.monotonic() + 5
        while (await page.current()).version == first[0].version and time.monotonic() < until:
            await asyncio.gather(*(page.current() for _ in range(5)))
            await asyncio.sleep(0.01)
        assert (await page.current()).page[-1:] == b"2"
        assert state["drawn"] == 2

    asyncio.run(look())


def test_a_slow_page_is_drawn_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_S", 0.01)
    stamps = iter(range(1000))
    drawn: list[float] = []

    def draw() -> Drawn:
        drawn.append(time.monotonic())
        time.sleep(0.05)
        return Drawn(f"<body>{len(drawn)}")

    page = LivePage(lambda: next(stamps), draw, str)

    async def look() -> None:
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            await page.current()
            await asyncio.sleep(0.005)

    asyncio.run(look())
    assert len(drawn) >= 2
    assert min(b - a for a, b in pairwise(drawn)) >= 0.05 / live.DRAWING_SHARE * 0.9


def test_a_page_that_fails_keeps_what_was_seen_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_S", 0.01)
    stamps = iter(range(1000))
    answers = iter(["<body>good", ValueError("half written"), "<body>better"])

    def draw() -> Drawn:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return Drawn(answer)

    page = LivePage(lambda: next(stamps), draw, lambda problem: f"<body>{problem}")

    async def look() -> list[tuple[bytes, str]]:
        found = []
        until = time.monotonic() + 5
        while not found or (b"better" not in found[-1][0] and time.monotonic() < until):
            now = ((await page.current()).page.partition(b">")[2], page.problem)
            found += [now] if now not in found[-1:] else []
            await asyncio.sleep(0.01)
        return found

    assert asyncio.run(look()) == [(b"good", ""), (b"good", "half written"), (b"better", "")]
    found = asyncio.run(LivePage(lambda: 1, draw_error, lambda error: f"<body>{error}").current())
    assert b"half written" in found.page


def draw_error() -> Drawn:
    raise ValueError("half written")


def test_a_change_is_told_and_silence_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.dashboard.LOOK_S", 0.01)
    monkeypatch.setattr("sweeps.dashboard._ALIVE_S", 0.1)
    monkeypatch.setattr(live, "LOOK_S", 0.01)
    state = {"stamp": 1}
    page = LivePage(lambda: state["stamp"], lambda: Drawn(f"<body>{state['stamp']}"), str)

    async def listen() -> list[str]:
        stream = told(page)
        heard = [await anext(stream), await anext(stream), await anext(stream)]
        state["stamp"] = 2
        heard.append(await anext(stream))
        return heard

    retry, first, alive, changed = asyncio.run(listen())
    assert retry.startswith("retry:")
    assert first.startswith("data: ")
    assert alive == f"event: alive\n{first}"
    assert changed.startswith("data: ")
    assert changed != first


def test_the_next_free_port_is_taken_unless_one_was_asked_for() -> None:
    with listening(None) as first, listening(None) as second:
        ports = first.getsockname()[1], second.getsockname()[1]
        assert FIRST_PORT <= ports[0] < ports[1]
        assert first.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ValueError, match=rf"--port {ports[0]}: .*in use; choose another"):
            listening(ports[0])


def test_the_ssh_line_names_a_machine_that_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert ssh_line(8550) == ""
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 50000 10.0.0.2 2222")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr(socket, "getfqdn", lambda: "login")
    assert ssh_line(8550) == "ssh -N -L 8550:127.0.0.1:8550 -p 2222 ada@10.0.0.2"
    monkeypatch.setattr(socket, "getfqdn", lambda: "login.cluster.example")
    assert ssh_line(8550).endswith("ada@login.cluster.example")


def test_the_verdicts_of_a_long_list_come_one_by_one(
    growing: GrowingSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.dashboard_pages._VERDICTS_S", -1.0)
    drawn = list_page(growing.store).draw()
    assert "No verdict yet." in drawn.page
    assert drawn.lasts_s == 0.0


def test_a_running_sweep_is_drawn_again_without_a_change(growing: GrowingSweep) -> None:
    page = sweep_page(growing.sweep.folder)
    assert page.draw().lasts_s is None
    with growing.driven():
        drawn = page.draw()
    assert drawn.lasts_s is not None
    assert "1 of 2 trials done" in drawn.page
