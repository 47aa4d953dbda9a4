"""wisp-server and wisp-edge as users run them: real processes, real sockets, the real SDK."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from openai import OpenAI

from tests.conftest import start_edge, start_server
from tests.waiting import wait_until
from wisp.errors import Unavailable
from wisp.launch import Process
from wisp.stats import Stats

CHAT = [{"role": "user", "content": "Write the function shutil.copyfile."}]
PROMPT = "def test_"
MODEL = "target"
ENDLESS = {"logit_bias": {"0": -100, "2": -100}}  # it ends at max_tokens alone
LONG = {"max_tokens": 1900, **ENDLESS}  # as long as there is room in the context


def client(process: Process) -> Any:
    return OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(params=["server", "edge"])
def endpoint(request: pytest.FixtureRequest) -> Process:
    process: Process = request.getfixturevalue(request.param)
    return process


def sampling(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 24, "seed": 11, "temperature": 0.8, **more}


def metric(process: Process, name: str) -> float:
    text = httpx.get(f"{process.url}/metrics").text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"no metric {name}"
    return float(found[1])


def wait_for_sessions(server: Process, count: int) -> None:
    wait_until(lambda: metric(server, "wisp_sessions") == count, f"it has {count} sessions")


@pytest.fixture(scope="module")
def patient(patient_server: Process, logs: Path) -> Iterator[Process]:
    """An edge whose drafts are in time however busy the machine is."""
    with start_edge(patient_server, logs) as process:
        yield process


@contextmanager
def held(server: Process) -> Iterator[None]:
    """Its engine stands still: no session ends by itself, however slow the test is."""
    (engine,) = _children(server.pid)
    os.kill(engine, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(engine, signal.SIGCONT)


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
        (engine,) = _children(server.pid)
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


def _children(pid: int) -> list[int]:
    """The engine process among the server's children (multiprocessing has a tracker as well)."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in listed if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--target=/nowhere"], "/nowhere"),
        (["--engine.max_model_len=1"], "engine.max_model_len"),
        (["--speculation.window=99"], "window 99 exceeds max_window 64"),
        (["--engine.lora_modules", "mine=/adapter"], "needs the engine 'vllm'"),
        (["--engine.drafter.method=mtp"], "'engine.drafter.method' mtp needs the engine 'vllm'"),
        (
            ["--engine.drafter.method=mtp", "--engine.drafter.model=/layers"],
            "method mtp has its layers in the target: leave model out",
        ),
        (["--colour=red"], "unrecognized arguments: --colour=red"),
    ],
)
def test_a_wrong_flag_gets_a_sentence(flags: list[str], sentence: str, logs: Path) -> None:
    log = logs / "refused"
    with pytest.raises(Unavailable, match="ended with code 2") as caught:
        Process("server", *flags, log=log)
    assert sentence in str(caught.value)


def test_an_unknown_key_in_a_file_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "server.yaml").write_text("http:\n  prot: 80\n")
    with pytest.raises(Unavailable, match=r"unknown key 'http\.prot'"):
        Process("server", f"--config={tmp_path / 'server.yaml'}", log=tmp_path / "log")


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_a_port_in_use_gets_a_sentence(front: str, logs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"choose another with --{front}.port"):
            start_server(logs, f"--{front}.port={port}")


def test_a_restart_knows_the_targets_step_times(tmp_path: Path) -> None:
    def serve_once() -> str:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        ports = "--http.port=0", "--grpc.port=0"
        state = f"--estimator.state_dir={tmp_path / 'state'}"
        flags = "--scheduling.policy=wisp", "--estimator.profile_s=10", state  # enough to be kept
        with Process("server", *ports, *flags, log=log) as process:
            client(process).completions.create(prompt="import os", **sampling())
            steps = "wisp_step_error_ratio_count"
            wait_until(lambda: metric(process, steps) > 0, "it has told of a step")
        return log.read_text()

    assert "profiling target" in serve_once()
    (saved,) = (tmp_path / "state").iterdir()
    before = saved.read_bytes()
    assert "are known from" in serve_once()
    assert saved.read_bytes() != before  # the steps of the second run are in it


def test_a_drafter_with_another_tokenizer_is_refused(
    server: Process, tmp_path: Path, logs: Path
) -> None:
    other = _with_another_tokenizer(tmp_path / "other")
    process = start_edge(server, logs, f"--draft={other}")
    with process:
        assert process.wait() == 2
    said = (logs / "edge").read_text()
    assert "the tokenizer 'other'" in said
    assert "is not that of the target 'target'" in said


def _with_another_tokenizer(directory: Path) -> Path:
    import shutil

    from wisp.config import TINY

    shutil.copytree(TINY / "draft", directory)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    first, second, *_ = (token for token, id in vocabulary.items() if id > 300)
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(content))
    return directory


def test_an_edge_without_a_server_says_so(logs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with Process("edge", f"--server={address}", "--http.port=0", log=logs / "edge") as edge:
        health = httpx.get(f"{edge.url}/health")
        assert health.status_code == 503
        assert address in health.json()["error"]["message"]
        with pytest.raises(openai.InternalServerError) as caught:
            client(edge).completions.create(prompt=PROMPT, **sampling())
        assert caught.value.status_code == 503


def test_a_server_that_stays_away_ends_the_request_with_an_error(logs: Path) -> None:
    with start_server(logs) as server, start_edge(server, logs, "--reconnect_s=0.1") as edge:
        stream = client(edge).completions.create(prompt=PROMPT, stream=True, **sampling(**LONG))
        next(stream)
        server.kill()
        with pytest.raises(openai.APIError):
            list(stream)
        assert metric(edge, "wisp_edge_sessions") == 0


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
