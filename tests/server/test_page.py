"""The live page, as a browser shows it beside what the server says of itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from openai import OpenAI

from tests.browser import Browser, Page, chromium
from tests.conftest import start_edge, start_server
from tests.waiting import wait_until
from wisp.launch import Process
from wisp.stats import Stats

DEVICE = "<img src=x onerror=alert(1)>"
SECRET = "zanzibar"
SIZES = {"phone": (390, 844, True), "desktop": (1280, 800, False)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def pair(logs: Path) -> Iterator[tuple[Process, Process]]:
    with start_server(logs) as server, start_edge(server, logs, f"--device_name={DEVICE}") as edge:
        yield server, edge


@pytest.fixture
def busy(pair: tuple[Process, Process]) -> Iterator[Process]:
    """A server with one generation through an edge and one of its own, as long as a test takes."""
    server, edge = pair
    over = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        asking = [
            pool.submit(ask_on, process, slo, over)
            for process, slo in ((edge, "batch"), (server, "interactive"))
        ]
        try:
            wait_until(lambda: is_busy(told(server)), "both generations run")
            yield server
        finally:
            over.set()
    for asked in asking:
        asked.result()


def ask_on(process: Process, slo: str, over: threading.Event) -> None:
    client: Any = OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0)
    while not over.is_set():
        with client.completions.create(
            model="target",
            prompt=f"def {SECRET}_",
            max_tokens=1900,
            stream=True,
            logit_bias={"0": -100, "2": -100},  # it cannot end by itself
            extra_headers={"x-wisp-slo": slo},
        ) as chunks:
            for _ in chunks:
                if over.is_set():
                    break


def is_busy(stats: Stats) -> bool:
    return stats.num_sessions == 2 and bool(stats.batch and stats.estimator and stats.interference)


def wait_for_state(page: Page, state: str, num_requests: int = 0) -> None:
    wait_until(
        lambda: text(page, "#state") == state and len(page.requests) >= num_requests,
        f"the page says '{state}' and has made {num_requests} requests",
    )


def told(server: Process) -> Stats:
    return msgspec.json.decode(httpx.get(f"{server.url}/v1/stats").content, type=Stats)


def text(page: Page, selector: str) -> str:
    found = page.evaluate(f"document.querySelector({selector!r})?.textContent")
    return str(found)


def rows(page: Page, table: str) -> list[list[str]]:
    cells = "[...row.cells].map(cell => cell.textContent)"
    found: list[list[str]] = page.evaluate(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(row => {cells})"
    )
    return found


def shown(page: Page) -> dict[str, Any]:
    names = [
        "model",
        "goodput",
        "sessions",
        "edges",
        "devices",
        "marginal_cost",
        "interference",
        "error",
    ]
    legend = page.evaluate("[...document.querySelectorAll('.legend li')].map(li => li.textContent)")
    return {
        **{name: text(page, f"#{name}") for name in names},
        "batch": [part for part in legend if part.startswith(("plain", "drafts of"))],
        "classes": [[row[0], row[4], row[5]] for row in rows(page, "classes")],
        "fleet": [row[:3] for row in rows(page, "fleet")[1:]],
    }


def expected(stats: Stats) -> dict[str, Any]:
    batch, estimator = stats.batch, stats.estimator
    assert batch
    assert estimator
    num_without = stats.num_sessions - stats.num_with_edge
    return {
        "model": stats.model,
        "goodput": f"{stats.goodput_per_s:.1f}",
        "sessions": str(stats.num_sessions),
        "edges": f"{stats.num_with_edge} with an edge, {num_without} without",
        "devices": str(len(stats.devices)),
        "marginal_cost": f"{stats.marginal_cost:.3f}",
        "interference": f"{stats.interference:.2f} \N{MULTIPLICATION SIGN}",
        "error": f"{estimator.error_ratio:.1%}".replace("%", " %"),
        "batch": [
            f"plain tokens {batch.num_plain:.1f}",
            f"drafts of edges {batch.num_drafted['edge']:.1f}",
        ],
        "classes": [
            [kind.name, str(kind.num_sessions), f"{kind.committed_per_s:.1f}"]
            for kind in stats.classes
        ],
        "fleet": [
            [device.name, str(device.num_sessions), f"{device.committed_per_s:.1f}"]
            for device in stats.devices
        ],
    }


@pytest.mark.parametrize("size", SIZES)
def test_it_shows_what_the_server_says(browser: Browser, busy: Process, size: str) -> None:
    width, height, dark = SIZES[size]
    page = browser.page()
    page.open(f"{busy.url}/", width, height, dark=dark)
    # Both ask once a second, and the server answers all who ask within a second alike.
    wait_until(lambda: shown(page) == expected(told(busy)), "the page shows what is told")
    first = text(page, "#goodput")
    wait_until(lambda: text(page, "#goodput") != first, "the page goes on")
    assert text(page, "#state") == "live"
    assert rows(page, "fleet")[1][0] == DEVICE
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.querySelectorAll('#charts path.line').length") >= 4
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert SECRET not in page.evaluate("document.documentElement.outerHTML")
    assert all(url.startswith((f"{busy.url}/", "data:")) for url in page.requests)
    assert page.complaints == []


def test_it_says_what_kv_moves_and_nothing_where_none_does(browser: Browser, busy: Process) -> None:
    page = browser.page()
    page.open(f"{busy.url}/", 1440, 900)
    still = {"num_parked": 0, "parked_per_s": 0, "loaded_per_s": 0, "evicted_per_s": 0}
    moves = {"num_parked": 3, "parked_per_s": 300, "loaded_per_s": 200.4, "evicted_per_s": 0}
    late = {"late_loads_per_s": 0.5}
    assert page.evaluate(f"kvText({json.dumps(still)})") == ""
    assert page.evaluate(f"kvText({json.dumps(moves | late)})") == (
        "KV of 300 tok/s parked, 200 back, 0 computed again; 0.5 late per s"
    )


def test_it_does_not_ask_while_nobody_looks(browser: Browser, busy: Process) -> None:
    page = browser.page()
    page.open(busy.url, *SIZES["desktop"][:2])
    wait_for_state(page, "live")
    other = browser.page(beside=True)
    other.open(busy.url, *SIZES["desktop"][:2])
    wait_for_state(page, "paused")
    before = len(page.requests)
    wait_for_state(other, "live", num_requests=5)
    assert len(page.requests) <= before + 1  # one may have been on its way
    page.call("Page.bringToFront")
    wait_for_state(page, "live", num_requests=before + 2)


def test_a_lost_server_is_told_of_until_it_is_back(browser: Browser, logs: Path) -> None:
    page = browser.page()
    with start_server(logs, "--scheduling.policy=fcfs") as first:
        page.open(first.url, *SIZES["phone"][:2])
        wait_for_state(page, "live")
        assert not page.evaluate("document.querySelector('#alarm').checkVisibility()")
        first.kill()
        first.wait()
        wait_for_state(page, "server lost")
        assert page.evaluate("document.querySelector('#alarm').checkVisibility()")
        assert "The server has not answered since" in text(page, "#alarm")
        assert page.evaluate("document.documentElement.scrollWidth") == SIZES["phone"][0]
    with start_server(logs, "--scheduling.policy=fcfs", f"--http.port={first.facts['http']}"):
        wait_for_state(page, "live")
        assert not page.evaluate("document.querySelector('#alarm').checkVisibility()")


def test_nothing_but_its_own_style_and_script_may_run(pair: tuple[Process, Process]) -> None:
    answer = httpx.get(f"{pair[0].url}/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy


def test_the_page_need_not_be_told_of_each_session(busy: Process) -> None:
    def brief() -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{busy.url}/v1/stats?sessions=0").json()
        assert found["sessions"] == []
        return found

    wait_until(
        lambda: (brief()["num_sessions"], brief()["num_with_edge"]) == (2, 1),
        "both sessions are counted, one with an edge",
    )
