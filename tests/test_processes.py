"""wisp-server and wisp-edge as users run them: real processes, real sockets, the real SDK."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

from tests.conftest import start_edge, start_server
from tests.running import (
    CHAT,
    ENDLESS,
    LONG,
    MODEL,
    PROMPT,
    client,
    held,
    metric,
    sampling,
    wait_for_sessions,
)
from tests.waiting import wait_until
from wisp.launch import Process
from wisp.stats import Stats


@pytest.fixture(params=["server", "edge"])
def endpoint(request: pytest.FixtureRequest) -> Process:
    process: Process = request.getfixturevalue(request.param)
    return process


@pytest.fixture(scope="module")
def patient(patient_server: Process, logs: Path) -> Iterator[Process]:
    """An edge whose drafts are in time however busy the machine is."""
    with start_edge(patient_server, logs) as process:
        yield process


def test_chat(endpoint: Process) -> None:
    answer = client(endpoint).chat.completions.create(messages=CHAT, **sampling())
    assert answer.choices[0].message.content
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.usage.model_extra["wisp"]["seed"] == 11


def test_completion(endpoint: Process) -> None:
    answer = client(endpoint).completions.create(prompt=PROMPT, **sampling(logprobs=2))
    assert answer.choices[0].text
    assert len(answer.choices[0].logprobs.tokens) == answer.usage.completion_tokens


def test_streams_equal_whole_answers(endpoint: Process) -> None:
    chat, text = client(endpoint).chat.completions, client(endpoint).completions
    whole = chat.create(messages=CHAT, **sampling()).choices[0].message.content
    chunks = chat.create(messages=CHAT, stream=True, **sampling())
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    whole = text.create(prompt=PROMPT, **sampling()).choices[0].text
    chunks = text.create(prompt=PROMPT, stream=True, **sampling())
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.2])
def test_both_endpoints_give_the_same_text(
    server: Process, edge: Process, patient: Process, temperature: float
) -> None:
    """Whether drafts are in time or not, and whatever the policy."""
    fields = sampling(temperature=temperature, max_tokens=48)
    alone, perhaps_drafted, drafted = (
        client(process).completions.create(prompt=PROMPT, **fields)
        for process in (server, edge, patient)
    )
    assert alone.usage.model_extra["wisp"]["drafted_tokens"] == 0
    assert drafted.usage.model_extra["wisp"]["drafted_tokens"] > 0
    assert perhaps_drafted.choices[0].text == drafted.choices[0].text == alone.choices[0].text


def test_speculation_can_be_turned_off(edge: Process) -> None:
    off = {"wisp": {"speculation": False}}
    answer = client(edge).completions.create(prompt=PROMPT, extra_body=off, **sampling())
    assert answer.usage.model_extra["wisp"]["drafted_tokens"] == 0


def test_an_edge_tells_of_its_drafting(patient: Process) -> None:
    fields = sampling(max_tokens=64, **ENDLESS)
    answer = client(patient).completions.create(prompt=PROMPT, **fields)
    usage = answer.usage.model_extra["wisp"]
    by_kind = [usage[f"wasted_drafting_{kind}_s"] for kind in ("blocking", "overlapped")]
    assert sum(by_kind) > 0
    assert sum(by_kind) == pytest.approx(usage["wasted_drafting_time_s"])
    stats = httpx.get(f"{patient.url}/v1/stats").json()
    assert sum(stats["wasted_drafting_s"].values()) >= sum(by_kind)
    assert stats["predictor"]["labels"] > 0
    assert 0 <= stats["predictor"]["calibration_error"] <= 1


def test_a_request_chooses_its_slo_class(endpoint: Process) -> None:
    create = client(endpoint).completions.create
    numbers = {"tokens_per_s": 3.0, "first_token_s": 9.0}
    choices: list[tuple[dict[str, Any], str]] = [
        ({}, "default"),
        ({"extra_headers": {"x-wisp-slo": "batch"}}, "batch"),
        ({"extra_headers": {"x-wisp-slo": "tokens_per_s=3, first_token_s=9"}}, "custom"),
        ({"extra_body": {"wisp": {"slo": "interactive"}}}, "interactive"),
        ({"extra_body": {"wisp": {"slo": numbers}}}, "custom"),
    ]
    for asked, name in choices:
        usage = create(prompt=PROMPT, **asked, **sampling()).usage.model_extra["wisp"]
        assert usage["slo_class"] == name
        assert 0 <= usage["share_in_time"] <= 1
        assert usage["first_token_s"] > 0


def test_an_unknown_slo_class_is_refused_with_those_that_exist(endpoint: Process) -> None:
    with pytest.raises(openai.BadRequestError, match="use one of batch, default, interactive"):
        client(endpoint).completions.create(
            prompt=PROMPT, extra_headers={"x-wisp-slo": "gold"}, **sampling()
        )


def test_models_and_health(endpoint: Process) -> None:
    assert [model.id for model in client(endpoint).models.list()] == [MODEL]
    assert httpx.get(f"{endpoint.url}/health").json() == {"status": "ok"}


def test_an_unknown_model_is_named(endpoint: Process) -> None:
    with pytest.raises(openai.NotFoundError, match=r"'gpt-9' is not served here: use 'target'"):
        client(endpoint).completions.create(prompt=PROMPT, **sampling(model="gpt-9"))


def test_too_long_a_prompt_is_refused(endpoint: Process) -> None:
    with pytest.raises(openai.BadRequestError, match="context is 2048 tokens") as caught:
        client(endpoint).completions.create(prompt="word " * 5000, **sampling())
    assert caught.value.code == "context_length_exceeded"


def test_a_token_outside_the_vocabulary_is_refused(endpoint: Process) -> None:
    with pytest.raises(openai.BadRequestError, match="4096"):
        client(endpoint).completions.create(prompt=[1, 4096], **sampling())


def test_several_choices_have_texts_of_their_own_and_too_many_are_refused(
    endpoint: Process,
) -> None:
    answer = client(endpoint).completions.create(prompt=PROMPT, n=2, **sampling(temperature=1.0))
    assert len({choice.text for choice in answer.choices}) == 2
    with pytest.raises(openai.BadRequestError, match="n"):
        client(endpoint).completions.create(prompt=PROMPT, n=17, **sampling())


def test_a_cancelled_stream_frees_its_session(server: Process, endpoint: Process) -> None:
    with client(endpoint).completions.create(
        prompt=PROMPT, stream=True, **sampling(**LONG)
    ) as stream:
        next(iter(stream))
        with held(server):
            assert metric(server, "wisp_sessions") == 1
            stream.close()
            wait_for_sessions(server, 0)


def test_a_cancelled_whole_answer_frees_its_session(server: Process, endpoint: Process) -> None:
    body = json.dumps({"prompt": PROMPT, **sampling(**LONG)})
    head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
    with held(server):
        with socket.create_connection(("127.0.0.1", endpoint.facts["http"])) as connection:
            connection.sendall(f"{head}content-type: application/json\r\n\r\n{body}".encode())
            wait_for_sessions(server, 1)
        wait_for_sessions(server, 0)


def test_a_full_server_refuses_at_once(logs: Path) -> None:
    with start_server(logs, "--engine.max_sessions=1") as server, start_edge(server, logs) as edge:
        create = client(server).completions.create
        with create(prompt=PROMPT, stream=True, **sampling(**LONG)) as stream:
            next(iter(stream))
            with held(server):
                for endpoint in (server, edge):
                    with pytest.raises(openai.RateLimitError, match="all 1 sessions") as caught:
                        client(endpoint).completions.create(prompt=PROMPT, **sampling())
                    assert float(caught.value.response.headers["retry-after"]) > 0


def test_many_at_once_all_get_their_own_text(server: Process, edge: Process) -> None:
    """More than the drafter has room for: the rest go undrafted."""

    def texts(process: Process) -> list[str]:
        def ask(number: int) -> str:
            fields = sampling(seed=number, max_tokens=32, temperature=0.5)
            # Whatever the machine, it can hold this for all of them.
            fields["extra_headers"] = {"x-wisp-slo": "tokens_per_s=0.5, first_token_s=60"}
            answer = client(process).completions.create(prompt=f"{PROMPT}{number}", **fields)
            return str(answer.choices[0].text)

        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(ask, range(16)))

    assert texts(edge) == texts(server)
    assert metric(edge, "wisp_edge_sessions") == 0


def test_a_session_makes_room_for_a_higher_priority(logs: Path) -> None:
    """On the server and through an edge, streamed and whole: each is told, and when to return."""
    flags = ("--engine.max_sessions=1", "--slo.priority=3")
    with start_server(logs, *flags) as server, start_edge(server, logs) as edge:
        for endpoint in (server, edge):
            create = client(endpoint).completions.create
            batch = {"prompt": PROMPT, "extra_headers": {"x-wisp-slo": "batch"}, **sampling(**LONG)}
            with create(stream=True, **batch) as stream:
                texts = [next(iter(stream)).choices[0].text]
                assert create(prompt=PROMPT, **sampling()).choices[0].text
                with pytest.raises(openai.APIError, match="room for a higher priority: try again"):
                    texts += [chunk.choices[0].text for chunk in stream]
            assert "".join(texts)
            with ThreadPoolExecutor(1) as pool:
                whole = pool.submit(create, **batch)
                wait_for_sessions(server, 1)
                assert create(prompt=PROMPT, **sampling()).choices[0].text
                failure = whole.exception()
            assert isinstance(failure, openai.RateLimitError)
            assert int(failure.response.headers["retry-after"]) >= 1
        # nobody goes for an equal
        create = client(server).completions.create
        with create(prompt=PROMPT, stream=True, **sampling(**LONG)) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError, match="all 1 sessions are taken"):
                create(prompt=PROMPT, **sampling())
            assert next(iter(stream)).choices


def test_a_server_tells_of_its_devices_classes_and_sessions(logs: Path) -> None:
    flags = ("--scheduling.policy=wisp", "--estimator.profile_s=0.2")
    with start_server(logs, *flags) as server, start_edge(server, logs, "--device_name=pi") as edge:
        found = run_top(server.url, "--once", "--json")
        assert found.returncode == 0, found.stderr
        assert msgspec.json.decode(found.stdout, type=Stats).sessions == []
        long = {"prompt": PROMPT, "stream": True, **sampling(**LONG)}
        batch = {"x-wisp-slo": "batch"}
        with (
            client(edge).completions.create(**long, extra_headers=batch) as drafted,
            client(server).completions.create(**long) as own,
        ):
            next(iter(drafted))
            next(iter(own))
            wait_until(lambda: len(server_stats(server).sessions) == 2, "it tells of both")
            stats = server_stats(server)
            by_device = {session.device: session for session in stats.sessions}
            assert by_device["pi"].slo_class == "batch"
            assert by_device[None].slo_class == "default"
            assert by_device["pi"].promised_per_s == 2.0
            assert [(device.name, device.num_sessions) for device in stats.devices] == [("pi", 1)]
            assert {kind.name: kind.num_sessions for kind in stats.classes} == {
                "default": 1,
                "interactive": 0,
                "batch": 1,
            }
            assert stats.policy == "wisp"
            assert stats.exact
            assert stats.batch
            assert stats.batch.num_tokens >= 1
            assert stats.estimator
            assert stats.interference
            assert stats.goodput_per_s > 0
        assert metric(server, "wisp_devices") == 1
        assert metric(server, 'wisp_goodput_tokens_total{slo_class="batch"}') > 0
        usage = client(edge).completions.create(prompt=PROMPT, **sampling()).usage
        assert usage.model_extra["wisp"]["interference"] > 0
        assert usage.model_extra["wisp"]["mean_step_s"] > 0
        said = run_top(server.url, "--once")
        assert "classes (3)" in said.stdout


def run_top(url: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wisp.cli", "top", f"--server={url}", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def server_stats(server: Process) -> Stats:
    return msgspec.json.decode(httpx.get(f"{server.url}/v1/stats").content, type=Stats)


def test_top_without_a_server_says_so_in_a_sentence(edge: Process) -> None:
    for url, sentence in [
        ("http://127.0.0.1:1", "no wisp-server answers at http://127.0.0.1:1"),
        (edge.url, "is no wisp-server of this version"),
    ]:
        said = run_top(url)
        assert said.returncode == 2
        assert said.stderr.startswith("wisp top: ")
        assert sentence in said.stderr
        assert said.stderr.count("\n") == 1


def test_top_leaves_cleanly_when_interrupted(server: Process) -> None:
    command = [sys.executable, "-m", "wisp.cli", "top", f"--server={server.url}", "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts what it leaves in the background with this signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stdout
        assert running.stderr
        for _ in range(2):
            msgspec.json.decode(running.stdout.readline(), type=Stats)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        assert running.stderr.read() == b""
