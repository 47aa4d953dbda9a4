"""Adapters over real sockets: served as models of their own by the server, and by an edge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.conftest import start_edge, start_server
from tests.vllm.adapters import write_adapter
from wisp.launch import Process

PROMPT = "def test_"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[Process]:
    adapter = write_adapter(tmp_path_factory.mktemp("adapters") / "mine", 0)
    with start_server(
        logs,
        "--engine.kind=vllm",
        "--engine.options",
        '{"enforce_eager": true}',
        "--engine.lora_modules",
        f"mine={adapter}",
        "--estimator.profile_s=0",
    ) as process:
        yield process


def text(endpoint: Process, model: str) -> tuple[str, int]:
    """What the model writes, and how much of it an edge drafted."""
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none") as client:
        answer = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=48, temperature=0, seed=1
        )
    assert answer.model == model
    assert answer.usage
    assert answer.usage.model_extra
    return answer.choices[0].text, answer.usage.model_extra["wisp"].get("edge_drafted_tokens", 0)


def test_an_adapter_is_a_model_at_both_endpoints(server: Process, logs: Path) -> None:
    with start_edge(server, logs) as edge:
        for endpoint in (server, edge):
            listed = httpx.get(f"{endpoint.url}/v1/models").json()["data"]
            assert [(m["id"], m["parent"]) for m in listed] == [
                ("target", None),
                ("mine", "target"),
            ]
            with pytest.raises(openai.NotFoundError, match="use 'target' or 'mine'"):
                text(endpoint, "other")
        for model in ("target", "mine"):
            (here, _), (there, num_drafted) = text(server, model), text(edge, model)
            assert here == there
            assert num_drafted > 0
        assert text(server, "target") != text(server, "mine")
