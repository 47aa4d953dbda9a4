"""The drafter on vLLM beside the one on transformers: the same proposals, whatever was drafted."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import start_edge, start_server
from tests.vllm.driver import TIE, prompts
from tests.waiting import wait_until
from tests.world import NUM_BRANCHES, World, opened
from wisp.config import TINY, EdgeConfig, load
from wisp.core.request import Sampling
from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.edge.drafter.load import load_drafter
from wisp.edge.drafter.transformers import TransformersDrafter
from wisp.edge.drafter.vllm import VllmDrafter
from wisp.errors import ConfigError, InternalError, Unavailable
from wisp.launch import Process
from wisp.models.tokenizer import Tokenizer
from wisp.verifier.torch import TorchVerifier
from wisp.verifier.vllm import load_drafter as load_drafter_of_vllm

OPTIONS = {"enforce_eager": True, "block_size": 32}
MAX_MODEL_LEN = 512
NUM_STREAMS = 8
MAX_BRANCHES = 1 + NUM_STREAMS * (NUM_BRANCHES - 1)
IDS = range(2, 1000)


@pytest.fixture(scope="module")
def plain() -> TransformersDrafter:
    return TransformersDrafter(
        TINY / "draft",
        max_sessions=NUM_STREAMS,
        max_branches=MAX_BRANCHES,
        max_model_len=MAX_MODEL_LEN,
        dtype="float32",
    )


@pytest.fixture(scope="module", params=[300, 18], ids=["room", "tight"])
def drafter(request: pytest.FixtureRequest) -> Iterator[VllmDrafter]:
    """Of so many KV blocks; one text may be of 16, and those of a step need about 100."""
    loaded = VllmDrafter(
        TINY / "draft",
        max_sessions=NUM_STREAMS,
        max_branches=MAX_BRANCHES,
        max_model_len=MAX_MODEL_LEN,
        options={**OPTIONS, "num_gpu_blocks_override": request.param},
    )
    yield loaded
    loaded.shutdown()


def close_to(proposal: Proposal, other: Proposal) -> bool:
    """Whether it is the same one. Sums of another order move a score by less than `TIE`: where two
    candidates are nearer than that, either may be the first."""
    assert proposal.entropy == pytest.approx(other.entropy, abs=1e-2)
    assert proposal.plain_entropy == pytest.approx(other.plain_entropy, abs=1e-2)
    assert proposal.spread == pytest.approx(other.spread, rel=1e-3)
    pairs = zip((proposal, *proposal.alternatives), (other, *other.alternatives), strict=True)
    left = [1.0, 1.0]
    for one, two in pairs:
        if one.token != two.token:
            # Of two that are equally likely each has half of what is left.
            assert two.margin == pytest.approx(0.0, abs=TIE)
            return False
        # Of what is left without the better ones, which may be as little as float32 keeps.
        shares = left[0] * one.confidence, left[1] * two.confidence
        assert shares[0] == pytest.approx(shares[1], abs=1e-3)
        left = [rest - share for rest, share in zip(left, shares, strict=True)]
        assert one.likelihood == pytest.approx(two.likelihood, abs=1e-3)
    return True


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.2])
def test_proposals_are_those_of_transformers(
    drafter: VllmDrafter, plain: TransformersDrafter, temperature: float
) -> None:
    """Streams in one batch, some of them in branches, which go back and come back."""
    rng = random.Random(int(10 * temperature))
    samplings = {
        key: Sampling(max_tokens=9, temperature=temperature, seed=rng.getrandbits(64))
        for key in range(NUM_STREAMS)
    }
    begin = rng.choices(IDS, k=150)  # all texts share it
    texts = {key: [[*begin[: rng.choice((5, 150))], *rng.choices(IDS, k=20)]] for key in samplings}
    for key in texts:
        drafter.open(key)
        plain.open(key)
    num_same = num_all = 0
    for number in range(24):
        keys = rng.sample(sorted(texts), rng.randint(1, NUM_STREAMS))
        chosen = [(key, rng.choice(texts[key])) for key in keys]
        for _ in range(rng.randrange(NUM_STREAMS)):
            key = rng.choice(keys)
            chosen.append((key, rng.choice(texts[key])))
        jobs = [DraftJob(key, tokens, samplings[key]) for key, tokens in chosen]
        pairs = zip(chosen, drafter.step(jobs), plain.step(jobs), strict=True)
        for (key, tokens), proposal, other in pairs:
            num_all += 1
            num_same += close_to(proposal, other)
            named = rng.choice((other, *other.alternatives)).token
            num_more = rng.choice((0, 0, 1, 2, 50, 150))
            text = [*tokens, *rng.choices(IDS, k=num_more), named]
            if len(text) < drafter.max_model_len:
                texts[key].append(text)
        for key in keys:
            if rng.random() < 0.3:  # a verdict: one of them goes on alone, perhaps from before
                tokens = rng.choice(texts[key])
                back = rng.choice((3, 40, 400))
                end = rng.randint(max(1, len(tokens) - back), len(tokens))
                texts[key] = [[*tokens[:end], rng.choice(IDS)]]
        if number % 8 == 7:  # a text ends, and its next turn begins
            drafter.close(keys[0])
            plain.close(keys[0])
            drafter.open(keys[0])
            plain.open(keys[0])
    for key in texts:
        drafter.close(key)
        plain.close(key)
    assert num_all > 150
    assert num_same > 0.95 * num_all


def test_texts_are_the_targets_own(drafter: VllmDrafter) -> None:
    """Through a real engine, with forks: lossless, and in fewer steps than tokens."""
    verifier = TorchVerifier(TINY / "target", max_sessions=NUM_STREAMS, max_model_len=128)
    chosen = prompts()[:NUM_STREAMS]
    samplings = [
        Sampling(max_tokens=40, temperature=(0.0, 0.8)[number % 2], seed=number)
        for number in range(NUM_STREAMS)
    ]
    plain = World(verifier)
    texts = plain.generate(chosen, samplings)
    with opened(drafter, NUM_STREAMS) as propose:
        world = World(verifier)
        assert world.generate(chosen, samplings, propose, delays=(1,)) == texts
    num_accepted = sum(len(verdict.tokens) - 1 for verdict in world.verdicts)
    assert num_accepted > 0.3 * sum(map(len, texts))


def test_a_sequence_is_as_long_as_the_model_can(drafter: VllmDrafter) -> None:
    tokens = random.Random(5).choices(IDS, k=MAX_MODEL_LEN)
    drafter.open(1)
    drafter.step([DraftJob(1, tokens[: drafter.max_model_len])])
    with pytest.raises(ValueError, match=f"holds {drafter.max_model_len} tokens"):
        drafter.step([DraftJob(1, tokens)])
    drafter.close(1)


def test_only_the_sequence_at_fault_is_lost(drafter: VllmDrafter) -> None:
    """An id that the model does not have, which no stream lets through."""
    texts = {key: random.Random(key).choices(IDS, k=30) for key in range(3)}
    for key in texts:
        drafter.open(key)
    before = drafter.step([DraftJob(key, tokens) for key, tokens in texts.items()])
    with pytest.raises(InternalError):
        drafter.step([DraftJob(0, [*texts[0], 10**7])])
    assert drafter.step([DraftJob(key, tokens) for key, tokens in texts.items()]) == before
    for key in texts:
        drafter.close(key)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--draft=no/where"], "no model in"),
        (["--draft=model.gguf"], "drafts with a Hugging Face directory"),
        (["--drafter.dtype=int8"], "no drafter.dtype 'int8'"),
        (["--drafter.max_model_len=9999"], "vLLM cannot start: .*9999"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(flags: list[str], sentence: str) -> None:
    config = load(EdgeConfig, ["--engine=vllm", *flags], "wisp-edge")
    tokenizer = Tokenizer(TINY / "target")
    with pytest.raises(ConfigError, match=sentence):
        load_drafter(config, tokenizer)


def test_an_engine_that_dies_takes_no_answer_with_it(logs: Path) -> None:
    flags = ["--engine=vllm", "--drafter.options", "enforce_eager=true", "--drafter.max_sessions=4"]
    with start_server(logs) as server, start_edge(server, logs, *flags) as edge:
        asked = [f"def test_{letter}" for letter in "abcd"]
        with ThreadPoolExecutor(4) as at_once:
            wholes = [text for text, _ in map(partial(_text, server), asked)]
            answers = list(at_once.map(partial(_text, edge), asked))
        assert [text for text, _ in answers] == wholes
        assert all(num_drafted for _, num_drafted in answers)
        [child] = [
            int(number)
            for number in _children(edge.pid)
            if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes()
        ]
        parts = _parts(edge, asked[0])
        begun = next(parts)
        os.kill(child, signal.SIGKILL)  # in the middle of an answer
        assert begun + "".join(parts) == wholes[0]
        assert _text(edge, asked[1])[0] == wholes[1]  # and one that begins after it
        wait_until(lambda: _metric(edge, "wisp_edge_drafter_restarts_total") == 1.0, "it is back")
        assert _metric(edge, "wisp_edge_drafter_up") == 1.0
        with ThreadPoolExecutor(4) as at_once:
            answers = list(at_once.map(partial(_text, edge), asked))
        assert [text for text, _ in answers] == wholes
        assert all(num_drafted for _, num_drafted in answers)


def test_texts_that_are_open_get_drafts_again(drafter: VllmDrafter) -> None:
    """In branches, of one answer: the edge knows the whole texts, the new process none of them."""
    asked = [DraftJob(1, [5, 6, token]) for token in (7, 8)]
    drafter.open(1)
    before = drafter.step(asked)
    ended = threading.Event()
    drafter.on_end = ended.set
    os.kill(drafter.process.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="ended with code -9"):
        drafter.step(asked)
    assert ended.wait(10.0)
    assert drafter.ended == "the drafter's process has ended with code -9"
    drafter.restart()
    assert drafter.ended is None
    assert all(map(close_to, drafter.step(asked), before))
    drafter.close(1)


def test_an_engine_that_hangs_is_given_up() -> None:
    drafter = VllmDrafter(TINY / "draft", max_sessions=2, options=OPTIONS)
    drafter.open(1)
    drafter.step([DraftJob(1, [5, 6])])
    drafter.process.patience_s = 0.5
    os.kill(drafter.process.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable, match=r"said nothing for 0\.5 s"):
        drafter.step([DraftJob(1, [5, 6, 7])])
    assert drafter.ended == "the drafter's process has said nothing for 0.5 s"
    with ThreadPoolExecutor(1) as thread:  # an edge that stops does not wait for a start
        started = thread.submit(drafter.restart)
        wait_until(lambda: (drafter.ended or "").endswith("is starting"), "it starts")
        drafter.shutdown()
        with pytest.raises(ConfigError, match=r"cannot start: .* ended with code -9"):
            started.result(timeout=10.0)


def test_an_engine_that_fails_in_every_step_is_given_up() -> None:
    drafter = VllmDrafter(TINY / "draft", max_sessions=2, options=OPTIONS)
    drafter.open(1)
    for _ in range(4):
        with pytest.raises(InternalError):
            drafter.step([DraftJob(1, [5, 10**7])])
    with pytest.raises(Unavailable, match="5 of its steps in a row failed"):
        drafter.step([DraftJob(1, [5, 10**7])])
    assert drafter.ended
    drafter.shutdown()


def test_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wisp.verifier.vllm.versions._installed", lambda: None)
    with pytest.raises(ConfigError, match=r"install wisp-serving\[vllm\]"):
        load_drafter_of_vllm(TINY / "draft")


def _body(prompt: str) -> dict[str, Any]:
    return {"model": "target", "prompt": prompt, "max_tokens": 48, "temperature": 0}


def _text(endpoint: Process, prompt: str) -> tuple[str, int]:
    """And how much of it an edge drafted."""
    url = f"{endpoint.url}/v1/completions"
    answer = httpx.post(url, json=_body(prompt), timeout=60.0).json()
    used = answer["usage"]["wisp"]
    return answer["choices"][0]["text"], used.get("edge_drafted_tokens", 0)


def _metric(endpoint: Process, name: str) -> float:
    said = httpx.get(f"{endpoint.url}/metrics", timeout=60.0).text.splitlines()
    return float(next(line for line in said if line.startswith(f"{name} ")).split()[1])


def _parts(endpoint: Process, prompt: str) -> Iterator[str]:
    url, body = f"{endpoint.url}/v1/completions", {**_body(prompt), "stream": True}
    with httpx.stream("POST", url, json=body, timeout=60.0) as answer:
        for line in answer.iter_lines():
            said = line.removeprefix("data: ")
            if said and said != "[DONE]":
                yield json.loads(said)["choices"][0]["text"]


def _children(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [number for task in tasks for number in (task / "children").read_text().split()]
