"""The dashboard in a real browser, beside a sweep whose ledgers grow: what changes appears, what the reader did stays."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from sweeps.dashboard import application
from tests.e2e.test_report_in_browser import browser  # noqa: F401 - a fixture
from tests.growing_sweep import GrowingSweep

TOKEN = "a-token-in-the-hands-of-the-test"
pytestmark = pytest.mark.timeout(120)


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


@contextmanager
def serving(store: Path, port: int) -> Iterator[str]:
    """The dashboard, until the end of the block, where it is cut off without a farewell."""
    app = application(store, None, token=TOKEN, cookie=f"srloss-{port}")
    config = uvicorn.Config(app, port=port, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.force_exit = server.should_exit = True
    thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def growing(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> GrowingSweep:
    """l1 and mse are finished, charbonnier is being trained, ssim waits."""
    growing = GrowingSweep(
        photos, tmp_path_factory.mktemp("store"), losses=["l1", "mse", "charbonnier", "ssim"]
    )
    growing.baseline()
    for number in range(3):
        growing.begin(number)
        for step in (10, 20, 30):
            growing.validate(number, step, 30 + number + step / 10)
    growing.finish(0)
    growing.finish(1, mode="bilinear")
    return growing


def trials(page) -> dict[str, str]:
    rows = page.locator(".trials tbody tr").evaluate_all(
        "rows => rows.map(row => [row.cells[1].innerText.trim(), row.querySelector('.state').innerText.trim()])"
    )
    return dict(rows)


def sorted_names(page) -> list[str]:
    return page.locator("#main-table tbody:not(.foot) th").evaluate_all(
        "cells => cells.map(cell => cell.dataset.value)"
    )


class Seen:
    """What a page said and asked for."""

    def __init__(self, page) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))


def test_what_changes_appears_and_what_the_reader_did_stays(browser, growing: GrowingSweep) -> None:  # noqa: F811
    port = free_port()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    seen = Seen(page)
    with growing.driven():
        with serving(growing.store, port) as address:
            page.goto(f"{address}/?token={TOKEN}")
            assert page.url == f"{address}/sweeps/{growing.sweep_id}"
            page.evaluate("window.isTheSamePage = true")
            assert "2 of 4 trials done" in page.locator("#progress").inner_text()
            assert trials(page)["charbonnier"] == "running"

            # The reader looks around.
            page.locator("#theme").click()
            page.locator("#main-table [data-sort]").nth(0).click()
            page.locator("#main-table [data-sort]").nth(0).click()
            order = sorted_names(page)
            page.locator("#zoom-in").click()
            page.locator("#stage").focus()
            page.keyboard.press("ArrowRight")
            page.locator("#main-table tbody [data-pick]").first.click()
            page.locator("#choose-b").focus()
            before = state_of(page)
            assert before["zoom"] != "1×"

            # A point of a curve.
            points = curve_points(page)
            growing.validate(2, 40, 36.0)
            growing.preview(2, 40, 200)
            until(page, lambda: curve_points(page) > points)
            assert state_of(page) == before

            # A trial starts; another is finished, which brings a row and its crops.
            growing.begin(3)
            growing.validate(3, 10, 29.0)
            growing.finish(2, mode="bicubic")
            until(page, lambda: trials(page)["ssim"] == "running" and "charbonnier" in sorted_names(page))
            assert sorted_names(page) == sorted([*order, "charbonnier"], reverse=True)
            assert page.locator('.tile[data-label="charbonnier"]').count() > 0
            assert page.locator("#choose-b option", has_text="charbonnier").count() == 1
            page.wait_for_function(
                "[...document.images].every(image => image.complete && image.naturalWidth)"
            )
            assert state_of(page) == before
            assert page.locator("#connection").is_hidden()
            assert seen.complaints == []

        # The server is gone, and comes back.
        page.wait_for_selector("#connection:visible")
        assert "Connection lost" in page.locator("#connection").inner_text()
        growing.fail(3, "its loss became NaN at step 31")
        with serving(growing.store, port):
            until(page, lambda: trials(page)["ssim"] == "failed", timeout_s=15)
            page.wait_for_selector("#connection", state="hidden")
            assert "its loss became NaN" in page.locator(".trials").inner_text()
            assert state_of(page) == before
            page.goto(f"{address}/sweeps")
            assert growing.sweep_id in page.locator(".sweep-list").inner_text()
            context.close()
    assert {url.split("/sweeps")[0].split("/pictures")[0].split("/?")[0] for url in seen.requests} <= {
        address, f"{address}/", f"{address}/events"
    }, seen.requests  # fmt: skip
    assert not [
        words
        for words in seen.complaints
        if "ERR_CONNECTION_REFUSED" not in words and "ERR_INCOMPLETE" not in words
    ]


def state_of(page) -> dict[str, object]:
    """What must not change under a reader."""
    return page.evaluate(
        """() => ({
            same: window.isTheSamePage,
            theme: document.documentElement.dataset.theme,
            sorted: document.querySelector("#main-table [aria-sort=descending], #main-table [aria-sort=ascending]").innerText,
            zoom: document.querySelector("#zoom").innerText,
            at: document.querySelector("#stage").getAttribute("aria-valuenow"),
            crop: document.querySelector("#viewer").parentElement.dataset.key,
            a: document.querySelector("#choose-a").selectedOptions[0].text,
            b: document.querySelector("#choose-b").selectedOptions[0].text,
            focus: document.activeElement.id,
            lit: document.querySelector("tr.lit th").dataset.value,
            top: Math.round(document.querySelector("#choose-b").getBoundingClientRect().top),
        })"""
    )


def curve_points(page) -> int:
    """Of all curves together."""
    return page.evaluate(
        "[...document.querySelectorAll('.for-wide svg.curves .line')].reduce((n, line) => n + line.getAttribute('d').split('L').length, 0)"
    )


def until(page, is_so: Callable[[], bool], *, timeout_s: float = 12.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, page.locator("body").inner_text()[:2000]
        page.wait_for_timeout(100)


def test_ctrl_c_ends_it_at_once_and_quietly(growing: GrowingSweep) -> None:
    import signal
    import subprocess
    import sys

    command = [
        sys.executable,
        "-c",
        "from sweeps.cli import main; main()",
        "dashboard",
        "--store",
        str(growing.store),
    ]
    environment = {
        **os.environ,
        "SSH_CONNECTION": "10.0.0.1 5000 10.0.0.2 22",
        "SRLOSS_DASHBOARD_TOKEN": TOKEN,
    }
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    port = lines[0].split("127.0.0.1:")[1].split("/")[0]
    assert f"http://127.0.0.1:{port}/?token={TOKEN}" in lines[0]
    assert f"ssh -N -L {port}:127.0.0.1:{port}" in lines[1]
    with socket.create_connection(("127.0.0.1", int(port))) as listener:
        # Somebody who waits for changes is no reason to wait for him.
        listener.sendall(
            f"GET /sweeps/{growing.sweep_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: srloss-{port}={TOKEN}\r\n\r\n".encode()
        )
        listener.settimeout(20)
        assert b"200 OK" in listener.recv(100)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 4
    assert (process.returncode, out, err) == (130, "", "")
