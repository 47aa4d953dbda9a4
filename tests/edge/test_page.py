"""The chat on an edge's own page, as a browser shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import Browser, Page, chromium
from tests.conftest import start_edge
from tests.waiting import wait_until
from wisp.access.keys import KeyRecord, add
from wisp.launch import Process

WIDTH, HEIGHT = 390, 844  # of a phone
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def edge(patient_server: Process, logs: Path) -> Iterator[Process]:
    with start_edge(patient_server, logs) as process:
        yield process


def text(page: Page, selector: str) -> str:
    return str(page.evaluate(f"document.querySelector({selector!r})?.textContent"))


def opened(browser: Browser, edge: Process) -> Page:
    page = browser.page()
    page.open(f"{edge.url}/", WIDTH, HEIGHT)
    return page


def ask(page: Page, question: str, max_tokens: int) -> None:
    fields = {"question": question, "max-tokens": str(max_tokens)}
    for name, value in fields.items():
        page.evaluate(f"document.getElementById({name!r}).value = {json.dumps(value)}")
    page.evaluate("document.getElementById('send').click()")


def answered(page: Page, number: int) -> dict[str, Any]:
    """The answer of that number, when it is whole: its text, what was drafted of it, its status."""
    card = f"document.querySelectorAll('article')[{number - 1}]"
    wait_until(
        lambda: bool(
            page.evaluate(
                f"{card} && document.getElementById('send').textContent === 'Ask' &&"
                f" {card}.querySelector('.status').textContent !== 'waiting'"
            )
        ),
        f"answer {number} is there",
    )
    found: dict[str, Any] = page.evaluate(
        f"""(card => ({{
            question: card.querySelector("h2").textContent,
            text: card.querySelector(".answer").textContent,
            drafted: [...card.querySelectorAll(".draft")].map(each => each.textContent).join(""),
            own: [...card.querySelectorAll(".own")].map(each => each.textContent).join(""),
            status: card.querySelector(".status").textContent,
        }}))({card})"""
    )
    return found


def bodies(page: Page) -> list[dict[str, Any]]:
    """What it sent to the endpoint."""
    requests = [
        event["params"]["request"]
        for event in page.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [json.loads(each["postData"]) for each in requests if "postData" in each]


def alone(server: Process, messages: list[dict[str, str]], max_tokens: int) -> str:
    body = {"model": "target", "messages": messages, "temperature": 0, "max_tokens": max_tokens}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    return str(answer["choices"][0]["message"]["content"])


def test_a_conversation_shows_who_wrote_what(
    browser: Browser, edge: Process, patient_server: Process
) -> None:
    page = opened(browser, edge)
    wait_until(lambda: text(page, "#model") == "target", "the page knows the model")
    first = f"What does os.listdir do? {MARKUP}"
    ask(page, first, 24)
    found = answered(page, 1)
    messages = [{"role": "user", "content": first}]
    assert found["question"] == first
    assert found["text"] == alone(patient_server, messages, 24)
    assert found["drafted"]
    assert found["own"]
    assert len(found["drafted"]) + len(found["own"]) == len(found["text"])
    assert found["status"].startswith("24 tokens, ")
    assert " tokens/s, acceptance " in found["status"]
    assert " tokens per step, promise " in found["status"]
    messages += [
        {"role": "assistant", "content": found["text"]},
        {"role": "user", "content": "And os.walk?"},
    ]
    ask(page, "And os.walk?", 8)
    assert answered(page, 2)["text"] == alone(patient_server, messages, 8)
    assert bodies(page)[-1]["messages"] == messages
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTH
    assert all(url.startswith((f"{edge.url}/", "data:")) for url in page.requests)
    assert page.complaints == []


def test_without_drafts_all_is_the_targets(browser: Browser, edge: Process) -> None:
    page = opened(browser, edge)
    page.evaluate("document.getElementById('drafts').click()")
    ask(page, "What does os.listdir do?", 8)
    found = answered(page, 1)
    assert found["drafted"] == ""
    assert found["own"] == found["text"] != ""
    assert bodies(page)[-1]["wisp"] == {"speculation": False}


def test_an_answer_can_be_stopped_and_a_refusal_is_said(browser: Browser, edge: Process) -> None:
    page = opened(browser, edge)
    ask(page, "Go on", 1900)
    wait_until(lambda: "tokens/s" in text(page, ".status"), "the answer has begun")
    page.evaluate("document.getElementById('send').click()")
    assert answered(page, 1)["status"] == "stopped"
    ask(page, "Too much", 99_999)
    refused = answered(page, 2)
    assert "99999" in refused["status"]
    ask(page, "Again", 4)
    answered(page, 3)
    # What has no whole answer is no part of the conversation.
    assert [m["content"] for m in bodies(page)[-1]["messages"]] == ["Again"]


def test_where_a_key_is_asked_for_the_page_asks_for_it(
    browser: Browser, patient_server: Process, logs: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.yaml"
    key = add(keys, KeyRecord(name="browser"))
    with start_edge(patient_server, logs, f"--keys={keys}") as edge:
        page = opened(browser, edge)
        wait_until(lambda: "key" in text(page, "#alarm").lower(), "the page asks for a key")
        page.evaluate(f"document.getElementById('key').value = {key!r}")
        ask(page, "What does os.listdir do?", 4)
        assert answered(page, 1)["status"].startswith("4 tokens, ")


def test_nothing_but_its_own_style_and_script_may_run(edge: Process) -> None:
    answer = httpx.get(f"{edge.url}/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
