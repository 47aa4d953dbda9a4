"""Real processes that are killed, or stay away: no text is lost, and every request is answered."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
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
    children,
    client,
    metric,
    sampling,
)
from tests.waiting import wait_until
from wisp.launch import Process


def test_a_lost_server_is_only_a_pause(server: Process, logs: Path) -> None:
    fields = sampling(max_tokens=300, temperature=0.8, **ENDLESS)
    alone = client(server).completions.create(prompt=PROMPT, **fields).choices[0].text
    with start_server(logs) as first:
        ports = (f"--http.port={first.facts['http']}", f"--grpc.port={first.facts['grpc']}")
        with start_edge(first, logs, "--reconnect_s=600") as edge:
            stream = client(edge).completions.create(
                prompt=PROMPT,
                stream=True,
                stream_options={"include_usage": True},
                **fields,
            )
            text = next(stream).choices[0].text
            first.kill()
            first.wait()
            wait_until(lambda: metric(edge, "wisp_edge_connected") == 0, "it is cut off")
            with start_server(logs, *ports):
                wait_until(lambda: metric(edge, "wisp_edge_connected") == 1, "it is back")
                for chunk in stream:
                    text += chunk.choices[0].text if chunk.choices else ""
                    usage = chunk.usage
    assert text == alone
    assert usage.model_extra["wisp"]["reconnects"] == 1
    assert usage.completion_tokens == 300


def test_a_server_that_is_killed_leaves_nothing_behind(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with start_server(logs) as server:
        client(server).completions.create(prompt=PROMPT, **sampling())
        server.kill()
        server.wait()
    assert list(tmp_path.glob("wisp*")) == []


def test_another_server_goes_on_with_a_text(server: Process, logs: Path) -> None:
    fields = sampling(max_tokens=300, temperature=0.8, **ENDLESS)
    alone = client(server).completions.create(prompt=PROMPT, **fields).choices[0].text
    with start_server(logs) as first, start_server(logs) as second:
        both = ",".join(f"127.0.0.1:{each.facts['grpc']}" for each in (first, second))
        with Process("edge", f"--server={both}", "--http.port=0", log=logs / "edge") as edge:
            stream = client(edge).completions.create(prompt=PROMPT, stream=True, **fields)
            text = next(stream).choices[0].text
            serving = first if metric(first, "wisp_sessions") else second
            serving.kill()
            text += "".join(chunk.choices[0].text for chunk in stream)
            assert metric(edge, "wisp_edge_reconnects_total") == 1
            assert httpx.get(f"{edge.url}/health").status_code == 200
    assert text == alone


def test_a_lost_engine_leaves_no_request_without_an_answer(logs: Path) -> None:
    with start_server(logs) as server:
        stream = client(server).completions.create(prompt=PROMPT, stream=True, **sampling(**LONG))
        next(stream)
        (engine,) = children(server.pid)
        os.kill(engine, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="the engine has stopped"):
            list(stream)
        assert server.wait() == 1


@pytest.mark.parametrize("dies_in", ["save", "restore"])
def test_an_engine_killed_while_it_copies_kv_loses_no_text(
    dies_in: str, server: Process, logs: Path
) -> None:
    """Four sessions take turns on two slots; the server behind it goes on with all of them."""

    def texts(process: Process) -> Iterator[str]:
        def ask(number: int) -> str:
            # Long enough for some fifteen turns each way: six of them are wanted, and 100 tokens
            # took as many or one fewer where nothing else ran.
            fields = sampling(seed=number, max_tokens=400, **ENDLESS)
            fields["extra_headers"] = {"x-wisp-slo": "tokens_per_s=2, first_token_s=1"}
            answer = client(process).completions.create(prompt=f"{PROMPT}{number}", **fields)
            return str(answer.choices[0].text)

        return pool.map(ask, range(4))

    flags = ("--engine.num_slots=2", "--engine.host_kv_gib=0.1")
    with (
        ThreadPoolExecutor(4) as pool,
        Process(
            "server",
            "--http.port=0",
            "--grpc.port=0",
            f"--dies-in={dies_in}",
            *flags,
            log=logs / f"dies_in_{dies_in}",
            module="tests.mortal_server",
        ) as first,
        start_edge(first, logs, "--reconnect_s=600") as edge,
    ):
        found = texts(edge)
        assert first.wait(120.0) == 1
        ports = (f"--http.port={first.facts['http']}", f"--grpc.port={first.facts['grpc']}")
        with start_server(logs, *ports, *flags):
            assert list(found) == list(texts(server))


def test_a_server_that_stays_away_ends_the_request_with_an_error(logs: Path) -> None:
    with start_server(logs) as server, start_edge(server, logs, "--reconnect_s=0.1") as edge:
        stream = client(edge).completions.create(prompt=PROMPT, stream=True, **sampling(**LONG))
        next(stream)
        server.kill()
        with pytest.raises(openai.APIError):
            list(stream)
        assert metric(edge, "wisp_edge_sessions") == 0
