"""Real processes that are asked to end: they drain, and what is cut off is answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from tests.conftest import start_edge, start_server
from tests.running import (
    ENDLESS,
    LONG,
    PROMPT,
    client,
    held,
    sampling,
    wait_for_sessions,
)
from tests.waiting import wait_until
from wisp.launch import Process


def test_sigterm_drains(logs: Path) -> None:
    with start_server(logs, "--drain_s=600") as server, start_edge(server, logs) as edge:
        stream = client(edge).completions.create(
            prompt=PROMPT, stream=True, **sampling(max_tokens=200, **ENDLESS)
        )
        next(stream)
        with held(server):
            server.terminate()
            wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 503, "it drains")
            with pytest.raises(openai.InternalServerError, match="draining") as caught:
                client(server).completions.create(prompt=PROMPT, **sampling())
            assert caught.value.status_code == 503
        assert [c.choices[0].finish_reason for c in stream][-1] == "length"
        assert server.wait() == 0
        edge.terminate()
        assert edge.wait() == 0


def test_what_a_drain_cuts_off_is_answered(logs: Path) -> None:
    """In the form that its client waits for, whichever way the request came."""
    with start_server(logs, "--drain_s=0") as server, start_edge(server, logs) as edge:
        create = client(server).completions.create
        with ThreadPoolExecutor(2) as pool:
            stream = create(prompt=PROMPT, stream=True, **sampling(**LONG))
            next(stream)
            with held(server):
                whole = pool.submit(create, prompt=PROMPT, **sampling(**LONG))
                wait_for_sessions(server, 2)
                server.terminate()
                with pytest.raises(
                    openai.InternalServerError, match="server has stopped"
                ) as caught:
                    whole.result()
                assert caught.value.status_code == 503
                with pytest.raises(openai.APIError, match="server has stopped"):
                    list(stream)
        assert server.wait() == 0
        edge.terminate()
        assert edge.wait() == 0


def test_what_a_drain_of_an_edge_cuts_off_is_answered(server: Process, logs: Path) -> None:
    with start_edge(server, logs, "--drain_s=0") as edge:
        stream = client(edge).completions.create(prompt=PROMPT, stream=True, **sampling(**LONG))
        next(stream)
        with held(server):
            edge.terminate()
            with pytest.raises(openai.APIError, match="edge has stopped"):
                list(stream)
        assert edge.wait() == 0
    wait_for_sessions(server, 0)


@pytest.mark.parametrize("half", ["server", "edge"])
def test_a_second_signal_ends_it_at_once(half: str, logs: Path) -> None:
    with (
        start_server(logs, "--drain_s=600") as server,
        start_edge(server, logs, "--drain_s=600") as edge,
    ):
        process = {"server": server, "edge": edge}[half]
        stream = client(process).completions.create(prompt=PROMPT, stream=True, **sampling(**LONG))
        next(stream)
        with held(server):
            process.terminate()
            wait_until(lambda: httpx.get(f"{process.url}/health").status_code == 503, "it drains")
            process.terminate()
            with pytest.raises(openai.APIError, match="has stopped"):
                list(stream)
        assert process.wait() == 0
