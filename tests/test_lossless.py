"""Law 1, end to end in one process: whatever the edges do, the text is the target's own.

The engine, the verifier and the drafter are the real ones, on the bundled pair; the edges' streams
are the real ones too, only the network between is a list of blocks in virtual time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.world import NUM_BRANCHES, Propose, World, opened
from wisp.config import TINY
from wisp.core.drafts import Directive
from wisp.core.request import Sampling
from wisp.edge.drafter.base import DraftJob
from wisp.edge.drafter.transformers import TransformersDrafter
from wisp.edge.tree import Candidate
from wisp.models.tokenizer import Tokenizer
from wisp.sampling.choice import choose
from wisp.sampling.processors import Row
from wisp.scheduler.tuning import PolicyName
from wisp.verifier.torch import TorchVerifier

NUM_PROMPTS, NUM_TOKENS = 100, 40
DIRECTIVE = Directive(window=8, threshold=0.3)
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "nucleus": {"temperature": 0.8, "top_p": 0.95},
    "hot": {"temperature": 1.2},
}


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = Tokenizer(TINY / "target")
    texts = [p["prompt"] for p in json.loads((TINY / "prompts.json").read_text())]
    return [tokenizer.encode(text)[:24] for text in texts[:NUM_PROMPTS]]


@pytest.fixture(scope="module")
def verifier() -> TorchVerifier:
    return TorchVerifier(
        TINY / "target", max_sessions=NUM_PROMPTS, max_model_len=128, num_threads=1
    )


@pytest.fixture(scope="module")
def drafter() -> TransformersDrafter:
    return TransformersDrafter(
        TINY / "draft",
        max_sessions=NUM_PROMPTS,
        max_branches=1 + NUM_PROMPTS * (NUM_BRANCHES - 1),
        max_model_len=128,
        num_threads=1,
    )


@pytest.fixture(scope="module", params=SAMPLINGS)
def samplings(request: pytest.FixtureRequest) -> list[Sampling]:
    return [
        Sampling(max_tokens=NUM_TOKENS, seed=1000 + number, **SAMPLINGS[request.param])
        for number in range(NUM_PROMPTS)
    ]


@pytest.fixture(scope="module")
def alone(
    verifier: TorchVerifier, prompts: list[list[int]], samplings: list[Sampling]
) -> list[list[int]]:
    return World(verifier).generate(prompts, samplings)


def test_without_an_edge_every_choice_is_that_of_plain_transformers(
    prompts: list[list[int]], samplings: list[Sampling], alone: list[list[int]]
) -> None:
    """The oracle shares nothing with the slots: one forward over each whole text, no cache."""
    model = AutoModelForCausalLM.from_pretrained(TINY / "target", dtype=torch.float32)
    for prompt, sampling, output in zip(prompts, samplings, alone, strict=True):
        tokens = prompt + output
        with torch.inference_mode():
            logits = model(torch.tensor([tokens])).logits[0, len(prompt) - 1 : -1]
        positions = range(len(prompt), len(tokens))
        choices, _ = choose(logits, [Row(sampling, tokens, len(prompt), p) for p in positions])
        assert choices == output
        assert len(output) == NUM_TOKENS


@pytest.fixture
def honest(drafter: TransformersDrafter) -> Iterator[Propose]:
    with opened(drafter, NUM_PROMPTS) as propose:
        yield propose


@pytest.mark.parametrize("policy", ["fcfs", "wisp"])
def test_an_honest_edge(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
    honest: Propose,
    policy: PolicyName,
) -> None:
    assert World(verifier, policy).generate(prompts, samplings, honest) == alone


def test_an_edge_whose_drafts_are_random(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
) -> None:
    chance = random.Random(5)

    def propose(jobs: Sequence[DraftJob]) -> list[list[Candidate]]:
        return [
            [
                Candidate(chance.randrange(verifier.facts.vocab_size), chance.random())
                for _ in range(chance.randint(1, 4))
            ]
            for _ in jobs
        ]

    assert World(verifier).generate(prompts, samplings, propose) == alone


def test_an_edge_that_sends_every_block_twice_and_late(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
    honest: Propose,
) -> None:
    assert World(verifier).generate(prompts, samplings, honest, delays=(2, 5)) == alone


def test_an_edge_that_is_killed_half_way(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
    honest: Propose,
) -> None:
    world = World(verifier)
    assert world.generate(prompts, samplings, honest, dies_after=NUM_TOKENS // 2) == alone
