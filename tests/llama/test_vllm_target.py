"""Law 1 with a drafter on llama.cpp and a target on vLLM, over real sockets.

The server runs in the environment that `make test-vllm` sets up, the edge in this one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.conftest import start_edge
from wisp.config import TINY
from wisp.launch import Process
from wisp.models.public.export import export

ROOT = Path(__file__).parent.parent.parent
PYTHON = os.environ.get("WISP_VLLM_PYTHON", "")
NUM_PROMPTS, NUM_TOKENS = 20, 24
NUM_AT_ONCE = 4  # chosen: batches of several sessions, and forks of each

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="there is no vLLM: `make test-vllm` sets up its environment"
)
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@pytest.fixture(scope="module")
def server(logs: Path) -> Iterator[Process]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        process = Process(
            "server",
            "--http.port=0",
            "--grpc.port=0",
            "--engine.kind=vllm",
            "--engine.options",
            '{"enforce_eager": true}',
            "--engine.max_model_len=512",
            "--estimator.profile_s=0",
            # It waits for drafts, however busy the machine is: none is due for 100 seconds.
            "--scheduling.policy=fcfs",
            "--slo.tokens_per_s=0.01",
            "--slo.first_token_s=100",
            log=logs / "server",
            python=PYTHON,
            ready_timeout_s=300.0,  # vLLM takes a minute or two to load on a busy machine
        )
    with process:
        yield process


@pytest.fixture(scope="module")
def edge(
    server: Process, logs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    export(TINY / "draft", file, "Q8_0")
    # As on a device of its own: it drafts what is unlikely, too, and forks.
    flags = f"--draft={file}", f"--tokenizer={TINY / 'draft'}", "--power.min_chance=0.02"
    with start_edge(server, logs, *flags) as process:
        yield process


@pytest.mark.timeout(600)
@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.2])
def test_texts_are_the_targets_own(server: Process, edge: Process, temperature: float) -> None:
    prompts = [each["prompt"] for each in json.loads((TINY / "prompts.json").read_text())]

    def ask(process: Process, number: int, *, drafts: bool) -> tuple[str, dict[str, float]]:
        with openai.OpenAI(base_url=f"{process.url}/v1", api_key="none") as client:
            answer = client.completions.create(
                model="target",
                prompt=prompts[number],
                max_tokens=NUM_TOKENS,
                temperature=temperature,
                seed=100 + number,
                extra_body={"wisp": {"speculation": drafts}},
            )
        assert answer.usage
        assert answer.usage.model_extra
        return answer.choices[0].text, answer.usage.model_extra["wisp"]

    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        drafted = list(pool.map(lambda n: ask(edge, n, drafts=True), range(NUM_PROMPTS)))
        alone = list(pool.map(lambda n: ask(server, n, drafts=False), range(NUM_PROMPTS)))
    assert [text for text, _ in drafted] == [text for text, _ in alone]
    assert sum(counts["accepted_tokens"] for _, counts in drafted) > 20
    assert sum(counts["edge_fork_tokens"] for _, counts in drafted) > 0
