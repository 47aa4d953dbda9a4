"""How a server and an edge begin, or say in a sentence why not."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import httpx
import openai
import pytest

from tests.conftest import start_edge, start_server
from tests.running import (
    PROMPT,
    client,
    metric,
    sampling,
)
from tests.waiting import wait_until
from wisp.config import TINY, EdgeConfig, load
from wisp.errors import ConfigError, Unavailable
from wisp.launch import Process


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


@pytest.mark.parametrize("address", [",", "gpu-node", "gpu-node:grpc", "gpu-node:8001, other"])
def test_an_address_without_a_port_gets_a_sentence(address: str) -> None:
    with pytest.raises(ConfigError, match=r"'server' is .*: give HOST:PORT of each wisp-server"):
        load(EdgeConfig, [f"--server={address}"], "wisp-edge")


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
