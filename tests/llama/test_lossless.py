"""Law 1 over real sockets: an edge that drafts on llama.cpp changes no text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.conftest import start_edge, start_server
from wisp.config import TINY
from wisp.launch import Process
from wisp.models.public.export import export

NUM_PROMPTS = 20
TEMPERATURES = (0.0, 0.8, 1.2)


@pytest.fixture(scope="module")
def server(logs: Path) -> Iterator[Process]:
    with start_server(logs) as process:
        yield process


@pytest.fixture(scope="module", params=["Q8_0", "Q4_0"])
def edge(
    server: Process, logs: Path, tmp_path_factory: pytest.TempPathFactory, request: Any
) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("gguf")
    export(TINY / "draft", folder / "tiny.gguf", request.param)
    draft = f"--draft={folder / 'tiny.gguf'}"
    with start_edge(server, logs, draft, f"--tokenizer={TINY / 'draft'}") as process:
        yield process


def answers(endpoint: Process, prompts: list[str], temperature: float) -> list[Any]:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none") as client:
        return [
            client.completions.create(
                model="target",
                prompt=prompt,
                max_tokens=40,
                temperature=temperature,
                seed=100 + number,
            )
            for number, prompt in enumerate(prompts)
        ]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_texts_are_the_targets_own(server: Process, edge: Process, temperature: float) -> None:
    listed = json.loads((TINY / "prompts.json").read_text())
    prompts = [prompt["prompt"] for prompt in listed[:NUM_PROMPTS]]
    drafted = answers(edge, prompts, temperature)
    alone = answers(server, prompts, temperature)
    assert [a.choices[0].text for a in drafted] == [a.choices[0].text for a in alone]
    counts = [answer.usage.model_extra["wisp"] for answer in drafted]
    # Measured: about half of its drafts are accepted, at every temperature.
    assert sum(c["edge_drafted_tokens"] for c in counts) > 10 * NUM_PROMPTS
    assert sum(c["accepted_tokens"] for c in counts) > 5 * NUM_PROMPTS
